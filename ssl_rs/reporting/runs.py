"""What a finished run is: how it was made, and how it scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.reporting.protocols import Protocol
from ssl_rs.scene_groups import members


@dataclass(frozen=True)
class Score:
    """How a run did by one protocol; values in [0, 1], kappa in [-1, 1], each None where undefined.

    Args:
        protocol: How it was counted.
        miou: Mean intersection over union.
        overall_accuracy: Share of pixels that are right.
        mean_f1: Mean F1 score.
        kappa: Cohen's kappa.
        class_iou: IoU by class, None for a class absent from truth and prediction; empty where it was not written.
    """

    protocol: Protocol
    miou: float | None
    overall_accuracy: float | None
    mean_f1: float | None
    kappa: float | None
    class_iou: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class LabeledClass:
    """A class and its color, three values in [0, 255]."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Run:
    """One finished run that was scored; the fields are keys of its result.json, but for those that are told here.

    Args:
        directory: Where the run lies.
        scores: By name of the protocol.
        protocol: Name of the data set's own among them.
        environment: Its environment.json, empty where there is none.
        made_with: What made it: overrides of its command line, number of processes, commit, torch, device; empty where
            an earlier version did not write it.
        settings: All that can change its result by the keys of the config, with the precision it computed in and, where
            it tells, the batch of all processes; empty where an earlier version did not write them.
        scene_confusions: By the labels counted against ("full", "eroded") and the scene: int64 [K, K], row truth,
            column prediction, K as `classes`; empty where they were not written.
        scene_groups: The group of each scene that lies with others; the others are groups of their own.
        run: Of `evaluate`, the folder of the fine-tuning that was scored; empty of all else.
        model_sha256: Of the network's file; empty where there is none, or an earlier version did not write it.
        own_label: What it called its row; `label` may say more, see `variants.told_apart`.
        trained_on: Manifest of the data that it was trained on.
        row_hash: Of the settings by which it is put into a row: `settings_hash`, or the first of several that mean the
            same, see `variants.told_apart`.
        tells_training: Whether its settings say all of how the network was fine-tuned: those of earlier versions lack
            the batch of all processes, and their scores of `evaluate` the precision of the training.
        total_units: Units that there are with all labels; None where an earlier version did not write it.
        config_hash: Its identity; empty where it does not tell.
    """

    directory: Path
    command: str
    dataset: str
    backbone: str
    decoder: str
    initialization: str
    label: str
    provenance: Mapping[str, Any]
    label_fraction: float
    labeled_units: int
    label_unit: str
    label_order: str
    subset_sha256: str
    seed: int
    steps: int
    wall_seconds: float
    manifest_sha256: str
    settings_hash: str
    split: str
    scores: Mapping[str, Score]
    protocol: str
    classes: Sequence[LabeledClass]
    environment: Mapping[str, Any]
    scene_confusions: Mapping[str, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict, compare=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    scene_groups: Mapping[str, str] = field(default_factory=dict, compare=False)
    run: str = ""
    model_sha256: str = ""
    own_label: str = ""
    trained_on: str = ""
    row_hash: str = ""
    tells_training: bool = False
    total_units: int | None = None
    config_hash: str = ""

    def groups_of_scenes(self, labels: str) -> tuple[tuple[str, ...], ...]:
        """Return the scenes whose counts are known by some labels, those that lie together in one tuple, in order."""
        scenes = sorted(self.scene_confusions.get(labels, {}))
        return tuple(map(tuple, members(scenes, lambda scene: self.scene_groups.get(scene, scene)).values()))

    def told_of_computer(self, key: str) -> Any:
        """Return what it tells of the code and computer that made it; None where it does not."""
        return self.made_with.get(key, self.environment.get(key))

    @property
    def trained_on_name(self) -> str:
        """Name of the data that it was trained on, where these are others than it was scored on and it tells."""
        name = str(self.settings.get("dataset.name") or "")
        return name if self.trained_on != self.manifest_sha256 and name != self.dataset else ""

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights it started from; empty for random."""
        return str(self.provenance.get("sha256") or "")

    @property
    def with_decoder(self) -> bool:
        """Whether it took over the decoder of its pretraining, too."""
        return self.provenance.get("decoder_sha256") is not None

    @property
    def pretraining(self) -> Mapping[str, Any]:
        """What is known of the pretraining it started from; empty where there was none."""
        found = self.provenance.get("pretraining")
        return found if isinstance(found, Mapping) else {}


WEIGHTS_OF_RUNS = {"pretrained": "encoder_sha256", "finetuned": "model_sha256"}
"""Initializations that take the weights of a run, and what its result.json calls their hash."""


@dataclass(frozen=True)
class LeftOut:
    """A file or run that the report does not use, and why."""

    path: Path
    reason: str
