"""The runs that may be compared, each with its tables, curves and pictures: the sections of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from ssl_rs.reporting.confusions import Confusion, confusions_of
from ssl_rs.reporting.differing_settings import differing_settings
from ssl_rs.reporting.figures import Line, label_curve, lines_of
from ssl_rs.reporting.flat_texts import distinct_texts, flat_texts
from ssl_rs.reporting.runs import LeftOut, Run
from ssl_rs.reporting.samples import SampleGrid, sample_grid
from ssl_rs.reporting.statistics import Summary, summarize
from ssl_rs.reporting.study import Study, study_of
from ssl_rs.reporting.tables import Comparison, Table

METRICS = {"mIoU": "miou", "overall accuracy": "overall_accuracy", "mean F1": "mean_f1", "kappa": "kappa"}


@dataclass(frozen=True)
class ScoredTable:
    """A table of the page and its curve.

    Args:
        table: The runs.
        study: What they say together.
        meaning: What its protocol means, a sentence.
        labeled: How many units are labeled at each fraction, in words.
        curve: SVG; None where there is only one label fraction, or no score.
        curve_file: Name of the file that holds it too.
        class_names: Columns of the table by class.
        details: Row, label fraction, then a summary a metric and class, None where no run has a value.
    """

    table: Table
    study: Study
    meaning: str
    labeled: Mapping[float, str]
    curve: str | None
    curve_file: str
    class_names: Sequence[str]
    details: Sequence[tuple[str, float, Sequence[Summary | None]]]


@dataclass(frozen=True)
class Section:
    """Everything about the runs that may be compared.

    Args:
        comparison: What they have in common.
        num_runs: How many there are.
        mean_seconds: Mean wall time of a run.
        lines: Color of each row.
        tables: One a protocol, the data set's own first.
        overview: Row, label fraction, then mIoU by each protocol; empty where there is but one.
        confusions: Of each cell, by the first protocol.
        grid: Pictures of test tiles.
        provenance: Label, and the distinct weights its runs started from.
        environment: Setting, and its values over the runs.
        differing: Key of the config whose value is not that of all rows; each value with the rows that have it.
    """

    comparison: Comparison
    num_runs: int
    mean_seconds: float
    lines: Mapping[str, Line]
    tables: Sequence[ScoredTable]
    overview: Sequence[tuple[str, float, Sequence[Summary | None]]]
    confusions: Sequence[Confusion]
    grid: SampleGrid | None
    provenance: Sequence[tuple[str, Sequence[Mapping[str, str]]]]
    environment: Sequence[tuple[str, str]]
    differing: Sequence[tuple[str, Mapping[str, Sequence[str]]]]


def sections_of(tables: Sequence[Table]) -> tuple[list[Section], list[LeftOut]]:
    """Return a section a comparison, and each file of pictures that is broken."""
    sections, left_out, numbers = [], [], count(1)
    for comparison in dict.fromkeys(table.comparison for table in tables):
        own = [table for table in tables if table.comparison == comparison]
        grid, broken = sample_grid(own[0])
        left_out += broken
        runs = list({run.directory: run for table in own for run in table.runs}.values())
        lines = lines_of(own)
        sections.append(
            Section(
                comparison=comparison,
                num_runs=len(runs),
                mean_seconds=summarize([run.wall_seconds for run in runs]).mean,
                lines=lines,
                tables=[_scored(table, tables, lines, next(numbers)) for table in own],
                overview=_overview(own),
                confusions=confusions_of(own[0]),
                grid=grid,
                provenance=[(label, _weights([run for run in runs if run.label == label])) for label in lines],
                environment=list(distinct_texts([flat_texts(_made_in(run)) for run in runs]).items()),
                differing=list(differing_settings(runs).items()),
            )
        )
    return sections, left_out


def _made_in(run: Run) -> Mapping[str, Any]:
    """Return where a run was made: its environment.json, or what its result tells of it."""
    return run.environment or {key: value for key, value in run.made_with.items() if key != "overrides"}


def _scored(table: Table, tables: Sequence[Table], lines: Mapping[str, Line], number: int) -> ScoredTable:
    names = list(dict.fromkeys(name for run in table.runs for name in run.scores[table.protocol.name].class_iou))
    rows = [(label, fraction) for label in table.labels for fraction in table.fractions if table.cell(label, fraction)]
    curve = None
    if len(table.fractions) > 1 and any(table.miou(*row) for row in rows):
        curve = label_curve(table, lines)
    return ScoredTable(
        table=table,
        study=study_of(table, tables),
        meaning=table.protocol.sentence(names),
        labeled={fraction: _labeled(table, fraction) for fraction in table.fractions},
        curve=curve,
        curve_file=f"curve_{number}.svg",
        class_names=names,
        details=[(label, fraction, _summaries(table, label, fraction, names)) for label, fraction in rows],
    )


def _overview(tables: Sequence[Table]) -> list[tuple[str, float, list[Summary | None]]]:
    """Return the mIoU of each row and label fraction by every protocol; nothing where there is but one."""
    if len(tables) == 1:
        return []
    labels = dict.fromkeys(label for table in tables for label in table.labels)
    fractions = sorted({fraction for table in tables for fraction in table.fractions})
    rows = [(label, fraction) for label in labels for fraction in fractions]
    return [(*row, [table.miou(*row) for table in tables]) for row in rows if any(table.cell(*row) for table in tables)]


def _labeled(table: Table, fraction: float) -> str:
    counts = sorted({run.labeled_units for run in table.runs if run.label_fraction == fraction})
    unit = table.comparison.label_unit
    return f"{' or '.join(f'{count:,}' for count in counts)} {unit}{'s' if counts != [1] else ''}"


def _summaries(table: Table, label: str, fraction: float, class_names: Sequence[str]) -> list[Summary | None]:
    def metric(name: str) -> Summary | None:
        return table.summary(label, fraction, lambda score: getattr(score, name))

    def iou(name: str) -> Summary | None:
        return table.summary(label, fraction, lambda score: score.class_iou.get(name))

    return [*map(metric, METRICS.values()), *map(iou, class_names)]


def _weights(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return what the runs of one row started from, each once, flat."""
    by_weights = {(run.weights_sha256, run.provenance.get("decoder_sha256")): run.provenance for run in runs}
    return [flat_texts(provenance) for provenance in by_weights.values()]
