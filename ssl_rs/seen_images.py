"""Which images weights have seen on their way, and of which also the labels: what they must not be scored on."""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_rs.errors import InputError, LabelsSeenError
from ssl_rs.files import write_json
from ssl_rs.run_directory import AGAIN, RunDirectory

TRANSDUCTIVE, LABELS_SEEN = " (transductive)", " (labels seen before)"
"""What names of rows end in, whatever else they are called."""


@dataclass(frozen=True)
class SeenImages:
    """Images by the sha256 of their stored pixels.

    Args:
        images: Every image of a training, and of those that it started from.
        labeled: Those whose labels were at hand for it, or for one that it started from, whatever share it took.
        unknown: One of them had labels, and does not say which.
    """

    images: frozenset[str] = frozenset()
    labeled: frozenset[str] = frozenset()
    unknown: bool = False

    def __or__(self, other: "SeenImages") -> "SeenImages":
        return SeenImages(self.images | other.images, self.labeled | other.labeled, self.unknown or other.unknown)


def read_seen(run: RunDirectory) -> SeenImages:
    """Return what a finished training has seen; nothing where an earlier version wrote nothing down.

    An earlier version wrote the images alone: those of a fine-tuning had labels.

    Raises:
        InputError: The file is damaged.
    """
    if not run.images_seen.is_file():
        return SeenImages(unknown=run.model.is_file())
    try:
        content: Any = json.loads(run.images_seen.read_text(encoding="utf-8"))
        images = frozenset(map(str, content["sha256"]))
        labeled = frozenset(map(str, content.get("labeled", images if run.model.is_file() else ())))
        unknown = content.get("unknown") is True
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{run.images_seen} cannot be read ({error!r}). {AGAIN}") from error
    return SeenImages(images, labeled, unknown)


def seen_beside(weights: Path) -> SeenImages:
    """Return what a file of weights has seen that lies in the folder of a run or of an export; nothing of any other.

    Raises:
        InputError: What lies there is damaged.
    """
    folder = RunDirectory(weights.resolve().parent)  # of a link, where it leads
    return read_seen(folder) if folder.images_seen.is_file() else SeenImages()


def refuse_seen_beside(weights: Path) -> None:
    """Refuse weights that are called ImageNet's and lie in the folder of a run or of an export.

    Raises:
        InputError: They have seen other images.
    """
    if seen_beside(weights) != SeenImages():
        raise InputError(
            f"{weights} holds no ImageNet weights: images_seen.json beside it lists other images that it was trained "
            "on. Take initialization=file, or encoder=file in evaluate."
        )


def write_seen(run: RunDirectory, seen: SeenImages) -> None:
    """Write down what a training has seen."""
    content = {"sha256": sorted(seen.images), "labeled": sorted(seen.labeled)}
    write_json(run.images_seen, content | ({"unknown": True} if seen.unknown else {}))


def compare_with_data(
    where: str, seen: SeenImages, held_out: frozenset[str], training: frozenset[str], transductive: bool
) -> dict[str, Any]:
    """Return what a run adds to its record of weights that have seen its own data before; nothing where they have not.

    Args:
        where: Key and run that the weights are of, for the message.
        seen: By these weights.
        held_out: Images of validation and test scenes.
        training: Images of training scenes.
        transductive: Whether the weights are known for having seen images that are held out.

    Returns:
        `transductive` and `held_out_images_seen` where that is found here; `training_labels_seen` where labels of the
        training scenes were known before, whatever share of them the run takes; `labels_seen_unknown` where that is not
        known.

    Raises:
        LabelsSeenError: Labels of validation or test scenes were seen.
    """
    if count := len(seen.labeled & held_out):
        raise LabelsSeenError(
            f"{where} had labels of {count} of the {len(held_out)} images that validate and test here in its training, "
            "so the scores would say nothing. Choose a run of other data, or of the same split."
        )
    found: dict[str, Any] = {}
    if not transductive and (count := len(seen.images & held_out)):  # of another data set, e.g. a folder with these too
        found |= {"transductive": True, "held_out_images_seen": count}
    if count := len(seen.labeled & training):
        found |= {"training_labels_seen": count}
    return found | ({"labels_seen_unknown": True} if seen.unknown else {})


def without_marks(label: str) -> str:
    """Return the name of a row without what `marks` added: of other data it may not hold."""
    return label.removesuffix(LABELS_SEEN).removesuffix(TRANSDUCTIVE)


def label_of(kind: str, start: str, tasks: Iterable[str]) -> str:
    """Return what a pretraining is called: "imagenet, then inpainting + contrastive".

    Args:
        kind: Of what it started from; random weights go without saying.
        start: Label of that.
        tasks: Names of its pretext tasks.
    """
    named = " + ".join(tasks)
    return named if kind == "random" else f"{without_marks(start)}, then {named}"


def marks(found: Mapping[str, Any], transductive: bool) -> str:
    """Return what the row of the report is called further, whatever the user calls it.

    Args:
        found: By `compare_with_data`.
        transductive: As given to it.
    """
    told = TRANSDUCTIVE if transductive or "held_out_images_seen" in found else ""
    return told + (LABELS_SEEN if "training_labels_seen" in found else "")


def warn_of_seen(where: str, record: Mapping[str, Any], held_out: frozenset[str]) -> None:
    """Say what makes a comparison with other weights unfair."""
    if count := record.get("held_out_images_seen"):
        warnings.warn(
            f"{where} saw {count} of the {len(held_out)} validation and test images, not their labels: reports call it "
            "transductive. Leave them out of pretraining to know how new images fare.",
            stacklevel=2,
        )
    if count := record.get("training_labels_seen"):
        warnings.warn(
            f"{where} has seen labels of {count} of the training images before: label_fraction does not count those, "
            "so the row is told apart, and no labels saved are told of it.",
            stacklevel=2,
        )
    if "labels_seen_unknown" in record:
        warnings.warn(
            f"{where}, or what it started from, does not say of which images it had labels: an earlier version trained "
            "it. See that none of them validates or tests here.",
            stacklevel=2,
        )


def warn_of_other_images(where: str, dataset: str, seen: SeenImages, training: frozenset[str]) -> None:
    """Say that a pretraining on data of the same name saw other images than those that train here.

    Args:
        where: Key and run that the weights are of.
        dataset: Name of the data.
        seen: By the pretraining; an earlier version wrote nothing down.
        training: Images of training scenes.
    """
    known = len(seen.images & training)
    if seen.images and known < len(training):
        warnings.warn(
            f"{where} was pretrained on {dataset}, but saw {known} of the {len(training)} training images that are "
            "there now: the data, its splits or how it is read changed since. Pretrain again if it should see all.",
            stacklevel=2,
        )
