"""Which labeled pixels are drawn: exact numbers, no pixel twice, each equally likely, none without a label."""

import numpy as np
import pytest

from ssl_rs.data.label_subset import LabelFraction, choose_labels
from ssl_rs.data.labeled_pixels import by_window, draw_pixels
from ssl_rs.errors import InputError


@pytest.fixture
def store(make_store):
    generator = np.random.default_rng(0)
    masks = {
        name: generator.choice([0, 1, 2, 255], size, p=[0.6, 0.25, 0.05, 0.1]).astype(np.uint8)
        for name, size in {"a": (40, 35), "b": (24, 50)}.items()
    }
    return make_store({"a": ("train", 40, 35), "test": ("test", 16, 16), "b": ("train", 24, 50)}, masks)


def flat(pixels):
    return [
        (each.scene, int(row), int(column), int(label))
        for each in pixels
        for row, column, label in zip(each.rows, each.columns, each.labels, strict=True)
    ]


@pytest.mark.parametrize("unit", ["tile", "scene"])
@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_drawn_pixels_are_labeled_ones_of_the_subset_each_once(store, unit, sampling):
    subset = choose_labels(store, 8, LabelFraction(0.5, unit), 0)
    found = flat(draw_pixels(store, subset, 90, sampling, 0))
    assert len({pixel[:3] for pixel in found}) == len(found)
    ids = {scene.id: index for index, scene in enumerate(store.manifest.scenes)}
    for scene, row, column, label in found:
        assert store.mask(scene)[row, column] == label < 3
        assert any(
            ids[each.scene] == scene and 0 <= row - each.row < each.height and 0 <= column - each.column < each.width
            for each in subset.units
        )
    assert len(found) == 90
    if sampling == "balanced":
        assert np.bincount([pixel[3] for pixel in found]).tolist() == [30, 30, 30]


def test_where_fewer_are_labeled_all_are_taken(store):
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    labeled = sum(int((store.mask(index) != 255).sum()) for index in store.scenes_of("train"))
    assert len(flat(draw_pixels(store, subset, 10**9, "uniform", 0))) == labeled
    rare = sum(int((store.mask(index) == 2).sum()) for index in store.scenes_of("train"))
    found = flat(draw_pixels(store, subset, 3 * 200, "balanced", 0))
    assert np.bincount([pixel[3] for pixel in found]).tolist() == [200, 200, rare]


def test_the_draw_follows_the_seed(store):
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    first, again, other = (flat(draw_pixels(store, subset, 50, "uniform", seed)) for seed in (0, 0, 1))
    assert first == again
    assert set(first) != set(other)


def test_every_labeled_pixel_is_equally_likely(store):
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    counts = {}
    for seed in range(200):
        for pixel in flat(draw_pixels(store, subset, 500, "uniform", seed)):
            counts[pixel] = counts.get(pixel, 0) + 1
    labeled = sum(int((store.mask(index) != 255).sum()) for index in store.scenes_of("train"))
    expected = 200 * 500 / labeled
    assert len(counts) == labeled
    # Hypergeometric draws are independent between seeds: a binomial of each pixel, 6 deviations wide.
    spread = 6 * (expected * (1 - 500 / labeled)) ** 0.5
    assert all(abs(count - expected) < spread for count in counts.values())


@pytest.mark.parametrize("size", [16, 32, 64])
def test_windows_see_each_pixel_once(store, size):
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    drawn = draw_pixels(store, subset, 400, "uniform", 0)
    found = []
    for scene, top, left, pixels in by_window(drawn, store, size):
        record = store.manifest.scenes[scene]
        assert 0 <= top <= max(0, record.height - size)
        assert 0 <= left <= max(0, record.width - size)
        assert ((pixels.rows >= 0) & (pixels.rows < size) & (pixels.columns >= 0) & (pixels.columns < size)).all()
        found += [(scene, row + top, column + left, label) for _, row, column, label in flat([pixels])]
    assert sorted(found) == sorted(flat(drawn))


def test_a_balanced_draw_needs_one_of_each_class(store):
    subset = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    with pytest.raises(InputError, match=r"probe\.samples=2: .*each of the 3 classes"):
        draw_pixels(store, subset, 2, "balanced", 0)
    assert len(flat(draw_pixels(store, subset, 3, "balanced", 0))) == 3
