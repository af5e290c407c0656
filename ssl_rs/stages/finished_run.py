"""A finished fine-tuning on disk: is it whole, and how was it configured?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_rs.config import read_yaml
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.run_directory import RunDirectory


def finished_finetuning(chosen: str | None) -> RunDirectory:
    """Return the run at a path.

    Raises:
        InputError: There is none, it is unfinished, or its model is not the one that it wrote.
    """
    if chosen is None:
        raise InputError("run is not set. Name the folder of a finished fine-tuning: run=outputs/finetune/...")
    run = RunDirectory(Path(chosen))
    result = run.read_result()
    if result is None or result.get("command") != "finetune":
        raise InputError(f"run={chosen} holds no finished fine-tuning (result.json of finetune). Finish it first.")
    lacking = [key for key in ("config_hash", "model_sha256") if key not in result]
    if lacking:
        raise InputError(f"{run.result} lacks {lacking}: it was not written by this version. Fine-tune it again.")
    for path in (run.model, run.config):
        if not path.is_file():
            raise InputError(f"{path} is missing, so run={chosen} cannot be scored. Fine-tune it again.")
    if sha256_of(run.model) != result["model_sha256"]:
        raise InputError(
            f"{run.model} is not the file that its result.json names: it is damaged or was replaced. "
            "Fine-tune it again."
        )
    return run


def stored_config(run: RunDirectory) -> Mapping[str, Any]:
    """Read the config of a run, as plain data.

    Raises:
        InputError: It is damaged.
    """
    stored = read_yaml(run.config)
    lacking = [key for key in ("dataset", "trainer", "decoder", "evaluation") if not isinstance(stored.get(key), dict)]
    if lacking:
        raise InputError(f"{run.config} lacks {lacking}: it is damaged. Fine-tune the run again.")
    return stored
