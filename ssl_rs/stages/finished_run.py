"""A finished fine-tuning on disk: how was it configured, and its network as it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from ssl_rs.admitted import import_target
from ssl_rs.build import build
from ssl_rs.config import Settings, read_yaml
from ssl_rs.data.dataset import IGNORE
from ssl_rs.encoder import Normalization, check_image_size, check_side, input_divisor
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.network import SegmentationNetwork, build_segmentation_model
from ssl_rs.segmentation.sliding_window import WindowSettings
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.weights import load_strictly, read_weights
from ssl_rs.weights_metadata import WeightsMetadata

OF_FINETUNING = ("dataset", "trainer", "decoder", "evaluation")


def stored_config(run: RunDirectory, groups: Sequence[str] = OF_FINETUNING) -> Mapping[str, Any]:
    """Read the config of a run, as plain data.

    Args:
        run: Its folder.
        groups: Those of its groups that are needed.

    Raises:
        InputError: It is damaged.
    """
    stored = read_yaml(run.config)
    lacking = [name for name in groups if not isinstance(stored.get(name), dict)]
    if lacking:
        raise InputError(f"{run.config} lacks {lacking}: it is damaged. {run.from_scratch}")
    return stored


def read_computer(settings: Settings) -> TrainerSettings:
    """Read on which device and how exactly it computes; nothing is trained, so length and batch mean nothing."""
    precision = settings.value("trainer.precision", Literal["auto", "bf16", "fp32"])
    return TrainerSettings(1, 2, settings.value("trainer.device", str), precision)


def windows_like(settings: Settings, stored: Mapping[str, Any]) -> WindowSettings:
    """Read how scenes are cut; what is null is as the run had it."""
    return changed_windows(settings, stored_windows(stored))


def stored_windows(stored: Mapping[str, Any]) -> WindowSettings:
    """Return how a run's own config cuts scenes; nothing else is built of what stands there.

    Raises:
        InputError: It is damaged.
    """
    node, expected = stored["evaluation"].get("window"), f"{WindowSettings.__module__}.{WindowSettings.__name__}"
    if isinstance(node, dict) and "_target_" in node:
        import_target(str(node["_target_"]), "evaluation.window")
    plain = isinstance(node, dict) and not any(isinstance(value, (dict, list)) for value in node.values())
    if not plain or node.get("_target_") != expected:
        raise InputError(f"evaluation.window of the run is {node!r:.200}, expected a {expected}: it is damaged.")
    return cast(WindowSettings, build(node, "evaluation.window"))


def changed_windows(settings: Settings, before: WindowSettings) -> WindowSettings:
    """Read how scenes are cut; what is null is as before."""
    kinds = {"size": int, "overlap": float, "batch_size": int, "test_time_augmentation": bool}
    wanted = {key: settings.value(f"evaluation.window.{key}", kind | None) for key, kind in kinds.items()}
    return replace(before, **{key: value for key, value in wanted.items() if value is not None})


def same_folder(first: str, second: str | None) -> bool:
    """Tell whether two settings name one folder, however they are spelled."""
    return second is not None and Path(first).resolve() == Path(second).resolve()


def data_like(settings: Settings, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data set of a run, where it lay or where `dataset.root` says; other data may have another name.

    Which of its scenes lie together is known of the run's own data; of other data `dataset.scene_group` says it.

    Raises:
        InputError: A name without a place: the run's own data has one.
    """
    root, name, group = (settings.value(f"dataset.{key}", str | None) for key in ("root", "name", "scene_group"))
    bad = settings.value("dataset.on_bad_scene", Literal["error", "skip"] | None)
    if name is not None and root is None:
        raise InputError(f"dataset.name={name} names other data: say where they lie, dataset.root=...")
    if group is None and (root is None or same_folder(root, stored.get("root"))):
        group = stored.get("scene_group")
    of_groups = {} if group is None and "scene_group" not in stored else {"scene_group": group}
    own = {key: value for key, value in (("root", root), ("name", name), ("on_bad_scene", bad)) if value is not None}
    return {**stored, **own, **of_groups}


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
    return SegmentationNetwork(model, Normalization(metadata.statistics), IGNORE)
