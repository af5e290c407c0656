"""Which values of a picture are black and white."""

import warnings

import numpy as np
import pytest

from ssl_rs.pictures import stretched, usual_range


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("value", [0, 1, 255, 16384, 65535])
def test_a_picture_of_one_value_is_black(value, dtype):
    values = np.full((4, 4), min(value, np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else value), dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not stretched(values, *usual_range(values)).any()


def test_the_usual_values_lie_between_black_and_white():
    values = np.arange(101.0)
    assert usual_range(values) == (2, 98)
    assert stretched(np.array([0.0, 2, 50, 98, 100]), 2, 98).tolist() == [0, 0, 128, 255, 255]
