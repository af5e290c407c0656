"""Finished runs, read from what they left behind; files that are broken or not ours are named, never fatal."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.config_hash import LATER, leaves
from ssl_rs.reporting.json_values import LONGEST, as_object, number, number_or_none, read_object, take
from ssl_rs.reporting.protocols import read_protocol
from ssl_rs.reporting.runs import LabeledClass, LeftOut, Run, Score

PER_SCENE = "scene_confusions"
"""Key of result.json."""

SCORED_COMMANDS = ("finetune", "evaluate")

MOST_PIXELS = 2**44
"""Of a scene, so that sums over scenes stay within 64 bits."""


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
            command = take(result, "command", str)
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


def _run_of(directory: Path, command: str, result: Mapping[str, Any]) -> Run:
    def text(key: str) -> str:
        return take(result, key, str)

    def count(key: str) -> int:
        return take(result, key, int)

    scores = _scores(result)
    return Run(
        directory=directory,
        command=command,
        dataset=text("dataset"),
        backbone=text("backbone"),
        decoder=text("decoder"),
        initialization=text("initialization"),
        label=text("label"),
        provenance=take(result, "provenance", dict),
        label_fraction=_fraction(result),
        labeled_units=count("labeled_units"),
        label_unit=text("label_unit"),
        label_order=str(result.get("label_order", "random")),
        subset_sha256=text("subset_sha256"),
        seed=count("seed"),
        steps=count("steps"),
        wall_seconds=number(result, "wall_seconds", 0, LONGEST),
        manifest_sha256=text("manifest_sha256"),
        settings_hash=str(result.get("settings_hash", "")),
        split=str(result.get("split", "test")),
        scores=scores,
        protocol=own if (own := str(result.get("protocol"))) in scores else next(iter(scores)),
        classes=(classes := _classes(result)),
        environment={},
        scene_confusions={
            labels: {scene: _confusion(counts, len(classes)) for scene, counts in as_object(scenes, PER_SCENE).items()}
            for labels, scenes in as_object(result.get(PER_SCENE, {}), PER_SCENE).items()
        },
        settings=_settings(result),
        made_with=as_object(result.get("made_with", {}), "made_with"),
        scene_groups={
            scene: str(group) for scene, group in as_object(result.get("scene_groups", {}), "scene_groups").items()
        },
        run=str(result.get("run") or ""),
        model_sha256=str(result.get("model_sha256") or ""),
        own_label=text("label"),
        trained_on=str(result.get("trained_on_manifest_sha256") or text("manifest_sha256")),
        row_hash=str(result.get("settings_hash", "")),
        tells_training=_tells_training(command, result),
        total_units=count("total_units") if "total_units" in result else None,
        config_hash=str(result.get("config_hash") or ""),
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
    """Return what a run was made by; "auto" gives way to the precision, and batches to those of all processes.

    A later scoring may compute in another precision than the training did: `evaluation.precision` says so. What an
    earlier version scored does not tell that of its training, which is then taken for that of the scoring.
    """
    settings, made_with = result.get("settings", {}), result.get("made_with", {})
    trained_with = result.get("trained_with", made_with)
    if not all(isinstance(each, dict) for each in (settings, made_with, trained_with)):
        raise ValueError("settings, made_with or trained_with is no object")
    trained, scored = (each.get("precision") for each in (trained_with, made_with))
    resolved = {} if trained is None else {"trainer.precision": trained}
    if scored is not None:
        resolved["evaluation.precision"] = "as trained" if scored == trained else scored
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


def _tells_training(command: str, result: Mapping[str, Any]) -> bool:
    """Return whether the settings say all of how a network was fine-tuned; a probe has no training to tell of."""
    tells_precision = command == "finetune" or "precision" in result.get("trained_with", {})
    return tells_precision and type(result.get("global_batch")) is int


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
    protocols = take(result, "protocols", dict)
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
            miou=number_or_none(values, "miou"),
            overall_accuracy=number_or_none(values, "overall_accuracy"),
            mean_f1=number_or_none(values, "mean_f1"),
            kappa=number_or_none(values, "kappa", low=-1),
            class_iou={key: number_or_none(class_iou, key) for key in class_iou},
        )
    return scores


def _fraction(result: Mapping[str, Any]) -> float:
    fraction = number(result, "label_fraction", 0, 1)
    if fraction == 0:
        raise ValueError("label_fraction is 0: expected a number in (0, 1]")
    return fraction


def _classes(result: Mapping[str, Any]) -> list[LabeledClass]:
    classes = [_labeled_class(entry) for entry in take(result, "classes", list)]
    if not classes:
        raise ValueError("classes is empty")
    return classes


def _labeled_class(entry: Any) -> LabeledClass:
    match entry:
        case {"name": str(name), "color": [int(r), int(g), int(b)]} if min(r, g, b) >= 0 and max(r, g, b) <= 255:
            return LabeledClass(name, (r, g, b))
    expected = '{"name": text, "color": [red, green, blue]} with values in [0, 255]'
    raise ValueError(f"classes has {entry!r}: expected {expected}")
