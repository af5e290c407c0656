"""The decoder that fine-tuning uses, as the one that inpainting paints with, so that it can be taken over."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ssl_rs.encoder import Pyramid, check_side, input_divisor
from ssl_rs.errors import ArgumentError


class SegmentationDecoder(nn.Module):
    """Map a pyramid to an image by the decoder and the head of a model of segmentation-models-pytorch.

    Its encoder is dropped: the pyramid comes from the one that pretraining trains. `decoder` has the keys of
    fine-tuning's `model.decoder`.

    Args:
        channels: Channels of each level of the pyramid.
        out_channels: Bands of the image.
        backbone: Name of the encoder that makes the pyramid.
        model: Model class of segmentation-models-pytorch with its settings bound, as in conf/decoder/.

    Raises:
        ArgumentError: The model takes another pyramid, e.g. DeepLabV3+, which dilates its encoder.
    """

    def __init__(self, channels: Sequence[int], out_channels: int, backbone: str, model: "partial[nn.Module]") -> None:
        super().__init__()
        self.name = model.func.__name__.lower()  # type: ignore[attr-defined]
        whole = model(encoder_name=backbone, encoder_weights=None, in_channels=out_channels, classes=out_channels)
        made = (tuple(whole.encoder.out_channels), int(whole.encoder.output_stride))  # type: ignore[union-attr, arg-type]
        if made != (tuple(channels), 2 ** (len(channels) - 1)):
            raise ArgumentError(
                f"decoder.model={self.name} reads levels of {list(made[0])} channels down to "
                f"stride {made[1]}, this encoder gives {list(channels)} down to stride {2 ** (len(channels) - 1)}. "
                "Choose pretext=[inpainting_unet,...] or [inpainting_fpn,...]."
            )
        self.divisor = input_divisor(whole)
        self.decoder = whole.get_submodule("decoder")
        self.head = whole.get_submodule("segmentation_head")

    def check_side(self, pixels: int) -> None:
        """Refuse images of a side that the decoder cannot take.

        Raises:
            InputError: Names the sides that it takes.
        """
        check_side(pixels, self.divisor, "dataset.crop_size", "pretext=[inpainting_unet,...]")

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Return [B, out_channels, H, W] in the size of level 0."""
        image: Tensor = self.head(self.decoder(list(pyramid)))
        return image
