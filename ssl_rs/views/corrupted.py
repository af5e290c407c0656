"""The corrupted view: square blocks whose content was turned in place and recolored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_rs.errors import ArgumentError
from ssl_rs.randomness import Draws
from ssl_rs.views.base import CorruptedView, View
from ssl_rs.views.fused import TRANSFORMS, ColorJitter, check_range, indices, recolor, transform_matrix
from ssl_rs.views.resampling import dihedral_source

_TURNED = tuple(index for index, name in enumerate(TRANSFORMS) if name != "rot0")


@dataclass(frozen=True)
class Blocks:
    """One square block in each image, inside it; int64 [B] each, pixels."""

    top: Tensor
    left: Tensor
    side: Tensor


@dataclass(frozen=True)
class CorruptedMaker:
    """Flip or rotate the content of random blocks in place and change its colors.

    Source: Li, Chen & Shi, JSTARS 2021, who corrupt one block; with more blocks, more of each image teaches. The weight
    of the repair is the absolute difference to the clean image, as theirs. Later blocks cover earlier ones; all of them
    show clean content.

    Args:
        source: The view it is made from.
        num_blocks: Blocks an image.
        side: Range of a block's side as a share of the image's shorter side.
        color: The change of colors, drawn for each block.
    """

    source: str
    num_blocks: int
    side: tuple[float, float]
    color: ColorJitter

    def __post_init__(self) -> None:
        check_range("side", self.side, 0, 1)
        if self.num_blocks < 1:
            raise ArgumentError(f"num_blocks={self.num_blocks}: expected at least 1.")

    def __call__(self, source: View, draws: Draws) -> CorruptedView:
        """Return the view of images [B, C, H, W]."""
        clean = source.image
        corrupted = clean.clone(memory_format=torch.contiguous_format)
        for _ in range(self.num_blocks):
            self._corrupt(corrupted, source, draws)
        weight = (clean - corrupted).abs()
        return CorruptedView(corrupted, source.geometry, clean, weight, rgb=source.rgb, valid=source.valid)

    def _draw_blocks(self, draws: Draws, window: int, height: int, width: int) -> Blocks:
        side = (draws.uniform(*self.side) * min(height, width)).long().clamp(1, window)
        top = (draws.uniform(0, 1) * (height - side + 1)).long()
        left = (draws.uniform(0, 1) * (width - side + 1)).long()
        return Blocks(top, left, side)

    def _corrupt(self, corrupted: Tensor, source: View, draws: Draws) -> None:
        """Write one turned and recolored block into each image [B, C, H, W]."""
        clean = source.image
        height, width = clean.shape[-2:]
        # All blocks are cut as windows of the largest side, so that no shape depends on what is drawn.
        window = max(1, int(self.side[1] * min(height, width)))
        blocks = self._draw_blocks(draws, window, height, width)
        rows, in_rows = _window(blocks.top, blocks.side, window, height)
        columns, in_columns = _window(blocks.left, blocks.side, window, width)
        inside = (in_rows[:, :, None] & in_columns[:, None, :]).flatten(1).unsqueeze(1)  # [B, 1, window^2]

        turned = indices(_TURNED, clean.device)[draws.integers(0, len(_TURNED))]
        local_rows, local_columns = rows - blocks.top[:, None], columns - blocks.left[:, None]
        row, column = dihedral_source(transform_matrix(turned), local_rows, local_columns, blocks.side)
        shown = (row + blocks.top.view(-1, 1, 1)) * width + column + blocks.left.view(-1, 1, 1)
        shown = torch.where(inside, shown.flatten(1).unsqueeze(1), 0)  # what lies outside the block is not used
        content = _gather(clean, shown)  # [B, C, window^2]
        counted = inside if source.valid is None else inside & _gather(source.valid, shown)
        mean = (content * counted).sum(dim=2) / counted.sum(dim=2).clamp_min(1)  # [B, C]

        written = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).unsqueeze(1)
        content = torch.where(
            inside, recolor(content, self.color(mean, draws, source.rgb)), _gather(corrupted, written)
        )
        corrupted.flatten(2).scatter_(2, written.expand_as(content), content)


def _window(start: Tensor, side: Tensor, window: int, size: int) -> tuple[Tensor, Tensor]:
    """Return positions [B, window] in the image that contain the block, and which of them are its own."""
    position = start.clamp_max(size - window)[:, None] + torch.arange(window, device=start.device)
    return position, (position >= start[:, None]) & (position < (start + side)[:, None])


def _gather(image: Tensor, index: Tensor) -> Tensor:
    """Return the pixels [B, C, n] of images [B, C, H, W] at indices [B, 1, n]."""
    return image.flatten(2).gather(2, index.expand(-1, image.shape[1], -1))
