"""Runs put side by side: only what may be compared shares a table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import NamedTuple

from ssl_rs.reporting.differing_settings import differing_settings
from ssl_rs.reporting.protocols import Protocol
from ssl_rs.reporting.runs import Run, Score
from ssl_rs.reporting.statistics import Summary, means_by_key, summarize

COMPUTERS = ("torch", "device", "cpu")
"""What a run tells of the computer that made it, and that changes its result a little."""

ROUNDED = 0.1
"""Of a share of the labels: rounding by less is not told."""

TRAINED = ("pretrained", "finetuned")
"""Initializations whose weights come from a training of ours, of which there could be others."""


class Comparison(NamedTuple):
    """What runs must have in common to be compared; each has tables and pictures of its own."""

    dataset: str
    backbone: str
    decoder: str
    steps: int
    label_unit: str
    label_order: str
    manifest_sha256: str
    split: str

    @property
    def setting(self) -> str:
        """What tells it from others of its data set and network, e.g. "500 steps, test scenes, labels by tile"."""
        trained = f"{self.steps:,} steps" if self.steps else "frozen encoder"
        order = "" if self.label_order == "random" else f", {self.label_order} order"
        return f"{trained}, {self.split} scenes, labels by {self.label_unit}{order}"


def comparison_of(run: Run) -> Comparison:
    """Return what a run may be compared within."""
    return Comparison(*(getattr(run, name) for name in Comparison._fields))


class Place(NamedTuple):
    """Where a run stands in the table of its comparison, and which of several runs in that place it is."""

    label: str
    label_fraction: float
    seed: int
    weights_sha256: str


def place_of(run: Run) -> Place:
    """Return where a run stands; a score of it by `evaluate` stands there, too."""
    return Place(*(getattr(run, name) for name in Place._fields))


def _differing_computers(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return with which versions of torch, devices and, on CPUs, processors runs were made, where there are several."""
    found = {
        key: {
            str(value)
            for run in runs
            if (value := run.told_of_computer(key)) and (key != "cpu" or run.told_of_computer("device") == "cpu")
        }
        for key in COMPUTERS
    }
    return {key: sorted(values) for key, values in found.items() if len(values) > 1}


def _seeds_differ(cells: Iterable[Sequence[Run]]) -> bool:
    """Tell whether some of these cells have other seeds than the others; cells without a run have none."""
    return len({frozenset(run.seed for run in cell) for cell in cells if cell}) > 1


@dataclass(frozen=True)
class Table:
    """The runs of one comparison, scored by one protocol.

    Args:
        comparison: What they have in common.
        protocol: How the scores were counted.
        runs: In the order of the rows.
        labels: The rows, by kind and name.
        fractions: The columns, ascending, in (0, 1].
        apart: What tells its data from that of another comparison that reads alike; empty where none does.
    """

    comparison: Comparison
    protocol: Protocol
    runs: Sequence[Run]
    labels: Sequence[str]
    fractions: Sequence[float]
    apart: str = ""

    @property
    def setting(self) -> str:
        """What tells it from others of its data set and network."""
        return ", ".join(filter(None, (self.comparison.setting, self.trained_elsewhere, self.apart)))

    @property
    def trained_elsewhere(self) -> str:
        """On which other data its networks were trained; empty where some were on its own: the other rows say it."""
        if any(run.trained_on in ("", run.manifest_sha256) for run in self.runs):
            return ""
        names = dict.fromkeys(run.trained_on_name or f"data {run.trained_on[:8]}" for run in self.runs)
        return f"trained on {' and '.join(sorted(names))}"

    def share(self, fraction: float) -> float:
        """Return the share of the units that the runs of a column had labels of, where few units make it another.

        Units are whole, and there is at least one; a fraction that is rounded by up to a tenth stays what it is called.
        """
        totals = {run.label: run.labeled_units for run in self.runs if run.label_fraction == 1}
        most = max(totals.values(), default=0)
        known = {
            min(run.labeled_units / total, 1.0)
            for run in self.runs
            if run.label_fraction == fraction and run.labeled_units
            if (total := run.total_units or totals.get(run.label, most))
        }
        share = fmean(known) if known else fraction
        return share if abs(share / fraction - 1) > ROUNDED else fraction

    @property
    def rounded_shares(self) -> dict[float, float]:
        """Return by fraction the share of the labels that there was, where that is another."""
        return {each: share for each in self.fractions if (share := self.share(each)) != each}

    def cell(self, label: str, fraction: float) -> list[Run]:
        """Return the runs of one cell; their seeds or their weights differ."""
        return [run for run in self.runs if run.label == label and run.label_fraction == fraction]

    def summary(self, label: str, fraction: float, value: Callable[[Score], float | None]) -> Summary | None:
        """Summarize one value over the seeds of a cell; None where no run has it.

        Runs of one seed from several pretrainings are averaged first: they share subset, crops and the weights of the
        decoder, so they are no further seeds.
        """
        values = [(run.seed, value(run.scores[self.protocol.name])) for run in self.cell(label, fraction)]
        known = means_by_key((seed, each) for seed, each in values if each is not None)
        return summarize(list(known.values())) if known else None

    def seeds_differ(self, fraction: float) -> bool:
        """Tell whether the cells of a column have different seeds: their means are then no measure of each other."""
        return _seeds_differ(self.cell(label, fraction) for label in self.labels)

    @property
    def any_seeds_differ(self) -> bool:
        """Tell whether any of its cells have different seeds."""
        return _seeds_differ(self.cell(*each) for each in product(self.labels, self.fractions))

    @property
    def _rows(self) -> dict[str, list[Run]]:
        """The runs of each row."""
        return {label: [run for run in self.runs if run.label == label] for label in self.labels}

    @property
    def any_scenes_together(self) -> bool:
        """Tell whether some of its test scenes count as one, since they lie together."""
        return any(len(group) > 1 for run in self.runs for group in run.groups_of_scenes(self.protocol.labels))

    @property
    def any_groups_differ(self) -> bool:
        """Tell whether its runs know the same test scenes, and differ in which of them lie together."""
        found: dict[frozenset[str], set[tuple[tuple[str, ...], ...]]] = {}
        for run in self.runs:
            groups = run.groups_of_scenes(self.protocol.labels)
            found.setdefault(frozenset(scene for group in groups for scene in group), set()).add(groups)
        return any(len(each) > 1 for each in found.values())

    @property
    def classes_of_some_runs(self) -> list[str]:
        """Return the classes that the mIoU of some of its runs is a mean over, and that of others is not."""
        known = [run.scores[self.protocol.name].class_iou for run in self.runs]
        names = dict.fromkeys(name for each in known for name in each)
        absent = {name: [each[name] is None for each in known if name in each] for name in names}
        return [name for name, found in absent.items() if any(found) and not all(found)]

    @property
    def mixed_rows(self) -> dict[str, list[str]]:
        """Return the rows whose runs were meant alike and were not made alike, and what differs in each of them.

        The settings of `differing_settings`: where they were meant otherwise, rows are told apart. And with what they
        were computed, which changes a result a little.
        """
        found = {label: differing_settings(runs) | _differing_computers(runs) for label, runs in self._rows.items()}
        return {
            label: [f"{key} ({', '.join(values)})" for key, values in each.items()]
            for label, each in found.items()
            if each
        }

    @property
    def of_one_pretraining(self) -> list[str]:
        """Return the rows of which several seeds start from the weights of one and the same training of ours."""
        return [
            label
            for label, runs in self._rows.items()
            if runs[0].initialization in TRAINED
            and len({run.seed for run in runs}) > 1
            and len({run.weights_sha256 for run in runs}) == 1
        ]

    def miou(self, label: str, fraction: float) -> Summary | None:
        """Summarize mIoU over the seeds of a cell."""
        return self.summary(label, fraction, lambda score: score.miou)

    def best(self, fraction: float) -> list[str]:
        """Return the labels with the highest mean mIoU of a column, where there are two to compare, of equal seeds."""
        if self.seeds_differ(fraction):
            return []
        means = {label: found.mean for label in self.labels if (found := self.miou(label, fraction))}
        return [label for label, mean in means.items() if mean == max(means.values())] if len(means) > 1 else []

    @property
    def random_labels(self) -> set[str]:
        """The rows of random initialization."""
        return {run.label for run in self.runs if run.initialization == "random"}

    @property
    def random_label(self) -> str | None:
        """The row of random initialization that others are measured by: the only one, or of several that called so."""
        labels = self.random_labels
        return next(iter(labels)) if len(labels) == 1 else "random" if "random" in labels else None

    def full_random(self) -> Summary | None:
        """Return the mIoU of random initialization with every label: what pretraining tries to reach with fewer."""
        return None if self.random_label is None else self.miou(self.random_label, 1.0)

    def reaches_full_random(self, label: str, fraction: float) -> bool:
        """Tell whether another cell is at least as good as `full_random`, over the same seeds."""
        found, full = self.miou(label, fraction), self.full_random()
        if found is None or full is None or self.random_label is None or (label, fraction) == (self.random_label, 1.0):
            return False
        seeds = [{run.seed for run in cell} for cell in (self.cell(label, fraction), self.cell(self.random_label, 1.0))]
        return seeds[0] == seeds[1] and found.mean >= full.mean

    @property
    def any_reaches_full_random(self) -> bool:
        """Whether any cell does."""
        return any(self.reaches_full_random(label, share) for label in self.labels for share in self.fractions)
