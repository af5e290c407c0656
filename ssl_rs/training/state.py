"""Checkpoints: all that a run cannot derive from its config, written so that a kill leaves the one before."""

import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs.errors import InputError

KEPT = 2
"""The newest checkpoints, of which the older one is whole if a kill or a disk damages the newer."""

DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What torch raises for a file that was cut short or changed."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must agree with to be gone on from.

    Args:
        config_hash: Hash of the resolved config and its inputs.
        world_size: Number of processes.
        precision: "bf16" or "fp32".
    """

    config_hash: str
    world_size: int
    precision: str


@dataclass(frozen=True)
class Surroundings:
    """What exact resume also needs to be equal, but what may be changed at the price of exactness."""

    torch_version: str
    threads: int
    device: str

    @classmethod
    def here(cls, device: torch.device) -> "Surroundings":
        """Read them off this process."""
        return cls(str(torch.__version__), torch.get_num_threads(), device.type)


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: Optimizer steps done.
        seconds: Time spent so far, over all starts.
        sums: Sums of losses and metrics since the last line of metrics.jsonl.
        count: Steps in these sums.
    """

    step: int
    seconds: float
    sums: dict[str, Tensor]
    count: int


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: Identity,
    device: torch.device,
) -> Path:
    """Write a checkpoint aside, flush it, rename it, and keep the newest two.

    Raises:
        InputError: A weight is not finite: the checkpoints that are there stay the newest.
    """
    model = network.state_dict()
    for name, value in model.items():
        if not value.isfinite().all():
            raise InputError(
                f"{name} is no longer finite after step {progress.step}: it diverged. The last good checkpoint is in "
                f"{folder}. Lower optimizer.lr, set trainer.gradient_clip=1.0, or use trainer.precision=fp32."
            )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{progress.step:08d}.ckpt"
    aside = path.with_suffix(".partial")
    content = {
        "model": model,
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
        "identity": vars(identity),
        "surroundings": vars(Surroundings.here(device)),
    }
    with open(aside, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


def load_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, identity: Identity, device: torch.device
) -> Progress | None:
    """Load the newest whole checkpoint into network and optimizer.

    Returns:
        How far the run was, or None where there is no checkpoint.

    Raises:
        InputError: None of the checkpoints is whole, or they belong to a run with another identity.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            content = _read(path, device)
        except DAMAGE as error:
            warnings.warn(f"{path} is damaged ({error}); going back to the checkpoint before it.", stacklevel=2)
            continue
        _compare(path, content["identity"], vars(identity))
        _tell_differences(path, content["surroundings"], vars(Surroundings.here(device)))
        network.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        return Progress(**content["progress"])
    if paths:
        raise InputError(
            f"No checkpoint in {folder} is whole. Delete the folder {folder.parent} to start this run again."
        )
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch reads tensors without looking at their checksums
        changed = archive.testzip()
    if changed:
        raise ValueError(f"the checksum of {changed} is wrong")
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    missing = {"model", "optimizer", "progress", "identity", "surroundings"} - content.keys()
    if missing:
        raise KeyError(f"{', '.join(sorted(missing))} missing")
    return content


def _compare(path: Path, stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    different = [f"{key} was {stored.get(key)}, is {own[key]}" for key in own if stored.get(key) != own[key]]
    if different:
        raise InputError(
            f"{path} belongs to another run: {'; '.join(different)}. "
            "Start it as it was started before, choose another run_dir, or delete the run's folder."
        )


def _tell_differences(path: Path, stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    different = [f"{key} was {stored.get(key)}, is {own[key]}" for key in own if stored.get(key) != own[key]]
    if different:
        warnings.warn(f"{path}: {'; '.join(different)}: the run goes on, but not bit for bit.", stacklevel=3)
