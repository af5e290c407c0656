"""Which cells are done, and what a table lacks: cells that are missing, runs that failed, and runs that are stale."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl_rs.reporting.json_values import read_object
from ssl_rs.reporting.plans import OUTPUT_DIR, Moved, PlannedCell, command_line
from ssl_rs.reporting.runs import WEIGHTS_OF_RUNS, LeftOut, Run
from ssl_rs.reporting.tables import Comparison, Table, comparison_of

OF_ONE_CELL = ("seed=", "label_fraction.fraction=", "run_dir=")
"""Arguments that no other cell of a row has."""


@dataclass(frozen=True)
class MissingCell:
    """A cell without a finished run.

    Args:
        where: The comparison it belongs to, in words; empty where only a plan knows of it.
        label: Row.
        label_fraction: Column, in (0, 1]; None of a pretraining.
        seed: Seed.
        state: "not started", or "unfinished".
        command: The command line that fills it: the plan's, else that of another run of its row with this share and
            seed; None where no run of the row tells its own.
        is_planned: Whether a sweep planned it.
        belongs_to: Those fields of `Comparison` that are known of it.
        of_commit: The commit whose settings the command of another run says; None of a plan's, or where it is not told.
    """

    where: str
    label: str
    label_fraction: float | None
    seed: int
    state: str
    command: str | None
    is_planned: bool
    belongs_to: Mapping[str, Any] = field(default_factory=dict)
    of_commit: str | None = None


@dataclass(frozen=True)
class StaleRun:
    """A finished run that no longer is what its cell asks for; it stays out of the tables.

    Args:
        run: The run.
        reason: Why.
        command: The command line that fills its cell; None where no plan has it.
    """

    run: Run
    reason: str
    command: str | None


@dataclass(frozen=True)
class FailedRun:
    """A run that ended with an error, and the command that tries it again."""

    directory: Path
    command: str
    error: str


def read_failures(runs_dir: Path, planned: Sequence[PlannedCell] = ()) -> tuple[list[FailedRun], list[LeftOut]]:
    """Read the failure of every run below a folder, and of every planned one, that has no result."""
    failures, left_out, moved = [], [], {cell.run_dir: cell.moved for cell in planned}
    below = {path.resolve(): path for path in runs_dir.rglob("failure.json")}
    elsewhere = [path for cell in planned if (path := cell.run_dir / "failure.json").is_file() and path not in below]
    for path in sorted([*below.values(), *elsewhere]):
        if (path.parent / "result.json").is_file():
            continue
        try:
            found = read_object(path)
            moved_to = moved.get(path.parent.resolve())
            command = command_line(str(found["command"]), found["overrides"], moved=moved_to)
            failures.append(FailedRun(path.parent, command, str(found["error"])))
        except (ValueError, KeyError, TypeError, OSError) as error:
            left_out.append(LeftOut(path, f"no record of a failure ({type(error).__name__}: {error})"))
    return failures, left_out


def spoiled_cells(broken: Sequence[LeftOut], planned: Sequence[PlannedCell]) -> tuple[list[FailedRun], list[LeftOut]]:
    """Return the planned cells whose result cannot be used, as failed, and what is broken elsewhere."""
    commands = {cell.run_dir / "result.json": cell.command for cell in planned}
    spoiled, others = [], []
    for each in broken:
        command = commands.get(each.path.resolve())
        if command is None:
            others.append(each)
        else:
            error = f"{each.path} cannot be used: {each.reason}. Delete it; the command then fills the cell"
            spoiled.append(FailedRun(each.path.parent, command, error))
    return spoiled, others


def stale_runs(runs: Sequence[Run], planned: Sequence[PlannedCell], home: Path) -> list[StaleRun]:
    """Return the runs in the place of a planned one that is not theirs, or made from weights that are others now.

    Args:
        runs: All that were found.
        planned: What sweeps planned.
        home: Where commands write. Of runs elsewhere, e.g. results that were kept, it is not known what the folders
            are by now that they name: they are not held against what lies there.

    Runs that tell their settings get a row of their own where these differ (`variants.told_apart`): they are not stale.

    A plan of an older version does not tell all that makes two runs comparable: by it nothing is called stale.
    """
    current = {cell.run_dir for cell in planned}
    trained = [cell for cell in planned if cell.kind == "finetune"]
    complete = [cell for cell in trained if set(cell.belongs_to) == set(Comparison._fields)]
    places: dict[tuple[str, int], list[PlannedCell]] = {}
    for cell in complete:
        places.setdefault((cell.label, cell.seed), []).append(cell)
    # Of such a run the plan is as old as the run: what it says of the weights holds against no other.
    replaced = {run.directory.resolve(): _replaced(run) for run in runs if _is_below(run, home)}
    stale = []
    for run in runs:
        here = places.get((run.label, run.seed), []) if run.command == "finetune" else []
        there = [cell for cell in here if cell.fills(comparison_of(run), run.label, run.label_fraction, run.seed)]
        own = [cell for cell in there if replaced.get(cell.run_dir) is None]
        # Of several plans those of its own settings say whether it is theirs; others stand beside it.
        own = [cell for cell in own if cell.settings_hash == run.settings_hash] or own
        place = run.directory.resolve()
        has_place = place in current or any(cell.is_of(run) or _has_place_beside(cell, run) for cell in own)
        if own and not has_place:
            reason = "no plan names it, and what a sweep planned for its place has other settings, weights or own code"
            stale.append(StaleRun(run, reason, own[0].command))
        elif (source := replaced.get(place)) is not None:
            reason = f"{source} has other weights now than those it was made from"
            stale.append(StaleRun(run, reason, there[0].command if there else None))
    return _with_successors(stale, runs)


def _with_successors(stale: Sequence[StaleRun], runs: Sequence[Run]) -> list[StaleRun]:
    """Name the run that has the place of a stale one by now, where there is one: no command has to fill it."""
    old = {each.run.directory for each in stale}
    current = {_place(run): run.directory for run in runs if run.directory not in old}
    return [
        replace(each, reason=f"{each.reason}, and {current[place]} has its place: delete its folder", command=None)
        if (place := _place(each.run)) in current
        else each
        for each in stale
    ]


def _place(run: Run) -> tuple[Any, ...]:
    return run.command, comparison_of(run), run.label, run.label_fraction, run.seed, run.settings_hash


def _has_place_beside(cell: PlannedCell, run: Run) -> bool:
    """Tell whether a run may stand beside a planned one: from another pretraining alike, or with settings it tells."""
    other_settings = cell.settings_hash is not None and cell.settings_hash != run.settings_hash
    return cell.starts_alike(run) or (other_settings and bool(run.settings))


def _replaced(run: Run) -> str | None:
    """Return the run that a run started from, or scored, if that is there with other weights."""
    source, key = run.provenance.get("source"), WEIGHTS_OF_RUNS.get(run.initialization)
    if key is not None and isinstance(source, str) and _has_other(source, key, run.provenance.get("sha256")):
        return source
    return run.run if run.run and run.model_sha256 and _has_other(run.run, "model_sha256", run.model_sha256) else None


def _has_other(folder: str, key: str, sha256: Any) -> bool:
    """Tell whether the run of a folder is there, with other weights than those of a hash."""
    try:
        return bool(read_object(Path(folder) / "result.json").get(key) != sha256)
    except (ValueError, OSError):  # it is gone, e.g. where results are all that was kept
        return False


def missing_cells(
    tables: Sequence[Table], planned: Sequence[PlannedCell], failures: Sequence[FailedRun], home: Path
) -> list[MissingCell]:
    """Return the cells that were planned, or that rows x columns x seeds of a table ask for, and that have no run.

    Tables and rows of `evaluate` alone, e.g. on other scenes or by other windows, ask for nothing: nobody has to score
    every run again. A failed run is told as failed, not as missing.

    Args:
        tables: Of all runs.
        planned: What sweeps planned.
        failures: Runs that failed.
        home: Where commands write.
    """
    failed = {failure.directory.resolve() for failure in failures}
    open_cells = [cell for cell in planned if cell.run_dir in failed or not cell.is_done]
    missing = [
        MissingCell(
            _where(cell), cell.label, cell.label_fraction, cell.seed, _state(cell.run_dir), cell.command, True,
            cell.belongs_to,
        )
        for cell in open_cells
        if cell.run_dir not in failed
    ]  # fmt: skip
    for comparison in dict.fromkeys(table.comparison for table in tables):
        own = [table for table in tables if table.comparison == comparison]  # a run may lack one of the protocols
        missing += _unplanned_cells(own, open_cells, home)
    return missing


def _unplanned_cells(tables: Sequence[Table], open_cells: Sequence[PlannedCell], home: Path) -> list[MissingCell]:
    """Return the cells that rows x columns x seeds ask for, that have no run, and that nobody planned.

    Args:
        tables: All of one comparison.
        open_cells: Planned ones without a result.
        home: Where commands write.
    """
    comparison, runs = tables[0].comparison, [run for table in tables for run in table.runs]
    there = {(run.label, run.label_fraction, run.seed) for run in runs}
    trained = {run.label for run in runs if run.command == "finetune"}
    labels = dict.fromkeys(label for table in tables for label in table.labels if label in trained)
    fractions, seeds = (sorted({getattr(run, name) for run in runs}) for name in ("label_fraction", "seed"))
    rows = {label: [run for run in runs if run.label == label] for label in labels}
    nameless = [cell for cell in open_cells if cell.waits_for_weights]
    missing = []
    for label, fraction, seed in itertools.product(labels, fractions, seeds):
        place, hashes = (comparison, label, fraction, seed), {run.settings_hash for run in rows[label]}
        if (label, fraction, seed) in there:
            continue
        if any(cell.fills(*place) or cell.covers(*place, hashes) for cell in open_cells):
            continue
        if will_be := [cell for cell in nameless if cell.will_be(comparison, rows[label], fraction, seed)]:
            nameless.remove(will_be[0])  # of two rows that it may belong to, one still lacks a cell
        else:
            command, commit = _command_like(rows[label], fraction, seed, home)
            where = _title(tables[0]), label, fraction, seed
            missing.append(MissingCell(*where, "not started", command, False, comparison._asdict(), commit))
    return missing


def _command_like(row: Sequence[Run], fraction: float, seed: int, home: Path) -> tuple[str | None, str | None]:
    """Return the command of a run of a row with another share of labels and seed, and the commit that ran it.

    A run of this seed comes first: where each seed has a pretraining of its own, it names the right one. Both are None
    where no run tells its own: what a command leaves out is as the files of its commit had it.
    """
    for run in sorted(row, key=lambda run: run.seed != seed):
        if command := _repeated(run, fraction, seed, home):
            commit = run.made_with.get("git_commit")
            return command, commit if isinstance(commit, str) else None
    return None, None


def _repeated(run: Run, fraction: float, seed: int, home: Path) -> str | None:
    given, processes = (run.made_with.get(key) for key in ("overrides", "world_size"))
    if run.command != "finetune" or not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        return None
    kept = [each for each in given if not each.startswith(OF_ONE_CELL)]
    own = [f"label_fraction.fraction={fraction!r}", f"seed={seed}"]
    moved = _moved(run, kept, home)
    return command_line("finetune", [*kept, *own], processes if type(processes) is int else 1, moved)


def _is_below(run: Run, home: Path) -> bool:
    return run.directory.resolve().is_relative_to(home.resolve())


def _moved(run: Run, overrides: Sequence[str], home: Path) -> Moved | None:
    """Return that a run lies where commands write, and its own command would write elsewhere; None: it does not."""
    named = [each.removeprefix(OUTPUT_DIR).strip("'\"") for each in overrides if each.startswith(OUTPUT_DIR)]
    written = named[-1] if named else "outputs"  # of conf/common.yaml; what the environment says instead is told, too
    return Moved(written, home) if _is_below(run, home) and Path(written).resolve() != home.resolve() else None


def _state(run_dir: Path) -> str:
    return "unfinished" if (run_dir / "config.yaml").is_file() else "not started"


def _where(cell: PlannedCell) -> str:
    if cell.label_fraction is None:
        return "pretraining"
    named = ("dataset", "backbone", "decoder")
    return " · ".join(cell.belongs_to[key] for key in named if key in cell.belongs_to)


def _title(table: Table) -> str:
    comparison = table.comparison
    return " · ".join((comparison.dataset, comparison.backbone, comparison.decoder, table.setting))
