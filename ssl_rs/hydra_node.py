"""What files of others may say of Hydra's own settings, some of which name code to run or places to write to."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_rs.config_hash import is_within
from ssl_rs.errors import InputError

OF_THE_START = ("runtime", "overrides", "searchpath", "job.name", "job.override_dirname", "job.config_name")
"""Keys below `hydra` that Hydra itself fills in."""

OF_FILES = ("mode", "sweeper.params", "help", "hydra_help", "verbose")
"""Keys below `hydra` that any file may set: whether it is a sweep, over what, and texts."""


def check_hydra(found: Mapping[str, Any], own: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse settings of Hydra's that a file sets: callbacks, loggers, launchers and the environment can run any code.

    Args:
        found: The leaves of the `hydra` node of the composed config by their dotted keys, as they are written.
        own: The same where our own files alone are read.
        overrides: The command line, which may set all of them, and chooses launchers.

    Raises:
        InputError: Names the first.
    """
    typed = [text.lstrip("+~").partition("=")[0] for text in overrides]
    for key, value in found.items():
        if own.get(key, ...) == value or is_within(key, (*OF_THE_START, *OF_FILES)):
            continue
        if is_within(f"hydra.{key}", [name for name in typed if name.startswith("hydra.")]):
            continue
        if key.partition(".")[0] in [name.removeprefix("hydra/") for name in typed if name.startswith("hydra/")]:
            continue
        if key.startswith("launcher.") and "launcher" in typed:
            continue
        raise InputError(
            f"hydra.{key} is set by a file. Only the command line can say which code may be run, and where Hydra "
            "writes: give it there, or take it out of the file."
        )


def check_sweep(params: object) -> None:
    """Refuse a sweep that varies what only the command line may say.

    Args:
        params: What `hydra.sweeper.params` maps to values.

    Raises:
        InputError: Names the key.
    """
    for key in params if isinstance(params, Mapping) else ():
        name = str(key).lstrip("+~")
        if name.partition(".")[0].partition("/")[0] == "hydra" or name.partition("=")[0] == "trusted_packages":
            raise InputError(f"A sweep varies {key}. Only the command line can say which code may be run: take it out.")
