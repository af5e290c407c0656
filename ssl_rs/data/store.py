"""A prepared data set on disk, read through memory maps: memory does not grow with its size."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import Split
from ssl_rs.data.manifest import MANIFEST_FILE, Manifest
from ssl_rs.errors import InputError

OPEN_MAPS = 128
"""Arrays kept open: each holds a file descriptor, of which a process often has 1,024."""


def image_file(index: int) -> str:
    """Return the file name of a scene's image, an array [C, H, W]."""
    return f"{index:05d}_image.npy"


def mask_file(index: int) -> str:
    """Return the file name of a scene's mask, an array [H, W] uint8."""
    return f"{index:05d}_mask.npy"


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
            for index, scene in enumerate(manifest.scenes):
                _check_array(path / image_file(index), (len(manifest.bands), scene.height, scene.width), manifest.dtype)
                if manifest.classes:
                    _check_array(path / mask_file(index), (scene.height, scene.width), "uint8")
        except InputError as error:
            raise InputError(
                f"The store is damaged: {error} Delete the folder {path} and run prepare again."
            ) from error
        return cls(path, manifest)

    def scenes_of(self, split: Split) -> tuple[int, ...]:
        """Return the indices of a split's scenes."""
        return tuple(index for index, scene in enumerate(self.manifest.scenes) if scene.split == split)

    def image(self, index: int) -> NDArray[Any]:
        """Return the image of a scene, [C, H, W], as a read-only memory map."""
        return self._map(image_file(index))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the mask of a scene, [H, W], as a read-only memory map; only of a data set with classes."""
        return self._map(mask_file(index))

    def _map(self, name: str) -> NDArray[Any]:
        if name in self._maps:
            self._maps[name] = self._maps.pop(name)  # the last used is the last to go
        else:
            if len(self._maps) >= OPEN_MAPS:
                del self._maps[next(iter(self._maps))]
            self._maps[name] = np.load(self.path / name, mmap_mode="r")
        return self._maps[name]

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "manifest": self.manifest,
            "_maps": {},
        }  # a pickled memory map would carry its content


def _check_array(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Compare the header and the size of an .npy file with what the manifest says.

    Raises:
        InputError: They differ.
    """
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            found_shape, fortran_order, found_dtype = np.lib.format.read_array_header_1_0(file)
            header = file.tell()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if found_shape != shape or found_dtype != np.dtype(dtype) or fortran_order:
        raise InputError(f"{path} holds {found_dtype} {list(found_shape)}, expected {dtype} {list(shape)}.")
    size = header + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if path.stat().st_size != size:
        raise InputError(f"{path} has {path.stat().st_size} bytes, expected {size}.")
