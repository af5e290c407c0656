"""One scene on its way into a store: read strip by strip, checked, written aside and renamed, then recorded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.array_writer import SceneFiles
from ssl_rs.data.dataset import IGNORE, Dataset, Scene, SceneArrays, SceneSource
from ssl_rs.data.downsampling import coarser_size, coarser_transform, downsample
from ssl_rs.data.erosion import ROWS, erode
from ssl_rs.data.given_scenes import check_read, check_strip
from ssl_rs.data.manifest import SceneRecord, SourceRecord
from ssl_rs.data.moments import Moments, add_up, measure
from ssl_rs.data.records import to_json
from ssl_rs.data.store import Kind, array_file
from ssl_rs.data.value_types import STORED, ValueType
from ssl_rs.errors import InputError, counted, in_a_line
from ssl_rs.files import write_beside


@dataclass(frozen=True)
class WrittenScene:
    """What is known about a scene whose arrays are in place.

    Args:
        record: Its entry in the manifest.
        dtype: Type of its image.
        moments: Sums for the band statistics; None for scenes outside of the training split.
    """

    record: SceneRecord
    dtype: ValueType
    moments: Moments | None


def record_file(number: int) -> str:
    """Return the name of the file that says that a scene is whole; it lives until the store is finished."""
    return f"{number:05d}.json"


def write_scene(dataset: Dataset, number: int, source: SceneSource, folder: Path) -> WrittenScene:
    """Read a scene once, check it, and write its arrays and then its record into a folder.

    Args:
        dataset: Where the scene belongs.
        number: Its place among the scenes.
        source: What to read.
        folder: Where to write.

    Raises:
        InputError: The scene cannot be read, or contradicts the data set's bands, type or classes.
    """
    if source.problem:
        raise InputError(source.problem)
    where = ", ".join(map(str, source.files[:2]))
    with _about(where):
        found = dataset.read(source)
    check_read(dataset, source, found)
    scene = _whole(found) if isinstance(found, SceneArrays) else found
    factor = dataset.downsample
    height, width = size = coarser_size(scene, factor, where, dataset.downsample_key)
    tally = _write_strips(dataset, number, source, scene, size, folder, where)
    record = SceneRecord(
        number=number,
        id=source.id,
        split=source.split,
        height=height,
        width=width,
        crs=scene.crs,
        transform=scene.transform and coarser_transform(scene.transform, factor),
        sources=tuple(SourceRecord(file.name, file.sha256()) for file in source.files),
        class_pixels=tuple(tally.class_pixels[: len(dataset.classes)].tolist()),
        valid_share=tally.valid_pixels / (height * width),
        arrays=tuple(SourceRecord(array_file(number, kind), sha256) for kind, sha256 in tally.hashes.items()),
    )
    moments = add_up(tally.moments) if source.split == "train" else None
    written = WrittenScene(record, cast(ValueType, tally.dtype), moments)
    write_beside(folder / record_file(number), to_json(written))
    return written


@contextmanager
def _about(where: str) -> Iterator[None]:
    """Within it, what a library says of a file that it cannot read is about the scene of that file.

    Raises:
        InputError: The scene cannot be read.
        OSError: The system refuses it, as where a disk fails: that says nothing about the scene.
    """
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{where} cannot be read: {in_a_line(error)}. Repair the file, or take the scene out."
        ) from error


def _whole(arrays: SceneArrays) -> Scene:
    """Return a scene in memory as one strip."""
    return Scene(arrays.image.shape[1], arrays.image.shape[2], arrays.crs, arrays.transform, iter([arrays]))


@dataclass(frozen=True)
class _Tally:
    """What is known of the strips of a scene: the sha256 of each array, and what adds up."""

    dtype: str
    hashes: Mapping[Kind, str]
    class_pixels: NDArray[np.int64]
    valid_pixels: int
    moments: list[Moments]


def _write_strips(
    dataset: Dataset, number: int, source: SceneSource, scene: Scene, size: tuple[int, int], folder: Path, where: str
) -> _Tally:
    """Write the arrays of a scene, whose height and width in the store are given, and count what is in them."""
    dtype, moments, valid_pixels = "", [], 0
    class_pixels = np.zeros(256, np.int64)
    with SceneFiles(folder, number, size[0]) as files:
        for top, strip, valid in downsample(_checked_strips(dataset, source, scene, where), dataset.downsample):
            dtype = strip.image.dtype.name
            valid_pixels += int(np.count_nonzero(valid))
            # Nodata may be NaN or -9999: no value for a network.
            image = (
                strip.image if strip.valid is None else np.where(valid, strip.image, np.zeros((), strip.image.dtype))
            )
            files.write("image", top, image)
            files.write("valid", top, valid)
            if strip.mask is not None:
                files.write("mask", top, strip.mask)
                class_pixels += np.bincount(strip.mask.ravel(), minlength=256)
            if strip.eroded is not None:
                files.write("eroded", top, strip.eroded)
            if source.split == "train":
                moments.append(measure(image, strip.valid, _ceiling(dataset, dtype), strip.nodata))
        if valid_pixels == 0 and not dataset.may_be_empty:
            raise InputError(f"{where}: no pixel holds data: all are nodata. Take the scene out.")
        hashes = files.finish(leave_out=["valid"] if valid_pixels == size[0] * size[1] else [])
    if dataset.erodes and "mask" in hashes and "eroded" not in hashes:
        hashes["eroded"] = _write_eroded(folder, number)
    return _Tally(dtype, hashes, class_pixels, valid_pixels, moments)


def _ceiling(dataset: Dataset, dtype: str) -> float | None:
    """Return the largest value that counts in the statistics, where it is known beforehand."""
    return 255.0 if dataset.value_scale is None and dtype == "uint8" else dataset.value_scale


def _checked_strips(
    dataset: Dataset, source: SceneSource, scene: Scene, where: str
) -> Iterator[tuple[int, SceneArrays, NDArray[np.bool_]]]:
    """Yield the first row of each strip, the strip with its masks ignored where there is no data, and where there is.

    Raises:
        InputError: The image or its mask cannot be used.
    """
    top, dtype = 0, dataset.dtype
    for strip in _read_strips(scene, where):
        check_strip(dataset, source, strip, scene.width)
        height = strip.image.shape[1]
        valid = np.ones((height, scene.width), np.bool_) if strip.valid is None else strip.valid
        image = strip.image.astype(strip.image.dtype.newbyteorder("="), copy=False)
        _check_image(dataset, image, dtype, where)
        dtype = image.dtype.name  # type: ignore[assignment]
        _check_finite(image, valid, top, where)
        masks = []
        for labels in (strip.mask, strip.eroded) if dataset.classes else (None, None):
            if labels is not None:
                labels = _as_bytes(labels, where)
                _check_mask(labels, strip.image.shape[1:], len(dataset.classes), where)
                labels = np.where(valid, labels, np.uint8(IGNORE))
            masks.append(labels)
        if masks[0] is not None and source.split == "unlabeled":
            raise InputError(
                f"{where}: the scene is unlabeled, but has a mask. Give it a split, or leave the mask out."
            )
        if masks[0] is None and dataset.classes and source.split != "unlabeled":
            raise InputError(
                f"{where}: the scene has no mask, but the data set has classes. Add the mask, or take the scene out."
            )
        known = None if valid.all() else valid
        yield top, SceneArrays(image, masks[0], valid=known, eroded=masks[1], nodata=strip.nodata), valid
        top += height
    if top != scene.height:
        raise InputError(f"{where}: its strips have {top} rows in all, expected its height of {scene.height}.")


def _read_strips(scene: Scene, where: str) -> Iterator[SceneArrays]:
    """Yield the strips of a scene, which are read as they are asked for."""
    strips = iter(scene.strips)
    while True:
        with _about(where):
            strip = next(strips, None)
        if strip is None:
            return
        yield strip


def _check_image(dataset: Dataset, image: NDArray[Any], dtype: str | None, where: str) -> None:
    """Check number of bands and type of values.

    Raises:
        InputError: Others than expected.
    """
    expected = dtype or f"{', '.join(STORED[:-1])} or {STORED[-1]}"
    if image.dtype.name not in STORED or (dtype and image.dtype.name != dtype):
        how = "" if dtype else ", e.g. by `gdal_translate -ot Float32`"
        raise InputError(f"{where}: expected values of type {expected}, got {image.dtype}. Convert the image{how}.")
    if len(image) != len(dataset.band_names):
        raise InputError(
            f"{where}: expected {counted(len(dataset.band_names), 'band')} ({', '.join(dataset.band_names)}), "
            f"got {counted(len(image), 'band')} of {image.dtype}. Name them all in dataset.bands, or choose some "
            "by dataset.channels=[1,...] (both of a folder); or convert the image, or take the scene out."
        )


def _check_finite(image: NDArray[Any], valid: NDArray[np.bool_], top: int, where: str) -> None:
    """Check that float images have numbers wherever they are valid.

    Raises:
        InputError: NaN or infinity.
    """
    if image.dtype.kind != "f":
        return
    bad = ~np.isfinite(image).all(axis=0) & valid  # [h, W]
    if bad.any():
        row, column = np.argwhere(bad)[0]
        remedy = (
            "Where NaN means no data, let the file say so, e.g. by `gdal_edit.py -a_nodata nan FILE` (if it declares "
            "another nodata value, write that one there instead)"
            if np.isnan(image).all(axis=0)[bad].all()
            else "Give the file a nodata value that all its bands have there (NaN in some bands alone is none)"
        )
        raise InputError(
            f"{where}: NaN or infinite in {counted(int(bad.sum()), 'pixel')}, the first at row {top + row}, column "
            f"{column}. {remedy}, or repair the values."
        )


def _as_bytes(mask: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return a mask of whole numbers as uint8.

    Raises:
        InputError: It is of another type, or has numbers beyond those of a byte.
    """
    if mask.dtype == np.uint8:
        return mask
    if mask.dtype.kind not in "biu":
        raise InputError(
            f"{where}: the mask is of {mask.dtype}, expected class indices as whole numbers. Convert it, e.g. by "
            "mask.astype(np.uint8)."
        )
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= IGNORE:
        raise InputError(
            f"{where}: the mask holds numbers from {int(mask.min())} to {int(mask.max())}, expected class indices, and "
            f"{IGNORE} where there is no label."
        )
    return mask.astype(np.uint8)


def _check_mask(mask: NDArray[np.uint8], shape: tuple[int, ...], num_classes: int, where: str) -> None:
    """Check size and values of a mask.

    Raises:
        InputError: Another size than the image, or an index that is no class.
    """
    if mask.shape != shape:
        sizes = [" x ".join(map(str, each)) for each in (mask.shape, shape)]
        raise InputError(
            f"{where}: the mask has {sizes[0]} pixels, its image {sizes[1]} (rows x columns). Resample one of them."
        )
    unknown = (mask >= num_classes) & (mask != IGNORE)
    if unknown.any():
        raise InputError(
            f"{where}: the mask holds {np.unique(mask[unknown]).tolist()}, known are 0 to {num_classes - 1} and 255."
        )


def _write_eroded(folder: Path, number: int) -> str:
    """Write the eroded mask of a scene whose mask is in place; return its sha256."""
    mask = np.load(folder / array_file(number, "mask"), mmap_mode="r")
    with SceneFiles(folder, number, mask.shape[0]) as files:
        for top in range(0, mask.shape[0], ROWS):
            files.write("eroded", top, erode(mask, top, min(top + ROWS, mask.shape[0])))
        return files.finish()["eroded"]
