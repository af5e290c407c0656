"""A light decoder from a pyramid to an image of the input's size."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.encoder import Pyramid
from ssl_rs.errors import ArgumentError


class AdditiveDecoder(nn.Module):
    """Climb the pyramid: upsample bilinearly, convolve (3x3, BatchNorm, ReLU), add the encoder's map of that size.

    Source: Li, Chen & Shi, JSTARS 2021, and their code, where the widths are those of the encoder; elsewhere a 1x1
    convolution makes the encoder's map fit. Level 0 gives only its size: in most encoders it is the image itself.
    A level without channels (timm's encoders have one) gives only its size as well.

    Args:
        channels: Channels of each level of the pyramid, the finest first.
        out_channels: Channels of the result.
        widths: Channels of each stage, from the second deepest level up; if they end before level 0, the result is
            upsampled from there.
        reduction: Channels that a 1x1 convolution leaves of the deepest map, which is most of the decoder otherwise;
            None: all.
    """

    def __init__(
        self, channels: Sequence[int], out_channels: int, widths: Sequence[int], reduction: int | None = None
    ) -> None:
        super().__init__()
        if not 0 < len(widths) < len(channels):
            raise ArgumentError(
                f"decoder.widths={list(widths)}: expected 1 to {len(channels) - 1} numbers, as the encoder has "
                f"{len(channels)} levels."
            )
        skips = [0, *channels[1:-1]][::-1]
        if reduction is not None and reduction < 1:
            raise ArgumentError(f"decoder.reduction={reduction}: expected at least 1 channel, or null for all.")
        self.reduce = nn.Identity() if reduction is None else _convolution(channels[-1], reduction, 1)
        inputs = [reduction or channels[-1], *widths]
        self.stages = nn.ModuleList(
            _Stage(*sizes) for sizes in zip(inputs[: len(widths)], skips[: len(widths)], widths, strict=True)
        )
        self.predict = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Return [B, out_channels, H, W] in the size of level 0."""
        x = self.reduce(pyramid[-1])
        for stage, level in zip(self.stages, reversed(pyramid[:-1]), strict=False):
            x = stage(x, level)
        return _resize(self.predict(x), pyramid[0])


class _Stage(nn.Module):
    """One level up: [B, C, h, w] to [B, width, H, W]."""

    def __init__(self, in_channels: int, skip_channels: int, width: int) -> None:
        super().__init__()
        self.block = _convolution(in_channels, width, 3)
        self.has_skip = skip_channels > 0
        fits = skip_channels in (0, width)
        self.lateral = nn.Identity() if fits else nn.Conv2d(skip_channels, width, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        x = self.block(_resize(x, level))
        return x + self.lateral(level) if self.has_skip else x


def _convolution(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
