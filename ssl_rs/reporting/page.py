"""The report: one page that needs nothing else, and the same numbers as CSV."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ssl_rs.errors import TOLD, InputError
from ssl_rs.files import make_folder, write_beside
from ssl_rs.reporting.cells import missing_cells, read_failures, stale_runs
from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.csv_files import (
    budgets_csv,
    cells_csv,
    confusions_csv,
    differences_csv,
    labels_saved_csv,
    pretrainings_csv,
    results_csv,
    summary_csv,
)
from ssl_rs.reporting.plans import read_plans, settled
from ssl_rs.reporting.pretrainings import features_text, read_pretrainings, tasks_text
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.runs import LeftOut, Run
from ssl_rs.reporting.sections import METRICS, Section, sections_of
from ssl_rs.reporting.text_tables import tables_text
from ssl_rs.reporting.variants import told_apart
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

MOST_TOLD = 3  # runs that are left out, where none is left


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
    runs, left_out = read_runs(runs_dir, group_of)
    beside = [runs_dir.parent / "pretrain"] if runs_dir.name == "finetune" else []
    pretrainings, broken_pretrainings = read_pretrainings(runs_dir, *beside)
    if group_of is not None and runs and not any(map(_has_groups, runs)):
        raise InputError(
            "scene_group puts no two test scenes of any run together. Expected a regular expression that finds how "
            f"their ids begin; the first are {', '.join(_first_scenes(runs)) or 'not known'}."
        )
    planned, broken_plans = read_plans(sweeps_dir, runs_dir)
    planned = settled(planned, runs)
    stale = stale_runs(runs, planned, sweeps_dir.parent)
    old = {each.run.directory for each in stale}
    current_runs = told_apart([run for run in runs if run.directory not in old])
    tables, duplicates = compare(current_runs)
    found, broken_failures = read_failures(runs_dir, planned)
    current = {cell.run_dir for cell in planned}  # what failed under a plan that has changed since is no news
    failures = [failure for failure in found if not current or failure.directory.resolve() in current]
    missing = missing_cells(tables, planned, failures)
    if not runs and not pretrainings and not missing and not failures:
        raise _nothing_finished(runs_dir, left_out)
    broken = [*left_out, *broken_plans, *broken_failures]
    for line in cells_text(len(current_runs) - len(duplicates), missing, failures, stale, [*duplicates, *broken]):
        say(line)
    if not runs and not pretrainings:
        raise _nothing_finished(runs_dir, left_out)
    sections, broken_samples = sections_of(tables)
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            sections=sections,
            headline=headline(tables),
            metrics=list(METRICS),
            missing=missing,
            failures=failures,
            stale=stale,
            left_out=[*duplicates, *broken, *broken_pretrainings, *broken_samples],
            pretrainings=pretrainings,
            num_runs=len(current_runs),
        )
    )
    make_folder(out_dir)
    write_beside(
        out_dir / "cells.csv", cells_csv(current_runs, planned, missing, failures, stale, [*duplicates, *left_out])
    )
    _write_tables(out_dir, current_runs, sections)
    write_beside(out_dir / "pretrainings.csv", pretrainings_csv(pretrainings))
    write_beside(out_dir / "index.html", page)
    return out_dir / "index.html"


def _check_folder(folder: Path) -> None:
    """Refuse to write over files that no report wrote; of its own, cells.csv is the first.

    Raises:
        InputError: Names one.
    """
    for name in ("index.html", "results.csv", "summary.csv", "table.md", "table.tex"):
        if (folder / name).exists() and not (folder / "cells.csv").is_file():
            raise InputError(
                f"run_dir={folder} holds {name} and no cells.csv: no report wrote it, and it is not overwritten. "
                "Choose an empty or new folder."
            )


def _has_groups(run: Run) -> bool:
    return any(len(group) > 1 for labels in run.scene_confusions for group in run.groups_of_scenes(labels))


def _first_scenes(runs: Sequence[Run]) -> list[str]:
    return sorted({scene for run in runs for scenes in run.scene_confusions.values() for scene in scenes})[:TOLD]


def _nothing_finished(runs_dir: Path, left_out: Sequence[LeftOut]) -> InputError:
    told = "".join(f"\n  left out: {each.path}: {each.reason}" for each in left_out[:MOST_TOLD])
    return InputError(
        f"runs={runs_dir} holds no finished run (RUN/result.json of finetune, evaluate or pretrain).{told}\n"
        "Run `python -m ssl_rs.finetune` first, or name the folder of your runs by runs=FOLDER."
    )


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
    for left in out_dir.glob("curve_*.svg"):  # of an earlier report with more tables
        if re.fullmatch(r"curve_\d+\.svg", left.name) and left.name not in curves:
            left.unlink(missing_ok=True)
    write_beside(out_dir / "table.md", tables_text(studies, "markdown"))
    write_beside(out_dir / "table.tex", tables_text(studies, "latex"))


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
