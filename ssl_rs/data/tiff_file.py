"""GeoTIFF and JPEG 2000 files, which stay on disk and are read in rows through rasterio."""

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from ssl_rs.data.dataset import Transform
from ssl_rs.data.ground_control import GroundControl
from ssl_rs.data.raster import DRIVERS, Raster, where_data
from ssl_rs.data.refused_images import ORIENTATION, refuse_bomb, refuse_turned, unreadable
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

BIG_TIFF = 43
"""Byte in the header of a TIFF with offsets of 8 bytes."""

CACHE_BYTES = 2**20
"""GDAL would take a twentieth of the memory in each process; strips of whole blocks are read once, in order."""


def small_cache() -> AbstractContextManager[Any]:
    """Within it, GDAL keeps few decoded blocks."""
    return rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)  # type: ignore[no-any-return]


class TiffFile:
    """A TIFF, or a JPEG 2000 file, that is read in rows; every band is data.

    Args:
        file: Where it lies.

    Raises:
        InputError: The file is damaged, is none of its extension, or claims far more pixels than its bytes can hold.
        OSError: The system refuses to read it.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        if file.member is not None and re.search("[{}]", str(file.path.resolve())):
            raise InputError(f"{file}: GDAL opens no archive whose path has braces. Rename it, or unzip it.")
        try:
            # A member of an archive is unpacked by GDAL as it is read: never as a whole, neither in memory nor on disk.
            source: Path | str = file.path
            if file.member is not None:  # some archivers begin every name with ./, which GDAL does not
                source = f"/vsizip/{{{file.path.resolve()}}}/{file.member.removeprefix('./')}"
            # Beside the file, GDAL would look for others that change its pixels and stand in no list of sources.
            with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED=False):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._tiff = rasterio.open(source, driver=DRIVERS[file.suffix])
        except (OSError, ValueError, TypeError, RasterioError) as error:
            raise unreadable(file, error) from error
        tiff = self._tiff
        refuse_turned(file, _orientation_of_tiff(file))
        self.height, self.width, self.nodata = int(tiff.height), int(tiff.width), tiff.nodata
        if len(tiff.subdatasets) > 1:
            raise InputError(
                f"{file} has {len(tiff.subdatasets)} pages, of which only the first would be read. Write its bands "
                f"into one page: `gdal_merge.py -separate -o NEW.tif GTIFF_DIR:1:{file} GTIFF_DIR:2:{file} ...`."
            )
        try:
            self.dtype = np.dtype(tiff.dtypes[0])
        except TypeError:  # GDAL has types that numpy has not
            raise InputError(f"{file} has values of type {tiff.dtypes[0]}, which are not read.") from None
        self.palette = None
        if tiff.count == 1 and self._interpretations()[0].name == "palette":
            colors = tiff.colormap(1)
            indices = range(np.iinfo(self.dtype).max + 1)
            self.palette = np.array([colors.get(index, (0, 0, 0, 0))[:3] for index in indices], np.uint8)
        self.num_bands = int(tiff.count) if self.palette is None else 3
        self.block_rows = int(max(rows for rows, _ in tiff.block_shapes))
        self.crs = _text_of(tiff.crs) if tiff.crs else None
        a, b, c, d, e, f = (float(value) for value in tiff.transform[:6])
        # Where a file tells no transform GDAL says that of pixels, also of one that tells a reference system.
        self.transform: Transform | None = None if tiff.transform.is_identity else (a, b, c, d, e, f)
        flags = tiff.mask_flag_enums[0]
        self._masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        refuse_bomb(file, tiff.count, self.height, self.width, self.dtype)

    @property
    def ground_control(self) -> GroundControl:
        """What places its pixels where there is no transform."""
        crs = self._tiff.gcps[1]
        return GroundControl.of(self._tiff, _text_of(crs) if crs else None)

    @property
    def calls_last_band_alpha(self) -> bool:
        """Whether the file does. It says little: GDAL calls the fourth of four bands of 8 bits so, whatever it is."""
        return bool(self._tiff.count > 1 and self._interpretations()[-1] == ColorInterp.alpha)

    def _interpretations(self) -> Sequence[ColorInterp]:
        """Return what each band shows, as the file says.

        Raises:
            InputError: A file beside it, which GDAL reads with it, is damaged.
        """
        try:
            return tuple(self._tiff.colorinterp)
        except Exception as error:  # errors of GDAL, whose common class is not public
            raise unreadable(self.file, error) from error

    def last_band_looks_like_alpha(self, surely: bool = False) -> bool:
        """Tell whether the last band holds but 0 and the largest value in the middle rows.

        Args:
            surely: The largest value is among them; where all is 0, an image may lack data there.

        Raises:
            InputError: The file is damaged there.
        """
        top = self.height // 2 // self.block_rows * self.block_rows
        last = self.rows(top, top + self.block_rows).values[-1]
        largest = np.iinfo(self.dtype).max if np.issubdtype(self.dtype, np.integer) else 1
        return bool(np.isin(last, (0, largest)).all() and (not surely or (last == largest).any()))

    def rows(self, top: int, bottom: int) -> Raster:
        """Read the rows [top, bottom).

        Raises:
            InputError: The file is damaged there.
        """
        window = Window(0, top, self.width, min(bottom, self.height) - top)
        try:
            values = self._tiff.read(window=window)
            valid = where_data(values, self.nodata)
            if self._masked:
                masked = self._tiff.read_masks(1, window=window) > 0
                valid = masked if valid is None else valid & masked
        except (OSError, ValueError, RasterioError) as error:
            raise unreadable(self.file, error) from error
        return Raster(values, self.palette, valid, self.nodata, self.crs, self.transform)


def _text_of(crs: CRS) -> str:
    """Return a text that stands for the coordinate reference system and no other: EPSG:CODE only where it is that."""
    text = str(crs.to_string())  # a code that is as good as certain, though the datum may be another
    return text if CRS.from_string(text) == crs else str(crs.to_wkt())


def _orientation_of_tiff(file: SourceFile) -> int:
    """Return the tag, which GDAL does not tell; 1, upright, where there is none."""
    if file.member is not None or DRIVERS[file.suffix] != "GTiff":
        return 1  # archives of data sets are not unpacked twice
    try:
        with open(file.path, "rb") as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that Pillow does not know
            header = content.read(8)
            header += content.read(8) if BIG_TIFF in header[2:4] else b""
            directory = ImageFileDirectory_v2(header)
            content.seek(directory.next)
            directory.load(content)
            return int(directory.get(ORIENTATION, 1))
    except Exception:  # of kinds of TIFF that GDAL alone reads
        return 1
