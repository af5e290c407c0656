"""The state of every cell as CSV: where it belongs, and what fills it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_rs.reporting.cells import FailedRun
from ssl_rs.reporting.csv_files import csv_text
from ssl_rs.reporting.gathering import Gathered
from ssl_rs.reporting.plans import PlannedCell
from ssl_rs.reporting.runs import LeftOut, Run
from ssl_rs.reporting.tables import Comparison, comparison_of

COLUMNS = (
    "state", *Comparison._fields, "label", "label_fraction", "seed", "reason", "command", "command_of_commit", "run",
)  # fmt: skip

REPEATED = "the table has these scores already, from the run itself"
"""Why a score of `evaluate` is no cell."""


def cells_csv(found: Gathered) -> str:
    """Return one line a cell: its state (docs/statistics.md says which there are), its place, and what fills it."""
    plans = {cell.run_dir: cell for cell in found.planned}
    reasons, in_tables = {each.path: each.reason for each in found.duplicates}, found.in_tables
    rows = []
    for run in found.runs:
        state, reason = ("left out", reasons[run.directory]) if run.directory in reasons else ("done", None)
        if state == "done" and run.directory not in in_tables:
            state, reason = "repeated", REPEATED
        cell = plans.get(run.directory.resolve())
        rows.append(_row(state, run, reason, cell.command if cell else None))
    rows += [_row("stale", each.run, each.reason, each.command) for each in found.stale]
    rows += [
        {
            "state": "missing", **each.belongs_to, "label": each.label, "label_fraction": each.label_fraction,
            "seed": each.seed, "reason": each.state, "command": each.command, "command_of_commit": each.of_commit,
        }
        for each in found.missing
    ]  # fmt: skip
    return csv_text([*rows, *_without_run(found.broken, found.failures, plans)], COLUMNS)


def _row(state: str, run: Run, reason: str | None, command: str | None) -> dict[str, Any]:
    place = {"label": run.label, "label_fraction": run.label_fraction, "seed": run.seed}
    told = {"reason": reason, "command": command, "run": str(run.directory)}
    return {"state": state, **comparison_of(run)._asdict(), **place, **told}


def _without_run(
    broken: Sequence[LeftOut], failures: Sequence[FailedRun], plans: Mapping[Path, PlannedCell]
) -> list[dict[str, Any]]:
    """Return the lines of what has no result, or none that can be read."""
    rows = [{"state": "left out", "reason": each.reason, "run": str(each.path.parent)} for each in broken]
    for each in failures:
        cell = plans.get(each.directory.resolve())
        place: dict[str, Any] = dict(cell.belongs_to) if cell else {}
        if cell:
            place |= {"label": cell.label, "label_fraction": cell.label_fraction, "seed": cell.seed}
        told = {"reason": each.error, "command": each.command, "run": str(each.directory)}
        rows.append({"state": "failed", **place, **told})
    return rows
