"""A view made by kornia's own augmentations, for whoever wants another chain than ours."""

from collections.abc import Sequence
from typing import cast

import torch
from kornia.augmentation import AugmentationSequential, MixAugmentationBaseV2, RandomPerspective
from kornia.core.exceptions import BaseError
from torch import Tensor, nn

from ssl_rs.errors import ArgumentError, InputError
from ssl_rs.randomness import Draws
from ssl_rs.views.base import View
from ssl_rs.views.fused import compose
from ssl_rs.views.resampling import warp_all_valid


class KorniaMaker:
    """Run kornia augmentations one after another.

    They draw from the global generator, not from `draws`. The loop seeds it from (seed, step, rank), so runs repeat
    exactly, but two ranks do not see what one process sees. The geometry is that of the augmentations which kornia
    describes by a matrix; elastic and other free warps (RandomElasticTransform, RandomFisheye, RandomThinPlateSpline)
    are not in it, so that positions do not fit for tasks that read it, as dense contrast does. The same matrix moves
    what is valid, where some pixels are not: what lies beside such pixels, of which resampling mixes in some, is not
    valid either, and neither is what lies outside of the source. Where all pixels are, what kornia fills in there
    counts as the rest does: padding_mode="reflection" mirrors the image. Color operations read bands as kornia does:
    three are red, green and blue. Values are clamped to [0, 1], which noise may leave.

    Args:
        source: The view it is made from.
        augmentations: Members of kornia.augmentation that keep the image's size; those that are drawn from or shuffled
            are an AugmentationSequential among them.

    Raises:
        ArgumentError: One of them bends the perspective, mixes images, or does not tell how it moves pixels.
    """

    def __init__(self, source: str, augmentations: Sequence[nn.Module]) -> None:
        self.source = source
        for augmentation in augmentations:
            for module in augmentation.modules():
                _check(module)
        self.augmentation = AugmentationSequential(*augmentations, data_keys=["input"])

    def __call__(self, source: View, draws: Draws) -> View:
        """Return the view of images [B, C, H, W].

        Raises:
            InputError: The augmentations refuse the image's bands, or change its size.
        """
        image = self._augment(source.image)
        if image.shape != source.image.shape:
            raise InputError(
                f"views.*.augmentations turn {tuple(source.image.shape)} into {tuple(image.shape)}; "
                f"these views keep their source's size. Set the augmentation's size to {source.image.shape[-1]}."
            )
        # [B, 3, 3], pixels of the source to those of the image; None where no augmentation has one.
        matrix = cast(Tensor | None, self.augmentation.transform_matrix)
        if matrix is None:
            matrix = torch.eye(3).to(image).expand(len(image), 3, 3)
        normalized = _normalized(matrix, *image.shape[-2:])
        valid = source.valid
        if valid is not None:
            valid = warp_all_valid(valid, normalized)
        return View(image.clamp(0, 1), compose(source.geometry, normalized), rgb=source.rgb, valid=valid)

    def _augment(self, image: Tensor) -> Tensor:
        try:
            return cast(Tensor, self.augmentation(image))
        except (
            ValueError,
            BaseError,
        ) as error:  # what kornia raises for bands that a color operation has no meaning for
            raise InputError(
                f"views.*.augmentations refuse images of {image.shape[1]} bands: {' '.join(str(error).split())}. "
                "Kornia's color operations take red, green and blue: leave them out, or choose views of ssl_rs.views, "
                "such as views=[clean,transformed,corrupted]."
            ) from error


def _check(module: nn.Module) -> None:
    """Refuse what moves pixels and whose transform_matrix does not tell how.

    Raises:
        ArgumentError: Names it, and what to write instead.
    """
    name = type(module).__name__
    if isinstance(module, RandomPerspective):
        raise ArgumentError(f"augmentations: {name} bends the perspective; views move by affine maps. Remove it.")
    if isinstance(module, MixAugmentationBaseV2):
        raise ArgumentError(f"augmentations: {name} mixes images, or parts of one; a view shows one. Remove it.")
    if isinstance(module, nn.Sequential) and not isinstance(module, AugmentationSequential):
        raise ArgumentError(
            f"augmentations: {name} does not tell how it moves pixels. List its members themselves, or under _args_ of "
            "a kornia.augmentation.AugmentationSequential with data_keys=[input]; its random_apply draws among them."
        )


def _normalized(matrix: Tensor, height: int, width: int) -> Tensor:
    """Turn pixel matrices [B, 3, 3], source to image, into normalized ones [B, 2, 3], image to source."""
    pixels = torch.tensor(
        [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]], device=matrix.device
    )
    inverse: Tensor = torch.linalg.inv(matrix.float() @ pixels)  # pixels of the image to normalized source
    return (inverse @ pixels)[:, :2]
