"""What happened when a loss, gradient or weight stopped being a number: which one, at which step, on which crops."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs import distributed
from ssl_rs.errors import InputError
from ssl_rs.run_directory import save_tensors
from ssl_rs.training.structure import named_parts

FOLDER = "not_finite"
"""Where in a run's folder the crops of such a step are saved."""

NEVER = torch.iinfo(torch.int64).max
"""Stands for the step of what was always finite; floats would not tell large steps apart."""


class FirstBadSteps:
    """The first step at which each value was not finite; noted on the device, so that no step waits for it."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, ...], Tensor] = {}  # by the names of values that are looked at together

    def note(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Look at the values of a step, counted from 0; a GPU starts four operations for all of them together."""
        names, together = tuple(values), torch.stack([value.float() for value in values.values()])
        now = torch.where(together.isfinite(), NEVER, step)
        before = self._steps.get(names)
        self._steps[names] = now if before is None else torch.minimum(before, now)

    def first(self) -> tuple[int, list[str]] | None:
        """Return the first bad step on any rank and the names of what was bad in it; None where all was finite."""
        if not self._steps:
            return None
        steps = distributed.min_over_ranks(torch.cat(list(self._steps.values()))).tolist()
        step, looked_at = min(steps), chain.from_iterable(self._steps)
        names = [name for name, bad in zip(looked_at, steps, strict=True) if bad == step]
        return None if step == NEVER else (step, names)


def check_weights(network: nn.Module, step: int, folder: Path) -> None:
    """Refuse weights that are not finite: the checkpoints that are there stay the newest.

    Args:
        network: After the step.
        step: Steps done.
        folder: Of the checkpoints.

    Raises:
        InputError: Names the weight.
    """
    values = network.state_dict()
    are_finite = torch.stack([value.isfinite().all() for value in values.values()])
    for name, is_finite in zip(values, are_finite.tolist(), strict=True):
        if not is_finite:
            raise InputError(
                f"{name} is no longer finite after step {step}: it diverged. The last good checkpoint is in "
                f"{folder}. Lower optimizer.lr, set trainer.gradient_clip=1.0, or use trainer.precision=fp32."
            )


def without_data(crops: Any) -> str:
    """Say how many of some stored crops hold no data at all; empty where none is, or they do not tell."""
    valid = getattr(crops, "valid", None)  # of `ssl_rs.data.scene_crops.Crops`
    if valid is None:
        return ""
    empty = int((~valid.flatten(1).any(dim=1)).sum())
    return f"{empty} of its {len(valid)} crops in this process hold no data at all. " if empty else ""


def save_crops(run: Path, step: int, rank: int, crops: Any) -> Path:
    """Write the stored crops of a step for inspection and return the file.

    Args:
        run: Folder of the run.
        step: Counted from 0.
        rank: Of this process; each has its own crops.
        crops: Tensors in mappings, tuples, lists or dataclasses.
    """
    path = run / FOLDER / f"step-{step:08d}-rank-{rank}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: part for name, part in named_parts(crops, "crops") if isinstance(part, Tensor)}
    save_tensors(path, tensors, {"step": str(step), "rank": str(rank)})
    return path
