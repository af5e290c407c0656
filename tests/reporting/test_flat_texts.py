"""Nested values as short texts."""

from ssl_rs.reporting.flat_texts import distinct_texts, flat_texts


def test_values_are_told_in_short_and_the_label_that_heads_the_row_is_not():
    given = {
        "label": "tasks", "encoder_sha256": "ab" * 32, "empty": [], "none": None, "is_new": True,
        "pretraining": {"label": "tasks", "images_seen": 48000, "pretext": ["a", "b"], "more": {"mean": 0.123456}},
    }  # fmt: skip
    assert flat_texts(given) == {
        "encoder sha256": "abababababab",
        "is new": "True",
        "pretraining label": "tasks",
        "pretraining images seen": "48,000",
        "pretraining pretext": "a, b",
        "pretraining more": "mean 0.1235",
    }


def test_values_that_differ_too_often_are_counted():
    found = distinct_texts([{"torch": str(place % 4), "device": str(place % 3)} for place in range(8)])
    assert found == {"torch": "4 different values", "device": "0; 1; 2"}
