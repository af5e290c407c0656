"""Score a segmentation network on whole scenes: one pass, one pooled confusion matrix, every protocol."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_rs.build import build
from ssl_rs.config import Settings, config_hash, read_yaml, to_yaml
from ssl_rs.data.dataset import Dataset
from ssl_rs.data.store import Store
from ssl_rs.distributed import Processes, sum_over_ranks
from ssl_rs.encoder import Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory, read_metadata
from ssl_rs.segmentation.metrics import confusion_matrix
from ssl_rs.segmentation.network import SegmentationNetwork, build_segmentation_model, check_side, input_divisor
from ssl_rs.segmentation.protocols import ALL_CLASSES, score
from ssl_rs.segmentation.sliding_window import WindowSettings, predict_scene
from ssl_rs.stages.recipe import Identified
from ssl_rs.stages.samples import choose_samples, write_samples
from ssl_rs.stages.site import Site, environment, open_store
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.weights import load_strictly, read_weights

PROTOCOLS = (ALL_CLASSES,)
"""All that one evaluation is scored by."""

SAMPLES = 3
"""Test tiles that every run leaves a picture of."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What is scored, and how.

    Args:
        split: The scenes that are scored.
        window: How scenes are cut.
    """

    split: Literal["val", "test"]
    window: WindowSettings


def read_evaluation(settings: Settings) -> EvaluationSettings:
    """Read the `evaluation` node."""
    return EvaluationSettings(
        settings.value("evaluation.split", Literal["val", "test"]), settings.build("evaluation.window")
    )


@dataclass(frozen=True)
class Evaluator:
    """Scores networks on the scenes of one split.

    Args:
        store: The data.
        settings: Split and windows.
        device: Where it computes.
        precision: Of the forward pass.
        protocol: The protocol whose metrics stand at the top of the result.
    """

    store: Store
    settings: EvaluationSettings
    device: torch.device
    precision: str
    protocol: str

    def __post_init__(self) -> None:
        if not self._scenes():
            raise InputError(
                f"evaluation.split={self.settings.split}: {self.store.manifest.dataset} has no such scenes. "
                "Choose the other of val and test, or prepare the data with such a split."
            )
        names = [protocol.name for protocol in PROTOCOLS]
        if self.protocol not in names:
            raise InputError(f"dataset.protocol={self.protocol} is not among the protocols scored: {names}.")

    def score(self, network: SegmentationNetwork, processes: Processes, samples: Path) -> dict[str, Any]:
        """Predict every scene once, ranks sharing the scenes, and score the pooled counts.

        Args:
            network: On the device.
            processes: This process among all.
            samples: Where the first process writes the pictures by which the report compares runs.
        """
        manifest = self.store.manifest
        names = [item.name for item in manifest.classes]
        tiles = choose_samples(self.store, self._scenes(), SAMPLES) if processes.is_first else []
        maps: dict[int, np.ndarray] = {}
        confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
        for index in self._scenes()[processes.rank :: processes.world_size]:
            truth = torch.from_numpy(np.asarray(self.store.mask(index)).copy())
            prediction = self.predict(network, self.store.image(index))
            confusion += confusion_matrix(torch.from_numpy(prediction), truth, len(names), manifest.ignore_index)
            if any(tile.scene == index for tile in tiles):
                maps[index] = prediction
        if processes.is_first:
            others = {tile.scene for tile in tiles} - maps.keys()  # these were another rank's scenes
            maps |= {index: self.predict(network, self.store.image(index)) for index in others}
            write_samples(self.store, tiles, maps, samples)
        confusion = sum_over_ranks(confusion, self.device)
        protocols = {protocol.name: dict(score(confusion, names, protocol)) for protocol in PROTOCOLS}
        return {
            **protocols[self.protocol],
            "split": self.settings.split,
            "protocol": self.protocol,
            "protocols": protocols,
            "confusion": confusion.tolist(),
            "classes": [{"name": item.name, "color": list(item.color)} for item in manifest.classes],
        }

    @torch.no_grad()
    def predict(self, network: SegmentationNetwork, image: np.ndarray) -> np.ndarray:
        """Return the class map uint8 [H, W] of a scene [C, H, W]."""
        network.eval()

        def logits(windows: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return network.logits(windows)

        return predict_scene(logits, image, self.store.manifest.value_scale, self.settings.window, self.device)

    def _scenes(self) -> list[int]:
        return list(self.store.scenes_of(self.settings.split))


def evaluate(settings: Settings) -> Path:
    """Score a finished fine-tuning again, e.g. with other windows; return the folder of the scores."""
    chosen = settings.value("run", str | None)
    run = _finished(chosen)
    site, stored = _enter(settings, run)
    evaluation, run_dir = _read_evaluation_like(settings, stored), settings.value("run_dir", str | None)
    settings.check_all_read()
    trained, weights = run.read_result() or {}, read_weights(run.model)
    network = _load_network(run, stored, site, weights)
    check_side(evaluation.window.size, input_divisor(network.model), "evaluation.window.size")
    how = {"split": evaluation.split, "size": evaluation.window.size, "overlap": evaluation.window.overlap}
    digest = config_hash(how, {"model": str(trained["config_hash"]), "manifest": site.store.manifest.sha256})
    directory = RunDirectory(
        Path(run_dir) if run_dir else site.output_dir / "evaluate" / trained["dataset"] / f"{run.path.name}-{digest}"
    )
    if Identified(directory, digest).is_finished("evaluate"):
        return directory.path
    evaluator = Evaluator(site.store, evaluation, site.device, site.precision, site.dataset.protocol)
    directory.begin(to_yaml(settings.values), environment(site))
    scores = evaluator.score(network.to(site.device), site.processes, directory.path / "samples.npz")
    directory.finish({**trained, **scores, "command": "evaluate", "run": str(run.path), "config_hash": digest})
    return directory.path


def _read_evaluation_like(settings: Settings, stored: Mapping[str, Any]) -> EvaluationSettings:
    """Read the split and the windows; what is null is as the run had it."""
    before: WindowSettings = build(stored["evaluation"]["window"], "evaluation.window")
    kinds = {"size": int, "overlap": float, "batch_size": int}
    wanted = {key: settings.value(f"evaluation.window.{key}", kind | None) for key, kind in kinds.items()}
    window = replace(before, **{key: value for key, value in wanted.items() if value is not None})
    return EvaluationSettings(settings.value("evaluation.split", Literal["val", "test"]), window)


def _finished(chosen: str | None) -> RunDirectory:
    if chosen is None:
        raise InputError("run is not set. Name the folder of a finished fine-tuning: run=outputs/finetune/...")
    run = RunDirectory(Path(chosen))
    result = run.read_result()
    if result is None or result.get("command") != "finetune":
        raise InputError(f"run={chosen} holds no finished fine-tuning (result.json of finetune). Finish it first.")
    lacking = [key for key in ("config_hash", "dataset") if key not in result]
    if lacking:
        raise InputError(f"{run.result} lacks {lacking}: it was not written by this version. Fine-tune it again.")
    for path in (run.model, run.config):
        if not path.is_file():
            raise InputError(f"{path} is missing, so run={chosen} cannot be scored. Fine-tune it again.")
    return run


def _enter(settings: Settings, run: RunDirectory) -> tuple[Site, Mapping[str, Any]]:
    """Open the run's data where it lay, or where `dataset.root` says, on the device that is wanted now."""
    stored = read_yaml(run.config)
    trusted = settings.value("trusted_packages", list)
    root = settings.value("dataset.root", str | None)
    node = {**stored["dataset"], "root": root or stored["dataset"]["root"]}
    dataset: Dataset = build(node, "dataset", trusted)
    device, precision = settings.value("trainer.device", str), settings.value("trainer.precision", str)
    trainer: TrainerSettings = build(
        {**stored["trainer"], "device": device, "precision": precision}, "trainer", trusted
    )
    processes = Processes.from_environment()
    if processes.world_size > 1:
        raise InputError("evaluate is one process. Start it without torchrun.")
    here = trainer.resolve_device(processes.local_rank)
    output_dir, seed = settings.value("output_dir", str), settings.value("seed", int)
    store = open_store(dataset, Path(settings.value("store_dir", str)), processes)
    return Site(
        trainer, processes, here, trainer.resolve_precision(here), dataset, store, seed, Path(output_dir)
    ), stored


def _load_network(
    run: RunDirectory, stored: Mapping[str, Any], site: Site, weights: Mapping[str, Tensor]
) -> SegmentationNetwork:
    """Rebuild the network of a run and load its weights strictly."""
    manifest, metadata = site.store.manifest, read_metadata(run.model)
    for key, own in (("bands", list(manifest.bands)), ("classes", [item.name for item in manifest.classes])):
        if json.loads(metadata[key]) != own:
            raise InputError(
                f"{run.model} was trained on the {key} {metadata[key]}, the data has {own}. Check dataset.root."
            )
    scale = json.loads(metadata["value_scale"])
    if scale != manifest.value_scale:
        raise InputError(
            f"{run.model} was trained on values divided by {scale:g}, the data at dataset.root is divided by "
            f"{manifest.value_scale:g}. Fine-tune with dataset.value_scale={manifest.value_scale:g}."
        )
    decoder, backbone = build(stored["decoder"], "decoder"), metadata["backbone"]
    model = build_segmentation_model(decoder, backbone, len(manifest.bands), len(manifest.classes))
    load_strictly(model, weights, str(run.model), backbone)
    mean, std = (tuple(json.loads(metadata[key])) for key in ("mean", "std"))
    return SegmentationNetwork(model, Normalization(Statistics(mean, std, str(run.path))), manifest.ignore_index)
