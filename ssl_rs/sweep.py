"""A sweep: plan every cell, run what is not finished through Hydra's launcher, name what failed.

A failing cell leaves failure.json and does not stop the others; the report reads the plan to know what is missing.
"""

import gc
import hashlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ssl_rs.config import Settings, read_yaml, to_yaml
from ssl_rs.config_files import conf_dir
from ssl_rs.distributed import Processes
from ssl_rs.errors import TOLD, InputError, Interrupted, InUseError, SpentProcessError, explain, in_a_line
from ssl_rs.files import write_json, write_text
from ssl_rs.messages import print_line, say_line
from ssl_rs.overrides import as_of_sweep
from ssl_rs.run_directory import RunDirectory
from ssl_rs.secret_values import hide_passwords, hide_secrets, without_secrets
from ssl_rs.sweep_plan import Cell, cell_settings, plan_cells


class SweepEnded(KeyboardInterrupt):
    """No further run can be tried in this process. Hydra would go on with the next one after any other exception."""


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
    write_json(plan, {"command": name, "output_dir": str(output_dir), "cells": content})
    finished = sum(RunDirectory(cell.run_dir).is_finished for cell in cells)
    print_line(f"{len(cells)} runs, {finished} finished before: {plan}")
    _tell_of_waiting(cells)
    try:
        _launch(name, overrides, jobs, plan.parent)
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


def _distinct(jobs: Sequence[Cell]) -> list[Cell]:
    """Return the cells of the jobs, each once."""
    return list({cell.run_dir: cell for cell in jobs}.values())


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


def _launch(name: str, overrides: Sequence[str], jobs: Sequence[Cell], folder: Path) -> None:
    """Hand the sweep to Hydra, whose sweeper and launcher run the cells, numbered in the same order.

    Args:
        name: Name of the command.
        overrides: Its command line.
        jobs: The cell of each job.
        folder: Where Hydra notes the command line, unless the config puts that elsewhere.
    """
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
    sys.argv = [f"ssl_rs.{name}", "--multirun", *as_of_sweep(overrides)]
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
        _hide_in_yaml(folder / "multirun.yaml")  # a launcher that fails has started no job


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
        told = hide_passwords(explained or in_a_line(error))
        record = {
            "command": name,
            "overrides": [*map(hide_secrets, cell.overrides)],
            "error": told,
            "traceback": defect,
        }
        # Of a full disk, or a folder of somebody else's: the last lines of the sweep name the cell all the same.
        with suppress(OSError, InputError):
            RunDirectory(cell.run_dir).check_own()
            write_json(RunDirectory(cell.run_dir).failure, record)
        if isinstance(error, SpentProcessError):
            raise SweepEnded(f"{told} The sweep ends here, since its other runs need a new process.") from error
        say_line(f"failed: {told}")
    gc.collect()  # the next cell starts without this one's tensors ...
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()  # ... and finds the memory of a GPU free


def _summarize(cells: Sequence[Cell]) -> int:
    runs = [RunDirectory(cell.run_dir) for cell in cells]
    # A finished one may fail, too: its weights are damaged.
    missing = [cell for cell, run in zip(cells, runs, strict=True) if not run.is_finished or run.failure.is_file()]
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
