"""SimCLR: two augmented views of an image find each other among those of the batch."""

from collections.abc import Mapping, Sequence

import torch

from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.contrastive import contrast
from ssl_rs.pretext.heads import check_temperature, mlp
from ssl_rs.pretext.pooling import pool
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class SimClr(PretextTask):
    """Pool the deepest map of both views, project it, and compare all pairs of the batch, over all ranks.

    Source: Chen et al., A Simple Framework for Contrastive Learning (SimCLR), ICML 2020; a BatchNorm behind every layer
    of the projection and its two layers are those of their code, three are those of SimCLR v2 (NeurIPS 2020). The last
    BatchNorm shifts as well as scales; theirs only scales.

    Args:
        channels: Channels of each pyramid level; the deepest is read.
        widths: Of each layer of the projection.
        temperature: Divides the cosine.
    """

    views = ("simclr_first", "simclr_second")

    def __init__(self, channels: Sequence[int], widths: Sequence[int] = (2048, 128), temperature: float = 0.1) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.project = mlp(channels[-1], widths, "all", "widths")

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return NT-Xent, the share of rows whose other view is nearest, and the spread of the projections."""
        pooled = torch.cat([pool(views[name], features[name][-1]) for name in self.views])  # [2B, C]
        first, second = self.project(pooled).float().chunk(2)  # [B, D] each
        return contrast(first, second, self.temperature)
