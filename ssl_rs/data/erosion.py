"""The boundaries of objects, which ISPRS leaves out of its scores: they are where annotators disagree."""

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import IGNORE

RADIUS = 3
OFFSETS = tuple(
    (row, column)
    for row in range(RADIUS + 1)
    for column in range(-RADIUS, RADIUS + 1)
    if (row > 0 or column > 0) and row**2 + column**2 <= RADIUS**2
)
"""Half of the disc: each pair of pixels is compared once."""

ROWS = 256


def erode(mask: NDArray[np.uint8], top: int, bottom: int) -> NDArray[np.uint8]:
    """Return rows of a mask in which each class has been eroded by a disc of 3 pixels radius; the rest is ignored.

    A pixel keeps its class where all pixels within the radius have it; beyond the edge of the image nothing differs.
    Source: ISPRS 2D Semantic Labeling Contest, Potsdam and Vaihingen, whose reference without boundaries is made so.

    Args:
        mask: [H, W], class indices or 255, which erodes the classes beside it too.
        top: The first row that is wanted.
        bottom: The first row that is not wanted any more.

    Returns:
        [bottom - top, W].
    """
    first = max(0, top - RADIUS)
    block = np.asarray(mask[first : bottom + RADIUS])
    differs = np.zeros(block.shape, np.bool_)
    height, width = block.shape
    for row, column in OFFSETS:
        if row >= height or abs(column) >= width:
            continue
        upper = (slice(0, height - row), slice(max(0, -column), width - max(0, column)))
        lower = (slice(row, height), slice(max(0, column), width + min(0, column)))
        unequal = block[upper] != block[lower]
        differs[upper] |= unequal
        differs[lower] |= unequal
    wanted = slice(top - first, bottom - first)
    return np.where(differs[wanted], np.uint8(IGNORE), block[wanted])
