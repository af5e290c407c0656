"""Intervals over test scenes: they are drawn again and again, and the pixels of each draw are scored together."""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit  # scipy.stats takes as long to import as all else of the report

from ssl_rs.reporting.statistics import TAILS, Interval

BEYOND = 100
"""Draws of a bootstrap beyond each end of its interval: with ten, chance moves the ends by half a point and more."""
MOST_DRAWS = 20_000
"""Of a bootstrap: fewer than eight things have tails too thin for `BEYOND`."""
AT_ONCE = 1000
"""Draws that are computed together: of thousands of scenes all would take gigabytes."""


def _tail(number: int) -> float:
    """Return the share of resamples of a number of things that lies beyond each end, see `percentile_interval`."""
    return float(ndtr(stdtrit(number - 1, TAILS[0]) * math.sqrt(number / (number - 1))))


@cache
def resampled_counts(number: int, seed: int = 0) -> NDArray[np.int32]:
    """Return how often each of a number of things, at least 2, is drawn in each resample, int32 [R, number].

    Rows sum to that number. There are as many as leave `BEYOND` of them beyond each end of an interval.
    """
    resamples = math.ceil(min(MOST_DRAWS, BEYOND / max(_tail(number), 1e-9)))
    draws, counts = np.random.default_rng(seed), np.zeros((resamples, number), np.int32)
    for first in range(0, resamples, AT_ONCE):
        part = counts[first : first + AT_ONCE]
        np.add.at(part, (np.arange(len(part))[:, None], draws.integers(0, number, part.shape)), 1)
    counts.flags.writeable = False  # every run of a table gets the same
    return counts


def percentile_interval(values: NDArray[np.float64], number: int) -> Interval:
    """Return the expanded 95 % percentile interval of resampled values [R]; infinite ones are allowed, NaN left out.

    A bootstrap of n things varies by sqrt((n - 1) / n) too little, and its tails are those of a normal distribution,
    not Student's: its percentiles are taken farther out, so that for a mean they agree with the t interval.
    Source: Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015; percentiles
    themselves: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.

    Args:
        values: Of the statistic, one a resample.
        number: How many things were resampled; at least 2.
    """
    known = values[~np.isnan(values)]
    tail = _tail(number)
    ends = np.quantile(known, (tail, 1 - tail), method="inverted_cdf")
    return Interval(float(ends[0]), float(ends[1]))


def mean_iou(
    confusions: NDArray[Any], counted: NDArray[np.bool_], scored: NDArray[np.bool_],
    left_out: NDArray[np.bool_] | None = None, kept: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the mean IoU of confusion matrices, row truth and column prediction.

    Args:
        confusions: Whole numbers [..., K, K].
        counted: [K], whether pixels of this truth count at all.
        scored: [K], whether the class is in the mean; one absent from truth and prediction is left out.
        left_out: [..., K], classes that are not in the mean of some; None: none.
        kept: [K], classes that are in the mean though absent, with an IoU of 0; None: none.

    Returns:
        [...] in [0, 1], NaN where no class is left.
    """
    counts = (confusions * counted[:, None]).astype(np.float64)
    right = np.diagonal(counts, axis1=-2, axis2=-1)[..., scored]
    union = (counts.sum(axis=-1) + counts.sum(axis=-2))[..., scored] - right
    there = union > 0
    if left_out is not None:
        there &= ~left_out[..., scored]
    iou = np.divide(right, union, out=np.zeros_like(right), where=there & (union > 0))
    if kept is not None:
        there |= kept[scored]
    number = there.sum(axis=-1)
    mean: NDArray[np.float64] = np.divide(iou.sum(axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0)
    return mean


def resampled_miou(
    scenes: NDArray[np.int64], counted: NDArray[np.bool_], scored: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the pooled mean IoU of resampled test scenes, [R]: a resample sums the matrices of the scenes it drew.

    It always draws the same scenes, so that two runs can be compared draw by draw. A class of these scenes that a
    draw shows nowhere is left out of its mean: one stray pixel that was taken for it would make it count, with an IoU
    of 0. A class that none of these scenes shows, and that some pixel was taken for, is in the mean of each draw, as it
    is in that of all.

    Args:
        scenes: int64 [S, K, K], a confusion matrix a scene.
        counted: As in `mean_iou`.
        scored: As in `mean_iou`.
    """
    there = (scenes.sum(axis=-1) > 0) & counted  # [S, K]
    imagined = ~there.any(axis=0) & ((scenes * counted[:, None]).sum(axis=(0, 1)) > 0)  # [K]
    counts, flat = resampled_counts(len(scenes)), scenes.reshape(len(scenes), -1)
    found = []
    for first in range(0, len(counts), AT_ONCE):
        drawn = counts[first : first + AT_ONCE].astype(np.float64)  # [r, S]; whole numbers stay exact to 2^53
        pooled = (drawn @ flat.astype(np.float64)).reshape(-1, *scenes.shape[1:])  # [r, K, K]
        lacks = there.any(axis=0) & (drawn @ there == 0)  # [r, K]
        found.append(mean_iou(pooled, counted, scored, lacks, imagined))
    return np.concatenate(found)
