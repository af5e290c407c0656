"""The test tiles by which a report shows runs side by side: chosen from the truth, the same in every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_rs.bands import shown_bands
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.store import Store
from ssl_rs.files import written_aside

SIDE = 160
"""Pixels a side of a sample."""

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

    Args:
        store: The data, with masks.
        scenes: The scenes to choose from.
        count: How many at most.
    """
    searched = [scenes[position] for position in np.unique(np.linspace(0, len(scenes) - 1, SEARCHED).astype(int))]
    records = store.manifest.scenes
    height = min(SIDE, *(records[index].height for index in searched), SIDE)
    width = min(SIDE, *(records[index].width for index in searched), SIDE)
    best = [_most_varied(store, index, height, width) for index in searched]
    ranked = sorted(best, key=lambda found: (-found[0], found[1].scene))
    return sorted((sample for _, sample in ranked[:count]), key=lambda sample: sample.scene)


def _most_varied(store: Store, index: int, height: int, width: int) -> tuple[float, Sample]:
    """Return the tile of a scene whose classes are spread most evenly (entropy of their shares), and that entropy."""
    record, mask = store.manifest.scenes[index], store.mask(index)
    found = []
    for top in range(0, record.height - height + 1, height):
        for left in range(0, record.width - width + 1, width):
            area = (slice(top, top + height), slice(left, left + width))
            name = f"{record.id}, row {top}, column {left}"
            found.append((_entropy(np.asarray(mask[area]), len(store.manifest.classes)), Sample(index, name, area)))
    return max(found, key=lambda one: (one[0], -one[1].area[0].start, -one[1].area[1].start))


def _entropy(mask: NDArray[np.uint8], num_classes: int) -> float:
    """Return the entropy of the class shares among all pixels; unlabeled pixels count as nothing."""
    shares = np.bincount(mask.ravel(), minlength=256)[:num_classes] / mask.size
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def write_samples(store: Store, samples: Sequence[Sample], maps: Mapping[int, NDArray[np.uint8]], path: Path) -> None:
    """Write image, truth and prediction of each sample: images uint8 [N, h, w, 3], the others uint8 [N, h, w].

    Args:
        store: The data.
        samples: What is shown.
        maps: The predicted class map [H, W] of each sample's scene.
        path: An .npz file.
    """
    with written_aside(path) as file:
        np.savez_compressed(
            file,
            images=np.stack([rgb_picture(store.image(one.scene)[:, *one.area], store.manifest) for one in samples]),
            truth=np.stack([np.asarray(store.mask(one.scene))[one.area] for one in samples]),
            prediction=np.stack([maps[one.scene][one.area] for one in samples]),
            names=np.array([one.name for one in samples]),
        )


def rgb_picture(image: NDArray[np.generic], manifest: Manifest) -> NDArray[np.uint8]:
    """Return a picture uint8 [H, W, 3] of an image [C, H, W]: its red, green and blue, else its first bands."""
    shown = [np.asarray(image[band], dtype=np.float32) for band in shown_bands(manifest.bands)]
    channels = np.stack(shown, axis=-1)  # [H, W, 3]
    if manifest.dtype == "uint8":
        return channels.astype(np.uint8)
    channels = np.clip(channels, 0, manifest.value_scale)  # what lies outside, the network does not tell apart either
    low, high = np.percentile(channels, (2, 98))
    picture: NDArray[np.uint8] = (np.clip((channels - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)
    return picture
