"""How one pooled confusion matrix is scored. Conventions lie many points apart, so every score names its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_rs.errors import InputError
from ssl_rs.segmentation.metrics import f1_scores, intersection_over_union, kappa, overall_accuracy


@dataclass(frozen=True)
class Protocol:
    """Which classes the means are over, and what becomes of the pixels of the others.

    Args:
        name: What the score is called in result.json and in the report.
        excluded: Names of the classes that the means leave out.
        excluded_pixels: "error": pixels whose truth is excluded count, so they are errors of the class they were given
            (only where they were given their own, left-out class does the accuracy count them as right). "ignored":
            they count nowhere. Pixels of other classes that were given an excluded class are errors in both.
    """

    name: str
    excluded: Sequence[str] = ()
    excluded_pixels: Literal["error", "ignored"] = "error"


ALL_CLASSES = Protocol("all_classes")


def score(confusion: Tensor, class_names: Sequence[str], protocol: Protocol) -> Mapping[str, Any]:
    """Score pooled counts by one protocol.

    Args:
        confusion: int64 [K, K], row truth, column prediction.
        class_names: K names.
        protocol: What is scored.

    Returns:
        Ready for JSON: miou, overall_accuracy, mean_f1 in [0, 1], kappa in [-1, 1] or None where undefined,
        class_iou {name: value, None where absent} of the classes scored, absent_classes [name].

    Raises:
        InputError: The protocol excludes a class that is not there, or no pixel of a scored class was seen.
    """
    unknown = [name for name in protocol.excluded if name not in class_names]
    if unknown:
        raise InputError(f"Protocol '{protocol.name}' excludes {unknown}, but the classes are {list(class_names)}.")
    scored = torch.tensor([name not in protocol.excluded for name in class_names])  # [K]
    counts = confusion.cpu()
    if protocol.excluded_pixels == "ignored":
        counts = counts * scored[:, None]
    iou = intersection_over_union(counts)[scored]
    if bool(iou.isnan().all()):
        raise InputError(
            f"Protocol '{protocol.name}': no test scene has a valid pixel of {list(class_names)}. Check their masks."
        )
    names = [name for name in class_names if name not in protocol.excluded]
    class_iou = dict(zip(names, map(_finite_or_none, iou.tolist()), strict=True))
    return {
        "miou": float(iou.nanmean()),
        "overall_accuracy": float(overall_accuracy(counts)),
        "mean_f1": float(f1_scores(counts)[scored].nanmean()),
        "kappa": _finite_or_none(float(kappa(counts))),
        "class_iou": class_iou,
        "absent_classes": [name for name, value in class_iou.items() if value is None],
    }


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
