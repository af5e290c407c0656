"""A picture of views: a column a crop, a row a view."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_rs.bands import shown_bands, told_bands
from ssl_rs.pictures import usual_range
from ssl_rs.views.base import View

CELL = 1.7
"""Inches a side of an image."""

NO_DATA = 0.55
"""The gray of pixels that hold no data."""


@dataclass(frozen=True)
class Row:
    """One view of each crop.

    Args:
        name: Of the view.
        about: What it is made of and who reads it.
        view: Its images, on any device.
        captions: What stands above each image; empty: nothing.
    """

    name: str
    about: str
    view: View
    captions: Sequence[str] = ()


def draw_views(rows: Sequence[Row], count: int, bands: Sequence[str], stretched: bool, title: str) -> Figure:
    """Return the picture.

    Args:
        rows: From top to bottom; the first holds the crops as they are stored.
        count: How many crops are shown, from the first.
        bands: Names of the bands; red, green and blue are shown, else the first three.
        stretched: Show the range between the 2nd and 98th percentile of the first row instead of [0, 1], in all rows
            alike: values of 16 bits rarely fill their scale.
        title: What stands above all.
    """
    shown = list(shown_bands(bands))
    low, high = _range(rows[0].view, shown) if stretched else (0.0, 1.0)
    figure = Figure(figsize=(1.3 + CELL * count, 0.6 + (CELL + 0.22) * len(rows)), layout="constrained")
    figure.suptitle(f"{title}\n{told_bands(bands)}{', stretched' if stretched else ''}", fontsize=10)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for cells, row in zip(axes, rows, strict=True):
        for index, cell in enumerate(cells):
            cell.imshow(_picture(row.view, index, shown, low, high), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            if row.captions:
                cell.set_title(row.captions[index], fontsize=8, pad=3)
        about = "\n".join(textwrap.wrap(row.about, 26))
        cells[0].set_ylabel(f"{row.name}\n{about}", fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    return figure


def _range(view: View, shown: Sequence[int]) -> tuple[float, float]:
    values = view.image[:, shown].movedim(1, -1)  # [B, H, W, 3]
    kept = values if view.valid is None else values[view.valid[:, 0]]
    return usual_range(kept.cpu().numpy()) if kept.numel() else (0.0, 1.0)


def _picture(view: View, index: int, shown: Sequence[int], low: float, high: float) -> NDArray[np.float32]:
    image: NDArray[np.float32] = view.image[index, shown].movedim(0, -1).float().cpu().numpy()  # [H, W, 3]
    image = np.clip((image - low) / (high - low), 0, 1)
    if view.valid is not None:
        image[~view.valid[index, 0].cpu().numpy()] = NO_DATA
    return image
