"""How large pixels are on the ground, and who is told of others."""

import warnings
from types import SimpleNamespace

import pytest

from ssl_rs.data.pixel_size import PixelSize, pixel_size, told_unlike, usual_size, warn_of_sizes

UTM, DEGREES, FEET = "EPSG:32633", "EPSG:4326", "EPSG:2263"
LOCAL = 'LOCAL_CS["mine",LOCAL_DATUM["mine",0],UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'


def scenes_of(*sizes, crs=UTM, split="train"):
    return [
        SimpleNamespace(id=f"s{place}", split=split, crs=crs, transform=None if size is None else grid(size))
        for place, size in enumerate(sizes)
    ]


def grid(size):
    return (size, 0.0, 4e5, 0.0, -size, 5.8e6)


def manifest(*scenes):
    return SimpleNamespace(dataset="mine", scenes=[each for group in scenes for each in group])


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        (UTM, grid(10.0), PixelSize(10.0, "m")),
        (UTM, (0.0, 10.0, 4e5, 10.0, 0.0, 5.8e6), PixelSize(10.0, "m")),  # turned by 90 degrees
        (UTM, (6.0, 8.0, 4e5, 8.0, -6.0, 5.8e6), PixelSize(10.0, "m")),
        (UTM, (5.0, 0.0, 4e5, 0.0, -20.0, 5.8e6), PixelSize(10.0, "m")),  # as much ground
        (FEET, grid(10.0), PixelSize(pytest.approx(3.048, abs=1e-4), "m")),
        (DEGREES, grid(0.25), PixelSize(0.25, "degrees")),
        (None, grid(10.0), None),
        (LOCAL, grid(10.0), None),
        ("no such system", grid(10.0), None),
        (UTM, None, None),
        (UTM, grid(0.0), None),
    ],
)
def test_the_side_of_a_pixel_follows_from_its_georeference(crs, transform, expected):
    assert pixel_size(crs, transform) == expected


def test_the_usual_size_is_the_median_of_a_split_in_the_most_frequent_unit():
    known = manifest(scenes_of(10.0, 20.0, 10.0, None), scenes_of(0.1, 0.1, crs=DEGREES), scenes_of(60.0, split="test"))
    assert usual_size(known) == PixelSize(10.0, "m")
    assert usual_size(known, "test") == PixelSize(60.0, "m")
    assert usual_size(known, "all") == PixelSize(10.0, "m")
    assert usual_size(known, "val") is None


def test_scenes_of_another_size_than_most_are_named():
    with pytest.warns(UserWarning, match=r"mine: pixels are of 10 m in most scenes, of another size in 's2' \(20 m\):"):
        warn_of_sizes(manifest(scenes_of(10.0, 10.0, 20.0, 12.0, 8.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_sizes(manifest(scenes_of(10.0, 12.0, 8.0)))  # within a quarter
        warn_of_sizes(manifest(scenes_of(10.0, 10.0), scenes_of(0.1, crs=DEGREES)))  # nobody knows
        warn_of_sizes(manifest(scenes_of(None, None)))


def test_who_does_not_know_says_nothing():
    ten, twenty = PixelSize(10.0, "m"), PixelSize(20.0, "m")
    assert "pixels are of 20 m, those of the training were of 10 m" in told_unlike(ten, twenty)
    assert "pixels are of 10 m, those of the training were of 20 m" in told_unlike(twenty, ten)
    assert told_unlike(ten, None) == told_unlike(None, ten) == told_unlike(ten, PixelSize(0.1, "degrees")) == ""
