"""GeoTIFFs that are written some rows at a time, aside, and renamed when they are whole; with overviews."""

import errno
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from ssl_rs.data.dataset import Transform
from ssl_rs.data.ground_control import NO_CONTROL, GroundControl
from ssl_rs.files import writing

CACHE_BYTES = 2**27
"""Of GDAL, at least; a row of tiles is compressed once, when it is whole, as long as it stays there."""

TILE = 256
"""Pixels a side; the smallest overview of a map is one tile."""


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a map lie.

    Args:
        height: Rows.
        width: Columns.
        crs: As in `ssl_rs.data.dataset.SceneArrays`.
        transform: As in `ssl_rs.data.dataset.SceneArrays`.
        control: What places them where there is no transform.
    """

    height: int
    width: int
    crs: str | None
    transform: Transform | None
    control: GroundControl = NO_CONTROL


class MapWriter:
    """Write a GeoTIFF of tiles, deflated, from top to bottom; then its overviews, which viewers show from afar.

    A pixel of an overview is the commonest value of the four below it, of floating point numbers their mean, without
    those that have no data.

    Args:
        path: The file.
        grid: Its pixels.
        bands: Name of each band.
        dtype: Of its values.
        nodata: Value of pixels without data.
        colors: Colors of the values from 0 on, of a map of uint8; None: none.
        tags: What the file tells of itself.
    """

    def __init__(
        self, path: Path, grid: Grid, bands: Sequence[str], dtype: str, nodata: float,
        colors: Sequence[tuple[int, int, int]] | None = None, tags: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.path, self.grid = path, grid
        self._is_float = dtype == "float32"
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        place: dict[str, Any] = {"crs": grid.crs, **grid.control.options()}
        if grid.transform is not None:
            place["transform"] = rasterio.Affine(*grid.transform)
        across = -(-grid.width // TILE)
        tiles = across * TILE**2 * len(bands) * np.dtype(dtype).itemsize  # bytes of a row of them
        # Overviews go into the file, whatever the user's environment says.
        self._environment = rasterio.Env(GDAL_CACHEMAX=max(CACHE_BYTES, 2 * tiles), TIFF_USE_OVR=False)
        self._environment.__enter__()
        try:
            with writing(path), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._file = rasterio.open(
                    self._aside, "w", driver="GTiff", height=grid.height, width=grid.width, count=len(bands),
                    dtype=dtype, nodata=nodata, compress="deflate",
                    predictor=3 if self._is_float else 1, interleave="band", tiled=True, blockxsize=TILE,
                    blockysize=TILE, bigtiff="if_safer", **place,
                )  # fmt: skip
            self._file.update_tags(**{key: _printable(text) for key, text in (tags or {}).items()})
            for number, name in enumerate(bands, start=1):
                self._file.set_band_description(number, name)
            if colors is not None:
                self._file.write_colormap(1, {index: (*color, 255) for index, color in enumerate(colors)})
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def write(self, top: int, rows: NDArray[Any]) -> None:
        """Write rows [bands, h, W] from row `top` on."""
        window = Window(0, top, self.grid.width, rows.shape[-2])
        try:
            self._file.write(rows, window=window)
        except (OSError, RasterioError) as error:
            raise self._failed(error) from error

    def complete(self) -> None:
        """Write what is left, still aside, and read it back: what comes after cannot fail for lack of room.

        Raises:
            OSError: It could not be written.
        """
        try:
            self._file.close()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                if levels := _levels(max(self.grid.height, self.grid.width)):
                    with rasterio.open(self._aside, "r+", driver="GTiff") as file:
                        file.build_overviews(levels, Resampling.average if self._is_float else Resampling.mode)
                for level in (None, *range(len(levels))):
                    _read_back(self._aside, level)
        except Exception as error:  # rasterio lets errors of GDAL through, whose common class is not public
            raise self._failed(error) from error
        with writing(self.path), open(self._aside, "rb") as aside:
            os.fsync(aside.fileno())

    def finish(self) -> None:
        """Put the completed file in its place."""
        with writing(self.path):
            self._aside.replace(self.path)

    def _failed(self, error: Exception) -> OSError:
        """Return what is raised where GDAL fails: by errors of many kinds, which do not say why."""
        return OSError(errno.EIO, f"cannot be written, the disk may be full: {error}", str(self.path))

    def __enter__(self) -> "MapWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what has not been finished."""
        with suppress(Exception):  # it may never have been opened
            self._file.close()
        with suppress(OSError):
            self._aside.unlink()
        self._environment.__exit__(kind, error, trace)


def _read_back(path: Path, level: int | None) -> None:
    """Read every block of a GeoTIFF, or of one of its overviews.

    GDAL says nothing where it cannot write a block, and reads one that was never written as empty.

    Raises:
        OSError: A block is not there.
        RasterioError: A block is damaged.
    """
    options = {} if level is None else {"overview_level": level}
    # Where blocks lie is told by the whole file alone.
    with rasterio.open(path, driver="GTiff") as file, rasterio.open(path, driver="GTiff", **options) as written:
        for (row, column), window in written.block_windows(1):
            for band in written.indexes:
                if file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band, ovr=level) is None:
                    raise OSError(f"block {row}, {column} of band {band} is missing")
            written.read(window=window)


def _levels(side: int) -> list[int]:
    """Return by how much each overview of a map is coarser: 2, 4, ... until its longer side is within one tile."""
    levels: list[int] = []
    while side > TILE << len(levels):
        levels.append(2 << len(levels))
    return levels


def _printable(text: str) -> str:
    """Return a text without the bytes of a file name that are no UTF-8: GDAL takes none."""
    return os.fsencode(text).decode("utf-8", "replace")


def enlarged(rows: NDArray[Any], factor: int, height: int, width: int) -> NDArray[Any]:
    """Give each pixel of rows [..., h, w] its block again; what blocks do not reach takes the nearest pixel.

    Args:
        rows: Some rows of a coarser map.
        factor: Pixels a side of a block.
        height: Rows to return: h * factor, or up to factor - 1 more, or fewer.
        width: Columns to return, likewise.
    """
    whole = rows.repeat(factor, axis=-2).repeat(factor, axis=-1)[..., :height, :width]
    missing = [(0, 0)] * (rows.ndim - 2) + [(0, height - whole.shape[-2]), (0, width - whole.shape[-1])]
    return np.pad(whole, missing, mode="edge") if any(after for _, after in missing) else whole
