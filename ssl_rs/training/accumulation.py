"""Gradient accumulation: the batch of one optimizer step goes through the network in parts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from ssl_rs.training.structure import map_tensors


def in_parts(batch: Any, count: int) -> Iterator[Any]:
    """Yield a batch in equal parts; of 1 part, the batch itself.

    Args:
        batch: Tensors [B, ...] in mappings, tuples, lists or dataclasses, B a multiple of `count`; what is no
            tensor goes into every part.
        count: Number of parts.
    """
    if count == 1:
        yield batch
        return
    for number in range(count):
        yield map_tensors(partial(_part, number, count), batch)


def _part(number: int, count: int, whole: Tensor) -> Tensor:
    size = len(whole) // count
    return whole[number * size : (number + 1) * size]
