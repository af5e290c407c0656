"""MoCo v2: a view finds the momentum encoder's key of its other view among keys of earlier batches."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.distributed import gather
from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask, momentum_of
from ssl_rs.pretext.collapse import feature_std
from ssl_rs.pretext.heads import check_temperature, mlp
from ssl_rs.pretext.momentum import MomentumRule, follow, momentum_copy
from ssl_rs.pretext.pooling import pool
from ssl_rs.pretext.queue import KeyQueue
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class MoCoV2(PretextTask):
    """Compare the first view's query with the second view's key and with a queue of keys.

    Source: Chen et al., Improved Baselines with Momentum Contrastive Learning (MoCo v2), 2020; He et al. (MoCo), CVPR
    2020, equation 1. Ours has one BatchNorm over all ranks and so no shuffling among them (docs/decisions.md).

    Args:
        channels: Channels of each pyramid level; the deepest is read.
        momentum: How the momentum encoder and the head of the keys move.
        widths: Of each layer of the projection.
        queue: Keys in the queue.
        temperature: Divides the cosine.
    """

    views: tuple[str, ...] = ("moco_v2_first",)
    momentum_views: tuple[str, ...] = ("moco_v2_second",)

    def __init__(
        self,
        channels: Sequence[int],
        momentum: MomentumRule,
        widths: Sequence[int] = (2048, 128),
        queue: int = 4096,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.momentum: MomentumRule = momentum
        self.temperature = temperature
        self.project = mlp(channels[-1], widths, "none", "widths")
        self.project_keys = momentum_copy(self.project)
        self.queue = KeyQueue(queue, widths[-1], "queue")

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return InfoNCE, the share of queries whose own key is nearest, and the spread of the queries."""
        (query_view,), (key_view,) = self.views, self.momentum_views
        queries = self.project(pool(views[query_view], features[query_view][-1]))  # [B, D]
        keys = self.project_keys(pool(views[key_view], features[momentum_of(key_view)][-1]))
        logits = self.queue.logits(queries, keys, self.temperature)  # [B, 1 + K]
        if self.training:
            self.queue.push(keys)
        metrics = {"accuracy": first_is_largest(logits), "feature_std": feature_std(gather(queries.detach()))}
        return TaskOutput(F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64)), metrics)

    def after_step(self, step: int, max_steps: int) -> None:
        """Move the head of the keys."""
        follow(self.project_keys, self.project, self.momentum(step, max_steps))


def first_is_largest(logits: Tensor) -> Tensor:
    """Return the share of rows [N, K] whose first column is the largest, without gradient."""
    return (logits.detach().argmax(dim=1) == 0).float().mean()
