"""How large pixels are on the ground, as coordinates tell it: a network knows things at the size it learnt them at."""

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Literal, NamedTuple

from rasterio.crs import CRS
from rasterio.errors import CRSError

from ssl_rs.data.dataset import Split, Transform
from ssl_rs.data.manifest import Manifest
from ssl_rs.errors import some

ALIKE = 1.25
"""Times that one pixel may be as large a side as another."""


class PixelSize(NamedTuple):
    """Side of a pixel; of one that is no square, the root of its area.

    Args:
        side: Above 0.
        unit: "m", or "degrees" of longitude and latitude.
    """

    side: float
    unit: str

    def __str__(self) -> str:
        return f"{self.side:.4g} {self.unit}"

    def is_like(self, other: "PixelSize") -> bool:
        """Tell whether another is about as large; of another unit, that is not known."""
        return self.unit != other.unit or max(self.side, other.side) <= ALIKE * min(self.side, other.side)


def pixel_size(crs: str | None, transform: Transform | None) -> PixelSize | None:
    """Return the size of the pixels of a georeferenced image; None of any other."""
    if crs is None or transform is None:
        return None
    a, b, _, d, e, _ = transform
    side, (factor, unit) = math.sqrt(abs(a * e - b * d)), _unit(crs)
    return PixelSize(side * factor, unit) if unit and side > 0 else None


@lru_cache
def _unit(crs: str) -> tuple[float, str]:
    """Return what a unit of coordinates is, e.g. (0.3048, "m"); no unit where they are neither lengths nor degrees."""
    with suppress(CRSError):
        system = CRS.from_string(crs)
        if system.is_projected:
            return float(system.linear_units_factor[1]), "m"
        if system.is_geographic:
            return 1.0, "degrees"
    return 0.0, ""


def usual_size(manifest: Manifest, split: Split | Literal["all"] = "train") -> PixelSize | None:
    """Return the median size of the pixels of a split's scenes, of those of the most frequent unit; None of none."""
    scenes = (scene for scene in manifest.scenes if split in (scene.split, "all"))
    return _median(size for scene in scenes if (size := pixel_size(scene.crs, scene.transform)))


def _median(sizes: Iterable[PixelSize]) -> PixelSize | None:
    known = list(sizes)
    if not known:
        return None
    unit = Counter(size.unit for size in known).most_common(1)[0][0]
    return PixelSize(statistics.median_low(size.side for size in known if size.unit == unit), unit)


def warn_of_sizes(manifest: Manifest) -> None:
    """Warn of scenes whose pixels are not as large as those of most."""
    sizes = {scene.id: size for scene in manifest.scenes if (size := pixel_size(scene.crs, scene.transform))}
    usual = _median(sizes.values())
    other = [f"'{scene}' ({size})" for scene, size in sizes.items() if usual is not None and not size.is_like(usual)]
    if other:
        warnings.warn(
            f"{manifest.dataset}: pixels are of {usual} in most scenes, of another size in {some(other)}: the same "
            "house is another thing to a network there. Resample them to one size, unless it is to know both.",
            stacklevel=2,
        )


def told_unlike(usual: PixelSize | None, size: PixelSize | None) -> str:
    """Say that pixels are of another size than those of the training; empty where they are not, or nobody knows."""
    if usual is None or size is None or size.is_like(usual):
        return ""
    return (
        f"pixels are of {size}, those of the training were of {usual}: things are of another size than the network "
        "learnt. Resample to that size, or read the result with care."
    )
