"""Score a segmentation network on whole scenes: one pass, one pooled confusion matrix, every protocol."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_rs.data.dataset import Dataset
from ssl_rs.data.splits import CUT_IT, FEWEST
from ssl_rs.data.store import Store
from ssl_rs.distributed import Processes, sum_over_ranks
from ssl_rs.errors import InputError
from ssl_rs.messages import say_line
from ssl_rs.segmentation.metrics import confusion_matrix
from ssl_rs.segmentation.network import Segments, scores_of
from ssl_rs.segmentation.protocols import (
    Labels,
    Protocol,
    counted_classes,
    find_protocol,
    protocols_of,
    score,
    score_all,
)
from ssl_rs.segmentation.sliding_window import WindowSettings, predict_scene
from ssl_rs.stages.samples import choose_samples, write_samples

SAMPLES = 3
"""Test tiles that every run leaves a picture of."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What is scored, and how.

    Args:
        split: The scenes that are scored; all: those of every split.
        window: How scenes are cut.
        dataset: Says which protocols there are and whose metrics stand at the top, and which scenes lie together.
    """

    split: Literal["val", "test", "all"]
    window: WindowSettings
    dataset: Dataset


def check_classes(dataset: Dataset, use: str) -> None:
    """Refuse a data set on which every answer is right.

    Args:
        dataset: Whose labels are to be used.
        use: By what: fine-tuning, or a probe.

    Raises:
        InputError: It has no class, or one.
    """
    if not dataset.classes:
        raise InputError(
            f"dataset={dataset.name} has no masks, so there is nothing for {use} to learn. "
            f"Add masks and classes to dataset.root={dataset.root}, or choose another dataset."
        )
    if len(dataset.classes) < 2:
        raise InputError(
            f"dataset={dataset.name} at dataset.root={dataset.root}: {use} needs at least 2 classes, got 1, "
            f"'{dataset.classes[0].name}', which is right for every pixel. Make the background a class of its own: "
            "list its color or index below classes: of classes.yaml, not in ignore:."
        )


@dataclass(frozen=True)
class Evaluator:
    """Scores networks on the scenes of one split.

    Args:
        store: The data.
        settings: What is scored, and how.
        device: Where it computes.
        precision: Of the forward pass.
    """

    store: Store
    settings: EvaluationSettings
    device: torch.device
    precision: str

    def __post_init__(self) -> None:
        manifest = self.store.manifest
        if not self._scenes():
            raise InputError(
                f"evaluation.split={self.settings.split}: {manifest.dataset} has no such scenes. {self._other_scenes()}"
            )
        for protocol in self.protocols:
            counted_classes(self._class_names(), protocol)
        main = self._main_protocol()
        counted = counted_classes(self._class_names(), main)
        pixels = np.sum([manifest.scenes[index].class_pixels for index in self._scenes()], axis=0)
        if not pixels[counted].any():
            raise InputError(
                f"evaluation.split={self.settings.split}: no such scene of {manifest.dataset} has a labeled pixel that "
                f"counts by dataset.protocol={main.name}. Check their masks, or choose another evaluation.split."
            )

    def _other_scenes(self) -> str:
        """Return what to do where the split has no scenes."""
        scenes = self.store.manifest.scenes
        other = "val" if self.settings.split == "test" else "test"
        how = self.settings.dataset.how_to_validate if other == "test" else Dataset.how_to_validate
        there = any(scene.split == other for scene in scenes)
        told = f"Choose evaluation.split={other}, or {how}" if there else f"{how[0].upper()}{how[1:]}"
        cut = f" {CUT_IT}" if sum(scene.split != "unlabeled" for scene in scenes) < FEWEST else ""
        return f"{told}.{cut}"

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """All that one evaluation is scored by."""
        return protocols_of(self.settings.dataset.clutter, self.store.manifest.eroded)

    def score(self, network: Segments, processes: Processes, samples: Path) -> dict[str, Any]:
        """Predict every scene once, ranks sharing the scenes, and score the pooled counts.

        A score without any pixel to be measured on is None, and said: a finished training never loses its result.

        Args:
            network: On the device.
            processes: This process among all.
            samples: Where the first process writes the pictures by which the report compares runs.
        """
        tiles = choose_samples(self.store, self._scenes(), SAMPLES) if processes.is_first else []
        shown = {tile.scene for tile in tiles}
        confusions, maps = self._predict_all(network, processes, shown)
        if processes.is_first:
            others = shown - maps.keys()  # these were another rank's scenes
            maps |= {index: self.predict(network, self.store.image(index)) for index in others}
            write_samples(self.store, tiles, maps, samples)
        result = self._result(confusions)
        if processes.is_first:
            _say_undefined(result["protocols"])
        return result

    def measure(self, network: Segments, processes: Processes) -> dict[str, float]:
        """Return mIoU, mean F1, overall accuracy, kappa, and the IoU of each class by iou/NAME, all in [0, 1].

        A score without any pixel to be measured on is left out.

        Args:
            network: On the device.
            processes: This process among all; ranks share the scenes.
        """
        found = self._result(self._predict_all(network, processes)[0])
        scores = {name: found[name] for name in ("miou", "mean_f1", "overall_accuracy", "kappa")}
        scores |= {f"iou/{name}": value for name, value in found["class_iou"].items()}
        return {name: value for name, value in scores.items() if value is not None}

    def _predict_all(
        self, network: Segments, processes: Processes, keep: Collection[int] = ()
    ) -> tuple[dict[Labels, Tensor], dict[int, np.ndarray]]:
        """Predict every scene once, ranks sharing them.

        Returns:
            The counts of all ranks, int64 [S, K, K] by the labels, and this rank's maps of the scenes to keep.
        """
        maps: dict[int, np.ndarray] = {}
        num_classes = len(self._class_names())
        scenes = self._scenes()
        shape = (len(scenes), num_classes, num_classes)
        confusions = {labels: torch.zeros(shape, dtype=torch.int64) for labels in self._kinds()}
        for place in range(processes.rank, len(scenes), processes.world_size):
            index = scenes[place]
            prediction = self.predict(network, self.store.image(index))
            for labels, counts in self._count(index, prediction).items():
                confusions[labels][place] = counts
            if index in keep:
                maps[index] = prediction
        return {labels: sum_over_ranks(each) for labels, each in confusions.items()}, maps

    def _count(self, index: int, prediction: np.ndarray) -> dict[Labels, Tensor]:
        """Count a scene's class map uint8 [H, W] against each kind of its labels."""
        truths = {"full": self.store.mask, "eroded": self.store.eroded}
        return {
            labels: confusion_matrix(
                torch.from_numpy(prediction),
                torch.from_numpy(np.asarray(truths[labels](index)).copy()),
                len(self._class_names()),
                self.store.manifest.ignore_index,
            )
            for labels in self._kinds()
        }

    def _result(self, scenes: Mapping[Labels, Tensor]) -> dict[str, Any]:
        """Return what result.json says of the counts of all scenes, int64 [S, K, K] by the labels."""
        names, main = self._class_names(), self._main_protocol()
        ids = [self.store.manifest.scenes[index].id for index in self._scenes()]
        group_of = self.settings.dataset.group_of
        confusions = {labels: counts.sum(dim=0) for labels, counts in scenes.items()}
        return {
            **score(confusions[main.labels], names, main),
            "split": self.settings.split,
            "protocol": main.name,
            "protocols": score_all(confusions, names, self.protocols),
            "confusion": confusions[main.labels].tolist(),
            "confusions": {labels: counts.tolist() for labels, counts in confusions.items()},
            "scene_confusions": {kind: dict(zip(ids, each.tolist(), strict=True)) for kind, each in scenes.items()},
            "scene_groups": {scene: group for scene in ids if (group := group_of(scene)) != scene},
            "classes": [{"name": item.name, "color": list(item.color)} for item in self.store.manifest.classes],
        }

    @torch.no_grad()
    def predict(self, network: Segments, image: np.ndarray) -> np.ndarray:
        """Return the class map uint8 [H, W] of a scene [C, H, W]."""
        logits = scores_of(network, self.device, self.precision)
        return predict_scene(logits, image, self.store.manifest.value_scale, self.settings.window, self.device)

    def _main_protocol(self) -> Protocol:
        """Return the one whose metrics stand at the top of the result."""
        return find_protocol(self.settings.dataset.protocol, self.protocols)

    def _scenes(self) -> list[int]:
        return list(self.store.scenes_of(self.settings.split))

    def _kinds(self) -> list[Labels]:
        """Return the kinds of labels that are counted."""
        return list(dict.fromkeys(protocol.labels for protocol in self.protocols))

    def _class_names(self) -> list[str]:
        return [item.name for item in self.store.manifest.classes]


def _say_undefined(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Name each protocol that has no mIoU, on standard error."""
    for name, found in protocols.items():
        if found["miou"] is None:
            say_line(f"Protocol {name} has no score: no pixel of {list(found['class_iou'])}, {found['labels']} labels.")
