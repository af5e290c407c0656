"""The report: one page that needs nothing else, and the same numbers as CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ssl_rs.errors import InputError
from ssl_rs.files import write_text
from ssl_rs.reporting.cells import FailedRun, MissingCell, missing_cells, read_failures, read_plans
from ssl_rs.reporting.figures import Line, label_curve, lines_of
from ssl_rs.reporting.results import LeftOut, Run, read_runs, results_csv
from ssl_rs.reporting.samples import SampleGrid, sample_grid
from ssl_rs.reporting.statistics import Summary, summarize
from ssl_rs.reporting.tables import Comparison, Table, compare

MOST_VALUES = 3  # a setting of the environment that differs between more runs than this is only counted
METRICS = {"mIoU": "miou", "overall accuracy": "overall_accuracy", "mean F1": "mean_f1", "kappa": "kappa"}


@dataclass(frozen=True)
class ScoredTable:
    """A table of the page and its curve.

    Args:
        table: The runs.
        meaning: What its protocol means, a sentence.
        labeled: How many units are labeled at each fraction, in words.
        curve: SVG; None where there is only one label fraction, or no score.
        class_names: Columns of the table by class.
        details: Row, label fraction, then a summary a metric and class, None where no run has a value.
    """

    table: Table
    meaning: str
    labeled: Mapping[float, str]
    curve: Markup | None
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
        grid: Pictures of test tiles.
        provenance: Label, and the distinct weights its runs started from.
        environment: Setting, and its values over the runs.
    """

    comparison: Comparison
    num_runs: int
    mean_seconds: float
    lines: Mapping[str, Line]
    tables: Sequence[ScoredTable]
    overview: Sequence[tuple[str, float, Sequence[Summary | None]]]
    grid: SampleGrid | None
    provenance: Sequence[tuple[str, Sequence[Mapping[str, str]]]]
    environment: Sequence[tuple[str, str]]


def write_report(runs_dir: Path, sweeps_dir: Path, out_dir: Path) -> Path:
    """Write OUT/index.html and OUT/results.csv from whatever finished runs there are.

    Args:
        runs_dir: Folder below which the runs lie.
        sweeps_dir: Folder with the plans of sweeps; it need not exist.
        out_dir: Where the two files go.

    Returns:
        The page.

    Raises:
        InputError: No finished run.
    """
    runs, left_out = read_runs(runs_dir)
    if not runs:
        told = "".join(f"\n  left out: {each.path}: {each.reason}" for each in left_out[:MOST_VALUES])
        raise InputError(
            f"runs={runs_dir} holds no finished run (RUN/result.json of finetune or evaluate).{told}\n"
            "Run `python -m ssl_rs.finetune` first, or name the folder of your runs by runs=FOLDER."
        )
    tables, duplicates = compare(runs)
    planned, broken_plans = read_plans(sweeps_dir, runs_dir)
    found, broken_failures = read_failures(runs_dir)
    current = {cell.run_dir for cell in planned}  # what failed under a plan that has changed since is no news
    failures = [failure for failure in found if not current or failure.directory.resolve() in current]
    sections, broken_samples = _sections(tables)
    page = _render(
        sections=sections,
        missing=missing_cells(tables, planned, failures),
        failures=failures,
        left_out=[*left_out, *duplicates, *broken_plans, *broken_failures, *broken_samples],
        num_runs=len(runs),
    )
    write_text(out_dir / "results.csv", results_csv(runs))
    write_text(out_dir / "index.html", page)
    return out_dir / "index.html"


def _render(
    sections: Sequence[Section],
    missing: Sequence[MissingCell],
    failures: Sequence[FailedRun],
    left_out: Sequence[LeftOut],
    num_runs: int,
) -> str:
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": share_text, "points": points_text, "duration": duration_text}
    return environment.get_template("page.html.j2").render(
        sections=sections,
        missing=missing,
        failures=failures,
        left_out=left_out,
        num_runs=num_runs,
        metrics=list(METRICS),
    )


def _sections(tables: Sequence[Table]) -> tuple[list[Section], list[LeftOut]]:
    sections, left_out = [], []
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
                tables=[_scored(table, lines) for table in own],
                overview=_overview(own),
                grid=grid,
                provenance=[(label, _weights([run for run in runs if run.label == label])) for label in lines],
                environment=list(_distinct([_flat(run.environment) for run in runs]).items()),
            )
        )
    return sections, left_out


def _scored(table: Table, lines: Mapping[str, Line]) -> ScoredTable:
    names = list(dict.fromkeys(name for run in table.runs for name in run.scores[table.protocol.name].class_iou))
    rows = [(label, fraction) for label in table.labels for fraction in table.fractions if table.cell(label, fraction)]
    curve = None
    if len(table.fractions) > 1 and any(table.miou(*row) for row in rows):
        curve = Markup(label_curve(table, lines))  # matplotlib escapes what it writes
    return ScoredTable(
        table=table,
        meaning=table.protocol.sentence(names),
        labeled={fraction: _labeled(table, fraction) for fraction in table.fractions},
        curve=curve,
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
    return list({run.weights_sha256: _flat(run.provenance) for run in runs}.values())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return values as text by name, one level of nesting joined to the name; what is empty is left out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = prefix + str(key).replace("_", " ")
        if isinstance(value, Mapping) and not prefix:
            flat |= _flat(value, f"{name} ")
        elif value not in (None, "", [], {}) and name != "label":  # the label heads the row
            flat[name] = str(value)[:12] if name.endswith("sha256") else _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        said = {str(key).replace("_", " "): each for key, each in value.items() if each not in (None, "", [], {})}
        return " · ".join(f"{key} {_text(each)}" for key, each in said.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _distinct(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the values of each setting over all runs; those that differ too often are counted."""
    merged: dict[str, str] = {}
    for key in dict.fromkeys(key for environment in environments for key in environment):
        values = list(dict.fromkeys(environment[key] for environment in environments if key in environment))
        merged[key] = "; ".join(values) if len(values) <= MOST_VALUES else f"{len(values)} different values"
    return merged


def share_text(fraction: float) -> str:
    """Return a fraction in (0, 1] as percent, e.g. '0.37 %'."""
    return f"{100 * fraction:.4g}\N{NO-BREAK SPACE}%"


def points_text(value: float) -> str:
    """Return a score in [0, 1] in percent points with one decimal, e.g. '57.5'."""
    return f"{100 * value:.1f}"


def duration_text(seconds: float) -> str:
    """Return a duration in the largest fitting unit, e.g. '3.2 min'."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds:.0f}\N{NO-BREAK SPACE}s"
