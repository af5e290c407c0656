"""Simple classifiers on frozen features: how much of the classes an encoder tells without being fine-tuned."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.errors import InputError

AT_ONCE = 2**24
"""Similarities that are held at once: 64 MB."""

TINY = 1e-12
"""Probability of a class that no neighbor votes for, so that its logarithm is finite."""


class Probe(Protocol):
    """A kind of classifier that can be fitted to labeled features; the fields are those of `PixelSettings`."""

    name: ClassVar[str]
    stride: int
    samples: int
    sampling: Literal["uniform", "balanced"]

    def fit(self, features: Tensor, labels: Tensor, num_classes: int) -> nn.Module:
        """Return what maps features [M, D] to log-probabilities [M, K], fitted to [N, D] and int64 [N] in [0, K)."""
        ...


@dataclass(frozen=True)
class PixelSettings:
    """Which features a probe sees.

    Args:
        stride: Side of a cell of features in pixels; a power of 2 from 1 to 32.
        samples: Labeled pixels that it is fitted to.
        sampling: "uniform" over all labeled pixels, or "balanced" over classes.
    """

    stride: int
    samples: int
    sampling: Literal["uniform", "balanced"]

    def __post_init__(self) -> None:
        if self.stride not in (1, 2, 4, 8, 16, 32):
            raise InputError(f"probe.stride must be one of 1, 2, 4, 8, 16, 32, got {self.stride}.")
        if self.samples < 1:
            raise InputError(f"probe.samples must be at least 1, got {self.samples}.")


@dataclass(frozen=True)
class LinearProbe(PixelSettings):
    """Multinomial logistic regression.

    The mean cross entropy plus penalty / 2 times the squared weights (the bias is free) is convex, so that the result
    does not depend on a learning rate: full-batch L-BFGS goes to its minimum.
    Source: Alain & Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017 workshop.

    Args:
        penalty: At least 0.
        iterations: Of L-BFGS, at most.
    """

    penalty: float
    iterations: int

    name: ClassVar[str] = "linear_probe"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.penalty < math.inf or self.iterations < 1:
            raise InputError(
                f"probe.penalty must be a number of at least 0 and probe.iterations at least 1, got {self.penalty} and "
                f"{self.iterations}."
            )

    def fit(self, features: Tensor, labels: Tensor, num_classes: int) -> nn.Module:
        """Fit in float64: features [N, D], labels int64 [N]."""
        rows = features.double()
        weight = rows.new_zeros(num_classes, rows.shape[1], requires_grad=True)
        bias = rows.new_zeros(num_classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=self.iterations,
            max_eval=2 * self.iterations,
            tolerance_grad=1e-9,
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(rows, weight, bias), labels) + self.penalty / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimizer.step(objective)  # type: ignore[no-untyped-call]
        linear = nn.utils.skip_init(nn.Linear, rows.shape[1], num_classes, device=rows.device)  # type: ignore[no-untyped-call]
        linear.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        return nn.Sequential(linear, nn.LogSoftmax(dim=1))


@dataclass(frozen=True)
class NearestNeighbors(PixelSettings):
    """Weighted vote of the labeled pixels with the largest cosine similarity.

    Source: Wu, Xiong, Yu & Lin, "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018,
    section 3.4: a neighbor's vote weighs exp(cosine / temperature), with 0.07; k is 20, as Caron et al., ICCV 2021.

    Args:
        neighbors: That vote; all where fewer pixels are labeled.
        temperature: Above 0.
    """

    neighbors: int
    temperature: float

    name: ClassVar[str] = "knn_probe"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbors < 1 or not 0 < self.temperature < math.inf:
            raise InputError(
                f"probe.neighbors must be at least 1 and probe.temperature above 0, got {self.neighbors} and "
                f"{self.temperature}."
            )

    def fit(self, features: Tensor, labels: Tensor, num_classes: int) -> nn.Module:
        """Remember features [N, D] and labels int64 [N]."""
        return Vote(F.normalize(features.float(), dim=1), labels, num_classes, self.neighbors, self.temperature)


class Vote(nn.Module):
    """The vote of the nearest of a bank of features.

    Args:
        bank: [N, D] of unit length.
        labels: int64 [N] in [0, K).
        num_classes: K.
        neighbors: That vote.
        temperature: See `NearestNeighbors`.
    """

    bank: Tensor
    labels: Tensor

    def __init__(self, bank: Tensor, labels: Tensor, num_classes: int, neighbors: int, temperature: float) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.register_buffer("labels", labels)
        self.num_classes = num_classes
        self.neighbors = min(neighbors, len(bank))
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Map features [M, D] to the logarithm of each class's share of the votes, [M, K]."""
        parts = torch.split(features, max(1, AT_ONCE // len(self.bank)))
        return torch.cat([self._vote(F.normalize(part, dim=1)) for part in parts])

    def _vote(self, features: Tensor) -> Tensor:
        similarity, nearest = (features @ self.bank.T).topk(self.neighbors, dim=1)  # [m, k] each
        # Relative to the nearest, so that no small temperature overflows; shares are the same.
        votes = ((similarity - similarity[:, :1]) / self.temperature).exp()
        shares = votes.new_zeros(len(features), self.num_classes).scatter_add_(1, self.labels[nearest], votes)  # [m, K]
        return (shares / shares.sum(dim=1, keepdim=True)).clamp(min=TINY).log()
