"""Transform prediction by classifying pooled features, as the paper does."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask, view_of_kind
from ssl_rs.pretext.heads import check_widths
from ssl_rs.pretext.pooling import mean_over_positions, position_weights
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import TransformedView, View
from ssl_rs.views.fused import TRANSFORMS


class PooledTransformPrediction(PretextTask):
    """Classify the flip or rotation from the concatenated deepest maps of both views, convolved and pooled.

    In the run of docs/results.md it stayed at chance (17.3 % of 6 classes after 1,500 steps from scratch). Pooling
    drops the positions that a flip or rotation moves: `transform_prediction` is the head that learns.
    Source: Li, Chen & Shi, JSTARS 2021, and their code.

    Args:
        channels: Channels of each pyramid level; the deepest is read.
        reduction: Channels of each map after a 1x1 convolution; None leaves them, as the authors do, and costs 113 M
            parameters on ResNet-50.
        dropout: Probability, before the last layer.

    Raises:
        ArgumentError: No channels would be left.
    """

    views = ("clean", "transformed")
    view_kinds = MappingProxyType({"transformed": TransformedView})

    def __init__(self, channels: Sequence[int], reduction: int | None = 256, dropout: float = 0.5) -> None:
        super().__init__()
        if reduction is not None:
            check_widths([reduction], "reduction")
        width = reduction if reduction is not None else channels[-1]
        self.reduce = nn.Identity() if reduction is None else nn.Conv2d(channels[-1], width, 1)
        self.compare = nn.Sequential(*_convolution(2 * width, width), *_convolution(width, width))
        self.classify = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(2 * width, len(TRANSFORMS)),
        )

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the cross entropy over the classes, and the share that was told right; chance is 1/6."""
        pair = torch.cat([self.reduce(features[name][-1]) for name in self.views], dim=1)  # [B, 2 * width, n, n]
        compared = self.compare(pair)  # [B, width, n, n]
        shares = [position_weights(views[name], compared) for name in self.views]
        common = None if shares[0] is None or shares[1] is None else shares[0] * shares[1]  # [B, 1, n, n]
        pooled = mean_over_positions(compared, common)  # [B, width]
        logits: Tensor = self.classify(pooled).float()  # [B, K]
        transform = view_of_kind(views, "transformed", TransformedView).transform  # [B]
        accuracy = (logits.argmax(dim=1) == transform).float().mean()
        return TaskOutput(F.cross_entropy(logits, transform), {"accuracy": accuracy.detach()})


def _convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
