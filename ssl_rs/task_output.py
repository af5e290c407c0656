"""What a task gives back to the training loop; both stages use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_rs.errors import InputError


@dataclass(frozen=True)
class TaskOutput:
    """The outcome of one task on one batch.

    Args:
        loss: Scalar with gradient, a mean that ranks may average (see `distributed.mean_over_ranks`).
        metrics: Detached scalars by name.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def checked_output(told: str, output: Any) -> TaskOutput:
    """Refuse what is no outcome of a task or a loss: one that a user wrote may give back something else.

    It looks at types and shapes alone, so that no step waits for the device.

    Args:
        told: The key of what returned it, for the message.
        output: What it returned.

    Raises:
        InputError: Says what is wrong with it.
    """
    if not isinstance(output, TaskOutput):
        raise InputError(f"{told}: it returns a {type(output).__name__}, expected an ssl_rs TaskOutput.")
    _check_loss(told, output.loss)
    if not isinstance(output.metrics, Mapping):
        raise InputError(
            f"{told}: its metrics are a {type(output.metrics).__name__}, expected a dictionary of tensors by name."
        )
    if "loss" in output.metrics:  # by that name the log has the loss itself
        raise InputError(f"{told}: its metric 'loss' is logged anyway. Leave it out, or give it another name.")
    for key, value in output.metrics.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise InputError(
                f"{told}: its metric '{key}' is {value!r:.60}, expected a detached tensor without dimensions."
            )
    return output


def _check_loss(told: str, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim:
        shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"{told}: its loss is {shape}, expected a tensor without dimensions: take the mean.")
    if not loss.is_floating_point():
        raise InputError(f"{told}: its loss is of {loss.dtype}, expected real numbers with a gradient, e.g. float32.")
    if torch.is_grad_enabled() and not loss.requires_grad:  # beside another task nobody would notice
        raise InputError(
            f"{told}: its loss has no gradient, so nothing would be learnt by it. Compute it from features or "
            "parameters, without detach() and torch.no_grad()."
        )


def check_same_metrics(values: Mapping[str, Tensor], before: Mapping[str, Tensor], where: str, kind: str) -> None:
    """Refuse a metric that only some steps, or parts of a batch, have: no mean could be taken of it.

    Args:
        values: By name, "task/metric".
        before: Of those before it.
        where: The step or part, for the message.
        kind: "step" or "part".

    Raises:
        InputError: Names the metric.
    """
    if different := sorted(values.keys() ^ before.keys()):
        lacks = "" if different[0] in values else "no "
        raise InputError(
            f"{where} has {lacks}{different[0]}, unlike every {kind} before it: a task has to return the same metrics "
            f"in every {kind}."
        )
