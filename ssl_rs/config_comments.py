"""What each key means: the comment behind it in a YAML file, else what the docstring of its class says.

Both are read as text: help imports no class, and so no torch.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ssl_rs.config_files import command_files, conf_dir

COLUMN = 40
"""Where comments begin, behind keys that are not longer."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes lists of plain values in a line."""


def _represent_list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain)


_Dumper.add_representer(list, _represent_list)


def commented(command: str, values: Mapping[str, Any]) -> str:
    """Return the settings of a command as YAML, with what each key means behind it.

    Args:
        command: Whose settings they are: some keys mean something else to another.
        values: Resolved settings.
    """
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    lines = text.splitlines()
    by_key, by_class = _comments(command)
    for line, key, target in _keys(yaml.compose(text)):
        argument = key.rpartition(".")[2]
        said = by_key.get((key, target)) or by_class.get((argument, target)) or _arguments(target).get(argument, "")
        if said and not argument.startswith("_"):
            lines[line] = f"{lines[line]:<{COLUMN - 2}}  # {said}"
    return "\n".join([*lines, ""])


@cache
def _comments(command: str) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """Return the comments of a command's files and of all options, by dotted key and class, and by argument and class.

    A class has one place in the config as a rule, but color jitter, say, is a part of many views.
    """
    by_key: dict[tuple[str, str], str] = {}
    by_class: dict[tuple[str, str], str] = {}
    for path in (*command_files(command), *sorted(conf_dir().glob("*/*.yaml"))):
        text = path.read_text(encoding="utf-8")
        package = re.search(r"^# @package (\S+)", text)
        place = package[1] if package else "" if path.parent == conf_dir() else path.parent.name
        if place == "_global_":
            if path.parent != conf_dir():  # an experiment says why it sets a key
                continue
            place = ""
        lines = text.splitlines()
        for line, key, target in _keys(yaml.compose(text), place):
            if said := _comment(lines, line):
                by_key.setdefault((key, target), said)
                if target:
                    by_class.setdefault((key.rpartition(".")[2], target), said)
    return by_key, by_class


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[int, str, str]]:
    """Yield line, dotted name and class of each key of nested mappings; an empty text where there is no class."""
    if not isinstance(node, yaml.MappingNode):
        return
    target = next((value.value for key, value in node.value if key.value == "_target_"), "")
    for key, value in node.value:
        if key.value not in ("<<", "defaults", "hydra"):
            name = f"{prefix}.{key.value}" if prefix else key.value
            in_a_line = value.end_mark.line == key.start_mark.line
            if not in_a_line and (isinstance(value, yaml.ScalarNode) or value.flow_style):
                continue  # a text of several lines: behind the first of them a comment would be part of it
            yield key.start_mark.line, name, target
            yield from _keys(value, name)


def _comment(lines: list[str], line: int) -> str:
    """Return the comment behind a line, with the lines below it that hold nothing but its continuation."""
    before, mark, first = lines[line].partition(" #")
    if not mark:
        return ""
    column = len(before) + 1
    more = takewhile(lambda text: text[:column].isspace() and text[column:].startswith("#"), lines[line + 1 :])
    return " ".join([first.strip(), *(text.strip("# ") for text in more)])


@cache
def _arguments(target: str) -> Mapping[str, str]:
    """Return what the docstring of a class or function of ours says of each argument."""
    package, _, rest = target.partition(".")
    module, _, name = rest.rpartition(".")
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    if package != "ssl_rs" or not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    docstring = inspect.cleandoc(ast.get_docstring(found[0]) or "") if found else ""
    section = re.search(r"^Args:\n((?:(?: .*)?\n?)*)", docstring, re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {argument: _as_comment(said) for argument, said in entries}


def _as_comment(sentence: str) -> str:
    text = " ".join(sentence.split()).rstrip(".")
    return text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
