"""Momentum networks: copies that get no gradient and follow the trained weights slowly."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ssl_rs.errors import ArgumentError, InputError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class MomentumRule:
    """The share of its old weights that a momentum network keeps in a step; equal numbers keep it constant.

    Source: Grill et al., Bootstrap Your Own Latent (BYOL), NeurIPS 2020, section 3.3: half a cosine from `start` to
    `final`. He et al., Momentum Contrast (MoCo), CVPR 2020, equation 2: constant.

    Args:
        start: At step 0, in [0, 1].
        final: Where it leads at the end of the run, in [0, 1].
    """

    start: float = 0.999
    final: float = 0.999

    def __post_init__(self) -> None:
        for name in ("start", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name}={getattr(self, name):g}: expected a number in [0, 1].")

    def __call__(self, step: int, max_steps: int) -> float:
        """Return the share at a step of 0 to `max_steps` - 1."""
        return self.final - (self.final - self.start) * (math.cos(math.pi * step / max_steps) + 1) / 2


def momentum_copy(module: M) -> M:
    """Return a copy with tensors of its own that no optimizer and no gradient moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(momentum: nn.Module, online: nn.Module, share: float) -> None:
    """Move a momentum network towards the trained one.

    Buffers are left alone: the statistics of its BatchNorm are those of what it has seen itself, as in the code of
    MoCo's and BYOL's authors.

    Args:
        momentum: What is moved.
        online: What it was copied from.
        share: Of its own weights that it keeps, in [0, 1].
    """
    followers: list[Tensor] = [*momentum.parameters()]
    trained: list[Tensor] = [*online.parameters()]
    if len(followers) != len(trained):
        raise ValueError(f"{len(followers)} parameters cannot follow {len(trained)}")
    if any(own.is_cuda for own in followers):  # elsewhere one by one is as fast
        _move_at_once(followers, trained, share)
    else:
        for own, other in zip(followers, trained, strict=True):
            own.mul_(share).add_(other, alpha=1 - share)


def _move_at_once(followers: list[Tensor], trained: list[Tensor], share: float) -> None:
    """Move all of them in two operations, to the same bits."""
    torch._foreach_mul_(followers, share)
    torch._foreach_add_(followers, trained, alpha=1 - share)


def common_rule(rules: Mapping[str, MomentumRule]) -> MomentumRule | None:
    """Return the rule by which the tasks that need a momentum encoder move it; None where none does.

    Args:
        rules: By name of the task.

    Raises:
        InputError: They disagree.
    """
    if len(set(rules.values())) > 1:
        told = ", ".join(f"'{name}' from {rule.start:g} to {rule.final:g}" for name, rule in rules.items())
        first = next(iter(rules))
        raise InputError(
            f"pretext=[...]: one momentum encoder serves all tasks, but they move it by different rules: {told}.\n"
            f"Set pretext.*.task.momentum.start and .final of all to those of '{first}', or leave a task out."
        )
    return next(iter(rules.values()), None)
