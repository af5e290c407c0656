"""How one pooled confusion matrix is scored. Conventions lie many points apart, so every score names its own.

The conventions of ISPRS Potsdam and Vaihingen, whose sixth class is clutter:
- `all_classes`: 6 classes; mmsegmentation reports it, on eroded labels.
- `clutter_as_error`: means over 5 classes, from the whole matrix of 6; GeoSeg (UNetFormer) reports it, and papers that
  take the mean over the first 5 classes. Accuracy and kappa are those of `all_classes`: they are no means over classes.
- `clutter_ignored`: pixels of clutter are taken for unlabeled. Others then train a network of 5 outputs, which cannot
  call a pixel clutter; ours keeps 6, and a pixel of another class that it calls clutter is an error.
Each on full and on eroded labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_rs.errors import InputError
from ssl_rs.segmentation.metrics import f1_scores, intersection_over_union, kappa, overall_accuracy

Labels = Literal["full", "eroded"]


@dataclass(frozen=True)
class Protocol:
    """Which labels count, which classes the means are over, and what becomes of the pixels of the others.

    Args:
        name: What the score is called in result.json and in the report.
        excluded: Names of the classes that the means leave out.
        excluded_pixels: "error": pixels whose truth is excluded count. Those that were given another class are false
            positives of it, and wrong to accuracy and kappa; those that were given their own, left-out class are in no
            mean, and right to accuracy and kappa. "ignored": they count nowhere. In both, a pixel of another class
            that was given an excluded one is missed by its class, and wrong to accuracy and kappa.
        labels: "full": every labeled pixel counts. "eroded": those near another class do not.
    """

    name: str
    excluded: tuple[str, ...] = ()
    excluded_pixels: Literal["error", "ignored"] = "error"
    labels: Labels = "full"


ALL_CLASSES = Protocol("all_classes")


def protocols_of(clutter: str | None, eroded: bool) -> tuple[Protocol, ...]:
    """Return the protocols that a data set is scored by.

    Args:
        clutter: The class that some protocols leave out, if the data set has one.
        eroded: Whether it has eroded labels: each protocol is then there once more, with `_eroded` behind its name.
    """
    protocols = [ALL_CLASSES]
    if clutter is not None:
        protocols.append(Protocol("clutter_as_error", (clutter,), "error"))
        protocols.append(Protocol("clutter_ignored", (clutter,), "ignored"))
    on_eroded = [replace(protocol, name=f"{protocol.name}_eroded", labels="eroded") for protocol in protocols]
    return (*protocols, *(on_eroded if eroded else ()))


def find_protocol(name: str, protocols: Sequence[Protocol]) -> Protocol:
    """Return the protocol of a name.

    Raises:
        InputError: There is none; lists those there are.
    """
    for protocol in protocols:
        if protocol.name == name:
            return protocol
    names = [protocol.name for protocol in protocols]
    raise InputError(f"dataset.protocol={name}: this data set is not scored by it. Choose one of {names}.")


def counted_classes(class_names: Sequence[str], protocol: Protocol) -> list[bool]:
    """Tell for each of K classes whether pixels of its truth count.

    Raises:
        InputError: The protocol excludes a class that is not there.
    """
    unknown = [name for name in protocol.excluded if name not in class_names]
    if unknown:
        raise InputError(f"Protocol '{protocol.name}' excludes {unknown}, but the classes are {list(class_names)}.")
    return [protocol.excluded_pixels == "error" or name not in protocol.excluded for name in class_names]


def score(confusion: Tensor, class_names: Sequence[str], protocol: Protocol) -> Mapping[str, Any]:
    """Score pooled counts by one protocol.

    Args:
        confusion: int64 [K, K], row truth, column prediction; of the protocol's labels.
        class_names: K names.
        protocol: What is scored.

    Returns:
        Ready for JSON: miou, overall_accuracy, mean_f1 in [0, 1], kappa in [-1, 1], each None where it is undefined,
        e.g. where no pixel counts; class_iou {name: value, None where absent} of the classes scored,
        absent_classes [name].

    Raises:
        InputError: The protocol excludes a class that is not there.
    """
    counts = confusion.cpu() * torch.tensor(counted_classes(class_names, protocol))[:, None]  # [K, K]
    names = [name for name in class_names if name not in protocol.excluded]
    scored = torch.tensor([name in names for name in class_names])  # [K]
    iou = intersection_over_union(counts)[scored]
    class_iou = dict(zip(names, map(_finite_or_none, iou.tolist()), strict=True))
    return {
        "miou": _finite_or_none(float(iou.nanmean())),
        "overall_accuracy": _finite_or_none(float(overall_accuracy(counts))),
        "mean_f1": _finite_or_none(float(f1_scores(counts)[scored].nanmean())),
        "kappa": _finite_or_none(float(kappa(counts))),
        "class_iou": class_iou,
        "absent_classes": [name for name, value in class_iou.items() if value is None],
    }


def score_all(
    confusions: Mapping[Labels, Tensor], class_names: Sequence[str], protocols: Sequence[Protocol]
) -> dict[str, dict[str, Any]]:
    """Score pooled counts by several protocols.

    Args:
        confusions: int64 [K, K] by the labels they were counted against.
        class_names: K names.
        protocols: Of the labels there are.

    Returns:
        By name of the protocol: what `score` returns, and how it was scored (labels, excluded, excluded_pixels or None
        where nothing is excluded).
    """
    return {
        protocol.name: {
            **score(confusions[protocol.labels], class_names, protocol),
            "labels": protocol.labels,
            "excluded": list(protocol.excluded),
            "excluded_pixels": protocol.excluded_pixels if protocol.excluded else None,
        }
        for protocol in protocols
    }


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
