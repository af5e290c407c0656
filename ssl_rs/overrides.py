"""Arguments of the command line, KEY=VALUE, as Hydra's grammar reads them."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from ssl_rs.config_files import conf_dir, entry_of, fills_entry, groups
from ssl_rs.config_hash import is_within
from ssl_rs.errors import InputError

QUOTING = (
    "Put the whole argument in single quotes, e.g. 'dataset.bands=[red,green]' or 'dataset.root=/data/my images'; "
    "a text with brackets or quotes needs double quotes within, e.g. 'dataset.root=\"[old] images\"'."
)
"""What helps where the shell took an argument apart, or Hydra took a text for a list."""


LISTS = ("pretext", "views", "experiment")
"""Groups of which several options may be chosen."""

SWEEPING = ("pretrain", "finetune", "evaluate")
"""Commands that run sweeps."""


def check_lists(overrides: Sequence[str]) -> None:
    """Refuse options of one list that fill the same entry, such as pretext=[inpainting,inpainting_unet].

    Raises:
        InputError: Names them.
    """
    for override in overrides:
        group, _, value = override.partition("=")
        if group not in groups() or not (value.startswith("[") and value.endswith("]")):
            continue
        names = _names(value)
        if len(names) > 1 and group not in LISTS:
            raise InputError(
                f"{override}: one option of {group} is expected, and only the last would count. Choose one; keys below "
                f"it, {group}.KEY=VALUE, change it further."
            )
        entries = [entry_of(group, name) or name for name in names]
        for index, entry in enumerate(entries):
            if entry in entries[:index]:
                first = names[entries.index(entry)]
                raise InputError(
                    f"{override}: {names[index]} comes twice. Name it once."
                    if first == names[index]
                    else f"{override}: {first} and {names[index]} are two options for {entry}. Choose one of them."
                )


def check_packages(overrides: Sequence[str]) -> None:
    """Refuse a file of the user's own for a task or view that does not say under which name it counts.

    Raises:
        InputError: Names the file, and the line that it lacks.
    """
    folders = own_folders(overrides)
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        for name in _names(value) if group in ("pretext", "views") else ():
            for path in (folder / group / f"{name}.yaml" for folder in folders):
                if path.is_file() and not fills_entry(path, group):
                    first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
                    raise InputError(
                        f"{path}: expected '# @package {group}.NAME' as its first line, got '{first:.80}'. NAME is "
                        f"what it is to be called: write '# @package {group}.{Path(name).name}'."
                    )


def _names(value: str) -> list[str]:
    return [name for name in re.split(r"[\[\],\s'\"]+", value) if name]


def own_folders(overrides: Sequence[str]) -> list[Path]:
    """Return the folders of options that the user names, by --config-dir or hydra.searchpath."""
    told = [text for text in overrides if re.match(r"\+*hydra\.searchpath=", text) and _parses(text)]
    found = [OverridesParser.create().parse_override(text).value() for text in told]
    places = [str(place) for value in found for place in (value if isinstance(value, list) else [value])]
    return [Path(place.removeprefix("file://")) for place in places if not place.startswith("pkg://")]


def check_values(overrides: Sequence[str]) -> None:
    """Refuse `key=` without a value: Hydra takes it for an empty text, and an empty path is the working folder.

    Refuse `_partial_`, too: whether the code gives a component its last arguments is no setting; and what changes
    Hydra's own folders, where runs would be lost.

    Raises:
        InputError: Names it.
    """
    for override in overrides:
        name, equals, value = override.partition("=")
        if name.lstrip("+") in ("hydra.job.chdir", "hydra.run.dir"):
            raise InputError(f"{override} has no use here: run_dir and output_dir say where runs lie. Leave it out.")
        if name.rpartition(".")[2] == "_partial_":
            raise InputError(f"{override}: that is no setting, but how the code builds the component. Leave it out.")
        if equals and not value.strip() and re.fullmatch(r"[\w@/.+~]+", name):
            raise InputError(
                f"{override} has no value; was it to come from a variable that the shell does not know? Give it one, "
                "or leave it out."
            )


def quoted(override: str) -> str:
    """Return an argument of the command line as Hydra can read it: a value with letters it does not know gets quotes.

    Paths hold umlauts, apostrophes, tildes and brackets; what Hydra's grammar reads as it is stays as it is. In a plain
    list each item gets quotes that needs them.
    """
    name, equals, value = override.partition("=")
    if not equals or (_parses(override) and value == value.strip()):
        return override
    items = [item.strip() for item in value[1:-1].split(",")]
    if re.fullmatch(r"\[[^\[\]{}'\"]+\]", value) and all(item.count("(") == item.count(")") for item in items):
        in_quotes = f"[{','.join(map(_quoted_value, items))}]"
    elif value[:1] in ("'", '"', "[", "{"):
        return override
    else:
        in_quotes = f"'{_escaped(value)}'"
    with_quotes = f"{name}={in_quotes}"
    return with_quotes if _parses(with_quotes) else override


def _quoted_value(item: str) -> str:
    return item if _parses(f"key={item}") else f"'{_escaped(item)}'"


def _escaped(text: str) -> str:
    return text.replace("'", "\\'")


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except Exception:  # whatever is wrong with it is told when it is composed
        return False
    return True


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Return overrides as Hydra reads them; `glob` finds the options of conf/.

    Raises:
        InputError: An override that Hydra's grammar does not know.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except Exception as error:  # as in compose_config
        said = " ".join((str(error) or repr(error)).split()).partition(" See https")[0]
        raise InputError(unreadable(overrides, said)) from error


def unreadable(overrides: Sequence[str], said: str) -> str:
    """Return Hydra's message, with the argument that its grammar does not know, if there is one, and the remedy."""
    unread = [override for override in overrides if not _parses(override)]
    if unread and re.fullmatch(r"\w+(\.\w+)+", unread[0]):  # a key, and no piece of a text with spaces
        following = overrides[overrides.index(unread[0]) + 1 :]
        value = following[0] if following and "=" not in following[0] else "VALUE"
        return f"{unread[0]} has no value: write {unread[0]}={value}, without spaces."
    return f"{unread[0]} cannot be read as KEY=VALUE: {said.rstrip('.')}. {QUOTING}" if unread else said


def without_sweeps(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that can be composed into one config: they have one value, and their group has one option.

    Raises:
        InputError: An override that Hydra's grammar does not know.
    """
    parsed = parse_overrides(overrides)
    varied = [override.key_or_group for override in parsed if override.is_sweep_override()]
    pairs = zip(overrides, parsed, strict=True)
    return [
        text for text, override in pairs
        if not override.is_sweep_override() and not _is_below(override.key_or_group, varied)
    ]  # fmt: skip


def as_of_sweep(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep, all of whose cells have been checked, as Hydra takes them.

    It first composes what is not varied, and there a key below a varied group need not be known: `++` lets it pass.
    """
    parsed = parse_overrides(overrides)
    varied = [override.key_or_group for override in parsed if override.is_sweep_override()]
    pairs = zip(overrides, parsed, strict=True)
    return [
        f"++{text}" if _is_below(override.key_or_group, varied) and text[0] not in "+~" else text
        for text, override in pairs
    ]


def _is_below(key: str, groups: Sequence[str]) -> bool:
    return key not in groups and is_within(key, groups)


def names_several(override: str) -> bool:
    """Tell whether a value reads as several, outside of quotes and brackets."""
    value = override.partition("=")[2]
    return "," in value and value[:1] not in ("'", '"', "[", "{")


def too_many(override: str, command: str, may_be_list: bool) -> str:
    """Say that an override names several values outside of a sweep, and what could be meant.

    Args:
        override: It, as it was typed.
        command: Name of the command.
        may_be_list: Whether its key takes a list.
    """
    key, _, value = override.partition("=")
    said = ": -m runs each of them." if command in SWEEPING else ", of which one is expected."
    return f"{override} names several values{said}" + (f" One run with all of them: {key}=[{value}]." * may_be_list)
