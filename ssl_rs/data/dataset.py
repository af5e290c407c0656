"""What a data set is: scenes with an image, maybe a mask, and the settings that every data set has."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_rs.errors import InputError

Split = Literal["train", "val", "test"]

IGNORE = 255
"""The mask value of pixels that have no label."""


@dataclass(frozen=True)
class SegmentationClass:
    """A class of the masks; its index is its place in the data set's tuple.

    Args:
        name: What it is called in tables.
        color: Red, green, blue in [0, 255], for pictures.
    """

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class SceneSource:
    """Where a scene comes from.

    Args:
        id: Unique within the data set.
        split: The split it belongs to.
        files: Everything it is read from; if one of them changes, the data set is prepared anew.
    """

    id: str
    split: Split
    files: tuple[Path, ...]


@dataclass(frozen=True)
class SceneArrays:
    """A scene in memory.

    Args:
        image: [C, H, W], uint8, uint16 or float32.
        mask: [H, W] uint8, class indices or 255; None where the data set has no classes.
        crs: Coordinate reference system, e.g. "EPSG:4326".
        transform: a, b, c, d, e, f with x = a * column + b * row + c and y = d * column + e * row + f.
        valid: [H, W] bool, false where the image holds no data; None where all of it does.
    """

    image: NDArray[np.generic]
    mask: NDArray[np.uint8] | None = None
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    valid: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """A set of scenes that share bands, value type and classes.

    Args:
        name: How stores, runs and tables call it.
        root: Folder of its files.
        crop_size: Side of the squares that training reads, in pixels.
        tile_size: Side of the squares that are labeled or not, in pixels.
        tile_shift: How far a crop may reach beyond its tile on each side, as a share of `tile_size`.
        protocol: Name of the protocol whose metrics stand for this data set.
        value_scale: The stored value that becomes 1; None: 255 for uint8, else the largest of the training split.

    Raises:
        InputError: A setting out of its range.
    """

    name: str
    root: str | None
    crop_size: int
    tile_size: int
    tile_shift: float
    protocol: str
    value_scale: float | None

    ignore_index = IGNORE

    def __post_init__(self) -> None:
        """Check the shared settings."""
        for key, good, expected in (
            ("name", re.fullmatch(r"\w[\w.-]*", self.name), "letters, digits, _, - and ."),
            ("crop_size", self.crop_size >= 1, "at least 1 pixel"),
            ("tile_size", self.tile_size >= 1, "at least 1 pixel"),
            ("tile_shift", 0 <= self.tile_shift <= 1, "a share in [0, 1]"),
            ("value_scale", self.value_scale is None or self.value_scale > 0, "above 0, or null"),
        ):
            if not good:
                raise InputError(f"dataset.{key} must be {expected}, got {getattr(self, key)!r}.")

    @property
    @abstractmethod
    def bands(self) -> tuple[str, ...]:
        """Names of the image's channels, in order."""

    @property
    @abstractmethod
    def classes(self) -> tuple[SegmentationClass, ...]:
        """The classes of the masks; none for a data set without labels."""

    @abstractmethod
    def scenes(self) -> Sequence[SceneSource]:
        """List every scene without reading it, in an order that does not depend on the machine.

        Raises:
            InputError: Files that are missing or in the wrong place.
        """

    @abstractmethod
    def read(self, scene: SceneSource) -> SceneArrays:
        """Read one scene.

        Raises:
            InputError: A file that cannot be read or holds something unexpected.
        """

    def folder(self, layout: str) -> Path:
        """Return `root` as a path.

        Args:
            layout: What should lie in it, for the message.

        Raises:
            InputError: `root` is not set or is no folder.
        """
        if self.root is None:
            raise InputError(f"dataset.root is not set. Set dataset.root=FOLDER to a folder that holds {layout}.")
        if not Path(self.root).is_dir():
            raise InputError(f"dataset.root={self.root} is no folder. It should hold {layout}.")
        return Path(self.root)


def band_names(count: int) -> tuple[str, ...]:
    """Return the names of an image's channels when nothing but their number is known."""
    return ("red", "green", "blue") if count == 3 else tuple(f"band_{index + 1}" for index in range(count))
