"""The views of published two-crop methods: random resized crop, flip, color, blur and solarization."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.errors import ArgumentError
from ssl_rs.randomness import Draws
from ssl_rs.views.base import TwoPartMaker, View
from ssl_rs.views.fused import (
    LEAST_PART,
    TRANSFORMS,
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
    transform_matrix,
)
from ssl_rs.views.resampling import warp_known

ATTEMPTS = 10
"""Parts that are drawn for one that fits, as torchvision's RandomResizedCrop does."""

AUTHORS_SIDE = 224
"""Pixels a side of the images for which the authors state the blur."""


@dataclass(frozen=True)
class AugmentedMaker(TwoPartMaker):
    """Resample a random part to the view, flip it, and change its colors, sharpness and bright values.

    Source: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, for the part; Chen et al. (SimCLR), ICML 2020,
    for the chain; Grill et al. (BYOL), NeurIPS 2020, appendix B, for solarization and two views of unequal settings.
    Differs from the authors' chains in the fused color of `fused.color_matrix`, which needs no order of its parts, in
    bilinear resampling, and in a blur whose weights at the border are those of the pixels inside. Bands that are no
    color are cropped, blurred, brightened and solarized like the others. Images from above have no upper side, but the
    authors' images have one: they flip horizontally alone. Where a part has no pixel with data, the whole takes its
    place, as it lies: of a view without data nothing can be learnt, and all of them look alike.

    Args:
        source: The view it is made from.
        area: Range of the part's area as a share of the image's.
        ratio: Range of the part's width over its height; its logarithm is uniform.
        horizontal_flip: Probability.
        vertical_flip: Probability.
        rotation: Probability of a turn by 90, 180 or 270 degrees; needs square images.
        color: The change of colors.
        blur: Probability.
        blur_sigma: Range of the standard deviation, in pixels of an image of 224 px; it grows with the image.
        solarization: Probability that values above 0.5 are inverted.
        size: Side of the view, pixels; None: that of the source. Of a larger source, parts need not be enlarged; one of
            more than twice the view's side skips pixels, as no filter goes before.
    """

    source: str
    color: ColorJitter
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarization: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ArgumentError(f"size={self.size}: expected at least 1 pixel, or null for the side of the source.")
        check_range("area", self.area, LEAST_PART**2, 1)
        check_range("ratio", self.ratio, 0.01, 100)
        check_range("blur_sigma", self.blur_sigma, 0.01, AUTHORS_SIDE)
        for name in ("horizontal_flip", "vertical_flip", "rotation", "blur", "solarization"):
            check_probability(name, getattr(self, name))

    def size_of_view(self, source: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the view of a source, pixels."""
        return source if self.size is None else (self.size, self.size)

    def draw(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor, ...]:
        """Return the matrices [B, 2, 3]; rows [B]: the blur's sigma, which are blurred and which solarized; colors."""
        part = draw_part(draws, self.area, self.ratio)
        matrix, colors = compose(part, self._turn(draws)), self.color.draw(draws)
        sigma = draws.uniform(*self.blur_sigma) * self.size_of_view(size)[1] / AUTHORS_SIDE
        return matrix, sigma, draws.chance(self.blur), draws.chance(self.solarization), *colors

    def make(self, source: View, *drawn: Tensor) -> View:
        """Return the view, [B, C, size, size], of images [B, C, H, W]."""
        matrix, sigma, blurred, solarized, *change = drawn
        image, valid = warp_known(source.image, source.valid, matrix, inside=True, side=self.size)
        if source.valid is not None and valid is not None:
            empty = _each(~valid.flatten(1).any(dim=1))
            whole, whole_valid = self._whole(source.image, source.valid)
            image, valid = torch.where(empty, whole, image), torch.where(empty, whole_valid, valid)
            matrix = torch.where(empty[:, 0], torch.eye(2, 3, device=matrix.device), matrix)
        image = recolor(image, color_matrix(band_means(image, valid), *ColorChange(*change), source.rgb))
        image = torch.where(_each(blurred), gaussian_blur(image, sigma, valid), image)
        inverted = _each(solarized) & (image >= 0.5)
        image = torch.where(inverted, 1 - image, image)
        return View(image, compose(source.geometry, matrix), rgb=source.rgb, valid=valid)

    def _whole(self, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return whole images in the size of the view, means over their valid pixels, and where there are any."""
        if self.size is None:
            return image, valid
        known = valid.to(image)
        share = F.adaptive_avg_pool2d(known, self.size)
        mean = F.adaptive_avg_pool2d(image * known, self.size) / share.clamp_min(torch.finfo(image.dtype).tiny)
        return mean, share > 0

    def _turn(self, draws: Draws) -> Tensor:
        """Draw the matrices [B, 2, 3] of flips and rotations."""
        if self.vertical_flip or self.rotation:
            return draw_dihedral(draws, self.horizontal_flip, self.vertical_flip, self.rotation)
        flipped = draws.chance(self.horizontal_flip)  # the numbers of a run depend on how many came before
        return transform_matrix(torch.where(flipped, TRANSFORMS.index("hflip"), TRANSFORMS.index("rot0")))


def draw_part(draws: Draws, area: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Draw rectangles inside of images of equal sides; where none of ten fits, the whole image.

    Args:
        draws: A row a sample.
        area: Range of the area as a share of the image's.
        ratio: Range of width over height.

    Returns:
        [B, 2, 3], the matrices that enlarge them to the whole.
    """
    shares = draws.uniform(*area, ATTEMPTS)  # [B, A]
    ratios = draws.uniform(math.log(ratio[0]), math.log(ratio[1]), ATTEMPTS).exp()
    sides = torch.stack([(shares * ratios).sqrt(), (shares / ratios).sqrt()], dim=-1)  # [B, A, 2], width and height
    fits = (sides <= 1).all(dim=-1)  # [B, A]
    first = fits.int().argmax(dim=1)
    chosen = sides[torch.arange(len(sides), device=sides.device), first]  # [B, 2]
    chosen = torch.where(fits.any(dim=1, keepdim=True), chosen, 1.0)
    return crop_matrix(chosen, draws.uniform(-1, 1, 2))


def gaussian_blur(image: Tensor, sigma: Tensor, valid: Tensor | None = None) -> Tensor:
    """Blur each image by its own Gaussian, as two products with matrices; weights add up to 1 over the valid pixels.

    Args:
        image: [B, C, H, W].
        sigma: [B], standard deviation in pixels, above 0.
        valid: bool [B, 1, H, W]: other pixels are not read and stay as they are; None: all are valid.
    """
    rows, columns = (_gaussian(sigma, size) for size in image.shape[-2:])  # [B, 1, H, H], [B, 1, W, W]
    if valid is None:
        return rows @ image @ columns.mT
    mean = rows @ (image * valid) @ columns.mT
    share = rows @ valid.to(image) @ columns.mT
    return torch.where(valid, mean / share.clamp_min(torch.finfo(image.dtype).tiny), image)


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """Return matrices [B, 1, size, size] whose rows hold the weights of one pixel and add up to 1."""
    position = torch.arange(size, device=sigma.device)
    distance = (position[:, None] - position).abs() / sigma.view(-1, 1, 1, 1)
    return torch.softmax(-distance.square() / 2, dim=-1)


def _each(chosen: Tensor) -> Tensor:
    return chosen.view(-1, 1, 1, 1)
