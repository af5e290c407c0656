"""What pictures of images and class maps have in common: which values are black and white, which color a class has."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]


def usual_range(values: NDArray[Any]) -> tuple[float, float]:
    """Return the 2nd and the 98th percentile, a little apart where they are equal: what is shown as black and white."""
    low, high = np.percentile(values, (2, 98))
    return float(low), float(max(high, low + 1e-12, np.nextafter(low, np.inf)))


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return values with `low` as 0 and `high` as 255, uint8 of the same shape."""
    shares = np.clip((values - low) / (high - low), 0, 1)
    return np.round(shares * 255).astype(np.uint8)


def palette(colors: Iterable[Color], others: Color = (0, 0, 0)) -> NDArray[np.uint8]:
    """Return the color of each index of a map, uint8 [256, 3]: the given ones, and one for all further indices."""
    table = np.full((256, 3), others, np.uint8)
    given = list(colors)
    table[: len(given)] = np.array(given, np.uint8).reshape(-1, 3)
    return table


def nearest(new: int, old: int) -> NDArray[np.intp]:
    """Return which of `old` pixels lies nearest to each of `new` ones on the same line, int [new]."""
    return ((np.arange(new) + 0.5) * old / new).astype(np.intp)
