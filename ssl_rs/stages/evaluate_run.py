"""Score a finished fine-tuning again: rebuild its network and its data, and evaluate with the windows asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ssl_rs.build import build, locate
from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.dataset import Dataset, Split
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.paired import in_brackets
from ssl_rs.data.store import Store
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.finetuned import finished_finetuning
from ssl_rs.messages import say_line
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import SeenImages, read_seen
from ssl_rs.segmentation.sliding_window import WindowSettings
from ssl_rs.stages.evaluation import EvaluationSettings, Evaluator
from ssl_rs.stages.finished_run import data_like, load_network, same_folder, stored_config, windows_like
from ssl_rs.stages.held_folder import opened
from ssl_rs.stages.identified import Identified
from ssl_rs.stages.other_data import may_be_other, name_by_folder, named_as_trained
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.site import Site, open_store
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

Scored = Literal["val", "test", "all"]

OF_TRAINING = (
    "evaluation.split=all scores the scenes of every split, and this run was trained on some of these. It is for other "
    "data: name them by dataset.root=..., or choose evaluation.split=test or val."
)


@dataclass(frozen=True)
class Plan:
    """A checked evaluation, before the first window.

    Args:
        run: The fine-tuning that is scored.
        trained: Its result.
        stored: Its config.
        metadata: Of its weights.
        site: Where it is scored, on which data.
        evaluation: Which scenes, and by which windows.
        scores: Folder and hash of the evaluation.
    """

    run: RunDirectory
    trained: Mapping[str, Any]
    stored: Mapping[str, Any]
    metadata: WeightsMetadata
    site: Site
    evaluation: EvaluationSettings
    scores: Identified


def read_plan(settings: Settings) -> Plan:
    """Read and check every key, open the data, and derive where the scores live."""
    for key in ("encoder", "encoder_weights", "label"):
        if (value := settings.value(key, str | None)) is not None:
            raise InputError(f"{key}={value} means something with encoder=... only. Leave it out.")
    if "probe" in settings.values:
        raise InputError("probe=... probes a frozen encoder. Name it: encoder=outputs/pretrain/...")
    chosen = settings.value("run", str | None)
    if "_target_" in settings.values["dataset"]:
        raise InputError(
            f"dataset=... says which data a probe of encoder=... reads. run={chosen} knows its own; where they lie by "
            "now, or others of the same bands and classes, dataset.root=... says alone."
        )
    run = finished_finetuning(chosen)
    site, stored = _enter(settings, run)
    evaluation, run_dir = _read_evaluation_like(settings, stored, site.dataset), settings.value("run_dir", str | None)
    settings.check_all_read()
    trained, manifest = run.read_result() or {}, site.store.manifest
    metadata = read_weights_metadata(run.model)
    _check_kinds(run, metadata, manifest.bands, manifest)
    _check_data(run, metadata, manifest)
    if evaluation.split == "all" or trained.get("manifest_sha256") != manifest.sha256:
        _compare_with_training(run, site.store, evaluation.split)
    window = evaluation.window
    how = {"split": evaluation.split, **window.identity}
    inputs = {
        "model": str(trained["config_hash"]),
        "weights": str(trained.get("model_sha256", "")),
        "manifest": manifest.sha256,
        "precision": site.precision,
        "scene_group": str(site.dataset.scene_group),
    }
    if trained.get("manifest_sha256") != manifest.sha256:  # an earlier version took such results for the run's own data
        inputs["told"] = "data"
    digest = config_hash(how, inputs)
    own = site.output_dir / "evaluate" / site.dataset.name / f"{run.path.name}-{digest}"
    scored_by = {
        "evaluation.split": evaluation.split,
        "evaluation.window.size": window.size,
        "evaluation.window.overlap": window.overlap,
        "evaluation.window.test_time_augmentation": window.test_time_augmentation,
    }
    directory = RunDirectory(Path(run_dir) if run_dir else own)
    scores = Identified(directory, digest, {**trained.get("settings", {}), **scored_by}, settings.overrides)
    return Plan(run, trained, stored, metadata, site, evaluation, scores)


def place(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Refuse a run that is none; return what tells where the scores would live and their place in a report."""
    finished_finetuning(settings.value("run", str | None))
    return lambda: _placed(read_plan(settings))


def _placed(plan: Plan) -> tuple[Path, dict[str, Any]]:
    kept = ("backbone", "decoder", "label", "label_fraction", "label_unit", "label_order", "seed", "steps")
    row = {key: plan.trained[key] for key in kept if key in plan.trained} | _settings_hash(plan)
    manifest = plan.site.store.manifest
    told = {"dataset": manifest.dataset, "manifest_sha256": manifest.sha256, "split": plan.evaluation.split}
    return plan.scores.directory.path, row | told


def evaluate(settings: Settings) -> Path:
    """Score a finished fine-tuning again, e.g. with other windows; return the folder of the scores."""
    plan = read_plan(settings)
    run, site, scores, evaluation = plan.run, plan.site, plan.scores, plan.evaluation
    network = load_network(run, plan.stored, plan.metadata, evaluation.window, settings.trusted)
    directory = scores.directory
    if scores.is_finished("evaluate"):
        return directory.path
    evaluator = Evaluator(site.store, evaluation, site.device, site.precision, site.dataset.protocol)
    with opened(directory, _resolved(settings, plan.stored, site, evaluation), site):
        site.settle_memory()
        network.to(site.device).to(memory_format=torch.channels_last)  # as it was trained
        found = evaluator.score(network, site.processes, directory.path / "samples.npz")
        told = {"command": "evaluate", "run": str(run.path), "config_hash": scores.hash, **scores.origin(site)}
        result = {**plan.trained, **found, **told, **_settings_hash(plan), **_data(plan.trained, site.store.manifest)}
        directory.finish(result)
    tell("Scored", result)
    return directory.path


def _settings_hash(plan: Plan) -> dict[str, str]:
    """Return what tells a report which scores belong to one row: those of other windows than the run's are another."""
    trained = plan.trained.get("settings_hash")
    if trained is None:
        return {}
    keys = ("size", "overlap", "test_time_augmentation")
    stored = {key: value for key, value in plan.stored["evaluation"]["window"].items() if key in keys}
    own, now = WindowSettings(**stored).identity, plan.evaluation.window.identity
    return {"settings_hash": trained if own == now else config_hash(now, {"trained": trained})}


def _read_evaluation_like(settings: Settings, stored: Mapping[str, Any], dataset: Dataset) -> EvaluationSettings:
    """Read the split and the windows; what is null is as the run had it."""
    split: Literal["val", "test", "all"] = settings.value("evaluation.split", Scored)
    window = windows_like(settings, stored)
    return EvaluationSettings(split, window, dataset.clutter, dataset.group_of, dataset.how_to_validate)


def _resolved(
    settings: Settings, stored: Mapping[str, Any], site: Site, evaluation: EvaluationSettings
) -> dict[str, Any]:
    """Return the settings with what the run gave for those that were null, and the parts that are the run's."""
    window = {"_target_": stored["evaluation"]["window"]["_target_"], **asdict(evaluation.window)}
    return {
        **settings.values,
        "backbone": stored.get("backbone"),
        "decoder": stored["decoder"],
        "dataset": {key: getattr(site.dataset, key, value) for key, value in stored["dataset"].items()},
        "evaluation": {"split": evaluation.split, "window": window},
    }


def _data(trained: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """Return what result.json says of the data that was scored, and say if the run was trained on other data."""
    told = {"dataset": manifest.dataset, "manifest_sha256": manifest.sha256}
    if trained.get("manifest_sha256") == manifest.sha256:
        return told
    before, named = trained.get("dataset"), f", under the name {manifest.dataset}"
    say_line(
        f"These are other data than the run was trained on ({before}): a table of their own"
        f"{named if manifest.dataset != before else ''}."
    )
    return {**told, "trained_on_manifest_sha256": trained.get("manifest_sha256")}


def _check_kinds(
    run: RunDirectory, metadata: WeightsMetadata, bands: tuple[str, ...], data: Dataset | Manifest
) -> None:
    """Refuse data of other bands or classes than the run was trained on.

    Raises:
        InputError: Names both.
    """
    for key, own in (("bands", bands), ("classes", tuple(item.name for item in data.classes))):
        trained = getattr(metadata, key)
        if trained != own:
            raise InputError(
                f"{run.model} was trained on the {key} {trained!s:.300}, the data has {own}. Check dataset.root."
            )


def _check_data(run: RunDirectory, metadata: WeightsMetadata, manifest: Manifest) -> None:
    """Refuse data of other values than the run was trained on.

    Raises:
        InputError: Values of another type, or another value scale.
    """
    if metadata.dtype not in (None, manifest.dtype):
        raise InputError(
            f"{run.model} was trained on values of type {metadata.dtype}, the data has {manifest.dtype}: divided by "
            f"{metadata.value_scale:g}, these would mean something else. Convert the images of dataset.root."
        )
    if metadata.value_scale != manifest.value_scale:
        raise InputError(
            f"{run.model} was trained on values divided by {metadata.value_scale:g}, the data at dataset.root is "
            f"divided by {manifest.value_scale:g}, as the run's config.yaml says. Fine-tune again, or take other data."
        )


def _enter(settings: Settings, run: RunDirectory) -> tuple[Site, Mapping[str, Any]]:
    """Open the run's data where it lay, or where `dataset.root` says, on the device that is wanted now."""
    stored = stored_config(run)
    trusted = settings.trusted
    root, of_training = settings.value("dataset.root", str | None), stored["dataset"].get("root")
    node = data_like(settings, stored["dataset"])
    if (channels := settings.value("bands", tuple[int, ...] | None)) is not None:
        if not hasattr(locate(str(node.get("_target_")), "dataset", trusted), "channels"):
            raise InputError(f"bands={in_brackets(channels)}: dataset={node.get('name')} reads its own. Leave it out.")
        node |= {"channels": list(channels), "bands": _names_of(channels, node.get("bands"), run)}
    in_every_split = settings.value("evaluation.split", Scored) == "all"
    if in_every_split:
        _refuse_training_scenes(root, of_training)

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
    dataset, store = _opened(run, built, root, None if is_named else root, store_dir, processes)
    if not in_every_split:
        _refuse_other_splits(stored["dataset"].get("scene_group"), node.get("scene_group"), read_seen(run), store)
    return Site(
        trainer, processes, here, trainer.resolve_precision(here), dataset, store, seed, Path(output_dir)
    ), stored


def _opened(
    run: RunDirectory, built: Callable[..., Dataset], root: str | None, moved_to: str | None, store_dir: Path,
    processes: Processes,
) -> tuple[Dataset, Store]:  # fmt: skip
    """Open the data that a run is scored on, under the name of its own data where it is these.

    Args:
        run: The fine-tuning.
        built: Makes the data set, by another name and another value scale if these are given.
        root: What `dataset.root` says.
        moved_to: The same, where it is another folder than that of the training and nobody named what lies there.
        store_dir: Folder of all stores.
        processes: Those that prepare it.
    """
    metadata, dataset, name = read_weights_metadata(run.model), built(), None
    trained, own_data = dataset.name, (run.read_result() or {}).get("manifest_sha256")
    if moved_to is not None and may_be_other(dataset, store_dir, own_data):
        name = name_by_folder(moved_to, trained)
        dataset = built(name)
    store = open_store(dataset, store_dir, processes, lambda: _check_kinds(run, metadata, dataset.band_names, dataset))
    if root and dataset.value_scale is None and store.manifest.value_scale != metadata.value_scale:
        # Other images than those of the training have another largest value; the network knows the old one.
        dataset = built(name, metadata.value_scale)
        store = open_store(dataset, store_dir, processes)
    own = None if name is None else named_as_trained(store, trained, own_data)
    return (dataset, store) if own is None else (replace(dataset, name=trained), own)


def _refuse_other_splits(trained: str | None, now: str | None, seen: SeenImages, store: Store) -> None:
    """Refuse the run's own data, moved, whose splits would be drawn without the groups they were drawn with.

    Raises:
        InputError: It is such data.
    """
    if trained is not None and now is None and seen.labeled and seen.labeled <= store.image_hashes(get_args(Split)):
        raise InputError(
            f"These are the images of the training, whose splits kept dataset.scene_group={trained} together. Say so "
            f"again, 'dataset.scene_group=\"{trained}\"', or others are scored."
        )


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


def _compare_with_training(run: RunDirectory, store: Store, split: Literal["val", "test", "all"]) -> None:
    """Refuse to score images of which a run had labels; tell of those that it saw without.

    Raises:
        InputError: Names some.
    """
    seen, records = read_seen(run), store.manifest.scenes
    if seen.unknown:
        say_line(f"{run.path} does not say of which images it had labels. See that none of these is among them.")
    scored = store.scenes_of(split)
    found = [records[index].id for index in scored if store.image_hash(index) in seen.labeled]
    if found:
        named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise InputError(
            f"{len(found)} images, {named}, are of the training, to the last pixel. Take them out: this run was "
            "trained on some of these, and scores of what was seen with its labels say nothing."
        )
    if count := sum(store.image_hash(index) in seen.images for index in scored):
        say_line(f"Pretraining saw {count} of the {len(scored)} images, without labels: new ones may fare worse.")


def _refuse_training_scenes(root: str | None, of_training: str | None) -> None:
    """Refuse to score every split of the data that a run was trained on.

    Raises:
        InputError: `root` names no other folder than the one of the training.
    """
    if root is None or same_folder(root, of_training):
        raise InputError(OF_TRAINING)
