"""Values above the value scale: told, with a scale that holds them."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from ssl_rs.data.clipping import usual_largest, values_outside
from ssl_rs.data.dataset import SceneArrays
from ssl_rs.data.prepare import prepare


def scene(values, masked=True):
    mask = np.zeros(values.shape[1:], np.uint8)
    return SceneArrays(values, mask if masked else None)


def test_shares_are_those_of_the_valid_pixels():
    image = np.zeros((2, 8, 10), np.int16)
    image[0, :, :5] = 200
    image[1, :, :2] = -300
    assert values_outside(image, None, 100) == (0.1, 0.25, -300, 200, 200)
    valid = np.zeros((8, 10), bool)
    valid[:, :5] = True
    assert values_outside(image, valid, 100) == (0.2, 0.5, -300, 200, 200)
    assert values_outside(image, np.zeros((8, 10), bool), 100) == (0, 0, 0, 0, 0)


def test_a_few_odd_values_are_not_usual():
    image = np.full((1, 10, 10), 30, np.uint16)
    image[0, 0, 0] = 65535
    assert values_outside(image, None, 100).usual == 30


def test_the_usual_values_of_every_band_lie_below_in_the_training_scenes():
    image, asked = np.full((2, 10, 10), 30, np.uint16), []
    image[0, :5] = 40

    def scenes_of(split):
        asked.append(split)
        return [0]

    store = SimpleNamespace(scenes_of=scenes_of, image=lambda index: image, valid=lambda index: None)
    assert usual_largest(store, 100) == 40
    assert asked == ["train"]
    assert usual_largest(store, 40) is None  # of one band half of the values are no less


def test_some_rows_are_read_and_the_ends_are_among_them():
    image = np.zeros((1, 1000, 4), np.float32)
    image[0, [0, 999]] = 3
    assert values_outside(image, None, 1.0) == (0, 2 / 16, 0, 3, 3)


def test_bright_scenes_beside_the_training_are_told_with_a_scale_that_holds_them(made_up, tmp_path):
    dark, bright = np.full((2, 6, 7), 900, np.uint16), np.full((2, 6, 7), 900, np.uint16)
    bright[:, :, 3:] = 7000
    entries = [
        ("a", "train", scene(dark)),
        ("b", "unlabeled", scene(bright, masked=False)),
        ("c", "test", scene(dark - 1)),
    ]
    with pytest.warns(UserWarning, match=r"1 of 1 unlabeled scenes have 57 % of their values above") as caught:
        prepare(made_up(entries), tmp_path / "stores")
    assert len(caught) == 1
    assert "value_scale=900" in str(caught[0].message)
    assert "dataset.value_scale=7000" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(made_up(entries, value_scale=7000.0), tmp_path / "stores")


def test_values_below_zero_are_told_with_what_to_do(made_up, tmp_path):
    decibels = np.full((1, 6, 7), 0.5, np.float32)
    decibels[:, :, :2] = -9999
    entries = [("a", "train", scene(decibels)), ("b", "test", scene(np.full((1, 6, 7), 0.5, np.float32)))]
    with pytest.warns(UserWarning, match="below 0, down to -9999") as caught:
        prepare(made_up(entries, num_bands=1), tmp_path / "stores")
    assert len(caught) == 1
    told = str(caught[0].message)
    assert told.startswith("1 of 1 train scenes have 29 % of their values below 0")
    assert "Where -9999 means no data, tell the file by `gdal_edit.py -a_nodata -9999`" in told
    assert "gdal_translate -scale LOW HIGH 0 1" in told


def test_eight_bits_have_nothing_to_tell(made_up, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = prepare(made_up([("a", "train", scene(np.full((2, 6, 7), 255, np.uint8)))]), tmp_path / "stores")
    assert store.manifest.value_scale == 255


def told_of(made_up, tmp_path, *entries):
    """Prepare entries of (split, values, value of some pixels); what is warned of."""
    scenes = []
    for number, (split, value, odd) in enumerate(entries):
        image = np.full((2, 6, 7), value, np.int16)
        image[:, 0, :3] = odd
        scenes.append((f"{number}", split, scene(image, masked=split != "unlabeled")))
    with pytest.warns(UserWarning, match="scenes have") as caught:
        prepare(made_up(scenes), tmp_path / "stores")
    return " ".join(str(each.message) for each in caught)


def test_the_scale_that_is_told_holds_every_scene(made_up, tmp_path):
    said = told_of(made_up, tmp_path, ("train", 900, 900), ("unlabeled", 7000, 900), ("unlabeled", 5000, 900))
    assert "2 of 2 unlabeled scenes have" in said
    assert "dataset.value_scale=7000 or more" in said


def test_the_darkest_of_several_scenes_is_told(made_up, tmp_path):
    said = told_of(made_up, tmp_path, ("train", 900, -9999), ("train", 900, -7))
    assert "2 of 2 train scenes have 7 % of their values below 0, down to -9999" in said


def test_eight_bits_of_a_smaller_scale_are_told(made_up, tmp_path):
    entries = [("a", "train", scene(np.full((2, 6, 7), 200, np.uint8)))]
    with pytest.warns(UserWarning, match=r"100 % of their values above value_scale=100"):
        prepare(made_up(entries, value_scale=100.0), tmp_path / "stores")
