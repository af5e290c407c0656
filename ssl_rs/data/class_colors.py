"""Colors of classes that were given none, for pictures."""

import colorsys
from collections.abc import Sequence

from ssl_rs.data.dataset import SegmentationClass

Color = tuple[int, int, int]

GOLDEN_SECTION = 0.618034
"""Of the circle of hues: steps of it keep neighbors apart."""

SATURATION, VALUE = 0.65, 0.85
"""Of every color that is chosen."""

APART = 1 / 12
"""Of the circle of hues, by which a chosen color keeps from given ones."""

GRAY = 0.25
"""Saturation and value below which a given color has no hue that could be mistaken."""

HUES = 120
"""Candidates where the golden section's own hue is too near to a given one."""


def with_colors(classes: Sequence[tuple[str, Color | None]]) -> tuple[SegmentationClass, ...]:
    """Return classes that all have a color.

    Those without get a hue by the golden section, as their place has it whatever the others are; where a given color
    is near to that, the hue that is farthest from those of all others.

    Args:
        classes: Name and, where it is given, color of each, red, green and blue in [0, 255].
    """
    given = [hue for _, color in classes if color is not None and (hue := _hue(color)) is not None]
    hues = {place: place * GOLDEN_SECTION % 1 for place, (_, color) in enumerate(classes) if color is None}
    for place, hue in hues.items():
        if _distance(hue, given) < APART:
            others = [*given, *(other for each, other in hues.items() if each != place)]
            hues[place] = max((number / HUES for number in range(HUES)), key=lambda each: _distance(each, others))
    return tuple(
        SegmentationClass(name, _color(hues[place]) if color is None else color)
        for place, (name, color) in enumerate(classes)
    )


def _hue(color: Color) -> float | None:
    """Return the hue in [0, 1); None of what is nearly gray or black."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    return hue if min(saturation, value) >= GRAY else None


def _distance(hue: float, others: Sequence[float]) -> float:
    """Return how far the nearest of other hues is, as a share of their circle; 1 without any."""
    return min((min(abs(hue - other), 1 - abs(hue - other)) for other in others), default=1.0)


def _color(hue: float) -> Color:
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, SATURATION, VALUE))
    return red, green, blue
