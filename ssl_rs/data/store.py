"""A prepared data set on disk, read through memory maps: memory does not grow with its size."""

import math
import mmap
import os
import resource
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import Split
from ssl_rs.data.manifest import MANIFEST_FILE, Manifest, SceneRecord
from ssl_rs.errors import InputError


def most_open_maps(descriptors: int) -> int:
    """Return how many arrays may stay open: each holds a file descriptor and one of a process's 65,530 maps.

    Args:
        descriptors: The most files that the process may have open; RLIM_INFINITY: any number.
    """
    most = 2**14
    return most if descriptors == resource.RLIM_INFINITY else min(max(descriptors // 2, 1), most)


OPEN_MAPS = most_open_maps(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""Arrays kept open."""

Kind = Literal["image", "mask", "eroded", "valid"]


def array_file(number: int, kind: Kind) -> str:
    """Return the name of a scene's file: image [C, H, W]; mask, eroded [H, W] uint8; valid [H, W] bool."""
    return f"{number:05d}_{kind}.npy"


class Store:
    """The scenes of a prepared data set.

    Args:
        path: Its folder.
        manifest: What the folder holds; use `Store.open` to have it read and checked.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._maps: dict[str, NDArray[Any]] = {}
        self._layouts: dict[str, _Layout] = {}

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a store after checking that every array is there, whole, without reading any.

        Raises:
            InputError: Something is missing or cut short; names the file and the remedy.
        """
        if not (path / MANIFEST_FILE).is_file():
            raise InputError(
                f"{path} is no store: {MANIFEST_FILE} is missing. Delete the folder and run prepare again."
            )
        try:
            manifest = Manifest.read(path)
            for scene in manifest.scenes:
                for kind, shape, dtype in _arrays(manifest, scene):
                    _check_array(path / array_file(scene.number, kind), shape, dtype)
        except InputError as error:
            raise InputError(
                f"The store is damaged: {error} Delete the folder {path} and run prepare again."
            ) from error
        return cls(path, manifest)

    def image_hashes(self, splits: Collection[Split]) -> set[str]:
        """Return the sha256 of the stored image of every scene of some splits: equal pixels, equal hash."""
        return {self.image_hash(index) for index, scene in enumerate(self.manifest.scenes) if scene.split in splits}

    def image_hash(self, index: int) -> str:
        """Return the sha256 of the stored image of a scene."""
        scene = self.manifest.scenes[index]
        name = array_file(scene.number, "image")
        return next(array.sha256 for array in scene.arrays if array.name == name)

    def scenes_of(self, split: Split | Literal["all"]) -> tuple[int, ...]:
        """Return the indices of a split's scenes; of all that are in one, whatever it is: "unlabeled" is none."""
        return tuple(
            index
            for index, scene in enumerate(self.manifest.scenes)
            if scene.split == split or (split == "all" and scene.split != "unlabeled")
        )

    def image(self, index: int) -> NDArray[Any]:
        """Return the image of a scene, [C, H, W], as a read-only memory map.

        Raises:
            InputError: The file was changed or cut short since it was opened; `mask`, `eroded` and `valid` as well.
        """
        return self._map(index, "image")

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the mask of a scene, [H, W], as a read-only memory map; only of a scene with labels."""
        return self._map(index, "mask")

    def eroded(self, index: int) -> NDArray[np.uint8]:
        """Return the mask without the boundaries of its objects, [H, W]; only where `manifest.eroded`."""
        return self._map(index, "eroded")

    def valid(self, index: int) -> NDArray[np.bool_] | None:
        """Return where the image of a scene holds data, [H, W]; None where all of it does."""
        return self._map(index, "valid") if self.manifest.scenes[index].valid_share < 1 else None

    def announce(self, index: int, kind: Kind, top: int, bottom: int) -> None:
        """Tell the system that rows of an array will be read: it then fetches them at once, not page by page.

        Args:
            index: Of the scene.
            kind: Which array.
            top: The first row; rows outside of the scene are left out.
            bottom: The row behind the last.
        """
        array = cast("np.memmap[Any, Any]", self._map(index, kind))
        file = cast(mmap.mmap, array.base)
        height, row_bytes = array.shape[-2], array.strides[-2]
        first, last = (min(max(row, 0), height) for row in (top, bottom))
        if first == last or not hasattr(mmap, "MADV_WILLNEED"):
            return
        for band in range(array.size // (height * array.shape[-1])):
            start = array.offset + (band * height + first) * row_bytes
            aligned = start - start % mmap.PAGESIZE
            file.madvise(mmap.MADV_WILLNEED, aligned, start - aligned + (last - first) * row_bytes)

    def _map(self, index: int, kind: Kind) -> NDArray[Any]:
        name = array_file(self.manifest.scenes[index].number, kind)
        path = self.path / name
        if name in self._maps:
            self._maps[name] = self._maps.pop(name)  # the last used is the last to go
        else:
            if len(self._maps) >= OPEN_MAPS:
                del self._maps[next(iter(self._maps))]
            self._maps[name] = self._open(path, name)
        # Behind the end of a file that was cut short, a map gives zeros or kills the process. Asking takes 7 us.
        with suppress(FileNotFoundError):  # what is open stays whole when its name is deleted
            if _size_and_time(path) != self._layouts[name].size_and_time:
                raise InputError(
                    f"{path} was changed while it was read. Run prepare with check=true, which tells whether it is "
                    f"damaged; if so, delete the folder {self.path}. The same command then goes on."
                )
        return self._maps[name]

    def _open(self, path: Path, name: str) -> NDArray[Any]:
        """Open a memory map: by what is known of its file, which takes a fifth of the time, or as numpy does.

        Raises:
            InputError: The file is damaged or gone.
        """
        known = self._layouts.get(name)
        try:
            if known is not None and _size_and_time(path) == known.size_and_time:
                return np.memmap(path, known.dtype, "r", known.offset, known.shape)
            array = cast("np.memmap[Any, Any]", np.load(path, mmap_mode="r"))
            found = _Layout(array.dtype, array.offset, array.shape, _size_and_time(path))
            self._layouts.setdefault(name, found)  # a file that has changed since is found out by its user
            return array
        except (OSError, ValueError) as error:
            raise InputError(
                f"The store is damaged: {path} cannot be read: {error}. Delete the folder {path.parent}; the same "
                "command then prepares the data again, and goes on."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "manifest": self.manifest,
            "_maps": {},  # a pickled memory map would carry its content
            "_layouts": self._layouts,
        }


@dataclass(frozen=True)
class _Layout:
    """Where the values of an .npy file lie, and size and time of change of the file that was found to be so."""

    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    size_and_time: tuple[int, int]


def _size_and_time(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _arrays(manifest: Manifest, scene: SceneRecord) -> list[tuple[Kind, tuple[int, ...], str]]:
    """Return kind, shape and type of each array that a scene has."""
    size = (scene.height, scene.width)
    arrays: list[tuple[Kind, tuple[int, ...], str]] = [("image", (len(manifest.bands), *size), manifest.dtype)]
    labeled = scene.split != "unlabeled"
    if manifest.classes and labeled:
        arrays.append(("mask", size, "uint8"))
    if manifest.eroded and labeled:
        arrays.append(("eroded", size, "uint8"))
    if scene.valid_share < 1:
        arrays.append(("valid", size, "bool"))
    return arrays


def _check_array(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Compare the header and the size of an .npy file with what the manifest says.

    Raises:
        InputError: They differ.
    """
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("it has another version of the .npy format")
            found_shape, fortran_order, found_dtype = np.lib.format.read_array_header_1_0(file)
            header = file.tell()
    except Exception as error:  # numpy reads the header as Python, which raises errors of many kinds for odd bytes
        raise InputError(f"{path} cannot be read: {error}.") from error
    if found_shape != shape or found_dtype != np.dtype(dtype) or fortran_order:
        raise InputError(f"{path} holds {found_dtype} {list(found_shape)}, expected {dtype} {list(shape)}.")
    size = header + math.prod(shape) * np.dtype(dtype).itemsize
    if path.stat().st_size != size:
        raise InputError(f"{path} has {path.stat().st_size} bytes, expected {size}.")
