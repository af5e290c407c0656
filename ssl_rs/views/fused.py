"""Geometry and color as one affine map a sample each, so that a view moves and recolors its pixels once.

Geometry: a matrix [B, 2, 3] maps the normalized coordinates (x, y in [-1, 1], align_corners=False) of the image that is
made to those of the image it is made from. Color: a matrix [B, C, C + 1] maps the bands of a pixel to its new bands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import kornia.color
import torch
from torch import Tensor

from ssl_rs.errors import ArgumentError
from ssl_rs.randomness import Draws

LEAST_PART = 0.01
"""Side of the smallest part that is enlarged to the whole, as a share of the image's."""

TRANSFORMS = ("hflip", "vflip", "rot0", "rot90", "rot180", "rot270")
"""The classes of transform prediction in the paper's order; rotations are counterclockwise, as torch.rot90's."""

_TRANSFORM_MATRICES = torch.tensor(
    [
        [[-1, 0, 0], [0, 1, 0]],
        [[1, 0, 0], [0, -1, 0]],
        [[1, 0, 0], [0, 1, 0]],
        [[0, -1, 0], [1, 0, 0]],
        [[-1, 0, 0], [0, -1, 0]],
        [[0, 1, 0], [-1, 0, 0]],
    ],
    dtype=torch.float32,
)
# kornia's images are [3, H, W]: as one of a column a color, the identity gives the matrix of the conversion.
_RGB_TO_YUV = kornia.color.rgb_to_yuv(torch.eye(3, dtype=torch.float64).unsqueeze(-1)).squeeze(-1)
_YUV_TO_RGB = torch.linalg.inv(_RGB_TO_YUV)


_ON_DEVICE: dict[tuple[str, int | None], Tensor] = {}
"""The constant by the device it lies on; torch.compile reads a dictionary, but no lru_cache."""


def _transform_matrices(device: torch.device) -> Tensor:
    """Return the constant on a device; it is copied there once, since every copy waits for the device."""
    key = (device.type, device.index)
    if key not in _ON_DEVICE:
        _ON_DEVICE[key] = _TRANSFORM_MATRICES.to(device)
    return _ON_DEVICE[key]


class _ColorConstants(NamedTuple):
    """What a color matrix is made of, on a device: `identity + (a - 1) * scale + b * turn` maps the bands.

    There a and b are saturation times the cosine and the sine of the hue's angle.
    """

    identity: Tensor  # [C, C]
    scale: Tensor  # [C, C], a color to its chrominance
    turn: Tensor  # [C, C], a color to its chrominance a quarter of a turn on
    luma: Tensor  # [C], weights of the bands in luminance
    is_color: Tensor  # bool [C]


_COLOR_CONSTANTS: dict[tuple[tuple[int, ...] | None, int, str, int | None], _ColorConstants] = {}
"""As `_ON_DEVICE`, by the bands of the colors and how many bands there are."""


def _color_constants(rgb: tuple[int, ...] | None, bands: int, device: torch.device) -> _ColorConstants:
    key = (rgb, bands, device.type, device.index)
    if key not in _COLOR_CONSTANTS:
        place = torch.eye(bands, dtype=torch.float64)[list(rgb or ())]  # [3 or 0, C], a row a color with 1 at its band
        to_yuv = _RGB_TO_YUV[:, : len(place)] @ place  # [3, C]
        to_rgb = place.T @ _YUV_TO_RGB[: len(place)]  # [C, 3]
        # Red, green, blue lie at 103, 241 and 347 degrees of the (U, V) plane.
        turned = torch.stack([torch.zeros_like(to_yuv[0]), -to_yuv[2], to_yuv[1]])
        scale, turn, luma = (
            value.to(device, torch.float32) for value in (to_rgb[:, 1:] @ to_yuv[1:], to_rgb @ turned, to_yuv[0])
        )
        identity, is_color = torch.eye(bands, device=device), place.any(dim=0).to(device)
        _COLOR_CONSTANTS[key] = _ColorConstants(identity, scale, turn, luma, is_color)
    return _COLOR_CONSTANTS[key]


def check_probability(name: str, value: float) -> None:
    """Refuse a probability outside of [0, 1].

    Raises:
        ArgumentError: Names the argument.
    """
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name}={value:g}: expected a probability in [0, 1].")


def check_range(name: str, values: tuple[float, float], low: float, high: float) -> None:
    """Refuse a range to draw from that is not two ordered numbers within [low, high].

    Args:
        name: Of the argument.
        values: Its two numbers.
        low: The least that has a meaning.
        high: The most that has a meaning.

    Raises:
        ArgumentError: Says what would be accepted.
    """
    if len(values) != 2 or not low <= values[0] <= values[1] <= high or math.isinf(values[1]):
        given = ", ".join(f"{value:g}" for value in values)
        limit = f"{low:g} <= low <= high" + (", finite" if math.isinf(high) else f" <= {high:g}")
        raise ArgumentError(f"{name}=[{given}]: expected [low, high] with {limit}.")


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the affine map that applies `inner` first; both [B, n, n + 1]."""
    size = outer.shape[-2]
    linear, offset = outer[..., :size], outer[..., size:]
    product = linear @ inner  # [B, n, n + 1]
    return torch.cat([product[..., :size], product[..., size:] + offset], dim=-1)


def transform_matrix(transform: Tensor) -> Tensor:
    """Return the matrices [B, 2, 3] of transforms given by class, int64 [B], an index into TRANSFORMS."""
    return _transform_matrices(transform.device)[transform]


def draw_dihedral(draws: Draws, horizontal_flip: float, vertical_flip: float, rotation: float) -> Tensor:
    """Draw a horizontal flip, a vertical flip and a rotation by 90, 180 or 270 degrees, each with its probability.

    Returns:
        [B, 2, 3], with entries that are exactly -1, 0 or 1.
    """
    unmoved = TRANSFORMS.index("rot0")
    horizontal = torch.where(draws.chance(horizontal_flip), TRANSFORMS.index("hflip"), unmoved)
    vertical = torch.where(draws.chance(vertical_flip), TRANSFORMS.index("vflip"), unmoved)
    turns = torch.where(draws.chance(rotation), draws.integers(1, 4), 0)
    flips = compose(transform_matrix(horizontal), transform_matrix(vertical))
    return compose(flips, transform_matrix(unmoved + turns))


def undo_each(maps: Tensor) -> Tensor:
    """Undo every transform, in the order of TRANSFORMS.

    Args:
        maps: [B, D, n, n].

    Returns:
        [K, B, D, n, n]; entry k is the original of maps that went through transform k.
    """
    rotations = [maps.rot90(-turns, (-2, -1)) for turns in range(4)]
    return torch.stack([maps.flip(-1), maps.flip(-2), *rotations])


def crop_matrix(side: Tensor, position: Tensor) -> Tensor:
    """Return the matrices [B, 2, 3] that enlarge a part of the image to the whole.

    Args:
        side: [B], the part's side as a share of the image's, or [B, 2], its width and height; above 1 the image shrinks
            and its outside shows.
        position: [B, 2], x and y in [-1, 1]: 0 is the middle, 1 the right or lower edge.
    """
    side = side.view(len(side), -1).expand(-1, 2)  # [B, 2]
    offset = position * (1 - side)  # [B, 2]
    return torch.cat([torch.diag_embed(side), offset.unsqueeze(-1)], dim=-1)


class ColorChange(NamedTuple):
    """What happens to the colors of each image; float32 [B] each, `color_matrix` says what each does."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    brightness_offset: Tensor


def color_matrix(
    mean: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, brightness_offset: Tensor,
    rgb: Sequence[int] | None,
) -> Tensor:  # fmt: skip
    """Compose brightness, contrast, saturation and hue into one affine map of the bands.

    Brightness multiplies, and its offset is added to every band at the end; contrast scales about the image's mean
    gray, of bands that are not red, green or blue about their own mean; saturation scales the distance to the pixel's
    own gray, so that 0 is grayscale; hue turns the plane of chrominance. Each of them scales or shifts luminance or
    scales or turns chrominance, and what is scaled keeps the mean, so they commute but for the offset and the factor of
    brightness: no order of them has to be drawn. Gray is luminance; without bands for red, green and blue saturation
    and hue do nothing.
    Differs from torchvision's jitter in clamping once at the end, and in turning the hue in YUV (the plane of YIQ) at
    constant luminance, not in HSV.

    Args:
        mean: [B, C], each band's mean over the image.
        brightness: [B], factor.
        contrast: [B], factor.
        saturation: [B], factor.
        hue: [B], turns; positive goes from red to green to blue.
        brightness_offset: [B], added.
        rgb: The indices of the red, green and blue band; saturation and hue leave all others as they are.

    Returns:
        [B, C, C + 1].
    """
    colors = _color_constants(None if rgb is None else tuple(rgb), mean.shape[1], mean.device)
    angle = 2 * math.pi * hue
    linear = torch.addcmul(colors.identity, _each(saturation * angle.cos() - 1), colors.scale)  # [B, C, C]
    linear.addcmul_(_each(saturation * angle.sin()), colors.turn)
    gray = (mean * colors.luma).sum(dim=1, keepdim=True)  # [B, 1]
    pivot = torch.where(colors.is_color, gray, mean)
    offset = (brightness * (1 - contrast))[:, None] * pivot + brightness_offset[:, None]
    return torch.cat([_each(brightness * contrast) * linear, offset.unsqueeze(2)], dim=2)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


def band_means(image: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of each band, [B, C], over the valid pixels; 0 where there are none.

    Args:
        image: [B, C, H, W].
        valid: bool [B, 1, H, W]; None: all pixels.
    """
    if valid is None:
        return image.mean(dim=(-2, -1))
    return (image * valid).sum(dim=(-2, -1)) / valid.sum(dim=(-2, -1)).clamp_min(1)


def recolor(image: Tensor, matrix: Tensor) -> Tensor:
    """Apply color matrices [B, C, C + 1] to images [B, C, ...] in [0, 1]; the result is clamped to [0, 1]."""
    bands = image.shape[1]
    flat = torch.bmm(matrix[..., :bands], image.flatten(2))  # baddbmm would first write the offset to every pixel
    return flat.add_(matrix[..., bands:]).clamp_(0, 1).view(image.shape)


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, and grayscale; `color_matrix` says what each does.

    Args:
        brightness: Range of the factor.
        contrast: Range of the factor.
        saturation: Range of the factor.
        hue: Range in turns, within [-0.5, 0.5].
        grayscale: Probability.
        probability: That these change anything but for grayscale, which has its own.
        brightness_offset: Range of what is added to all bands, within [-1, 1].
    """

    brightness: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    saturation: tuple[float, float] = (1.0, 1.0)
    hue: tuple[float, float] = (0.0, 0.0)
    grayscale: float = 0.0
    probability: float = 1.0
    brightness_offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_range(name, getattr(self, name), 0, math.inf)
        check_range("brightness_offset", self.brightness_offset, -1, 1)
        check_range("hue", self.hue, -0.5, 0.5)
        for name in ("grayscale", "probability"):
            check_probability(name, getattr(self, name))

    def draw(self, draws: Draws) -> ColorChange:
        """Draw what happens to the colors of each image of a batch, on the CPU."""
        brightness, contrast = draws.uniform(*self.brightness), draws.uniform(*self.contrast)
        saturation, hue = draws.uniform(*self.saturation), draws.uniform(*self.hue)
        colored = ~draws.chance(self.grayscale)
        # What nothing asks for is not drawn: the numbers of a run depend on how many came before.
        offset = draws.uniform(*self.brightness_offset) if any(self.brightness_offset) else torch.zeros_like(hue)
        if self.probability < 1:
            changed = draws.chance(self.probability)
            brightness, contrast, saturation = (
                torch.where(changed, factor, 1.0) for factor in (brightness, contrast, saturation)
            )
            hue, offset = (torch.where(changed, added, 0.0) for added in (hue, offset))
        return ColorChange(brightness, contrast, saturation * colored, hue, offset)
