"""Values of JSON that anybody may have written or cut off: each of the kind that is expected, or told by its key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 1e12
"""Seconds of a run, so that sums over runs stay finite."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a character would stop the writing of the page
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def take(values: Mapping[str, Any], key: str, kind: type[T] | tuple[type[T], ...]) -> T:
    """Return values[key] if it is of a kind; true and false are no numbers.

    Raises:
        ValueError: It is missing, or of another kind.
    """
    if key not in values:
        raise ValueError(f"{key} is missing")
    value = values[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(f"{key} is {value!r:.80}: expected {' or '.join(each.__name__ for each in kinds)}")
    return value


def number(values: Mapping[str, Any], key: str, low: float, high: float) -> float:
    """Return a finite number in [low, high].

    Raises:
        ValueError: It is missing, no number, or outside.
    """
    value = take(values, key, (int, float))
    if not low <= value <= high:  # nor is NaN
        raise ValueError(f"{key} is {value!s:.80}: expected a number in [{low:g}, {high:g}]")
    return float(value)


def number_or_none(values: Mapping[str, Any], key: str, low: float = 0) -> float | None:
    """Return a score in [low, 1]; null says that it is undefined.

    Raises:
        ValueError: As of `number`; a missing key says that the file is not ours.
    """
    return None if key in values and values[key] is None else number(values, key, low, 1)


def as_object(value: Any, key: str) -> dict[str, Any]:
    """Return an object's value if it is an object itself.

    Raises:
        ValueError: It is something else; names the key.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{key} has {value!r:.80}: expected an object")
    return value
