"""What a handful of runs, and a handful of test scenes, can say: numbers in, numbers out. See docs/statistics.md.

One value has no interval: none is made up.
"""

import itertools
import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # scipy.stats takes as long to import as all else of the report

Key = TypeVar("Key", bound=Hashable)

TAILS = 0.025, 0.975
"""Of every interval: 95 % lie between."""
PLACES = 257
"""At which a curve is looked at between two fractions."""


class Interval(NamedTuple):
    """Two ends of an interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Several values of one quantity.

    Args:
        mean: Arithmetic mean.
        std: Sample standard deviation (divisor n - 1), None for a single value.
        n: Number of values.
    """

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> Interval | None:
        """Return the 95 % interval of the mean, mean -+ t(n - 1) std / sqrt(n); None for a single value.

        Source: Student, "The probable error of a mean", Biometrika 6, 1908: values are taken for normal.
        """
        if self.std is None:
            return None
        half = float(stdtrit(self.n - 1, TAILS[1])) * self.std / math.sqrt(self.n)
        return Interval(self.mean - half, self.mean + half)


def summarize(values: Sequence[float]) -> Summary:
    """Summarize at least one value."""
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def means_by_key(values: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """Return the mean of the values of each key, in the order in which keys come."""
    grouped: dict[Key, list[float]] = {}
    for key, value in values:
        grouped.setdefault(key, []).append(value)
    return {key: statistics.fmean(each) for key, each in grouped.items()}


def paired_difference(first: Mapping[Key, float], second: Mapping[Key, float]) -> Summary | None:
    """Summarize first minus second over the keys that both have; None where they share none.

    What both share, e.g. an easy subset, cancels; the interval of the differences is that of the paired t test.
    """
    shared = [key for key in first if key in second]
    return summarize([first[key] - second[key] for key in shared]) if shared else None


def crossing(fractions: Sequence[float], values: Sequence[float], target: float) -> float:
    """Return the fraction at which a curve first reaches a target.

    Between two measured fractions the curve is a straight line over the logarithm of the fraction, as it is drawn.

    Args:
        fractions: Ascending, in (0, 1]; at least one.
        values: Of the curve.
        target: What it has to reach.

    Returns:
        The first of the fractions where the curve begins at the target or above, infinity where it never gets there.
    """
    if values[0] >= target:
        return fractions[0]
    for place in range(1, len(fractions)):
        if values[place] >= target:
            share = (target - values[place - 1]) / (values[place] - values[place - 1])
            low, high = math.log(fractions[place - 1]), math.log(fractions[place])
            found = math.exp(low + share * (high - low))
            return min(max(found, fractions[place - 1]), fractions[place])  # rounding must not lead out
    return math.inf


@dataclass(frozen=True)
class LabelsSaved:
    """Where the mean curve of an initialization reaches a reference, e.g. random initialization with all labels.

    Args:
        fraction: The fraction, in (0, 1]; infinite where it is not reached, see `crossing`.
        interval: Its 95 % interval, an end infinite where not reached; None for one seed.
        seeds: Over which curve and reference are means, the same for both.
        smallest: The smallest fraction that all of them have.
        largest: The largest.
        target: The reference's mean.
        falls_below: The first larger measured fraction at which the curve is below the target again, if there is one.
        tried_less: Whether some seed has a smaller fraction, which does not count here.
        of_seeds: How many seeds curve or reference have.
    """

    fraction: float
    interval: Interval | None
    seeds: int
    smallest: float
    largest: float
    target: float
    falls_below: float | None
    tried_less: bool = False
    of_seeds: int = 1

    @property
    def is_reached(self) -> bool:
        """Tell whether the curve gets there."""
        return math.isfinite(self.fraction)

    @property
    def at_smallest(self) -> bool:
        """Tell whether the curve begins there, so that fewer labels may do as well."""
        return self.fraction == self.smallest


def labels_saved(curves: Mapping[int, Mapping[float, float]], reference: Mapping[int, float]) -> LabelsSaved | None:
    """Find where a mean curve reaches the mean of a reference, over seeds that have both.

    Args:
        curves: By seed, its value at each fraction.
        reference: By seed.

    Returns:
        None where no seed has both. Where seeds were measured at different fractions, as many values count as form a
        whole table of seeds and fractions: a mean over other seeds at each fraction would be no curve.
    """
    seeds, fractions = _whole_table({seed: curve for seed, curve in curves.items() if seed in reference})
    if not seeds:
        return None
    values = np.array([[curves[seed][each] for each in fractions] for seed in seeds])  # [n, F]
    aims = np.array([reference[seed] for seed in seeds])  # [n]
    # Both summed alike, so that a curve that ends at the reference reaches it.
    means, target = [statistics.fmean(column) for column in values.T.tolist()], statistics.fmean(aims.tolist())
    fraction = crossing(fractions, means, target)
    interval = None
    if len(seeds) > 1:
        low, high = crossing_interval(fractions, values - aims[:, None])
        interval = Interval(min(low, fraction), max(high, fraction))  # between two places that were looked at
    points = zip(fractions, means, strict=True)
    below = next((place for place, value in points if place > fraction and value < target), None)
    less = any(each < fractions[0] for curve in curves.values() for each in curve)
    return LabelsSaved(
        fraction, interval, len(seeds), fractions[0], fractions[-1], target, below, less, len({*curves, *reference})
    )


def crossing_interval(fractions: Sequence[float], differences: NDArray[np.float64]) -> Interval:
    """Return the 95 % interval of the fraction at which the mean of curves first reaches 0.

    It begins where the t interval of the curves first does not lie below 0, and ends behind the last fraction where it
    reaches below 0: the test of Student, inverted. Where the true curve rises it holds the truth in 95 % of all cases
    at least.
    Source: Fieller, "Some problems in interval estimation", JRSS B 16, 1954, for ratios; here at every fraction.

    Args:
        fractions: Ascending, in (0, 1].
        differences: [n, F], of at least two seeds: its curve minus its reference.

    Returns:
        An end is infinite where it lies beyond the largest fraction.
    """
    pieces = [np.geomspace(*ends, PLACES) for ends in itertools.pairwise(fractions)]
    places = np.unique(np.concatenate([fractions, *pieces]))  # [P]
    lines = np.stack([np.interp(np.log(places), np.log(fractions), row) for row in differences])  # [n, P]
    number = len(differences)
    half = stdtrit(number - 1, TAILS[1]) * lines.std(axis=0, ddof=1) / math.sqrt(number)
    mean = lines.mean(axis=0)
    not_below, not_above = np.flatnonzero(mean + half >= 0), np.flatnonzero(mean - half < 0)
    after = int(not_above[-1]) + 1 if len(not_above) else 0
    low = float(places[not_below[0]]) if len(not_below) else math.inf
    return Interval(low, float(places[after]) if after < len(places) else math.inf)


def _whole_table(curves: Mapping[int, Mapping[float, float]]) -> tuple[list[int], list[float]]:
    """Return seeds and fractions, ascending, each pair of which was measured: two seeds if any, then most pairs."""
    choices = {frozenset(curve) for curve in curves.values()}
    while more := {one & other for one, other in itertools.combinations(choices, 2)} - choices:
        choices |= more

    def seeds_with(fractions: frozenset[float]) -> list[int]:
        return sorted(seed for seed, curve in curves.items() if fractions <= curve.keys())

    def worth(fractions: frozenset[float]) -> tuple[bool, int, int]:
        number = len(seeds_with(fractions))
        return number > 1, number * len(fractions), number

    best = max(sorted(choices - {frozenset()}, key=sorted), key=worth, default=frozenset[float]())
    return (seeds_with(best), sorted(best)) if best else ([], [])
