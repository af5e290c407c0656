"""The clean view: the crop, flipped and rotated at random."""

from dataclasses import dataclass

from torch import Tensor

from ssl_rs.randomness import Draws
from ssl_rs.views.base import TwoPartMaker, View
from ssl_rs.views.fused import check_probability, compose, draw_dihedral
from ssl_rs.views.resampling import move_known


@dataclass(frozen=True)
class CleanMaker(TwoPartMaker):
    """Flip and rotate by multiples of 90 degrees; every pixel keeps its value.

    Source: Li, Chen & Shi, JSTARS 2021. Their code turns every image by 0, 90, 180, 270 or 360 degrees, each
    equally likely; here half stay as they are, and the others turn by 90, 180 or 270.

    Args:
        source: The view it is made from.
        horizontal_flip: Probability.
        vertical_flip: Probability.
        rotation: Probability of a rotation by 90, 180 or 270 degrees.
    """

    source: str
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5
    rotation: float = 0.5

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "rotation"):
            check_probability(name, getattr(self, name))

    def draw(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor]:
        """Return the matrices [B, 2, 3]."""
        return (draw_dihedral(draws, self.horizontal_flip, self.vertical_flip, self.rotation),)

    def make(self, source: View, *drawn: Tensor) -> View:
        """Return the view of square images [B, C, n, n]."""
        (matrix,) = drawn
        image, valid = move_known(source.image, source.valid, matrix)
        return View(image, compose(source.geometry, matrix), rgb=source.rgb, valid=valid)
