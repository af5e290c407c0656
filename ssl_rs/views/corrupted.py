"""The corrupted view: square blocks whose content was turned in place and recolored."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_rs.errors import ArgumentError
from ssl_rs.randomness import Draws
from ssl_rs.views.base import CorruptedView, TwoPartMaker, View, size_of
from ssl_rs.views.fused import (
    TRANSFORMS,
    ColorChange,
    ColorJitter,
    check_range,
    color_matrix,
    recolor,
    transform_matrix,
)
from ssl_rs.views.resampling import dihedral_source

_TURNED = torch.tensor([index for index, name in enumerate(TRANSFORMS) if name != "rot0"])


@dataclass(frozen=True)
class Blocks:
    """One square block in each image, inside it; int64 [B] each, pixels."""

    top: Tensor
    left: Tensor
    side: Tensor


@dataclass(frozen=True)
class CorruptedMaker(TwoPartMaker):
    """Flip or rotate the content of random blocks in place and change its colors.

    Source: Li, Chen & Shi, JSTARS 2021, who corrupt one block; with more blocks, more of each image teaches. The weight
    of the repair is the absolute difference to the clean image, as theirs. Later blocks cover earlier ones; all of them
    show clean content, and what of it has no data covers nothing.

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

    def draw(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor, ...]:
        """Return what `_draw` does, of the first block of all images, then of the second: rows [N * B]."""
        drawn = [self._draw(draws, self._largest_side(size), *size) for _ in range(self.num_blocks)]
        return tuple(torch.cat(each) for each in zip(*drawn, strict=True))

    def make(self, source: View, *drawn: Tensor) -> CorruptedView:
        """Return the view of images [B, C, H, W]."""
        clean, window = source.image, self._largest_side(size_of(source))
        corrupted = clean.clone(memory_format=torch.contiguous_format)
        flat = corrupted.flatten(2)
        sorts = flat.device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
        at_once = [drawn]  # where starting an operation costs more than running it
        if clean.device.type == "cpu":  # else what fits its caches
            at_once = list(zip(*(torch.split(each, len(clean)) for each in drawn), strict=True))
        for blocks in at_once:
            changed = _changed(source, window, *blocks)
            for index, inside, content in zip(*(torch.split(each, len(clean)) for each in changed), strict=True):
                index = index.expand_as(content)
                with _plain_kernels() if sorts else nullcontext():
                    flat.scatter_(2, index, torch.where(inside, content, flat.gather(2, index)))
        weight = (clean - corrupted).abs()
        return CorruptedView(corrupted, source.geometry, clean, weight, rgb=source.rgb, valid=source.valid)

    def _largest_side(self, size: tuple[int, int]) -> int:
        """Return the largest side of a block: all are cut as such windows, so no shape depends on what is drawn."""
        return max(1, int(self.side[1] * min(size)))

    def _draw(self, draws: Draws, window: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Draw one block of each image: its place, the matrix [B, 2, 3] that turns it, and the change of its colors."""
        blocks = self._draw_blocks(draws, window, height, width)
        turned = _TURNED[draws.integers(0, len(_TURNED))]
        return blocks.top, blocks.left, blocks.side, transform_matrix(turned), *self.color.draw(draws)

    def _draw_blocks(self, draws: Draws, window: int, height: int, width: int) -> Blocks:
        side = (draws.uniform(*self.side) * min(height, width)).long().clamp(1, window)
        top = (draws.uniform(0, 1) * (height - side + 1)).long()
        left = (draws.uniform(0, 1) * (width - side + 1)).long()
        return Blocks(top, left, side)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Within it torch writes at indices in any order, also where results have to repeat: here none comes twice.

    A GPU sorts them there, and with some versions of torch it waits for the host.
    """
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warns)


def _changed(
    source: View, window: int, top: Tensor, left: Tensor, side: Tensor, turn: Tensor, *change: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what turned and recolored blocks show: clean content, whatever is written over it.

    Args:
        source: Images [B, C, H, W].
        window: Side of the squares that are cut, which hold the blocks.
        top: int64 [N * B], N blocks for each image in turn, as all that follow.
        left: int64 [N * B].
        side: int64 [N * B].
        turn: [N * B, 2, 3], the flip or rotation of each block.
        change: Those of `ColorChange`, [N * B] each.

    Returns:
        Where the pixels of a window lie in their image, int64 [N * B, 1, window^2]; which are of the block and show
        what has data, bool; and their values, [N * B, C, window^2].
    """
    clean = source.image
    height, width = clean.shape[-2:]
    rows, in_rows = _window(top, side, window, height)
    columns, in_columns = _window(left, side, window, width)
    inside = (in_rows[:, :, None] & in_columns[:, None, :]).flatten(1).unsqueeze(1)  # [N * B, 1, window^2]
    row, column = dihedral_source(turn, rows - top[:, None], columns - left[:, None], side)
    shown = (row + top.view(-1, 1, 1)) * width + column + left.view(-1, 1, 1)
    shown = torch.where(inside, shown.flatten(1).unsqueeze(1), 0)  # what lies outside the block is not used
    content = _gather(clean, shown)  # [N * B, C, window^2]
    if source.valid is not None:  # what has no data covers nothing: else repairing it would be much of the task
        inside = inside & _gather(source.valid, shown)
    mean = (content * inside).sum(dim=2) / inside.sum(dim=2).clamp_min(1)  # [N * B, C]
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).unsqueeze(1)
    return index, inside, recolor(content, color_matrix(mean, *ColorChange(*change), source.rgb))


def _window(start: Tensor, side: Tensor, window: int, size: int) -> tuple[Tensor, Tensor]:
    """Return positions [B, window] in the image that contain the block, and which of them are its own."""
    position = start.clamp_max(size - window)[:, None] + torch.arange(window, device=start.device)
    return position, (position >= start[:, None]) & (position < (start + side)[:, None])


def _gather(image: Tensor, index: Tensor) -> Tensor:
    """Return the pixels [N * B, C, n] of images [B, C, H, W] at indices [N * B, 1, n], N for each image in turn."""
    flat = image.flatten(2)
    found = flat.expand(len(index) // len(flat), -1, -1, -1).gather(
        3, index.view(-1, len(flat), 1, index.shape[2]).expand(-1, -1, flat.shape[1], -1)
    )
    return found.flatten(0, 1)
