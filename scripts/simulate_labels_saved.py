"""How often the interval of labels saved holds the truth, and how early its point is: figures of docs/statistics.md.

usage: python scripts/simulate_labels_saved.py [STUDIES]
"""

import itertools
import math
import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ssl_rs.reporting.statistics import crossing, labels_saved

FRACTIONS = (0.02, 0.1, 0.5, 1.0)
DEVIATION = 1.0
"""Of a cell over seeds, in points."""

Curves = Mapping[int, Mapping[float, float]]


def studies(
    true_curve: NDArray[np.float64], target: float, seeds: int, number: int
) -> list[tuple[Curves, dict[int, float]]]:
    """Draw curves [F] and targets of some seeds, each off by normal noise."""
    generator = np.random.default_rng(0)
    drawn: list[tuple[Curves, dict[int, float]]] = []
    for _ in range(number):
        rows = true_curve + generator.normal(0, DEVIATION, (seeds, len(FRACTIONS)))
        curves = {seed: dict(zip(FRACTIONS, row, strict=True)) for seed, row in enumerate(rows)}
        drawn.append((curves, dict(enumerate(target + generator.normal(0, DEVIATION, seeds)))))
    return drawn


def bootstrap_interval(curves: Curves, reference: Mapping[int, float]) -> tuple[float, float]:
    """Return the percentile interval over all resamples of whole seeds, as the report once gave it."""
    found = [
        crossing(
            FRACTIONS,
            [float(np.mean([curves[seed][fraction] for seed in drawn])) for fraction in FRACTIONS],
            float(np.mean([reference[seed] for seed in drawn])),
        )
        for drawn in itertools.product(curves, repeat=len(curves))
    ]
    low, high = np.quantile(found, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def main() -> None:
    """Print a line a true curve and number of seeds."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for curve, target in (
        ([60.0, 62.0, 64.0, 65.0], 63.0),
        ([60.0, 62.0, 64.0, 65.0], 65.0),
        ([64.0, 64.5, 64.9, 65.0], 65.0),
    ):
        truth = math.exp(np.interp(target, curve, np.log(FRACTIONS)))
        for seeds in (3, 5):
            held = held_before = early = 0
            for curves, reference in studies(np.array(curve), target, seeds, number):
                found = labels_saved(curves, reference)
                assert found is not None
                assert found.interval is not None
                low, high = bootstrap_interval(curves, reference)
                held += found.interval.low <= truth <= found.interval.high
                held_before += low <= truth <= high
                early += found.fraction <= truth / 2
            shares = f"t interval {held / number:.0%}, percentile bootstrap {held_before / number:.0%}"
            print(
                f"true curve {curve}, target {target:g}, {seeds} seeds: the truth, {truth:.0%}, lies in the {shares}; "
                f"{early / number:.0%} say at most half of it"
            )


if __name__ == "__main__":
    main()
