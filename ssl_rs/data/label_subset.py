"""Which part of the training labels a run may see: nested, seeded, and written down."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.records import read_record, to_json
from ssl_rs.data.store import Store
from ssl_rs.data.stratified import stratified_order
from ssl_rs.errors import InputError
from ssl_rs.files import write_text

ROUNDED = 0.1
"""Of a share of the labels: rounding to whole units by more is told."""

Unit = Literal["tile", "scene"]
Order = Literal["random", "stratified"]


@dataclass(frozen=True)
class LabelFraction:
    """How much of the training split counts as labeled.

    Args:
        fraction: Share of the units, in (0, 1].
        unit: What is labeled as a whole: tiles of `dataset.tile_size`, or scenes.
        order: "random", or "stratified": every prefix has class shares near those of all labels. It reads labels that
            nobody would have yet, so results name it.

    Raises:
        InputError: The fraction is out of its range.
    """

    fraction: float
    unit: Unit
    order: Order = "random"

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0 < self.fraction <= 1:
            percent = f" {self.fraction:g} % are {self.fraction / 100:g}." if 1 < self.fraction <= 100 else ""
            raise InputError(f"label_fraction.fraction must be above 0 and at most 1, got {self.fraction}.{percent}")


@dataclass(frozen=True)
class LabeledUnit:
    """A rectangle of a scene whose labels are known, in pixels."""

    scene: str
    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class LabelSubset:
    """The labels that a run sees.

    Args:
        dataset: Name of the data set.
        unit: What the units are.
        tile_size: Side of the tiles' grid in pixels.
        fraction: Share that was asked for.
        seed: Of the order.
        units: The labeled ones, in that order.
        total_units: How many there would be at fraction 1.
        order: How they were ordered.
    """

    dataset: str
    unit: Unit
    tile_size: int
    fraction: float
    seed: int
    units: tuple[LabeledUnit, ...]
    total_units: int
    order: Order = "random"

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()

    def told(self) -> dict[str, str | float]:
        """Return what a result says of the labels that its run saw."""
        return {
            "label_fraction": self.fraction,
            "labeled_units": len(self.units),
            "total_units": self.total_units,
            "label_unit": self.unit,
            "label_order": self.order,
            "subset_sha256": self.sha256,
        }

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_text(path, to_json(self))

    @classmethod
    def read(cls, path: Path) -> "LabelSubset":
        """Read what `write` wrote.

        Raises:
            InputError: The file is missing or holds something else.
        """
        return read_record(cls, path)


def choose_labels(store: Store, tile_size: int, label_fraction: LabelFraction, seed: int) -> LabelSubset:
    """Take the first units of one seeded order: what a smaller fraction has, every larger one has too.

    Tiles lie on a grid from each training scene's upper left corner; those at the right and lower edge may be smaller.
    Tiles (or scenes) without a labeled pixel are left out. The count is rounded half up and is at least one.

    Args:
        store: Its training scenes are labeled.
        tile_size: Side of a tile in pixels.
        label_fraction: How many units, and of what kind.
        seed: Another seed gives another order.

    Raises:
        InputError: The data set has no classes, or no labeled pixel in its training scenes.
    """
    manifest = store.manifest
    if not manifest.classes:
        raise InputError(
            f"Data set '{manifest.dataset}' has no labels: it serves pretraining only. Add masks to fine-tune on it."
        )
    size = tile_size if label_fraction.unit == "tile" else None
    found = [unit for index in store.scenes_of("train") for unit in _labeled_units(store, index, size)]
    if not found:
        raise InputError(
            f"Data set '{manifest.dataset}' has zero labeled {label_fraction.unit}s: "
            "every pixel of its training masks is ignored. Check the masks, and which values are ignored."
        )
    found.sort(key=lambda unit: _rank(seed, manifest.dataset, unit))
    if label_fraction.order == "stratified":
        found = [found[place] for place in stratified_order(class_pixels(store, label_fraction.unit, found))]
    share = Decimal(str(label_fraction.fraction)) * len(found)  # decimal: 0.29 of 50 is 14.5, not 14.499999999999998
    count = max(1, int(share.to_integral_value(ROUND_HALF_UP)))
    units = tuple(found[:count])
    unit, order = label_fraction.unit, label_fraction.order
    fraction = float(label_fraction.fraction)
    return LabelSubset(manifest.dataset, unit, tile_size, fraction, seed, units, len(found), order)


def class_pixels(store: Store, unit: Unit, units: Sequence[LabeledUnit]) -> NDArray[np.int64]:
    """Count the labeled pixels of units by class: int64 [U, K], in their order; of scenes no mask is read."""
    scenes = {store.manifest.scenes[index].id: index for index in store.scenes_of("train")}
    found = np.zeros((len(units), len(store.manifest.classes)), np.int64)
    for place in sorted(range(len(units)), key=lambda each: units[each].scene):  # mask after mask
        one = units[place]
        index = scenes[one.scene]
        if unit == "scene":
            found[place] = store.manifest.scenes[index].class_pixels
        else:
            mask = store.mask(index)[one.row : one.row + one.height, one.column : one.column + one.width]
            found[place] = np.bincount(mask.ravel(), minlength=256)[: found.shape[1]]
    return found


def labeled_pixels(store: Store, subset: LabelSubset) -> NDArray[np.int64]:
    """Count the labeled pixels of a subset by class: int64 [K]. Of masks only what is labeled is read, if that."""
    if len(subset.units) == subset.total_units:
        counts = np.array([store.manifest.scenes[index].class_pixels for index in store.scenes_of("train")], np.int64)
    else:
        counts = class_pixels(store, subset.unit, subset.units)
    total: NDArray[np.int64] = counts.sum(axis=0)
    return total


def labeled_in_training(store: Store) -> dict[str, int]:
    """Count the labeled pixels of the training split by the names of the classes; no mask is read."""
    counts = [store.manifest.scenes[index].class_pixels for index in store.scenes_of("train")]
    return {each.name: int(count) for each, count in zip(store.manifest.classes, np.sum(counts, axis=0), strict=True)}


def describe_labels(subset: LabelSubset, pixels: Mapping[str, int], in_training: Mapping[str, int]) -> str:
    """Say which labels a run sees; warn of a rounded share, of classes that lack, and of far fewer pixels than units.

    Args:
        subset: The labels.
        pixels: What `labeled_pixels` counted, by the names of the classes.
        in_training: Those of the whole training split, likewise.
    """
    absent = [name for name, count in in_training.items() if not count]
    missed = [name for name, count in pixels.items() if not count and name not in absent]
    for whose, names, remedy in (
        ("The training split's masks", absent, "Add masks that show it"),
        ("These labels", missed, "Take a larger label_fraction, another seed, or label_fraction.order=stratified"),
    ):
        if names:
            warnings.warn(
                f"{whose} contain no pixel of {', '.join(names)}, so it cannot be learnt. {remedy}.",
                stacklevel=2,
            )
    asked = subset.fraction * subset.total_units
    if abs(len(subset.units) / asked - 1) > ROUNDED:
        warnings.warn(
            f"{100 * subset.fraction:.4g} % of {subset.total_units} {subset.unit}s would be {asked:.2g}: this run "
            f"has {len(subset.units)}, {100 * len(subset.units) / subset.total_units:.2g} %. The report counts those.",
            stacklevel=2,
        )
    share, of_units = sum(pixels.values()) / max(sum(in_training.values()), 1), len(subset.units) / subset.total_units
    if share < of_units / 2:
        why, other = "some are smaller than others, or hold fewer labels", ""
        if subset.unit == "tile":
            why, other = (
                "those at the edges of scenes are smaller, and some hold few labels",
                ", another dataset.tile_size",
            )
        warnings.warn(
            f"These {len(subset.units)} of {subset.total_units} {subset.unit}s hold {100 * share:.2g} % of the labeled "
            f"pixels, though {100 * of_units:.2g} % of the {subset.unit}s: {why}. Take more of them{other} or another "
            "seed.",
            stacklevel=2,
        )
    order = ", in stratified order, which reads labels nobody would have" if subset.order != "random" else ""
    shares = ", ".join(f"{name} {count:,}" for name, count in pixels.items())
    units = f"{len(subset.units)} of {subset.total_units} {subset.unit}s of the training split{order}"
    return f"Labels: {units}; pixels: {shares}"


def _rank(seed: int, dataset: str, unit: LabeledUnit) -> str:
    """Return what the units are ordered by: equal on every machine, and for every fraction."""
    return hashlib.sha256(json.dumps([seed, dataset, unit.scene, unit.row, unit.column]).encode()).hexdigest()


def _labeled_units(store: Store, index: int, tile_size: int | None) -> Iterator[LabeledUnit]:
    """Yield the tiles of a scene that have a labeled pixel; without a tile size the scene itself."""
    scene = store.manifest.scenes[index]
    step = tile_size or max(scene.height, scene.width)
    if sum(scene.class_pixels) == scene.height * scene.width:  # then no mask has to be read
        labeled = np.ones((-(-scene.height // step), -(-scene.width // step)), np.bool_)
    else:
        labeled = _any_labeled(store.mask(index) != store.manifest.ignore_index, step)
    for row, column in np.argwhere(labeled) * step:
        height, width = min(step, scene.height - row), min(step, scene.width - column)
        yield LabeledUnit(scene.id, int(row), int(column), int(height), int(width))


def _any_labeled(labeled: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """Tell for each cell of a grid whether it has a true pixel: [H, W] -> [ceil(H / step), ceil(W / step)]."""
    rows, columns = (np.arange(0, size, step) for size in labeled.shape)
    by_row = np.logical_or.reduceat(labeled, rows, axis=0)
    return np.logical_or.reduceat(by_row, columns, axis=1)
