"""Score a finished fine-tuning again: rebuild its network and its data, and evaluate with the windows asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.pixel_size import told_unlike, usual_size
from ssl_rs.errors import InputError
from ssl_rs.finetuned import finished_finetuning
from ssl_rs.messages import say_line
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages.data_checks import check_data, check_kinds, compare_with_training
from ssl_rs.stages.evaluation import EvaluationSettings, Evaluator
from ssl_rs.stages.finished_run import load_network, stored_windows, windows_like
from ssl_rs.stages.held_folder import opened
from ssl_rs.stages.identified import Identified
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.scored_data import Scored, enter
from ssl_rs.stages.site import Site
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata


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
    """Read and check every key, open the data, and derive where the scores live.

    Raises:
        InputError: A key that means nothing here, a run that is not finished, or data that is not like its own.
    """
    _refuse_keys_of_probes(settings)
    run, trained = finished_finetuning(settings.value("run", str | None))
    site, stored = enter(settings, run, trained)
    split: Scored = settings.value("evaluation.split", Scored)
    evaluation = EvaluationSettings(split, windows_like(settings, stored), site.dataset)
    run_dir = settings.value("run_dir", str | None)
    settings.check_all_read()
    manifest = site.store.manifest
    metadata = read_weights_metadata(run.model)
    check_kinds(run, metadata, manifest.bands, manifest)
    if settings.value("value_scale", float | None) is None:  # else they are what it learnt from once they are divided
        check_data(run, metadata, manifest)
    if evaluation.split == "all" or trained.get("manifest_sha256") != manifest.sha256:
        compare_with_training(run, site.store, evaluation.split)
        if told := told_unlike(metadata.pixel_size, usual_size(manifest, evaluation.split)):
            say_line(f"warning: {manifest.dataset}: {told}")
    scores = _identify_scores(run, trained, site, evaluation, run_dir, settings.overrides)
    return Plan(run, trained, stored, metadata, site, evaluation, scores)


def _refuse_keys_of_probes(settings: Settings) -> None:
    """Refuse what only applies to `encoder=...`.

    Raises:
        InputError: Names the key.
    """
    for key in ("encoder", "encoder_weights", "label"):
        if (value := settings.value(key, str | None)) is not None:
            raise InputError(f"{key}={value} only applies to encoder=... . Leave it out.")
    if "probe" in settings.values:
        raise InputError("probe=... probes a frozen encoder. Name it: encoder=outputs/pretrain/...")
    if "_target_" in settings.values["dataset"]:
        chosen = settings.value("run", str | None)
        raise InputError(
            f"dataset=... only applies to encoder=... . run={chosen} knows its data set. If its files have moved, or "
            "to score other data of the same bands and classes, set dataset.root=... alone."
        )


def _identify_scores(
    run: RunDirectory, trained: Mapping[str, Any], site: Site, evaluation: EvaluationSettings, run_dir: str | None,
    overrides: Sequence[str],
) -> Identified:  # fmt: skip
    """Derive where the scores live from all that can change them.

    Args:
        run: The fine-tuning that is scored.
        trained: Its result.
        site: Where it is scored, on which data.
        evaluation: Which scenes, and by which windows.
        run_dir: The folder that the user chose; None: the one that follows from the rest.
        overrides: Of the command line.
    """
    manifest, window = site.store.manifest, evaluation.window
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
    directory = RunDirectory(Path(run_dir or own))
    return Identified(directory, digest, {**trained.get("settings", {}), **scored_by}, overrides)


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
    evaluator = Evaluator(site.store, evaluation, site.device, site.precision)
    with opened(directory, _resolved(settings, plan.stored, site, evaluation), site):
        site.settle_memory()
        network.to(site.device).to(memory_format=torch.channels_last)  # as it was trained
        found = evaluator.score(network, site.processes, directory.path / "samples.npz")
        told = {"command": "evaluate", "run": str(run.path), "config_hash": scores.hash, **scores.origin(site)}
        told |= {"trained_with": plan.trained["made_with"]} if "made_with" in plan.trained else {}
        result = {**plan.trained, **found, **told, **_settings_hash(plan), **_data(plan.trained, site.store.manifest)}
        directory.finish(result)
    tell("Scored", result)
    return directory.path


def _settings_hash(plan: Plan) -> dict[str, str]:
    """Return what tells a report which scores belong to one row: those of other windows than the run's are another."""
    trained = plan.trained.get("settings_hash")
    if trained is None:
        return {}
    own, now = stored_windows(plan.stored).identity, plan.evaluation.window.identity
    return {"settings_hash": trained if own == now else config_hash(now, {"trained": trained})}


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
        f"This is not the data that the run was trained on ({before}); the report gives it a table of its own"
        f"{named if manifest.dataset != before else ''}."
    )
    return {**told, "trained_on_manifest_sha256": trained.get("manifest_sha256")}
