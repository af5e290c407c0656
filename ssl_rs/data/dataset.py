"""What a data set is: scenes with an image, maybe a mask, and the settings that every data set has."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.value_types import ValueType
from ssl_rs.errors import InputError
from ssl_rs.scene_groups import grouping

Split = Literal["train", "val", "test", "unlabeled"]
"""What a scene is for; `unlabeled`: for pretraining alone, beside the training scenes. It has no mask."""

Transform = tuple[float, float, float, float, float, float]

IGNORE = 255
"""The mask value of pixels that have no label."""

LARGEST_SIDE = 2**14
"""Pixels of a crop's side: a batch of such crops has more of them than any GPU holds."""

LARGEST_TILE = 2**30
"""Pixels of a tile's side: larger than any scene, and small enough for positions to be 64-bit numbers."""


LARGEST_BLOCK = 64
"""Pixels of a side that may become one."""


USED_LATER = ("root", "crop_size", "tile_size", "tile_shift", "protocol", "transductive", "scene_group")
"""Settings of every data set that change nothing in its store."""


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
        problem: Why it cannot be read, where listing the files showed that already, e.g. that its mask is missing.
        alike: The same, in words that fit every scene of which it is so: they are told once, after the names of all.
    """

    id: str
    split: Split
    files: tuple[SourceFile, ...]
    problem: str | None = None
    alike: str | None = None


@dataclass(frozen=True)
class SceneArrays:
    """A scene, or some rows of one, in memory.

    Args:
        image: [C, H, W], in one of the types of `ssl_rs.data.value_types.STORED`.
        mask: [H, W] uint8, class indices or 255; None where the data set has no classes, and of unlabeled scenes.
        crs: Coordinate reference system, e.g. "EPSG:4326".
        transform: a, b, c, d, e, f with x = a * column + b * row + c and y = d * column + e * row + f.
        valid: [H, W] bool, false where the image holds no data; None where all of it does.
        eroded: [H, W] uint8, the mask without the boundaries of its objects (255), where files of it exist.
        nodata: The value that the file says means no data; `valid` knows already where all of its bands have it.
    """

    image: NDArray[Any]
    mask: NDArray[np.uint8] | None = None
    crs: str | None = None
    transform: Transform | None = None
    valid: NDArray[np.bool_] | None = None
    eroded: NDArray[np.uint8] | None = None
    nodata: float | None = None


@dataclass(frozen=True)
class Scene:
    """An open scene that is too large to be held in memory: read once, from top to bottom.

    Args:
        height: In pixels.
        width: In pixels.
        crs: As in `SceneArrays`.
        transform: As in `SceneArrays`.
        strips: Some rows at a time, each at full width; errors of the content show here.
    """

    height: int
    width: int
    crs: str | None
    transform: Transform | None
    strips: Iterator[SceneArrays]


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """A set of scenes that share bands, value type and classes.

    Args:
        name: How stores, runs and tables call it.
        root: Folder of its files.
        crop_size: Side of the squares that training reads, in pixels.
        tile_size: Side of the squares that are labeled or not, in pixels.
        tile_shift: How far a crop may reach beyond its tile on each side, as a share of `tile_size`; at most by half
            of the crop.
        protocol: Name of the protocol whose metrics stand for this data set.
        value_scale: The stored value that becomes 1; None: 255 for uint8, else the largest of the training split.
        on_bad_scene: A scene that cannot be used stops the preparation, or is left out, counted and named.
        transductive: Pretraining may see the images of validation and test scenes too; never their masks.
        downsample: Pixels a side of the blocks that become one stored pixel: images by their mean, masks by majority.
        scene_group: How the ids of scenes begin that lie together, a regular expression, see `ssl_rs.scene_groups`.
            Splits that are drawn keep them together, and intervals over test scenes are over these groups.

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
    on_bad_scene: Literal["error", "skip"]
    transductive: bool
    downsample: int = 1
    scene_group: str | None = None

    clutter: ClassVar[str | None] = None
    """The class that some protocols leave out."""
    erodes: ClassVar[bool] = False
    """Whether the data set is scored without the boundaries of its objects too."""
    dtype: ClassVar[ValueType | None] = None
    """Type that every image must have; None: that of most scenes."""
    may_be_empty: ClassVar[bool] = False
    """Whether images without a pixel of data are read; nothing can be learnt from them."""
    downsample_key: ClassVar[str] = "dataset.downsample"
    """What the command calls `downsample`, for messages."""
    how_to_validate: ClassVar[str] = "prepare the data with such a split"
    """What to do where no scene validates, for messages: "set dataset.val_parts=[8]"."""

    def __post_init__(self) -> None:
        """Check the shared settings."""
        for key, good, expected in (
            ("name", re.fullmatch(r"\w[\w.-]*", self.name), "letters, digits, _, - and ."),
            ("crop_size", 1 <= self.crop_size <= LARGEST_SIDE, f"1 to {LARGEST_SIDE} pixels"),
            ("tile_size", 1 <= self.tile_size <= LARGEST_TILE, f"1 to {LARGEST_TILE} pixels"),
            ("tile_shift", 0 <= self.tile_shift <= 1, "a share in [0, 1]"),
            ("downsample", 1 <= self.downsample <= LARGEST_BLOCK, f"1 to {LARGEST_BLOCK} pixels"),
            ("value_scale", self.value_scale is None or 0 < self.value_scale < math.inf, "a number above 0, or null"),
        ):
            if not good:
                raise InputError(f"dataset.{key} must be {expected}, got {getattr(self, key)!r}.")
        self.group_of("")

    @property
    @abstractmethod
    def band_names(self) -> tuple[str, ...]:
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
    def read(self, scene: SceneSource) -> SceneArrays | Scene:
        """Read one scene: whole, or (`ssl_rs.data.paired.read_pair`) strip by strip.

        Raises:
            InputError: A file that cannot be read or holds something unexpected.
        """

    def stored_by(self) -> dict[str, Any]:
        """Return the settings that decide what is stored, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in USED_LATER}

    def group_of(self, scene: str) -> str:
        """Return the group of a scene's id: those of one group lie together."""
        return grouping(self.scene_group, "dataset.scene_group")(scene)

    def undivided(self) -> "Dataset":
        """Return this data set where nothing is trained, so that no scene has to be in a split of its own."""
        return self

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
