"""Image files as arrays: GeoTIFF and JPEG 2000 through rasterio; PNG and JPEG through Pillow, which notices a cut."""

import warnings
from io import BytesIO

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ssl_rs.data.raster import DRIVERS, Raster
from ssl_rs.data.refused_images import ORIENTATION, refuse_bomb, refuse_turned, unreadable
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.tiff_file import TiffFile
from ssl_rs.errors import InputError
from ssl_rs.files import reading

BANDS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "I": 1, "I;16": 1}
"""Of images as Pillow calls their modes; of those with 16 bits, which rasterio reads, as it calls them too."""


def open_raster(file: SourceFile) -> Raster | TiffFile:
    """Open an image file; a TIFF or JPEG 2000 file stays on disk and is read in rows.

    What is transparent in a PNG is not valid; every band of a TIFF is data.

    Args:
        file: Its extension is one of `EXTENSIONS`.

    Raises:
        InputError: The file is damaged, no such image, or (PNG and JPEG) larger than 178,956,970 pixels.
        OSError: The system refuses to read it, which says nothing about the image.
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
        raise unreadable(file, error) from error


def count_bands(file: SourceFile) -> int:
    """Return how many bands `open_raster` gives, from the header alone where that tells it.

    Raises:
        InputError: The file is no such image.
        OSError: As `open_raster`.
    """
    if file.suffix in DRIVERS or file.member is not None:
        return open_raster(file).num_bands
    try:
        with warnings.catch_warnings(), reading(file.path):
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file.path, formats=("JPEG", "PNG")) as image:
                if image.mode not in BANDS:
                    raise _of_another_mode(file, image.mode)
                return BANDS[image.mode]
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise unreadable(file, error) from error


def read_raster(file: SourceFile) -> Raster:
    """Read an image file as a whole.

    Raises:
        InputError: As `open_raster`.
    """
    source = open_raster(file)
    return source.rows(0, source.height)


def _of_another_mode(file: SourceFile, mode: str) -> InputError:
    return InputError(f"{file}: the color mode {mode} is not supported. Save the image as RGB.")


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
        if image.mode not in BANDS:
            raise _of_another_mode(file, image.mode)
        refuse_turned(file, _orientation(image))
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


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises errors of many kinds of EXIF that is damaged; viewers show the pixels as they lie
        return 1


def _decode_with_rasterio(content: bytes, file: SourceFile) -> Raster:
    with warnings.catch_warnings(), BytesIO(content) as source:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(source, driver="PNG") as png:
            refuse_bomb(file, png.count, png.height, png.width, np.dtype(png.dtypes[0]))
            values = png.read()
            if len(values) in (2, 4):
                return Raster(values[:-1], None, values[-1] > 0)
            has_transparency = any(MaskFlags.all_valid not in flags for flags in png.mask_flag_enums)
            return Raster(values, None, png.dataset_mask() > 0 if has_transparency else None, png.nodata)
