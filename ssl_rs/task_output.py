"""What a task gives back to the training loop; both stages use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
