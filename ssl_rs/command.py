"""What all commands share: arguments, help, exit codes."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ssl_rs.config import (
    Settings,
    asks_for_sweep,
    compose_config,
    conf_dir,
    options,
    resolve,
    search_in,
    to_yaml,
    used_groups,
)
from ssl_rs.errors import InputError, Interrupted

DONE, DEFECT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        name: The command, e.g. "pretrain".
        arguments: What stands behind it on the command line; None: that of this process.
    """
    try:
        return _run(name, list(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        return _say(str(error), BAD_INPUT)
    except Interrupted as stopped:
        return _say(str(stopped), INTERRUPTED)
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except OSError as error:  # a full disk, a missing permission: the user's to mend
        return _say(f"{error.filename or name}: {error.strerror or error}", BAD_INPUT)
    finally:
        _leave_processes()


def load_run(name: str) -> Callable[[Settings], Path]:
    """Return the `run` function of a command."""
    function: Callable[[Settings], Path] = importlib.import_module(f"ssl_rs.{name}").run
    return function


def _run(name: str, arguments: list[str]) -> int:
    options_given = _parse(name, arguments)
    if options_given.help:
        print(help_text(name))
        return DONE
    overrides = [*search_in(options_given.config_dir), *options_given.overrides]
    if options_given.multirun or asks_for_sweep(name, overrides):
        from ssl_rs.sweep import run_sweep

        return run_sweep(name, overrides)
    config = compose_config(name, overrides)
    if options_given.cfg:
        print(to_yaml(resolve(config)), end="")
        return DONE
    made = load_run(name)(Settings(name, resolve(config)))
    if os.environ.get("RANK", "0") == "0":
        print(made)
    return DONE


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m ssl_rs.{name}", add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--cfg", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(arguments)


def help_text(name: str) -> str:
    """Return what the command does, its config groups with their options, and its keys with their defaults."""
    first = _comment(conf_dir() / f"{name}.yaml")
    config = resolve(compose_config(name, []))
    lines = [
        first,
        "",
        f"usage: python -m ssl_rs.{name} [group=option ...] [key=value ...]",
        "       --cfg             print every key of the run and stop",
        "       -m, --multirun    run every combination of comma-separated values",
        "       --config-dir DIR  also look for groups and options in a folder of your own",
    ]
    for group in used_groups(name):
        lines += ["", f"{group}="]
        lines += [f"  {option:<24} {_comment(conf_dir() / group / f'{option}.yaml')}" for option in options(group)]
    return "\n".join([*lines, "", "Keys and their defaults:", "", to_yaml(config)])


def _comment(path: Path) -> str:
    """Return the first comment of a YAML file, which says what it is."""
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    said = [line.lstrip("# ") for line in comments if "@package" not in line]
    return said[0] if said else ""


def _say(message: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    print(message if rank == "0" else f"[rank {rank}] {message}", file=sys.stderr)
    return code


def _leave_processes() -> None:
    """End the process group, if the command came as far as joining one."""
    if "torch.distributed" in sys.modules:
        from ssl_rs import distributed

        distributed.stop()
