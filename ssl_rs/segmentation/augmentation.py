"""Random flips, rotations, scale and color of labeled crops: image and mask move together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_rs.randomness import Draws
from ssl_rs.views.fused import (
    ColorChange,
    ColorJitter,
    band_means,
    check_probability,
    check_range,
    color_matrix,
    compose,
    crop_matrix,
    draw_dihedral,
    recolor,
)
from ssl_rs.views.resampling import move, move_known, warp_known, warp_mask


@dataclass(frozen=True)
class SegmentationAugmentation:
    """Flip, rotate by multiples of 90 degrees, scale about the center, and change the colors of the image.

    Args:
        horizontal_flip: Probability.
        vertical_flip: Probability.
        rotation: Probability of a rotation by 90, 180 or 270 degrees.
        scale: Range of the magnification; below 1 the surroundings show: mirrored in the image, ignored in the mask.
            With (1, 1) nothing is resampled.
        color: The change of colors.
    """

    horizontal_flip: float
    vertical_flip: float
    rotation: float
    scale: tuple[float, float]
    color: ColorJitter

    def __post_init__(self) -> None:
        check_range("scale", self.scale, 0.1, math.inf)
        for name in ("horizontal_flip", "vertical_flip", "rotation"):
            check_probability(name, getattr(self, name))

    def draw(self, draws: Draws) -> tuple[Tensor, ...]:
        """Return all that is random, on the CPU: the matrices [B, 2, 3], and those of `ColorChange`."""
        matrix = draw_dihedral(draws, self.horizontal_flip, self.vertical_flip, self.rotation)
        if not self._only_moves:
            scale = draws.uniform(*self.scale)
            matrix = compose(matrix, crop_matrix(1 / scale, torch.zeros_like(matrix[:, :, 2])))
        return matrix, *self.color.draw(draws)

    def __call__(
        self,
        images: Tensor,
        masks: Tensor,
        draws: Draws,
        ignore_index: int,
        rgb: tuple[int, int, int] | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return augmented images and masks; every random number comes from `draws`, the rest is as of `apply`."""
        return self.apply(images, masks, draws.send(*self.draw(draws)), ignore_index, rgb, valid)

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,
        masks: Tensor,
        drawn: Sequence[Tensor],
        ignore_index: int,
        rgb: tuple[int, int, int] | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return augmented images and masks; what it computes depends on the arguments alone.

        Args:
            images: [B, C, n, n] in [0, 1].
            masks: int64 [B, n, n].
            drawn: What `draw` returned, on the device of the images.
            ignore_index: The class of pixels that no pixel was found for.
            rgb: The indices of the red, green and blue band; without them saturation and hue do nothing.
            valid: bool [B, 1, n, n], false where the image has no data: 0 in the result, as in a store, and without
                part in any other pixel; None: true everywhere.
        """
        matrix, *change = drawn
        if self._only_moves:
            images, valid = move_known(images, valid, matrix)
            masks = move(masks, matrix)
        else:
            images, valid = warp_known(images, valid, matrix)
            masks = warp_mask(masks, matrix, ignore_index)
        changed = recolor(images, color_matrix(band_means(images, valid), *ColorChange(*change), rgb))
        return changed if valid is None else changed.masked_fill(~valid, 0), masks

    @property
    def _only_moves(self) -> bool:
        """Whether nothing is resampled."""
        return tuple(self.scale) == (1.0, 1.0)


def in_two_parts(augmentation: Any) -> bool:
    """Tell whether it does no more when it is called than to draw and to apply what was drawn."""
    own = isinstance(augmentation, SegmentationAugmentation)
    return own and type(augmentation).__call__ is SegmentationAugmentation.__call__
