"""The checked boundary between Hydra and the code.

Composition, mistakes of config as one message, and the settings of a run with a record of which keys were read.
"""

import re
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_rs import build as targets
from ssl_rs.config_files import at_home, conf_dir, entry_of, experiment_that_sets, groups, options, set_by, used_groups
from ssl_rs.config_hash import is_within, leaves
from ssl_rs.errors import InputError, did_you_mean, nearest
from ssl_rs.files import check_can_be_folder
from ssl_rs.hydra_node import check_hydra
from ssl_rs.overrides import check_lists, check_packages, check_values, names_several, own_folders, too_many, unreadable
from ssl_rs.plain_types import fits, misfit, spelled
from ssl_rs.secret_values import environment_variable

NO_TEXT = r"(?i:[-+.\de]+|null|true|false)"
"""What the command line takes for a number, nothing, or a truth value, and so never for the name of an option."""


OmegaConf.register_new_resolver("oc.env", environment_variable, replace=True)
OmegaConf.register_new_resolver("at_home", at_home, replace=True)


def compose_config(command: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of a command, `hydra` node included.

    Raises:
        InputError: An override, option or key that does not exist, with the nearest that does.
    """
    check_lists(overrides)
    check_packages(overrides)
    check_values(overrides)
    try:
        config = _compose(command, overrides)
    except Exception as error:  # odd overrides fail in Hydra wherever they lead it: an assert, a TypeError
        raise InputError(_explain(command, overrides, error)) from error
    said = any(text.lstrip("+").startswith("trusted_packages=") for text in overrides)
    if config.get("trusted_packages") and not said:
        raise InputError("trusted_packages is set by a file. Only the command line can say which code may be run.")
    if any(text.lstrip("+").startswith("hydra.searchpath") for text in overrides):  # else all files are ours
        launcher = str(config.hydra.runtime.choices.get("launcher"))
        own = _own_hydra(command, *([f"launcher={launcher}"] if launcher in options("launcher") else []))
        check_hydra(_hydra_leaves(config), own, overrides)
    return config


@cache
def _own_hydra(command: str, *overrides: str) -> Mapping[str, Any]:
    """Return Hydra's own settings as our files have them."""
    return _hydra_leaves(_compose(command, overrides))


def _hydra_leaves(config: DictConfig) -> dict[str, Any]:
    return leaves(typing.cast(dict[str, Any], OmegaConf.to_container(config.hydra, resolve=False)))


def _compose(command: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(command, list(overrides), return_hydra_config=True)


def asks_for_sweep(config: DictConfig) -> bool:
    """Tell whether a config chooses a file of conf/sweep/, or one of one's own that says what is varied."""
    return str(config.hydra.mode).endswith("MULTIRUN") or bool(config.hydra.sweeper.get("params"))


def _explain(command: str, overrides: Sequence[str], error: Exception) -> str:
    """Turn Hydra's message into ours: what was meant, and what there is."""
    text = str(error)
    launchers = [override for override in overrides if override.startswith("launcher=")]
    if launchers and "'hydra/launcher/" in text:  # of several the last counts
        extra = launchers[-1].partition("=")[2]
        return f"{launchers[-1]} needs a plugin of Hydra that is not installed: pip install 'ssl-rs[{extra}]'."
    for override in overrides:
        group, _, value = override.partition("=")
        if group in groups():
            listed = re.findall(r"^\t([\w.-]+)$", text, re.MULTILINE)  # by Hydra, for a group that is no list
            known = [*options(group, own_folders(overrides)), *listed]
            names = [name for name in re.split(r"[\[\],\s'\"]+", value) if name and name not in known]
            # Of a name that is no text, Hydra does not say which group it was given to.
            missing = re.findall(rf"Could not (?:find|load) '{group}/([^']+)'", text)
            wrong = [name for name in names if name in missing or re.fullmatch(NO_TEXT, name)]
            if wrong:
                return f"{group}={wrong[0]}: there is no such option. {nearest(wrong[0], known)}{_another(group)}"
    if "Ambiguous value" in text and (several := next((each for each in overrides if names_several(each)), None)):
        group, _, value = several.partition("=")
        a_list = entry_of(group, value.partition(",")[0]) if group in groups() else _may_be_list(command, group)
        return too_many(several, command, bool(a_list))
    if text.startswith("Multiple values for ") or "more than once in the final defaults list" in text:
        for override in overrides:
            group = override.lstrip("+").partition("=")[0]
            if override.startswith("+") and re.match(rf"(Multiple values for )?{re.escape(group)}\W", text):
                return f"{override}: {command} has {group} already. Write {override.lstrip('+')}, without the +."
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if key:
        return f"{key[1]}: {command} has no such key. {_nearest_key(key[1], command, overrides)}"
    said = " ".join(text.split()).partition(" See https")[0]
    return unreadable(overrides, said or f"Hydra cannot compose {command} {' '.join(overrides)} ({error!r}).")


def _may_be_list(command: str, key: str) -> bool:
    return isinstance(OmegaConf.select(_compose(command, []), key), ListConfig | None)


def _another(group: str) -> str:
    """Return a sentence that names the key which takes any other value, where a group's options differ in one alone."""
    first, *others = (read_yaml(conf_dir() / group / f"{name}.yaml") for name in options(group))
    varying = [key for key in first if any(other.get(key) != first[key] for other in others)]
    if len(varying) != 1 or any(other.keys() != first.keys() for other in others):
        return ""
    return f" Any other: {group}.{varying[0]}=..."


def _nearest_key(name: str, command: str, overrides: Sequence[str]) -> str:
    """Return a sentence that offers the key nearest to a misspelt one, if one is near, and where all are shown.

    Of a task or view that these overrides do not choose, or of an experiment of another command, the sentence says so.
    """
    if foreign := experiment_that_sets(name, overrides):
        return f"experiment={foreign} sets it: that is an experiment of another command."
    group, own = name.partition(".")[0], used_groups(command)
    chosen = [text for text in overrides if text.partition("=")[0] in (*groups(), "hydra.searchpath")]
    try:
        values = resolve(_compose(command, chosen))
    except Exception:  # a file that is chosen holds the key
        values = resolve(_compose(command, []))
    others = [each for each in ("pretrain", "finetune") if group in used_groups(each)]
    if others and group not in (*own, *values):
        return f"{group} is for {' and '.join(others)}. `python -m ssl_rs.{command} --cfg` prints every key."
    keys = _dotted(values)
    group, _, rest = name.partition(".")
    holders = [f"{group}={each}" for each in options(group) if group in own and rest in set_by(group, each)]
    if holders:
        return f"It is a key of {' and '.join(holders)}: choose one that has it, or leave the key out."
    entry = rest.partition(".")[0]
    if group in values and f"{group}.{entry}" not in keys and entry_of(group, entry) == f"{group}.{entry}":
        return f"{entry} is not among {group}=[{','.join(values[group])}]. Add it there, or leave the key out."
    said = did_you_mean(name, {*used_groups(command), *keys} - {name})
    return f"{said} `python -m ssl_rs.{command} --cfg` prints every key.".strip()


def _dotted(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of a node's keys, at every depth."""
    names = []
    for name, child in node.items():
        names += [f"{prefix}{name}", *(_dotted(child, f"{prefix}{name}.") if isinstance(child, dict) else [])]
    return names


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return the resolved config as plain dicts, without Hydra's own node; paths below `~` are whole.

    Raises:
        InputError: An interpolation that leads nowhere or a value that is still missing.
    """
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        values = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    return typing.cast(dict[str, Any], at_home(values))


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return plain settings as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the stored config of a run as plain data.

    Raises:
        InputError: It is missing or no YAML mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # odd YAML raises whatever its bytes lead to: nesting without end, a tag that misfits
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no table of settings.")
    return typing.cast(dict[str, Any], content)


def build(node: Any, where: str = "config", trusted: Sequence[str] = ()) -> Any:
    """Build the object of a config node, plain data or as Hydra composed it; otherwise as `ssl_rs.build.build`."""
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return targets.build(typing.cast(Mapping[str, Any], plain), where, trusted)


COMMON = {"seed": int, "run_dir": str | None, "output_dir": str, "store_dir": str, "trusted_packages": list[str]}
"""Keys that every command has, whether it needs them or not, and their types."""

FOLDERS = ("run_dir", "output_dir", "store_dir")
"""Those of them that say where a command writes."""


class Settings:
    """The resolved settings of one run; it remembers which keys were read, so that none is silently without effect.

    Args:
        command: Name of the command.
        values: All keys with their values.
        overrides: What the command line of this run alone says.
    """

    def __init__(self, command: str, values: dict[str, Any], overrides: Sequence[str] = ()) -> None:
        self.command = command
        self.values = values
        self.overrides = tuple(overrides)
        self._read: set[str] = set()

    def value(self, key: str, kind: Any) -> Any:
        """Return the value of a dotted key, checked against a type such as `int` or `float | None`.

        Raises:
            InputError: It is of another type.
        """
        node = self._node(key)
        if not fits(node, kind):
            raise InputError(misfit(key, node, kind))
        self._read.add(key)
        return self._keep(key, spelled(node, kind))

    def names(self, key: str) -> list[str]:
        """Return the names below a key, e.g. of the chosen pretext tasks.

        Raises:
            InputError: There is none.
        """
        node = self.values.get(key)
        if not isinstance(node, dict) or not node:
            raise InputError(f"{key}=[...] must name at least one of {options(key)}.")
        return list(node)

    def build(self, key: str, made_later: bool = False) -> Any:
        """Build the component at a dotted key, or, where the code gives it its last arguments, what makes it."""
        node, trusted = self._node(key), self.trusted if "trusted_packages" in self.values else ()
        self._read.add(key)
        targets.check_partial(node, made_later, key, trusted)
        if isinstance(node, dict) and "_target_" in node:
            node = self._keep(key, targets.spelled(node, key, trusted))
        return build(node, key, trusted)

    def _keep(self, key: str, value: Any) -> Any:
        """Let a key have its value as what reads it takes it, so that 1 and 1.0 are one setting of one hash."""
        *groups, last = key.split(".")
        node = self.values
        for name in groups:
            node = node[name]
        node[last] = value
        return value

    def _node(self, key: str) -> Any:
        node: Any = self.values
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                raise InputError(f"{key} is not set. `python -m ssl_rs.{self.command} --cfg` prints every key.")
            node = node[name]
        return node

    def drop(self, key: str, names: Sequence[str]) -> None:
        """Take entries that nothing needs out of a list group, so that they do not count as settings of the run."""
        for name in names:
            del self.values[key][name]

    @property
    def trusted(self) -> Sequence[str]:
        """Packages besides ours that the command line admits targets of."""
        packages: Sequence[str] = self.value("trusted_packages", COMMON["trusted_packages"])
        return packages

    def check_all_read(self) -> None:
        """Refuse keys that nothing has read; those that every command has must fit all the same.

        Raises:
            InputError: A key that has no effect on this command, or a file where a folder is to be.
        """
        for key in COMMON.keys() & self.values.keys():
            value = self.value(key, COMMON[key])
            if key in FOLDERS and value:
                check_can_be_folder(key, Path(value))
        unread = [key for key in leaves(self.values) if not is_within(key, self._read)]
        if unread:
            remedy = _nearest_key(unread[0], self.command, self.overrides)
            raise InputError(f"{unread[0]}: {self.command} has no such key. {remedy}")
