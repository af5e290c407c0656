"""Finished pretrainings: what each of their tasks came to, and whether their features collapsed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_rs.reporting.json_values import LONGEST, number, read_object, take
from ssl_rs.reporting.runs import LeftOut
from ssl_rs.seen_images import label_of

MARK = b'"pretrain"'
"""Stands in the result of a pretraining: the files of other commands are large, and need not be parsed for this."""


@dataclass(frozen=True)
class PretrainingRun:
    """A finished pretraining.

    Args:
        directory: Where it lies.
        dataset: Name of the data set.
        backbone: Name of the encoder.
        start: What its weights started from.
        pretext: Names of its tasks.
        seed: Its seed.
        steps: Optimizer steps.
        images_seen: Crops, each counted as often as it was drawn.
        wall_seconds: Duration.
        transductive: Whether it saw images of validation and test scenes.
        losses: Of each task, a mean over the last steps.
        metrics: By TASK/NAME, likewise.
        collapse: How its features spread, of at most `dimensions`.
    """

    directory: Path
    dataset: str
    backbone: str
    start: str
    pretext: tuple[str, ...]
    seed: int
    steps: int
    images_seen: int
    wall_seconds: float
    transductive: bool
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    collapse: Mapping[str, float]

    @property
    def label(self) -> str:
        """What it started from, and its tasks."""
        return label_of(self.start, self.start, self.pretext)


def read_pretrainings(*folders: Path) -> tuple[list[PretrainingRun], list[LeftOut]]:
    """Read every finished pretraining below some folders, each once.

    Returns:
        The pretrainings in the order of their paths, and each whose result.json is not one that we write.
    """
    found, left_out = [], []
    for path in sorted({path for folder in folders for path in folder.rglob("result.json")}):
        try:
            if MARK not in path.read_bytes():
                continue
            result = read_object(path)
            if result.get("command") == "pretrain":
                found.append(_pretraining_of(path.parent, result))
        except (ValueError, OverflowError, OSError) as error:
            left_out.append(LeftOut(path, str(error)))
    return found, left_out


def outcome_of(result: Mapping[str, Any]) -> list[str]:
    """Say what each task came to, and how the features spread: beside chance, it shows a failure.

    Args:
        result: Of a pretraining; what it does not hold is not told.
    """
    losses, metrics, collapse = (numbers(result.get(key)) for key in ("final_losses", "final_metrics", "collapse"))
    return [*tasks_text(losses, metrics), *features_text(collapse)]


def tasks_text(losses: Mapping[str, float], metrics: Mapping[str, float]) -> list[str]:
    """Return the loss of each task and its metrics, a text a task."""
    own = {
        task: [
            f"{name.partition('/')[2]} {value:.3g}" for name, value in metrics.items() if name.startswith(f"{task}/")
        ]
        for task in losses
    }
    return [", ".join([f"{task} loss {loss:.4g}", *own[task]]) for task, loss in losses.items()]


def features_text(collapse: Mapping[str, float]) -> list[str]:
    """Return how the features spread; nothing where that is not known."""
    if not {"feature_std", "effective_rank", "dimensions"} <= collapse.keys():
        return []
    rank = f"{collapse['effective_rank']:.0f} of {collapse['dimensions']:.0f}"
    return [f"features std {collapse['feature_std']:.2g}, effective rank {rank}"]


def numbers(values: object) -> dict[str, float]:
    """Return what is a number among the values of an object."""
    found = values.items() if isinstance(values, Mapping) else ()
    return {str(name): float(value) for name, value in found if isinstance(value, int | float)}


def _pretraining_of(directory: Path, result: Mapping[str, Any]) -> PretrainingRun:
    """Return what a result says.

    Raises:
        ValueError: A value is missing, or of another kind.
    """
    provenance = take(result, "provenance", dict)
    return PretrainingRun(
        directory=directory,
        dataset=take(result, "dataset", str),
        backbone=take(result, "backbone", str),
        start="random" if result.get("initialization") == "random" else str(provenance.get("label")),
        pretext=tuple(map(str, take(result, "pretext", list))),
        seed=take(result, "seed", int),
        steps=take(result, "steps", int),
        images_seen=take(result, "images_seen", int),
        wall_seconds=number(result, "wall_seconds", 0, LONGEST),
        transductive=take(result, "transductive", bool),
        losses=numbers(take(result, "final_losses", dict)),
        metrics=numbers(result.get("final_metrics")),
        collapse=numbers(result.get("collapse")),
    )
