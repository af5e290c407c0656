"""Windows, inside and beyond the edge."""

import numpy as np
import pytest
import torch

from ssl_rs.data.windows import cut, stack_images

ARRAY = np.arange(2 * 3 * 4).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("top", "left", "size"), [(0, 0, 3), (1, 2, 2), (-2, 1, 3), (2, 3, 5), (-7, -9, 20), (-4, 5, 1)]
)
def test_cut_equals_padding_by_numpy(top, left, size):
    padded = np.pad(ARRAY, ((0, 0), (40, 40), (40, 40)), mode="symmetric")
    expected = padded[:, 40 + top : 40 + top + size, 40 + left : 40 + left + size]
    assert np.array_equal(cut(ARRAY, top, left, size), expected)


def test_cut_takes_masks_too():
    assert cut(ARRAY[0], -1, 0, 2).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", torch.uint8), ("uint16", torch.int32), ("int16", torch.int16), ("float32", torch.float32)],
)
def test_stack_keeps_values(dtype, expected):
    crops = [np.full((1, 2, 2), value, dtype) for value in (1, 250)]
    crops[1][:] = np.iinfo(dtype).max if dtype != "float32" else 0.5
    stacked = stack_images(crops)
    assert stacked.dtype == expected
    assert stacked[:, 0, 0, 0].tolist() == [1, 0.5 if dtype == "float32" else np.iinfo(dtype).max]
