"""What a finished run came to, in a line beside the path that is the output."""

from collections.abc import Mapping
from typing import Any

from ssl_rs.distributed import Processes
from ssl_rs.messages import say_line


def tell(what: str, result: Mapping[str, Any]) -> None:
    """Say how good a result is; of all processes, the first does.

    Args:
        what: Begins the line, e.g. "Fine-tuned".
        result: Of any command; what it does not hold is not told.
    """
    if not Processes.from_environment().is_first:
        return
    said = _learned(result) if result.get("command") == "pretrain" else _scored(result)
    say_line(f"{what}: {said}." if said else f"{what}.")


def _scored(result: Mapping[str, Any]) -> str:
    split, dataset, protocol = (result.get(key) for key in ("split", "dataset", "protocol"))
    miou, where = (
        result.get("miou"),
        f"on {'all' if split == 'all' else f'the {split}'} scenes of {dataset}, protocol {protocol}",
    )
    return f"mIoU {100 * miou:.1f} % {where}; result.json has all scores" if isinstance(miou, float) else ""


def _learned(result: Mapping[str, Any]) -> str:
    """Say what a pretraining's tasks came to, and how its features spread: beside chance, it shows a failure."""
    losses, metrics, collapse = (_numbers(result.get(key)) for key in ("final_losses", "final_metrics", "collapse"))
    parts = []
    for task, loss in losses.items():
        own = [
            f"{name.partition('/')[2]} {value:.3g}" for name, value in metrics.items() if name.startswith(f"{task}/")
        ]
        parts.append(", ".join([f"{task} loss {loss:.4g}", *own]))
    if {"feature_std", "effective_rank", "dimensions"} <= collapse.keys():
        rank = f"{collapse['effective_rank']:.0f} of {collapse['dimensions']:.0f}"
        parts.append(f"features std {collapse['feature_std']:.2g}, effective rank {rank}")
    return "; ".join(parts)


def _numbers(values: object) -> dict[str, float]:
    """Return what is a number among the values of an object."""
    found = values.items() if isinstance(values, Mapping) else ()
    return {str(name): float(value) for name, value in found if isinstance(value, int | float)}
