"""How much ground a pixel of a georeferenced image covers."""

import math
from collections.abc import Sequence
from contextlib import suppress

from rasterio.crs import CRS
from rasterio.warp import transform

from ssl_rs.data.map_writer import Grid

TOLERANCE = 0.03
"""By which share the area may differ that coordinates tell: for UTM it is below 0.2 %, for polar maps 2 or 3."""

WGS84_RADIUS = 6378137.0
WGS84_ECCENTRICITY_SQUARED = 0.00669437999014


def square_meters(grid: Grid) -> float | None:
    """Return the area of a pixel as its coordinates tell it.

    Returns:
        Square meters; None without coordinates in lengths, and where those are no lengths on the ground, as in
        Mercator's projection far from the equator: they are compared on the ellipsoid, at rims and in the middle.
    """
    if grid.crs is None or grid.transform is None:
        return None
    crs, (a, b, _, d, e, _) = CRS.from_string(grid.crs), grid.transform
    if not crs.is_projected:
        return None
    told = float(abs(a * e - b * d) * crs.linear_units_factor[1] ** 2)
    columns, rows = (0.0, grid.width / 2, float(grid.width)), (0.0, grid.height / 2, float(grid.height))
    with suppress(Exception):  # rasterio hands over errors of GDAL and PROJ in classes that it does not publish
        areas = [_on_the_ground(crs, grid.transform, column, row) for column in columns for row in rows]
        if all(abs(area - told) <= TOLERANCE * told for area in areas):  # never true of NaN
            return told
    return None


def area_on_the_ground(crs: str, transform: Sequence[float], column: float, row: float) -> float | None:
    """Return the area of the pixel whose middle is there, whatever coordinates tell of it.

    Args:
        crs: Of the image, lengths or angles.
        transform: Of the image, affine, six numbers.
        column: Of the pixel's middle, counted from the left edge.
        row: Of the pixel's middle, counted from the upper edge.

    Returns:
        Square meters on the ellipsoid of WGS 84; None where the coordinates lie nowhere on it.
    """
    with suppress(Exception):  # as above
        system = CRS.from_string(crs)
        if system.is_projected or system.is_geographic:
            area = _on_the_ground(system, transform, column, row)
            return area if 0 < area < math.inf else None
    return None


def _on_the_ground(crs: CRS, place: Sequence[float], column: float, row: float) -> float:
    """Return the area on the ellipsoid of WGS 84 of the pixel whose middle is there, m^2."""
    a, b, c, d, e, f = place
    pixels = ((column - 0.5, row), (column + 0.5, row), (column, row - 0.5), (column, row + 0.5))
    ends = [(a * x + b * y + c, d * x + e * y + f) for x, y in pixels]
    longitudes, latitudes = transform(crs, CRS.from_epsg(4326), *zip(*ends, strict=True))[:2]
    latitude = math.radians(sum(latitudes) / 4)
    bend = 1 - WGS84_ECCENTRICITY_SQUARED * math.sin(latitude) ** 2
    north = WGS84_RADIUS * (1 - WGS84_ECCENTRICITY_SQUARED) / bend**1.5  # meters a radian
    east = WGS84_RADIUS / math.sqrt(bend) * math.cos(latitude)
    (x1, y1), (x2, y2) = (
        (
            math.radians((longitudes[end] - longitudes[start] + 180) % 360 - 180) * east,  # across 180 degrees, too
            math.radians(latitudes[end] - latitudes[start]) * north,
        )
        for start, end in ((0, 1), (2, 3))
    )
    return float(abs(x1 * y2 - x2 * y1))
