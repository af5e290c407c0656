"""The plans of sweeps: which runs somebody meant to have.

The identity of a planned cell is its run's folder, which holds the hash of its config: whichever launcher, order or
restart filled it.
"""

import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ssl_rs.reporting.json_values import read_object
from ssl_rs.reporting.runs import WEIGHTS_OF_RUNS, LeftOut, Run
from ssl_rs.reporting.tables import Comparison, comparison_of
from ssl_rs.secret_values import hide_secrets
from ssl_rs.seen_images import without_marks

START, OUTPUT_DIR = "initialization.run=", "output_dir="

OF_CONFIG = re.compile(r"seed\d+-([0-9a-f]+)")
"""The name of a folder that follows from the config of its run."""


class Moved(NamedTuple):
    """An output_dir as a command called it, and where it is by now."""

    written: str
    home: Path

    def applied(self, overrides: Sequence[str]) -> list[str]:
        """Return overrides by which a command works there, with the runs there that it starts from."""
        keys = r"\+*(?:initialization\.(?:run|weights)|encoder(?:_weights)?|run)"
        below = re.compile(rf"^({keys}=['\"]?){re.escape(self.written)}/")
        kept = [each for each in overrides if not each.startswith(OUTPUT_DIR)]
        return [
            *(below.sub(lambda found: f"{found[1]}{self.home}/", each) for each in kept),
            f"{OUTPUT_DIR}{self.home}",
        ]


@dataclass(frozen=True)
class PlannedCell:
    """One run of a sweep, as its plan under outputs/sweeps/ names it.

    Args:
        command: The command line that fills it.
        run_dir: Where its run lies.
        label: Row.
        label_fraction: Column, in (0, 1]; None of a pretraining, which has no place in a table.
        seed: Seed.
        belongs_to: Those fields of `Comparison` that the plan names, as text.
        settings_hash: Of the settings that a row has in common; None where an earlier version wrote the plan.
        pretraining_settings_hash: The same of the pretraining that it starts from, where that is known.
        waits_for_weights: What it starts from was not there yet when it was planned.
        kind: Name of the command.
        plan: File of the plan.
        starts_from: What the command takes for `initialization.run`; None where it says nothing.
        config_hash: Of its run, as the name of the folder has it; None where the user chose the folder.
        moved: Where the outputs lie that it was planned for; None: where they lay then.
    """

    command: str
    run_dir: Path
    label: str
    label_fraction: float | None
    seed: int
    belongs_to: Mapping[str, str]
    settings_hash: str | None = None
    pretraining_settings_hash: str | None = None
    waits_for_weights: bool = False
    kind: str = "finetune"
    plan: Path = Path()
    starts_from: str | None = None
    config_hash: str | None = None
    moved: Moved | None = None

    def is_of(self, run: Run) -> bool:
        """Tell whether a run is its own, in whichever folder."""
        return self.kind == run.command and self.config_hash is not None and self.config_hash == run.config_hash

    def fills(self, comparison: Comparison, label: str, fraction: float, seed: int) -> bool:
        """Tell whether it is a cell of a comparison."""
        return self.label == label and self._lies_at(comparison, fraction, seed)

    def waited_for(self, run: Run) -> bool:
        """Tell whether a run is what it stands for, though its own weights came later than its plan."""
        if not (self.waits_for_weights and run.initialization in WEIGHTS_OF_RUNS):
            return False
        named = self.label in (without_marks(run.label), run.initialization) or _stands_for(
            self.label, run.provenance.get("source")
        )
        here = self._lies_at(comparison_of(run), run.label_fraction, run.seed)
        return named and here and self._may_start_as(run) and self.settings_hash == run.settings_hash

    def _may_start_as(self, run: Run) -> bool:
        source = None if self.starts_from is None else self.starts_from.strip("'\"")
        return source is None or _stands_for(source, run.provenance.get("source"))

    def starts_alike(self, run: Run) -> bool:
        """Tell whether a run differs in nothing but which of several pretrainings alike it started from."""
        known = self.pretraining_settings_hash
        alike = known is not None and known == run.pretraining.get("settings_hash")
        return alike and self.settings_hash == run.settings_hash

    def covers(self, comparison: Comparison, label: str, fraction: float, seed: int, settings: Collection[str]) -> bool:
        """Tell whether it is a cell of a row that was named by its settings, see `variants.told_apart`.

        Args:
            comparison: Of the row.
            label: The row, a longer label than the planned one.
            fraction: Column.
            seed: Seed.
            settings: The hashes of the settings of the row's runs.
        """
        named = label.startswith(f"{self.label}, ") and self.settings_hash in settings
        return named and self._lies_at(comparison, fraction, seed)

    def will_be(self, comparison: Comparison, row: Sequence[Run], fraction: float, seed: int) -> bool:
        """Tell whether it is a cell of a row whose weights were not there when it was planned, so that it has no name.

        Args:
            comparison: Of the row.
            row: Its runs.
            fraction: Column.
            seed: Seed.
        """
        alike = (run for run in row if run.settings_hash == self.settings_hash)
        may_be = any(self.label == run.initialization or _may_stand_beside(self.label, run) for run in alike)
        return self.waits_for_weights and may_be and self._lies_at(comparison, fraction, seed)

    def _lies_at(self, comparison: Comparison, fraction: float, seed: int) -> bool:
        if self.label_fraction is None or not math.isclose(self.label_fraction, fraction):
            return False
        belongs = (str(getattr(comparison, key)) == value for key, value in self.belongs_to.items())
        return self.seed == seed and all(belongs)

    @property
    def is_done(self) -> bool:
        """Tell whether its run has a result."""
        return (self.run_dir / "result.json").is_file()


def read_plans(sweeps_dir: Path, runs_dir: Path) -> tuple[list[PlannedCell], list[LeftOut]]:
    """Read the planned cells whose runs lie below a folder, and pretrainings beside it; one planned twice counts once.

    A plan lies in `sweeps` of the folder that its runs were to lie in, wherever that is by now: its `output_dir` is how
    it was called then, from the working directory of that time. Plans of earlier versions do not tell it.

    Returns:
        The cells, and each plan that is broken.
    """
    cells: dict[Path, PlannedCell] = {}
    left_out = []
    for path in sorted(sweeps_dir.glob("*.json")):
        try:
            plan = read_object(path)
            if plan["command"] not in ("pretrain", "finetune", "evaluate"):
                continue
            written_below = _text(plan, "output_dir")
            planned = [_planned_cell(str(plan["command"]), entry, path, written_below) for entry in plan["cells"]]
        except (ValueError, KeyError, TypeError, OSError, OverflowError) as error:
            left_out.append(LeftOut(path, f"no plan of a sweep ({type(error).__name__}: {error})"))
            continue
        below = runs_dir.resolve().parent if plan["command"] == "pretrain" else runs_dir.resolve()
        cells.update({cell.run_dir: cell for cell in planned if cell.run_dir.is_relative_to(below)})
    return list(cells.values()), left_out


def settled(planned: Sequence[PlannedCell], runs: Sequence[Run]) -> list[PlannedCell]:
    """Return the cells; those whose run lies in another folder than planned with that folder.

    It does where it was renamed or given a `run_dir`, and where it waited for weights: these count for a run's folder,
    so it is not the one that was planned without them. Where another plan names that folder itself, both mean one cell,
    which is that of the other plan.
    """
    plans = {cell.run_dir: cell.plan for cell in planned}
    taken, found = set(plans), []
    for cell in planned:
        open_to = [] if cell.is_done else runs
        like_it = [run.directory.resolve() for run in open_to if cell.is_of(run) or cell.waited_for(run)]
        place = next((path for path in like_it if path not in taken), cell.run_dir)
        if place == cell.run_dir and any(plans.get(path, cell.plan) != cell.plan for path in like_it):
            continue
        taken.add(place)
        found.append(replace(cell, run_dir=place))
    return found


def command_line(command: str, overrides: Any, processes: int = 1, moved: Moved | None = None) -> str:
    """Return the command of a run, quoted for a shell, without secrets.

    Args:
        command: Its name.
        overrides: What stands behind it.
        processes: How many torchrun starts.
        moved: Where the outputs lie that they write into; None: where they say.

    Raises:
        ValueError: The overrides are no list of texts.
    """
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise ValueError(f"overrides is {overrides!r}: expected a list of texts")
    if moved is not None:
        overrides = moved.applied(overrides)
    start = ["python"] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    return shlex.join([*start, "-m", f"ssl_rs.{command}", *map(hide_secrets, overrides)])


def _stands_for(named: str, source: object) -> bool:
    """Tell whether a folder, pattern or name of tasks, as `initialization.run` takes it, stands for a run's folder."""
    try:
        if not isinstance(source, str):
            return False
        folder = Path(source).resolve()
        return any(place.match(named) for place in (folder, folder.parent)) or folder == Path(named).resolve()
    except (ValueError, OSError):  # no path at all
        return False


def _may_stand_beside(named: str, run: Run) -> bool:
    """Tell whether a name of weights stands for those of a run, or for a folder beside: that of another seed."""
    source, folders = run.provenance.get("source"), str(Path(named).parent)
    beside = isinstance(source, str) and folders != "." and _stands_for(folders, str(Path(source).parent))
    return beside or _stands_for(named, source)


def _planned_cell(command: str, entry: Mapping[str, Any], plan: Path, written_below: str | None) -> PlannedCell:
    fraction = None if command == "pretrain" else float(entry["label_fraction"])
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"label_fraction is {fraction}: expected a number in (0, 1]")
    overrides, run_dir = entry["overrides"], Path(entry["run_dir"])
    home, moved = plan.parent.parent, None
    if written_below is not None and run_dir.is_relative_to(written_below):
        run_dir = home / run_dir.relative_to(written_below)
        if Path(written_below).resolve() != home.resolve():  # they were moved, or the report starts elsewhere
            moved = Moved(written_below, home)
    own_name = OF_CONFIG.fullmatch(run_dir.name)
    return PlannedCell(
        command=command_line(command, overrides, moved=moved),
        run_dir=run_dir.resolve(),
        label=str(entry["label"]),
        label_fraction=fraction,
        seed=int(entry["seed"]),
        belongs_to={key: str(entry[key]) for key in Comparison._fields if key in entry},
        settings_hash=_text(entry, "settings_hash"),
        pretraining_settings_hash=_text(entry, "pretraining_settings_hash"),
        waits_for_weights=entry.get("waits_for_weights") is True,
        kind=command,
        plan=plan,
        starts_from=next((each.partition("=")[2] for each in overrides if each.startswith(START)), None),
        config_hash=own_name[1] if own_name else None,
        moved=moved,
    )


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) else None
