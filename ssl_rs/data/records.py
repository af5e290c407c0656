"""Frozen dataclasses to JSON and back, with every value checked on the way in."""

import dataclasses
import json
import math
import types
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ssl_rs.errors import InputError

T = TypeVar("T")


def to_json(record: Any) -> str:
    """Return a dataclass as JSON text that depends on its content only."""
    return json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True) + "\n"


def read_record(kind: type[T], path: Path) -> T:
    """Read what `to_json` wrote.

    Raises:
        InputError: No such file, no JSON, or content that does not fit the dataclass; names file and key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError covers JSON and UTF-8
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    return typing.cast(T, decode(kind, content, str(path)))


def decode(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into a value of the annotated type.

    Args:
        kind: A dataclass, str, int, bool, float, `X | None`, `tuple[X, ...]`, `tuple[X, Y]` or a Literal.
        value: What JSON gave.
        where: File and key, for messages.

    Raises:
        InputError: The value does not fit.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is types.UnionType:  # X | None
        return None if value is None else decode(arguments[0], value, where)
    if origin is typing.Literal and value in arguments:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise InputError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r:.80}.")


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or set(value) != set(hints):
        found = sorted(value) if isinstance(value, dict) else repr(value)[:80]
        raise InputError(f"{where}: expected the keys {sorted(hints)}, got {found}.")
    return kind(**{name: decode(hint, value[name], f"{where}: {name}") for name, hint in hints.items()})


@lru_cache  # it would be most of the time that thousands of scenes take
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
