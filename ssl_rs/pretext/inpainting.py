"""Inpainting: repair what was corrupted."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from ssl_rs.distributed import mean_over_ranks
from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask, view_of_kind
from ssl_rs.pretext.pooling import or_one
from ssl_rs.pretext.segmentation_decoder import SegmentationDecoder
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import CorruptedView, View


class Inpainting(PretextTask):
    """Paint the clean image from the pyramid of the corrupted one.

    Source: Li, Chen & Shi, JSTARS 2021: the mean absolute error, weighted by how much each value was changed. Pixels
    without data have no weight.

    Args:
        channels: Channels of each pyramid level.
        bands: Channels of the image.
        decoder: Called with `channels` and `out_channels`, gives a module that maps a pyramid to an image of its size.
    """

    views = ("corrupted",)
    view_kinds = MappingProxyType({"corrupted": CorruptedView})

    def __init__(self, channels: Sequence[int], bands: int, decoder: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.decoder = decoder(channels=channels, out_channels=bands)

    def check_side(self, pixels: int, maps: Sequence[int]) -> None:
        """Refuse crops of a side that the decoder cannot take; as `PretextTask.check_side`."""
        if isinstance(self.decoder, SegmentationDecoder):
            self.decoder.check_side(pixels)

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the error of the repair, and what leaving the corrupted image as it is would have cost."""
        view = view_of_kind(views, "corrupted", CorruptedView)
        repaired = self.decoder(features["corrupted"]).float()  # [B, C, H, W]
        weight = view.weight if view.valid is None else view.weight * view.valid
        error = weighted_error(repaired, view.clean, weight)
        unrepaired = weighted_error(view.image, view.clean, weight)
        return TaskOutput(error, {"error": error.detach(), "unrepaired_error": unrepaired})


def weighted_error(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean absolute error, such that its mean over ranks is that of the whole batch.

    Args:
        image: [B, C, H, W].
        target: [B, C, H, W].
        weight: [B, C, H, W], >= 0; where all of it is 0, so is the error.
    """
    return (weight * (image - target).abs()).sum() / or_one(mean_over_ranks(weight.sum()))
