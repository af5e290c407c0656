"""What a task gives back to the training loop; both stages use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TaskOutput:
    """The outcome of one task on one batch.

    Args:
        loss: Scalar with gradient, a mean that ranks may average (see `distributed.mean_over_ranks`).
        metrics: Detached scalars by name.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
