"""What a report is made of: finished runs in tables, and the cells that these lack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_rs.errors import TOLD, InputError
from ssl_rs.reporting.cells import (
    FailedRun,
    MissingCell,
    StaleRun,
    missing_cells,
    read_failures,
    spoiled_cells,
    stale_runs,
)
from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.plans import PlannedCell, read_plans, settled
from ssl_rs.reporting.pretrainings import PretrainingRun, read_pretrainings
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.runs import LeftOut, Run
from ssl_rs.reporting.tables import Table
from ssl_rs.reporting.variants import told_apart

MOST_TOLD = 3
"""Runs that are left out, where none is left."""


@dataclass(frozen=True)
class Gathered:
    """All that was found.

    Args:
        runs: Finished runs but the stale ones, with the labels of their rows.
        tables: The same, side by side.
        pretrainings: Finished ones.
        planned: Cells of sweeps.
        missing: Cells without a run.
        failures: Runs that ended with an error.
        stale: Runs that no longer are what their cells ask for.
        duplicates: Runs that are in no table, for they would spoil it.
        broken: Results that could not be read.
        broken_plans: Plans and marks of failures that could not be.
        broken_pretrainings: Results of pretrainings that could not be.
    """

    runs: Sequence[Run]
    tables: Sequence[Table]
    pretrainings: Sequence[PretrainingRun]
    planned: Sequence[PlannedCell]
    missing: Sequence[MissingCell]
    failures: Sequence[FailedRun]
    stale: Sequence[StaleRun]
    duplicates: Sequence[LeftOut]
    broken: Sequence[LeftOut]
    broken_plans: Sequence[LeftOut]
    broken_pretrainings: Sequence[LeftOut]

    @property
    def num_done(self) -> int:
        """How many cells of the tables have a run."""
        return len(self.in_tables)

    @property
    def in_tables(self) -> set[Path]:
        """The folders of the runs that the tables are made of."""
        return {run.directory for table in self.tables for run in table.runs}

    @property
    def left_out(self) -> list[LeftOut]:
        """Runs of cells that the tables do not use, and why."""
        return [*self.duplicates, *self.broken]

    @property
    def told(self) -> list[LeftOut]:
        """The same, and files about cells that could not be read."""
        return [*self.left_out, *self.broken_plans]


def gather(runs_dir: Path, sweeps_dir: Path, group_of: Callable[[str], str] | None = None) -> Gathered:
    """Read all runs and plans, and find what is missing.

    Args:
        runs_dir: As of `ssl_rs.reporting.page.write_report`.
        sweeps_dir: Likewise.
        group_of: Likewise.

    Raises:
        InputError: Nothing finished, failed or planned, or groups that no run's scenes are in.
    """
    runs, broken = read_runs(runs_dir, group_of)
    beside = [runs_dir.parent / "pretrain"] if runs_dir.name == "finetune" else []
    pretrainings, broken_pretrainings = read_pretrainings(runs_dir, *beside)
    if group_of is not None and runs and not any(map(_has_groups, runs)):
        raise InputError(
            "scene_group puts no two test scenes of any run together. Expected a regular expression that finds how "
            f"their ids begin; the first are {', '.join(_first_scenes(runs)) or 'not known'}. Leave scene_group out "
            "where each scene is to count alone."
        )
    planned, broken_plans = read_plans(sweeps_dir, runs_dir)
    planned = settled(planned, runs)
    stale = stale_runs(runs, planned, sweeps_dir.parent)
    old = {each.run.directory for each in stale}
    current_runs = told_apart([run for run in runs if run.directory not in old])
    tables, duplicates = compare(current_runs)
    failed, broken_failures = read_failures(runs_dir, planned)
    current = {cell.run_dir for cell in planned}  # what failed under a plan that has changed since is no news
    failures = [failure for failure in failed if not current or failure.directory.resolve() in current]
    spoiled, broken = spoiled_cells(broken, planned)
    failures += spoiled
    missing = missing_cells(tables, planned, failures, sweeps_dir.parent)
    if not runs and not pretrainings and not missing and not failures:
        raise nothing_finished(runs_dir, broken)
    return Gathered(
        current_runs, tables, pretrainings, planned, missing, failures, stale, duplicates, broken,
        [*broken_plans, *broken_failures], broken_pretrainings,
    )  # fmt: skip


def nothing_finished(runs_dir: Path, left_out: Sequence[LeftOut]) -> InputError:
    """Return the error that says that there is nothing to report."""
    nowhere = "" if runs_dir.exists() else " There is no such folder."
    told = "".join(f"\n  left out: {each.path}: {each.reason}" for each in left_out[:MOST_TOLD])
    return InputError(
        f"runs={runs_dir} holds no finished run (RUN/result.json of finetune, evaluate or pretrain).{nowhere}{told}\n"
        "Run `python -m ssl_rs.finetune` first, or name the folder of your runs by runs=FOLDER."
    )


def _has_groups(run: Run) -> bool:
    return any(len(group) > 1 for labels in run.scene_confusions for group in run.groups_of_scenes(labels))


def _first_scenes(runs: Sequence[Run]) -> list[str]:
    return sorted({scene for run in runs for scenes in run.scene_confusions.values() for scene in scenes})[:TOLD]
