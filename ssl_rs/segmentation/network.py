"""Fine-tuning's network: normalization, then encoder and decoder, then the loss of the labeled pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from ssl_rs.encoder import Backbone, Normalization, check_name
from ssl_rs.errors import InputError
from ssl_rs.precision import autocast
from ssl_rs.segmentation.loss import SegmentationLoss
from ssl_rs.task_output import TaskOutput, checked_output

DECODERS = {"unet": smp.Unet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus}
"""What a refusal offers instead, by its name in conf/decoder/."""

UNFIT = (ValueError, TypeError, RuntimeError, AssertionError, KeyError)
"""What smp and timm raise for a backbone that cannot be dilated, and for settings that do not fit its depth."""


GIVEN = ("encoder_name", "encoder_weights", "in_channels", "classes")
"""Arguments of a model that its setting does not choose."""

PARTS = ("encoder", "decoder", "requires_divisible_input_shape")
"""What a model must have beside its forward pass."""


CROSS_ENTROPY = SegmentationLoss()


@dataclass(frozen=True)
class SegmentationBatch:
    """Images and their truth.

    Args:
        images: [B, C, H, W] in [0, 1] of the data's value scale.
        masks: int64 [B, H, W], the class of each pixel or the ignore index.
    """

    images: Tensor
    masks: Tensor


class SegmentationNetwork(nn.Module):
    """Map a batch to the loss of its labeled pixels.

    Args:
        model: A model of segmentation-models-pytorch, see `build_segmentation_model`.
        normalization: The statistics that belong to the weights of its encoder.
        ignore_index: Pixels of this value in the masks count neither for the loss nor for the accuracy.
        loss: What is minimized.
        class_weights: [K], what each class weighs in it; None: all alike.
    """

    class_weights: Tensor | None

    def __init__(
        self, model: nn.Module, normalization: Normalization, ignore_index: int,
        loss: SegmentationLoss = CROSS_ENTROPY, class_weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self.normalization = normalization
        self.ignore_index = ignore_index
        self.loss = loss
        # They follow from the labels, so no checkpoint holds them.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def logits(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to unnormalized scores [B, K, H, W] of the classes."""
        scores: Tensor = self.model(self.normalization(images))
        return scores

    def forward(self, batch: SegmentationBatch) -> Mapping[str, TaskOutput]:
        """Return the loss of the valid pixels of all ranks, and the share of them that is right."""
        loss = self.loss(self.logits(batch.images), batch.masks, self.ignore_index, self.class_weights)
        return {"segmentation": checked_output("loss", loss)}


class Segments(Protocol):
    """What can be scored: a `SegmentationNetwork`, or the network of a probe."""

    def logits(self, images: Tensor) -> Tensor:
        """Map images [B, C, S, S] in [0, 1] to scores [B, K, S, S], of which a softmax makes probabilities."""
        ...

    def eval(self) -> Any:
        """Leave training mode."""
        ...


def scores_of(network: Segments, device: torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    """Return what maps windows to scores, no longer in training mode.

    Args:
        network: On the device.
        device: Where it lies.
        precision: bf16 or fp32.
    """
    network.eval()

    def scores(windows: Tensor) -> Tensor:
        with autocast(device, precision):
            return network.logits(windows)

    return scores


def build_segmentation_model(
    decoder: Callable[..., nn.Module], backbone_name: str, in_channels: int, num_classes: int
) -> nn.Module:
    """Build encoder and decoder with random weights; nothing is downloaded.

    Args:
        decoder: A model class of segmentation-models-pytorch with its settings bound.
        backbone_name: Name of the encoder; `model.encoder` has the keys of `Backbone(name).build(in_channels)`.
        in_channels: Number of bands.
        num_classes: Number of classes.

    Raises:
        InputError: The decoder cannot serve the backbone, e.g. DeepLabV3+ a VGG, whose pooling cannot be dilated; or it
            is one of a user's own that lacks what smp's models have.
    """
    check_name(backbone_name)
    try:
        model = _build(decoder, backbone_name, in_channels, num_classes)
    except UNFIT as error:
        name = getattr(decoder, "func", decoder).__name__.lower()
        serving = [
            other for other, build in DECODERS.items() if _serves(build, backbone_name, in_channels, num_classes)
        ]
        if not serving:
            remedy = "Choose another backbone: no decoder serves it"
            try:
                Backbone(backbone_name).build(in_channels)
            except InputError as bare:  # there is no such encoder: decoders are beside the point
                raise InputError(f"{str(bare).rstrip('.')}. {remedy}.") from error
        elif name in serving:
            remedy = f"With decoder={name} as it comes it can be: look at the keys decoder.*"
        else:
            remedy = f"Choose decoder={' or decoder='.join(serving)}"
        raise InputError(
            f"decoder={name} cannot be built on backbone.name={backbone_name} with {in_channels} bands: "
            f"{str(error).rstrip('.') or 'the backbone cannot be dilated'}. {remedy}."
        ) from error
    lacking = [part for part in PARTS if not hasattr(model, part)]
    if lacking:
        raise InputError(
            f"decoder={type(model).__name__} has no {' and no '.join(lacking)}: expected a model with "
            f"{', '.join(PARTS)}, as those of segmentation-models-pytorch have them. Derive it from one of theirs."
        )
    return model


def _build(decoder: Callable[..., nn.Module], backbone_name: str, in_channels: int, num_classes: int) -> nn.Module:
    return decoder(encoder_name=backbone_name, encoder_weights=None, in_channels=in_channels, classes=num_classes)


def _serves(decoder: Callable[..., nn.Module], backbone_name: str, in_channels: int, num_classes: int) -> bool:
    try:
        with torch.device("meta"):  # whatever the size of its weights
            _build(decoder, backbone_name, in_channels, num_classes)
    except UNFIT as error:
        if "meta" not in str(error).lower():
            return False
    else:
        return True
    try:  # an encoder that looks at values while it is built
        _build(decoder, backbone_name, in_channels, num_classes)
    except UNFIT:
        return False
    return True
