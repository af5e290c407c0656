"""Small pictures of the scenes of a store and of their masks, read without loading any scene."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.bands import shown_bands
from ssl_rs.data.store import Kind, Store, array_file
from ssl_rs.pictures import nearest, palette, stretched, usual_range

OVERSAMPLING = 3
"""Pixels a side that are averaged into one of a thumbnail: without, fine texture would turn into noise."""

PIECE_BYTES = 2**25
"""Of an array, mapped at a time: the pages of a map count as memory as long as it is open."""

HATCH = np.array([[150], [95]], np.uint8).repeat(3, axis=1)
"""Light and dark stripes, [2, 3]: what is no class cannot be mistaken for a gray class."""


def fit(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size of a thumbnail, in rows and columns, that keeps the proportions within a square."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def image_thumbnail(store: Store, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image as a picture, uint8 [h, w, 3], hatched where it holds no data.

    Red, green and blue are shown, else the first three bands, of fewer one in gray; 8-bit values as they are, others
    stretched between the 2nd and 98th percentile of the thumbnail.

    Args:
        store: Where the scene is.
        index: Which scene.
        size: Rows and columns of the thumbnail.
    """
    bands = tuple(dict.fromkeys(shown_bands(store.manifest.bands)))  # one, if gray
    fine = _sample(store, index, "image", (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), bands)  # [c, O h, O w]
    boxes = fine.reshape(len(bands), size[0], OVERSAMPLING, size[1], OVERSAMPLING)
    picture = boxes.mean(axis=(2, 4), dtype=np.float64).transpose(1, 2, 0)  # [h, w, c]
    partial = store.manifest.scenes[index].valid_share < 1
    valid = _sample(store, index, "valid", size) if partial else np.ones(size, np.bool_)
    if store.manifest.dtype != "uint8" and valid.any():
        picture = np.clip(picture, 0, store.manifest.value_scale)  # the network sees no difference beyond
        picture = stretched(picture, *usual_range(picture[valid]))
    colors = np.round(picture).astype(np.uint8).repeat(3 // len(bands), axis=2)  # [h, w, 3]
    return np.where(valid[..., None], colors, hatching(size))


def mask_thumbnail(store: Store, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a mask in the colors of the classes, uint8 [h, w, 3], hatched where there is no label.

    Each pixel shows one pixel of the mask: averages would be colors of no class.
    """
    classes = store.manifest.classes
    indices = _sample(store, index, "mask", size)  # [h, w]
    labeled = indices != store.manifest.ignore_index
    return np.where(labeled[..., None], palette(entry.color for entry in classes)[indices], hatching(size))


def hatching(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return diagonal stripes of two grays, uint8 [h, w, 3]."""
    rows, columns = np.indices(size)
    stripes: NDArray[np.uint8] = HATCH[(rows + columns) // 3 % 2]
    return stripes


def _sample(store: Store, index: int, kind: Kind, size: tuple[int, int], bands: Sequence[int] = ()) -> NDArray[Any]:
    """Return the pixels of an array that lie on a grid, [h, w], or [c, h, w] of some bands."""
    record = store.manifest.scenes[index]
    rows, columns = nearest(size[0], record.height), nearest(size[1], record.width)
    num_bytes = record.height * record.width * np.dtype(store.manifest.dtype).itemsize * max(1, len(bands))
    parts = []
    for part in np.array_split(rows, 1 + num_bytes // PIECE_BYTES):
        array = np.load(store.path / array_file(record.number, kind), mmap_mode="r")  # the store would keep it open
        parts.append(array[np.ix_(np.array(bands), part, columns)] if bands else array[np.ix_(part, columns)])
    return np.concatenate(parts, axis=-2)
