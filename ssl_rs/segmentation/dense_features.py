"""Frozen dense features of an encoder, and the network that classifies each of them by a probe."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.encoder import Encoder, Normalization

FIRST_LEVEL = 2
"""Levels from stride 4 on are taken: levels 0 and 1 hold the image and edges, or nothing."""


class DenseFeatures(nn.Module):
    """Bring all levels of a frozen encoder from stride 4 on to one grid, and put them together.

    Coarser levels are interpolated bilinearly, finer ones averaged.

    Args:
        encoder: Frozen: BatchNorm uses its running statistics.
        normalization: The statistics that belong to its weights.
        stride: Side of a cell of the grid in pixels.
    """

    def __init__(self, encoder: Encoder, normalization: Normalization, stride: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalization = normalization
        self.stride = stride
        self.channels = [count for count in encoder.out_channels[FIRST_LEVEL:] if count > 0]
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, S, S] in [0, 1], S a multiple of 32, to features float32 [B, D, S / stride, S / stride]."""
        side = images.shape[-1] // self.stride
        levels = self.encoder(self.normalization(images))[FIRST_LEVEL:]
        found = [level.float() for level in levels if level.shape[1] > 0]
        # A cell's features lie together, as they are read: to gather them from planes takes longer than to resample.
        together = [level.contiguous(memory_format=torch.channels_last) for level in found]
        return torch.cat([_resized(level, side) for level in together], dim=1)


def _resized(level: Tensor, side: int) -> Tensor:
    if level.shape[-1] > side:
        return F.adaptive_avg_pool2d(level, side)
    if level.shape[-1] == side:
        return level
    return F.interpolate(level, size=(side, side), mode="bilinear", align_corners=False)


class Standardization(nn.Module):
    """Give every channel zero mean and unit variance, and every level the same weight.

    Channels are divided by the root of the number of channels of their level, so that the deepest level, which has the
    most, does not outvote the others in a cosine or under a penalty.

    Args:
        features: [N, D], what mean and variance are measured on.
        channels: Of each level; they sum to D.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, channels: list[int]) -> None:
        super().__init__()
        std = features.std(dim=0, unbiased=False)
        varies = features.amax(dim=0) > features.amin(dim=0)  # the deviation of a constant may round to above 0
        std = torch.where(varies, std, torch.ones_like(std))  # a channel that never varies carries nothing
        roots = torch.cat([torch.full((count,), float(count) ** 0.5) for count in channels]).to(features.device)
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("scale", 1 / (std * roots))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [M, D] to standardized ones."""
        return (features - self.mean) * self.scale


class ProbeNetwork(nn.Module):
    """Classify every cell of features, and give each pixel the interpolated probabilities of the cells around it.

    Args:
        features: Of the frozen encoder.
        standardization: As the classifier was fitted.
        classifier: Maps rows of features [M, D] to log-probabilities [M, K].
    """

    def __init__(self, features: DenseFeatures, standardization: Standardization, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.standardization = standardization
        self.classifier = classifier

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Map images [B, C, S, S] in [0, 1] to log-probabilities [B, K, S, S]."""
        maps = self.features(images)  # [B, D, h, w]
        with torch.autocast(images.device.type, enabled=False):
            rows = maps.movedim(1, -1).flatten(0, 2)  # [B * h * w, D]
            shares = self.classifier(self.standardization(rows)).exp()  # [B * h * w, K]
            cells = shares.view(len(maps), *maps.shape[2:], -1).movedim(-1, 1)  # [B, K, h, w]
            return F.interpolate(cells, size=images.shape[-2:], mode="bilinear", align_corners=False).log()
