"""Band statistics."""

import numpy as np
import pytest

from ssl_rs.data import moments
from ssl_rs.data.moments import Moments, add_up, mean_and_std, measure


def test_moments_of_two_values_by_hand():
    image = np.array([[[0, 10]], [[5, 5]]], np.uint8)  # [2, 1, 2]
    found = measure(image, None, None)
    assert (found.count, found.maximum, found.sums, found.squares) == (2, 10.0, (10.0, 10.0), (100.0, 50.0))
    assert mean_and_std([found], 10.0) == ((0.5, 0.5), (0.5, 0.0))


@pytest.mark.parametrize("pixels", [50, 5])  # of two rows, and of less than one
def test_blocks_change_nothing(monkeypatch, pixels):
    image = np.random.default_rng(0).integers(0, 65535, (3, 33, 21)).astype(np.uint16)
    valid = np.random.default_rng(1).random((33, 21)) < 0.7
    whole = measure(image, valid, 60000.0)
    monkeypatch.setattr(moments, "PIXELS_AT_ONCE", pixels)
    assert measure(image, valid, 60000.0) == whole  # exactly: sums of whole numbers are exact


def test_values_are_clipped_at_both_ends():
    image = np.array([[[-4.0, 2.0, 9.0]]], np.float32)
    found = measure(image, None, 5.0)
    assert (found.maximum, found.sums) == (5.0, (7.0,))


def test_a_scene_without_valid_pixels_counts_nothing():
    image = np.full((1, 3, 3), 7, np.uint8)
    empty = measure(image, np.zeros((3, 3), bool), None)
    full = measure(image, None, None)
    assert empty.count == 0
    assert mean_and_std([empty, full], 7.0) == ((1.0,), (0.0,))


def test_scenes_weigh_by_their_pixels():
    small, large = np.zeros((1, 1, 1), np.uint8), np.full((1, 3, 1), 4, np.uint8)
    mean, std = mean_and_std([measure(small, None, None), measure(large, None, None)], 1.0)
    assert mean == (3.0,)
    assert std[0] == pytest.approx(np.std([0, 4, 4, 4]))


def test_nodata_of_single_bands_counts_as_a_value_and_does_not_tell_the_largest():
    """A sentinel far above all values counts as white, as the network sees it; one among the values as itself."""
    image = np.array([[[10, 20, 65535]], [[30, 65535, 40]]], np.uint16)
    parts = [measure(image[:, :, :2], None, None, 65535.0), measure(image[:, :, 2:], None, None, 65535.0)]
    whole = add_up(parts)
    assert (whole.maximum, whole.count, whole.lacking) == (40.0, 3, (1, 1))
    seen = np.minimum(image, 40)
    assert mean_and_std([whole], 40.0) == mean_and_std([measure(seen, None, None)], 40.0)
    assert mean_and_std([measure(seen, None, None, 30.0)], 40.0) == mean_and_std([measure(seen, None, None)], 40.0)
    assert measure(image, None, 50.0, 65535.0) == measure(image, None, 50.0)


@pytest.mark.parametrize("value", [0.1625, 1 / 3, 0.7, 1e-3, 255.0])
def test_a_band_that_never_varies_has_no_deviation_however_its_sums_are_rounded(value):
    """E[x^2] - E[x]^2 of 29,000 equal values is not 0 in float64; what would be divided by it is noise."""
    scenes = [measure(np.full((1, 96, 101), value, np.float32), None, None) for _ in range(3)]
    assert mean_and_std(scenes, 1.0)[1] == (0.0,)


def test_sums_are_rounded_once():
    parts = [Moments(1, 0.0, (value,), (value,)) for value in (2.0**53, 1.0, 1.0)]
    assert add_up(parts).sums == add_up(parts[::-1]).sums == (2.0**53 + 2,)
