"""The ground that a pixel covers: told where coordinates are lengths on it, against known projections."""

import pytest
from rasterio.warp import transform

from ssl_rs.data.ground_area import square_meters
from ssl_rs.data.map_writer import Grid

FOOT = 1200 / 3937
"""Meters of a US survey foot."""


def grid(crs, longitude, latitude, turned=False):
    """A grid of pixels of 2 by 2 units; turned: its rows do not run from west to east."""
    (x,), (y,) = transform("EPSG:4326", crs, [longitude], [latitude])[:2]
    a, b, d, e = (1.2, 1.6, 1.6, -1.2) if turned else (2, 0, 0, -2)
    return Grid(500, 400, crs, (a, b, x, d, e, y))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("crs", "longitude", "latitude", "unit"),
    [
        ("EPSG:32633", 15, 52, 1),  # UTM, in the middle of its zone and at its rim
        ("EPSG:32633", 18, 0, 1),
        ("EPSG:2056", 8, 47, 1),  # Switzerland: an oblique Mercator projection, true to length there
        ("EPSG:2154", 3, 46, 1),
        ("EPSG:3035", 10, 52, 1),
        ("EPSG:3413", -45, 72, 1),
        ("EPSG:2263", -74, 40.7, FOOT),
    ],
)
def test_lengths_on_the_ground_give_an_area(crs, longitude, latitude, unit, turned):
    assert square_meters(grid(crs, longitude, latitude, turned)) == pytest.approx(4 * unit**2)


@pytest.mark.parametrize(
    ("crs", "latitude"), [("EPSG:3857", 52), ("EPSG:3395", 52), ("EPSG:4087", 60), ("EPSG:32662", 60), ("EPSG:4326", 0)]
)
def test_stretched_coordinates_give_none(crs, latitude):
    assert square_meters(grid(crs, 10, latitude)) is None


def test_the_world_map_on_the_web_is_true_at_the_equator():
    assert square_meters(grid("EPSG:3857", 10, 0)) == pytest.approx(4)


def test_without_coordinates_there_is_none():
    assert square_meters(Grid(5, 5, None, (2, 0, 0, 0, -2, 0))) is None
    assert square_meters(Grid(5, 5, "EPSG:32633", None)) is None
    assert square_meters(Grid(5, 5, "EPSG:32633", (1, 0, 1e12, 0, -1, 1e12))) is None  # nowhere on earth
