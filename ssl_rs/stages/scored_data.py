"""The data that a finished fine-tuning is scored on: opened where they lay, or where others lie, by their name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ssl_rs.admitted import import_target
from ssl_rs.build import build
from ssl_rs.config import Settings
from ssl_rs.data.dataset import Dataset
from ssl_rs.data.paired import in_brackets
from ssl_rs.data.store import Store
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import read_seen
from ssl_rs.stages.data_checks import check_kinds, refuse_other_splits, refuse_training_scenes
from ssl_rs.stages.finished_run import data_like, same_folder, stored_config
from ssl_rs.stages.other_data import may_be_other, name_by_folder, named_as_trained
from ssl_rs.stages.site import Site, open_store
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.weights_metadata import read_weights_metadata

Scored = Literal["val", "test", "all"]


def enter(settings: Settings, run: RunDirectory, result: Mapping[str, Any]) -> tuple[Site, Mapping[str, Any]]:
    """Open the run's data where it lay, or where `dataset.root` says, on the device that is wanted now.

    Args:
        settings: Of the command.
        run: The fine-tuning.
        result: What its result.json says.

    Raises:
        InputError: The data are not there, or are not what the run was trained on.
    """
    stored = stored_config(run)
    trusted = settings.trusted
    root, of_training = settings.value("dataset.root", str | None), stored["dataset"].get("root")
    node = _config_of_data(settings, run, stored["dataset"])
    in_every_split = settings.value("evaluation.split", Scored) == "all"
    if in_every_split:
        refuse_training_scenes(root, of_training)

    def built(name: str | None = None, value_scale: float | None = node.get("value_scale")) -> Dataset:
        named = {} if name is None else {"name": name}
        dataset: Dataset = build({**node, **named, "value_scale": value_scale}, "dataset", trusted)
        return dataset.undivided() if in_every_split else dataset

    device, precision = settings.value("trainer.device", str), settings.value("trainer.precision", str)
    trainer: TrainerSettings = build(
        {**stored["trainer"], "device": device, "precision": precision}, "trainer", trusted
    )
    processes = Processes.alone("evaluate")
    here = trainer.resolve_device(processes.local_rank)
    output_dir, seed = settings.value("output_dir", str), settings.value("seed", int)
    store_dir = Path(settings.value("store_dir", str))
    is_named = root is None or same_folder(root, of_training) or settings.value("dataset.name", str | None) is not None
    try:
        dataset, store = _opened(run, result, built, root, None if is_named else root, store_dir, processes)
    except InputError as error:
        if root is None and of_training is not None and not Path(of_training).exists():
            raise InputError(
                f"The data of {run.path} lay in {of_training}, as its config.yaml says, seen from the folder where it "
                "was trained; there is nothing here. Say where they lie now: dataset.root=FOLDER"
            ) from error
        if root is not None and not in_every_split and _lacks_training(built):
            raise InputError(
                f"dataset.root={root} has too few labeled images for splits of its own. evaluation.split=all scores "
                "every one of them."
            ) from error
        raise
    if not in_every_split:
        refuse_other_splits(stored["dataset"].get("scene_group"), node.get("scene_group"), read_seen(run), store)
    return Site(
        trainer, processes, here, trainer.resolve_precision(here), dataset, store, seed, Path(output_dir)
    ), stored


def _config_of_data(settings: Settings, run: RunDirectory, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the data set that is scored: the stored one, but for what the settings say.

    Raises:
        InputError: A setting that means nothing for these data.
    """
    node = data_like(settings, stored)
    if (channels := settings.value("bands", tuple[int, ...] | None)) is not None:
        if not hasattr(import_target(str(node.get("_target_")), "dataset", settings.trusted), "channels"):
            raise InputError(f"bands={in_brackets(channels)}: dataset={node.get('name')} reads its own. Leave it out.")
        node |= {"channels": list(channels), "bands": _names_of(channels, node.get("bands"), run)}
    scale, root = settings.value("value_scale", float | None), settings.value("dataset.root", str | None)
    return node | _scale_of_others(scale, root)


def _scale_of_others(scale: float | None, root: str | None) -> dict[str, float]:
    """Return what the config of other data says instead of that of the training.

    Raises:
        InputError: It is no scale, or nobody says of which data.
    """
    if scale is None:
        return {}
    if root is None or not 0 < scale < math.inf:
        raise InputError(
            f"value_scale={scale:g}: expected a number above 0, by which the values of the data at dataset.root=... "
            "are divided. Name that folder, too, or leave it out: the run knows its own scale."
        )
    return {"value_scale": scale}


def _opened(
    run: RunDirectory, result: Mapping[str, Any], built: Callable[..., Dataset], root: str | None,
    moved_to: str | None, store_dir: Path, processes: Processes,
) -> tuple[Dataset, Store]:  # fmt: skip
    """Open the data that a run is scored on, under the name of its own data where it is these.

    Args:
        run: The fine-tuning.
        result: What its result.json says.
        built: Makes the data set, by another name and another value scale if these are given.
        root: What `dataset.root` says.
        moved_to: The same, where it is another folder than that of the training and nobody named what lies there.
        store_dir: Folder of all stores.
        processes: Those that prepare it.
    """
    metadata, dataset, name = read_weights_metadata(run.model), built(), None
    trained, own_data = dataset.name, result.get("manifest_sha256")
    if root is not None and may_be_other(dataset, store_dir, own_data):
        name = None if moved_to is None else name_by_folder(moved_to, trained)
        # Of 8 bits all data have one scale; a store that others have made, too, is not made again.
        known = metadata.value_scale if (metadata.dtype, metadata.value_scale) != ("uint8", 255) else None
        dataset = built(name, dataset.value_scale or known)
    store = open_store(dataset, store_dir, processes, lambda: check_kinds(run, metadata, dataset.band_names, dataset))
    if root and dataset.value_scale is None and store.manifest.value_scale != metadata.value_scale:
        # Other images than those of the training have another largest value; the network knows the old one.
        dataset = built(name, metadata.value_scale)
        store = open_store(dataset, store_dir, processes)
    own = None if name is None else named_as_trained(store, trained, own_data)
    return (dataset, store) if own is None else (replace(dataset, name=trained), own)


def _lacks_training(built: Callable[..., Dataset]) -> bool:
    try:
        return not any(scene.split == "train" for scene in built().scenes())
    except InputError:
        return False


def _names_of(channels: Sequence[int], stored: Sequence[str] | None, run: RunDirectory) -> list[str]:
    """Return the names of the channels of other files that are the bands of a run.

    Args:
        channels: Of the files, counted from 1.
        stored: What the run's config calls its bands, maybe a last one alpha; None: it names none.
        run: The fine-tuning.

    Raises:
        InputError: They are not as many.
    """
    names = read_weights_metadata(run.model).bands
    if stored is not None and len(channels) == len(stored):
        return list(stored)
    if len(channels) != len(names):
        raise InputError(f"bands={in_brackets(channels)}: expected a channel for each of {', '.join(stored or names)}.")
    return list(names)
