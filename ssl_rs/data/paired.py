"""An image file and its mask files as one scene: of one size, in one place, read together strip by strip."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ssl_rs.data.dataset import Scene, SceneArrays, Transform
from ssl_rs.data.image_files import open_raster
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.raster import Raster, where_data
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.tiff_file import TiffFile
from ssl_rs.errors import InputError

STRIP_PIXELS = 2**22
"""Pixels a strip, divided by one for every eight bands; up to four times as many where whole blocks of the file ask
for it."""

BLOCK_BYTES = 2**26
"""Up to which a row of blocks is one strip, however wide: each strip that cuts it decodes all of its blocks again."""

MASK_BYTES = 20
"""What reading a pixel of a mask takes: its code, and what that is looked up with."""

TOLERANCE = 0.25
"""Pixels by which the corners of image and mask may differ: writers round differently. Half a pixel is another matter:
that is what one of them has who takes the middle of a pixel for its corner."""


def read_pair(
    image_file: SourceFile,
    mask_file: SourceFile | None = None,
    mask_format: MaskFormat | None = None,
    eroded_file: SourceFile | None = None,
    eroded_format: MaskFormat | None = None,
) -> Scene:
    """Open an image and its masks.

    Args:
        image_file: The image.
        mask_file: Its mask; None without labels.
        mask_format: What the masks mean; needed with a mask.
        eroded_file: The mask without the boundaries of its objects.
        eroded_format: What the mask without boundaries means; None: as the other.

    Raises:
        InputError: A file that cannot be read, or masks of another size, coordinate reference system or transform.
    """
    image = open_raster(image_file)
    formats = (mask_format, eroded_format or mask_format)
    masks = [
        (file, open_raster(file), meaning)
        for file, meaning in zip((mask_file, eroded_file), formats, strict=True)
        if file is not None and meaning is not None
    ]
    for file, mask, _ in masks:
        check_alike(image_file, image, file, mask)
    located = next((source for source in (image, *(mask for _, mask, _ in masks)) if source.transform), image)
    return Scene(image.height, image.width, located.crs, located.transform, _strips(image, masks))


def _strips(
    image: Raster | TiffFile,
    masks: Sequence[tuple[SourceFile, Raster | TiffFile, MaskFormat]],
) -> Iterator[SceneArrays]:
    block = max(source.block_rows for source in (image, *(mask for _, mask, _ in masks)))
    pixels = STRIP_PIXELS // max(1, image.num_bands // 8)
    rows = max(1, pixels // image.width)
    row_bytes = image.width * (image.num_bands * image.dtype.itemsize + MASK_BYTES * len(masks))
    if block * image.width <= 4 * pixels or block * row_bytes <= BLOCK_BYTES:
        rows = -(-rows // block) * block  # a block that is cut is decoded twice
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        part = image.rows(top, bottom)
        bands = part.bands()
        labels = [meaning.decode_rows(mask, top, bottom, file) for file, mask, meaning in masks]
        mask, eroded = (*labels, None, None)[:2]
        nodata = part.nodata if part.palette is None else None  # of a palette it is an index, and no color
        yield SceneArrays(bands, mask, valid=part.valid, eroded=eroded, nodata=nodata)


def check_alike(first_file: SourceFile, first: Raster | TiffFile, file: SourceFile, other: Raster | TiffFile) -> None:
    """Refuse two files that do not show the same pixels of the earth; one without georeference fits any.

    Raises:
        InputError: Another size, coordinate reference system, or transform.
    """
    sizes = [f"{one.height} x {one.width}" for one in (first, other)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{file}: the mask has {sizes[1]} pixels, its image {sizes[0]} (rows x columns). {_remedy(first, other)}"
        )
    if first.crs and other.crs and not _same_crs(first.crs, other.crs):
        raise InputError(
            f"{file}: the mask lies in {other.crs:.60}, its image {first_file} in {first.crs:.60}. "
            "Reproject one of them."
        )
    if first.transform and other.transform:
        apart = _pixels_apart(first.transform, other.transform, first.height, first.width)
        if apart > TOLERANCE:
            raise InputError(
                f"{file}: the mask lies up to {apart:.4g} pixels away from its image {first_file}: transform "
                f"{other.transform} against {first.transform}. Resample one of them to the grid of the other."
            )


def _remedy(first: Raster | TiffFile, other: Raster | TiffFile) -> str:
    """Say what to do about two files of unequal size: pixels of one size need no resampling."""
    steps = [np.array(one.transform)[[0, 1, 3, 4]] for one in (first, other) if one.transform]
    if len(steps) == 2 and np.allclose(steps[0], steps[1], rtol=1e-6, atol=0):
        return (
            "Their pixels are of one size: cut both to the same extent, or pad the mask with a value that is ignored."
        )
    return "Resample one of them."


def with_alpha(strip: SceneArrays, place: int) -> SceneArrays:
    """Return some rows whose pixels are valid only where the band at this place, counted from 0, is not 0."""
    opaque = strip.image[place] != 0
    return replace(strip, valid=opaque if strip.valid is None else opaque & strip.valid)


def with_channels(
    strip: SceneArrays, numbers: Sequence[int], alpha: int | None, file: SourceFile, asked: str
) -> SceneArrays:
    """Return some rows with these of their channels, in this order; where all of them are nodata they hold no data.

    Args:
        strip: Rows with all channels of the file.
        numbers: Channels, counted from 1.
        alpha: Which one is not 0 where there is data; None: none.
        file: Where they are from, for the message.
        asked: What asked for these channels, for the message: "dataset.channels=[4,3,2]".

    Raises:
        InputError: There are fewer.
    """
    if max(*numbers, alpha or 1) > len(strip.image):
        raise InputError(f"{file} has {len(strip.image)} bands: {asked} asks for more. Name others.")
    image = strip.image[np.array(numbers) - 1]
    strip = replace(strip if alpha is None else with_alpha(strip, alpha - 1), image=image)
    holds = where_data(image, strip.nodata)
    return strip if holds is None else replace(strip, valid=holds if strip.valid is None else holds & strip.valid)


def in_brackets(numbers: Sequence[int]) -> str:
    """Return numbers as they are written on a command line: [4,3,2]."""
    return f"[{','.join(map(str, numbers))}]"


def _same_crs(first: str, second: str) -> bool:
    """Tell whether two texts stand for one reference system, as far as files tell: some do not name their datum."""
    try:
        one, other = CRS.from_string(first), CRS.from_string(second)
        return bool(one == other) or one.to_string() == other.to_string()
    except CRSError:
        return False


def _pixels_apart(first: Transform, second: Transform, height: int, width: int) -> float:
    """Return by how many pixels of the first the corners of two grids differ at most."""
    corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)], dtype=np.float64).T
    one, two = (np.array([*values, 0, 0, 1], dtype=np.float64).reshape(3, 3) for values in (first, second))
    try:
        back = np.linalg.inv(one) @ two @ corners  # [3, 4], columns and rows of the first grid
    except np.linalg.LinAlgError:
        return float("inf")
    return float(np.abs(back - corners).max())
