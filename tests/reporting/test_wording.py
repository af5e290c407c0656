"""Numbers in words."""

import pytest

from ssl_rs.reporting.wording import points_text, signed_points_text


@pytest.mark.parametrize(
    ("value", "text"), [(0.052, "+5.2"), (-0.003, "−0.3"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")]
)
def test_differences_have_a_sign_unless_they_round_to_nothing(value, text):
    assert signed_points_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.575, "57.5"), (-0.02, "−2.0"), (-0.0003, "0.0"), (0.0, "0.0")])
def test_scores_have_a_sign_where_they_are_below_nothing(value, text):
    assert points_text(value) == text
