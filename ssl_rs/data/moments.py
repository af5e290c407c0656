"""Mean and standard deviation of the bands over many scenes, equal on every machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS_AT_ONCE = 2**20
"""Divided by one for every eight bands. Up to here the sums of uint8 and uint16 values and of their squares are exact
in float64, in any order."""


@dataclass(frozen=True)
class Moments:
    """Sums over the valid pixels of one scene, per band where a tuple; values are clipped to [0, ceiling] before.

    Args:
        count: Number of valid pixels.
        maximum: Largest value of all bands, 0 without a valid pixel.
        sums: [C], of the values.
        squares: [C], of their squares.
        nodata: The value that means no data, where some bands have it in pixels that others have data in.
        lacking: [C], how many of the values are that one. It is in none of the other numbers, since it is no measure
            of the largest value; empty where there is none.
    """

    count: int
    maximum: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    nodata: float | None = None
    lacking: tuple[int, ...] = ()


def measure(
    image: NDArray[Any], valid: NDArray[np.bool_] | None, ceiling: float | None, nodata: float | None = None
) -> Moments:
    """Sum up one scene, block by block.

    Args:
        image: [C, H, W].
        valid: [H, W], which pixels count; None: all.
        ceiling: Largest value that counts, the value scale where it is known beforehand.
        nodata: The value that means no data where all bands have it. In a valid pixel it counts as any other, but does
            not tell the largest value.
    """
    rows = max(1, PIXELS_AT_ONCE // (max(1, len(image) // 8) * image.shape[2]))
    count, maximum = 0, 0.0
    sums, squares = [], []
    lacking = np.zeros(len(image), np.int64)
    for top in range(0, image.shape[1], rows):
        block = image[:, top : top + rows]
        pixels = block.reshape(len(block), -1) if valid is None else block[:, valid[top : top + rows]]  # [C, N]
        values = pixels.astype(np.float64)
        np.clip(values, 0, ceiling, out=values)  # in place, as the squares: new memory costs as much as they do
        if ceiling is None and nodata is not None:
            lacks = pixels == nodata
            values[lacks] = 0
            lacking += lacks.sum(axis=1)
        count += values.shape[1]
        maximum = max(maximum, float(values.max(initial=0)))
        sums.append(values.sum(axis=1))
        squares.append(np.square(values, out=values).sum(axis=1))
    some = (nodata, tuple(lacking.tolist())) if lacking.any() else (None, ())
    return Moments(count, maximum, _exact_sums(sums), _exact_sums(squares), *some)


def add_up(parts: Sequence[Moments]) -> Moments:
    """Return the moments of a scene from those of its strips."""
    maximum = max(part.maximum for part in parts)
    sums, squares = _exact_sums([part.sums for part in parts]), _exact_sums([part.squares for part in parts])
    known = [part for part in parts if part.lacking]
    lacking = tuple(map(sum, zip(*(part.lacking for part in known), strict=True)))
    return Moments(
        sum(part.count for part in parts), maximum, sums, squares, known[0].nodata if known else None, lacking
    )


ROUNDING = 1e-6
"""Standard deviation over mean that sums of float64 may differ by where a band is constant."""


def mean_and_std(scenes: Sequence[Moments], scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation [C] of the values divided by `scale`, to 9 significant digits.

    A deviation below a millionth of the mean is rounding, and counts as 0: what is divided by it would be noise.
    """
    count = sum(scene.count for scene in scenes)
    lacking = [(min(max(scene.nodata or 0.0, 0.0), scale), scene.lacking) for scene in scenes if scene.lacking]
    sums = _exact_sums([*(scene.sums for scene in scenes), *([value * n for n in each] for value, each in lacking)])
    squares = _exact_sums(
        [*(scene.squares for scene in scenes), *([value**2 * n for n in each] for value, each in lacking)]
    )
    means = [total / count for total in sums]
    variances = [square / count - mean * mean for square, mean in zip(squares, means, strict=True)]
    variances = [value if value > (ROUNDING * mean) ** 2 else 0.0 for value, mean in zip(variances, means, strict=True)]
    mean = tuple(float(f"{value / scale:.9g}") for value in means)
    std = tuple(float(f"{math.sqrt(value) / scale:.9g}") for value in variances)
    return mean, std


def _exact_sums(parts: Sequence[Sequence[float] | NDArray[np.float64]]) -> tuple[float, ...]:
    """Add up [parts, C] over the parts, rounded once."""
    return tuple(math.fsum(values) for values in zip(*parts, strict=True))
