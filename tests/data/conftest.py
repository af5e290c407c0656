"""Small made-up data sets."""

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from ssl_rs.data.dataset import Dataset, SceneArrays, SceneSource, SegmentationClass, Split
from ssl_rs.data.prepare import prepare
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store import Store

SHARED: dict[str, Any] = {
    "root": None,
    "crop_size": 8,
    "tile_size": 8,
    "tile_shift": 0.25,
    "protocol": "all_classes",
    "value_scale": None,
    "on_bad_scene": "error",
    "transductive": False,
}


@pytest.fixture(scope="session")
def shared() -> dict[str, Any]:
    """The settings that every data set has."""
    return dict(SHARED)


@pytest.fixture
def made_up(tmp_path: Path) -> Callable[..., Dataset]:
    """Make a data set of [(scene id, split, arrays)] in memory; scene i has the file sources/<i>.bin."""

    def make(
        entries: Sequence[tuple[str, Split, SceneArrays]], num_classes: int = 3, num_bands: int = 2, **settings: Any
    ) -> Dataset:
        folder = tmp_path / "sources"
        folder.mkdir(exist_ok=True)
        for place in range(len(entries)):
            path = folder / f"{place}.bin"
            if not path.exists():
                path.write_bytes(b"scene %d" % place)

        class MadeUp(Dataset):
            band_names = tuple(f"band_{index + 1}" for index in range(num_bands))
            classes = tuple(SegmentationClass(f"class_{index}", (index, 0, 0)) for index in range(num_classes))
            reads: list[str] = []  # noqa: RUF012 - one list a class, and one class a data set

            def scenes(self) -> Sequence[SceneSource]:
                return [
                    SceneSource(name, split, (SourceFile(folder / f"{place}.bin"),))
                    for place, (name, split, _) in enumerate(entries)
                ]

            def read(self, scene: SceneSource) -> SceneArrays:
                self.reads.append(scene.id)
                return entries[int(scene.files[0].stem)][2]

        return MadeUp(**{"name": "made_up", **SHARED, **settings})

    return make


@pytest.fixture
def make_store(made_up: Callable[..., Dataset], tmp_path: Path) -> Callable[..., Store]:
    """Prepare a store of {scene id: (split, height, width)}: pixel values tell scene, row and column.

    The image has the bands row and 100 + column in uint8; the mask is (row + column) % 3.
    """

    def make(
        sizes: Mapping[str, tuple[Split, int, int]], masks: Mapping[str, Any] | None = None, **settings: Any
    ) -> Store:
        entries = []
        for name, (split, height, width) in sizes.items():
            rows, columns = np.indices((height, width))
            image = np.stack([rows, 100 + columns]).astype(np.uint8)
            mask = ((rows + columns) % 3).astype(np.uint8)
            entries.append((name, split, SceneArrays(image, (masks or {}).get(name, mask))))
        return prepare(made_up(entries, **settings), tmp_path / "stores")

    return make


@pytest.fixture
def with_nodata(made_up: Callable[..., Dataset]) -> Callable[..., Store]:
    """Prepare a store of (valid, split): band 0 is the row, band 1 is 100 + column; scenes are named a, b, ..."""

    def make(folder: Path, *scenes: tuple[Any, Split]) -> Store:
        entries = []
        for name, (valid, split) in zip("abcdef", scenes, strict=False):
            rows, columns = np.indices(valid.shape)
            image = np.stack([rows, 100 + columns]).astype(np.uint8)
            mask = np.zeros(valid.shape, np.uint8)
            entries.append((name, split, SceneArrays(image, mask, valid=None if valid.all() else valid)))
        return prepare(made_up(entries), folder)

    return make


@pytest.fixture
def zipped() -> Callable[[Path, Mapping[str, bytes]], Path]:
    """Write an archive of {name: content}, with the folder it lies in."""

    def write(path: Path, entries: Mapping[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return path

    return write


@pytest.fixture
def root(tmp_path: Path, zipped: Callable[..., Path]) -> Path:
    """A folder, an archive with a folder, one without; things that no listing should show."""
    root = tmp_path / "Größe 1"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a_1.tif").write_bytes(b"own a1")
    (root / "images" / ".hidden.tif").write_bytes(b"x")
    zipped(root / "labels.zip", {"labels/a_1_label.tif": b"label a1", "__MACOSX/labels/._a_1_label.tif": b"x"})
    zipped(root / "images.zip", {"a_1.tif": b"zipped a1", "ä_2.tif": b"zipped a2"})
    return root


@pytest.fixture
def write_tif() -> Callable[..., None]:
    """Write [C, H, W] as a TIFF, with more keys of its profile if given."""

    def write(path: Path, values: np.ndarray, **profile: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            count, height, width = values.shape
            with rasterio.open(
                path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **profile
            ) as file:
                file.write(values)

    return write
