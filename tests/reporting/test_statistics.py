"""Intervals, bootstraps and curves against scipy, closed forms, slow versions and curves made by hand."""

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ssl_rs.reporting.bootstrap import mean_iou, percentile_interval, resampled_counts, resampled_miou
from ssl_rs.reporting.statistics import (
    Interval,
    Summary,
    crossing,
    labels_saved,
    means_by_key,
    paired_difference,
    summarize,
)
from ssl_rs.reporting.wording import saved_sentence
from ssl_rs.segmentation.protocols import Protocol, score

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=9)


def test_hand_computed_summary():
    assert summarize([1.0, 2.0, 6.0]) == Summary(3.0, pytest.approx(7**0.5), 3)  # (4 + 1 + 9) / 2 = 7


def test_a_single_value_has_no_deviation_and_no_interval():
    assert summarize([0.4]) == Summary(0.4, None, 1)
    assert summarize([0.4]).interval is None


def test_equal_values_have_deviation_zero_and_an_interval_without_width():
    assert summarize([0.1] * 5) == Summary(pytest.approx(0.1), pytest.approx(0.0), 5)
    assert summarize([0.5] * 5).interval == (0.5, 0.5)


def test_summary_equals_numpy():
    values = np.random.default_rng(0).random(9)
    found = summarize(values.tolist())
    assert (found.mean, found.std) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))


def test_nothing_to_summarize_is_an_error():
    with pytest.raises(statistics.StatisticsError):
        summarize([])


# t intervals


def test_the_interval_of_three_values_is_that_of_the_tables():
    # Two degrees of freedom: 4.303, in every printed table of Student's t.
    assert summarize([1.0, 2.0, 3.0]).interval == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


@given(SCORES.filter(lambda values: max(values) - min(values) > 1e-6))
@settings(deadline=None)
def test_the_interval_is_that_of_scipys_t_test(values):
    found = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert summarize(values).interval == pytest.approx((found.low, found.high), abs=1e-9)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = [
        found.low <= 0.5 <= found.high
        for found in (summarize(generator.normal(0.5, 0.1, 4).tolist()).interval for _ in range(2000))
    ]
    assert 0.93 < np.mean(held) < 0.97


# Paired differences


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
@settings(deadline=None)
def test_a_paired_difference_is_that_of_scipys_paired_t_test(pairs):
    first, second = ({place: pair[side] for place, pair in enumerate(pairs)} for side in (0, 1))
    found = paired_difference(first, second)
    if found.std < 1e-9:
        return
    expected = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-8)
    assert found.n == len(pairs)


def test_only_what_both_sides_have_is_compared():
    found = paired_difference({"a": 0.5, "b": 0.7, "c": 0.9}, {"b": 0.6, "a": 0.5, "d": 0.1})
    assert found == Summary(pytest.approx(0.05), pytest.approx(0.005**0.5), 2)
    assert paired_difference({"a": 0.5}, {"b": 0.5}) is None


def test_what_both_sides_share_cancels():
    """Subsets differ by 20 points, initializations by 1: side by side nothing shows, in pairs all of it."""
    random = {0: 0.3, 1: 0.5, 2: 0.4}
    better = {seed: value + 0.01 + 0.0001 * seed for seed, value in random.items()}
    found = paired_difference(better, random)
    assert found.interval.low > 0.009
    assert summarize(list(better.values())).interval.low < 0.4 < summarize(list(random.values())).interval.high


def test_means_by_key_keep_the_order_of_the_keys():
    assert list(means_by_key([("b", 1.0), ("a", 2.0), ("b", 4.0)]).items()) == [("b", 2.5), ("a", 2.0)]


# Scenes


@given(
    st.integers(0, 2**32),
    st.sampled_from([Protocol("p"), Protocol("p", ("c",), "error"), Protocol("p", ("c", "a"), "ignored")]),
)
@settings(max_examples=40, deadline=None)
def test_mean_iou_is_that_of_the_evaluation(seed, protocol):
    generator = np.random.default_rng(seed)
    confusion = generator.integers(0, 50, (4, 4)) * generator.integers(0, 2, (4, 4))
    confusion[3] = confusion[:, 3] = 0  # an absent class
    excluded = np.array([name in protocol.excluded for name in "abcd"])
    counted = ~excluded if protocol.excluded_pixels == "ignored" else np.ones(4, bool)
    expected = score(torch.from_numpy(confusion), "abcd", protocol)["miou"]
    (found,) = mean_iou(confusion[None], counted, ~excluded)
    assert (None if math.isnan(found) else found) == (expected if expected is None else pytest.approx(expected))


def test_resamples_draw_as_many_as_there_are_each_equally_often():
    counts = resampled_counts(5)
    assert (counts.sum(axis=1) == 5).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.05)
    assert counts.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.05)  # binomial: 5 * 1/5 * 4/5
    assert (counts == resampled_counts(5)).all()
    assert (counts != resampled_counts(5, seed=1)).any()


@pytest.mark.parametrize(("number", "draws"), [(2, 20_000), (6, 20_000), (8, 17_430), (400, 4080)])
def test_a_hundred_draws_lie_beyond_each_end_where_that_is_possible(number, draws):
    assert len(resampled_counts(number)) == draws
    values = np.arange(draws, dtype=np.float64)
    low, high = percentile_interval(values, number)
    beyond = (values < low).sum(), (values > high).sum()
    assert max(beyond) <= 100
    if draws < 20_000:
        assert min(beyond) >= 98


def test_chance_moves_the_ends_of_an_interval_over_few_scenes_by_little():
    generator = np.random.default_rng(0)
    values = generator.normal(50, 10, 8)
    ends = np.array([percentile_interval(resampled_counts(8, seed=seed) @ values / 8, 8) for seed in range(8)])
    assert np.ptp(ends, axis=0).max() < 0.1 * np.ptp(ends.mean(axis=0))


def test_resampled_scenes_are_pooled_before_they_are_scored():
    """Against a loop over the scenes that were drawn; a mean of the scenes' own IoU would be another number."""
    generator = np.random.default_rng(3)
    scenes = generator.integers(0, 100, (6, 3, 3)) * generator.integers(1, 40, (6, 1, 1))
    every = np.ones(3, bool)
    found = resampled_miou(scenes, every, every)
    for values, counts in list(zip(found, resampled_counts(6), strict=True))[:50]:
        total = [[0] * 3 for _ in range(3)]
        for scene, times in enumerate(counts):
            for row, column in itertools.product(range(3), range(3)):
                total[row][column] += int(times) * int(scenes[scene, row, column])
        iou = [total[k][k] / (sum(total[k]) + sum(total[row][k] for row in range(3)) - total[k][k]) for k in range(3)]
        assert values == pytest.approx(sum(iou) / 3)


def test_a_class_that_a_draw_does_not_show_is_out_of_its_mean():
    """One pixel that is taken for a class of one scene must not rule the interval; slow: each draw by itself."""
    scenes = np.zeros((8, 3, 3), np.int64)
    scenes[:, 0, 0], scenes[:, 1, 1], scenes[:, 0, 1] = 100, 80, 20
    scenes[0, 2, 2] = 50  # the class lies in the first scene alone
    scenes[3, 0, 2] = 1  # a pixel of another scene is taken for it
    every = np.ones(3, bool)
    found = resampled_miou(scenes, every, every)
    for draw, counts in zip(found, resampled_counts(8), strict=True):
        pooled = np.sum([scenes[place] * number for place, number in enumerate(counts)], axis=0)
        classes = [0, 1, 2] if counts[0] else [0, 1]
        iou = [pooled[k, k] / (pooled[k].sum() + pooled[:, k].sum() - pooled[k, k]) for k in classes]
        assert draw == pytest.approx(np.mean(iou))
    low, high = percentile_interval(found, 8)
    assert high - low < 0.1


def test_a_class_that_no_scene_shows_counts_where_it_is_predicted():
    """As in the score itself."""
    scenes = np.zeros((6, 2, 2), np.int64)
    scenes[:, 0, 0], scenes[:, 0, 1] = 90, 10
    every = np.ones(2, bool)
    assert resampled_miou(scenes, every, every) == pytest.approx(0.45)


def test_equal_scenes_leave_nothing_to_vary():
    scenes = np.tile(np.array([[8, 2], [1, 9]]), (7, 1, 1))
    every = np.ones(2, bool)
    drawn = resampled_miou(scenes, every, every)
    assert percentile_interval(drawn, 7) == pytest.approx((drawn[0], drawn[0]))


def test_percentiles_of_many_things_leave_two_and_a_half_percent_on_each_side():
    values, many = np.arange(1, 1001, dtype=np.float64), 10**6
    assert percentile_interval(np.random.default_rng(0).permutation(values), many) == (25, 976)
    assert percentile_interval(np.append(values, np.nan), many) == (25, 976)
    assert percentile_interval(np.array([0.1, np.inf, np.inf]), many) == (0.1, np.inf)


@pytest.mark.parametrize("number", [6, 10, 24])
def test_percentiles_of_a_mean_agree_with_its_t_interval(number):
    """A normal distribution of the width that a bootstrap has: what is left of both is Student's interval."""
    spread = math.sqrt((number - 1) / number) / math.sqrt(number)  # of the mean of n values with standard deviation 1
    drawn = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) * spread
    half = stats.t.ppf(0.975, number - 1) / math.sqrt(number)
    assert percentile_interval(drawn, number) == pytest.approx((-half, half), rel=1e-3)


@pytest.mark.parametrize("number", [6, 7, 14, 24])
def test_the_interval_holds_the_truth_in_about_95_percent(number):
    values = np.random.default_rng(number).normal(size=(600, number))
    means = values @ resampled_counts(number).T / number  # [600, R]
    held = [interval.low <= 0 <= interval.high for interval in (percentile_interval(each, number) for each in means)]
    assert 0.92 < np.mean(held) < 0.98


def test_the_bootstrap_of_many_scenes_is_as_wide_as_scipys():
    generator = np.random.default_rng(1)
    right = generator.integers(20, 90, 40)
    scenes = np.stack([np.array([[each, 100 - each], [100 - each, each]]) for each in right])
    every = np.ones(2, bool)
    found = percentile_interval(resampled_miou(scenes, every, every), 10**6)
    iou = lambda drawn: np.sum(drawn) / (200 * len(drawn) - np.sum(drawn))  # noqa: E731
    expected = stats.bootstrap(
        (right,), iou, vectorized=False, n_resamples=2000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.006)


# Where a curve reaches a target


def test_a_crossing_lies_on_the_line_over_the_logarithm():
    assert crossing([0.01, 0.1, 1.0], [0.2, 0.4, 0.5], 0.3) == pytest.approx(0.1**1.5)  # halfway: 3.16 %
    assert crossing([0.1, 0.5], [0.0, 1.0], 0.25) == pytest.approx(0.1 * 5**0.25)


def test_a_crossing_at_a_measured_fraction_is_that_fraction():
    assert crossing([0.01, 0.1, 1.0], [0.2, 0.3, 0.5], 0.3) == pytest.approx(0.1)
    assert crossing([0.01, 0.1, 1.0], [0.3, 0.3, 0.5], 0.3) == 0.01
    assert crossing([0.01, 0.1, 1.0], [0.9, 0.1, 0.5], 0.3) == 0.01
    assert crossing([0.01, 0.1, 1.0], [0.2, 0.25, 0.3], 0.3) == 1.0
    assert crossing([0.1], [0.5], 0.3) == 0.1


def test_rounding_moves_no_crossing_out_of_the_measured_range():
    assert crossing([0.08, 0.09], [0.0, 1.0], 1e-66) == 0.08


def test_what_is_never_reached_is_at_infinity():
    assert crossing([0.01, 0.1, 1.0], [0.2, 0.25, 0.29], 0.3) == math.inf
    assert crossing([0.1], [0.2], 0.3) == math.inf


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), min_size=2, max_size=7, unique_by=lambda point: point[0]),
    st.floats(0, 1),
)
@settings(deadline=None)
def test_a_crossing_is_where_interpolation_gives_the_target(points, target):
    points = sorted((percent / 100, value) for percent, value in points)
    fractions, values = zip(*points, strict=True)
    found = crossing(fractions, values, target)
    if math.isinf(found):
        assert max(values) < target
        return
    assert fractions[0] <= found <= fractions[-1]
    value = np.interp(math.log(found), np.log(fractions), values)
    assert value == pytest.approx(target, abs=1e-6) or (found == fractions[0] and values[0] >= target)
    assert all(value < target for fraction, value in points if fraction < found * (1 - 1e-9))


# Labels saved


def curves(*rows, fractions=(0.01, 0.1, 1.0)):
    return {seed: dict(zip(fractions, row, strict=True)) for seed, row in enumerate(rows)}


@pytest.mark.parametrize("number", [3, 8, 9, 10, 33])
def test_a_curve_that_ends_at_its_own_reference_reaches_it(number):
    generator = np.random.default_rng(number)
    for _ in range(50):
        rows = np.sort(generator.uniform(0.3, 0.8, (number, 3)))
        assert labels_saved(curves(*rows.tolist()), dict(enumerate(rows[:, 2].tolist()))).is_reached


def slow_interval(curves, reference):
    """Look at each of many fractions: scipy's t interval of the differences there."""
    low = high = math.inf
    for place in np.geomspace(min(curves[0]), max(curves[0]), 4001):
        differences = [
            np.interp(math.log(place), [math.log(each) for each in curve], list(curve.values())) - reference[seed]
            for seed, curve in curves.items()
        ]
        ends = stats.ttest_1samp(differences, 0).confidence_interval()
        low = min(low, place) if ends.high >= 0 else low
        high = math.inf if ends.low < 0 else min(high, place)
    return low, high


def test_labels_saved_of_a_hand_made_curve():
    found = labels_saved(curves((0.2, 0.4, 0.5), (0.2, 0.4, 0.5)), {0: 0.28, 1: 0.32})
    assert found.fraction == pytest.approx(0.1**1.5)
    assert (found.target, found.seeds, found.smallest, found.largest) == (pytest.approx(0.3), 2, 0.01, 1.0)
    assert found.is_reached
    assert not found.at_smallest
    assert found.falls_below is None
    # The differences at a fraction lie 0.02 about their mean: t(1) = 12.7 times 0.02 is more than all the curve rises.
    assert found.interval == (0.01, math.inf)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_labels_saved_is_the_slow_one(seed):
    generator = np.random.default_rng(seed)
    rows = np.array([0.2, 0.4, 0.5]) + generator.normal(0, 0.01, (5, 3))
    reference = dict(enumerate(0.3 + generator.normal(0, 0.01, 5)))
    found = labels_saved(curves(*rows), reference)
    assert found.interval == pytest.approx(slow_interval(curves(*rows), reference), rel=0.02)
    assert found.interval.low < found.fraction < found.interval.high


@pytest.mark.parametrize(
    ("truth", "target", "place"),
    [((0.28, 0.32, 0.36), 0.31, 10**-1.25), ((0.30, 0.305, 0.31), 0.31, 1.0), ((0.309, 0.3095, 0.31), 0.31, 1.0)],
)
def test_the_interval_of_labels_saved_holds_the_truth_as_often_as_it_says(truth, target, place):
    """Also where the curve is so flat that noise crosses the target long before."""
    generator = np.random.default_rng(0)
    holds = 0
    for _ in range(400):
        rows = np.array(truth) + generator.normal(0, 0.01, (3, 3))
        found = labels_saved(curves(*rows), dict(enumerate(target + generator.normal(0, 0.01, 3))))
        holds += found.interval.low <= place <= found.interval.high
    assert holds / 400 > 0.93


def test_one_seed_has_no_interval():
    found = labels_saved(curves((0.2, 0.4, 0.5)), {0: 0.3})
    assert (found.interval, found.seeds) == (None, 1)


def test_without_a_shared_seed_nothing_is_said():
    assert labels_saved(curves((0.2, 0.4, 0.5)), {7: 0.3}) is None
    assert labels_saved({}, {0: 0.3}) is None


def test_curve_and_reference_are_means_over_the_same_seeds():
    found = labels_saved(curves((0.2, 0.4, 0.5), (0.2, 0.4, 0.5)), {0: 0.3, 1: 0.3, 2: 0.9})
    assert (found.target, found.seeds) == (0.3, 2)
    assert found.fraction == pytest.approx(0.1**1.5)


def test_not_reached_and_reached_at_the_smallest_are_answers():
    never = labels_saved(curves((0.1, 0.2, 0.25), (0.1, 0.2, 0.25)), {0: 0.3, 1: 0.3})
    assert not never.is_reached
    assert never.interval == (math.inf, math.inf)
    at_once = labels_saved(curves((0.4, 0.5, 0.6), (0.4, 0.5, 0.6)), {0: 0.3, 1: 0.3})
    assert (at_once.fraction, at_once.at_smallest, at_once.interval) == (0.01, True, Interval(0.01, 0.01))


def test_fewer_labels_that_not_all_seeds_have_are_told():
    def found(curve):
        whole = {0: {0.1: 0.6, 1.0: 0.7}, 1: {0.1: 0.6, 1.0: 0.7} | curve}
        return labels_saved(whole, {0: 0.5, 1: 0.5})

    assert (found({}).smallest, found({}).tried_less) == (0.1, False)
    assert (found({0.02: 0.1}).smallest, found({0.02: 0.1}).tried_less) == (0.1, True)
    assert (
        saved_sentence("a", found({})).count("measured, 10") == saved_sentence("a", found({})).count("or better") == 1
    )
    said = saved_sentence("a", found({0.02: 0.1}))
    assert "at the smallest share that all seeds have, 10\N{NO-BREAK SPACE}% of the labels: 10 times fewer (" in said


def test_a_seed_that_never_gets_there_opens_the_interval():
    found = labels_saved(curves((0.2, 0.4, 0.5), (0.1, 0.2, 0.25)), {0: 0.3, 1: 0.3})
    assert found.is_reached  # the mean curve, at 1.0, has 0.375
    assert found.interval.high == math.inf


def test_a_curve_that_falls_below_again_says_so():
    found = labels_saved(curves((0.2, 0.4, 0.25)), {0: 0.3})
    assert (found.fraction, found.falls_below) == (pytest.approx(0.1**1.5), 1.0)


def test_seeds_are_compared_with_their_own_reference():
    """Each seed reaches its own reference at the same place, so that nothing but the seeds' offset differs."""
    offsets = (0.0, 0.1, 0.3)
    rows = [(0.2 + offset, 0.4 + offset, 0.5 + offset) for offset in offsets]
    found = labels_saved(curves(*rows), {seed: 0.3 + offset for seed, offset in enumerate(offsets)})
    assert found.interval == pytest.approx((0.1**1.5, 0.1**1.5), rel=0.01)


@pytest.mark.parametrize(
    ("measured", "seeds", "smallest"),
    [
        ([(0.01, 0.1, 1.0), (0.01, 0.1, 1.0), (0.1,)], 2, 0.01),  # a seed of one fraction is left out
        ([(0.01, 0.1, 1.0), (0.1, 1.0), (0.1, 1.0)], 3, 0.1),  # a fraction of one seed is left out
        ([(0.01,), (0.1,)], 1, 0.01),
        ([(0.01, 0.1), (0.1, 1.0), (1.0,)], 2, 0.1),  # what two of three share
    ],
)
def test_a_curve_is_of_seeds_that_all_have_its_fractions(measured, seeds, smallest):
    values = {0.01: 0.2, 0.1: 0.4, 1.0: 0.5}
    given = {seed: {fraction: values[fraction] for fraction in each} for seed, each in enumerate(measured)}
    found = labels_saved(given, dict.fromkeys(given, 0.3))
    assert (found.seeds, found.smallest) == (seeds, smallest)


def test_the_interval_holds_the_fraction_though_it_lies_between_places_looked_at():
    offsets = (0.0, 0.1, 0.3)
    rows = [(0.2 + offset, 0.41 + offset, 0.5 + offset) for offset in offsets]
    found = labels_saved(curves(*rows), {seed: 0.3 + offset for seed, offset in enumerate(offsets)})
    assert found.interval.low <= found.fraction <= found.interval.high


def test_two_seeds_count_before_more_fractions_of_one():
    rows = {0: {0.01: 0.1, 0.05: 0.2, 0.1: 0.4, 0.5: 0.45, 1.0: 0.5}, 1: {0.1: 0.4, 1.0: 0.5}}
    found = labels_saved(rows, dict.fromkeys(rows, 0.3))
    assert (found.seeds, found.smallest) == (2, 0.1)


def test_a_class_that_is_only_imagined_is_in_every_draw_as_it_is_in_the_mean():
    """One stray pixel of one scene is taken for a class that none shows."""
    scene = np.array([[90, 10, 0], [10, 90, 0], [0, 0, 0]])
    scenes = np.stack([scene] * 8)
    everything = np.ones(3, np.bool_)
    assert np.ptp(resampled_miou(scenes, everything, everything)) == 0
    scenes[0, 0, 0], scenes[0, 0, 2] = 89, 1
    whole = float(mean_iou(scenes.sum(axis=0), everything, everything))
    drawn = resampled_miou(scenes, everything, everything)
    assert whole == pytest.approx(0.545, abs=1e-3)
    assert np.abs(drawn - whole).max() < 0.002


def test_a_curve_that_comes_down_to_its_reference_is_not_below_it():
    assert labels_saved(curves((0.2, 0.5, 0.25)), {0: 0.25}).falls_below is None


def test_of_as_many_pairs_more_seeds_count_before_more_fractions():
    many = dict.fromkeys((0.01, 0.1, 0.5, 1.0), 0.4)
    few = {0.1: 0.4, 1.0: 0.4}
    found = labels_saved({0: many, 1: many, 2: few, 3: few}, dict.fromkeys(range(4), 0.3))
    assert (found.seeds, found.smallest) == (4, 0.1)


def test_fewer_labels_of_a_seed_that_does_not_count_are_told():
    whole = {0: {0.1: 0.6, 1.0: 0.7}, 1: {0.1: 0.6, 1.0: 0.7}}
    found = labels_saved(whole | {2: {0.02: 0.1}}, dict.fromkeys(range(3), 0.5))
    assert (found.seeds, found.smallest, found.tried_less) == (2, 0.1, True)
