"""Colors of classes that were given none."""

import colorsys
import itertools

import pytest

from ssl_rs.data.class_colors import APART, with_colors


def colors(*given):
    return [entry.color for entry in with_colors([(f"c{place}", color) for place, color in enumerate(given)])]


def hue(color):
    return colorsys.rgb_to_hsv(*(channel / 255 for channel in color))[0]


def apart(one, other):
    """Shares of the circle of hues between two colors."""
    distance = abs(hue(one) - hue(other))
    return min(distance, 1 - distance)


def test_without_given_colors_they_are_those_of_the_golden_section():
    """Colors are part of what names a store: they stay what they were."""
    assert colors(None, None, None) == [(217, 76, 76), (76, 117, 217), (158, 217, 76)]


def test_a_given_color_far_away_changes_none():
    assert colors(None, None, (158, 217, 76)) == colors(None, None, None)


@pytest.mark.parametrize("gray", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (140, 128, 128), (40, 0, 0)])
def test_a_given_gray_changes_none(gray):
    assert colors(None, None, gray)[:2] == colors(None, None, None)[:2]


@pytest.mark.parametrize("given", [(255, 0, 0), (120, 0, 0), (76, 117, 217), (0, 255, 0), (255, 128, 0), (200, 60, 90)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_color_is_another_shade_of_a_given_one(given, place):
    found = colors(*[given if each == place else None for each in range(3)])
    assert found[place] == given
    assert all(apart(one, other) > APART - 0.01 for one, other in itertools.combinations(found, 2))


def test_where_given_colors_are_everywhere_chosen_ones_still_differ():
    given = [tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(k / 12, 1, 1)) for k in range(12)]
    found = colors(*given, None, None, None)
    assert len(set(found)) == 15
    assert all(apart(one, other) > 0.01 for one, other in itertools.combinations(found, 2))
