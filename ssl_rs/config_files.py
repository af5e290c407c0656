"""What the folder of YAML files holds: groups, their options, and which groups a command composes."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ssl_rs.config_hash import leaves
from ssl_rs.errors import InputError


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def options(group: str, own: Sequence[Path] = ()) -> list[str]:
    """Return the names of a config group's options, and of those in folders of the user's own."""
    return sorted(path.stem for folder in (conf_dir(), *own) for path in (folder / group).glob("*.yaml"))


def groups() -> list[str]:
    """Return the names of the config groups."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def command_files(command: str) -> list[Path]:
    """Return the file of a command and those that it takes over whole, e.g. common and pretraining."""
    path = conf_dir() / f"{command}.yaml"
    # They are lines without a colon.
    shared = re.findall(r"^  - (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [path, *(conf_dir() / f"{name}.yaml" for name in shared if name != "_self_")]


def used_groups(command: str) -> list[str]:
    """Return the config groups that a command composes."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in command_files(command))
    return [group for group in groups() if re.search(rf"^  - (optional )?{group}:", text, re.MULTILINE)]


def entry_of(group: str, name: str) -> str | None:
    """Return the entry of a list group that an option fills, e.g. pretext.inpainting; None where it says none."""
    path = conf_dir() / group / f"{name}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    told = re.search(rf"^# @package ({group}\.\S+)$", text, re.MULTILINE)
    return told[1] if told else None


def fills_entry(path: Path, group: str) -> bool:
    """Tell whether an option of a list group gives it an entry: `# @package GROUP.NAME` says so, or what it holds.

    Hydra reads that line above all others alone, and what a file without it holds stands directly below the group.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
    except (yaml.YAMLError, OSError, ValueError):  # Hydra says what is wrong with it
        return True
    told = re.match(r"\s*#\s*@package\s+(\S+)", text)
    package = told[1].removeprefix("_global_.") if told else group
    if package.startswith(f"{group}.") or not isinstance(content, dict) or "defaults" in content:
        return True
    entries = {"_global_": content.get(group), group: content}.get(package)
    nodes = entries.values() if isinstance(entries, dict) and "task" not in entries else ()
    return bool(nodes) and all(isinstance(node, dict) for node in nodes)


def set_by(group: str, option: str) -> list[str]:
    """Return the dotted keys that an experiment or a sweep sets or varies, and the groups that it chooses from."""
    path = conf_dir() / group / f"{option}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}
    defaults = [each for each in content.pop("defaults", []) if isinstance(each, dict)]
    varied = content.pop("hydra", {}).get("sweeper", {}).get("params", {})
    return [*leaves(content), *varied, *(name.removeprefix("override /") for each in defaults for name in each)]


def experiment_that_sets(key: str, overrides: Sequence[str]) -> str | None:
    """Return the experiment, of those that a command line chooses, whose file sets a dotted key or chooses a group."""
    for override in overrides:
        name, _, value = override.partition("=")
        for chosen in re.findall(r"[\w.-]+", value) if name == "experiment" else ():
            if any(f"{each}.".startswith(f"{key}.") for each in set_by("experiment", chosen)):
                return str(chosen)
    return None


def at_home(value: Any) -> Any:
    """Return settings, however nested, with the home folder for a `~` in front of a path, as in `root=~/data`.

    The shell does so only where a word begins; no text but a path begins with `~/`.
    """
    if isinstance(value, dict):
        return {key: at_home(each) for key, each in value.items()}
    if isinstance(value, list):
        return [at_home(each) for each in value]
    is_at_home = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_at_home else value


def search_in(folder: Path | None) -> list[str]:
    """Return the override that makes Hydra look into a folder of the user's own as well.

    Raises:
        InputError: There is no such folder, or it has an option with the name of one of ours.
    """
    if folder is None:
        return []
    folder = Path(at_home(str(folder)))
    if not folder.is_dir():
        raise InputError(f"--config-dir {folder}: there is no such folder.")
    for group in groups():
        if taken := sorted({path.stem for path in (folder / group).glob("*.yaml")} & {*options(group)}):
            raise InputError(
                f"--config-dir {folder}: {group}/{taken[0]}.yaml has the name of an option of ours, which would count "
                "in its place. Rename it."
            )
    path = str(folder.resolve()).replace("'", "\\'")
    return [f"hydra.searchpath=['file://{path}']"]  # quoted: names may hold commas and brackets
