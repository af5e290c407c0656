"""How large pixels are on the ground, as coordinates tell it: a network knows things at the size it learnt them at."""

import statistics
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from ssl_rs.data.dataset import Split, Transform
from ssl_rs.data.ground_area import area_on_the_ground
from ssl_rs.data.manifest import Manifest, SceneRecord
from ssl_rs.errors import some

ALIKE = 1.25
"""Times that one pixel may be as large a side as another."""


@lru_cache(maxsize=65536)
def pixel_size(crs: str | None, transform: Transform | None, height: int, width: int) -> float | None:
    """Return the side on the ground of the pixels in the middle of an image.

    Returns:
        Meters, the root of their area; None without a georeference, and where pixels at the upper or lower edge have
        another size.
    """
    if crs is None or transform is None:
        return None
    upper, middle, lower = (area_on_the_ground(crs, transform, width / 2, row) for row in (0, height / 2, height))
    if upper is None or middle is None or lower is None:
        return None
    side = middle**0.5
    return side if _are_alike(side, upper**0.5) and _are_alike(side, lower**0.5) else None


def size_text(side: float) -> str:
    """Return the side of a pixel with three digits, e.g. '0.5 m'."""
    return f"{float(f'{side:.3g}'):.10g} m"


def usual_size(manifest: Manifest, split: Split | Literal["all"] = "train") -> float | None:
    """Return the median size of the pixels of a split's scenes, m; None where no scene tells it."""
    return _median(_sizes(scene for scene in manifest.scenes if split in (scene.split, "all")))


def _sizes(scenes: Iterable[SceneRecord]) -> list[tuple[str, float]]:
    found = ((each.id, pixel_size(each.crs, each.transform, each.height, each.width)) for each in scenes)
    return [(scene, size) for scene, size in found if size is not None]


def _median(sizes: Sequence[tuple[str, float]]) -> float | None:
    return statistics.median_low([size for _, size in sizes]) if sizes else None


def _are_alike(one: float, other: float) -> bool:
    return max(one, other) <= ALIKE * min(one, other)


def warn_of_sizes(manifest: Manifest) -> None:
    """Warn of scenes whose pixels are not as large as those of most."""
    sizes = _sizes(manifest.scenes)
    usual = _median(sizes)
    other = [f"'{scene}' ({size_text(size)})" for scene, size in sizes if usual and not _are_alike(size, usual)]
    if usual and other:
        warnings.warn(
            f"{manifest.dataset}: pixels have {size_text(usual)} in most scenes, another size in {some(other)}: "
            "objects have another scale there. Resample them to one pixel size, unless the network should learn both.",
            stacklevel=2,
        )


def told_unlike(usual: float | None, size: float | None) -> str:
    """Say that pixels are of another size than those of the training; empty where they are not, or nobody knows."""
    if usual is None or size is None or _are_alike(usual, size):
        return ""
    return (
        f"pixels are of {size_text(size)} on the ground, those of the training were of {size_text(usual)}: things are "
        "of another size than the network learnt. Resample to that size, or read the result with care."
    )
