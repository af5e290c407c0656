"""The folder of an export: it appears when it is whole, and nothing that no export wrote is ever lost in it."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ssl_rs.errors import InputError
from ssl_rs.files import make_folder, sha256_of, write_json

ABOUT = "export.json"
"""Says what lies in the folder; written last."""


def check_place(chosen: str) -> Path:
    """Return the folder that `run_dir` names, without links.

    Raises:
        InputError: It cannot be replaced as a whole.
    """
    folder = Path(os.path.abspath(chosen)).resolve()
    problem = (
        "is the working directory, or one above it" if Path.cwd().resolve().is_relative_to(folder)
        else "is a mount point, which cannot be replaced" if folder.is_mount()
        else None
    )  # fmt: skip
    if problem:
        raise InputError(f"run_dir={chosen} {problem}. Choose a new folder, or an empty one in it.")
    return folder


def is_there(folder: Path, digest: str) -> bool:
    """Tell whether a folder holds this very export, whole.

    Args:
        folder: It may not be there yet.
        digest: The hash of what goes into the export.

    Raises:
        InputError: It holds what no export wrote, which would be lost.
    """
    about = _read_about(folder)
    known: Mapping[str, str] = about.get("files", {})
    ours = {ABOUT, *known} if about else set()
    parents = {str(parent) for name in ours for parent in Path(name).parents}
    found = [path.relative_to(folder) for path in folder.rglob("*")]
    others = sorted(str(name) for name in found if str(name) not in ours | parents)
    if others:
        raise InputError(
            f"run_dir={folder} holds {others[0]}, which no export wrote: it is not overwritten. Choose an empty or "
            "new folder."
        )
    whole = all((folder / name).is_file() and sha256_of(folder / name) == known[name] for name in known)
    return about.get("config_hash") == digest and whole


@contextmanager
def filled_aside(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its name when it is whole; if that fails, what was there before stays."""
    aside, before = (folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "before"))
    _bring_back(before, folder)  # a kill between the two renames left it there
    shutil.rmtree(aside, ignore_errors=True)
    try:
        make_folder(aside)
        yield aside
        with suppress(FileNotFoundError):
            folder.replace(before)
        aside.replace(folder)
    finally:
        _bring_back(before, folder)
        shutil.rmtree(aside, ignore_errors=True)


def _bring_back(before: Path, folder: Path) -> None:
    """Let the export before have its name again where no newer one has it; else remove it."""
    if not folder.exists():
        with suppress(FileNotFoundError):
            before.replace(folder)
    shutil.rmtree(before, ignore_errors=True)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what an export says of itself, and the sha256 of each of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / ABOUT, {**about, "files": {str(path.relative_to(folder)): sha256_of(path) for path in files}})


def _read_about(folder: Path) -> dict[str, Any]:
    """Return what an export says of itself; empty where there is none, or a damaged one."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    files = about.get("files") if isinstance(about, dict) else None
    good = isinstance(files, dict) and all(isinstance(value, str) for value in files.values())
    return about if good else {}
