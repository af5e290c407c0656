"""The test tiles by which a report shows runs side by side: chosen from the truth, the same in every run."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from ssl_rs.bands import shown_bands
from ssl_rs.data.store import Store
from ssl_rs.files import written_aside
from ssl_rs.pictures import stretched, usual_range

SIDE = 160
"""Pixels a side of a sample."""

LEAST_STEP = 32
"""Pixels from one place that is looked at to the next: of tiny samples a large scene has too many."""

SEARCHED = 50
"""Scenes that are searched for samples: enough to choose from, and quick where there are thousands."""


@dataclass(frozen=True)
class Sample:
    """A part of a scene.

    Args:
        scene: Index in the store.
        name: Scene and position, for captions.
        area: Rows and columns.
    """

    scene: int
    name: str
    area: tuple[slice, slice]


def choose_samples(store: Store, scenes: Sequence[int], count: int) -> list[Sample]:
    """Return the tiles that show most classes, at most one a scene, all of one size.

    A scene with room for less than a quarter of the sample that the middle one has room for has none: it would make
    those of all others as small.

    Args:
        store: The data, with masks.
        scenes: The scenes to choose from.
        count: How many at most.
    """
    searched = [scenes[position] for position in np.unique(np.linspace(0, len(scenes) - 1, SEARCHED).astype(int))]
    records = store.manifest.scenes
    sizes = {index: (min(SIDE, records[index].height), min(SIDE, records[index].width)) for index in searched}
    areas = sorted(height * width for height, width in sizes.values())
    searched = [index for index in searched if 4 * np.prod(sizes[index]) >= areas[len(areas) // 2]]
    height, width = (min(sizes[index][axis] for index in searched) for axis in (0, 1))
    best = [_most_varied(store, index, height, width) for index in searched]
    ranked = sorted(best, key=lambda found: (-found[0], found[1].scene))
    return sorted((sample for _, sample in ranked[:count]), key=lambda sample: sample.scene)


def _most_varied(store: Store, index: int, height: int, width: int) -> tuple[float, Sample]:
    """Return the tile of a scene whose classes are spread most evenly (entropy of their shares), and that entropy."""
    record, mask, classes = store.manifest.scenes[index], store.mask(index), len(store.manifest.classes)
    places = itertools.product(
        range(0, record.height - height + 1, max(height, LEAST_STEP)),
        range(0, record.width - width + 1, max(width, LEAST_STEP)),
    )
    areas = ((slice(top, top + height), slice(left, left + width)) for top, left in places)
    found = ((_entropy(np.asarray(mask[area]), classes), area) for area in areas)
    entropy, area = max(found, key=lambda one: one[0])  # of equal ones the first
    return entropy, Sample(index, f"{record.id}, row {area[0].start}, column {area[1].start}", area)


def _entropy(mask: NDArray[np.uint8], num_classes: int) -> float:
    """Return the entropy of the class shares among all pixels; unlabeled pixels count as nothing."""
    shares = np.bincount(mask.ravel(), minlength=256)[:num_classes] / mask.size
    return float(entr(shares).sum())


def write_samples(store: Store, samples: Sequence[Sample], maps: Mapping[int, NDArray[np.uint8]], path: Path) -> None:
    """Write image, truth and prediction of each sample: images uint8 [N, h, w, 3], the others uint8 [N, h, w].

    Where the image has no data, nothing is predicted: there the index is that of what is ignored.

    Args:
        store: The data.
        samples: What is shown.
        maps: The predicted class map [H, W] of each sample's scene.
        path: An .npz file.
    """
    bands, scale = store.manifest.bands, store.manifest.value_scale
    with written_aside(path) as file:
        np.savez_compressed(
            file,
            images=np.stack([rgb_picture(store.image(one.scene)[:, *one.area], bands, scale) for one in samples]),
            truth=np.stack([np.asarray(store.mask(one.scene))[one.area] for one in samples]),
            prediction=np.stack([_shown(store, one, maps[one.scene]) for one in samples]),
            names=np.array([one.name for one in samples]),
        )


def _shown(store: Store, sample: Sample, predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the part of a class map [H, W] that a sample shows, [h, w]."""
    part, valid = predicted[sample.area], store.valid(sample.scene)
    return part if valid is None else np.where(valid[sample.area], part, np.uint8(store.manifest.ignore_index))


def rgb_picture(
    image: NDArray[np.generic], bands: Sequence[str], value_scale: float, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return an image as a picture: its red, green and blue, else its first bands; 8-bit values as they are.

    Others are stretched between the 2nd and 98th percentile, as far as the network tells them apart.

    Args:
        image: [C, H, W].
        bands: Names of the C bands.
        value_scale: The value that becomes 1.
        valid: [H, W], the pixels whose percentiles count; None: all.

    Returns:
        uint8 [H, W, 3].
    """
    channels = np.stack([image[band] for band in shown_bands(bands)], axis=-1)  # [H, W, 3]
    if channels.dtype == np.uint8:
        return channels
    seen = np.clip(channels.astype(np.float32), 0, value_scale)
    counted = seen if valid is None or not valid.any() else seen[valid]
    return stretched(seen, *usual_range(counted))
