"""Image files as arrays: GeoTIFF and JPEG 2000 through rasterio; PNG and JPEG through Pillow, which notices a cut."""

import re
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from ssl_rs.data.dataset import Transform
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG"}
"""Of GDAL, for the files that stay on disk and are read in rows, by their extension."""

EXTENSIONS = (".jpg", ".jpeg", ".png", *DRIVERS)

ORIENTATION = 0x0112
"""Tag of EXIF and of TIFF."""

TURNED = range(2, 9)
"""Its values that ask viewers to turn or mirror the pixels."""

BIG_TIFF = 43
"""Byte in the header of a TIFF with offsets of 8 bytes."""

BOMB_BYTES = 2**30
BOMB_RATIO = 1100
"""Deflate makes nothing smaller than by 1,032: a file that claims more, and much, is made to fill memory or disk."""

CACHE_BYTES = 2**20
"""GDAL would take a twentieth of the memory in each process; strips of whole blocks are read once, in order."""


def small_cache() -> AbstractContextManager[Any]:
    """Within it, GDAL keeps few decoded blocks."""
    return rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)  # type: ignore[no-any-return]


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


class TiffFile:
    """A TIFF, or a JPEG 2000 file, that is read in rows; every band is data.

    Args:
        file: Where it lies.

    Raises:
        InputError: The file is damaged, is none of its extension, or claims far more pixels than its bytes can hold.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        if file.member is not None and re.search("[{}]", str(file.path.resolve())):
            raise InputError(f"{file}: GDAL opens no archive whose path has braces. Rename it, or unzip it.")
        try:
            # A member of an archive is unpacked by GDAL as it is read: never as a whole, neither in memory nor on disk.
            source = file.path if file.member is None else f"/vsizip/{{{file.path.resolve()}}}/{file.member}"
            # Beside the file, GDAL would look for others that change its pixels and stand in no list of sources.
            with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED=False):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._tiff = rasterio.open(source, driver=DRIVERS[file.suffix])
        except (OSError, ValueError, TypeError, RasterioError) as error:
            raise _unreadable(file, error) from error
        tiff = self._tiff
        _refuse_turned(file, _orientation_of_tiff(file))
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
        if tiff.count == 1 and tiff.colorinterp[0].name == "palette":
            colors = tiff.colormap(1)
            indices = range(np.iinfo(self.dtype).max + 1)
            self.palette = np.array([colors.get(index, (0, 0, 0, 0))[:3] for index in indices], np.uint8)
        self.num_bands = int(tiff.count) if self.palette is None else 3
        self.block_rows = int(max(rows for rows, _ in tiff.block_shapes))
        self.crs = _text_of(tiff.crs) if tiff.crs else None
        a, b, c, d, e, f = (float(value) for value in tiff.transform[:6])
        georeferenced = tiff.crs is not None or not tiff.transform.is_identity
        self.transform: Transform | None = (a, b, c, d, e, f) if georeferenced else None
        flags = tiff.mask_flag_enums[0]
        self._masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        _refuse_bomb(file, tiff.count, self.height, self.width, self.dtype)

    @property
    def calls_last_band_alpha(self) -> bool:
        """Whether the file does. It says little: GDAL calls the fourth of four bands of 8 bits so, whatever it is."""
        return bool(self._tiff.count > 1 and self._tiff.colorinterp[-1] == ColorInterp.alpha)

    def last_band_looks_like_alpha(self) -> bool:
        """Tell whether the last band holds but 0 and the largest value in the middle rows.

        Raises:
            InputError: The file is damaged there.
        """
        top = self.height // 2 // self.block_rows * self.block_rows
        last = self.rows(top, top + self.block_rows).values[-1]
        largest = np.iinfo(self.dtype).max if np.issubdtype(self.dtype, np.integer) else 1
        return bool(np.isin(last, (0, largest)).all())

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
            raise _unreadable(self.file, error) from error
        return Raster(values, self.palette, valid, self.nodata, self.crs, self.transform)


def open_raster(file: SourceFile) -> Raster | TiffFile:
    """Open an image file; a TIFF or JPEG 2000 file stays on disk and is read in rows.

    What is transparent in a PNG is not valid; every band of a TIFF is data.

    Args:
        file: Its extension is one of `EXTENSIONS`.

    Raises:
        InputError: The file is damaged, no such image, or (PNG and JPEG) larger than 178,956,970 pixels.
    """
    if file.suffix in DRIVERS:
        return TiffFile(file)
    try:
        content = file.read()
        # Pillow rounds 16-bit color to 8 bits and rescales gray of 2 or 4 bits.
        decode = _decode_with_rasterio if _is_unusual_png(content) else _decode_with_pillow
        return decode(content, file)
    except Image.DecompressionBombError as error:
        raise InputError(f"{file}: {error} Convert an image that large to GeoTIFF.") from error
    except (OSError, SyntaxError, ValueError, RasterioError) as error:  # SyntaxError: Pillow's for broken PNG chunks
        raise _unreadable(file, error) from error


def read_raster(file: SourceFile) -> Raster:
    """Read an image file as a whole.

    Raises:
        InputError: As `open_raster`.
    """
    source = open_raster(file)
    return source.rows(0, source.height)


def _text_of(crs: CRS) -> str:
    """Return a text that stands for the coordinate reference system and no other: EPSG:CODE only where it is that."""
    text = str(crs.to_string())  # a code that is as good as certain, though the datum may be another
    return text if CRS.from_string(text) == crs else str(crs.to_wkt())


def _refuse_bomb(file: SourceFile, bands: int, height: int, width: int, dtype: np.dtype[Any]) -> None:
    """Refuse a file that claims far more pixels than its bytes can hold.

    Raises:
        InputError: It does.
    """
    size = bands * height * width * dtype.itemsize
    if size > max(BOMB_BYTES, BOMB_RATIO * file.size):
        raise InputError(
            f"{file} has {file.size:,} bytes and claims {bands} x {height} x {width} pixels, "
            f"{size / 2**30:.1f} GiB: few honest files are that small. If it is one, write it anew by `gdal_translate "
            "-co COMPRESS=DEFLATE -co BIGTIFF=YES`; else replace it, or take it out."
        )


def _refuse_turned(file: SourceFile, orientation: int) -> None:
    """Refuse a file whose pixels lie otherwise than viewers show them.

    Raises:
        InputError: It does.
    """
    if orientation in TURNED:
        dropped = ", by `gdal_translate OLD.tif NEW.tif`," if file.suffix in DRIVERS else ""
        raise InputError(
            f"{file} is to be shown turned or mirrored (EXIF orientation {orientation}): its pixels lie otherwise than "
            "viewers show them, and a mask may be drawn on either. Turn the pixels upright, e.g. by `mogrify "
            f"-auto-orient` of ImageMagick, or take the tag away{dropped} where masks are drawn on the pixels as they "
            "lie."
        )


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


def _unreadable(file: SourceFile, error: Exception) -> InputError:
    if isinstance(error, RasterioError) and error.__cause__ is not None:  # it says no more than "see that"
        said = str(error.__cause__).rstrip(".")
    else:
        said = str(error).rstrip(".")
    said = "it is empty" if file.size == 0 else re.sub(r" ?<_io\.BytesIO object at \w+>", "", said)
    return InputError(f"{file} cannot be read as an image: {said}. Replace the file, or take it out.")


def _is_unusual_png(content: bytes) -> bool:
    """Tell from its header whether a PNG has neither 8 bits a channel, nor one bit, nor a palette."""
    header = content[:26]
    return len(header) == 26 and header[1:4] == b"PNG" and header[24] not in (1, 8) and header[25] != 3


def _decode_with_pillow(content: bytes, file: SourceFile) -> Raster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half the size that is refused
        image = Image.open(BytesIO(content), formats=("JPEG", "PNG"))
        image.load()
    with image:
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise InputError(f"{file}: the color mode {image.mode} is not supported. Save the image as RGB.")
        _refuse_turned(file, image.getexif().get(ORIENTATION, 1))
        values = np.array(image)
        palette = image.getpalette("RGB") if image.mode == "P" else None
        transparent = image.info.get("transparency")
    values = values.astype(np.uint8) if values.ndim == 2 else values
    bands = values.reshape(*values.shape[:2], -1).transpose(2, 0, 1)  # [C, H, W]
    valid = None
    if image.mode in ("LA", "RGBA"):
        bands, valid = bands[:-1], bands[-1] > 0
    elif isinstance(transparent, bytes):  # the opacity of the first indices of a palette
        valid = ~np.isin(bands[0], np.flatnonzero(np.frombuffer(transparent, np.uint8) == 0))
    elif transparent is not None:  # one index, gray or color
        transparent = min(transparent, 1) if image.mode == "1" else transparent  # Pillow says 255 of one bit
        valid = (bands != np.reshape(transparent, (-1, 1, 1))).any(axis=0)
    colors = None
    if palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(palette) // 3] = np.array(palette, np.uint8).reshape(-1, 3)
    return Raster(np.ascontiguousarray(bands), colors, valid)


def _decode_with_rasterio(content: bytes, file: SourceFile) -> Raster:
    with warnings.catch_warnings(), BytesIO(content) as source:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(source, driver="PNG") as png:
            _refuse_bomb(file, png.count, png.height, png.width, np.dtype(png.dtypes[0]))
            values = png.read()
            if len(values) in (2, 4):
                return Raster(values[:-1], None, values[-1] > 0)
            has_transparency = any(MaskFlags.all_valid not in flags for flags in png.mask_flag_enums)
            return Raster(values, None, png.dataset_mask() > 0 if has_transparency else None, png.nodata)


def where_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where not all bands have the nodata value, [H, W]."""
    if nodata is None:
        return None
    empty = np.isnan(values) if np.isnan(nodata) else values == nodata
    return ~empty.all(axis=0)  # type: ignore[no-any-return]
