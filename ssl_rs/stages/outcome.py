"""What a finished run came to, in a line beside the path that is the output."""

from collections.abc import Mapping
from typing import Any

from ssl_rs.distributed import Processes
from ssl_rs.messages import say_line
from ssl_rs.reporting.pretrainings import outcome_of


def tell(what: str, result: Mapping[str, Any]) -> None:
    """Say how good a result is; of all processes, the first does.

    Args:
        what: Begins the line, e.g. "Fine-tuned".
        result: Of any command; what it does not hold is not told.
    """
    if not Processes.from_environment().is_first:
        return
    said = "; ".join(outcome_of(result)) if result.get("command") == "pretrain" else _scored(result)
    say_line(f"{what}: {said}." if said else f"{what}.")
    for line in _all_scores(result):
        say_line(line)


def _scored(result: Mapping[str, Any]) -> str:
    split, dataset, protocol, miou = (result.get(key) for key in ("split", "dataset", "protocol", "miou"))
    where = f"on {'all' if split == 'all' else f'the {split}'} scenes of {dataset}, protocol {protocol}"
    return f"mIoU {100 * miou:.1f} % {where}; result.json has all scores" if isinstance(miou, float) else ""


def _all_scores(result: Mapping[str, Any]) -> list[str]:
    """Return the scores beside the mIoU, and the IoU of each class; none where there is no mIoU."""
    names = {"overall_accuracy": "overall accuracy", "mean_f1": "mean F1", "kappa": "kappa"}
    if not isinstance(result.get("miou"), float):
        return []
    scores = ", ".join(f"{name} {_percent(result.get(key))}" for key, name in names.items())
    class_iou = result.get("class_iou")
    pairs = class_iou.items() if isinstance(class_iou, dict) else ()
    of_classes = ", ".join(f"{name} {_percent(iou)}" for name, iou in pairs)
    return [f"  {scores}", *([f"  IoU: {of_classes}"] if of_classes else [])]


def _percent(score: Any) -> str:
    return f"{100 * score:.1f} %" if isinstance(score, float) else "undefined"
