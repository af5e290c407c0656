"""Pixels that move by the matrices of `ssl_rs.views.fused`: resampled, or, for flips and rotations, moved exactly."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 1e-3
"""Share of a sample by which one that lies on a pixel may miss it."""


def sampling_grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """Return where each pixel comes from, [B, H, W, 2], normalized: F.affine_grid's values in a fraction of its time.

    In memory it is a plane of x and a plane of y, which are quicker to fill.
    """
    x = (torch.arange(width, device=matrix.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=matrix.device) * 2 + 1) / height - 1
    linear, offset = matrix[..., :2, None, None], matrix[..., 2, None, None]
    along_x = linear[:, :, 0] * x  # [B, 2, 1, W]
    along_y = linear[:, :, 1] * y.unsqueeze(1) + offset  # [B, 2, H, 1]
    return (along_x + along_y).permute(0, 2, 3, 1)


def _sample(image: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    """Sample images [B, C, H, W] at [B, H, W, 2]; without gradient torch.compile leaves it to torch's own kernel."""
    sample = _opaque_sample if torch.compiler.is_compiling() and not torch.is_grad_enabled() else _plain_sample
    return sample(image, grid, mode, padding)


def _plain_sample(image: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=False)


# What torch.compile makes of grid_sample takes three times as long as torch's kernel on a CPU.
_opaque_sample = torch.library.custom_op("ssl_rs::grid_sample", _plain_sample, mutates_args=())


@_opaque_sample.register_fake
def _(image: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    return image.new_empty((*image.shape[:2], *grid.shape[1:3]))


def warp(image: Tensor, matrix: Tensor, *, inside: bool = False, side: int | None = None) -> Tensor:
    """Resample images [B, C, H, W] bilinearly by matrices [B, 2, 3]; what lies outside mirrors the inside.

    Args:
        image: What is resampled.
        matrix: From the result's coordinates to the image's.
        inside: Says that nothing outside is asked for; then mirroring and holding the edge are the same, and the
            latter is quicker.
        side: Of the result, pixels; None: it has the image's size.
    """
    grid = sampling_grid(matrix, *_size(image, side))
    return _sample(image, grid, "bilinear", "border" if inside else "reflection")


def _size(image: Tensor, side: int | None) -> tuple[int, int]:
    height, width = image.shape[-2:]
    return (height, width) if side is None else (side, side)


def warp_valid(valid: Tensor, matrix: Tensor, side: int | None = None) -> Tensor:
    """Resample bool [B, 1, H, W] to the nearest pixel by matrices [B, 2, 3]; what lies outside mirrors the inside.

    Args:
        valid: What is resampled.
        matrix: As of `warp`.
        side: As of `warp`.
    """
    grid = sampling_grid(matrix, *_size(valid, side))
    return _sample(valid.float(), grid, "nearest", "reflection") > 0.5


def warp_all_valid(valid: Tensor, matrix: Tensor) -> Tensor:
    """Resample bool [B, 1, H, W] by matrices [B, 2, 3]: true where all that a bilinear sample is made of is valid."""
    grid = sampling_grid(matrix, *valid.shape[-2:])
    return _sample(valid.float(), grid, "bilinear", "zeros") > 1 - ROUNDING


def warp_known(
    image: Tensor, valid: Tensor | None, matrix: Tensor, *, inside: bool = False, side: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Resample images as `warp` does, of their valid pixels alone, and where they are valid as `warp_valid` does.

    Args:
        image: [B, C, H, W].
        valid: bool [B, 1, H, W]; None: all pixels are.
        matrix: As of `warp`.
        inside: As of `warp`.
        side: As of `warp`.

    Returns:
        The images, 0 where they are not valid, and where they are.
    """
    if valid is None:
        return warp(image, matrix, inside=inside, side=side), None
    known = valid.to(image.dtype)
    both = warp(torch.cat([image * known, known], dim=1), matrix, inside=inside, side=side)
    valid = warp_valid(valid, matrix, side)
    # Where the nearest pixel is valid, so is a quarter at least of what a bilinear sample is made of.
    return torch.where(valid, both[:, :-1] / both[:, -1:].clamp_min(0.2), 0.0), valid


def warp_mask(mask: Tensor, matrix: Tensor, fill: int) -> Tensor:
    """Resample masks int64 [B, H, W] to the nearest pixel by matrices [B, 2, 3]; the outside is `fill`.

    Labels must be below 2^24, where float32 counts exactly.
    """
    grid = sampling_grid(matrix, *mask.shape[-2:])
    above_fill = (mask - fill).unsqueeze(1).float()  # zero outside is the fill
    moved = _sample(above_fill, grid, "nearest", "zeros")
    return moved.squeeze(1).long() + fill


def dihedral_source(matrix: Tensor, rows: Tensor, columns: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pixel of a square each of its pixels shows after a flip or rotation in place.

    Args:
        matrix: [B, 2, 3] with entries -1, 0 or 1.
        rows: int64 [B, m], counted from the square's upper edge.
        columns: int64 [B, n], counted from its left edge.
        side: int64 [B], pixels.

    Returns:
        Rows and columns, int64 [B, m, n] each.
    """
    linear = matrix.round().long()[..., None, None]  # [B, 2, 3, 1, 1]
    last = (side - 1).view(-1, 1, 1)
    # Doubled and counted from the center, positions are whole numbers.
    x = 2 * columns[:, None, :] - last
    y = 2 * rows[:, :, None] - last
    source_x = linear[:, 0, 0] * x + linear[:, 0, 1] * y
    source_y = linear[:, 1, 0] * x + linear[:, 1, 1] * y
    return (source_y + last) // 2, (source_x + last) // 2


def move(image: Tensor, matrix: Tensor) -> Tensor:
    """Flip and rotate exactly, by one gather: no value changes, whatever its type.

    Args:
        image: [B, ..., n, n].
        matrix: [B, 2, 3], products of TRANSFORMS' matrices.
    """
    batch, size = image.shape[0], image.shape[-1]
    assert image.shape[-2] == size, f"rotations need square images, got {tuple(image.shape)}"
    pixels = torch.arange(size, device=image.device).expand(batch, size)
    rows, columns = dihedral_source(matrix, pixels, pixels, torch.full((batch,), size, device=image.device))
    index = (rows * size + columns).view(batch, 1, -1)
    flat = image.reshape(batch, -1, size * size)
    return flat.gather(2, index.expand(-1, flat.shape[1], -1)).view(image.shape)


def move_known(image: Tensor, valid: Tensor | None, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return images, and where they are valid, as `move` moves them; None: they are valid everywhere."""
    return move(image, matrix), None if valid is None else move(valid, matrix)
