"""Contrastive learning: two views of one crop are closer than views of two crops."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.distributed import first_row, gather
from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.collapse import feature_std
from ssl_rs.pretext.heads import check_temperature, check_widths
from ssl_rs.pretext.pooling import pool
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class Contrastive(PretextTask):
    """Pool the deepest map of each view, project it, and compare all pairs of the batch, over all ranks.

    Source: Chen et al., A Simple Framework for Contrastive Learning (SimCLR), ICML 2020. Li, Chen & Shi (JSTARS 2021)
    use temperature 1 and a projection of 1024 sigmoids to 512 numbers; their code gives each row's similarity to itself
    the value 0 and keeps it among the candidates, which we do not copy.

    Args:
        channels: Channels of each pyramid level; the deepest is read.
        hidden: Width of the projection's hidden layer.
        dimensions: Width of what is compared.
        temperature: Divides the cosine; smaller values weigh the hardest candidates more.
        activation: Of the hidden layer: BatchNorm and ReLU, or the paper's sigmoid.
    """

    views = ("clean", "transformed")

    def __init__(
        self,
        channels: Sequence[int],
        hidden: int = 512,
        dimensions: int = 128,
        temperature: float = 0.2,
        activation: Literal["batch_norm_relu", "sigmoid"] = "batch_norm_relu",
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        check_widths([hidden], "hidden")
        check_widths([dimensions], "dimensions")
        self.temperature = temperature
        normalized = activation == "batch_norm_relu"
        between = (nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)) if normalized else (nn.Sigmoid(),)
        # BatchNorm takes away what a bias before it adds.
        self.project = nn.Sequential(
            nn.Linear(channels[-1], hidden, bias=not normalized), *between, nn.Linear(hidden, dimensions)
        )

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return NT-Xent, the share of rows whose other view is nearest, and the spread of the projections."""
        pooled = torch.cat([pool(views[name], features[name][-1]) for name in self.views])  # [2B, C]
        first, second = self.project(pooled).float().chunk(2)  # [B, D] each
        return contrast(first, second, self.temperature)


def contrast(first: Tensor, second: Tensor, temperature: float) -> TaskOutput:
    """Return the normalized temperature-scaled cross entropy (NT-Xent), and what tells how well it is solved.

    A row is no candidate of itself. Equal rows give ln(2N - 1) for N pairs over all ranks, which is chance.
    Source: Chen et al., ICML 2020, equation 1.

    Args:
        first: [B, D], one view of each sample.
        second: [B, D], the other view.
        temperature: Above 0.

    Returns:
        The loss, the share of rows whose other view is nearest, and the spread of the rows.
    """
    logits, positive = pair_logits(first, second, temperature)
    accuracy = (logits.argmax(dim=1) == positive).float().mean()
    spread = feature_std(gather(torch.cat([first, second]).detach()))
    return TaskOutput(F.cross_entropy(logits, positive), {"accuracy": accuracy.detach(), "feature_std": spread})


def pair_logits(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the scaled cosine of this rank's rows to those of all ranks, and where the other view of each stands.

    Args:
        first: [B, D].
        second: [B, D].
        temperature: Above 0.

    Returns:
        float32 [2B, 2N], -inf where a row meets itself, and int64 [2B], indices into the 2N columns.
    """
    with torch.autocast(first.device.type, enabled=False):  # bf16 has 3 digits: too few for differences of cosines
        first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
        candidates = torch.cat([gather(first), gather(second)])  # [2N, D]
        logits = torch.cat([first, second]) @ candidates.T / temperature  # [2B, 2N]
    rows = torch.arange(len(first), device=first.device) + first_row(len(first))
    in_second = rows + len(candidates) // 2
    itself, positive = torch.cat([rows, in_second]), torch.cat([in_second, rows])
    return logits.scatter(1, itself.unsqueeze(1), float("-inf")), positive
