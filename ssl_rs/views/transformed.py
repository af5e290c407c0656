"""The transformed view: one of six flips and rotations, then what keeps a network from cheating."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_rs.randomness import Draws
from ssl_rs.views.base import TransformedView, TwoPartMaker, View
from ssl_rs.views.fused import (
    LEAST_PART,
    TRANSFORMS,
    ColorChange,
    ColorJitter,
    band_means,
    check_range,
    color_matrix,
    compose,
    crop_matrix,
    recolor,
    transform_matrix,
)
from ssl_rs.views.resampling import move, move_known, warp_known


@dataclass(frozen=True)
class TransformedMaker(TwoPartMaker):
    """Transform by one of TRANSFORMS, enlarge a random part to the whole, and change the colors.

    Source: Li, Chen & Shi, JSTARS 2021. They apply crop, jitter and grayscale in random order, each with its own
    resampling and clamping; here one warp and one color matrix do it (`fused.color_matrix` says why no order is drawn).
    Where the part holds no data, the whole image is transformed.

    Args:
        source: The view it is made from; the class of the transform is against it.
        side: Range of the part's side as a share of the image's.
        color: The change of colors.
    """

    source: str
    side: tuple[float, float]
    color: ColorJitter

    def __post_init__(self) -> None:
        check_range("side", self.side, LEAST_PART, 1)

    def draw(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor, ...]:
        """Return the class of the transform, int64 [B], the matrices [B, 2, 3], and those of `ColorChange`."""
        transform = draws.integers(0, len(TRANSFORMS))
        part = crop_matrix(draws.uniform(*self.side), draws.uniform(-1, 1, 2))
        return transform, compose(transform_matrix(transform), part), *self.color.draw(draws)

    def make(self, source: View, *drawn: Tensor) -> TransformedView:
        """Return the view of square images [B, C, n, n]."""
        transform, matrix, *change = drawn
        whole = tuple(self.side) == (1.0, 1.0)  # then nothing is resampled, and pixels move exactly
        if whole:
            image, valid = move_known(source.image, source.valid, matrix)
        else:
            image, valid = warp_known(source.image, source.valid, matrix, inside=True)
            if source.valid is not None and valid is not None:
                turned, empty = transform_matrix(transform), ~valid.flatten(1).any(dim=1)
                each = empty.view(-1, 1, 1, 1)
                known = source.image * source.valid
                image = torch.where(each, move(known, turned), image)
                valid = torch.where(each, move(source.valid, turned), valid)
                matrix = torch.where(each[:, 0], turned, matrix)
        image = recolor(image, color_matrix(band_means(image, valid), *ColorChange(*change), source.rgb))
        return TransformedView(image, compose(source.geometry, matrix), transform, rgb=source.rgb, valid=valid)
