"""VICReg: two views agree while each dimension varies and no two dimensions say the same."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.distributed import gather
from ssl_rs.encoder import Pyramid
from ssl_rs.errors import ArgumentError
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.collapse import feature_std
from ssl_rs.pretext.heads import mlp
from ssl_rs.pretext.pooling import pool
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View

EPSILON = 1e-4
"""Added to a variance before its root, as in the paper."""


class VicReg(PretextTask):
    """Expand the pooled deepest map of both views and weigh invariance, variance and covariance, over all ranks.

    Source: Bardes, Ponce & LeCun, VICReg, ICLR 2022, equations 1 to 6; as in their code, the invariance is a mean over
    dimensions too, the variance the mean over both views, and the covariance their sum.

    Args:
        channels: Channels of each pyramid level; the deepest is read.
        widths: Of each layer of the expander.
        invariance: Weight of the distance between the views.
        variance: Weight of what each dimension's deviation lacks to 1.
        covariance: Weight of the squared covariances of different dimensions.
        last_bias: Whether the last layer of the expander has a bias; in the authors' code it has none.

    Raises:
        ArgumentError: A weight has no meaning.
    """

    views = ("vicreg_first", "vicreg_second")

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int] = (2048, 2048, 2048),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        last_bias: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ArgumentError(f"{name}={weight:g}: expected a finite number, at least 0.")
        if not any(self.weights.values()):
            raise ArgumentError(
                "invariance=0, as variance and covariance: nothing would be learnt. Set one of them above 0."
            )
        self.expand = mlp(channels[-1], widths, "hidden", "widths", last_bias)

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the weighted sum, its unweighted terms, and the spread of the expanded features."""
        with_gradient = [gather(self.expand(pool(views[name], features[name][-1])).float()) for name in self.views]
        with torch.autocast(with_gradient[0].device.type, enabled=False):  # bf16 has too few digits for moments
            terms = vicreg_terms(*with_gradient)
        loss = torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()
        spread = feature_std(torch.cat(with_gradient).detach())
        return TaskOutput(loss, {**{name: term.detach() for name, term in terms.items()}, "feature_std": spread})


def vicreg_terms(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Return invariance, variance and covariance of two views [N, D] of the same N > 1 images, scalars by name."""
    pairs = (first, second)
    return {
        "invariance": F.mse_loss(first, second),
        "variance": torch.stack([lacking_deviation(rows) for rows in pairs]).mean(),
        "covariance": torch.stack([redundancy(rows) for rows in pairs]).sum(),
    }


def lacking_deviation(rows: Tensor) -> Tensor:
    """Return what each dimension's standard deviation over rows [N, D] lacks to 1, its mean over dimensions."""
    return F.relu(1 - (rows.var(dim=0) + EPSILON).sqrt()).mean()


def redundancy(rows: Tensor) -> Tensor:
    """Return the sum of the squared covariances of different dimensions of rows [N, D], divided by D."""
    centered = rows - rows.mean(dim=0)
    covariance = centered.T @ centered / (len(rows) - 1)  # [D, D]
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / rows.shape[1]
