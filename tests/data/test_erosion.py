"""Boundaries of objects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_rs.data.erosion import RADIUS, erode


def slow(mask):
    """Look around every pixel."""
    height, width = mask.shape
    eroded = mask.copy()
    for row in range(height):
        for column in range(width):
            for i in range(height):
                for j in range(width):
                    if (i - row) ** 2 + (j - column) ** 2 <= 9 and mask[i, j] != mask[row, column]:
                        eroded[row, column] = 255
    return eroded


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 2), (11, 13)])
def test_equals_the_slow_version(shape):
    rng = np.random.default_rng(sum(shape))
    coarse = rng.choice([0, 1, 5, 255], (shape[0] // 5 + 1, shape[1] // 5 + 1)).astype(np.uint8)
    mask = np.kron(coarse, np.ones((5, 5), np.uint8))[: shape[0], : shape[1]]
    assert np.array_equal(erode(mask, 0, shape[0]), slow(mask))


@given(st.integers(0, 29), st.integers(1, 30))
def test_rows_are_those_of_the_whole(top, count):
    mask = np.kron(np.random.default_rng(0).integers(0, 3, (5, 4)), np.ones((6, 7))).astype(np.uint8)
    bottom = min(top + count, 30)
    assert np.array_equal(erode(mask, top, bottom), erode(mask, 0, 30)[top:bottom])


def test_a_straight_boundary_loses_three_pixels_on_either_side():
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 10:] = 1
    assert (erode(mask, 0, 20)[8] == [0] * 7 + [255] * 6 + [1] * 7).all()
    assert RADIUS == 3
