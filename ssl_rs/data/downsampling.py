"""Scenes at a coarser resolution: blocks of pixels become one, images by their mean, masks by their majority."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import Scene, SceneArrays, Transform
from ssl_rs.errors import InputError

Strip = tuple[int, SceneArrays, NDArray[np.bool_]]
"""The first row of a strip, its arrays, and [h, W] where it holds data."""


def coarser_size(scene: Scene, factor: int, where: str, key: str = "dataset.downsample") -> tuple[int, int]:
    """Return height and width of a scene of whole blocks; what is left at the right and lower edge is cut off.

    Raises:
        InputError: There is not one whole block.
    """
    height, width = scene.height // factor, scene.width // factor
    if not (height and width):
        raise InputError(
            f"{where}: {scene.height} x {scene.width} pixels (rows x columns) hold no block of {key}={factor} a side. "
            "Choose a smaller one, or take the scene out."
        )
    return height, width


def coarser_transform(transform: Transform, factor: int) -> Transform:
    """Return the transform of the coarser grid, which has the same upper left corner."""
    a, b, c, d, e, f = transform
    return a * factor, b * factor, c, d * factor, e * factor, f


def downsample(strips: Iterator[Strip], factor: int) -> Iterator[Strip]:
    """Yield a scene's strips at a coarser resolution; strips may end within blocks.

    A pixel's value is the mean of the valid pixels of its block, whole numbers rounded half up; it is valid where half
    of the block is. A band's nodata value, where it is no 0 and not of 8 bits, is in no mean but that of its
    like. A mask takes the most
    frequent label of a block, of equally frequent ones the first.

    Args:
        strips: From top to bottom, without gaps.
        factor: Pixels a side of a block.
    """
    if factor == 1:
        yield from strips
        return
    top, waiting = 0, None
    for _, strip, valid in strips:
        arrays = {"image": strip.image, "mask": strip.mask, "eroded": strip.eroded, "valid": valid}
        rows = {name: array for name, array in arrays.items() if array is not None}  # each [..., h, W]
        if waiting is not None:
            rows = {name: np.concatenate([waiting[name], array], axis=-2) for name, array in rows.items()}
        whole = rows["valid"].shape[0] // factor * factor
        waiting = {name: array[..., whole:, :] for name, array in rows.items()}
        if whole:
            yield top, *_shrink({name: array[..., :whole, :] for name, array in rows.items()}, factor, strip.nodata)
            top += whole // factor


def _shrink(
    rows: dict[str, NDArray],  # type: ignore[type-arg]
    factor: int,
    nodata: float | None,
) -> tuple[SceneArrays, NDArray[np.bool_]]:
    """Return rows that are whole blocks as one pixel a block, and where they hold data."""
    blocks = {name: _blocks(array, factor) for name, array in rows.items()}
    image, valid = blocks["image"], blocks["valid"]
    mean = _mean(image, valid)
    # A mean of -9999 and others is nothing; 0, and all of 8 bits, are as good as any dark or bright value.
    if nodata and image.dtype != np.uint8 and (lacks := valid & (image == nodata)).any():
        known = valid & ~lacks
        mean = np.where(known.any(axis=(-3, -1)), _mean(image, known), mean)
    if image.dtype.kind != "f":
        mean = np.floor(mean + 0.5)
    holds = 2 * _sums(valid) >= factor**2
    masks = [_majority(blocks[name]) if name in blocks else None for name in ("mask", "eroded")]
    known_all = None if holds.all() else holds
    return SceneArrays(mean.astype(image.dtype), masks[0], valid=known_all, eroded=masks[1], nodata=nodata), holds


def _mean(blocks: NDArray, counted: NDArray[np.bool_]) -> NDArray[np.float64]:  # type: ignore[type-arg]
    """Return the mean over what counts of each block, [C, h, w]; 0 where nothing does."""
    known = blocks if counted.all() else np.where(counted, blocks, np.zeros((), blocks.dtype))
    small = blocks.dtype.kind in "iu" and blocks.dtype.itemsize <= 2  # whose sums are exact in either type
    total = _sums(known) if small else known.sum(axis=(-3, -1), dtype=np.float64)
    mean: NDArray[np.float64] = total / np.maximum(_sums(counted), 1)
    return mean


def _sums(blocks: NDArray) -> NDArray[np.int32]:  # type: ignore[type-arg]
    """Return the sums [..., h, w] of blocks of small whole numbers; numpy is slow over both axes at once."""
    # Of LARGEST_BLOCK squared numbers of 16 bits at most: 2^28.
    columns = blocks.sum(axis=-3, dtype=np.int32)  # [..., h, w, factor]
    total: NDArray[np.int32] = columns[..., 0].copy()
    for place in range(1, columns.shape[-1]):
        total += columns[..., place]
    return total


def _blocks(array: NDArray, factor: int) -> NDArray:  # type: ignore[type-arg]
    """Return [..., H, W] as [..., h, factor, w, factor]; columns that fill no block are left out."""
    *leading, height, width = array.shape
    columns = width // factor
    cut = array[..., : columns * factor]
    return cut.reshape(*leading, height // factor, factor, columns, factor)


def _majority(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the most frequent value [h, w] of each of the blocks [h, factor, w, factor]."""
    height, _, width, _ = blocks.shape
    best, most = np.zeros((height, width), np.uint8), np.zeros((height, width), np.int64)
    for value in np.unique(blocks):
        votes = _sums(blocks == value)
        better = votes > most
        best[better], most[better] = value, votes[better]
    return best
