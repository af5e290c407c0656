"""Square windows of a scene, continued by mirroring where they reach beyond its edge."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def cut(array: NDArray[Any], top: int, left: int, size: int) -> NDArray[Any]:
    """Return a square window of [..., H, W]; where it reaches beyond the edge, the array is continued by mirroring."""
    height, width = array.shape[-2:]
    if 0 <= top <= height - size and 0 <= left <= width - size:
        return array[..., top : top + size, left : left + size]
    rows, columns = _mirrored(top, size, height), _mirrored(left, size, width)
    block = np.asarray(array[..., rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    mirrored: NDArray[Any] = block.take(rows - rows.min(), axis=-2).take(columns - columns.min(), axis=-1)
    return mirrored


def _mirrored(start: int, count: int, size: int) -> NDArray[np.int64]:
    """Return which of `size` places each of `count` places from `start` on shows: ... 1 0 | 0 1 2 ... | 2 1 ..."""
    places = np.arange(start, start + count) % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)


def stack_images(crops: list[NDArray[Any]]) -> Tensor:
    """Stack crops [C, H, W] to one tensor [B, C, H, W]; uint16 becomes int32, of which torch knows all operations."""
    stacked = np.stack(crops)
    return torch.from_numpy(stacked.astype(np.int32) if stacked.dtype == np.uint16 else stacked)
