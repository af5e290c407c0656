"""What a data set lists and reads, checked by types and shapes: one that a user wrote may give something else."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.crs import CRS

from ssl_rs.data.dataset import Dataset, Scene, SceneArrays, SceneSource, SegmentationClass
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError


def check_listed(dataset: Dataset, scenes: Any) -> None:
    """Refuse classes and scenes of other types than a data set has to give.

    Args:
        dataset: Whose they are.
        scenes: What its `scenes` gave.

    Raises:
        InputError: Names the data set's class, and the scene.
    """
    name = type(dataset).__name__
    for each in dataset.classes:
        if not isinstance(each, SegmentationClass):
            raise InputError(
                f"{name}.classes holds {each!r:.60}, expected ssl_rs.data.dataset.SegmentationClass(name, color)."
            )
    if not isinstance(scenes, Sequence):
        raise InputError(f"{name}.scenes gives a {type(scenes).__name__}, expected a list of SceneSource.")
    for scene in scenes:
        if not isinstance(scene, SceneSource):
            raise InputError(f"{name}.scenes gives {scene!r:.60}, expected ssl_rs.data.dataset.SceneSource.")
        files: Any = scene.files
        if not isinstance(files, (tuple, list)) or not all(isinstance(file, SourceFile) for file in files):
            raise InputError(
                f"{name}.scenes: the files of scene '{scene.id}' are {files!r:.80}, expected a tuple of "
                "ssl_rs.data.source_files.SourceFile(path)."
            )


def check_read(dataset: Dataset, source: SceneSource, found: Any) -> None:
    """Refuse what is no scene, or lies nowhere that anybody knows.

    Args:
        dataset: Whose scene it is.
        source: What was read.
        found: What the data set's `read` gave.

    Raises:
        InputError: Names the data set's class, and the scene.
    """
    told = _told(dataset, source)
    if not isinstance(found, (SceneArrays, Scene)):
        raise InputError(f"{told} gives a {type(found).__name__}, expected ssl_rs.data.dataset.SceneArrays or Scene.")
    if isinstance(found, SceneArrays):
        check_strip(dataset, source, found)
    crs: Any = found.crs
    if crs is not None and not (isinstance(crs, str) and _is_known(crs)):
        raise InputError(f'{told} gives crs={crs!r:.60}, expected a text that PROJ knows, e.g. "EPSG:32632", or None.')
    transform: Any = found.transform
    if transform is not None and not _is_transform(transform):
        raise InputError(
            f"{told} gives transform={transform!r:.80}, expected six numbers a, b, c, d, e, f (of an Affine its first "
            "six), or None."
        )


def check_strip(dataset: Dataset, source: SceneSource, strip: Any, width: int | None = None) -> None:
    """Refuse rows of a scene that are no arrays, or of shapes that do not fit each other.

    Args:
        dataset: Whose scene it is.
        source: What was read.
        strip: Some rows, or all.
        width: Of the scene; None: it is not known yet.

    Raises:
        InputError: Names the data set's class, and the scene.
    """
    told = _told(dataset, source)
    if not isinstance(strip, SceneArrays):
        raise InputError(f"{told}: a strip is a {type(strip).__name__}, expected ssl_rs.data.dataset.SceneArrays.")
    for part in ("image", "mask", "valid", "eroded"):
        value = getattr(strip, part)
        if not isinstance(value, np.ndarray) and (part == "image" or value is not None):
            raise InputError(f"{told} gives {part} as a {type(value).__name__}, expected a numpy array.")
    shape = list(strip.image.shape)
    if strip.image.ndim != 3 or strip.image.size == 0:
        raise InputError(f"{told}: expected an image of bands, rows and columns, got the shape {shape}.")
    if width not in (None, shape[2]):
        raise InputError(f"{told}: a strip has {shape[2]} columns, expected the width of its scene, {width}.")
    valid = strip.valid
    if valid is not None and (valid.dtype != np.bool_ or list(valid.shape) != shape[1:]):
        raise InputError(
            f"{told} gives valid as {valid.dtype} {list(valid.shape)}, expected bool {shape[1:]}: rows and columns of "
            "the image, true where it holds data."
        )


def _told(dataset: Dataset, source: SceneSource) -> str:
    return f"{type(dataset).__name__}.read of scene '{source.id}'"


def _is_known(crs: str) -> bool:
    try:
        CRS.from_string(crs)
    except ValueError:  # rasterio's CRSError is one, and does not cover all
        return False
    return True


def _is_transform(value: Any) -> bool:
    numbers = isinstance(value, (tuple, list)) and all(isinstance(each, (int, float)) for each in value)
    return numbers and len(value) == 6 and all(map(math.isfinite, value))
