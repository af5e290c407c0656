"""The plan of a sweep: its cells, each composed and checked before the first one runs."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from ssl_rs.admitted import import_target
from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.config_files import used_groups
from ssl_rs.errors import InputError
from ssl_rs.hydra_node import check_sweep
from ssl_rs.initialization import CHOICES
from ssl_rs.overrides import names_several, parse_overrides, without_sweeps
from ssl_rs.run_directory import RunDirectory

MOST_CELLS = 10_000
"""Runs of a sweep: each is composed and checked before the first one starts, which takes a quarter of a second."""


WITH_WEIGHTS = ("imagenet", "file")
"""Encoders that evaluate reads from `encoder_weights`."""


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


def plan_cells(name: str, overrides: Sequence[str]) -> tuple[list[Cell], Path]:
    """Compose the cell of every job, so that a mistake shows before the first one runs.

    Jobs that differ in nothing that counts, such as random initialization beside each of two `initialization.run`,
    have one cell.

    Raises:
        InputError: The command runs no sweeps, a cell of this one cannot be composed, or its folder is somebody else's.
    """
    stage = importlib.import_module(f"ssl_rs.{name}")
    if not hasattr(stage, "plan"):
        raise InputError(f"{name} runs no sweeps; pretrain, finetune and evaluate do.")
    for override in overrides:
        if override.startswith("sweep=") and names_several(override):
            raise InputError(f"{override}: one sweep is expected. Run them one after the other.")
    config = compose_config(name, without_sweeps(overrides))
    params = config.hydra.sweeper.get("params") or {}
    check_sweep(params)
    _check_varied(name, config, params)
    # All of them are read and checked before the first one has data prepared, which may take hours.
    drafts, folders = [], list[Path]()
    for single in _split(params, overrides):
        settings = cell_settings(name, compose_config(name, single), single)
        drafts.append((settings.overrides, stage.plan(settings)))
        if folder := settings.values.get("run_dir"):
            RunDirectory(Path(folder)).check_own()
            folders.append(Path(folder))
    if len(set(folders)) < len(folders):
        raise InputError("Several runs of this sweep would share one folder. Leave run_dir out: each run has its own.")
    cells = [Cell(own, *place()) for own, place in drafts]
    first = {cell.run_dir: cell for cell in reversed(cells)}
    return [first[cell.run_dir] for cell in cells], Path(resolve(config)["output_dir"])


def _check_varied(name: str, config: DictConfig, params: Any) -> None:
    """Refuse a file of conf/sweep/ that is for another command.

    Raises:
        InputError: It varies what this command has not.
    """
    for key in params if isinstance(params, Mapping) else ():
        if str(key).lstrip("+").partition(".")[0] not in (*config, *used_groups(name)):
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
        kind = import_target(node["_target_"], "initialization", values["trusted_packages"])
        unused = [key for key in CHOICES if key not in getattr(kind, "uses", CHOICES)]
    else:  # evaluate
        node, group = values, ""
        unused = [] if values["encoder"] in WITH_WEIGHTS else ["encoder_weights"]
    node.update(dict.fromkeys(unused))
    dropped = {f"{group}{key}" for key in unused}
    return Settings(name, values, [each for each in overrides if each.partition("=")[0].lstrip("+") not in dropped])
