"""Numbers that show whether features collapsed: a falling loss alone does not."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 1e-6
"""Share of the features' size below which what they differ by is float32's rounding."""


def collapse_measures(features: Tensor) -> dict[str, Tensor]:
    """Return all that is known of the spread of features [N, D], scalars by name."""
    return {
        "feature_std": feature_std(features),
        "effective_rank": effective_rank(features),
        "mean_pair_cosine": mean_pair_cosine(features),
    }


def feature_std(features: Tensor) -> Tensor:
    """Return the spread of unit-length features: about 1 in all directions alike, 0 when all rows agree.

    Source: Chen & He, Exploring Simple Siamese Representation Learning (SimSiam), CVPR 2021, section 4.1, where the
    value is not multiplied by sqrt(D).

    Args:
        features: [N, D].

    Returns:
        Scalar: each dimension's standard deviation over rows, their mean times sqrt(D).
    """
    unit = F.normalize(features.float(), dim=1)
    spread: Tensor = unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5
    return spread


def effective_rank(features: Tensor) -> Tensor:
    """Return how many directions the features use: the exponential of the entropy of their singular values.

    Source: Roy & Vetterli, The effective rank, EUSIPCO 2007; here of centered features.

    Args:
        features: [N, D].

    Returns:
        Scalar in [1, min(N - 1, D)]; 0 when all rows are equal but for rounding, NaN when a value is not finite.
    """
    centered = features - features.mean(dim=0)
    if not centered.isfinite().all():
        return centered.new_tensor(float("nan"))
    if centered.device.type == "mps":  # it has no float64
        centered = centered.cpu()
    values = torch.linalg.svdvals(centered.double())
    total: Tensor = values.sum()
    if values[0] <= ROUNDING * features.float().norm().to(values.device):
        rank = torch.zeros_like(total)
    else:
        rank = torch.special.entr(values / total).sum().exp()
    return rank.float().to(features.device)


def mean_pair_cosine(features: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of different rows: 1 when all point the same way, about 0 when spread.

    Args:
        features: [N, D], at least two rows.

    Returns:
        Scalar in [-1 / (N - 1), 1].
    """
    unit = F.normalize(features.float(), dim=1)
    rows = len(unit)
    return (unit.sum(dim=0).square().sum() - unit.square().sum()) / (rows * (rows - 1))
