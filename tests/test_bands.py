import pytest

from ssl_rs.bands import color_bands, shown_bands


@pytest.mark.parametrize(
    ("bands", "color", "shown"),
    [
        (("red", "green", "blue"), (0, 1, 2), (0, 1, 2)),
        (("blue", "green", "red"), (2, 1, 0), (2, 1, 0)),
        (("blue", "green", "red", "nir"), (2, 1, 0), (2, 1, 0)),
        (("coastal", "nir", "green", "blue", "swir", "red"), (5, 2, 3), (5, 2, 3)),
        (("Red", "Green", "Blue", "NIR"), (0, 1, 2), (0, 1, 2)),
        (("NIR", "BLUE", "GREEN", "RED"), (3, 2, 1), (3, 2, 1)),
        (("nir", "red", "green"), (0, 1, 2), (0, 1, 2)),  # false color, shown as RGB
        (("red", "green", "nir", "swir"), None, (0, 1, 2)),
        (("vv", "vh"), None, (0, 0, 0)),
        (("gray",), None, (0, 0, 0)),
    ],
)
def test_red_green_and_blue_by_name_else_the_first_there_are(bands, color, shown):
    assert color_bands(bands) == color
    assert shown_bands(list(bands)) == shown
