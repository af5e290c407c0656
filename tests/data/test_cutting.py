"""Crops from scenes on a device against crops from memory maps: the same pixels. The CPU stands for any device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_rs.data.cutting import MappedScenes, Place, ResidentScenes, resident_bytes
from ssl_rs.data.dataset import SceneArrays
from ssl_rs.data.label_subset import LabelFraction, choose_labels
from ssl_rs.data.prepare import prepare
from ssl_rs.data.scene_crops import SceneCrops
from ssl_rs.data.tile_crops import TileCrops
from ssl_rs.randomness import Rows

CPU = torch.device("cpu")
ROWS = Rows(2, 9, 12)
LIMITS = {"uint8": (0, 250), "uint16": (0, 30_000), "int16": (-200, 30_000), "float32": (-200, 30_000)}
"""Of made-up values."""


@pytest.fixture
def store(make_store):
    return make_store({"a": ("train", 20, 33), "b": ("test", 50, 9), "c": ("train", 11, 47), "small": ("train", 3, 4)})


places = st.lists(
    st.builds(Place, st.sampled_from([0, 2, 3]), st.integers(-40, 60), st.integers(-40, 60)), min_size=1, max_size=5
)


@pytest.mark.parametrize("kind", ["image", "mask", "valid"])
def test_one_gather_gives_what_the_maps_give(store, kind):
    resident, mapped = ResidentScenes(store, [0, 2, 3], [kind], CPU), MappedScenes(store)

    @settings(max_examples=60, deadline=None)
    @given(places, st.integers(1, 24))
    def check(where, size):
        found, expected = resident.cut(kind, where, size), mapped.cut(kind, where, size)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)

    check()


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_crop_shows_the_pixels_it_names(store, kind):
    array = np.asarray(getattr(store, kind)(2))
    crop = ResidentScenes(store, [0, 2, 3], [kind], CPU).cut(kind, [Place(2, 1, 30)], 8)[0]
    assert np.array_equal(crop.numpy(), array[..., 1:9, 30:38])


def test_both_stages_read_the_same_batches(store):
    for source, again in (
        (SceneCrops(store, ("train",), 8, seed=4), SceneCrops(store, ("train",), 8, seed=4)),
        (
            TileCrops(store, choose_labels(store, 8, LabelFraction(0.5, "tile"), 0), 8, 0.25, seed=4),
            TileCrops(store, choose_labels(store, 8, LabelFraction(0.5, "tile"), 0), 8, 0.25, seed=4),
        ),
    ):
        again.cutter = ResidentScenes(store, again.scenes, again.kinds, CPU)
        for step in range(4):
            for mapped, resident in zip(source.batch(step, ROWS), again.batch(step, ROWS), strict=True):
                assert (mapped is None and resident is None) or torch.equal(mapped, resident)


def test_the_memory_it_takes_is_known_before(store):
    kinds = ["image", "mask", "valid"]
    resident = ResidentScenes(store, [0, 2, 3], kinds, CPU)
    held = sum(values.numel() * values.itemsize for values in resident.pixels.values())
    assert resident_bytes(store, [0, 2, 3], kinds) == held


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_every_stored_type_and_scenes_with_nodata(made_up, tmp_path, dtype):
    generator = np.random.default_rng(0)
    entries = []
    for name, share in (("holes", 0.7), ("whole", 1.0)):
        valid = generator.random((20, 30)) < share
        image = generator.integers(*LIMITS[dtype], (2, 20, 30)).astype(dtype)
        mask = np.zeros((20, 30), np.uint8)
        entries.append((name, "train", SceneArrays(image, mask, valid=None if valid.all() else valid)))
    dataset = made_up(entries, value_scale=None if dtype == "uint8" else 30_000.0)
    type(dataset).dtype = dtype
    store = prepare(dataset, tmp_path / "stores")
    source, again = (SceneCrops(store, ("train",), 8, seed=1) for _ in range(2))
    again.cutter = ResidentScenes(store, again.scenes, again.kinds, CPU)
    assert again.kinds == ("image", "valid")
    mapped, resident = source.batch(3, ROWS), again.batch(3, ROWS)
    assert resident.images.dtype == mapped.images.dtype
    assert torch.equal(resident.images, mapped.images)
    assert torch.equal(resident.valid, mapped.valid)
    held = sum(values.numel() * values.itemsize for values in again.cutter.pixels.values())
    assert resident_bytes(store, again.scenes, again.kinds) == held
