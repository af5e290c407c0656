"""UKIS clouds: 3 scenes of 512 x 512 pixels, 6 bands of top-of-atmosphere reflectance, with clouds and their shadows.

Source: the test files of DLR's ukis-csmask, https://github.com/dlr-eoc/ukis-csmask, Apache-2.0; M. Wieland, Y. Li &
S. Martinis, "Multi-sensor cloud and cloud shadow segmentation with a convolutional neural network", Remote Sensing of
Environment 230, 2019, after which water, snow and land are named. Sentinel-2 (Copernicus), Landsat 5 and 7 (USGS).
Snow does not occur. Masks are plausible but slightly rough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import Dataset, SceneArrays, SceneSource, SegmentationClass, Split
from ssl_rs.data.finding_files import find_files
from ssl_rs.data.listing import wrong_layout
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.matching_files import match_files
from ssl_rs.data.raster import Raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError, nearest

LAYOUT = "sentinel2.npz, landsat5.npz and landsat7.npz, each with img [H, W, 6] and msk [H, W, 1]"
LARGEST_ARRAY = 2**31
"""Bytes: an honest scene has 6 million, but a small damaged file may claim any number."""

MASKS = MaskFormat(
    classes=(
        SegmentationClass("shadow", (70, 70, 90)),
        SegmentationClass("water", (40, 100, 200)),
        SegmentationClass("snow", (120, 220, 255)),
        SegmentationClass("land", (150, 120, 70)),
        SegmentationClass("cloud", (255, 255, 255)),
    ),
    by_color=False,
    indices={value: value for value in range(5)},
)


@dataclass(frozen=True, kw_only=True)
class UkisClouds(Dataset):
    """Every .npz file is a scene, named as its file; those that are named in no setting train.

    Args:
        val_scenes: Names of scenes that validate.
        test_scenes: Names of scenes that test.

    Raises:
        InputError: A scene in both lists.
    """

    val_scenes: Sequence[str]
    test_scenes: Sequence[str]

    band_names = ("blue", "green", "red", "nir", "swir1", "swir2")
    classes = MASKS.classes
    dtype = "float32"
    how_to_validate = "set dataset.val_scenes=[landsat7]"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        twice = sorted(set(self.val_scenes) & set(self.test_scenes))
        if twice:
            raise InputError(f"dataset.val_scenes and dataset.test_scenes both name {twice}. Take them out of one.")

    def scenes(self) -> Sequence[SceneSource]:
        """List the files by name.

        Raises:
            InputError: There are none, or a setting names one that is not there.
        """
        root = self.folder(LAYOUT)
        files = find_files(root)
        found = {stem: file for (stem,), file in match_files(files, root, r"/([^/]+)\.npz").items()}
        if not found:
            raise wrong_layout(root, ".npz file", LAYOUT, files)
        for key, names in (("val_scenes", self.val_scenes), ("test_scenes", self.test_scenes)):
            for name in names:
                if name not in found:
                    raise InputError(f"dataset.{key}: there is no file {name}.npz. {nearest(name, found)}")
        return [SceneSource(stem, self._split(stem), (file,)) for stem, file in found.items()]

    def read(self, scene: SceneSource) -> SceneArrays:
        """Read the two arrays of a file."""
        (file,) = scene.files
        image, mask = (_read_array(file, key) for key in ("img", "msk"))
        mask = mask[..., None] if mask.ndim == 2 else mask
        for key, array in (("img", image), ("msk", mask)):
            if array.ndim != 3 or array.size == 0:
                raise InputError(f"{file}: {key}: expected rows, columns and bands, got the shape {list(array.shape)}.")
        bands = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=image.dtype.newbyteorder("="))  # [C, H, W]
        return SceneArrays(bands, MASKS.decode(Raster(mask.transpose(2, 0, 1)), f"{file}: msk"))

    def _split(self, name: str) -> Split:
        if name in self.test_scenes:
            return "test"
        return "val" if name in self.val_scenes else "train"


def _read_array(file: SourceFile, key: str) -> NDArray[Any]:
    """Return an array of an .npz file, without running code of it.

    Raises:
        InputError: The file is damaged or has no such array.
    """
    try:
        with np.load(BytesIO(file.read()), allow_pickle=False) as arrays:
            if arrays.zip.getinfo(f"{key}.npy").file_size > LARGEST_ARRAY:
                raise ValueError(f"{key} claims more than {LARGEST_ARRAY / 2**30:.0f} GiB")
            return np.asarray(arrays[key])
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise errors of many kinds for damaged files
        raise InputError(
            f"{file} cannot be read as an .npz file with {key}: {error}. It should be one of {LAYOUT}; get it again."
        ) from error
