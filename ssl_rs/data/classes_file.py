"""classes.yaml: what the masks of a folder mean."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ssl_rs.data.class_colors import with_colors
from ssl_rs.data.dataset import IGNORE
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.errors import InputError, nearest

NUMBERS = (-(2**31), 2**32 - 1)
"""That pixels of a mask may hold, signed or not."""

REMEDY = "Repair the mask, or list it below classes: of classes.yaml, or below ignore: there if it is to count nowhere."
"""What to do about a color or number that no mask should have."""


FORM = (
    " Write a line for each class: - {name: building, color: [0, 0, 255]}; of masks of numbers: - {name: building, "
    "index: 1}."
)
"""What is to be told where something else stands in the place of classes."""

HEX = "#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})"
"""A color as web pages write it."""


def read_yaml_mapping(path: Path, known: tuple[str, ...]) -> Mapping[str, Any]:
    """Read a YAML file that is a mapping with some of the known keys.

    Raises:
        InputError: It cannot be read, or has another form or key.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except Exception as error:  # odd YAML raises whatever its bytes lead to: nesting without end, a tag that misfits
        if cut := re.search(rf"^[^#\n]*[:\[,][ \t]*{HEX}\b", text, re.MULTILINE):
            raise InputError(
                f"{path}, line {text.count(chr(10), 0, cut.end()) + 1}: YAML takes # for the beginning of a comment. "
                f"Write the color #{cut[1]} as {_from_hex(cut[1])}."
            ) from error
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return _mapping(content, str(path), known)


def read_classes(path: Path) -> MaskFormat:
    """Read classes.yaml.

    It has the keys `classes`, a list in the order of the class indices, and, optionally, `ignore`, a list::

        classes:                          # masks of colors: RGB, or with a palette
          - {name: building, color: [0, 0, 255]}
          - {name: road, color: [255, 255, 255]}
        ignore: [[0, 0, 0]]

        classes:                          # masks of numbers: every class has an index, the pixel value that means it
          - {name: building, index: 1}
          - {name: road, index: 2, color: [255, 255, 255]}     # here a color is only for pictures
        ignore: [0, 255]

    Either every class has an index or none has. Indices are whole numbers, also below 0. Every pixel of every mask
    must be listed.

    Raises:
        InputError: Names the file and the entry that is wrong.
    """
    content = read_yaml_mapping(path, ("classes", "ignore"))
    entries = content.get("classes")
    if not isinstance(entries, list) or not 1 <= len(entries) < IGNORE:
        form = "" if isinstance(entries, list) and entries else FORM
        raise InputError(f"{path}: classes: expected a list of 1 to {IGNORE - 1} classes, got {entries!r:.80}.{form}")
    keys = ("name", "color", "index")
    entries = [_mapping(entry, f"{path}: classes[{i}]", keys, FORM) for i, entry in enumerate(entries)]
    by_color = not any("index" in entry for entry in entries)
    classes = with_colors([_read_class(entry, f"{path}: classes[{i}]", by_color) for i, entry in enumerate(entries)])
    _check_unique([entry.name for entry in classes], f"{path}: classes: the name")
    ignore = content.get("ignore", [])
    if not isinstance(ignore, list):
        raise InputError(f"{path}: ignore: expected a list ([] for none), got {ignore!r:.80}.")
    where = f"{path}: ignore[{{}}]"
    if by_color:
        colors = tuple(_color(value, where.format(i)) for i, value in enumerate(ignore))
        _check_unique([*(entry.color for entry in classes), *colors], f"{path}: the color")
        return MaskFormat.of_colors(classes, colors, remedy=REMEDY)
    without = [place for place, entry in enumerate(entries) if "index" not in entry]
    if without:
        raise InputError(
            f"{path}: classes[{without[0]}].index is not there, others have one. Give each class an index, or each a "
            "color and none an index, as the masks have it."
        )
    numbers = [_number(entry.get("index"), f"{path}: classes[{i}].index") for i, entry in enumerate(entries)]
    ignored = [_number(value, where.format(i)) for i, value in enumerate(ignore)]
    _check_unique([*numbers, *ignored], f"{path}: the index")
    indices = {number: index for index, number in enumerate(numbers)} | dict.fromkeys(ignored, IGNORE)
    return MaskFormat(classes, False, indices, remedy=REMEDY)


def _mapping(value: Any, where: str, known: tuple[str, ...], form: str = "") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a mapping with the keys {', '.join(known)}, got {value!r:.80}.{form}")
    for key in value:
        if key not in known:
            raise InputError(f"{where}: no such key '{key}'. {nearest(str(key), known)}")
    return value


def _read_class(entry: Mapping[str, Any], where: str, by_color: bool) -> tuple[str, tuple[int, int, int] | None]:
    """Return a class's name and, where it is given, its color."""
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        quotes = "" if isinstance(name, str) or name is None else " YAML reads it so: put it in quotes."
        raise InputError(f"{where}.name: expected a text, got {name!r}.{quotes}")
    if "color" in entry:
        return name, _color(entry["color"], f"{where}.color")
    if by_color:
        raise InputError(
            f"{where}: '{name}' has neither a color nor an index. Give every class the one that its masks use."
        )
    return name, None


def _color(value: Any, where: str) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in value):
        hint = " YAML takes # for the beginning of a comment: write numbers." if value is None else ""
        if isinstance(value, str) and (code := re.fullmatch(HEX, value)):
            hint = f" Write {_from_hex(code[1])}."
        raise InputError(f"{where}: expected [red, green, blue] with numbers from 0 to 255, got {value!r:.80}.{hint}")
    return value[0], value[1], value[2]


def _from_hex(code: str) -> list[int]:
    """Return red, green and blue of ff0000, or of f00."""
    return list(bytes.fromhex(code if len(code) == 6 else "".join(2 * digit for digit in code)))


def _number(value: Any, where: str) -> int:
    if type(value) is not int or not NUMBERS[0] <= value <= NUMBERS[1]:
        raise InputError(f"{where}: expected a whole number from {NUMBERS[0]} to {NUMBERS[1]}, got {value!r:.80}.")
    return value


def _check_unique(values: list[Any], what: str) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise InputError(f"{what} {twice[0]} comes twice.")
