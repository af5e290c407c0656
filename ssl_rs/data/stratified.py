"""An order of labeled units whose every prefix has class shares near those of the whole."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.store import Store

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


def class_pixels(store: Store, corners: Sequence[tuple[str, int, int]], tile_size: int | None) -> NDArray[np.int64]:
    """Count the labeled pixels of units by class.

    Args:
        store: The data.
        corners: Scene, row and column of each unit's upper left corner, on the grid of tiles of its scene.
        tile_size: Side of a tile in pixels; None: units are whole scenes.

    Returns:
        int64 [N, K], in the order of the corners.
    """
    scenes = {store.manifest.scenes[index].id: index for index in store.scenes_of("train")}
    places: dict[str, list[int]] = {}
    for place, (scene, _, _) in enumerate(corners):
        places.setdefault(scene, []).append(place)
    found = np.zeros((len(corners), len(store.manifest.classes)), np.int64)
    for scene, own in places.items():
        if tile_size is None:
            found[own] = store.manifest.scenes[scenes[scene]].class_pixels
            continue
        grid = np.stack(list(_counts(store.mask(scenes[scene]), tile_size, found.shape[1])))  # [rows, K, columns]
        at = np.array([corners[place][1:] for place in own]) // tile_size  # [units, 2]
        found[own] = grid[at[:, 0], :, at[:, 1]]
    return found


def _counts(mask: NDArray[np.uint8], step: int, num_classes: int) -> Iterator[NDArray[np.int64]]:
    """Yield the pixels of each class in each tile, int64 [K, columns], a row of tiles at a time."""
    starts = np.arange(0, mask.shape[1], step)
    for top in range(0, mask.shape[0], step):
        strip = np.asarray(mask[top : top + step])
        by_column = np.stack([(strip == index).sum(axis=0) for index in range(num_classes)])  # [K, W]
        yield np.add.reduceat(by_column, starts, axis=1)
