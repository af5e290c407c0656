"""The contract of an encoder, how one is built by name, and the normalization that belongs to its weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ssl_rs.errors import InputError, nearest

Pyramid = Sequence[Tensor]
"""The feature list of smp's encoders: from the finest level to the deepest, each [B, C_i, H_i, W_i]."""


NAME = re.compile(r"[\w.-]+")
"""Of an encoder; a place to load one from has a colon or a slash."""


class Encoder(Protocol):
    """What segmentation-models-pytorch builds, of its own encoders and of timm's."""

    out_channels: Sequence[int]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Map images [B, C, H, W] to a pyramid."""
        ...


@dataclass(frozen=True)
class Backbone:
    """Which encoder is trained.

    Args:
        name: A name of segmentation-models-pytorch ("resnet50"), or "tu-" and a name of timm ("tu-convnext_tiny").
    """

    name: str

    def build(self, in_channels: int) -> nn.Module:
        """Return the encoder with randomly initialized weights; depth 5, nothing is downloaded.

        Raises:
            InputError: No such encoder.
        """
        from segmentation_models_pytorch import encoders

        check_name(self.name)
        if not self.name.startswith("tu-") and self.name not in encoders.encoders:
            raise InputError(
                f"backbone.name={self.name} is no encoder of segmentation-models-pytorch. "
                f"{nearest(self.name, encoders.encoders)} Encoders of timm take the prefix 'tu-'."
            )
        try:
            encoder: nn.Module = encoders.get_encoder(self.name, in_channels=in_channels, depth=5, weights=None)
        except Exception as error:  # timm and smp raise whatever a name or a channel count that they lack leads them to
            raise InputError(f"backbone.name={self.name} with {in_channels} bands cannot be built: {error}") from error
        return encoder


def check_name(backbone: str) -> None:
    """Refuse what is no name but a place: timm would download what hf-hub:... names, and read local-dir:...

    Raises:
        InputError: It is one.
    """
    if not NAME.fullmatch(backbone):
        raise InputError(
            f"backbone.name={backbone!r:.100}: expected a name of segmentation-models-pytorch, or 'tu-' and one of "
            "timm (tu-convnext_tiny), no place. Weights from elsewhere are given by initialization=file."
        )


@torch.no_grad()
def check_image_size(encoder: nn.Module, bands: int, pixels: int, key: str) -> None:
    """Try whether an encoder takes square images of a side: those with windows or position embeddings may not.

    Args:
        encoder: On the CPU; its mode and its weights stay as they are.
        bands: Channels of the image.
        pixels: Side of the image.
        key: The setting that chose the side.

    Raises:
        InputError: It does not; the message has the encoder's own words.
    """
    training = encoder.training
    encoder.eval()
    try:
        encoder(torch.zeros(1, bands, pixels, pixels))
    except Exception as error:  # each architecture says no in its own way
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"{key}={pixels}: the backbone takes no images of {pixels} x {pixels} pixels ({said or repr(error)}). "
            f"Choose a size that it takes, often a multiple of 32 or 224, or another backbone."
        ) from error
    finally:
        encoder.train(training)


@torch.no_grad()
def map_sides(encoder: nn.Module, bands: int, pixels: int) -> list[int]:
    """Return the side of each map that an encoder makes of square images of a side; it is in evaluation afterwards."""
    return [features.shape[-1] for features in encoder.eval()(torch.zeros(1, bands, pixels, pixels))]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each band, in units of the [0, 1] value scale, and who measured them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


class Normalization(nn.Module):
    """Subtract the mean and divide by the standard deviation of each band.

    Args:
        statistics: One value a band, in units of [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        # A band that never varies carries nothing: dividing by 1 keeps it finite.
        std = [value if value > 0 else 1.0 for value in statistics.std]
        self.register_buffer("mean", torch.tensor(statistics.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to zero mean and unit variance a band."""
        return (images - self.mean) / self.std


def input_divisor(model: nn.Module) -> int:
    """Return the number of pixels that the sides of an image must be a multiple of; 1 where any size will do."""
    return int(model.encoder.output_stride) if model.requires_divisible_input_shape else 1  # type: ignore[arg-type, union-attr]


def check_side(pixels: int, divisor: int, key: str, instead: str | None = None) -> None:
    """Check that a network takes images of a side.

    Args:
        pixels: Side of the images.
        divisor: What `input_divisor` gave.
        key: The setting that chose the side.
        instead: The choice that takes any side, where there is one.

    Raises:
        InputError: The side is no multiple of the divisor.
    """
    if pixels % divisor:
        near = pixels - pixels % divisor
        choices = " or ".join(f"{key}={side}" for side in (near, near + divisor) if side)
        other = f", or {instead}" if instead else ""
        raise InputError(f"{key}={pixels}: the network needs a multiple of {divisor} pixels. Choose {choices}{other}.")
