"""Pictures for the report: the curve over the labels, and class maps in their colors; as SVG or PNG inside the page."""

import base64
import io
import itertools
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from PIL import Image

from ssl_rs.pictures import palette
from ssl_rs.reporting.tables import Table

NEUTRAL = "#5f6368"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's colors, told apart by color-blind readers; gray is kept for random initialization."""

IGNORED = (205, 205, 205)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Tell rows apart that share a color, also where they are single points."""

MOST_BESIDE = 8
"""Rows whose names stand at the ends of their lines; of more there is a legend."""

NAME_WIDTH = 26  # characters, then a name is wrapped between its words
LINE_HEIGHT = 0.21  # inches, of one line of it
AXES_HEIGHT = 3.08  # inches, at least
BESIDE_AXES = 0.92  # inches, for the title and the words below


@dataclass(frozen=True)
class Line:
    """How one row of the table is drawn, in the curve and beside its name; the style is matplotlib's."""

    color: str
    style: str
    marker: str = MARKERS[0]


def lines_of(tables: Sequence[Table]) -> dict[str, Line]:
    """Give each row a line of its own; the random initialization that all are measured by is gray and dashed.

    Args:
        tables: Of one comparison: a row looks alike in all.
    """
    lines, drawn = {}, 0
    random = {table.random_label for table in tables}
    for label in dict.fromkeys(label for table in tables for label in table.labels):
        if label in random:
            lines[label] = Line(NEUTRAL, "--")
        else:
            around, place = divmod(drawn, len(PALETTE))
            lines[label] = Line(PALETTE[place], "-" if around % 2 == 0 else ":", MARKERS[around % len(MARKERS)])
            drawn += 1
    return lines


def label_curve(table: Table, lines: Mapping[str, Line]) -> str:
    """Draw mIoU in % over the share of labels in %, a line a row, a band of the 95 % interval where seeds are several.

    The axis follows the means: wide intervals of few seeds are cut off at its ends.

    Args:
        table: Of which some row has a score.
        lines: How each row is drawn.

    Returns:
        An SVG element to stand inside a page; its text stays text.
    """
    salt = f"{table.comparison} {table.protocol}"  # curves of one page must not share the ids of their parts
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10.5}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has its own fonts
        drawn = [label for label in table.labels if any(table.miou(label, each) for each in table.fractions)]
        names = {label: _wrapped(label) for label in drawn}
        height = max(AXES_HEIGHT, LINE_HEIGHT * sum(name.count("\n") + 1.25 for name in names.values()))
        figure = Figure(figsize=(8.4, height + BESIDE_AXES))
        axes = figure.subplots()
        figure.subplots_adjust(top=1 - 0.4 / (height + BESIDE_AXES), bottom=0.52 / (height + BESIDE_AXES))
        ends = [
            _draw_line(axes, table, label, lines[label], shift)
            for shift, label in enumerate(table.labels)
            if label in names
        ]
        means = [
            100 * found.mean
            for each in itertools.product(table.labels, table.fractions)
            if (found := table.miou(*each))
        ]
        _style_axes(axes, sorted({table.share(fraction) for fraction in table.fractions}), means)
        title = axes.set_title(f"protocol {table.protocol.name}", loc="left", fontsize=9.5, color=NEUTRAL)
        title.set_parse_math(False)
        full = all(table.miou(label, table.fractions[-1]) for label in drawn)
        if full and len(drawn) <= MOST_BESIDE:
            _name_lines(axes, ends, names, height)
        else:  # a name beside the plot would need a line across it to where its row ends
            _explain_lines(axes, ends, names)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", bbox_inches="tight", facecolor="white", metadata=nothing)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def color_map(indices: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Paint class indices uint8 [h, w] in their colors, any index without a color as ignored: uint8 [h, w, 3]."""
    painted: np.ndarray = palette(colors, others=IGNORED)[indices]
    return painted


def png_data_uri(pixels: np.ndarray, largest_side: int, smooth: bool) -> str:
    """Return pixels uint8 [h, w, 3] as a data URI.

    Args:
        pixels: The picture.
        largest_side: Pixels; a larger picture is made smaller.
        smooth: Average when it is made smaller; class maps must not be averaged.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _draw_line(axes: Axes, table: Table, label: str, line: Line, shift: int) -> tuple[str, Line, float, float]:
    """Draw one row; return its name, look, and the point where it ends, x in % of labels and y in % mIoU."""
    found = [(fraction, summary) for fraction in table.fractions if (summary := table.miou(label, fraction))]
    apart = 1.012 ** (shift - (len(table.labels) - 1) / 2)  # so that intervals do not hide each other
    x = [100 * table.share(fraction) * apart for fraction, _ in found]
    y = [100 * summary.mean for _, summary in found]
    axes.plot(x, y, color=line.color, linestyle=line.style, marker=line.marker, markersize=5.5, linewidth=1.8)
    known = [(at, *each) for at, (_, summary) in zip(x, found, strict=True) if (each := summary.interval)]
    if len(known) == len(found) > 1:
        axes.fill_between(
            x, [100 * low for _, low, _ in known], [100 * high for *_, high in known],
            color=line.color, alpha=0.13, linewidth=0,
        )  # fmt: skip
    if known:
        positions, lows, highs = zip(*known, strict=True)
        ends = [[100 * end for end in side] for side in (lows, highs)]
        axes.vlines(positions, *ends, color=line.color, linewidth=1.2)
    return label, line, x[-1], y[-1]


def _style_axes(axes: Axes, shares: Sequence[float], means: Sequence[float]) -> None:
    axes.set_xscale("log")
    percents = [100 * share for share in shares]
    axes.set_xlim(percents[0] / 1.25, percents[-1] * 1.12)
    axes.set_xticks(percents, [f"{percent:.3g}" for percent in percents])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(means), max(means)
    middle, half = (low + high) / 2, max((high - low) / 2 * 1.4, 1.0)  # at least 2 points high: no drama about noise
    axes.set_ylim(middle - half, middle + half)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("labeled share of the training data (%, logarithmic)")
    axes.set_ylabel("mIoU (%)")
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa0a6")
    axes.tick_params(color="#9aa0a6")


def _wrapped(label: str) -> str:
    return textwrap.fill(label, NAME_WIDTH, break_long_words=False, break_on_hyphens=False)


def _explain_lines(axes: Axes, ends: Sequence[tuple[str, Line, float, float]], names: Mapping[str, str]) -> None:
    """Write the names beside the plot, each with a piece of its line, in the order of the table."""
    handles = [
        Line2D([], [], color=line.color, linestyle=line.style, marker=line.marker, markersize=5.5, linewidth=1.8)
        for _, line, *_ in ends
    ]
    legend = axes.legend(
        handles, [names[label] for label, *_ in ends], loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False,
        fontsize=9.5, handlelength=2.2, labelspacing=0.35,
    )  # fmt: skip
    for note, (_, line, *_) in zip(legend.get_texts(), ends, strict=True):
        note.set_parse_math(False)  # a name is text, also where it holds a dollar sign
        note.set_color(line.color)


def _name_lines(
    axes: Axes, ends: Sequence[tuple[str, Line, float, float]], names: Mapping[str, str], height: float
) -> None:
    """Write each name beside the end of its line; names that would overlap are moved apart.

    Args:
        axes: With the lines.
        ends: Name, look and end of each row.
        names: As they are written.
        height: Of the axes, inches.
    """
    heights = [axes.transAxes.inverted().transform(axes.transData.transform(end[2:]))[1] for end in ends]
    told = [names[label] for label, *_ in ends]
    sizes = [LINE_HEIGHT / height * (name.count("\n") + 1) for name in told]
    for name, (_, line, x, y), place in zip(told, ends, spread(heights, sizes), strict=True):
        note = axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            color=line.color,
            va="center",
            fontweight="bold",
            arrowprops={
                "arrowstyle": "-",
                "color": line.color,
                "linestyle": (0, (1, 2.5)),  # dots: no part of the curve
                "linewidth": 0.9,
                "alpha": 0.7,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )
        note.set_parse_math(False)  # a name is text, also where it holds a dollar sign


def spread(heights: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Move things of some sizes apart until they do not overlap; their order and middle stay.

    Args:
        heights: Where their middles would lie.
        sizes: How high each is.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = [heights[index] for index in order]
    for place in range(1, len(moved)):
        gap = (sizes[order[place]] + sizes[order[place - 1]]) / 2
        moved[place] = max(moved[place], moved[place - 1] + gap)
    excess = sum(moved[place] - heights[index] for place, index in enumerate(order)) / max(1, len(moved))
    result = [0.0] * len(heights)
    for place, index in enumerate(order):
        result[index] = moved[place] - excess
    return result
