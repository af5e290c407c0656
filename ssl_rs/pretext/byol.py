"""BYOL: each view predicts what a momentum network makes of the other one; there are no negatives."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.distributed import gather
from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask, momentum_of
from ssl_rs.pretext.collapse import feature_std
from ssl_rs.pretext.heads import mlp
from ssl_rs.pretext.momentum import MomentumRule, follow, momentum_copy
from ssl_rs.pretext.pooling import pool
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class Byol(PretextTask):
    """Predict the momentum network's projection of each view from the other view.

    Source: Grill et al., Bootstrap Your Own Latent (BYOL), NeurIPS 2020, equation 2 and its symmetric sum. As theirs,
    the heads see one view at a time, so that their BatchNorm does.

    Args:
        channels: Channels of each pyramid level; the deepest is read.
        momentum: How the momentum encoder and its projection move.
        widths: Of each layer of the projection.
        predictor_widths: Of the layers of the predictor before its last, which has the projection's width.
        last_bias: Whether the last layers of both heads have a bias; in the authors' code they have none.
    """

    views = ("byol_first", "byol_second")
    momentum_views = ("byol_first", "byol_second")

    def __init__(
        self,
        channels: Sequence[int],
        momentum: MomentumRule,
        widths: Sequence[int] = (4096, 256),
        predictor_widths: Sequence[int] = (4096,),
        last_bias: bool = False,
    ) -> None:
        super().__init__()
        self.momentum: MomentumRule = momentum
        self.project = mlp(channels[-1], widths, "hidden", "widths", last_bias)
        self.project_targets = momentum_copy(self.project)
        layers = (*predictor_widths, widths[-1])
        self.predict = mlp(widths[-1], layers, "hidden", "predictor_widths", last_bias)

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the sum of both directions' losses, the mean cosine, and the spread of the projections."""
        projections = [self.project(pool(views[name], features[name][-1])) for name in self.views]  # [B, D] each
        predictions = [self.predict(projection).float() for projection in projections]
        targets = [
            self.project_targets(pool(views[name], features[momentum_of(name)][-1])).float() for name in self.views
        ]
        losses = [distance(predictions[0], targets[1]), distance(predictions[1], targets[0])]
        loss = torch.stack(losses).sum()
        spread = feature_std(gather(torch.cat(projections).detach()))
        return TaskOutput(loss, {"cosine": 1 - loss.detach() / 4, "feature_std": spread})

    def after_step(self, step: int, max_steps: int) -> None:
        """Move the projection of the targets."""
        follow(self.project_targets, self.project, self.momentum(step, max_steps))


def distance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared distance of rows [B, D] at unit length, 2 - 2 cos: in [0, 4]."""
    return 2 - 2 * F.cosine_similarity(predictions, targets, dim=1).mean()
