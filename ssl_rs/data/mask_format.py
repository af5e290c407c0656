"""What the values or colors of a mask file mean: exact, and anything unknown is reported, never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import IGNORE, SegmentationClass
from ssl_rs.data.raster import Raster
from ssl_rs.errors import InputError


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
    """

    classes: tuple[SegmentationClass, ...]
    by_color: bool
    indices: Mapping[int, int]

    @classmethod
    def of_colors(
        cls, classes: tuple[SegmentationClass, ...], ignore: tuple[tuple[int, int, int], ...]
    ) -> "MaskFormat":
        """Return the format of masks in which each class has its own color."""
        indices = {color_code(entry.color): index for index, entry in enumerate(classes)}
        return cls(classes, True, indices | {color_code(color): IGNORE for color in ignore})

    def decode(self, raster: Raster, path: Path) -> NDArray[np.uint8]:
        """Return the class indices of a mask file, [H, W], 255 = ignore.

        Args:
            raster: The content of the file.
            path: Its name, for messages.

        Raises:
            InputError: The file has the wrong bands, or a pixel that means nothing; names one and counts them.
        """
        indices = dict(self.indices)
        if self.by_color:
            codes = _color_codes(raster, path)
        else:
            codes = _numbers(raster, path)
            if raster.nodata is not None and not np.isnan(raster.nodata):
                indices.setdefault(int(raster.nodata), IGNORE)
        mask = _look_up(codes, indices)
        unknown = mask < 0
        if unknown.any():
            raise InputError(self._complaint(codes, unknown, path))
        return mask.astype(np.uint8)

    def _complaint(self, codes: NDArray[np.int32], unknown: NDArray[np.bool_], path: Path) -> str:
        """Say which unknown pixel is the most frequent, how often it comes, where first, and what is known."""
        values, counts = np.unique(codes[unknown], return_counts=True)
        code = int(values[counts.argmax()])
        row, column = np.argwhere(codes == code)[0]
        what = "color" if self.by_color else "value"
        known = ", ".join(f"{self._show(known)} {self._meaning(index)}" for known, index in self.indices.items())
        return (
            f"{path}: unknown {what} {self._show(code)} in {counts.max()} pixels, one at row {row}, column {column} "
            f"({len(values)} unknown {what}s in {counts.sum()} pixels). Known: {known}. Repair the mask or list it."
        )

    def _show(self, code: int) -> str:
        return f"{code >> 16},{code >> 8 & 255},{code & 255}" if self.by_color else str(code)

    def _meaning(self, index: int) -> str:
        return "ignore" if index == IGNORE else self.classes[index].name


def _color_codes(raster: Raster, path: Path) -> NDArray[np.int32]:
    """Return 0xRRGGBB of each pixel, [H, W]."""
    colors = raster.bands()
    if colors.dtype != np.uint8 or len(colors) != 3:
        raise InputError(
            f"{path}: expected a mask of RGB colors or with a palette, got {len(colors)} bands of {colors.dtype}. "
            "If its pixels are class numbers, give every class an 'index' in classes.yaml."
        )
    red, green, blue = colors.astype(np.int32)
    return red << 16 | green << 8 | blue  # type: ignore[no-any-return]


def _numbers(raster: Raster, path: Path) -> NDArray[np.int32]:
    """Return the number of each pixel, [H, W]."""
    values = raster.values
    if len(values) != 1 or values.dtype.kind not in "ui":
        raise InputError(
            f"{path}: expected a mask of one band of whole numbers, got {len(values)} bands of {values.dtype}. "
            "If its pixels are colors, give every class a 'color' and no 'index' in classes.yaml."
        )
    return values[0].astype(np.int32)  # type: ignore[no-any-return]


def _look_up(codes: NDArray[np.int32], indices: Mapping[int, int]) -> NDArray[np.int16]:
    """Return the index of each code, -1 where it has none."""
    first, last = min(indices) - 1, max(indices) + 1  # one place at each end for all that lies beyond
    table = np.full(last - first + 1, -1, np.int16)
    for code, index in indices.items():
        table[code - first] = index
    return table[np.clip(codes, first, last) - first]
