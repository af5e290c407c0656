"""What a handful of runs says about a cell of the table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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


def summarize(values: Sequence[float]) -> Summary:
    """Summarize at least one value."""
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
