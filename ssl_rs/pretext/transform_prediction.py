"""Transform prediction by undoing each candidate on the feature map."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.encoder import Pyramid
from ssl_rs.errors import ArgumentError
from ssl_rs.pretext.base import PretextTask, view_of_kind
from ssl_rs.pretext.heads import check_level, check_widths
from ssl_rs.pretext.pooling import mean_over_positions, position_weights
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import TransformedView, View
from ssl_rs.views.fused import undo_each


class TransformPrediction(PretextTask):
    """Tell which flip or rotation lies between the clean and the transformed view.

    Each candidate is undone on the transformed view's map and scored by its agreement with the clean map, where both
    have data.
    Source: Li, Chen & Shi, JSTARS 2021, for the task; they classify pooled features (`transform_prediction_pooled`),
    which drops the positions that a flip or rotation moves.

    Args:
        channels: Channels of each pyramid level.
        level: Which level is read, as an index into the pyramid; -2 is the last but one (stride 16).
        dimensions: Channels that are compared.

    Raises:
        ArgumentError: The encoder has no map at that level.
    """

    views = ("clean", "transformed")
    view_kinds = MappingProxyType({"transformed": TransformedView})

    def __init__(self, channels: Sequence[int], level: int = -2, dimensions: int = 64) -> None:
        super().__init__()
        check_level(level, channels)
        check_widths([dimensions], "dimensions")
        self.level = level
        self.project = nn.Conv2d(channels[level], dimensions, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # of the cosine: one over the temperature

    def check_side(self, pixels: int, maps: Sequence[int]) -> None:
        """Refuse crops of which the map that is read has one position, which a flip or rotation does not move."""
        if maps[self.level] < 2:
            raise ArgumentError(
                f"level={self.level}: of crops of dataset.crop_size={pixels} that map has one position, which no flip "
                "or rotation moves. Take larger crops, or a level nearer to the image."
            )

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the cross entropy over the candidates, and the share that was told right; chance is 1/6."""
        clean, transformed = (  # each [B, D, n, n]
            F.normalize(self.project(features[name][self.level]).float(), dim=1) for name in self.views
        )
        cosine = (undo_each(transformed) * clean).sum(dim=2)  # [K, B, n, n]
        agreement = mean_over_positions(cosine, _common(views["clean"], views["transformed"], clean)).T  # [B, K]
        logits = self.log_scale.exp() * agreement
        transform = view_of_kind(views, "transformed", TransformedView).transform  # [B]
        accuracy = (logits.argmax(dim=1) == transform).float().mean()
        return TaskOutput(F.cross_entropy(logits, transform), {"accuracy": accuracy.detach()})


def _common(clean: View, transformed: View, maps: Tensor) -> Tensor | None:
    """Return how much of each position is valid in both views, for each candidate, [K, B, n, n].

    Args:
        clean: The one view.
        transformed: The other view, of which each candidate is undone.
        maps: A map of either, [B, D, n, n].
    """
    first, second = (position_weights(view, maps) for view in (clean, transformed))
    return None if first is None or second is None else (undo_each(second) * first).squeeze(2)
