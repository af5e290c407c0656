"""The record of where a run was made: versions, commit, processor, device, and the command line without secrets."""

import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import ssl_rs
from ssl_rs.secret_values import hide_secrets
from ssl_rs.stages.site import Site

LIBRARIES = ("torchvision", "segmentation-models-pytorch", "timm", "kornia", "numpy", "rasterio", "hydra-core")
"""Libraries beside torch whose version can change a result."""


def environment(site: Site) -> dict[str, Any]:
    """Return what environment.json records; no secret goes in, and nothing of the environment variables."""
    return {
        "ssl_rs": ssl_rs.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "libraries": {library: version_of(library) for library in LIBRARIES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(site.device) if site.device.type == "cuda" else site.device.type,
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "precision": site.precision,
        "world_size": site.processes.world_size,
        "command_line": [os.path.basename(sys.argv[0]), *map(hide_secrets, sys.argv[1:])],
    }


def processor() -> str:
    """Return the model of the CPU and the widest vectors that torch computes with on it: its results hang on both."""
    with suppress(OSError):
        told = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if told:
            return f"{told[1].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def version_of(library: str) -> str | None:
    """Return the version of an installed library, None of one that is not."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, marked if files differ from it; None outside of one.

    It is asked for once: what is committed while a run goes on is not what runs.
    Installed into an environment that lies within somebody's repository, this code is no file of that.
    """
    folder = Path(__file__).parent
    try:
        own = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
        subprocess.run(own, cwd=folder, capture_output=True, check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-modified" if changed else "")
