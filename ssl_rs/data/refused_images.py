"""Image files that are refused, and what to do about them: damaged ones, bombs, and those to be shown turned."""

import re
from typing import Any

import numpy as np
from rasterio.errors import RasterioError

from ssl_rs.data.raster import DRIVERS
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError, is_of_system

ORIENTATION = 0x0112
"""Tag of EXIF and of TIFF."""

TURNED = range(2, 9)
"""Its values that ask viewers to turn or mirror the pixels."""

BOMB_BYTES = 2**30
BOMB_RATIO = 1100
"""Deflate makes nothing smaller than by 1,032: a file that claims more, and much, is made to fill memory or disk."""


def refuse_bomb(file: SourceFile, bands: int, height: int, width: int, dtype: np.dtype[Any]) -> None:
    """Refuse a file that claims far more pixels than its bytes can hold.

    Raises:
        InputError: It does.
    """
    size = bands * height * width * dtype.itemsize
    if size > max(BOMB_BYTES, BOMB_RATIO * file.size):
        raise InputError(
            f"{file} has {file.size:,} bytes and claims {bands} x {height} x {width} pixels, "
            f"{size / 2**30:.1f} GiB: this looks like a decompression bomb. If it is none, write it again by "
            "`gdal_translate -co COMPRESS=DEFLATE -co BIGTIFF=YES`; else replace it, or take it out."
        )


def refuse_turned(file: SourceFile, orientation: int) -> None:
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


def unreadable(file: SourceFile, error: Exception) -> InputError:
    """Return the message that a file cannot be read, by what the reader said of it.

    Raises:
        OSError: The system refuses to read the file, whatever the reader made of that.
    """
    if is_of_system(error):
        raise error
    file.sha256()  # GDAL does not tell a disk that fails from a file that is cut: read all of it once more
    if isinstance(error, RasterioError) and error.__cause__ is not None:  # it says no more than "see that"
        said = str(error.__cause__).rstrip(".")
    else:
        said = str(error).rstrip(".")
    said = "it is empty" if file.size == 0 else re.sub(r" ?<_io\.BytesIO object at \w+>", "", said)
    return InputError(f"{file} cannot be read as an image: {said}. Replace the file, or take it out.")
