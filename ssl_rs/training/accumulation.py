"""Gradient accumulation: the batch of one optimizer step goes through the network in parts."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

from torch import Tensor


def in_parts(batch: Any, count: int) -> Iterator[Any]:
    """Yield a batch in equal parts; of 1 part, the batch itself.

    Args:
        batch: Tensors [B, ...] in tuples, mappings or dataclasses, B a multiple of `count`; what is no tensor goes into
            every part.
        count: Number of parts.
    """
    if count == 1:
        yield batch
        return
    for number in range(count):
        yield _part(batch, number, count)


def _part(value: Any, number: int, count: int) -> Any:
    if isinstance(value, Tensor):
        size = len(value) // count
        return value[number * size : (number + 1) * size]
    if isinstance(value, Mapping):
        return {key: _part(each, number, count) for key, each in value.items()}
    if isinstance(value, tuple):
        parts = [_part(each, number, count) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)  # a named tuple stays one
    if is_dataclass(value):
        parts_by_name = {each.name: _part(getattr(value, each.name), number, count) for each in fields(value)}
        return replace(cast(Any, value), **parts_by_name)
    return value
