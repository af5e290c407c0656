"""The report as CSV: every run, and what the runs of each table say together. What is undefined is empty."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_rs.reporting.confusions import confusions_of
from ssl_rs.reporting.pretrainings import PretrainingRun
from ssl_rs.reporting.runs import Run, Score
from ssl_rs.reporting.statistics import Interval, Summary
from ssl_rs.reporting.study import Study
from ssl_rs.reporting.tables import Comparison, Table

Studies = Sequence[tuple[Table, Study]]

PLACE = (*Comparison._fields, "protocol", "labels", "label")
"""Columns that say where a line belongs; there is a file with these also where it has no line."""

MADE_WITH = ("git_commit", "torch", "device", "cpu", "precision", "world_size")
"""Columns that say what made a run, empty where an earlier version did not write it."""


def results_csv(runs: Iterable[Run]) -> str:
    """Return one line a run and protocol; what is undefined is empty, as is `iou/<class>` where a run has no such."""
    return csv_text([_run_row(run, score) for run in runs for score in run.scores.values()])


def summary_csv(studies: Studies) -> str:
    """Return one line a cell and protocol: its mIoU over seeds, over pretrainings and over test scenes."""
    return csv_text(
        [
            {
                **_place(table),
                "label": cell.label,
                "label_fraction": cell.fraction,
                **_summary("miou", cell.seeds, "seeds"),
                "runs": cell.runs,
                "pretrainings": cell.pretrainings.n if cell.pretrainings else None,
                "miou_pretrainings_std": cell.pretrainings.std if cell.pretrainings else None,
                **_ends("miou_scenes", cell.scenes),
                "scenes": cell.num_scenes or None,
            }
            for table, study in studies
            for cell in study.cells
        ],
        PLACE,
    )


def differences_csv(studies: Studies) -> str:
    """Return one line a pair of initializations, label fraction and protocol: `label` minus `reference`."""
    return csv_text(
        [
            {
                **_place(table),
                "label": each.label,
                "reference": each.reference,
                "label_fraction": each.fraction,
                **_summary("difference", each.seeds, "pairs"),
                **_ends("difference_scenes", each.scenes),
            }
            for table, study in studies
            for each in study.differences
        ],
        PLACE,
    )


def labels_saved_csv(studies: Studies) -> str:
    """Return one line an initialization and protocol: where it reaches random initialization with all labels.

    `inf` says that it does not.
    """
    return csv_text(
        [
            {
                **_place(table),
                "label": label,
                "fraction": found.fraction,
                **_ends("fraction", found.interval),
                "seeds": found.seeds,
                "smallest_measured": found.smallest,
                "largest_measured": found.largest,
                "target_miou": found.target,
                "falls_below_again_at": found.falls_below,
            }
            for table, study in studies
            for label, found in study.saved.items()
            if found
        ],
        PLACE,
    )


def budgets_csv(studies: Studies) -> str:
    """Return one line a cell and protocol that was also trained for more steps: its mIoU then minus its mIoU."""
    return csv_text(
        [
            {
                **_place(table),
                "longer_steps": study.budget.longer,
                "label": each.label,
                "label_fraction": each.fraction,
                **_summary("change", each.seeds, "pairs"),
                "allowed": each.allowed,
            }
            for table, study in studies
            if study.budget
            for each in study.budget.changes
        ],
        PLACE,
    )


def confusions_csv(tables: Sequence[Table]) -> str:
    """Return one line a cell, true class and predicted class, with the pixels of all its runs and scenes."""
    return csv_text(
        [
            {
                **_place(table),
                "label": each.label,
                "label_fraction": each.fraction,
                "truth": truth,
                "prediction": prediction,
                "pixels": int(each.counts[row, column]),
            }
            for table in tables
            for each in confusions_of(table)
            for row, truth in enumerate(each.names)
            for column, prediction in enumerate(each.names)
        ],
        PLACE,
    )


def pretrainings_csv(found: Iterable[PretrainingRun]) -> str:
    """Return one line a pretraining: its losses, metrics and the spread of its features."""
    plain = ("dataset", "backbone", "start", "seed", "steps", "images_seen", "wall_seconds", "transductive")
    return csv_text(
        [
            {
                "pretext": " + ".join(each.pretext),
                **{name: getattr(each, name) for name in plain},
                "run": str(each.directory),
                **{f"loss/{name}": value for name, value in each.losses.items()},
                **each.metrics,
                **{f"final_collapse/{name}": value for name, value in each.collapse.items()},
            }
            for each in found
        ],
        ("pretext", *plain, "run"),
    )


def csv_text(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> str:
    """Return rows as CSV; the columns are those that come first, and all others that some row has."""
    columns = list(dict.fromkeys([*first, *(column for row in rows for column in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _place(table: Table) -> dict[str, Any]:
    return {**table.comparison._asdict(), "protocol": table.protocol.name, "labels": table.protocol.labels}


def _summary(name: str, summary: Summary, counted: str) -> dict[str, Any]:
    ends = _ends(name, summary.interval)
    return {f"{name}_mean": summary.mean, f"{name}_std": summary.std, counted: summary.n, **ends}


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {f"{name}_low": interval.low if interval else None, f"{name}_high": interval.high if interval else None}


def _run_row(run: Run, score: Score) -> dict[str, Any]:
    plain = (
        "dataset", "backbone", "decoder", "initialization", "label", "label_fraction", "labeled_units", "label_unit",
    )  # fmt: skip
    rest = (
        "split", "label_order", "seed", "steps", "wall_seconds", "weights_sha256", "subset_sha256", "manifest_sha256",
        "settings_hash", "command",
    )  # fmt: skip
    return {
        **{name: getattr(run, name) for name in plain},
        "protocol": score.protocol.name,
        "labels": score.protocol.labels,
        "excluded": ", ".join(score.protocol.excluded),
        "excluded_pixels": score.protocol.excluded_pixels,
        **{name: getattr(score, name) for name in ("miou", "overall_accuracy", "mean_f1", "kappa")},
        **{name: getattr(run, name) for name in rest},
        **{name: run.told_of_computer(name) for name in MADE_WITH},
        "run": str(run.directory),
        **{f"iou/{name}": value for name, value in score.class_iou.items()},
    }
