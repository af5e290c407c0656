"""Single labeled pixels, drawn from a label subset."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.label_subset import LabeledUnit, LabelSubset, class_pixels
from ssl_rs.data.store import Store
from ssl_rs.errors import InputError
from ssl_rs.randomness import derive_seed

Sampling = Literal["uniform", "balanced"]


@dataclass(frozen=True)
class LabeledPixels:
    """Labeled pixels of one unit.

    Args:
        scene: Index of the scene in the store.
        rows: int64 [n], in pixels of the scene.
        columns: int64 [n].
        labels: uint8 [n], classes.
    """

    scene: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    labels: NDArray[np.uint8]


def draw_pixels(store: Store, subset: LabelSubset, number: int, sampling: Sampling, seed: int) -> list[LabeledPixels]:
    """Draw labeled pixels without replacement; every labeled pixel of the subset, or of its class, is equally likely.

    Args:
        store: The data.
        subset: The units whose labels are known.
        number: How many are wanted; where there are fewer, all are taken.
        sampling: "uniform": over all labeled pixels. "balanced": number / K of each class, or all there are of it.
        seed: Of the draw.

    Returns:
        One entry a unit that has drawn pixels, in the order of the subset.

    Raises:
        InputError: Balanced, and fewer are wanted than there are classes.
    """
    counts = class_pixels(store, subset.unit, subset.units)  # [U, K]
    classes = range(counts.shape[1])
    groups = [list(classes)] if sampling == "uniform" else [[index] for index in classes]
    if number < len(groups):
        raise InputError(
            f"probe.samples={number}: probe.sampling=balanced needs at least one pixel of each of the {len(groups)} "
            f"classes. Set probe.samples={len(groups)} or more, or probe.sampling=uniform."
        )
    generator = np.random.default_rng(derive_seed(seed, "labeled pixels", sampling))
    chosen = [_draw(counts[:, group].sum(axis=1), number // len(groups), generator) for group in groups]
    scenes = {store.manifest.scenes[index].id: index for index in store.scenes_of("train")}
    drawn = []
    for place, unit in enumerate(subset.units):
        ranks = [each[place] for each in chosen]
        if any(len(each) for each in ranks):
            drawn.append(_pixels(store, scenes[unit.scene], unit, list(zip(groups, ranks, strict=True))))
    return drawn


def _draw(available: NDArray[np.int64], wanted: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Draw from things that lie in units: for each unit the ranks, within it, of those that were drawn, ascending."""
    ends = np.cumsum(available)
    total = int(ends[-1])
    found = np.sort(generator.choice(total, min(wanted, total), replace=False, shuffle=False))
    borders = np.searchsorted(found, ends)
    return [part - start for part, start in zip(np.split(found, borders[:-1]), ends - available, strict=True)]


def _pixels(
    store: Store, scene: int, unit: LabeledUnit, chosen: list[tuple[list[int], NDArray[np.int64]]]
) -> LabeledPixels:
    """Find the drawn pixels of a unit: those of the given ranks among the pixels of each group of classes."""
    mask = np.asarray(store.mask(scene)[unit.row : unit.row + unit.height, unit.column : unit.column + unit.width])
    flat = mask.ravel()
    places = np.concatenate([np.flatnonzero(np.isin(flat, group))[ranks] for group, ranks in chosen if len(ranks)])
    rows, columns = np.divmod(places, unit.width)
    return LabeledPixels(scene, rows + unit.row, columns + unit.column, flat[places])


WindowPixels = tuple[int, int, int, LabeledPixels]
"""Scene, top and left of a window, and pixels of it."""


def by_window(pixels: list[LabeledPixels], store: Store, size: int) -> Iterator[WindowPixels]:
    """Sort pixels by the windows of a grid that see them; a window at the border is shifted in.

    Args:
        pixels: In pixels of their scenes.
        store: The data.
        size: Side of the windows in pixels.

    Yields:
        Scene, top and left of a window, and its pixels, in pixels of the window.
    """
    for scene in dict.fromkeys(each.scene for each in pixels):
        own = [each for each in pixels if each.scene == scene]
        rows, columns, labels = (
            np.concatenate([getattr(each, key) for each in own]) for key in ("rows", "columns", "labels")
        )
        record = store.manifest.scenes[scene]
        tops = np.minimum(rows // size * size, max(0, record.height - size))
        lefts = np.minimum(columns // size * size, max(0, record.width - size))
        corners = np.unique(np.stack([tops, lefts], axis=1), axis=0)
        for top, left in corners.tolist():
            inside = (tops == top) & (lefts == left)
            yield scene, top, left, LabeledPixels(scene, rows[inside] - top, columns[inside] - left, labels[inside])
