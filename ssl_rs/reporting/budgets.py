"""What more steps of fine-tuning change: whether a table's number of steps was enough to say anything of labels."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssl_rs.reporting.differing_settings import is_compared
from ssl_rs.reporting.runs import Run
from ssl_rs.reporting.starts import starts_differ
from ssl_rs.reporting.statistics import Summary, means_by_key, paired_difference, summarize
from ssl_rs.reporting.tables import Table

LEAST = 0.005
"""A mean mIoU in [0, 1] that moves by less has converged, however small its standard error."""

Key = tuple[int, str]


@dataclass(frozen=True)
class Change:
    """The mIoU of one cell after more steps minus that after fewer.

    Args:
        label: Row.
        fraction: Column, in (0, 1].
        seeds: The differences, one a seed and subset that both have.
        error: Standard error of the mean after fewer steps, over the same seeds; None for one.
    """

    label: str
    fraction: float
    seeds: Summary
    error: float | None

    @property
    def allowed(self) -> float:
        """Return by how much the mean may move: half a point or its standard error, whichever is larger."""
        return max(LEAST, self.error or 0.0)

    @property
    def is_small(self) -> bool:
        """Tell whether it moves by less."""
        return abs(self.seeds.mean) < self.allowed


@dataclass(frozen=True)
class Budget:
    """A table against the same with more steps.

    Args:
        steps: Of the table.
        longer: Of the other.
        changes: Of every cell that both have, in the order of the table.
        random: That of random initialization with the most labels among them; None where several rows might be meant.
    """

    steps: int
    longer: int
    changes: Sequence[Change]
    random: Change | None

    @property
    def has_converged(self) -> bool | None:
        """Tell whether at least twice the steps left random initialization with all labels as it was; None: unknown.

        Fewer labels, one seed, or less than twice the steps can show that it has not converged, and not that it has.
        """
        change = self.random
        if change is None:
            return None
        tells = change.fraction == 1 and change.seeds.n > 1 and self.longer >= 2 * self.steps
        return None if change.is_small and not tells else change.is_small


def budget_of(table: Table, tables: Sequence[Table]) -> Budget | None:
    """Compare a table with the one of the fewest steps that has at least twice its own, or else the most.

    Of tables that share no cell with it the next one is taken.

    Args:
        table: Of fine-tuning.
        tables: Among which the other is looked for; it differs in nothing but its number of steps.

    Returns:
        None where there is no such table, or it shares no cell.
    """
    own = table.comparison
    longer = {
        each.comparison.steps: each
        for each in tables
        if each.protocol == table.protocol
        and each.comparison == own._replace(steps=each.comparison.steps)
        and each.comparison.steps > own.steps > 0
    }
    enough, fewer = ([steps for steps in longer if (steps >= 2 * own.steps) is each] for each in (True, False))
    for steps in [*sorted(enough), *sorted(fewer, reverse=True)]:
        cells = itertools.product(table.labels, table.fractions)
        if changes := [change for cell in cells if (change := _change(table, longer[steps], *cell))]:
            return Budget(own.steps, steps, changes, _random_change(table, changes))
    return None


def _random_change(table: Table, changes: Sequence[Change]) -> Change | None:
    """Return the change of random initialization with the most labels: of its row so called, or of its only one."""
    random = [each for each in changes if each.label in table.random_labels]
    called = [each for each in random if each.label == table.random_label]
    chosen = called or [each for each in random if each.fraction == max(each.fraction for each in random)]
    alone = len({each.label for each in chosen}) == 1
    return max(chosen, key=lambda each: each.fraction) if alone else None


def _change(table: Table, longer: Table, label: str, fraction: float) -> Change | None:
    runs = table.cell(label, fraction)
    more, less = (_mious(table, each) for each in (_counterpart(runs, longer, label, fraction), runs))
    found = paired_difference(more, less)
    if found is None:
        return None
    shared = summarize([less[key] for key in less if key in more])
    return Change(label, fraction, found, None if shared.std is None else shared.std / math.sqrt(shared.n))


def _counterpart(runs: Sequence[Run], longer: Table, label: str, fraction: float) -> list[Run]:
    """Return the runs of a longer table that differ from those of a cell in nothing but their steps.

    The row may have another name there: it says what tells it from the other rows of its own table.
    """
    rows = {each: cell for each in longer.labels if (cell := longer.cell(each, fraction))}
    alike = {
        each: cell
        for each, cell in rows.items()
        if all(one.own_label == other.own_label and not _other_settings(one, other) for one in runs for other in cell)
    }
    return alike.get(label) or (next(iter(alike.values())) if len(alike) == 1 else [])


def _mious(table: Table, runs: Sequence[Run]) -> Mapping[Key, float]:
    """Return the mean mIoU of each seed and subset; several pretrainings of one seed are averaged."""
    scored = [((run.seed, run.subset_sha256), run.scores[table.protocol.name].miou) for run in runs]
    return means_by_key((key, value) for key, value in scored if value is not None)


def _other_settings(one: Run, other: Run) -> bool:
    """Tell whether two runs are known to differ in more than the number of steps of fine-tuning."""
    if starts_differ(one, other) or one.trained_on != other.trained_on:
        return True
    shared = one.settings.keys() & other.settings.keys() - {"trainer.max_steps"}
    return any(one.settings[key] != other.settings[key] for key in shared if is_compared(key))
