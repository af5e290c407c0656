"""An order of labeled units whose every prefix has class shares near those of the whole."""

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 64
"""Units that are weighed for each place. All of them at once would follow the shares hardly more closely, and would
leave every seed nearly the same subset (docs/statistics.md has the figures)."""

SHARE = 2**20
"""Shares are whole numbers of this part of 1, so that every machine weighs alike, bit for bit."""


def stratified_order(histograms: NDArray[np.int64]) -> list[int]:
    """Order units so that the class shares of each prefix are near those of all units together.

    Greedy: each place goes to that of the next `CANDIDATES` waiting units (at most half of all) that brings the shares
    of what is placed nearest to the target, in the sum of absolute differences. Who waits first is the order that comes
    in, so a seeded one makes this one seeded.
    Source: in the manner of herding, Welling, "Herding dynamical weights to learn", ICML 2009.

    Args:
        histograms: int64 [N, K], labeled pixels of each class in each unit, at least one a unit; in a random order.

    Returns:
        The rows of the histograms, each once.
    """
    total = [int(count) for count in histograms.sum(axis=0)]
    target = np.array([(2 * count * SHARE + sum(total)) // (2 * sum(total)) for count in total])  # [K], rounded
    number = len(histograms)
    following = min(CANDIDATES, -(-number // 2))
    waiting = np.arange(following)
    placed = np.zeros(len(total), np.int64)
    order: list[int] = []
    while len(waiting):
        counts = placed + histograms[waiting]  # [candidates, K]
        sizes = counts.sum(axis=1)
        distance = np.abs(counts * SHARE - sizes[:, None] * target).sum(axis=1) / sizes
        best = int(distance.argmin())
        order.append(int(waiting[best]))
        placed = counts[best]
        if following < number:
            waiting[best] = following
            following += 1
        else:
            waiting = np.delete(waiting, best)
    return order
