"""A sheet with a picture of every scene, its mask in the class colors beside it, and a legend; grouped by split."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssl_rs.bands import color_bands
from ssl_rs.data.dataset import Split
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.store import Store
from ssl_rs.data.thumbnails import fit, hatching, image_thumbnail, mask_thumbnail

Color = tuple[int, int, int]

MOST = 600
"""Scenes that are shown; of more, an even choice of each split."""

COLUMNS = ((2, 2), (12, 3), (60, 4), (200, 6), (MOST, 8))
"""Up to so many scenes, so many columns; twice as many where there are no masks."""

WIDTH, MARGIN, GAP, SWATCH = 1600, 24, 12, 20
"""Pixels: the sheet, its border, the space between two scenes, a class's color in the legend."""

TITLE, HEADING, TEXT = 27, 18, 14
"""Sizes of letters in pixels."""

INK, PALE, LINE, WARNING = (25, 25, 25), (100, 100, 100), (140, 140, 140), (190, 25, 25)
SPLIT_COLORS: dict[Split, Color] = {
    "train": (208, 228, 250),
    "val": (252, 234, 190),
    "test": (249, 212, 212),
    "unlabeled": (228, 216, 242),
}


def draw_sheet(store: Store) -> Image.Image:
    """Draw the sheet of a store whose arrays are in place; it depends on the store's content only.

    Memory is that of the sheet, however many and large the scenes are.
    """
    manifest = store.manifest
    strips = [_head(manifest), *([_legend(manifest)] if manifest.classes else [])]
    chosen = {split: _even_choice(store.scenes_of(split), len(manifest.scenes)) for split in get_args(Split)}
    columns = next(columns for most, columns in COLUMNS if sum(map(len, chosen.values())) <= most)
    for split, scenes in chosen.items():
        if scenes:
            strips.append(_heading(split, len(scenes), len(store.scenes_of(split))))
            labeled = bool(manifest.classes) and split != "unlabeled"
            strips += _rows(store, scenes, columns if labeled else 2 * columns, labeled)
    sheet = Image.new("RGB", (WIDTH, sum(strip.height for strip in strips) + MARGIN), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _even_choice(scenes: Sequence[int], total: int) -> Sequence[int]:
    """Return all scenes of a split or, where the data set has too many, the split's part of `MOST`, evenly spread."""
    if total <= MOST or not scenes:
        return scenes
    count = max(1, len(scenes) * (MOST - len(SPLIT_COLORS)) // total)
    return [scenes[place] for place in np.linspace(0, len(scenes) - 1, count).round().astype(int)]


def _head(manifest: Manifest) -> Image.Image:
    """Say what the data set is, and what the pictures show."""
    heights, widths = ([getattr(scene, side) for scene in manifest.scenes] for side in ("height", "width"))
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (manifest.mean, manifest.std))
    dtype = f"{manifest.dtype}; {manifest.value_scale:g} = white"
    lines = [
        f"{_count(len(heights))} of {_span(heights)} x {_span(widths)} pixels; "
        f"bands {', '.join(manifest.bands)} ({dtype}); training mean {mean}; std {std}",
        _legend_of_pictures(manifest),
    ]
    left_out = f"Left out: {_count(len(manifest.skipped))}; scenes.csv says why." if manifest.skipped else ""
    strip, draw = _strip(MARGIN + TITLE + 14 + 24 * (len(lines) + bool(left_out)))
    _write(draw, (MARGIN, MARGIN - 6), manifest.dataset, TITLE)
    for place, line in enumerate((*lines, left_out)):
        _write(draw, (MARGIN, MARGIN + TITLE + 10 + 24 * place), line, TEXT, WARNING if place == len(lines) else INK)
    return strip


def _count(number: int) -> str:
    return f"{number:,} scene{'s' * (number != 1)}"


def _span(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _legend_of_pictures(manifest: Manifest) -> str:
    bands = color_bands(manifest.bands)
    shown = "bands " + ", ".join(manifest.bands[band] for band in bands) if bands else f"band {manifest.bands[0]}"
    stretched = "" if manifest.dtype == "uint8" else ", stretched between the 2nd and 98th percentile of each picture"
    if not manifest.classes:
        return f"Each picture: a scene ({shown}{stretched}). The data set has no masks."
    return (
        f"Each pair: left the image ({shown}{stretched}), right its mask in the colors of the classes "
        "(with their shares of the labeled pixels):"
    )


def _legend(manifest: Manifest) -> Image.Image:
    """Show the classes: color, name, and share among the labeled pixels of all scenes."""
    counts = [sum(pixels) for pixels in zip(*(scene.class_pixels for scene in manifest.scenes), strict=True)]
    labeled = sum(counts)
    total = sum(scene.height * scene.width for scene in manifest.scenes if scene.split != "unlabeled")
    swatches = [np.full((SWATCH, 2 * SWATCH, 3), entry.color, np.uint8) for entry in manifest.classes]
    names = [f"{entry.name}  {_percent(count, labeled)}" for entry, count in zip(manifest.classes, counts, strict=True)]
    swatches.append(hatching((SWATCH, 2 * SWATCH)))
    names.append(f"no label or no data  {_percent(total - labeled, total)} of all pixels")
    names = [_shortened(name, _font(TEXT), WIDTH // 3) for name in names]
    places, left, top = [], MARGIN, 6
    for name in names:
        width = 2 * SWATCH + 8 + int(_font(TEXT).getlength(name))
        if left + width > WIDTH - MARGIN:
            left, top = MARGIN, top + SWATCH + 10
        places.append((left, top))
        left += width + 2 * GAP
    strip, draw = _strip(top + SWATCH + 10)
    for place, swatch, name in zip(places, swatches, names, strict=True):
        _paste(strip, draw, swatch, place)
        _write(draw, (place[0] + 2 * SWATCH + 8, place[1] + 1), name, TEXT)
    return strip


def _percent(part: int, whole: int) -> str:
    """Return a share in percent; what is there is never said to be 0."""
    percent = 100 * part / max(whole, 1)
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"


def _heading(split: Split, shown: int, total: int) -> Image.Image:
    strip, draw = _strip(GAP + HEADING + 12 + GAP)
    draw.rectangle((MARGIN, GAP, WIDTH - MARGIN, GAP + HEADING + 10), fill=SPLIT_COLORS[split])
    some = "" if shown == total else f", {shown} of them shown"
    _write(draw, (MARGIN + 10, GAP + 4), f"{split}: {_count(total)}{some}", HEADING)
    return strip


def _rows(store: Store, scenes: Sequence[int], columns: int, labeled: bool) -> Iterator[Image.Image]:
    """Draw scenes side by side, each with its mask where there are labels."""
    records = store.manifest.scenes
    cell = (WIDTH - 2 * MARGIN + GAP) // columns - GAP
    side = (cell - 4) // 2 if labeled else cell
    for first in range(0, len(scenes), columns):
        part = scenes[first : first + columns]
        sizes = [fit(records[index].height, records[index].width, side) for index in part]
        height = max(rows for rows, _ in sizes)
        strip, draw = _strip(height + TEXT + GAP + 8)
        for place, (index, size) in enumerate(zip(part, sizes, strict=True)):
            left = MARGIN + place * (cell + GAP)
            _paste(strip, draw, image_thumbnail(store, index, size), (left, 1))
            if labeled:
                _paste(strip, draw, mask_thumbnail(store, index, size), (left + size[1] + 4, 1))
            _write(draw, (left, size[0] + 4), records[index].id, TEXT, PALE, cell)
        yield strip


def _strip(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (WIDTH, height), "white")
    return strip, ImageDraw.Draw(strip)


def _paste(strip: Image.Image, draw: ImageDraw.ImageDraw, picture: NDArray[np.uint8], place: tuple[int, int]) -> None:
    """Put a picture [h, w, 3] at a place (left, top), with a line around it: it may be white."""
    (left, top), (height, width) = place, picture.shape[:2]
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=LINE)
    strip.paste(Image.fromarray(picture), place)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    color: Color = INK,
    most: int = WIDTH - 2 * MARGIN,
) -> None:
    """Write one line of at most so many pixels; letters that the font lacks become boxes."""
    draw.text(place, _shortened(text, _font(size), most), fill=color, font=_font(size))


def _shortened(text: str, font: ImageFont.FreeTypeFont, most: int) -> str:
    """Leave out the middle of a text that is too long: names of scenes often differ at their ends."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    for kept in range(min(len(text), most), 0, -1):  # a letter takes a pixel at least
        ends = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
        shown = text if kept == len(text) else ends
        if font.getlength(shown) <= most:
            return shown
    return "..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib: Pillow's own knows no letters but those of English."""
    from matplotlib import get_data_path  # here, so that only who draws a sheet waits for it

    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
