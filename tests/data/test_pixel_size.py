"""How large pixels are on the ground, and who is told of others."""

import math
import warnings
from types import SimpleNamespace

import pytest

from ssl_rs.data.pixel_size import pixel_size, size_text, told_unlike, usual_size, warn_of_sizes

UTM, DEGREES, FEET, WEB_MAP, GRADS = "EPSG:32633", "EPSG:4326", "EPSG:2263", "EPSG:3857", "EPSG:4807"
LOCAL = 'LOCAL_CS["mine",LOCAL_DATUM["mine",0],UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
RADIUS = 6378137.0


def scenes_of(*sizes, crs=UTM, split="train"):
    return [
        SimpleNamespace(
            id=f"s{place}", split=split, crs=crs, transform=None if size is None else grid(size), height=4, width=4
        )
        for place, size in enumerate(sizes)
    ]


def grid(size):
    return (size, 0.0, 4e5, 0.0, -size, 5.8e6)


def manifest(*scenes):
    return SimpleNamespace(dataset="mine", scenes=[each for group in scenes for each in group])


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        (UTM, grid(10.0), 10.0),
        (UTM, (0.0, 10.0, 4e5, 10.0, 0.0, 5.8e6), 10.0),  # turned by 90 degrees
        (UTM, (6.0, 8.0, 4e5, 8.0, -6.0, 5.8e6), 10.0),
        (UTM, (5.0, 0.0, 4e5, 0.0, -20.0, 5.8e6), 10.0),  # as much ground
        (FEET, (10.0, 0.0, 984250.0, 0.0, -10.0, 200000.0), 3.048),
        (WEB_MAP, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), 10.0),  # at the equator
        (WEB_MAP, (10.0, 0.0, 0.0, 0.0, -10.0, RADIUS * math.log(math.tan(math.radians(75)))), 5.0),  # at 60 N
        (DEGREES, (0.01, 0.0, 10.0, 0.0, -0.01, 0.0), 0.01 * math.radians(RADIUS)),
        (DEGREES, (0.01, 0.0, 10.0, 0.0, -0.01, 60.0), 0.01 * math.radians(RADIUS) * math.sqrt(0.5)),
        (GRADS, (0.01, 0.0, 10.0, 0.0, -0.01, 0.0), 0.009 * math.radians(RADIUS)),
        ("EPSG:3995", (10.0, 0.0, -30.0, 0.0, -10.0, 2e6), 10.0),  # the middle lies at 180 degrees
        ("EPSG:3832", (10.0, 0.0, 3339584.7 - 30, 0.0, -10.0, 20.0), 10.0),
        (None, grid(10.0), None),
        (LOCAL, grid(10.0), None),
        ("no such system", grid(10.0), None),
        (UTM, None, None),
        (UTM, grid(0.0), None),
        (DEGREES, (0.01, 0.0, 10.0, 0.0, -0.01, math.inf), None),
    ],
)
def test_the_side_of_a_pixel_on_the_ground_follows_from_its_georeference(crs, transform, expected):
    found = pixel_size(crs, transform, 4, 6)
    assert found == (expected if expected is None else pytest.approx(expected, rel=0.01))


def test_the_pixel_in_the_middle_tells():
    top = (0.5, 0.0, 10.0, 0.0, -0.5, 60.0)
    assert pixel_size(DEGREES, top, 2, 2) < pixel_size(DEGREES, top, 10, 2) < pixel_size(DEGREES, top, 20, 2)
    assert pixel_size(DEGREES, top, 90, 2) is None  # from 60 to 15 degrees north
    assert pixel_size(DEGREES, (0.5, 0.0, 10.0, 0.0, -0.5, 30.0), 180, 2) is None  # its lower edge, 60 degrees south


@pytest.mark.parametrize(
    ("side", "text"), [(10.004, "10 m"), (0.49981, "0.5 m"), (1113.2, "1110 m"), (0.0912, "0.0912 m"), (2e4, "20000 m")]
)
def test_sizes_are_told_with_three_digits(side, text):
    assert size_text(side) == text


def test_the_usual_size_is_the_median_of_a_split():
    known = manifest(scenes_of(10.0, 20.0, 10.0, None), scenes_of(60.0, split="test"))
    assert usual_size(known) == pytest.approx(10.0, rel=0.01)
    assert usual_size(known, "test") == pytest.approx(60.0, rel=0.01)
    assert usual_size(known, "all") == pytest.approx(10.0, rel=0.01)
    assert usual_size(known, "val") is None


def test_scenes_of_another_size_than_most_are_named():
    with pytest.warns(UserWarning, match=r"mine: pixels have 10 m in most scenes, another size in 's2' \(20 m\):"):
        warn_of_sizes(manifest(scenes_of(10.0, 10.0, 20.0, 12.0, 8.1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_sizes(manifest(scenes_of(10.0, 12.0, 8.1)))  # within a quarter
        warn_of_sizes(manifest(scenes_of(None, None)))
        warn_of_sizes(manifest([]))


def test_who_does_not_know_says_nothing():
    assert "pixels are of 20 m on the ground, those of the training were of 10 m" in told_unlike(10.0, 20.0)
    assert "pixels are of 10 m on the ground, those of the training were of 20 m" in told_unlike(20.0, 10.0)
    assert told_unlike(10.0, None) == told_unlike(None, 10.0) == told_unlike(10.0, 12.4) == ""
