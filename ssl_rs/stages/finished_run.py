"""A finished fine-tuning on disk: is it whole, how was it configured, and its network as it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from pathlib import Path
from typing import Any

from ssl_rs.build import build
from ssl_rs.config import Settings, read_yaml
from ssl_rs.data.dataset import Dataset
from ssl_rs.encoder import Normalization, check_image_size
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.network import SegmentationNetwork, build_segmentation_model, check_side, input_divisor
from ssl_rs.segmentation.sliding_window import WindowSettings
from ssl_rs.weights import load_strictly, read_weights
from ssl_rs.weights_metadata import WeightsMetadata


def finished_finetuning(chosen: str | None) -> RunDirectory:
    """Return the run at a path.

    Raises:
        InputError: There is none, it is unfinished, or its model is not the one that it wrote.
    """
    if chosen is None:
        raise InputError("run is not set. Name the folder of a finished fine-tuning: run=outputs/finetune/...")
    run = RunDirectory(Path(chosen))
    if not run.path.is_dir():
        raise InputError(f"run={chosen}: there is no such folder. Name that of a finished fine-tuning.")
    result = run.read_result()
    if result is not None and result.get("command") == "pretrain":
        raise InputError(
            f"run={chosen} is a pretraining. Fine-tune from it first: `python -m ssl_rs.finetune "
            f"initialization=pretrained initialization.run={chosen}`; then name the folder that this prints."
        )
    if result is None or result.get("command") != "finetune":
        below = [str(path.parent) for path in nsmallest(3, run.path.glob(f"**/{run.model.name}"))]
        hint = f"Below it lie {', '.join(below)}: name one." if below else "Finish it first."
        raise InputError(f"run={chosen} holds no finished fine-tuning (result.json of finetune). {hint}")
    lacking = [key for key in ("config_hash", "model_sha256") if key not in result]
    if lacking:
        raise InputError(f"{run.result} lacks {lacking}: it was not written by this version. Fine-tune it again.")
    for path in (run.model, run.config):
        if not path.is_file():
            raise InputError(f"{path} is missing, so run={chosen} cannot be used. Fine-tune it again.")
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


def windows_like(settings: Settings, stored: Mapping[str, Any]) -> WindowSettings:
    """Read how scenes are cut; what is null is as the run had it."""
    before: WindowSettings = build(stored["evaluation"].get("window"), "evaluation.window")
    kinds = {"size": int, "overlap": float, "batch_size": int}
    wanted = {key: settings.value(f"evaluation.window.{key}", kind | None) for key, kind in kinds.items()}
    return replace(before, **{key: value for key, value in wanted.items() if value is not None})


def load_network(
    run: RunDirectory, stored: Mapping[str, Any], metadata: WeightsMetadata, window: WindowSettings,
    trusted: Sequence[str],
) -> SegmentationNetwork:  # fmt: skip
    """Rebuild the network of a run and load its weights strictly.

    Args:
        run: A finished fine-tuning.
        stored: Its config.
        metadata: What its file of weights says of itself.
        window: What it will be given.
        trusted: Packages besides ours that its decoder may come from.

    Raises:
        InputError: The weights do not fit, or the network does not take such windows.
    """
    bands = len(metadata.bands)
    model = build_segmentation_model(
        build(stored["decoder"], "decoder", trusted), metadata.backbone, bands, len(metadata.classes)
    )
    load_strictly(model, read_weights(run.model), str(run.model), f"backbone {metadata.backbone}")
    check_side(window.size, input_divisor(model), "evaluation.window.size")
    check_image_size(model.encoder, bands, window.size, "evaluation.window.size")  # type: ignore[arg-type]
    return SegmentationNetwork(model, Normalization(metadata.statistics), Dataset.ignore_index)
