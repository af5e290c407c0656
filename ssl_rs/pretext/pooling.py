"""Means over the positions of a feature map that leave out where the image has no data."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.views.base import View


def position_weights(view: View, features: Tensor) -> Tensor | None:
    """Return the share of valid pixels under each position, [B, 1, h, w]; None where every pixel is valid.

    Args:
        view: Whose pixels are meant.
        features: Its map [B, D, h, w].
    """
    height, width = features.shape[-2:]
    return None if view.valid is None else F.adaptive_avg_pool2d(view.valid.float(), (height, width))


def mean_over_positions(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weighted mean over height and width; 0 where all weights are.

    Args:
        values: [..., h, w].
        weights: Of a shape that goes with that of the values, >= 0; None: all alike.
    """
    if weights is None:
        return values.mean(dim=(-2, -1))
    return (values * weights).sum(dim=(-2, -1)) / or_one(weights.sum(dim=(-2, -1)))


def or_one(total: Tensor) -> Tensor:
    """Return sums of weights, >= 0, as what is divided by: 1 where nothing has a weight.

    A least positive number in its place would make the mean 0 as well, but its gradient infinite times 0.
    """
    return torch.where(total > 0, total, 1.0)


def pool(view: View, features: Tensor) -> Tensor:
    """Return the mean of a map [B, D, h, w] over the positions where its view has data, [B, D]."""
    return mean_over_positions(features, position_weights(view, features))
