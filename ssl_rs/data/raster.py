"""Images in memory, or some rows of them; and by their extensions the files that they are read from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import Transform

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG"}
"""Of GDAL, for the files that stay on disk and are read in rows, by their extension."""

EXTENSIONS = (".jpg", ".jpeg", ".png", *DRIVERS)


@dataclass(frozen=True)
class Raster:
    """An image in memory, or some rows of one.

    Args:
        values: [C, H, W] in the file's own type; of a palette file the indices, [1, H, W].
        palette: [256, 3] uint8, of 16-bit files [65536, 3]: the colors of the indices, for palette files.
        valid: [H, W] bool, false where a PNG is transparent, or a TIFF masked or nodata in all bands; None: all valid.
        nodata: The nodata value of a TIFF.
        crs: Coordinate reference system, if the file has one.
        transform: a, b, c, d, e, f of the affine map from column and row to coordinates, if the file has one.
    """

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    valid: NDArray[np.bool_] | None = None
    nodata: float | None = None
    crs: str | None = None
    transform: Transform | None = None

    block_rows = 1

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.values.shape[1])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.values.shape[2])

    @property
    def num_bands(self) -> int:
        """Bands, three for palette files."""
        return len(self.values) if self.palette is None else 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    def bands(self) -> NDArray[Any]:
        """Return [C, H, W], the indices of a palette file as red, green and blue."""
        if self.palette is None:
            return self.values
        return np.ascontiguousarray(self.palette[self.values[0]].transpose(2, 0, 1))

    def rows(self, top: int, bottom: int) -> "Raster":
        """Return the rows [top, bottom)."""
        valid = None if self.valid is None else self.valid[top:bottom]
        return Raster(self.values[:, top:bottom], self.palette, valid, self.nodata, self.crs, self.transform)


def where_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where not all bands have the nodata value, [H, W]."""
    if nodata is None:
        return None
    empty = np.isnan(values) if np.isnan(nodata) else values == nodata
    return ~empty.all(axis=0)  # type: ignore[no-any-return]
