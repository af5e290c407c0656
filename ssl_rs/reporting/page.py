"""The report: one page that needs nothing else, and the same numbers as CSV."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ssl_rs.errors import InputError
from ssl_rs.files import make_folder, write_beside
from ssl_rs.reporting.cells_file import COLUMNS, cells_csv
from ssl_rs.reporting.csv_files import (
    budgets_csv,
    confusions_csv,
    differences_csv,
    labels_saved_csv,
    pretrainings_csv,
    results_csv,
    summary_csv,
)
from ssl_rs.reporting.gathering import Gathered, gather, nothing_finished
from ssl_rs.reporting.pretrainings import features_text, tasks_text
from ssl_rs.reporting.runs import LeftOut, Run
from ssl_rs.reporting.sections import METRICS, Section, sections_of
from ssl_rs.reporting.text_tables import tables_text
from ssl_rs.reporting.wording import (
    budget_sentence,
    cells_text,
    doubts_of_means,
    duration_text,
    headline,
    interval_text,
    over_scenes,
    points_text,
    saved_doubts,
    saved_sentence,
    share_text,
    signed_points_text,
    unplanned_text,
)

FILES = (
    "cells.csv", "results.csv", "summary.csv", "differences.csv", "labels_saved.csv", "budgets.csv", "confusions.csv",
    "table.md", "table.tex", "pretrainings.csv", "index.html",
)  # fmt: skip
"""What a report writes, next to the curves; cells.csv comes first."""


def write_report(
    runs_dir: Path,
    sweeps_dir: Path,
    out_dir: Path,
    say: Callable[[str], None] = lambda said: None,
    group_of: Callable[[str], str] | None = None,
) -> Path:
    """Write the page, and its numbers as CSV, Markdown and LaTeX, from whatever finished runs there are.

    The runs' result.json files are enough: pictures, environment and plans are shown where they are there.

    Args:
        runs_dir: Folder below which the runs lie; of pretrainings also its neighbor, where it is OUTPUTS/finetune.
        sweeps_dir: Folder with the plans of sweeps; it need not exist.
        out_dir: Where the files go.
        say: Is told how many cells are done, and the command of each that is not.
        group_of: As of `ssl_rs.reporting.results.read_runs`.

    Returns:
        The page.

    Raises:
        InputError: No finished run, groups that no run's scenes are in, or a page of somebody else's in the folder.
    """
    _check_folder(out_dir)
    found = gather(runs_dir, sweeps_dir, group_of)
    for line in cells_text(found.num_done, found.missing, found.failures, found.stale, found.told):
        say(line)
    if not found.runs and not found.pretrainings and not found.stale:
        raise nothing_finished(runs_dir, found.broken)
    sections, broken_samples = sections_of(found.tables)
    page = _page(found, sections, broken_samples)
    make_folder(out_dir)
    write_beside(out_dir / "cells.csv", cells_csv(found))
    _write_tables(out_dir, found.runs, sections)
    write_beside(out_dir / "pretrainings.csv", pretrainings_csv(found.pretrainings))
    write_beside(out_dir / "index.html", page)
    return out_dir / "index.html"


def _check_folder(folder: Path) -> None:
    """Refuse to write over files that no report wrote; in a folder of its own, cells.csv has the columns of a report.

    Raises:
        InputError: Names one.
    """
    if _is_of_report(folder / "cells.csv"):
        return
    for path in [*(folder / name for name in FILES), *_curves(folder)]:
        if path.exists():
            raise InputError(
                f"run_dir={folder} holds {path.name}, and no cells.csv of a report: it is not overwritten. Choose "
                "an empty or new folder, or delete it if a report wrote it."
            )


def _is_of_report(cells: Path) -> bool:
    """Tell whether a report wrote a file, in this version or an earlier one, also if a spreadsheet saved it again."""
    if not cells.is_file():
        return False
    with open(cells, encoding="utf-8-sig", errors="replace") as file:
        found = re.split(r"[,;\t]", file.readline().strip().replace('"', ""))
    return found[0] == COLUMNS[0] and found[-1] == COLUMNS[-1]


def _curves(folder: Path) -> list[Path]:
    """Return the pictures of curves in the folder of a report."""
    return [path for path in sorted(folder.glob("curve_*.svg")) if re.fullmatch(r"curve_\d+\.svg", path.name)]


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
    for left in _curves(out_dir):
        if left.name not in curves:  # of an earlier report with more tables
            left.unlink(missing_ok=True)
    write_beside(out_dir / "table.md", tables_text(studies, "markdown"))
    write_beside(out_dir / "table.tex", tables_text(studies, "latex"))


def _page(found: Gathered, sections: Sequence[Section], broken_samples: Sequence[LeftOut]) -> str:
    """Return the page as HTML."""
    template = _environment().get_template("page.html.j2")
    return template.render(
        sections=sections,
        headline=headline(found.tables),
        metrics=list(METRICS),
        missing=found.missing,
        failures=found.failures,
        stale=found.stale,
        left_out=[*found.told, *found.broken_pretrainings, *broken_samples],
        pretrainings=found.pretrainings,
        num_runs=found.num_done,
    )


def _environment() -> Environment:
    """Return what renders the page: its values are escaped, and what it lacks is an error."""
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
    texts = (
        tasks_text, features_text, saved_doubts, saved_sentence, budget_sentence, doubts_of_means, over_scenes,
        unplanned_text,
    )  # fmt: skip
    environment.globals |= {function.__name__: function for function in texts}
    return environment
