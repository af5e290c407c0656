"""A sweep: plan every cell, run what is not finished through Hydra's launcher, name what failed.

A failing cell leaves failure.json and does not stop the others; the report reads the plan to know what is missing.
"""

import gc
import hashlib
import importlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl_rs.build import locate
from ssl_rs.config import Settings, compose_config, parse_overrides, read_yaml, resolve, to_yaml, without_sweeps
from ssl_rs.config_files import conf_dir
from ssl_rs.distributed import Processes
from ssl_rs.errors import TOLD, InputError, Interrupted, InUseError, SpentProcessError, explain
from ssl_rs.files import write_json, write_text
from ssl_rs.hidden import hide_passwords, hide_secrets, without_secrets
from ssl_rs.initialization import CHOICES
from ssl_rs.messages import print_line, say_line
from ssl_rs.run_directory import RunDirectory

MOST_CELLS = 10_000
"""Runs of a sweep: each is composed and checked before the first one starts, which takes a quarter of a second."""


WITH_WEIGHTS = ("imagenet", "file")
"""Encoders that evaluate reads from `encoder_weights`."""


class SweepEnded(KeyboardInterrupt):
    """No further run can be tried in this process. Hydra would go on with the next one after any other exception."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        overrides: What the command line of this run alone would be.
        run_dir: Where it lives; where its inputs are still missing, the place of its failure.json.
        row: The keys by which the report places it: data set, label, label_fraction, seed; and where the weights that
            it starts from are not there, `lacks` says why.
    """

    overrides: tuple[str, ...]
    run_dir: Path
    row: dict[str, Any]


def run_sweep(name: str, overrides: Sequence[str]) -> int:
    """Run all cells and return the exit code: 0 if all have a result, else 1 or 2.

    Raises:
        InputError: The command has no sweeps, torchrun started it, or an override is wrong.
    """
    if Processes.from_environment().world_size > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise InputError(
            "A sweep under torchrun would mix its runs' processes. Start the sweep without torchrun; "
            "launcher=slurm or launcher=ray gives each run its own machine."
        )
    jobs, output_dir = plan_cells(name, overrides)
    cells = _distinct(jobs)
    plan = (
        output_dir / "sweeps" / f"{name}-{hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:8]}.json"
    )
    content = [
        {"overrides": [*map(hide_secrets, cell.overrides)], "run_dir": str(cell.run_dir), **_place(cell)}
        for cell in cells
    ]
    is_new = not plan.is_file()
    write_json(plan, {"command": name, "cells": content})
    finished = sum(RunDirectory(cell.run_dir).result.is_file() for cell in cells)
    print_line(f"{len(cells)} runs, {finished} finished before: {plan}")
    _tell_of_waiting(cells)
    try:
        _launch(name, overrides, jobs)
    except InputError:
        if is_new and not any(cell.run_dir.exists() for cell in cells):  # none could start: nobody is to wait for them
            plan.unlink(missing_ok=True)
        raise
    code = _summarize(cells)
    print_line(str(plan))
    return code


def _place(cell: Cell) -> dict[str, Any]:
    """Return what the plan says of a cell's place; what is lacking now may be there at the next start."""
    return {key: value for key, value in cell.row.items() if key != "lacks"}


def _tell_of_waiting(cells: Sequence[Cell]) -> None:
    """Say which cells start from weights that are not there, and why, each reason once."""
    waiting = [cell for cell in cells if cell.row.get("waits_for_weights")]
    if not waiting:
        return
    first: dict[str, Cell] = {}
    for cell in waiting:
        first.setdefault(_lacks(cell), cell)
    start, others = "starts" if len(waiting) == 1 else "start", ", the others run" if len(waiting) < len(cells) else ""
    told = [f"{_told(cell.overrides)}\n  {reason}" for reason, cell in first.items()]
    more = [f"and for {len(told) - TOLD} more reasons"] if len(told) > TOLD else []
    say_line(
        f"{len(waiting)} of them {start} from weights that are not there yet and will fail{others}. The first: "
        + "\n".join([*told[:TOLD], *more])
    )


def _lacks(cell: Cell) -> str:
    return hide_passwords(str(cell.row.get("lacks") or ""))


def plan_cells(name: str, overrides: Sequence[str]) -> tuple[list[Cell], Path]:
    """Compose the cell of every job, so that a mistake shows before the first one runs.

    Jobs that differ in nothing that counts, such as random initialization beside each of two `initialization.run`,
    have one cell.
    """
    stage = importlib.import_module(f"ssl_rs.{name}")
    if not hasattr(stage, "plan"):
        raise InputError(f"{name} runs no sweeps; pretrain, finetune and evaluate do.")
    config = compose_config(name, without_sweeps(overrides))
    params = config.hydra.sweeper.get("params") or {}
    _check_varied(name, config, params)
    # All of them are read and checked before the first one has data prepared, which may take hours.
    drafts = []
    for single in _split(params, overrides):
        settings = cell_settings(name, compose_config(name, single), single)
        drafts.append((settings.overrides, stage.plan(settings)))
    cells = [Cell(own, *place()) for own, place in drafts]
    values, first = resolve(config), {cell.run_dir: cell for cell in reversed(cells)}
    if len(first) < len(cells) and values.get("run_dir"):
        raise InputError("Several runs of this sweep would share one folder. Leave run_dir out: each run has its own.")
    return [first[cell.run_dir] for cell in cells], Path(values["output_dir"])


def _distinct(jobs: Sequence[Cell]) -> list[Cell]:
    """Return the cells of the jobs, each once."""
    return list({cell.run_dir: cell for cell in jobs}.values())


def _check_varied(name: str, config: DictConfig, params: Any) -> None:
    """Refuse a file of conf/sweep/ that is for another command.

    Raises:
        InputError: It varies what this command has not.
    """
    for key in params if isinstance(params, Mapping) else ():
        if str(key).lstrip("+").partition(".")[0] not in config:
            raise InputError(
                f"This sweep varies {key}, which {name} does not have: it is for another command, such as finetune. "
                f"Choose another sweep=..., or vary keys of {name} by -m."
            )


def _split(params: Any, overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every cell.

    Args:
        params: What `hydra.sweeper.params` says.
        overrides: What the command line says.

    Raises:
        InputError: What is to be varied makes no sense, or gives more cells than anybody can run.
    """
    if not isinstance(params, Mapping):
        raise InputError(f"hydra.sweeper.params must map keys to the values they take, got {params!r:.80}.")
    parsed = parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides])
    last = {one.key_or_group: one for one in parsed}  # the one of them that counts
    try:
        if drawn := next((one for one in last.values() if getattr(one.value(), "shuffle", False)), None):
            raise InputError(
                f"{drawn.input_line}: the order of a sweep's runs does not count, and a shuffled one would be another "
                "at every start. Leave shuffle(...) out."
            )
        varied = [one.sweep_string_iterator() for one in last.values() if one.is_sweep_override()]
        number = math.prod(sum(1 for _ in islice(values, MOST_CELLS + 1)) for values in varied)
        if number > MOST_CELLS:
            raise InputError(f"This sweep has more than {MOST_CELLS:,} runs. Vary fewer keys, or fewer values of them.")
        if number == 0:
            raise InputError("This sweep has no runs: a value of it, such as glob(...), stands for nothing.")
        cells: list[list[str]] = BasicSweeper.split_arguments(parsed, None)[0]
    except InputError:
        raise
    except Exception as error:  # odd values fail in Hydra wherever they lead it
        raise InputError(f"The values to sweep over cannot be listed: {error}") from error
    return cells


def cell_settings(name: str, config: DictConfig, overrides: Sequence[str]) -> Settings:
    """Return the settings of a cell.

    `initialization.run`, `.weights` and `.parts` are given to the whole sweep and mean something for one of its
    initializations only, as `encoder_weights` does for one of its encoders; outside of sweeps such a key is refused.

    Args:
        name: Name of the command.
        config: What was composed for the cell.
        overrides: Those of the sweep, with the values of this cell.
    """
    values = resolve(config)
    if "initialization" in values:
        node, group = values["initialization"], "initialization."
        kind = locate(node["_target_"], "initialization", values["trusted_packages"])
        unused = [key for key in CHOICES if key not in getattr(kind, "uses", CHOICES)]
    else:  # evaluate
        node, group = values, ""
        unused = [] if values["encoder"] in WITH_WEIGHTS else ["encoder_weights"]
    node.update(dict.fromkeys(unused))
    dropped = {f"{group}{key}" for key in unused}
    return Settings(name, values, [each for each in overrides if each.partition("=")[0].lstrip("+") not in dropped])


def _hide_in_yaml(path: Path) -> None:
    """Take the secrets out of Hydra's multirun.yaml, where it is there.

    All sweeps write the same file: where two did at once and none can read it, it goes. The plans say all that it says.
    """
    if path.is_file():
        try:
            before = read_yaml(path)
        except InputError:
            path.unlink(missing_ok=True)
            return
        after = without_secrets(before)
        if after != before:
            write_text(path, to_yaml(after))


def _launch(name: str, overrides: Sequence[str], jobs: Sequence[Cell]) -> None:
    """Hand the sweep to Hydra, whose sweeper and launcher run the cells, numbered in the same order."""
    process = os.getpid()

    def job(config: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        _hide_in_yaml(Path(hydra_config.sweep.dir, "multirun.yaml"))  # Hydra notes the command line as it was typed
        number = hydra_config.job.num
        if not any(earlier is jobs[number] for earlier in jobs[:number]):
            try:
                run_cell(name, config, jobs[number])
            except SweepEnded:
                if os.getpid() == process:  # else a launcher gave the run a process of its own
                    raise

    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"ssl_rs.{name}", "--multirun", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints what its launcher raises, and ends the process
    try:
        hydra.main(config_path=str(conf_dir()), config_name=name, version_base="1.3")(job)()
    except OSError:
        raise
    except SweepEnded as ended:
        say_line(f"failed: {ended}")
    except Exception as error:  # run_cell lets none of a run's own errors through
        raise InputError(f"Hydra's sweeper or launcher failed: {error}") from error
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR") if full is None else os.environ.update(HYDRA_FULL_ERROR=full)


def run_cell(name: str, config: DictConfig, cell: Cell) -> None:
    """Run one cell; whatever goes wrong in it is written down and does not stop the others."""
    print_line(f"-- {_told(cell.overrides)}")
    execute: Callable[[Settings], Path] = importlib.import_module(f"ssl_rs.{name}").run
    try:
        print_line(str(execute(cell_settings(name, config, cell.overrides))))
    except Interrupted as stopped:
        raise KeyboardInterrupt(
            str(stopped)
        ) from stopped  # Hydra would go on with the next cell after any other exception
    except InUseError as busy:  # by another sweep, say: it is no failure, and that process may still finish it
        say_line(f"left out: {busy}")
    except Exception as error:  # a cell's defect must not take the rest of the sweep with it
        explained = explain(error)
        defect = hide_passwords(traceback.format_exc()) if explained is None else None
        told = hide_passwords(explained or str(error) or repr(error))
        record = {
            "command": name,
            "overrides": [*map(hide_secrets, cell.overrides)],
            "error": told,
            "traceback": defect,
        }
        with suppress(OSError):  # of a full disk: the last lines of the sweep name the cell all the same
            write_json(RunDirectory(cell.run_dir).failure, record)
        if isinstance(error, SpentProcessError):
            raise SweepEnded(f"{told} The sweep ends here, since its other runs need a new process.") from error
        say_line(f"failed: {told}")
    gc.collect()  # the next cell starts without this one's tensors


def _summarize(cells: Sequence[Cell]) -> int:
    missing = [cell for cell in cells if not RunDirectory(cell.run_dir).result.is_file()]
    print_line(f"{len(cells) - len(missing)} of {len(cells)} runs are finished.")
    code = 0
    for cell in missing:
        run = RunDirectory(cell.run_dir)
        if worker := run.held_by():
            code = code or 2
            say_line(f"still at work: {_told(cell.overrides)}\n  {worker}\n  {run.path}")
            continue
        error, is_defect = _read_failure(run.failure)
        code = 1 if is_defect or code == 1 else 2
        if error == _lacks(cell):
            error = "The weights that it starts from are not there, for the reason told above."
        state, told = ("failed", run.failure) if run.failure.is_file() else ("left out", run.path)
        say_line(f"{state}: {_told(cell.overrides)}\n  {error}\n  {told}")
    return code


def _read_failure(path: Path) -> tuple[str, bool]:
    """Return why a cell failed, and whether that was a defect of ours; a record that is damaged says so."""
    if not path.is_file():
        return "it did not run", False
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record["error"]), bool(record["traceback"])
    except (ValueError, RecursionError, KeyError, TypeError, OSError) as error:
        return f"its record cannot be read ({type(error).__name__}: {error})", False


def _told(overrides: Sequence[str]) -> str:
    """Return overrides as they may be printed."""
    return " ".join(map(hide_secrets, overrides))
