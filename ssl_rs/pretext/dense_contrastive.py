"""Dense contrast: each position of a view's map finds its own place in the other view among keys of other images."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.distributed import mean_over_ranks
from ssl_rs.encoder import Pyramid
from ssl_rs.errors import ArgumentError
from ssl_rs.pretext.base import PretextTask, momentum_of
from ssl_rs.pretext.heads import check_level, dense_mlp
from ssl_rs.pretext.moco_v2 import MoCoV2
from ssl_rs.pretext.momentum import MomentumRule, follow, momentum_copy
from ssl_rs.pretext.pooling import mean_over_positions, or_one, position_weights
from ssl_rs.pretext.queue import KeyQueue
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View
from ssl_rs.views.fused import compose
from ssl_rs.views.resampling import sampling_grid


class DenseContrastive(PretextTask):
    """MoCo v2 on pooled features, and the same loss for each position of a map; both heads have a queue.

    Source: Wang et al., Dense Contrastive Learning (DenseCL), CVPR 2021, equations 2 and 3; as theirs, negatives are
    means of other images' dense keys. They take the most similar position as the positive; ours is where the geometry
    of both views says the same ground is, and positions whose ground the other view does not show are left out.

    Args:
        channels: Channels of each pyramid level.
        momentum: How the momentum encoder and the heads of the keys move.
        level: Which level is compared densely, as an index into the pyramid.
        dense: Share of the dense loss, in [0, 1]; the rest is MoCo's.
        widths: Of each layer of both projections.
        queue: Keys in each queue.
        temperature: Divides the cosine.

    Raises:
        ArgumentError: The encoder has no map at that level, or a setting has no meaning.
    """

    views = MoCoV2.views
    momentum_views = MoCoV2.momentum_views

    def __init__(
        self,
        channels: Sequence[int],
        momentum: MomentumRule,
        level: int = -2,
        dense: float = 0.5,
        widths: Sequence[int] = (2048, 128),
        queue: int = 4096,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        check_level(level, channels)
        if not 0 <= dense <= 1:
            raise ArgumentError(f"dense={dense:g}: expected a share in [0, 1].")
        self.momentum: MomentumRule = momentum
        self.level, self.dense, self.temperature = level, dense, temperature
        self.pooled = MoCoV2(channels, momentum, widths, queue, temperature)
        self.project_positions = dense_mlp(channels[level], widths)
        self.project_key_positions = momentum_copy(self.project_positions)
        self.dense_queue = KeyQueue(queue, widths[-1], "queue")

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return both losses' weighted sum; of each the loss and how often the positive is nearest."""
        pooled = self.pooled(views, features)
        (query_view,), (key_view,) = self.views, self.momentum_views
        queries = self.project_positions(features[query_view][self.level]).float()  # [B, D, h, w]
        keys = self.project_key_positions(features[momentum_of(key_view)][self.level]).float()
        positives, weight = partners(views[query_view], views[key_view], queries, F.normalize(keys, dim=1))
        logits = self.dense_queue.logits(_rows(queries), _rows(positives), self.temperature)  # [B * h * w, 1 + K]
        if self.training:
            self.dense_queue.push(mean_over_positions(keys, position_weights(views[key_view], keys)))
        losses = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="none")
        right = (logits.detach().argmax(dim=1) == 0).float()
        loss, accuracy = (_weighted_mean(values, weight.flatten()) for values in (losses, right))
        metrics = {
            **pooled.metrics,
            "dense_loss": loss.detach(),
            "dense_accuracy": accuracy,
            "matched": (weight > 0).float().mean(),
        }
        return TaskOutput((1 - self.dense) * pooled.loss + self.dense * loss, metrics)

    def after_step(self, step: int, max_steps: int) -> None:
        """Move both heads of the keys."""
        self.pooled.after_step(step, max_steps)
        follow(self.project_key_positions, self.project_positions, self.momentum(step, max_steps))


def partners(first: View, second: View, maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the second view shows at the ground of each position of the first one.

    A position stands for a cell of a grid over the image. Convolutions of stride 2 with padding on both sides, as
    ResNet's, look up to half a cell further up and left, which is not corrected: their fields are many cells wide.

    Args:
        first: The one view.
        second: The other view, of the same crops.
        maps: A map of the first, [B, D, h, w].
        others: A map of the second, [B, D, h, w].

    Returns:
        [B, D, h, w], the second map sampled bilinearly, and [B, h, w], how much each position counts: 0 where the
        second view does not show it, else the product of the shares of valid pixels in both.
    """
    with torch.autocast(maps.device.type, enabled=False):  # bf16 would be off by a position
        grid = sampling_grid(compose(inverse(second.geometry), first.geometry), *maps.shape[-2:])  # [B, h, w, 2]
    sampled = F.grid_sample(others, grid, mode="bilinear", padding_mode="border", align_corners=False)
    weight = (grid.abs() <= 1).all(dim=-1).to(maps)  # [B, h, w]
    own, other = position_weights(first, maps), position_weights(second, others)
    if own is not None and other is not None:
        shown = F.grid_sample(other, grid, mode="bilinear", padding_mode="border", align_corners=False)
        weight = weight * (own * shown).squeeze(1)
    return sampled, weight


def inverse(matrix: Tensor) -> Tensor:
    """Return the affine maps that undo matrices [B, 2, 3]."""
    linear = torch.linalg.inv_ex(matrix[..., :2]).inverse  # unlike inv, it does not wait for the device
    return torch.cat([linear, -linear @ matrix[..., 2:]], dim=-1)


def _rows(maps: Tensor) -> Tensor:
    """Return maps [B, D, h, w] as a row a position, [B * h * w, D]."""
    return maps.movedim(1, -1).flatten(0, 2)


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean, such that its mean over ranks is that of the whole batch; 0 where all weights are."""
    return (values * weight).sum() / or_one(mean_over_ranks(weight.sum()))
