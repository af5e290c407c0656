"""The tiles by which runs are compared are chosen from the truth alone; pictures show the right bands."""

import numpy as np
import pytest

from ssl_rs.data.dataset import IGNORE, SegmentationClass
from ssl_rs.data.manifest import FORMAT_VERSION, Manifest, SceneRecord
from ssl_rs.stages.samples import LEAST_STEP, SEARCHED, SIDE, choose_samples, rgb_picture, write_samples


def manifest(sizes, bands=("red", "green", "blue"), dtype="uint8"):
    classes = tuple(SegmentationClass(name, (index, 0, 0)) for index, name in enumerate("abc"))
    scenes = tuple(
        SceneRecord(index, f"scene {index}", "test", height, width, None, None, (), (0, 0, 0), 1.0, ())
        for index, (height, width) in enumerate(sizes)
    )
    flat = (0.5,) * len(bands)
    return Manifest(FORMAT_VERSION, "x", tuple(bands), dtype, 255.0, flat, flat, classes, IGNORE, False, scenes, ())


class Scenes:
    """A store in memory, of which masks and images are arrays."""

    def __init__(self, masks, images=None, valids=None, **kind):
        self.masks, self.images, self.valids = masks, images, valids
        self.manifest = manifest([mask.shape for mask in masks], **kind)

    def mask(self, index):
        return self.masks[index]

    def image(self, index):
        return self.images[index]

    def valid(self, index):
        return None if self.valids is None else self.valids[index]


def mask(height, width, seed):
    """One class everywhere, but a patch of three."""
    generator = np.random.default_rng(seed)
    array = np.zeros((height, width), np.uint8)
    top, left = generator.integers(0, height - 40), generator.integers(0, width - 40)
    array[top : top + 40, left : left + 40] = generator.integers(0, 3, (40, 40))
    return array


def areas(samples):
    return [(sample.scene, *(part for one in sample.area for part in (one.start, one.stop))) for sample in samples]


def test_the_tile_with_the_most_even_classes_is_chosen():
    array = np.zeros((2 * SIDE, 3 * SIDE), np.uint8)
    array[SIDE:, SIDE : 2 * SIDE] = np.arange(SIDE) % 3  # all three classes
    array[:SIDE, SIDE : 2 * SIDE] = np.arange(SIDE) % 2  # two
    (sample,) = choose_samples(Scenes([array]), [0], 3)
    assert sample.area == (slice(SIDE, 2 * SIDE), slice(SIDE, 2 * SIDE))
    assert sample.name == f"scene 0, row {SIDE}, column {SIDE}"


def test_unlabeled_pixels_count_as_nothing():
    array = np.zeros((SIDE, 2 * SIDE), np.uint8)
    array[: SIDE // 2, :SIDE] = IGNORE  # more even than the other tile, were it a class
    array[: SIDE // 4, SIDE:] = 1
    (sample,) = choose_samples(Scenes([array]), [0], 1)
    assert sample.area[1].start == SIDE


def test_of_equal_tiles_the_first_is_taken():
    (sample,) = choose_samples(Scenes([np.zeros((2 * SIDE, 2 * SIDE), np.uint8)]), [0], 1)
    assert sample.area == (slice(0, SIDE), slice(0, SIDE))


def test_the_choice_repeats_and_reads_masks_alone():
    masks = [mask(SIDE * 2, SIDE * 3, seed) for seed in range(6)]
    first, again = (choose_samples(Scenes([array.copy() for array in masks]), range(6), 3) for _ in range(2))
    assert first == again
    assert len(first) == 3
    assert len({sample.scene for sample in first}) == 3
    assert [sample.scene for sample in first] == sorted(sample.scene for sample in first)


def test_only_the_named_scenes_are_chosen_from():
    masks = [mask(SIDE, SIDE, seed) for seed in range(6)]
    assert {sample.scene for sample in choose_samples(Scenes(masks), [1, 4], 3)} == {1, 4}


def test_tiles_have_one_size_that_every_scene_has_room_for():
    masks = [mask(height, width, 0) for height, width in ((SIDE * 2, SIDE * 2), (SIDE, 90), (70, SIDE * 3))]
    samples = choose_samples(Scenes(masks), range(3), 3)
    assert {(one.area[0].stop - one.area[0].start, one.area[1].stop - one.area[1].start) for one in samples} == {
        (70, 90)
    }
    for sample in samples:
        assert masks[sample.scene][sample.area].shape == (70, 90)


def test_of_many_scenes_some_are_searched():
    asked = []

    class Counting(Scenes):
        def mask(self, index):
            asked.append(index)
            return super().mask(index)

    choose_samples(Counting([np.zeros((2, 2), np.uint8)] * 400), range(400), 3)
    assert len(asked) == SEARCHED
    assert (min(asked), max(asked)) == (0, 399)


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (("red", "green", "blue"), (0, 1, 2)),
        (("blue", "green", "red", "nir"), (2, 1, 0)),
        (("blue", "green", "red"), (2, 1, 0)),
        (("nir", "red", "green"), (0, 1, 2)),
        (("a", "b", "c", "d"), (0, 1, 2)),
        (("a", "b"), (0, 0, 0)),
        (("gray",), (0, 0, 0)),
    ],
)
def test_pictures_show_red_green_blue_or_the_first_bands(bands, shown):
    image = np.random.default_rng(0).integers(0, 256, (len(bands), 5, 7)).astype(np.uint8)
    picture = rgb_picture(image, bands, 255)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, np.stack([image[index] for index in shown], axis=-1))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_pictures_of_other_values_are_stretched_alike_in_every_band(dtype):
    """As far as the network tells them apart: what lies outside of [0, value_scale] does not count."""
    image = np.linspace(100, 1000, 4 * 50 * 50).reshape(4, 50, 50).astype(dtype)
    image[:, :5] = 5000
    if dtype != "uint16":
        image[:, 5:10] = -9999
    picture = rgb_picture(image, ("a", "b", "c", "d"), 800.0)
    seen = np.clip(image[:3].astype(float), 0, 800)
    low, high = np.percentile(seen, (2, 98))
    expected = np.clip((seen - low) / (high - low), 0, 1) * 255
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (0, 255)
    assert np.abs(picture - expected.transpose(1, 2, 0)).max() <= 1


def test_pixels_without_data_do_not_stretch_a_picture():
    image = np.linspace(100, 200, 3 * 20 * 20).reshape(3, 20, 20).astype(np.float32)
    valid = np.ones((20, 20), bool)
    valid[:10] = False
    expected = rgb_picture(image[:, 10:], ("a", "b", "c"), 800.0)
    image[:, :10] = 0
    assert np.array_equal(rgb_picture(image, ("a", "b", "c"), 800.0, valid)[10:], expected)
    assert rgb_picture(image, ("a", "b", "c"), 800.0, np.zeros_like(valid)).max() == 255


def test_a_flat_picture_has_no_division_by_zero():
    picture = rgb_picture(np.full((3, 4, 4), 500, np.uint16), ("a", "b", "c"), 1000.0)
    assert not picture.any()


def test_what_is_written_are_the_tiles(tmp_path):
    generator = np.random.default_rng(0)
    masks = [mask(SIDE + 60, SIDE + 50, seed) for seed in range(2)]
    images = [generator.integers(0, 256, (3, *array.shape)).astype(np.uint8) for array in masks]
    maps = {index: generator.integers(0, 3, array.shape).astype(np.uint8) for index, array in enumerate(masks)}
    store = Scenes(masks, images)
    samples = choose_samples(store, [0, 1], 2)
    write_samples(store, samples, maps, tmp_path / "samples.npz")
    written = np.load(tmp_path / "samples.npz", allow_pickle=False)
    for place, sample in enumerate(samples):
        np.testing.assert_array_equal(
            written["images"][place], images[sample.scene][:, *sample.area].transpose(1, 2, 0)
        )
        np.testing.assert_array_equal(written["truth"][place], masks[sample.scene][sample.area])
        np.testing.assert_array_equal(written["prediction"][place], maps[sample.scene][sample.area])
        assert str(written["names"][place]) == sample.name


def test_nothing_is_predicted_where_there_is_no_data(tmp_path):
    masks = [mask(SIDE, SIDE, 0)]
    valid = np.ones((SIDE, SIDE), np.bool_)
    valid[:, :50] = False
    store = Scenes(masks, [np.zeros((3, SIDE, SIDE), np.uint8)], [valid])
    write_samples(store, choose_samples(store, [0], 1), {0: np.ones_like(masks[0])}, tmp_path / "samples.npz")
    prediction = np.load(tmp_path / "samples.npz", allow_pickle=False)["prediction"][0]
    np.testing.assert_array_equal(prediction, np.where(valid, 1, IGNORE))


def test_a_scrap_among_scenes_does_not_make_all_samples_as_small():
    masks = [np.zeros((side, side), np.uint8) for side in (SIDE * 3, 1, SIDE * 2, 8)]
    samples = choose_samples(Scenes(masks), range(4), 4)
    assert {sample.scene for sample in samples} == {0, 2}
    assert {masks[sample.scene][sample.area].shape for sample in samples} == {(SIDE, SIDE)}


def test_of_a_large_scene_among_scraps_not_every_pixel_is_a_sample():
    looked_at = []

    class Counting(np.ndarray):
        def __getitem__(self, area):
            looked_at.append(area)
            return super().__getitem__(area)

    masks = [np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), mask(640, 640, 0).view(Counting)]
    choose_samples(Scenes(masks), range(3), 3)
    assert len(looked_at) == (640 // LEAST_STEP) ** 2


@pytest.mark.parametrize(("side", "shown"), [(SIDE // 2, {0, 1, 2, 3}), (SIDE // 2 - 1, {0, 1, 2})])
def test_a_scene_with_room_for_a_quarter_of_the_usual_sample_is_shown(side, shown):
    masks = [np.zeros((size, size), np.uint8) for size in (SIDE, SIDE, SIDE, side)]
    assert {sample.scene for sample in choose_samples(Scenes(masks), range(4), 4)} == shown


def test_a_tile_with_few_labeled_pixels_is_not_varied_for_these():
    array = np.zeros((SIDE, 2 * SIDE), np.uint8)
    array[SIDE // 4 :, :SIDE] = IGNORE
    array[: SIDE // 8, :SIDE] = 1  # both classes alike, on a quarter of the tile
    array[: SIDE // 4, SIDE:] = 1  # three to one, on all of it
    (sample,) = choose_samples(Scenes([array]), [0], 1)
    assert sample.area[1].start == SIDE
