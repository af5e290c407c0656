"""What places the pixels of a file on the ground that has no transform: points, and rational polynomials."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.rpc import RPC

from ssl_rs.errors import in_a_line


@dataclass(frozen=True)
class GroundControl:
    """Ground control points and rational polynomial coefficients (RPC), as plain data.

    Args:
        points: Row and column in pixels, x, y and z in `crs`, of each.
        crs: Of the points, as in `ssl_rs.data.dataset.SceneArrays`; None: they do not say.
        rpc: GDAL's names of the coefficients and their values.
    """

    points: tuple[tuple[float, float, float, float, float], ...] = ()
    crs: str | None = None
    rpc: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, file: DatasetReader, crs: str | None) -> "GroundControl":
        """Return what an open file has of them.

        Args:
            file: The file.
            crs: Of its points.
        """
        points = tuple((each.row, each.col, each.x, each.y, each.z or 0.0) for each in file.gcps[0])
        try:
            rpc = file.rpcs.to_gdal() if file.rpcs else {}
        except Exception as error:  # a field is missing, empty, or no number; GDAL's own errors are not public
            told = in_a_line(error)
            warnings.warn(f"{file.name}: its RPC cannot be read ({told}): its map will have none.", stacklevel=2)
            rpc = {}
        return cls(points, crs if points else None, tuple(sorted(rpc.items())))

    def options(self) -> dict[str, Any]:
        """Return the arguments of rasterio.open that give a new file the same."""
        points = [GroundControlPoint(row, column, *place) for row, column, *place in self.points]
        return {
            **({"gcps": points, "crs": self.crs or CRS()} if points else {}),
            **({"rpcs": RPC.from_gdal(dict(self.rpc))} if self.rpc else {}),
        }

    def plain(self) -> Mapping[str, Any] | None:
        """Return it as JSON reads it back; None: there is none."""
        if not self.points and not self.rpc:
            return None
        return {**asdict(self), "points": [list(point) for point in self.points], "rpc": dict(self.rpc)}


NO_CONTROL = GroundControl()
"""Of a file that has none."""
