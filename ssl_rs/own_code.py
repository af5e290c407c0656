"""Parts that a user wrote: which file defines them, so that a run knows when that has changed."""

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ssl_rs.files import sha256_of

OURS = "ssl_rs"


def hash_of_own(target: object) -> str | None:
    """Return the sha256 of the file that defines a class or function; None of ours, and where there is no file.

    What that file imports is not in it.
    """
    module = inspect.getmodule(target)
    return None if module is None else _hash_of(module)


@cache
def _hash_of(module: ModuleType) -> str | None:
    """Return the hash of the file as it was when first asked for: later changes are not what this process runs."""
    if module.__name__.partition(".")[0] == OURS or not getattr(module, "__file__", None):
        return None
    path = Path(str(module.__file__))
    return sha256_of(path) if path.is_file() else None


def hashes_of_own(values: Mapping[str, Any], trusted: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of the file of each part of a config that is defined in one of the user's packages.

    Args:
        values: The config.
        trusted: Names of these packages.
    """
    found = {}
    for name in sorted(set(_targets(values))):
        if any(name.startswith(f"{package}.") for package in trusted):
            module, _, attribute = name.rpartition(".")
            if (digest := hash_of_own(getattr(importlib.import_module(module), attribute))) is not None:
                found[f"code of {name}"] = digest
    return found


def place_in_own(error: Exception, above: int) -> str:
    """Return " (FILE:LINE)" of the innermost call of the user's own code that an error came through; empty for none.

    Args:
        error: What was raised, and caught by the code that asks.
        above: How many calls lie between, its own and those down to the call of the user's code.
    """
    calls = traceback.extract_tb(error.__traceback__)[above:]
    own = [call for call in calls if not call.filename.startswith("<") and not _is_library(Path(call.filename))]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _is_library(path: Path) -> bool:
    """Tell whether a file is ours, Python's, or of an installed package."""
    folders = Path(__file__).parent, Path(sysconfig.get_path("stdlib"))
    return any(map(path.is_relative_to, folders)) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _targets(node: Any) -> Iterator[str]:
    """Yield every target below a node, those in lists too."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _targets(each)
