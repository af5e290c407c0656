"""The small networks that methods put on an encoder while it learns."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from ssl_rs.errors import ArgumentError

BatchNorms = Literal["none", "hidden", "all"]
"""Behind which linear layers a BatchNorm stands: none, all but the last, or all."""


def mlp(
    in_features: int, widths: Sequence[int], batch_norms: BatchNorms, name: str, last_bias: bool = True
) -> nn.Sequential:
    """Return linear layers with ReLU between them, [B, in_features] to [B, widths[-1]].

    Args:
        in_features: Width of what goes in.
        widths: Of each layer.
        batch_norms: Where BatchNorm stands; a layer before one has no bias, which it would take away.
        name: Of the argument that holds the widths, for the message.
        last_bias: Whether the last layer has a bias where no BatchNorm follows.

    Raises:
        ArgumentError: No layer, or one without a width.
    """
    check_widths(widths, name)
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        last = index == len(widths) - 1
        normalized = batch_norms == "all" or (batch_norms == "hidden" and not last)
        layers.append(nn.Linear(in_features, width, bias=not normalized and (last_bias or not last)))
        layers += [nn.BatchNorm1d(width)] if normalized else []
        layers += [] if last else [nn.ReLU(inplace=True)]
        in_features = width
    return nn.Sequential(*layers)


def dense_mlp(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Return 1x1 convolutions with ReLU between them, [B, in_channels, h, w] to [B, widths[-1], h, w].

    Args:
        in_channels: Channels of what goes in.
        widths: Channels of each layer.

    Raises:
        ArgumentError: No layer, or one without a channel.
    """
    check_widths(widths, "widths")
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(in_channels, width, 1), nn.ReLU(inplace=True)]
        in_channels = width
    return nn.Sequential(*layers[:-1])


def check_widths(widths: Sequence[int], name: str) -> None:
    """Refuse a head without layers, or with a layer of no width.

    Raises:
        ArgumentError: Names the argument.
    """
    if not widths or min(widths) < 1:
        raise ArgumentError(f"{name}={list(widths)}: expected the width of each layer, at least one of them.")


def check_level(level: int, channels: Sequence[int]) -> None:
    """Refuse the index of a level that the encoder does not compute, or of the image.

    Raises:
        ArgumentError: Names the argument.
    """
    if not -len(channels) < level < len(channels) or level == 0 or channels[level] == 0:
        raise ArgumentError(
            f"level={level}: expected the index of a map that the encoder computes; its levels have "
            f"{list(channels)} channels, and level 0 is the image."
        )


def check_temperature(temperature: float) -> None:
    """Refuse what cosines cannot be divided by.

    Raises:
        ArgumentError: Names the argument.
    """
    if not 0 < temperature < math.inf:
        raise ArgumentError(f"temperature must be a number above 0, got {temperature}.")
