"""A sheet with a picture of every scene, its mask in the class colors beside it, and a legend; grouped by split."""

from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
from PIL import Image

from ssl_rs.bands import told_bands
from ssl_rs.data import sheet
from ssl_rs.data.dataset import Split
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.store import Store
from ssl_rs.data.thumbnails import fit, hatching, image_thumbnail, mask_thumbnail
from ssl_rs.errors import counted

MOST = 600
"""Scenes that are shown; of more, an even choice of each split."""

COLUMNS = ((2, 2), (12, 3), (60, 4), (200, 6), (MOST, 8))
"""Up to so many scenes, so many columns; twice as many where there are no masks."""

SPLIT_COLORS: dict[Split, sheet.Color] = {
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
    return sheet.stacked(strips)


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
        f"{counted(len(heights), 'scene')} of {_span(heights)} x {_span(widths)} pixels; "
        f"bands {', '.join(manifest.bands)} ({dtype}); training mean {mean}; std {std}",
        _legend_of_pictures(manifest),
    ]
    left_out = f"Left out: {counted(len(manifest.skipped), 'scene')}; scenes.csv says why." if manifest.skipped else ""
    strip, draw = sheet.blank(sheet.MARGIN + sheet.TITLE + 14 + 24 * (len(lines) + bool(left_out)))
    sheet.write(draw, (sheet.MARGIN, sheet.MARGIN - 6), manifest.dataset, sheet.TITLE)
    for place, line in enumerate((*lines, left_out)):
        sheet.write(
            draw,
            (sheet.MARGIN, sheet.MARGIN + sheet.TITLE + 10 + 24 * place),
            line,
            sheet.TEXT,
            sheet.WARNING if place == len(lines) else sheet.INK,
        )
    return strip


def _span(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)}-{max(values)}"


def _legend_of_pictures(manifest: Manifest) -> str:
    shown = told_bands(manifest.bands)
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
    entries = [
        (sheet.swatch(entry.color), f"{entry.name}  {sheet.percent(count, labeled)}")
        for entry, count in zip(manifest.classes, counts, strict=True)
    ]
    unlabeled = f"no label or no data  {sheet.percent(total - labeled, total)} of all pixels"
    return sheet.legend([*entries, (hatching((sheet.SWATCH, 2 * sheet.SWATCH)), unlabeled)])


def _heading(split: Split, shown: int, total: int) -> Image.Image:
    strip, draw = sheet.blank(sheet.GAP + sheet.HEADING + 12 + sheet.GAP)
    draw.rectangle(
        (sheet.MARGIN, sheet.GAP, sheet.WIDTH - sheet.MARGIN, sheet.GAP + sheet.HEADING + 10), fill=SPLIT_COLORS[split]
    )
    some = "" if shown == total else f", {shown} of them shown"
    sheet.write(draw, (sheet.MARGIN + 10, sheet.GAP + 4), f"{split}: {counted(total, 'scene')}{some}", sheet.HEADING)
    return strip


def _rows(store: Store, scenes: Sequence[int], columns: int, labeled: bool) -> Iterator[Image.Image]:
    """Draw scenes side by side, each with its mask where there are labels."""
    records = store.manifest.scenes
    cell = (sheet.WIDTH - 2 * sheet.MARGIN + sheet.GAP) // columns - sheet.GAP
    side = (cell - 4) // 2 if labeled else cell
    for first in range(0, len(scenes), columns):
        part = scenes[first : first + columns]
        sizes = [fit(records[index].height, records[index].width, side) for index in part]
        height = max(rows for rows, _ in sizes)
        strip, draw = sheet.blank(height + sheet.TEXT + sheet.GAP + 8)
        for place, (index, size) in enumerate(zip(part, sizes, strict=True)):
            left = sheet.MARGIN + place * (cell + sheet.GAP)
            sheet.paste(strip, draw, image_thumbnail(store, index, size), (left, 1))
            if labeled:
                sheet.paste(strip, draw, mask_thumbnail(store, index, size), (left + size[1] + 4, 1))
            sheet.write(draw, (left, size[0] + 4), records[index].id, sheet.TEXT, sheet.PALE, cell)
        yield strip
