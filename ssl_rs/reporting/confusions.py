"""Which class is taken for which: the confusion matrix of each cell of a table, with user's and producer's accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_rs.reporting.tables import Table


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of one cell, summed over its runs and their scenes.

    Args:
        label: Row of the table.
        fraction: Its column, in (0, 1].
        names: Of the K classes.
        counts: int64 [K, K] pixels: row truth, column prediction.
    """

    label: str
    fraction: float
    names: Sequence[str]
    counts: NDArray[np.int64]

    @property
    def shares(self) -> list[list[float | None]]:
        """Return which share of each class's pixels was taken for which, [K][K]; None of a class without pixels."""
        return [_shares(row, int(row.sum())) for row in self.counts]

    @property
    def producers_accuracy(self) -> list[float | None]:
        """Return which share of each class's pixels was found, also called recall."""
        return [row[index] for index, row in enumerate(self.shares)]

    @property
    def users_accuracy(self) -> list[float | None]:
        """Return which share of the pixels called a class are of it, also called precision.

        Source: Congalton, "A review of assessing the accuracy of classifications of remotely sensed data", Remote
        Sensing of Environment 37, 1991, for both.
        """
        return [_shares(column, int(column.sum()))[index] for index, column in enumerate(self.counts.T)]


def confusions_of(table: Table) -> list[Confusion]:
    """Return the matrix of each cell whose runs know the counts of their scenes, by the labels of the protocol."""
    found = []
    for label in table.labels:
        for fraction in table.fractions:
            runs = [run for run in table.cell(label, fraction) if run.scene_confusions.get(table.protocol.labels)]
            runs = [run for run in runs if run.classes == runs[0].classes]
            if runs:
                scenes = [each for run in runs for each in run.scene_confusions[table.protocol.labels].values()]
                counts: NDArray[np.int64] = np.sum(scenes, axis=0, dtype=np.int64)
                names = [each.name for each in runs[0].classes]
                if table.protocol.excluded_pixels == "ignored":
                    counts[[name in table.protocol.excluded for name in names]] = 0
                found.append(Confusion(label, fraction, names, counts))
    return found


def _shares(counts: NDArray[np.int64], total: int) -> list[float | None]:
    return [float(count) / total if total else None for count in counts]
