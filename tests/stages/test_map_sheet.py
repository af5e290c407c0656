"""The sheet of a map: image and map at the same places, in the colors of the classes, whose shares it tells."""

import numpy as np
import pytest

from ssl_rs.data import sheet, thumbnails
from ssl_rs.data.map_writer import enlarged
from ssl_rs.stages.map_sheet import SIDE, Thinned, draw_map_sheet

COLORS = {"water": (1, 2, 250), "forest": (3, 140, 5)}


def count(picture, color):
    return int((np.array(picture) == color).all(axis=-1).sum())


@pytest.mark.parametrize(("every", "factor"), [(1, 1), (3, 1), (5, 2), (2, 3), (7, 4)])
def test_what_is_kept_of_strips_is_what_slicing_the_whole_keeps(every, factor):
    rng = np.random.default_rng(every)
    image, height, width = rng.integers(0, 255, (4, 13, 9)).astype(np.uint8), 13 * factor + factor - 1, 9 * factor + 1
    classes = rng.integers(0, 3, (height, width)).astype(np.uint8)
    thinned = Thinned(every, factor, (2, 0, 1))
    for start, stop in ((0, 4), (4, 5), (5, 11), (11, 13)):
        end = height if stop == 13 else stop * factor
        thinned.add(start * factor, classes[start * factor : end], image)
    assert np.array_equal(thinned.map(), classes[::every, ::every])
    whole = enlarged(image[[2, 0, 1]], factor, height, width)
    assert np.array_equal(thinned.image(), whole[:, ::every, ::every])


def test_the_map_stands_beside_its_image_and_the_legend_tells_the_shares(monkeypatch):
    told, write = [], sheet.write
    monkeypatch.setattr(sheet, "write", lambda *a: (told.append(a[2]), write(*a))[1])
    image = np.full((20, 20, 3), (90, 60, 30), np.uint8)
    classes = np.zeros((20, 20), np.uint8)
    classes[:, 15:] = 1
    classes[10:] = 255
    drawn = draw_map_sheet("scene 5", image, classes, COLORS, {"water": 300, "forest": 100}, 100, "band vv")
    half = SIDE * SIDE // 2
    assert count(drawn, (90, 60, 30)) == half
    swatch = sheet.SWATCH * 2 * sheet.SWATCH
    assert count(drawn, COLORS["water"]) == pytest.approx(half * 3 / 4 + swatch, rel=0.01)
    assert count(drawn, COLORS["forest"]) == pytest.approx(half / 4 + swatch, rel=0.01)
    assert count(drawn, thumbnails.HATCH[0]) + count(drawn, thumbnails.HATCH[1]) > 2 * half
    assert told == [
        "scene 5",
        "Left the image (band vv)",
        "water  75.0 %",
        "forest  25.0 %",
        "no data  20.0 % of all pixels",
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2)])
def test_a_map_of_any_size_without_any_data_is_drawn(size):
    nothing = np.full(size, 255, np.uint8)
    image = np.zeros((*size, 3), np.uint8)
    drawn = draw_map_sheet("x", image, nothing, COLORS, {"water": 0, "forest": 0}, nothing.size, "")
    assert drawn.width == sheet.WIDTH
    assert count(drawn, COLORS["water"]) == sheet.SWATCH * 2 * sheet.SWATCH
