"""The report: one page that needs nothing else, and the same numbers as CSV."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ssl_rs.errors import InputError
from ssl_rs.files import make_folder, write_beside
from ssl_rs.reporting.cells import (
    FailedRun,
    MissingCell,
    StaleRun,
    missing_cells,
    read_failures,
    stale_runs,
)
from ssl_rs.reporting.confusions import Confusion, confusions_of
from ssl_rs.reporting.csv_files import (
    budgets_csv,
    cells_csv,
    confusions_csv,
    differences_csv,
    labels_saved_csv,
    results_csv,
    summary_csv,
)
from ssl_rs.reporting.figures import Line, label_curve, lines_of
from ssl_rs.reporting.flat_texts import distinct_texts, flat_texts
from ssl_rs.reporting.plans import read_plans, settled
from ssl_rs.reporting.results import LeftOut, Run, read_runs
from ssl_rs.reporting.samples import SampleGrid, sample_grid
from ssl_rs.reporting.statistics import Summary, summarize
from ssl_rs.reporting.study import Study, study_of
from ssl_rs.reporting.tables import Comparison, Table, compare, differing_settings
from ssl_rs.reporting.text_tables import tables_text
from ssl_rs.reporting.variants import told_apart
from ssl_rs.reporting.wording import (
    OTHER_SEEDS,
    budget_sentence,
    cells_text,
    duration_text,
    interval_text,
    points_text,
    saved_doubts,
    saved_sentence,
    share_text,
    signed_points_text,
)

MOST_TOLD = 3  # runs that are left out, where none is left
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
    curve: Markup | None
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


def write_report(
    runs_dir: Path, sweeps_dir: Path, out_dir: Path, say: Callable[[str], None] = lambda said: None
) -> Path:
    """Write the page, and its numbers as CSV, Markdown and LaTeX, from whatever finished runs there are.

    The runs' result.json files are enough: pictures, environment and plans are shown where they are there.

    Args:
        runs_dir: Folder below which the runs lie.
        sweeps_dir: Folder with the plans of sweeps; it need not exist.
        out_dir: Where the files go.
        say: Is told how many cells are done, and the command of each that is not.

    Returns:
        The page.

    Raises:
        InputError: No finished run.
    """
    runs, left_out = read_runs(runs_dir)
    planned, broken_plans = read_plans(sweeps_dir, runs_dir)
    planned = settled(planned, runs)
    stale = stale_runs(runs, planned)
    old = {each.run.directory for each in stale}
    current_runs = told_apart([run for run in runs if run.directory not in old])
    tables, duplicates = compare(current_runs)
    found, broken_failures = read_failures(runs_dir, planned)
    current = {cell.run_dir for cell in planned}  # what failed under a plan that has changed since is no news
    failures = [failure for failure in found if not current or failure.directory.resolve() in current]
    missing = missing_cells(tables, planned, failures)
    for line in cells_text(len(current_runs) - len(duplicates), missing, failures, stale, duplicates):
        say(line)
    if not runs:
        told = "".join(f"\n  left out: {each.path}: {each.reason}" for each in left_out[:MOST_TOLD])
        raise InputError(
            f"runs={runs_dir} holds no finished run (RUN/result.json of finetune or evaluate).{told}\n"
            "Run `python -m ssl_rs.finetune` first, or name the folder of your runs by runs=FOLDER."
        )
    sections, broken_samples = _sections(tables)
    page = _render(
        sections=sections,
        missing=missing,
        failures=failures,
        stale=stale,
        left_out=[*left_out, *duplicates, *broken_plans, *broken_failures, *broken_samples],
        num_runs=len(current_runs),
    )
    make_folder(out_dir)
    write_beside(out_dir / "cells.csv", cells_csv(current_runs, planned, missing, failures, stale, duplicates))
    _write_tables(out_dir, current_runs, sections)
    write_beside(out_dir / "index.html", page)
    return out_dir / "index.html"


def _write_tables(out_dir: Path, runs: Sequence[Run], sections: Sequence[Section]) -> None:
    """Write the numbers of the page."""
    studies = [(scored.table, scored.study) for section in sections for scored in section.tables]
    write_beside(out_dir / "results.csv", results_csv(runs))
    write_beside(out_dir / "summary.csv", summary_csv(studies))
    write_beside(out_dir / "differences.csv", differences_csv(studies))
    write_beside(out_dir / "labels_saved.csv", labels_saved_csv(studies))
    write_beside(out_dir / "budgets.csv", budgets_csv(studies))
    write_beside(out_dir / "confusions.csv", confusions_csv([table for table, _ in studies]))
    curves = {scored.curve_file: scored.curve for section in sections for scored in section.tables if scored.curve}
    for name, curve in curves.items():
        write_beside(out_dir / name, str(curve).replace("<svg", '<svg style="background: #fff"', 1))
    for left in out_dir.glob("curve_[0-9]*.svg"):  # of an earlier report with more tables
        if left.name not in curves:
            left.unlink(missing_ok=True)
    write_beside(out_dir / "table.md", tables_text(studies, "markdown"))
    write_beside(out_dir / "table.tex", tables_text(studies, "latex"))


def _render(
    sections: Sequence[Section],
    missing: Sequence[MissingCell],
    failures: Sequence[FailedRun],
    stale: Sequence[StaleRun],
    left_out: Sequence[LeftOut],
    num_runs: int,
) -> str:
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "share": share_text,
        "points": points_text,
        "signed": signed_points_text,
        "duration": duration_text,
        "interval": lambda interval: interval_text(interval, points_text),
        "signed_interval": lambda interval: interval_text(interval, signed_points_text),
    }
    return environment.get_template("page.html.j2").render(
        sections=sections,
        missing=missing,
        failures=failures,
        stale=stale,
        left_out=left_out,
        num_runs=num_runs,
        metrics=list(METRICS),
        saved_doubts=saved_doubts,
        saved_sentence=saved_sentence,
        budget_sentence=budget_sentence,
        other_seeds=OTHER_SEEDS,
    )


def _sections(tables: Sequence[Table]) -> tuple[list[Section], list[LeftOut]]:
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
                environment=list(distinct_texts([flat_texts(run.environment) for run in runs]).items()),
                differing=list(differing_settings(runs).items()),
            )
        )
    return sections, left_out


def _scored(table: Table, tables: Sequence[Table], lines: Mapping[str, Line], number: int) -> ScoredTable:
    names = list(dict.fromkeys(name for run in table.runs for name in run.scores[table.protocol.name].class_iou))
    rows = [(label, fraction) for label in table.labels for fraction in table.fractions if table.cell(label, fraction)]
    curve = None
    if len(table.fractions) > 1 and any(table.miou(*row) for row in rows):
        curve = Markup(label_curve(table, lines))  # matplotlib escapes what it writes
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
    return list({run.weights_sha256: flat_texts(run.provenance) for run in runs}.values())
