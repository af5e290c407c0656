"""What sheets with pictures are made of: strips of a common width, text, and the colors of classes with their names."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

WIDTH, MARGIN, GAP, SWATCH = 1600, 24, 12, 20
"""Pixels: the sheet, its border, the space between two scenes, a class's color in the legend."""

TITLE, HEADING, TEXT = 27, 18, 14
"""Sizes of letters in pixels."""

INK, PALE, LINE, WARNING = (25, 25, 25), (100, 100, 100), (140, 140, 140), (190, 25, 25)


def stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """Return the sheet of some strips, from top to bottom."""
    sheet = Image.new("RGB", (WIDTH, sum(strip.height for strip in strips) + MARGIN), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def blank(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a white strip, and what draws on it."""
    strip = Image.new("RGB", (WIDTH, height), "white")
    return strip, ImageDraw.Draw(strip)


def legend(entries: Sequence[tuple[NDArray[np.uint8], str]]) -> Image.Image:
    """Show swatches, uint8 [SWATCH, 2 SWATCH, 3], each with its name, as many in a line as there is room for."""
    names = [shortened(name, font(TEXT), WIDTH // 3) for _, name in entries]
    places, left, top = [], MARGIN, 6
    for name in names:
        width = 2 * SWATCH + 8 + int(font(TEXT).getlength(name))
        if left + width > WIDTH - MARGIN:
            left, top = MARGIN, top + SWATCH + 10
        places.append((left, top))
        left += width + 2 * GAP
    strip, draw = blank(top + SWATCH + 10)
    for place, (color, _), name in zip(places, entries, names, strict=True):
        paste(strip, draw, color, place)
        write(draw, (place[0] + 2 * SWATCH + 8, place[1] + 1), name, TEXT)
    return strip


def swatch(color: Color) -> NDArray[np.uint8]:
    """Return a color as an entry of a legend."""
    return np.full((SWATCH, 2 * SWATCH, 3), color, np.uint8)


def percent(part: int, whole: int) -> str:
    """Return a share in percent; what is there is never said to be 0."""
    share = 100 * part / max(whole, 1)
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"


def paste(strip: Image.Image, draw: ImageDraw.ImageDraw, picture: NDArray[np.uint8], place: tuple[int, int]) -> None:
    """Put a picture [h, w, 3] at a place (left, top), with a line around it: it may be white."""
    (left, top), (height, width) = place, picture.shape[:2]
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=LINE)
    strip.paste(Image.fromarray(picture), place)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    color: Color = INK,
    most: int = WIDTH - 2 * MARGIN,
) -> None:
    """Write one line of at most so many pixels; letters that the font lacks become boxes."""
    draw.text(place, shortened(text, font(size), most), fill=color, font=font(size))


def shortened(text: str, letters: ImageFont.FreeTypeFont, most: int) -> str:
    """Leave out the middle of a text that is too long: names of scenes often differ at their ends."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    for kept in range(min(len(text), most), 0, -1):  # a letter takes a pixel at least
        ends = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        shown = text if kept == len(text) else ends
        if letters.getlength(shown) <= most:
            return shown
    return "..."


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib: Pillow's own knows no letters but those of English."""
    from matplotlib import get_data_path  # here, so that only who draws a sheet waits for it

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
