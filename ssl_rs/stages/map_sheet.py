"""A sheet by which a map is judged at a glance: the image, the map beside it, and the classes with their shares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_rs.data import sheet
from ssl_rs.data.thumbnails import fit, hatching
from ssl_rs.pictures import nearest, palette

SIDE = (sheet.WIDTH - 2 * sheet.MARGIN - sheet.GAP) // 2
"""Pixels a side that a picture takes at most."""


class Thinned:
    """Every so many pixels of a map and of its image, gathered while the map is made strip by strip.

    Args:
        every: Of so many rows and columns of the map one is kept.
        factor: Pixels a side of the map that one pixel of the image stands for.
        bands: Of the image, which are kept.
    """

    def __init__(self, every: int, factor: int, bands: Sequence[int]) -> None:
        self.every, self.factor, self.bands = every, factor, np.array(bands)
        self._strips: list[tuple[NDArray[np.uint8], NDArray[Any]]] = []

    def add(self, top: int, classes: NDArray[np.uint8], image: NDArray[Any]) -> None:
        """Take what is kept of the rows [h, W] of the map from `top` on, and of the whole image [C, H', W']."""
        first, (height, width) = -top % self.every, classes.shape
        places = np.arange(top + first, top + height, self.every), np.arange(0, width, self.every)
        of_image = (
            np.minimum(place // self.factor, side - 1) for place, side in zip(places, image.shape[1:], strict=True)
        )
        kept = classes[first :: self.every, :: self.every].copy()  # a view would keep all of the strip
        self._strips.append((kept, image[np.ix_(self.bands, *of_image)]))

    def map(self) -> NDArray[np.uint8]:
        """Return what was kept of the map, [h, w]."""
        return np.concatenate([classes for classes, _ in self._strips])

    def image(self) -> NDArray[Any]:
        """Return what was kept of the image at the same places, [bands, h, w]."""
        return np.concatenate([image for _, image in self._strips], axis=1)


def draw_map_sheet(
    name: str,
    image: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    colors: Mapping[str, sheet.Color],
    pixels: Mapping[str, int],
    missing: int,
    shown: str,
) -> Image.Image:
    """Draw the sheet of one map.

    Args:
        name: Of the image.
        image: Its picture, [h, w, 3].
        classes: The map at the same pixels, [h, w]; what is no index into the classes has no data.
        colors: Of each class, by its name, in order.
        pixels: Of the whole map that each class has, by its name.
        missing: Pixels of the whole map without data.
        shown: What the picture shows, in words.
    """
    valid = sum(pixels.values())
    heading, draw = sheet.blank(sheet.MARGIN + sheet.HEADING + sheet.TEXT + 2 * sheet.GAP)
    sheet.write(draw, (sheet.MARGIN, sheet.MARGIN - 6), name, sheet.HEADING)
    sheet.write(draw, (sheet.MARGIN, sheet.MARGIN + sheet.HEADING), f"Left the image ({shown})", sheet.TEXT)
    entries = [(sheet.swatch(color), f"{each}  {sheet.percent(pixels[each], valid)}") for each, color in colors.items()]
    if missing:
        share = sheet.percent(missing, valid + missing)
        entries.append((hatching((sheet.SWATCH, 2 * sheet.SWATCH)), f"no data  {share} of all pixels"))
    size = fit(classes.shape[0], classes.shape[1], SIDE)
    painted = palette(colors.values())[_resized(classes, size)]
    holds = _resized(classes < len(colors), size)[..., None]
    strip, draw = sheet.blank(size[0] + 2)
    for place, picture in enumerate((_resized(image, size), painted)):
        sheet.paste(
            strip, draw, np.where(holds, picture, hatching(size)), (sheet.MARGIN + place * (size[1] + sheet.GAP), 1)
        )
    return sheet.stacked([heading, sheet.legend(entries), strip])


def _resized(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the pixels [h, w, ...] that lie nearest to those of another size."""
    rows, columns = map(nearest, size, values.shape)
    picked: NDArray[Any] = values[rows[:, None], columns]
    return picked
