"""What the runs of one table say about labels: spread, paired differences, and how many labels are saved."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from ssl_rs.reporting.bootstrap import percentile_interval, resampled_miou
from ssl_rs.reporting.budgets import Budget, budget_of
from ssl_rs.reporting.runs import Run
from ssl_rs.reporting.statistics import (
    Interval,
    LabelsSaved,
    Summary,
    labels_saved,
    means_by_key,
    paired_difference,
    summarize,
)
from ssl_rs.reporting.tables import Table

NEARLY_ALL = 0.995
"""A larger share of the labels is all of them, in words."""

FEWEST_SCENES = 6
"""Of fewer no resampling can hold the truth in 95 %: in 2^(1 - n) of all cases all n values lie on one side of it."""

REFERENCES = ("random", "imagenet", "file")
"""Initializations that others are measured by."""


@dataclass(frozen=True)
class CellStatistics:
    """The mIoU of one cell.

    Args:
        label: Row.
        fraction: Column, in (0, 1].
        seeds: Over fine-tuning seeds; runs of one seed from several pretrainings are averaged first.
        runs: How many there are.
        pretrainings: Over the weights that its runs started from, each the mean over the seeds that all weights have;
            None where they share no seed (its seeds differ then, too), or all started from the same.
        scenes: 95 % bootstrap interval over the test scenes; None where it is unknown, or there are fewer than
            FEWEST_SCENES.
        num_scenes: How many were resampled, those of one group as one; 0 where unknown.
    """

    label: str
    fraction: float
    seeds: Summary
    runs: int
    pretrainings: Summary | None
    scenes: Interval | None
    num_scenes: int


@dataclass(frozen=True)
class Difference:
    """The mIoU of one initialization minus that of another, over equal seeds and subsets.

    Args:
        label: The one.
        reference: The other.
        fraction: In (0, 1].
        seeds: The differences, one a seed and subset that both have.
        scenes: 95 % interval by a bootstrap over test scenes, the same scenes for both; None as in `CellStatistics`.
    """

    label: str
    reference: str
    fraction: float
    seeds: Summary
    scenes: Interval | None

    @property
    def is_clear(self) -> bool:
        """Tell whether the interval over seeds excludes 0."""
        interval = self.seeds.interval
        return interval is not None and (interval.low > 0 or interval.high < 0)


@dataclass(frozen=True)
class Study:
    """All that one table says.

    Args:
        cells: One a row and label fraction with a score.
        differences: Of every two rows at every fraction where they share a seed and subset.
        references: Rows of random initialization and of published weights, which the others are measured by.
        saved: By row: where it reaches random initialization with all labels, None where no seed has both; without such
            runs, or with all labels alone, empty. A row that was tried with all labels alone is not in it. Random
            initialization itself is in it, too: it should get there with all labels only.
        random: The row of random initialization that the others are measured by, see `Table.random_label`.
        budget: What more steps change, where there are such runs.
        in_groups: Whether test scenes that lie together were resampled together.
    """

    cells: Sequence[CellStatistics]
    differences: Sequence[Difference]
    references: Collection[str]
    saved: Mapping[str, LabelsSaved | None]
    random: str | None
    budget: Budget | None = None
    in_groups: bool = False

    @property
    def first_differences(self) -> list[Difference]:
        """Those that a reader asks for first: against the references; where there are none, all."""
        return [each for each in self.differences if each.reference in self.references] or [*self.differences]

    @property
    def other_differences(self) -> list[Difference]:
        """Those of every other pair, whose number grows with the square of the rows."""
        first = self.first_differences
        return [each for each in self.differences if each not in first]

    @property
    def saturation(self) -> LabelsSaved | None:
        """Return where random initialization itself reaches what it does with all labels; None if with all of them.

        Where it gets there with fewer, more labels did nothing for it, and shares above that save none.
        """
        own = self.saved.get(self.random or "")
        return own if own is not None and own.fraction < NEARLY_ALL else None


def study_of(table: Table, tables: Sequence[Table] = ()) -> Study:
    """Do all statistics of a table.

    Args:
        table: The runs.
        tables: Others, among which may be one that differs in its number of steps alone.
    """
    scenes = _ResampledScenes(table)
    rows = [(label, fraction) for label in table.labels for fraction in table.fractions]
    cells = [_cell(table, *row, scenes) for row in rows if table.miou(*row)]
    pairs = itertools.combinations(table.labels, 2)
    # Rows stand in the order random, imagenet, file, pretrained: the later one is measured by the earlier.
    differences = [_difference(table, other, one, each, scenes) for one, other in pairs for each in table.fractions]
    random = table.random_label
    saved = {} if random is None else _saved(table, random)
    return Study(
        cells,
        [each for each in differences if each],
        {run.label for run in table.runs if run.initialization in REFERENCES},
        saved,
        random,
        budget_of(table, tables),
        table.any_scenes_together,
    )


def _miou(table: Table, run: Run) -> float | None:
    return run.scores[table.protocol.name].miou


def _scored(table: Table, label: str, fraction: float) -> list[tuple[Run, float]]:
    """Return the runs of a cell that have a score, and that score."""
    found = [(run, _miou(table, run)) for run in table.cell(label, fraction)]
    return [(run, value) for run, value in found if value is not None]


def _cell(table: Table, label: str, fraction: float, scenes: "_ResampledScenes") -> CellStatistics:
    scored = _scored(table, label, fraction)
    seeds = means_by_key((run.seed, value) for run, value in scored)
    drawn, number = scenes.mean([run for run, _ in scored]), scenes.number(scored[0][0])
    return CellStatistics(
        label, fraction, summarize(list(seeds.values())), len(scored),
        _over_pretrainings(scored),
        None if drawn is None else percentile_interval(drawn, number),
        0 if drawn is None else number,
    )  # fmt: skip


def _over_pretrainings(scored: Sequence[tuple[Run, float]]) -> Summary | None:
    """Summarize what several weights come to over the seeds that all of them have; None where there are none."""
    found: dict[str, list[tuple[int, float]]] = {}
    for run, value in scored:
        found.setdefault(run.weights_sha256, []).append((run.seed, value))
    curves = [means_by_key(values) for values in found.values()]
    shared = [seed for seed in curves[0] if all(seed in curve for curve in curves)]
    if len(curves) == 1 or not shared:
        return None
    return summarize([fmean(curve[seed] for seed in shared) for curve in curves])


def _difference(
    table: Table, label: str, reference: str, fraction: float, scenes: "_ResampledScenes"
) -> Difference | None:
    sides = [_scored(table, each, fraction) for each in (label, reference)]
    first, second = (means_by_key((_pair(run), value) for run, value in side) for side in sides)
    found = paired_difference(first, second)
    if found is None:
        return None
    shared = first.keys() & second.keys()
    drawn = [scenes.mean([run for run, _ in side if _pair(run) in shared]) for side in sides]
    known = drawn[0] is not None and drawn[1] is not None and scenes.agree([run for side in sides for run, _ in side])
    number = scenes.number(sides[0][0][0])
    interval = percentile_interval(drawn[0] - drawn[1], number) if known else None  # type: ignore[operator]
    return Difference(label, reference, fraction, found, interval)


def _pair(run: Run) -> tuple[int, str]:
    """Return what two runs must share to be compared with each other."""
    return run.seed, run.subset_sha256


def _saved(table: Table, random: str) -> dict[str, LabelsSaved | None]:
    curves: dict[str, dict[int, dict[float, float]]] = {}
    for label, fraction in itertools.product(table.labels, table.fractions):
        means = means_by_key((run.seed, value) for run, value in _scored(table, label, fraction))
        share = table.share(fraction)  # of so few units that they are the same of several fractions, any will do
        for seed, value in means.items():
            curves.setdefault(label, {}).setdefault(seed, {})[share] = value
    reference = {seed: curve[1.0] for seed, curve in curves.get(random, {}).items() if 1.0 in curve}
    # Weights that had labels of these scenes before saved none of them.
    knew = {run.label for run in table.runs if "training_labels_seen" in run.pretraining}
    tried_fewer = {
        label for label, curve in curves.items() if any(each < NEARLY_ALL for own in curve.values() for each in own)
    }
    if not reference or tried_fewer <= {random}:
        return {}
    told = [label for label in curves if label not in knew and label in tried_fewer | {random}]
    return {label: labels_saved(curves[label], reference) for label in told}


class _ResampledScenes:
    """The mIoU of each run over resampled test scenes; every run sees the same draws.

    Args:
        table: Whose runs are scored, by its protocol.
    """

    def __init__(self, table: Table) -> None:
        self.protocol = table.protocol
        self._known: dict[int, NDArray[np.float64]] = {}
        self._counted: dict[int, dict[tuple[str, ...], NDArray[np.int64]]] = {}

    def mean(self, runs: Sequence[Run]) -> NDArray[np.float64] | None:
        """Return the mean over seeds of runs, [R]; None where the runs do not know the same scenes, or too few."""
        if not runs or not self.agree(runs) or self.number(runs[0]) < FEWEST_SCENES:
            return None
        by_seed: dict[int, list[NDArray[np.float64]]] = {}
        for run in runs:
            by_seed.setdefault(run.seed, []).append(self._of(run))
        means: NDArray[np.float64] = np.mean([np.mean(values, axis=0) for values in by_seed.values()], axis=0)
        return None if np.isnan(means).all() else means

    def agree(self, runs: Sequence[Run]) -> bool:
        """Tell whether the runs know the counts of the same scenes, in the same groups."""
        return len({tuple(self._groups(run)) for run in runs}) == 1

    def number(self, run: Run) -> int:
        """Return how many groups of scenes a run knows the counts of, and has pixels that count in."""
        return len(self._groups(run))

    def _groups(self, run: Run) -> Mapping[tuple[str, ...], NDArray[np.int64]]:
        """Return the counts [K, K] of each group of scenes; one without a pixel that counts tells nothing."""
        if id(run) not in self._counted:
            scenes = run.scene_confusions.get(self.protocol.labels, {})
            groups = run.groups_of_scenes(self.protocol.labels)
            pooled = {group: np.sum([scenes[each] for each in group], axis=0) for group in groups}
            _, counted = self._classes(run)
            self._counted[id(run)] = {group: counts for group, counts in pooled.items() if counts[counted].any()}
        return self._counted[id(run)]

    def _classes(self, run: Run) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which classes are in the mean, and which count as truth, [K] each."""
        scored = np.array([each.name not in self.protocol.excluded for each in run.classes])
        return scored, scored if self.protocol.excluded_pixels == "ignored" else np.ones_like(scored)

    def _of(self, run: Run) -> NDArray[np.float64]:
        if id(run) not in self._known:
            scored, counted = self._classes(run)
            self._known[id(run)] = resampled_miou(np.stack([*self._groups(run).values()]), counted, scored)
        return self._known[id(run)]
