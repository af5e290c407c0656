"""Finished runs, read from what they left behind; files that are broken or not ours are named, never fatal."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssl_rs.config_hash import LATER, leaves
from ssl_rs.reporting.protocols import Protocol, read_protocol
from ssl_rs.scene_groups import members

T = TypeVar("T")

PER_SCENE = "scene_confusions"
"""Key of result.json."""

SCORED_COMMANDS = ("finetune", "evaluate")

MOST_PIXELS = 2**44
"""Of a scene, so that sums over scenes stay within 64 bits."""


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
    """One finished run that was scored on test scenes; the fields are the keys of its result.json.

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
        tells_batch: Whether it wrote down the batch of all processes; earlier versions did not.
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
    tells_batch: bool = False

    def groups_of_scenes(self, labels: str) -> tuple[tuple[str, ...], ...]:
        """Return the scenes whose counts are known by some labels, those that lie together in one tuple, in order."""
        scenes = sorted(self.scene_confusions.get(labels, {}))
        return tuple(map(tuple, members(scenes, lambda scene: self.scene_groups.get(scene, scene)).values()))

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


def read_runs(runs_dir: Path, group_of: Callable[[str], str] | None = None) -> tuple[list[Run], list[LeftOut]]:
    """Read every finished run below a folder.

    Args:
        runs_dir: The folder.
        group_of: Maps a scene's id to the group of scenes that it lies with; None: as the runs have it.

    Returns:
        The runs in the order of their paths, and each result.json that is broken or of no known command. Those of
        pretraining have no score: they are passed over.
    """
    runs, left_out = [], []
    for path in sorted(runs_dir.rglob("result.json")):
        try:
            result = read_object(path)
            command = _take(result, "command", str)
            if command == "pretrain":
                continue
            if command not in SCORED_COMMANDS:
                raise ValueError(f"command is {command!r}: expected one of {', '.join(SCORED_COMMANDS)}, pretrain")
            run = _run_of(path.parent, command, result)
            run, told = _with_environment(run)
            left_out += told
            runs.append(run if group_of is None else _regrouped(run, group_of))
        except (ValueError, OverflowError, OSError) as error:
            left_out.append(LeftOut(path, str(error)))
    return runs, left_out


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half a character would stop the writing of the page
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def _run_of(directory: Path, command: str, result: Mapping[str, Any]) -> Run:
    def text(key: str) -> str:
        return _take(result, key, str)

    def count(key: str) -> int:
        return _take(result, key, int)

    scores = _scores(result)
    return Run(
        directory=directory,
        command=command,
        dataset=text("dataset"),
        backbone=text("backbone"),
        decoder=text("decoder"),
        initialization=text("initialization"),
        label=text("label"),
        provenance=_take(result, "provenance", dict),
        label_fraction=_fraction(result),
        labeled_units=count("labeled_units"),
        label_unit=text("label_unit"),
        label_order=str(result.get("label_order", "random")),
        subset_sha256=text("subset_sha256"),
        seed=count("seed"),
        steps=count("steps"),
        wall_seconds=_number(result, "wall_seconds", 0, math.inf),
        manifest_sha256=text("manifest_sha256"),
        settings_hash=str(result.get("settings_hash", "")),
        split=str(result.get("split", "test")),
        scores=scores,
        protocol=own if (own := str(result.get("protocol"))) in scores else next(iter(scores)),
        classes=(classes := [_labeled_class(entry) for entry in _take(result, "classes", list)]),
        environment={},
        scene_confusions={
            labels: {scene: _confusion(counts, len(classes)) for scene, counts in _object(scenes, PER_SCENE).items()}
            for labels, scenes in _object(result.get(PER_SCENE, {}), PER_SCENE).items()
        },
        settings=_settings(result),
        made_with=_object(result.get("made_with", {}), "made_with"),
        scene_groups={
            scene: str(group) for scene, group in _object(result.get("scene_groups", {}), "scene_groups").items()
        },
        run=str(result.get("run") or ""),
        model_sha256=str(result.get("model_sha256") or ""),
        own_label=text("label"),
        trained_on=str(result.get("trained_on_manifest_sha256") or text("manifest_sha256")),
        row_hash=str(result.get("settings_hash", "")),
        tells_batch=type(result.get("global_batch")) is int,
    )


def _with_environment(run: Run) -> tuple[Run, list[LeftOut]]:
    """Return the run with its environment.json, if that is there and whole; a run is one without it, too."""
    path = run.directory / "environment.json"
    try:
        return (replace(run, environment=read_object(path)) if path.is_file() else run), []
    except (ValueError, OSError) as error:
        return run, [LeftOut(path, str(error))]


def _regrouped(run: Run, group_of: Callable[[str], str]) -> Run:
    scenes = {scene for scenes in run.scene_confusions.values() for scene in scenes}
    return replace(run, scene_groups={scene: group_of(scene) for scene in scenes})


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was made by; "auto" gives way to the precision, and batches to those of all processes."""
    settings, made_with = result.get("settings", {}), result.get("made_with", {})
    if not isinstance(settings, dict) or not isinstance(made_with, dict):
        raise ValueError("settings or made_with is no object")
    resolved = {"trainer.precision": made_with["precision"]} if "precision" in made_with else {}
    if type(result.get("global_batch")) is int:
        resolved["trainer.batch_size"] = result["global_batch"]
    probe = result.get("probe")
    if isinstance(probe, dict) and result.get("initialization") == "random":
        resolved |= {"probe.batch_norm": probe.get("batch_norm", "not told")}
    before_it_came = leaves(LATER) if settings else {}  # keys that an earlier version did not have
    # 1 and 1.0, which are hashed alike there, are told alike.
    told = {
        key: before_it_came[key] if before_it_came.get(key) == value else value
        for key, value in settings.items()
        if key in before_it_came
    }
    return {**before_it_came, **settings, **told, **resolved}


def _object(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} has {value!r:.80}: expected an object")
    return value


def _confusion(rows: Any, num_classes: int) -> NDArray[np.int64]:
    """Return counts as an array [K, K]."""
    square = isinstance(rows, list) and [len(row) for row in rows if isinstance(row, list)] == [num_classes] * len(rows)
    if (
        not square
        or len(rows) != num_classes
        or not all(type(n) is int and 0 <= n < MOST_PIXELS for row in rows for n in row)
    ):
        raise ValueError(f"scene_confusions has {rows!r:.80}: expected {num_classes} rows of as many counts")
    return np.array(rows, np.int64)


def _scores(result: Mapping[str, Any]) -> dict[str, Score]:
    protocols = _take(result, "protocols", dict)
    if not protocols:
        raise ValueError("protocols is empty")
    scores = {}
    for name, values in protocols.items():
        if not isinstance(values, dict):
            raise ValueError(f"protocols.{name} is {values!r}: expected an object")
        class_iou = values.get("class_iou", result.get("class_iou", {}) if len(protocols) == 1 else {})
        if not isinstance(class_iou, dict):
            raise ValueError(f"class_iou is {class_iou!r}: expected an object")
        scores[name] = Score(
            protocol=read_protocol(name, values),
            miou=_number_or_none(values, "miou"),
            overall_accuracy=_number_or_none(values, "overall_accuracy"),
            mean_f1=_number_or_none(values, "mean_f1"),
            kappa=_number_or_none(values, "kappa", low=-1),
            class_iou={key: _number_or_none(class_iou, key) for key in class_iou},
        )
    return scores


def _fraction(result: Mapping[str, Any]) -> float:
    fraction = _number(result, "label_fraction", 0, 1)
    if fraction == 0:
        raise ValueError("label_fraction is 0: expected a number in (0, 1]")
    return fraction


def _number(values: Mapping[str, Any], key: str, low: float = 0, high: float = 1) -> float:
    value = float(_take(values, key, (int, float)))
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{key} is {value}: expected a number in [{low:g}, {high:g}]")
    return value


def _number_or_none(values: Mapping[str, Any], key: str, low: float = 0) -> float | None:
    """Return a score; null says that it is undefined, a missing key that the file is not ours."""
    return None if key in values and values[key] is None else _number(values, key, low)


def _labeled_class(entry: Any) -> LabeledClass:
    match entry:
        case {"name": str(name), "color": [int(r), int(g), int(b)]} if min(r, g, b) >= 0 and max(r, g, b) <= 255:
            return LabeledClass(name, (r, g, b))
    expected = '{"name": text, "color": [red, green, blue]} with values in [0, 255]'
    raise ValueError(f"classes has {entry!r}: expected {expected}")


def _take(values: Mapping[str, Any], key: str, kind: type[T] | tuple[type[T], ...]) -> T:
    """Return values[key] if it is of a kind; true and false are no numbers."""
    if key not in values:
        raise ValueError(f"{key} is missing")
    value = values[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ValueError(f"{key} is {value!r}: expected {' or '.join(each.__name__ for each in kinds)}")
    return value
