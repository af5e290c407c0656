"""Batches are tensors in mappings, tuples, lists and dataclasses: one place that knows how to go through them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a structure with each tensor changed; what is no tensor stays."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        changed = [map_tensors(function, each) for each in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)  # a named tuple stays one
    if is_dataclass(value):
        named = {each.name: map_tensors(function, getattr(value, each.name)) for each in fields(value)}
        return replace(cast(Any, value), **named)
    return value


def named_parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield all that a structure holds, tensors and others, each with `name` and the keys, places and fields to it."""
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, tuple | list):
        inner = list(enumerate(value))
    elif is_dataclass(value):
        inner = [(each.name, getattr(value, each.name)) for each in fields(value)]
    else:
        yield name, value
        return
    for key, each in inner:
        yield from named_parts(each, f"{name}.{key}")
