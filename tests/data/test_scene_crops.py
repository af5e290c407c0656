"""Which crops of scenes a step reads."""

from collections import Counter

import numpy as np
import pytest
import torch

from ssl_rs.data import scene_crops
from ssl_rs.data.scene_crops import LARGE, SceneCrops
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows

ALL = Rows(0, 6, 6)


def corners(crops):
    """Row and column of each crop's upper left pixel; the made-up images hold them."""
    return [(int(crop[0, 0, 0]), int(crop[1, 0, 0]) - 100) for crop in crops]


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


def test_positions_without_nodata_are_preferred_and_the_mask_is_that_of_the_crop(with_nodata, tmp_path):
    valid = np.ones((40, 40), bool)
    valid[:, :14] = False
    source = SceneCrops(with_nodata(tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
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


def test_of_positions_that_all_have_nodata_the_most_valid_is_taken(with_nodata, tmp_path):
    valid = np.random.default_rng(0).random((60, 60)) > 0.4
    store = with_nodata(tmp_path / "stores", (valid, "train"))
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


def test_a_scene_that_is_nearly_all_nodata_still_gives_crops_with_data(with_nodata, tmp_path):
    """A strip and a corner of data in a large scene: uniform positions would nearly all be empty."""
    valid = np.zeros((400, 300), bool)
    valid[370:, 280:] = True
    valid[40:60, 100:140] = True
    source = SceneCrops(with_nodata(tmp_path / "stores", (valid, "train")), ("train",), 16, seed=0)
    places = [place for step in range(20) for place in source.places(step, ALL)]
    shares = np.array([valid[top : top + 16, left : left + 16].mean() for _, top, left in places])
    assert all(0 <= top <= 384 and 0 <= left <= 284 for _, top, left in places)
    assert (shares > 0).all()
    assert (shares == 1).mean() > 0.5
    in_corner = np.mean([top > 200 for _, top, _ in places])
    assert 0.25 < in_corner < 0.75  # it holds 600 of 1,400 pixels


def test_a_scene_thinner_than_a_step_of_the_grid_has_places_with_data(with_nodata, tmp_path):
    valid = np.zeros((5, 2000), bool)
    valid[:, 900:960] = True
    source = SceneCrops(with_nodata(tmp_path / "stores", (valid, "train")), ("train",), 64, seed=0)
    for _, _, left in (place for step in range(10) for place in source.places(step, ALL)):
        assert valid[:, left : left + 64].any()


def test_places_with_data_are_looked_for_on_a_finer_grid_where_a_coarse_one_finds_none(
    with_nodata, tmp_path, monkeypatch
):
    monkeypatch.setattr(scene_crops, "MOST_ANCHORS", 4)
    monkeypatch.setattr(scene_crops, "KNOWN_ANCHORS", 1)
    corner, other = np.zeros((400, 300), bool), np.zeros((200, 200), bool)
    corner[:20, :20] = True
    other[100:130, 90:160] = True
    store = with_nodata(tmp_path / "stores", (corner, "train"), (other, "train"))
    source = SceneCrops(store, ("train",), 16, seed=0)
    for scene, top, left in (place for step in range(10) for place in source.places(step, ALL)):
        assert store.valid(scene)[top : top + 16, left : left + 16].any()
    assert len(source._known_anchors) == 1


def test_scenes_are_drawn_by_their_pixels_with_data(with_nodata, tmp_path):
    sparse = np.zeros((120, 120), bool)
    sparse[:40, :30] = True
    store = with_nodata(tmp_path / "stores", (sparse, "train"), (np.ones((40, 30), bool), "train"))
    source = SceneCrops(store, ("train",), 8, seed=0)
    drawn = [place.scene for step in range(40) for place in source.places(step, ALL)]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.1)


def test_scenes_without_nodata_keep_their_crops_bit_for_bit(with_nodata, make_store, tmp_path):
    whole, holes = np.ones((20, 30), bool), np.ones((20, 30), bool)
    holes[:5] = False
    mixed = with_nodata(tmp_path / "mixed", (whole, "train"), (holes, "train"), (holes, "test"))
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
    other = with_nodata(tmp_path / "other", (whole, "train"), (holes, "test"))
    assert SceneCrops(other, ("train",), 8, seed=0).batch(0, ALL).valid is None


def test_small_scenes_mirror_their_validity_too(with_nodata, tmp_path):
    valid = np.ones((5, 3), bool)
    valid[4, 2] = False
    source = SceneCrops(with_nodata(tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    crops = source.batch(0, Rows(0, 1, 1))
    assert np.array_equal(crops.valid[0, 0].numpy(), np.pad(valid, ((0, 3), (0, 5)), mode="symmetric"))


def test_ranks_see_the_same_validity(with_nodata, tmp_path):
    valid = np.random.default_rng(0).random((30, 30)) > 0.3
    source = SceneCrops(with_nodata(tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    parts = [source.batch(4, Rows.of_rank(rank, 2, 3)) for rank in range(2)]
    assert torch.equal(source.batch(4, ALL).valid, torch.cat([part.valid for part in parts]))


def drawn_of(store, crop_size, steps, total, seed=0, ranks=1):
    """The scenes of each step's batch, which ranks read in parts."""
    source = SceneCrops(store, ("train",), crop_size, seed)
    parts = [Rows.of_rank(rank, ranks, total // ranks) for rank in range(ranks)]
    return [[place.scene for rows in parts for place in source.places(step, rows)] for step in range(steps)]


@pytest.mark.parametrize("extent", [8, 15])
def test_no_batch_has_two_crops_of_one_image_where_these_would_overlap(make_store, extent):
    """Images that were cut into tiles before: contrasted with itself an image would be pushed from itself."""
    store = make_store({f"{index:02}": ("train", extent, 8) for index in range(14)})
    batches = drawn_of(store, 8, 9, 4)
    assert all(len(set(batch)) == 4 for batch in batches)
    for first in (0, 3, 6):  # three whole batches a pass: twelve of the fourteen
        assert len({scene for batch in batches[first : first + 3] for scene in batch}) == 12
    assert batches[:3] != batches[3:6]
    assert drawn_of(store, 8, 9, 4, ranks=2) == batches
    assert drawn_of(store, 8, 9, 4, seed=1) != batches
    counts = Counter(scene for batch in drawn_of(store, 8, 300, 4) for scene in batch)
    assert len(counts) == 14
    assert min(counts.values()) > 70


def test_a_batch_of_more_crops_than_images_has_each_as_often_as_the_others(make_store):
    store = make_store({f"{index}": ("train", 8, 8) for index in range(3)})
    for batch in drawn_of(store, 8, 5, 6, ranks=2):
        assert Counter(batch) == {0: 2, 1: 2, 2: 2}
    counts = Counter(scene for batch in drawn_of(store, 8, 3, 4) for scene in batch)
    assert counts == {0: 4, 1: 4, 2: 4}


def test_where_crops_of_a_scene_need_not_overlap_scenes_are_drawn(make_store):
    store = make_store({"a": ("train", 16, 8), "b": ("train", 8, 8)})
    drawn = Draws(0, 0, "crops", Rows(0, 60, 60)).integers(0, LARGE, 3)[:, 0]
    assert drawn_of(store, 8, 1, 60) == [(drawn % 192 >= 128).long().tolist()]


def test_an_empty_split_is_refused(make_store):
    with pytest.raises(InputError, match="no scenes in its val split"):
        SceneCrops(make_store({"a": ("train", 9, 9)}), ("val",), 8, 0)


def test_large_scenes_of_other_splits_end_no_passes(make_store):
    """Tiles to train on, whole scenes to test on: two crops of one tile would be contrasted as two images."""
    store = make_store({**{f"{index}": ("train", 8, 8) for index in range(4)}, "whole": ("test", 40, 40)})
    assert all(set(batch) == {0, 1, 2, 3} for batch in drawn_of(store, 8, 5, 4))
