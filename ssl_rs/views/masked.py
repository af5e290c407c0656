"""The masked view: cells of a grid hidden behind the mean color of their image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_rs.errors import ArgumentError
from ssl_rs.randomness import Draws
from ssl_rs.views.base import CorruptedView, TwoPartMaker, View
from ssl_rs.views.fused import band_means


@dataclass(frozen=True)
class MaskedMaker(TwoPartMaker):
    """Hide a share of the cells of a grid; only they count for the repair, all alike.

    Source: Xie et al., SimMIM, CVPR 2022: random cells, L1 over what is hidden. Where their transformers put a learned
    token, here is the mean color of the image, which any network can read.

    Args:
        source: The view it is made from.
        cells: Cells along each side of the image.
        share: Of the cells that are hidden; as many in every image.
    """

    source: str
    cells: int
    share: float

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ArgumentError(f"cells={self.cells}: expected at least 2 along each side.")
        if not 1 <= self.hidden < self.cells**2:
            raise ArgumentError(
                f"share={self.share}: expected a share that hides some, not all, of the {self.cells**2} cells."
            )

    @property
    def hidden(self) -> int:
        """How many cells of an image are hidden."""
        return round(self.share * self.cells**2)

    def draw(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor]:
        """Return which cells are hidden, bool [B, cells, cells]."""
        # [B, cells^2], each its own
        place = draws.uniform(0, 1, self.cells**2).argsort(dim=1, stable=True).argsort(dim=1)
        return ((place < self.hidden).view(-1, self.cells, self.cells),)

    def make(self, source: View, *drawn: Tensor) -> CorruptedView:
        """Return the view of images [B, C, H, W]."""
        (chosen,) = drawn
        clean = source.image
        rows, columns = (torch.arange(size, device=clean.device) * self.cells // size for size in clean.shape[-2:])
        hidden = chosen[:, rows[:, None], columns].unsqueeze(1)  # [B, 1, H, W]
        mean = band_means(clean, source.valid)[:, :, None, None]
        weight = hidden.expand_as(clean).to(clean.dtype)
        image = torch.where(hidden, mean, clean)
        return CorruptedView(image, source.geometry, clean, weight, rgb=source.rgb, valid=source.valid)
