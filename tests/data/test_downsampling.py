import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssl_rs.data.dataset import Scene, SceneArrays, SceneSource
from ssl_rs.data.downsampling import coarser_size, coarser_transform, downsample
from ssl_rs.data.new_scenes import NewScenes
from ssl_rs.data.prepare import prepare
from ssl_rs.data.scene_writer import write_scene
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError


def slow(image, mask, valid, factor):
    """The same, block by block."""
    rows, columns = mask.shape[0] // factor, mask.shape[1] // factor
    small = np.zeros((len(image), rows, columns), image.dtype)
    labels, holds = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), bool)
    for row in range(rows):
        for column in range(columns):
            block = (slice(row * factor, (row + 1) * factor), slice(column * factor, (column + 1) * factor))
            inside = valid[block]
            for band, values in enumerate(image[:, block[0], block[1]]):
                mean = values[inside].astype(np.float64).mean() if inside.any() else 0.0
                small[band, row, column] = mean if image.dtype.kind == "f" else math.floor(mean + 0.5)
            counts = Counter(mask[block].ravel().tolist())
            labels[row, column] = min(counts, key=lambda value: (-counts[value], value))
            holds[row, column] = 2 * inside.sum() >= factor**2
    return small, labels, holds


def in_strips(image, mask, valid, heights):
    top = 0
    while top < mask.shape[0]:
        height = next(heights)
        rows = slice(top, top + height)
        yield top, SceneArrays(image[:, rows], mask[rows], valid=valid[rows], eroded=mask[rows]), valid[rows]
        top += height


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 17), st.integers(1, 17), st.integers(1, 6),
    st.sampled_from(["uint8", "uint16", "int16", "float32"]), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_strips_of_any_height_give_what_a_loop_over_blocks_gives(factor, height, width, strip, dtype, gaps, seed):
    random = np.random.default_rng(seed)
    image = (random.random((2, height, width)) * 60_000 - 30_000 * (dtype == "int16")).astype(dtype)
    mask = random.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    valid = random.random((height, width)) < 0.6 if gaps else np.ones((height, width), bool)
    if dtype == "float32":
        image[:, ~valid] = np.nan  # must not leak into the mean
    scene = Scene(height, width, None, None, iter([]))
    if factor > min(height, width):
        with pytest.raises(InputError, match=r"hold no block of downsample=") as caught:
            coarser_size(scene, factor, "a.tif", "downsample")
        assert "dataset" not in str(caught.value)
        with pytest.raises(InputError, match=r"hold no block of dataset\.downsample"):
            coarser_size(scene, factor, "a.tif")
        return
    heights = iter(lambda: int(random.integers(1, strip + 1)), None)
    tops, parts, holds = zip(*downsample(in_strips(image, mask, valid, heights), factor), strict=True)
    expected = slow(image, mask, valid, factor)
    if factor == 1 and gaps:  # passed on as it is; the store's writer sets nodata to 0
        expected = image, mask, valid
    whole = [np.concatenate([getattr(part, name) for part in parts], axis=-2) for name in ("image", "mask", "eroded")]
    assert whole[0].dtype == dtype
    np.testing.assert_allclose(whole[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(whole[1], expected[1])
    np.testing.assert_array_equal(whole[2], expected[1])
    np.testing.assert_array_equal(np.concatenate(holds), expected[2])
    assert coarser_size(scene, factor, "a.tif") == whole[1].shape
    assert list(tops) == np.cumsum([0, *(part.image.shape[1] for part in parts[:-1])]).tolist()


def test_the_coarser_grid_begins_at_the_same_corner():
    assert coarser_transform((0.5, 0.0, 100.0, 0.0, -0.5, 900.0), 4) == (2.0, 0.0, 100.0, 0.0, -2.0, 900.0)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_store_holds_the_coarser_scenes(made_up, tmp_path, factor):
    random = np.random.default_rng(0)
    valid = np.ones((11, 14), bool)
    valid[:5, :6] = False
    arrays = [
        SceneArrays(
            random.integers(1, 256, (2, 11, 14), np.uint8), random.integers(0, 3, (11, 14), np.uint8), "EPSG:4326",
            (0.5, 0.0, 10.0, 0.0, -0.5, 20.0), valid,
        )
        for _ in range(2)
    ]  # fmt: skip
    data = made_up([("a", "train", arrays[0]), ("b", "test", arrays[1])], downsample=factor)
    store = prepare(data, tmp_path / "stores")
    full = prepare(made_up([("a", "train", arrays[0]), ("b", "test", arrays[1])]), tmp_path / "stores")
    assert store.path != full.path
    for index, scene in enumerate(arrays):
        record = store.manifest.scenes[index]
        labels = np.where(valid, scene.mask, 255).astype(np.uint8)
        image, mask, holds = slow(scene.image, labels, valid, factor)
        np.testing.assert_array_equal(store.image(index), np.where(holds, image, 0))
        np.testing.assert_array_equal(store.mask(index), mask)
        np.testing.assert_array_equal(store.valid(index), holds)
        assert (record.height, record.width) == (11 // factor, 14 // factor)
        assert record.transform == (0.5 * factor, 0.0, 10.0, 0.0, -0.5 * factor, 20.0)
        assert record.valid_share == holds.mean()
        assert list(record.class_pixels) == [int((mask == value).sum()) for value in range(3)]


def test_a_scene_smaller_than_a_block_is_named(made_up, tmp_path):
    arrays = SceneArrays(np.ones((2, 3, 9), np.uint8), np.zeros((3, 9), np.uint8))
    with pytest.raises(InputError, match=r"3 x 9 pixels \(rows x columns\) hold no block of dataset.downsample=4"):
        prepare(made_up([("a", "train", arrays)], downsample=4), tmp_path / "stores")


def test_of_a_new_image_smaller_than_a_block_the_key_of_its_command_is_named(tmp_path):
    Image.fromarray(np.zeros((3, 9, 3), np.uint8)).save(tmp_path / "a.png")
    rgb = ("red", "green", "blue")
    scenes = NewScenes(name="new", downsample=4, expected=rgb, chosen=None, trained_dtype="uint8")
    with pytest.raises(InputError, match=r"hold no block of downsample=4"):
        write_scene(scenes, 0, SceneSource("a", "test", (SourceFile(tmp_path / "a.png"),)), tmp_path)


def test_the_factor_is_checked(made_up):
    arrays = SceneArrays(np.ones((2, 3, 9), np.uint8), np.zeros((3, 9), np.uint8))
    for factor in (0, 65):
        with pytest.raises(InputError, match=r"dataset\.downsample must be 1 to 64 pixels"):
            made_up([("a", "train", arrays)], downsample=factor)


@pytest.mark.parametrize("nodata", [-9999.0, 0.0])
def test_nodata_of_one_band_is_in_no_mean_but_that_of_its_like(nodata):
    image = np.full((1, 2, 4), 6.0, np.float32)
    image[0, 0, :2], image[0, :, 3], image[0, :, 2] = nodata, nodata, nodata
    mask, valid = np.zeros((2, 4), np.uint8), np.ones((2, 4), bool)
    strips = iter([(0, SceneArrays(image, mask, valid=valid, eroded=mask, nodata=nodata), valid)])
    ((_, small, _),) = downsample(strips, 2)
    assert small.image.tolist() == [[[6.0 if nodata else 3.0, nodata]]]
    assert small.nodata == nodata


def test_the_brightest_of_8_bits_is_in_the_mean_though_it_be_nodata():
    image = np.array([[[255, 255], [255, 10]]], np.uint8)
    mask, valid = np.zeros((2, 2), np.uint8), np.ones((2, 2), bool)
    strips = iter([(0, SceneArrays(image, mask, valid=valid, eroded=mask, nodata=255.0), valid)])
    ((_, small, _),) = downsample(strips, 2)
    assert small.image.tolist() == [[[194]]]
