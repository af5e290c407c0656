"""Which crops of labeled tiles a step reads."""

import itertools

import numpy as np
import pytest
import torch

from ssl_rs.data.label_subset import LabeledUnit, LabelFraction, LabelSubset, choose_labels
from ssl_rs.data.tile_crops import TileCrops
from ssl_rs.randomness import Rows


def corners(crops):
    """Row and column of each crop's upper left pixel; the made-up images hold them."""
    return [(int(crop[0, 0, 0]), int(crop[1, 0, 0]) - 100) for crop in crops]


def subset_of(store, *units, tile_size=8, unit="tile"):
    found = tuple(LabeledUnit(*values) for values in units)
    return LabelSubset(store.manifest.dataset, unit, tile_size, 1.0, 0, found, len(found))


def test_a_tile_without_shift_is_read_exactly(make_store):
    store = make_store({"a": ("train", 24, 24)})
    images, masks = TileCrops(store, subset_of(store, ("a", 8, 16, 8, 8)), 8, 0.0, 0).batch(0, Rows(0, 1, 1))
    assert np.array_equal(images[0].numpy(), store.image(0)[:, 8:16, 16:24])
    assert masks.dtype == torch.int64
    assert np.array_equal(masks[0].numpy(), store.mask(0)[8:16, 16:24])


def test_labeled_crops_come_with_their_validity_where_a_scene_lacks_data(with_nodata, tmp_path):
    valid = np.random.default_rng(0).random((24, 24)) > 0.3
    store = with_nodata(tmp_path / "stores", (valid, "train"), (np.ones((24, 24), bool), "train"))
    names = [scene.id for scene in store.manifest.scenes]
    place = (8, 16, 8, 8)
    images, _, found = TileCrops(store, subset_of(store, (names[0], *place)), 8, 0.0, 0).batch(0, Rows(0, 1, 1))
    assert found.dtype == torch.bool
    assert np.array_equal(found[0, 0].numpy(), valid[8:16, 16:24])
    assert np.array_equal(images[0].numpy(), store.image(0)[:, 8:16, 16:24])
    assert len(TileCrops(store, subset_of(store, (names[1], *place)), 8, 0.0, 0).batch(0, Rows(0, 1, 1))) == 2


def test_pixels_outside_of_labeled_tiles_and_of_the_scene_are_ignored(make_store):
    store = make_store({"a": ("train", 20, 24), "b": ("train", 24, 24)})
    # Tiles (1, 1) and (2, 2) of scene a; the lower one is only 4 pixels high. Scene b's tile must not leak into a.
    subset = subset_of(store, ("a", 8, 8, 8, 8), ("a", 16, 16, 4, 8), ("b", 0, 0, 8, 8))
    labeled = np.zeros((20, 24), bool)
    labeled[8:16, 8:16] = labeled[16:20, 16:24] = True
    expected = np.where(labeled, store.mask(0), 255)
    padded = np.pad(expected, 30, constant_values=255)
    pictures = np.pad(store.image(0), ((0, 0), (30, 30), (30, 30)), mode="symmetric")
    source = TileCrops(store, subset, 16, 0.25, seed=0)
    seen = set()
    for step, crop in itertools.product(range(20), range(3)):
        unit = source._units(3 * step, 3 * step + 3)[crop]
        if unit.scene != "a":
            continue
        images, masks = (batch[crop].numpy() for batch in source.batch(step, Rows(0, 3, 3)))
        matches = [
            (top, left)
            for top, left in itertools.product(range(-20, 20), range(-20, 24))
            if np.array_equal(masks, padded[top + 30 : top + 46, left + 30 : left + 46])
            and np.array_equal(images, pictures[:, top + 30 : top + 46, left + 30 : left + 46])
        ]
        assert len(matches) == 1
        shift = np.array(matches[0]) + 8 - [unit.row + unit.height / 2, unit.column + unit.width / 2]
        assert np.abs(shift).max() <= 2  # a quarter of the tile's 8 pixels
        seen.add(tuple(shift))
    assert len(seen) > 10
    assert max(abs(value) for shift in seen for value in shift) == 2


def test_passes_visit_every_unit_once_and_batches_may_be_larger(make_store):
    store = make_store({"a": ("train", 24, 40)})
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    assert len(subset.units) == 15
    source = TileCrops(store, subset, 8, 0.0, seed=0)
    rows = Rows(0, 40, 40)
    places = list(itertools.chain(*(corners(source.batch(step, rows)[0]) for step in range(3))))
    passes = [places[start : start + 15] for start in range(0, 120, 15)]
    every = {(unit.row, unit.column) for unit in subset.units}
    assert all(set(one) == every for one in passes)
    assert len({tuple(one) for one in passes}) == 8  # each pass in an order of its own


@pytest.mark.parametrize(("crop", "side"), [(4, 20), (8, 20), (16, 20), (40, 20)])
@pytest.mark.parametrize("tile_size", [20, 64, 4096])
def test_every_crop_sees_its_tile_however_large_tiles_may_be(make_store, crop, side, tile_size):
    store = make_store({"a": ("train", side, side)}, {"a": np.ones((side, side), np.uint8)})
    subset = choose_labels(store, tile_size, LabelFraction(1.0, "tile"), 0)
    _, masks = TileCrops(store, subset, crop, tile_shift=1.0, seed=0).batch(0, Rows(0, 200, 200))
    labeled = (masks != 255).sum(dim=(1, 2))
    assert labeled.min() >= (min(crop, side) // 2) ** 2
    assert labeled.unique().numel() > 1  # and still they move


def test_unit_scene_reads_anywhere_in_labeled_scenes(make_store):
    store = make_store({"a": ("train", 20, 30), "b": ("train", 20, 30)})
    subset = subset_of(store, ("b", 0, 0, 20, 30), unit="scene")
    images, masks = TileCrops(store, subset, 8, 0.25, seed=0).batch(0, Rows(0, 400, 400))
    found = corners(images)
    assert {row for row, _ in found} == set(range(13))
    assert {column for _, column in found} == set(range(23))
    row, column = found[0]
    assert np.array_equal(masks[0].numpy(), store.mask(1)[row : row + 8, column : column + 8])
    assert int(masks.max()) == 2


def test_labels_of_the_mask_that_are_ignored_stay_ignored(make_store):
    mask = np.zeros((8, 8), np.uint8)
    mask[2] = 255
    store = make_store({"a": ("train", 8, 8)}, {"a": mask})
    _, masks = TileCrops(store, subset_of(store, ("a", 0, 0, 8, 8)), 8, 0.0, 0).batch(0, Rows(0, 1, 1))
    assert np.array_equal(masks[0].numpy(), mask)


def test_other_seeds_visit_the_same_tiles_in_another_order(make_store):
    store = make_store({"a": ("train", 24, 40)})
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    first, again, other = (
        corners(TileCrops(store, subset, 8, 0.0, seed=seed).batch(0, Rows(0, 15, 15))[0]) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert set(first) == set(other)


def test_other_seeds_place_crops_elsewhere_about_their_tile(make_store):
    store = make_store({"a": ("train", 24, 24)})
    subset = subset_of(store, ("a", 8, 8, 8, 8))  # one tile: of one order
    first, again, other = (TileCrops(store, subset, 8, 0.5, seed=seed).batch(0, Rows(0, 8, 8))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
