import statistics

import numpy as np
import pytest

from ssl_rs.reporting.statistics import Summary, summarize


def test_hand_computed_summary():
    assert summarize([1.0, 2.0, 6.0]) == Summary(3.0, pytest.approx(7**0.5), 3)  # (4 + 1 + 9) / 2 = 7


def test_a_single_value_has_no_deviation():
    assert summarize([0.4]) == Summary(0.4, None, 1)


def test_equal_values_have_deviation_zero():
    assert summarize([0.1] * 5) == Summary(pytest.approx(0.1), pytest.approx(0.0), 5)


def test_summary_equals_numpy():
    values = np.random.default_rng(0).random(9)
    found = summarize(values.tolist())
    assert (found.mean, found.std) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))


def test_nothing_to_summarize_is_an_error():
    with pytest.raises(statistics.StatisticsError):
        summarize([])
