"""The manifest of a store: everything that is known about a data set without opening an array."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssl_rs.data.dataset import SegmentationClass, Split, Transform
from ssl_rs.data.records import read_record, to_json
from ssl_rs.data.value_types import ValueType
from ssl_rs.errors import InputError

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
HASH_FILE = "manifest.sha256"
"""Holds the hash of the manifest's content, by which a check finds a changed one."""


@dataclass(frozen=True)
class SourceRecord:
    """A file that a scene was read from; the name without its folder, so that manifests agree between machines."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SceneRecord:
    """One scene of a store.

    Args:
        number: Scene 3's arrays lie in 00003_image.npy, 00003_mask.npy, 00003_eroded.npy and 00003_valid.npy.
        id: Unique within the data set.
        split: The split it belongs to.
        height: In pixels.
        width: In pixels.
        crs: Coordinate reference system, if known.
        transform: a, b, c, d, e, f with x = a * column + b * row + c and y = d * column + e * row + f.
        sources: The files it was read from.
        class_pixels: Pixels of each class; empty without classes, 0 without labels.
        valid_share: Share of pixels with image data, in (0, 1]; below 1 there is a file of which they are.
        arrays: The scene's files in the store.
    """

    number: int
    id: str
    split: Split
    height: int
    width: int
    crs: str | None
    transform: Transform | None
    sources: tuple[SourceRecord, ...]
    class_pixels: tuple[int, ...]
    valid_share: float
    arrays: tuple[SourceRecord, ...]


@dataclass(frozen=True)
class SkippedScene:
    """A scene that was left out, and why; paths begin at the data set's root."""

    id: str
    split: Split
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Args:
        format_version: Of the store's files.
        dataset: Name of the data set.
        bands: Names of the C bands.
        dtype: Type of the stored values.
        value_scale: The stored value that becomes 1.
        mean: [C], over the valid pixels of the training split, after dividing by `value_scale` and clipping to [0, 1].
        std: [C], of the same pixels.
        classes: Names and colors; a class index is a place in this tuple.
        ignore_index: The mask value of pixels without a label.
        eroded: Whether every labeled scene has a second mask, without the boundaries of its objects.
        scenes: In the order of their numbers.
        skipped: Scenes that could not be used.
    """

    format_version: int
    dataset: str
    bands: tuple[str, ...]
    dtype: ValueType
    value_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[SegmentationClass, ...]
    ignore_index: int
    eroded: bool
    scenes: tuple[SceneRecord, ...]
    skipped: tuple[SkippedScene, ...]

    @cached_property
    def sha256(self) -> str:
        """Hash of the manifest's content: names the data that a result was measured on."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and check the manifest of a store.

        Raises:
            InputError: It is missing, of another format, or contradicts itself.
        """
        path = folder / MANIFEST_FILE
        manifest = read_record(cls, path)
        if manifest.format_version != FORMAT_VERSION:
            raise InputError(
                f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}."
            )
        for good, problem in _checks(manifest):
            if not good:
                raise InputError(f"{path}: {problem}.")
        return manifest


def _checks(manifest: Manifest) -> tuple[tuple[object, str], ...]:
    """Return what must be true of a manifest, each with what is wrong if it is not."""
    scenes = manifest.scenes
    return (
        (
            len(manifest.bands) == len(manifest.mean) == len(manifest.std) > 0,
            "bands, mean and std differ in length",
        ),
        (re.fullmatch(r"\w[\w.-]*", manifest.dataset), "dataset is no name that a folder can have"),
        (min(manifest.std, default=0) >= 0, "std is below 0"),
        (manifest.value_scale > 0, "value_scale is not above 0"),
        (len({scene.id for scene in scenes}) == len(scenes) > 0, "scene ids are not unique, or there are none"),
        (len({scene.number for scene in scenes}) == len(scenes), "scene numbers are not unique"),
        (all(scene.number >= 0 and 0 < scene.valid_share <= 1 for scene in scenes), "a scene's numbers are off"),
        (all(scene.height > 0 and scene.width > 0 for scene in scenes), "a scene has no pixels"),
        (
            all(
                re.fullmatch(rf"{scene.number:05d}_[a-z]+\.npy", array.name)
                for scene in scenes
                for array in scene.arrays
            ),
            "a scene has arrays that are not its own",
        ),
        (
            all(len(scene.class_pixels) == len(manifest.classes) for scene in scenes),
            "class_pixels does not match classes",
        ),
        (all(count >= 0 for scene in scenes for count in scene.class_pixels), "class_pixels is below 0"),
        (len(manifest.classes) <= manifest.ignore_index <= 255, "ignore_index is no value that a mask can have"),
        (all(0 <= part <= 255 for entry in manifest.classes for part in entry.color), "a color is outside 0 to 255"),
    )
