"""What the values or colors of a mask file mean: exact, and anything unknown is reported, never guessed."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import IGNORE, SegmentationClass
from ssl_rs.data.raster import Raster
from ssl_rs.data.tiff_file import TiffFile
from ssl_rs.errors import InputError, counted

ROWS = 512
"""Rows of a mask that are searched at a time for what is wrong with it."""

LARGEST_TABLE = 2**24 + 1
"""Codes that a table looks up: all colors, and two more."""

Codes = NDArray[np.int32] | NDArray[np.int64]
"""What pixels hold: numbers, or colors as `color_code` gives them."""


def color_code(color: tuple[int, int, int]) -> int:
    """Return red, green, blue as one number, 0xRRGGBB."""
    return color[0] << 16 | color[1] << 8 | color[2]


@dataclass(frozen=True)
class MaskFormat:
    """How a mask file says which class a pixel has.

    Args:
        classes: In the order of their indices.
        by_color: Whether pixels are RGB colors; else they are numbers.
        indices: The class index, or 255 for ignore, of each known pixel: its color code, or its number.
        unknown: Any other pixel is an error, or is ignored.
        remedy: What to do about such an error, for its message.
    """

    classes: tuple[SegmentationClass, ...]
    by_color: bool
    indices: Mapping[int, int]
    unknown: Literal["error", "ignore"] = "error"
    remedy: str = "Get the file again."

    @classmethod
    def of_colors(
        cls,
        classes: tuple[SegmentationClass, ...],
        ignore: tuple[tuple[int, int, int], ...],
        unknown: Literal["error", "ignore"] = "error",
        remedy: str = "Get the file again.",
    ) -> "MaskFormat":
        """Return the format of masks in which each class has its own color."""
        indices = {color_code(entry.color): index for index, entry in enumerate(classes)}
        return cls(classes, True, indices | {color_code(color): IGNORE for color in ignore}, unknown, remedy)

    def decode(self, raster: Raster, name: object) -> NDArray[np.uint8]:
        """Return the class indices of a mask, [H, W], 255 = ignore.

        Args:
            raster: The mask.
            name: Of its file, for messages.

        Raises:
            InputError: The mask has the wrong bands, or pixels that mean nothing: counted, with the place of one.
        """
        return self.decode_rows(raster, 0, raster.height, name)

    def decode_rows(self, source: Raster | TiffFile, top: int, bottom: int, name: object) -> NDArray[np.uint8]:
        """Return the class indices of the rows [top, bottom) of a mask, [bottom - top, W].

        Raises:
            InputError: As `decode`; pixels that mean nothing are counted in the whole file.
        """
        _, mask = self._look_up(source.rows(top, bottom), name)
        if self.unknown == "error" and mask.min(initial=0) < 0:
            strips = ((first, source.rows(first, first + ROWS)) for first in range(0, source.height, ROWS))
            raise InputError(self._complaint(((first, *self._look_up(rows, name)) for first, rows in strips), name))
        return np.where(mask < 0, IGNORE, mask).astype(np.uint8)

    def _look_up(self, raster: Raster, name: object) -> tuple[Codes, NDArray[np.int16]]:
        """Return the code of each pixel, and its index or -1, [H, W] each."""
        codes = _color_codes(raster, name) if self.by_color else _numbers(raster, name)
        mask = _look_up(codes, self.indices)
        if raster.valid is not None:
            mask[(mask < 0) & ~raster.valid] = IGNORE  # what is a class stays one, though it be nodata or transparent
        return codes, mask

    def _complaint(self, strips: Iterator[tuple[int, Codes, NDArray[np.int16]]], name: object) -> str:
        """Say which unknown pixel is the most frequent, how often it comes, where first, and what is known."""
        counts: Counter[int] = Counter()
        places: dict[int, tuple[int, int]] = {}
        for top, codes, mask in strips:
            values, first, number = np.unique(codes[mask < 0], return_index=True, return_counts=True)
            counts.update(dict(zip(values.tolist(), number.tolist(), strict=True)))
            rows, columns = np.nonzero(mask < 0)
            for value, place in zip(values.tolist(), first.tolist(), strict=True):
                places.setdefault(value, (top + int(rows[place]), int(columns[place])))
        code = min(counts, key=lambda value: (-counts[value], value))
        row, column = places[code]
        what = "color" if self.by_color else "value"
        known = ", ".join(f"{self._show(known)} {self._meaning(index)}" for known, index in self.indices.items())
        return (
            f"{name}: unknown {what} {self._show(code)} in {counted(counts[code], 'pixel')}, one at row {row}, column "
            f"{column} ({counted(len(counts), f'unknown {what}')} in {counted(counts.total(), 'pixel')}). "
            f"Known: {known}. {self.remedy}"
        )

    def _show(self, code: int) -> str:
        return f"{code >> 16},{code >> 8 & 255},{code & 255}" if self.by_color else str(code)

    def _meaning(self, index: int) -> str:
        return "ignore" if index == IGNORE else self.classes[index].name


def _color_codes(raster: Raster, name: object) -> Codes:
    """Return 0xRRGGBB of each pixel, [H, W]."""
    colors = raster.bands()
    if colors.dtype != np.uint8 or len(colors) != 3:
        raise InputError(
            f"{name}: expected a mask of RGB colors or with a palette, got {counted(len(colors), 'band')} of "
            f"{colors.dtype}. If its pixels are class numbers and dataset=folder, give every class an 'index' in "
            "classes.yaml."
        )
    red, green, blue = colors.astype(np.int32)
    return red << 16 | green << 8 | blue  # type: ignore[no-any-return]


def _numbers(raster: Raster, name: object) -> Codes:
    """Return the number of each pixel, [H, W]; those beyond 63 bits, which mean nothing, as the largest of 63."""
    values = raster.values
    if len(values) == 1 and values.dtype.kind == "f":
        raise InputError(
            f"{name}: expected a mask of one band of whole numbers, got {values.dtype}. Convert it, and give "
            "pixels without a label a number that is no class: `gdalwarp -ot Byte -dstnodata 255` (with `-srcnodata` "
            "where the file does not declare its own)."
        )
    if len(values) > 1 and all(np.array_equal(values[0], other) for other in values[1:]):
        raise InputError(
            f"{name}: expected a mask of one band of whole numbers, got {len(values)} bands that are alike. Keep one: "
            "`gdal_translate -b 1`."
        )
    if len(values) != 1 or values.dtype.kind not in "ui":
        raise InputError(
            f"{name}: expected a mask of one band of whole numbers, got {counted(len(values), 'band')} of "
            f"{values.dtype}. If its pixels are colors and dataset=folder, give every class a 'color' and no 'index' "
            "in classes.yaml."
        )
    if np.can_cast(values.dtype, np.int32):
        return values[0].astype(np.int32)  # type: ignore[no-any-return]
    largest = np.uint64(np.iinfo(np.int64).max)
    numbers = np.minimum(values[0], largest) if values.dtype == np.uint64 else values[0]
    return numbers.astype(np.int64)  # type: ignore[no-any-return]


def _look_up(codes: Codes, indices: Mapping[int, int]) -> NDArray[np.int16]:
    """Return the index of each code, -1 where it has none."""
    first, last = min(indices) - 1, max(indices) + 1  # one place at each end for all that lies beyond
    if max(last, -first) > np.iinfo(codes.dtype).max:
        codes = codes.astype(np.int64)
    if last - first > LARGEST_TABLE:
        known = np.array(sorted(indices))
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        found = np.array([indices[code] for code in known.tolist()], np.int16)[places]
        return np.where(known[places] == codes, found, np.int16(-1))  # type: ignore[no-any-return]
    table = np.full(last - first + 1, -1, np.int16)
    for code, index in indices.items():
        table[code - first] = index
    return table[np.clip(codes, first, last) - first]  # type: ignore[no-any-return]
