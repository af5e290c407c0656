"""One scene on its way into a store: read, checked, written aside and renamed, then recorded."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import Dataset, SceneArrays, SceneSource
from ssl_rs.data.manifest import SceneRecord, SourceFile
from ssl_rs.data.moments import Moments, measure
from ssl_rs.data.records import to_json
from ssl_rs.data.store import image_file, mask_file
from ssl_rs.errors import InputError
from ssl_rs.run_directory import write_text


@dataclass(frozen=True)
class WrittenScene:
    """What is known about a scene whose arrays are in place.

    Args:
        record: Its entry in the manifest.
        dtype: Type of its image.
        num_bands: Channels of its image.
        moments: Sums for the band statistics; None for scenes outside of the training split.
    """

    record: SceneRecord
    dtype: Literal["uint8", "uint16", "float32"]
    num_bands: int
    moments: Moments | None


def record_file(index: int) -> str:
    """Return the name of the file that says that a scene is whole; it lives until the store is finished."""
    return f"{index:05d}.json"


def write_scene(
    dataset: Dataset, index: int, scene: SceneSource, folder: Path, hash_file: Callable[[Path], str]
) -> WrittenScene:
    """Read a scene, check it, and write its arrays and then its record into a folder.

    Args:
        dataset: Where the scene belongs.
        index: Its place among the scenes.
        scene: What to read.
        folder: Where to write.
        hash_file: Gives the sha256 of a source file.

    Raises:
        InputError: The scene cannot be read, or contradicts the data set's bands or classes.
    """
    arrays = dataset.read(scene)
    where = ", ".join(map(str, scene.files[:2]))
    dtype = _check_image(arrays, where)
    image = np.ascontiguousarray(arrays.image)
    if arrays.valid is not None:
        image = np.where(
            arrays.valid, image, np.zeros((), image.dtype)
        )  # nodata may be NaN or -9999: no value for a network
    _write_array(folder / image_file(index), image)
    pixels: tuple[int, ...] = ()
    if dataset.classes:
        mask = _check_mask(arrays, len(dataset.classes), where)
        pixels = tuple(np.bincount(mask.ravel(), minlength=256)[: len(dataset.classes)].tolist())
        _write_array(folder / mask_file(index), mask)
    ceiling = 255.0 if dataset.value_scale is None and dtype == "uint8" else dataset.value_scale
    record = SceneRecord(
        id=scene.id,
        split=scene.split,
        height=image.shape[1],
        width=image.shape[2],
        crs=arrays.crs,
        transform=arrays.transform,
        sources=tuple(SourceFile(path.name, hash_file(path)) for path in scene.files),
        class_pixels=pixels,
        valid_share=1.0 if arrays.valid is None else float(arrays.valid.mean()),
    )
    moments = measure(image, arrays.valid, ceiling) if scene.split == "train" else None
    written = WrittenScene(record, dtype, len(image), moments)
    write_text(folder / record_file(index), to_json(written))
    return written


def _check_image(arrays: SceneArrays, where: str) -> Literal["uint8", "uint16", "float32"]:
    """Return the type of an image's values.

    Raises:
        InputError: Not [C, H, W] with pixels, another type, or NaN or infinity where the image is valid.
    """
    image = arrays.image
    if image.ndim != 3 or image.size == 0:
        raise InputError(f"{where}: expected an image of bands, rows and columns, got the shape {list(image.shape)}.")
    if image.dtype.name not in ("uint8", "uint16", "float32"):
        raise InputError(
            f"{where}: expected values of type uint8, uint16 or float32, got {image.dtype}. Convert the image."
        )
    if image.dtype.name == "float32":
        bad = ~np.isfinite(image).all(axis=0)  # [H, W]
        if arrays.valid is not None:
            bad &= arrays.valid
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InputError(
                f"{where}: {int(bad.sum())} pixels are NaN or infinite, the first at row {row}, column {column}. "
                "Give the file a nodata value that all its bands have there, or repair the values."
            )
    return cast(Literal["uint8", "uint16", "float32"], image.dtype.name)


def _check_mask(arrays: SceneArrays, num_classes: int, where: str) -> NDArray[np.uint8]:
    """Return the mask, ignored wherever the image has no data.

    Raises:
        InputError: No mask, another size than the image, or an index that is no class.
    """
    mask = arrays.mask
    if mask is None:
        raise InputError(
            f"{where}: the scene has no mask, but the data set has classes. Add the mask, or take the scene out."
        )
    if mask.shape != arrays.image.shape[1:]:
        expected = " x ".join(map(str, arrays.image.shape[1:]))
        raise InputError(
            f"{where}: the mask has {' x '.join(map(str, mask.shape))} pixels, its image {expected} (rows x columns)."
        )
    unknown = (mask >= num_classes) & (mask != Dataset.ignore_index)
    if unknown.any():
        raise InputError(
            f"{where}: the mask holds {np.unique(mask[unknown]).tolist()}, known are 0 to {num_classes - 1} and 255."
        )
    if arrays.valid is not None:
        mask = np.where(arrays.valid, mask, np.uint8(Dataset.ignore_index))
    return np.ascontiguousarray(mask, dtype=np.uint8)


def _write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array aside, flush it to the disk, and rename it."""
    aside = path.with_name(f".{path.name}.partial")
    with open(aside, "wb") as file:
        np.lib.format.write_array(file, array, version=(1, 0))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
