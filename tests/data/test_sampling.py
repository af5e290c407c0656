"""Which crops a step reads."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from ssl_rs.data import sampling
from ssl_rs.data.dataset import SceneArrays
from ssl_rs.data.label_subset import LabeledUnit, LabelFraction, LabelSubset, choose_labels
from ssl_rs.data.prepare import prepare
from ssl_rs.data.sampling import LARGE, Crops, SceneCrops, TileCrops, batches, to_unit
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows

ALL = Rows(0, 6, 6)


def corners(crops):
    """Row and column of each crop's upper left pixel; the made-up images hold them."""
    return [(int(crop[0, 0, 0]), int(crop[1, 0, 0]) - 100) for crop in crops]


def subset_of(store, *units, tile_size=8, unit="tile"):
    found = tuple(LabeledUnit(*values) for values in units)
    return LabelSubset(store.manifest.dataset, unit, tile_size, 1.0, 0, found, len(found))


def test_crops_come_from_the_split_whole_and_unmirrored(make_store):
    store = make_store({"train": ("train", 20, 30), "test": ("test", 90, 90)})
    source = SceneCrops(store, ("train",), 8, seed=1)
    crops = torch.cat([source.batch(step, ALL).images for step in range(30)])
    assert crops.shape == (180, 2, 8, 8)
    assert crops.dtype == torch.uint8
    for crop, (row, column) in zip(crops, corners(crops), strict=True):
        assert np.array_equal(crop.numpy(), store.image(0)[:, row : row + 8, column : column + 8])
    assert set(store._maps) == {"00000_image.npy"}  # no mask, no scene of another split


def test_positions_are_uniform_and_scenes_weigh_by_their_pixels(make_store):
    store = make_store({"small": ("train", 10, 10), "large": ("train", 10, 40)})
    source = SceneCrops(store, ("train",), 8, seed=0)
    rows = Rows(0, 3000, 3000)
    found = source.batch(0, rows).images
    places = Counter(corners(found))
    # Columns 3 to 32 occur in the large scene only: it has 4/5 of the draws, over 3 x 33 corners.
    only_large = sum(count for (_, column), count in places.items() if column > 2)
    assert only_large / 3000 == pytest.approx(0.8 * 30 / 33, abs=0.03)
    assert {row for row, _ in places} == {0, 1, 2}
    assert {column for _, column in places} == set(range(33))
    by_row = Counter(row for row, _ in corners(found))
    assert min(by_row.values()) > 900


def test_scenes_smaller_than_the_crop_are_mirrored(make_store):
    store = make_store({"tiny": ("train", 5, 3)})
    crop = SceneCrops(store, ("train",), 8, seed=0).batch(0, Rows(0, 1, 1)).images[0]
    assert crop[0, :, 0].tolist() == [0, 1, 2, 3, 4, 4, 3, 2]
    assert (crop[1, 0] - 100).tolist() == [0, 1, 2, 2, 1, 0, 0, 1]


@pytest.mark.parametrize("kind", ["scenes", "tiles"])
def test_two_ranks_see_what_one_process_sees(make_store, kind):
    store = make_store({"a": ("train", 20, 30), "b": ("train", 33, 9)})
    if kind == "scenes":
        source = SceneCrops(store, ("train",), 8, seed=3)
    else:
        source = TileCrops(store, choose_labels(store, 8, LabelFraction(1.0, "tile"), 0), 8, 0.25, seed=3)
    for step in (0, 7):
        whole = source.batch(step, ALL)
        parts = [source.batch(step, Rows.of_rank(rank, 2, 3)) for rank in range(2)]
        for place, tensor in enumerate(whole):
            if tensor is not None:  # nothing is invalid
                assert torch.equal(tensor, torch.cat([part[place] for part in parts]))


def test_steps_and_seeds_differ_and_repeat(make_store):
    store = make_store({"a": ("train", 60, 60)})
    source, other = SceneCrops(store, ("train",), 8, seed=0), SceneCrops(store, ("train",), 8, seed=1)
    images = source.batch(5, ALL).images
    assert torch.equal(images, SceneCrops(store, ("train",), 8, seed=0).batch(5, ALL).images)
    assert not torch.equal(images, source.batch(6, ALL).images)
    assert not torch.equal(images, other.batch(5, ALL).images)


def test_several_splits_are_drawn_from_by_their_pixels(make_store):
    store = make_store({"a": ("train", 10, 30), "b": ("val", 10, 10), "c": ("test", 10, 20)})
    source = SceneCrops(store, ("train", "test"), 8, seed=0)
    source.batch(0, Rows(0, 50, 50))
    assert set(store._maps) == {"00000_image.npy", "00002_image.npy"}
    every = SceneCrops(store, ("train", "val", "test"), 8, seed=0)
    every.batch(0, Rows(0, 50, 50))
    assert set(store._maps) == {"00000_image.npy", "00001_image.npy", "00002_image.npy"}
    assert every.pixels_until == [300, 400, 600]


def with_nodata(made_up, folder, *scenes):
    """Prepare a store of (valid, split): band 0 is the row, band 1 is 100 + column; scenes are named a, b, ..."""
    entries = []
    for name, (valid, split) in zip("abcdef", scenes, strict=False):
        rows, columns = np.indices(valid.shape)
        image = np.stack([rows, 100 + columns]).astype(np.uint8)
        mask = np.zeros(valid.shape, np.uint8)
        entries.append((name, split, SceneArrays(image, mask, valid=None if valid.all() else valid)))
    return prepare(made_up(entries), folder)


def test_positions_without_nodata_are_preferred_and_the_mask_is_that_of_the_crop(made_up, tmp_path):
    valid = np.ones((40, 40), bool)
    valid[:, :14] = False
    source = SceneCrops(with_nodata(made_up, tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    crops = source.batch(0, Rows(0, 600, 600))
    assert crops.valid.dtype == torch.bool
    assert crops.valid.shape == (600, 1, 8, 8)
    # The image is 0 where nothing is valid, and 100 + column elsewhere.
    assert torch.equal(crops.valid[:, 0], crops.images[:, 1] >= 100)
    # 14 of 33 columns lead to a crop with nodata: eight times in a row once in a thousand.
    assert crops.valid.flatten(1).all(dim=1).float().mean() > 0.99
    plain = Draws(0, 0, "crops", Rows(0, 600, 600)).integers(0, LARGE, 3)
    assert ((plain[:, 2] % 33) < 14).float().mean() > 0.35
    # Those whose first position was good have it.
    good = (plain[:, 2] % 33) >= 14
    firsts = torch.stack([plain[:, 1] % 33, 100 + plain[:, 2] % 33], dim=1)
    assert torch.equal(crops.images[good][:, :, 0, 0].long(), firsts[good])


def test_of_positions_that_all_have_nodata_the_most_valid_is_taken(made_up, tmp_path):
    valid = np.random.default_rng(0).random((60, 60)) > 0.4
    store = with_nodata(made_up, tmp_path / "stores", (valid, "train"))
    rows = Rows(0, 40, 40)
    crops = SceneCrops(store, ("train",), 8, seed=2).batch(3, rows)
    draws = Draws(2, 3, "crops", rows)
    firsts, others, about = draws.integers(0, LARGE, 3), draws.integers(0, LARGE, 14), draws.integers(0, LARGE, 24)
    with_data = [(row, column) for row in range(1, 60, 2) for column in range(1, 60, 2) if valid[row, column]]
    for index in range(40):
        numbers = [*firsts[index, 1:].tolist(), *others[index].tolist()]
        windows = []
        for place in range(8):
            top, left = numbers[2 * place] % 53, numbers[2 * place + 1] % 53
            windows.append((-int(valid[top : top + 8, left : left + 8].sum()), place, top, left))
        for place, (anchor, row, column) in enumerate(about[index].view(8, 3).tolist(), start=8):
            at = with_data[anchor % len(with_data)]
            top, left = (min(max(own - number % 8, 0), 52) for own, number in zip(at, (row, column), strict=True))
            windows.append((-int(valid[top : top + 8, left : left + 8].sum()), place, top, left))
        _, _, top, left = min(windows)  # of equals the first
        assert np.array_equal(crops.valid[index, 0].numpy(), valid[top : top + 8, left : left + 8])
        assert np.array_equal(crops.images[index].numpy(), store.image(0)[:, top : top + 8, left : left + 8])


def test_a_scene_that_is_nearly_all_nodata_still_gives_crops_with_data(made_up, tmp_path):
    """A strip and a corner of data in a large scene: uniform positions would nearly all be empty."""
    valid = np.zeros((400, 300), bool)
    valid[370:, 280:] = True
    valid[40:60, 100:140] = True
    source = SceneCrops(with_nodata(made_up, tmp_path / "stores", (valid, "train")), ("train",), 16, seed=0)
    places = [place for step in range(20) for place in source.places(step, ALL)]
    shares = np.array([valid[top : top + 16, left : left + 16].mean() for _, top, left in places])
    assert all(0 <= top <= 384 and 0 <= left <= 284 for _, top, left in places)
    assert (shares > 0).all()
    assert (shares == 1).mean() > 0.5
    in_corner = np.mean([top > 200 for _, top, _ in places])
    assert 0.25 < in_corner < 0.75  # it holds 600 of 1,400 pixels


def test_places_with_data_are_looked_for_on_a_finer_grid_where_a_coarse_one_finds_none(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_ANCHORS", 4)
    monkeypatch.setattr(sampling, "KNOWN_ANCHORS", 1)
    corner, other = np.zeros((400, 300), bool), np.zeros((200, 200), bool)
    corner[:20, :20] = True
    other[100:130, 90:160] = True
    store = with_nodata(made_up, tmp_path / "stores", (corner, "train"), (other, "train"))
    source = SceneCrops(store, ("train",), 16, seed=0)
    for scene, top, left in (place for step in range(10) for place in source.places(step, ALL)):
        assert store.valid(scene)[top : top + 16, left : left + 16].any()
    assert len(source._known_anchors) == 1


def test_scenes_are_drawn_by_their_pixels_with_data(made_up, tmp_path):
    sparse = np.zeros((120, 120), bool)
    sparse[:40, :30] = True
    store = with_nodata(made_up, tmp_path / "stores", (sparse, "train"), (np.ones((40, 30), bool), "train"))
    source = SceneCrops(store, ("train",), 8, seed=0)
    drawn = [place.scene for step in range(40) for place in source.places(step, ALL)]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.1)


def test_scenes_without_nodata_keep_their_crops_bit_for_bit(made_up, make_store, tmp_path):
    whole, holes = np.ones((20, 30), bool), np.ones((20, 30), bool)
    holes[:5] = False
    mixed = with_nodata(made_up, tmp_path / "mixed", (whole, "train"), (holes, "train"), (holes, "test"))
    found = SceneCrops(mixed, ("train",), 8, seed=0).batch(0, Rows(0, 100, 100))
    plain = SceneCrops(make_store({"a": ("train", 20, 30), "b": ("train", 20, 30)}), ("train",), 8, seed=0).batch(
        0, Rows(0, 100, 100)
    )
    assert plain.valid is None
    drawn = Draws(0, 0, "crops", Rows(0, 100, 100)).integers(0, LARGE, 3)
    expected = list(zip((drawn[:, 1] % 13).tolist(), (drawn[:, 2] % 23).tolist(), strict=True))
    assert corners(plain.images) == expected  # the first position, whatever else is drawn
    # The scene with nodata counts with the 450 pixels that have data.
    in_first = (drawn[:, 0] % 1200 < 600) & (drawn[:, 0] % 1050 < 600)
    assert 20 < in_first.sum() < 80
    assert torch.equal(found.images[in_first], plain.images[in_first])
    assert found.valid[in_first].all()
    # Only scenes that are drawn from count: here the one with nodata is of another split.
    other = with_nodata(made_up, tmp_path / "other", (whole, "train"), (holes, "test"))
    assert SceneCrops(other, ("train",), 8, seed=0).batch(0, ALL).valid is None


def test_small_scenes_mirror_their_validity_too(made_up, tmp_path):
    valid = np.ones((5, 3), bool)
    valid[4, 2] = False
    source = SceneCrops(with_nodata(made_up, tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    crops = source.batch(0, Rows(0, 1, 1))
    assert np.array_equal(crops.valid[0, 0].numpy(), np.pad(valid, ((0, 3), (0, 5)), mode="symmetric"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_hand_over_the_validity(made_up, tmp_path, num_workers):
    valid = np.random.default_rng(0).random((30, 30)) > 0.3
    source = SceneCrops(with_nodata(made_up, tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    for step, found in enumerate(batches(source, 0, 3, ALL, num_workers)):
        expected = source.batch(step, ALL)
        assert isinstance(found, Crops)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.valid, expected.valid)


def test_ranks_see_the_same_validity(made_up, tmp_path):
    valid = np.random.default_rng(0).random((30, 30)) > 0.3
    source = SceneCrops(with_nodata(made_up, tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    parts = [source.batch(4, Rows.of_rank(rank, 2, 3)) for rank in range(2)]
    assert torch.equal(source.batch(4, ALL).valid, torch.cat([part.valid for part in parts]))


def test_an_empty_split_is_refused(make_store):
    with pytest.raises(InputError, match="no scenes in its val split"):
        SceneCrops(make_store({"a": ("train", 9, 9)}), ("val",), 8, 0)


def test_a_tile_without_shift_is_read_exactly(make_store):
    store = make_store({"a": ("train", 24, 24)})
    images, masks = TileCrops(store, subset_of(store, ("a", 8, 16, 8, 8)), 8, 0.0, 0).batch(0, Rows(0, 1, 1))
    assert np.array_equal(images[0].numpy(), store.image(0)[:, 8:16, 16:24])
    assert masks.dtype == torch.int64
    assert np.array_equal(masks[0].numpy(), store.mask(0)[8:16, 16:24])


def test_labeled_crops_come_with_their_validity_where_a_scene_lacks_data(made_up, tmp_path):
    valid = np.random.default_rng(0).random((24, 24)) > 0.3
    store = with_nodata(made_up, tmp_path / "stores", (valid, "train"), (np.ones((24, 24), bool), "train"))
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_for_any_number_of_workers(make_store, num_workers):
    store = make_store({"a": ("train", 24, 40)})
    tiles = TileCrops(store, choose_labels(store, 8, LabelFraction(1.0, "tile"), 0), 8, 0.25, seed=0)
    state = torch.get_rng_state()
    found = list(batches(tiles, 3, 8, Rows(1, 3, 6), num_workers))
    assert torch.equal(torch.get_rng_state(), state)  # nothing else draws
    assert len(found) == 5
    for step, (images, masks) in zip(range(3, 8), found, strict=True):
        expected = tiles.batch(step, Rows(1, 3, 6))
        assert torch.equal(images, expected[0])
        assert torch.equal(masks, expected[1])
    crops = SceneCrops(store, ("train",), 8, seed=0)
    assert torch.equal(next(batches(crops, 4, 9, ALL, num_workers)).images, crops.batch(4, ALL).images)


def test_to_unit_scales_and_clips():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_unit(images, 255.0).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit(images, 102.0).tolist() == pytest.approx([0, 0.5, 1])
    assert to_unit(torch.tensor([-1.0, 0.5]), 2.0).tolist() == [0, 0.25]
    assert images.tolist() == [0, 51, 255]


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
