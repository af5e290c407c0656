"""Image files as arrays: GeoTIFF through rasterio, PNG and JPEG through Pillow, which notices if they are cut short."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ssl_rs.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Raster:
    """The content of an image file.

    Args:
        values: [C, H, W] in the file's own type; of a palette file the indices, [1, H, W].
        palette: [N, 3] uint8, the colors of the indices, for palette files.
        valid: [H, W] bool, false where a PNG is transparent or all bands of a TIFF are nodata; None: all valid.
        nodata: The nodata value of a TIFF.
        crs: Coordinate reference system, if the file has one.
        transform: a, b, c, d, e, f of the affine map from column and row to coordinates, if the file has one.
    """

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    valid: NDArray[np.bool_] | None = None
    nodata: float | None = None
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None

    def bands(self) -> NDArray[Any]:
        """Return [C, H, W], the indices of a palette file as red, green and blue."""
        if self.palette is None:
            return self.values
        return np.ascontiguousarray(self.palette[self.values[0]].transpose(2, 0, 1))


def read_raster(path: Path) -> Raster:
    """Read an image file.

    A PNG's alpha channel says what is valid; every band of a TIFF is data.

    Args:
        path: .jpg, .jpeg, .png, .tif or .tiff.

    Raises:
        InputError: The file is damaged, no such image, or (PNG and JPEG) larger than 178,956,970 pixels.
    """
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _read_with_rasterio(path, "GTiff")
        # Pillow rounds 16-bit color to 8 bits and rescales gray of 2 or 4 bits.
        return _read_with_rasterio(path, "PNG") if _is_unusual_png(path) else _read_with_pillow(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error} Convert an image that large to GeoTIFF.") from error
    except (OSError, SyntaxError, ValueError, RasterioError) as error:  # SyntaxError: Pillow's for broken PNG chunks
        raise InputError(f"{path} cannot be read as an image: {error}. Replace the file, or take it out.") from error


def _is_unusual_png(path: Path) -> bool:
    """Tell from its header whether a PNG has neither 8 bits a channel, nor one bit, nor a palette."""
    with open(path, "rb") as file:
        header = file.read(26)
    return header[1:4] == b"PNG" and header[24] not in (1, 8) and header[25] != 3


def _read_with_pillow(path: Path) -> Raster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half the size that is refused
        image = Image.open(path, formats=("JPEG", "PNG"))
        image.load()
    with image:
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise InputError(f"{path}: the color mode {image.mode} is not supported. Save the image as RGB.")
        values = np.array(image)
        palette = image.getpalette("RGB") if image.mode == "P" else None
    values = values.astype(np.uint8) if values.ndim == 2 else values
    bands = values.reshape(*values.shape[:2], -1).transpose(2, 0, 1)  # [C, H, W]
    valid = None
    if image.mode in ("LA", "RGBA"):
        bands, valid = bands[:-1], bands[-1] > 0
    colors = None
    if palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(palette) // 3] = np.array(palette, np.uint8).reshape(-1, 3)
    return Raster(np.ascontiguousarray(bands), colors, valid)


def _read_with_rasterio(path: Path, driver: str) -> Raster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver=driver) as file:
            values = file.read()
            palette = None
            if file.count == 1 and file.colorinterp[0].name == "palette":
                colors = file.colormap(1)
                palette = np.array([colors.get(index, (0, 0, 0, 0))[:3] for index in range(256)], np.uint8)
            a, b, c, d, e, f = (float(value) for value in file.transform[:6])
            georeferenced = file.crs is not None or not file.transform.is_identity
            return Raster(
                values,
                palette,
                _valid(values, file.nodata),
                file.nodata,
                file.crs.to_string() if file.crs else None,
                (a, b, c, d, e, f) if georeferenced else None,
            )


def _valid(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where not all bands have the nodata value, [H, W]."""
    if nodata is None:
        return None
    empty = np.isnan(values) if np.isnan(nodata) else values == nodata
    return ~empty.all(axis=0)  # type: ignore[no-any-return]
