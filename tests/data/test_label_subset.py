"""Which labels a run may see."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

from ssl_rs.data import label_subset
from ssl_rs.data.label_subset import (
    LabeledUnit,
    LabelFraction,
    LabelSubset,
    choose_labels,
    class_pixels,
    describe_labels,
    labeled_in_training,
    labeled_pixels,
)
from ssl_rs.errors import InputError

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@pytest.fixture
def store(make_store):
    return make_store({"a": ("train", 80, 83), "test": ("test", 50, 50), "b": ("train", 40, 80)})


def test_smaller_fractions_lie_in_larger_ones(store):
    subsets = [choose_labels(store, 8, LabelFraction(fraction, "tile"), 7) for fraction in FRACTIONS]
    total = 10 * 11 + 5 * 10
    assert [subset.total_units for subset in subsets] == [total] * 7
    assert [len(subset.units) for subset in subsets] == [2, 3, 8, 16, 32, 80, 160]
    for small, large in pairwise(subsets):
        assert large.units[: len(small.units)] == small.units
    assert len(set(subsets[-1].units)) == total
    assert {unit.scene for unit in subsets[-1].units} == {"a", "b"}


def test_tiles_cover_every_pixel_once_and_shrink_at_the_edge(store):
    covered = {"a": np.zeros((80, 83), int), "b": np.zeros((40, 80), int)}
    for unit in choose_labels(store, 8, LabelFraction(1.0, "tile"), 0).units:
        window = covered[unit.scene][unit.row : unit.row + unit.height, unit.column : unit.column + unit.width]
        assert window.shape == (unit.height, unit.width)
        window += 1
    assert all((counts == 1).all() for counts in covered.values())


def test_order_follows_the_seed_only(store):
    first, second = (choose_labels(store, 8, LabelFraction(0.1, "tile"), seed) for seed in (0, 1))
    assert first.units != second.units
    assert first.sha256 != second.sha256
    assert choose_labels(store, 8, LabelFraction(0.1, "tile"), 0).sha256 == first.sha256


def test_order_is_the_same_on_every_machine(store):
    # Pinned: another order would make results of the same seed and fraction incomparable.
    first = choose_labels(store, 8, LabelFraction(0.02, "tile"), 0).units
    expected = sorted(
        choose_labels(store, 8, LabelFraction(1.0, "tile"), 5).units,
        key=lambda unit: label_subset._rank(0, "made_up", unit),
    )
    assert first == tuple(expected[:3])
    digest = "f2bddd47795170c1a3afb3c4a48522ff22179d5d5d9354c9312df11ec0ccdb01"
    assert label_subset._rank(0, "made_up", LabeledUnit("a", 8, 16, 8, 8)) == digest


@pytest.mark.parametrize(
    ("total", "fraction", "count"),
    [(50, 0.29, 15), (50, 0.28, 14), (10, 0.05, 1), (10, 0.04, 1), (10, 0.25, 3), (3, 1, 3)],
)
def test_counts_are_rounded_half_up_and_at_least_one(make_store, total, fraction, count):
    store = make_store({"a": ("train", 8, 8 * total)} if total < 20 else {"a": ("train", 40, 80)})
    subset = choose_labels(store, 8, LabelFraction(fraction, "tile"), 0)
    assert (subset.total_units, len(subset.units)) == (total, count)


def test_tiles_without_a_label_are_left_out(make_store):
    mask = np.full((16, 20), 255, np.uint8)
    mask[8, 7] = 0  # the last column of tile (1, 0)
    mask[3, 19] = 1  # tile (0, 2), which is 4 pixels wide
    store = make_store({"a": ("train", 16, 20), "b": ("train", 8, 8)}, {"a": mask, "b": np.full((8, 8), 255, np.uint8)})
    units = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0).units
    assert set(units) == {LabeledUnit("a", 8, 0, 8, 8), LabeledUnit("a", 0, 16, 8, 4)}
    assert choose_labels(store, 8, LabelFraction(1.0, "scene"), 0).units == (LabeledUnit("a", 0, 0, 16, 20),)


def test_unit_scene_takes_whole_scenes(store):
    subset = choose_labels(store, 8, LabelFraction(1.0, "scene"), 0)
    assert set(subset.units) == {LabeledUnit("a", 0, 0, 80, 83), LabeledUnit("b", 0, 0, 40, 80)}
    assert len(choose_labels(store, 8, LabelFraction(0.5, "scene"), 0).units) == 1


def test_no_labels_at_all_are_refused(make_store):
    ignored = np.full((8, 8), 255, np.uint8)
    store = make_store({"a": ("train", 8, 8), "b": ("test", 8, 8)}, {"a": ignored})
    with pytest.raises(InputError, match="zero labeled tiles"):
        choose_labels(store, 8, LabelFraction(0.1, "tile"), 0)


def test_data_without_classes_is_refused(make_store):
    store = make_store({"a": ("train", 8, 8)}, num_classes=0)
    with pytest.raises(InputError, match="no labels"):
        choose_labels(store, 8, LabelFraction(0.1, "tile"), 0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_fractions_out_of_range_name_their_key(fraction):
    with pytest.raises(InputError, match=r"label_fraction\.fraction"):
        LabelFraction(fraction, "tile")


def test_a_subset_survives_the_disk(store, tmp_path):
    subset = choose_labels(store, 8, LabelFraction(0.1, "tile"), 0)
    subset.write(tmp_path / "run" / "labels.json")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["labels.json"]
    read = LabelSubset.read(tmp_path / "run" / "labels.json")
    assert read == subset
    assert read.sha256 == subset.sha256
    (tmp_path / "labels.json").write_text('{"units": 3}')
    with pytest.raises(InputError, match=r"labels\.json"):
        LabelSubset.read(tmp_path / "labels.json")


@pytest.mark.parametrize("unit", ["tile", "scene"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_labeled_pixels_are_the_sum_over_the_units(store, unit, fraction):
    subset = choose_labels(store, 8, LabelFraction(fraction, unit), 3)
    counts = labeled_pixels(store, subset)
    slow = np.zeros(len(store.manifest.classes), int)
    indices = {store.manifest.scenes[index].id: index for index in store.scenes_of("train")}
    for each in subset.units:
        for row in range(each.row, each.row + each.height):
            for column in range(each.column, each.column + each.width):
                label = int(store.mask(indices[each.scene])[row, column])
                if label < len(slow):
                    slow[label] += 1
    assert counts.tolist() == slow.tolist()
    assert (class_pixels(store, unit, subset.units).sum(axis=0) == counts).all()
    assert counts.sum() > 0


def test_far_fewer_labels_than_their_share_are_told():
    units = tuple(LabeledUnit("a", 0, 64 * place, 64, 64) for place in range(4))
    subset = LabelSubset("x", "tile", 64, 0.25, 0, units[:1], 4)
    with pytest.warns(UserWarning, match=r"These 1 of 4 tiles hold 0\.12 % of the labeled pixels, though 25 % of the"):
        describe_labels(subset, {"a": 10, "b": 2}, {"a": 8_000, "b": 2_000})
    scenes = LabelSubset("x", "scene", 64, 0.25, 0, units[:1], 4)
    with pytest.warns(UserWarning, match=r"of the scenes: some are smaller than others.* Take more of them or another"):
        describe_labels(scenes, {"a": 10, "b": 2}, {"a": 8_000, "b": 2_000})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        describe_labels(subset, {"a": 1_000, "b": 400}, {"a": 8_000, "b": 2_000})


@pytest.mark.parametrize(
    ("fraction", "said"), [(0.01, r"1 % of 24 scenes would be 0\.24: this run has 1, 4\.2 %"), (0.1, "2.4")]
)
def test_a_share_of_few_units_that_is_rounded_is_told(fraction, said):
    units = tuple(LabeledUnit(f"{place}", 0, 0, 64, 64) for place in range(24))
    subset = LabelSubset("x", "scene", 64, fraction, 0, units[: max(1, round(24 * fraction))], 24)
    with pytest.warns(UserWarning, match=said):
        describe_labels(subset, {"a": 1_000}, {"a": 10_000})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        describe_labels(LabelSubset("x", "scene", 64, 0.25, 0, units[:6], 24), {"a": 2_500}, {"a": 10_000})


def test_labels_of_other_splits_are_none_of_the_training(store):
    counts = labeled_in_training(store)
    assert list(counts) == [each.name for each in store.manifest.classes]
    masks = [store.mask(index) for index in store.scenes_of("train")]
    assert list(counts.values()) == [sum(int((mask == label).sum()) for mask in masks) for label in range(len(counts))]
    assert sum(counts.values()) == 80 * 83 + 40 * 80


def test_a_class_that_no_mask_shows_is_not_looked_for_in_more_labels():
    subset = LabelSubset("x", "tile", 64, 0.25, 0, (LabeledUnit("a", 0, 0, 64, 64),), 4)
    with pytest.warns(UserWarning, match="contain no pixel") as told:
        describe_labels(subset, {"a": 10, "snow": 0, "road": 0}, {"a": 30, "snow": 0, "road": 10})
    assert [str(each.message).split(", so ")[0] for each in told] == [
        "The training split's masks contain no pixel of snow",
        "These labels contain no pixel of road",
    ]
    assert "Add masks that show it" in str(told[0].message)
    assert "larger label_fraction" in str(told[1].message)
