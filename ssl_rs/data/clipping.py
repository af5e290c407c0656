"""Values outside of [0, value scale]: they count as black or white, which may not be meant."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.store import Store

ROWS = 16
"""Of each scene that are looked at."""

WORTH_TELLING = 0.01
"""Share of a scene's values."""

RARE = 0.02
"""Share of a band's values that may be odd: saturated pixels, or such without data of which the file does not tell."""

SCENES, COLUMNS = 16, 256
"""Of which the usual values are read, at most: training scenes, and columns of each of their rows."""


class Outside(NamedTuple):
    """Values of an image that are not in [0, value scale], read off some of its rows.

    Args:
        below: Share that lies below 0.
        above: Share that lies above the value scale.
        least: The least value; 0 where none counts.
        largest: The largest value; 0 where none counts.
        usual: Below it lie all but RARE of the values; 0 where none counts.
    """

    below: float
    above: float
    least: float
    largest: float
    usual: float

    @property
    def remedy(self) -> str:
        """What to do about values below 0."""
        return (
            f"Where {self.least:g} means no data, tell the file by `gdal_edit.py -a_nodata {self.least:g}` "
            f"(JPEG 2000 becomes TIFF by `gdal_translate -a_nodata {self.least:g}`); else move "
            "values by `gdal_translate -scale LOW HIGH 0 1 -ot Float32`, with one LOW and one HIGH for all files. "
            "Where the file tells it already, give it to all bands of a pixel: in one band alone it counts."
        )


def values_outside(image: NDArray[Any], valid: NDArray[np.bool_] | None, ceiling: float) -> Outside:
    """Look for values below 0 and above a ceiling.

    Args:
        image: [C, H, W].
        valid: [H, W], which pixels count; None: all.
        ceiling: The value scale.
    """
    counted = _some_values(image, valid, image.shape[2])
    if not counted.size:
        return Outside(0.0, 0.0, 0.0, 0.0, 0.0)
    below, above = float((counted < 0).mean()), float((counted > ceiling).mean())
    usual = float(np.quantile(counted, 1 - RARE))
    return Outside(below, above, float(counted.min()), float(counted.max()), usual)


def usual_largest(store: Store, ceiling: float) -> float | None:
    """Return the largest value below a ceiling, in some rows of some training scenes; None where not nearly all are.

    Args:
        store: The data.
        ceiling: All but RARE of the values of every band lie below, or else it is none that tells of odd ones.
    """
    scenes = store.scenes_of("train")
    chosen = [scenes[place] for place in _spread(len(scenes), SCENES)]
    found = [_some_values(store.image(index), store.valid(index), COLUMNS) for index in chosen]
    values = np.concatenate([each.reshape(len(each), -1) for each in found], axis=1)  # [C, N]
    below = values < ceiling
    if not values.size or not (below.mean(axis=1) >= 1 - RARE).all():
        return None
    return float(values[below].max())


def _some_values(image: NDArray[Any], valid: NDArray[np.bool_] | None, columns: int) -> NDArray[Any]:
    """Return the valid values of some rows of an image [C, H, W], and of so many of their columns, [C, ...]."""
    rows, kept = _spread(image.shape[1], ROWS), _spread(image.shape[2], columns)
    values = np.asarray(image[:, rows])[:, :, kept]
    return values if valid is None else values[:, np.asarray(valid[rows])[:, kept]]


def _spread(number: int, most: int) -> NDArray[np.int64]:
    """Return at most so many indices of a number of things, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))


def warn_of_clipping(store: Store) -> None:
    """Warn of each split in which a scene has many values below 0, or above the value scale."""
    manifest = store.manifest
    if manifest.dtype == "uint8" and manifest.value_scale >= 255:
        return
    found: dict[str, list[Outside]] = {}
    for index, scene in enumerate(manifest.scenes):
        outside = values_outside(store.image(index), store.valid(index), manifest.value_scale)
        found.setdefault(scene.split, []).append(outside)
    for split, scenes in found.items():
        if some := _many(split, [scene.above for scene in scenes]):
            largest = max(scene.largest for scene in scenes)
            warnings.warn(
                f"{some} above value_scale={manifest.value_scale:g}: these count as white. If {largest:g} is nodata, "
                "give it to all bands of a pixel: in one band alone it counts. If these are values, and white is not "
                f"meant, give all data one scale: dataset.value_scale={largest:g} or more, by some rows of each; that "
                "of a finished run cannot change.",
                stacklevel=2,
            )
        if some := _many(split, [scene.below for scene in scenes]):
            darkest = min(scenes, key=lambda scene: scene.least)
            warnings.warn(
                f"{some} below 0, down to {darkest.least:g}: these count as black. {darkest.remedy}", stacklevel=2
            )


def _many(split: str, shares: Sequence[float]) -> str:
    """Return how many scenes of a split have how many such values; "" where none has many."""
    clipped = [share for share in shares if share > WORTH_TELLING]
    if not clipped:
        return ""
    least, most = (f"{100 * share:.0f} %" for share in (min(clipped), max(clipped)))
    told = least if least == most else f"{least} to {most}"
    return f"{len(clipped)} of {len(shares)} {split} scenes have {told} of their values"
