"""Values above the value scale: they count as white, and a scale taken from few images may not suit the others."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.store import Store

ROWS = 16
"""Of each scene that are looked at."""

WORTH_TELLING = 0.01
"""Share of a scene's values."""


def share_above(image: NDArray[Any], valid: NDArray[np.bool_] | None, ceiling: float) -> tuple[float, float]:
    """Return which share of an image's values lies above a ceiling, and the largest of them, read off some of its rows.

    Args:
        image: [C, H, W].
        valid: [H, W], which pixels count; None: all.
        ceiling: The value scale.
    """
    rows = np.unique(np.linspace(0, image.shape[1] - 1, ROWS).astype(np.int64))
    values = np.asarray(image[:, rows])  # [C, rows, W]
    counted = values[:, np.asarray(valid[rows])] if valid is not None else values
    return (float((counted > ceiling).mean()), float(counted.max())) if counted.size else (0.0, 0.0)


def warn_of_clipping(store: Store) -> None:
    """Warn of each split in which a scene has many values above the value scale."""
    manifest = store.manifest
    if manifest.dtype == "uint8" and manifest.value_scale >= 255:
        return
    found: dict[str, list[tuple[float, float]]] = {}
    for index, scene in enumerate(manifest.scenes):
        above = share_above(store.image(index), store.valid(index), manifest.value_scale)
        found.setdefault(scene.split, []).append(above)
    for split, scenes in found.items():
        clipped = [share for share, _ in scenes if share > WORTH_TELLING]
        if clipped:
            least, most = (f"{100 * share:.0f} %" for share in (min(clipped), max(clipped)))
            shares = least if least == most else f"{least} to {most}"
            warnings.warn(
                f"{len(clipped)} of {len(scenes)} {split} scenes have {shares} of their values above "
                f"value_scale={manifest.value_scale:g}: these count as white. If that is not meant, give all data one "
                f"scale: dataset.value_scale={max(largest for _, largest in scenes):g} or more, by some rows of each.",
                stacklevel=2,
            )
