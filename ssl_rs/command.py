"""What all commands share: arguments, help, exit codes."""

import argparse
import atexit
import gc
import importlib
import inspect
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_rs.config import Settings, asks_for_sweep, compose_config, resolve, to_yaml
from ssl_rs.config_comments import commented
from ssl_rs.config_files import conf_dir, options, search_in, set_by, used_groups
from ssl_rs.errors import InputError, Interrupted, InUseError, RefusedElsewhereError, explain
from ssl_rs.interrupts import INTERRUPTED, MESSAGE, say, signals_end_the_command
from ssl_rs.messages import OutputClosed, print_line
from ssl_rs.overrides import quoted, without_sweeps

DONE, DEFECT, BAD_INPUT, OUTPUT_CLOSED = 0, 1, 2, 141  # 141: as a shell tells of SIGPIPE

COMMANDS = ("prepare", "preview", "pretrain", "finetune", "evaluate", "report", "predict", "export", "benchmark")
"""All commands, in the order of their use."""

LOST_RANK = (
    "Another process of this run has ended, so this one has to stop, too; the other's message says why. "
    "Start the same command again: it goes on from the last checkpoint."
)


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        name: The command, e.g. "pretrain".
        arguments: What stands behind it on the command line; None: that of this process.
    """
    # Before torch is imported: tensors of some MB then lie in huge pages where Linux offers them, and each step spares
    # the page faults of thousands of small ones.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # cuBLAS is asked for repeatable results before its first use, or trainer=deterministic could not have them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The imports make half a million objects that stay. To seek garbage among them whenever there are 700 more, and
    # again at the exit, takes a seventh of the CPU time of a short run.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    try:
        with signals_end_the_command(), _plain_warnings():
            try:
                given = list(sys.argv[1:] if arguments is None else arguments)
                with _removals_told(given):
                    return _run(name, given)
            finally:
                _leave_processes()
    except Interrupted as stopped:
        return say(str(stopped), INTERRUPTED)
    except OutputClosed:
        return OUTPUT_CLOSED
    except KeyboardInterrupt as stopped:
        return say(str(stopped) or MESSAGE, INTERRUPTED)
    except RefusedElsewhereError:
        return BAD_INPUT
    except Exception as error:
        if (told := explain(error)) is not None:
            return say(told, BAD_INPUT)
        if isinstance(error, RuntimeError) and _is_loss_of_rank(error):
            return say(LOST_RANK, INTERRUPTED)
        raise


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Within it a warning that our code raises is shown as one line, without a place in the code; others as before."""
    before = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        frame = inspect.currentframe()
        while frame and frame.f_globals.get("__name__") in (__name__, "warnings", "_py_warnings"):
            frame = frame.f_back  # to whoever warns: the place that is told is that of a caller further up
        ours = frame is not None and str(frame.f_globals.get("__name__")).startswith("ssl_rs.")
        return f"warning: {message}\n" if ours else before(message, category, *place, **line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _removals_told(arguments: Sequence[str]) -> Iterator[None]:
    """Within it a mistake is told together with what the command line takes out of the config: that may be its cause.

    Raises:
        InputError: The mistake.
    """
    try:
        yield
    except InputError as error:
        removed = [each[1:].partition("=")[0] for each in arguments if each.startswith("~")]
        if not removed or isinstance(error, RefusedElsewhereError | InUseError):
            raise
        raise InputError(
            f"{error} The command line takes {', '.join(removed)} out of the config: leave ~{removed[0]} out if that "
            "was not meant."
        ) from error


def _is_loss_of_rank(error: RuntimeError) -> bool:
    distributed = sys.modules.get("ssl_rs.distributed")  # as in _leave_processes
    return distributed is not None and bool(distributed.is_loss_of_rank(error))


def load_run(name: str) -> Callable[[Settings], Path]:
    """Return the `run` function of a command."""
    function: Callable[[Settings], Path] = importlib.import_module(f"ssl_rs.{name}").run
    return function


def _run(name: str, arguments: list[str]) -> int:
    options_given = _parse(name, arguments)
    overrides = [*search_in(options_given.config_dir), *map(quoted, options_given.overrides)]
    if options_given.help:
        print_line(help_text(name, overrides, options_given.config_dir))
        return DONE
    if options_given.multirun and not options_given.cfg:
        return _run_sweep(name, overrides)
    singles = without_sweeps(overrides)
    config = compose_config(name, singles)
    if not options_given.multirun and not asks_for_sweep(config):
        if singles != overrides:
            config = compose_config(name, overrides)  # which tells what is wrong with several values
        _refuse_launcher(options_given.overrides)
    elif not options_given.cfg:
        return _run_sweep(name, overrides)
    if options_given.cfg:
        print_line(to_yaml(resolve(config)).removesuffix("\n"))
        return DONE
    made = load_run(name)(Settings(name, resolve(config), overrides))
    if os.environ.get("RANK", "0") == "0":
        print_line(str(made))
    return DONE


def _run_sweep(name: str, overrides: Sequence[str]) -> int:
    from ssl_rs.sweep import run_sweep

    return run_sweep(name, overrides)


def _refuse_launcher(overrides: Sequence[str]) -> None:
    """Refuse what says where the runs of a sweep go, or how Hydra runs one, outside of a sweep: it has no effect.

    Raises:
        InputError: Names it.
    """
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if (key == "launcher" and value.strip("'\"") != "local") or key.startswith(("hydra.launcher", "hydra.sweeper")):
            raise InputError(f"{override} is for the runs of a sweep, and this is one run: add -m, or leave it out.")


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m ssl_rs.{name}", add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--cfg", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("overrides", nargs="*")
    found = parser.parse_intermixed_args(arguments)
    if found.cfg and "job" in found.overrides:  # as Hydra's own --cfg is told
        found.overrides.remove("job")
    return found


def help_text(name: str, overrides: Sequence[str], own_dir: Path | None) -> str:
    """Return what the command does, its config groups with their options, and its keys as the overrides leave them.

    Args:
        name: Of the command.
        overrides: Of the command line.
        own_dir: The user's folder of groups and options.
    """
    first = purpose(name)
    config, groups = resolve(compose_config(name, without_sweeps(overrides))), used_groups(name)
    sweeps = hasattr(importlib.import_module(f"ssl_rs.{name}"), "plan")
    lines = [
        first,
        "",
        f"usage: python -m ssl_rs.{name} [group=option ...] [key=value ...]",
        "       --help            print this, with the keys of the options that are given with it",
        "       --cfg             print every key of the run and stop",
        *(["       -m, --multirun    run every combination of comma-separated values"] if sweeps else []),
        "       --config-dir DIR  also look for groups and options in a folder of your own",
    ]
    known = {*config, *groups}
    for group in groups:
        lines += ["", f"{group}="]
        found = {each: conf_dir() / group / f"{each}.yaml" for each in options(group) if _is_for(group, each, known)}
        if own_dir is not None:
            found |= {path.stem: path for path in sorted((own_dir / group).glob("*.yaml"))}
        width = max(24, *map(len, found))
        lines += [f"  {option:<{width}} {_comment(path)}" for option, path in found.items()]
    head = "Keys and their values, with these arguments:" if overrides else "Keys and their defaults:"
    return "\n".join([*lines, "", head, "", commented(name, config)])


def _is_for(group: str, option: str, known: Collection[str]) -> bool:
    """Tell whether an option sets and varies only what a command has; those of one part of the config always do.

    Args:
        group: Of the option.
        option: Of ours.
        known: The command's groups and first names of keys.
    """
    if group not in ("experiment", "sweep"):
        return True
    return {key.partition(".")[0] for key in set_by(group, option)} <= set(known)


def purpose(name: str) -> str:
    """Return a sentence on what a command does."""
    return _comment(conf_dir() / f"{name}.yaml")


def _comment(path: Path) -> str:
    """Return the first sentence that a YAML file says of itself, on one line or several."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "@package" not in line]
    block = itertools.takewhile(
        lambda line: line.startswith("#"), itertools.dropwhile(lambda line: line[:1] != "#", lines)
    )
    sentence, point, _ = " ".join(line.lstrip("# ") for line in block).partition(". ")
    return f"{sentence}{point.strip()}"


def _leave_processes() -> None:
    """End the process group, if the command came as far as joining one."""
    # Nothing is imported: a request to stop may have cut short the import of torch, which no process can do twice.
    if (distributed := sys.modules.get("ssl_rs.distributed")) is not None:
        distributed.stop()
