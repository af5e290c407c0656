"""Published data sets made small: official names, folders, archives, colors, types and, here, odd sizes.

Each `write_<option of conf/dataset>(root)` writes a whole set and returns its scenes as they should be read.
"""

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from ssl_rs.data.dataset import Dataset
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import Store
from ssl_rs.errors import InputError

Layout = Literal["folders", "zip", "flat zip"]
"""In a zip archive the files lie in a folder of the archive's name, or at its top."""

ISPRS_COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
POTSDAM_TRAIN = (
    "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12"
)
POTSDAM_TEST = "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13"
POTSDAM = (*POTSDAM_TRAIN.split(), *POTSDAM_TEST.split())
POTSDAM_FOLDERS = {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG", "RGBIR": "4_Ortho_RGBIR"}
VAIHINGEN_TRAIN = "1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37"
VAIHINGEN_TEST = "2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38"
VAIHINGEN = "ISPRS_semantic_labeling_Vaihingen"


@dataclass(frozen=True)
class Scene:
    """A scene as it should be read: image [C, H, W], mask and eroded mask [H, W] with 255 = ignore."""

    image: np.ndarray
    mask: np.ndarray
    eroded: np.ndarray | None = None


# Files as bytes


def tiff(bands: np.ndarray, **profile: object) -> bytes:
    """Return [C, H, W] as a GeoTIFF."""
    count, height, width = bands.shape
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(
            driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype.name, compress="lzw", **profile
        ) as file:
            file.write(bands)
        return bytes(memory.read())


def picture(values: np.ndarray, kind: str = "PNG") -> bytes:
    """Return [H, W] or [H, W, 3] as a PNG or JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """Return arrays as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def colored(mask: np.ndarray) -> np.ndarray:
    """Return a mask [H, W] in the colors of ISPRS, [3, H, W], 255 black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(ISPRS_COLORS)] = ISPRS_COLORS
    return np.ascontiguousarray(colors[mask].transpose(2, 0, 1))


def write(root: Path, files: Mapping[str, bytes], layout: Layout = "folders") -> None:
    """Write files by their place; zipped, the first folder of a place becomes an archive."""
    for place, content in files.items():
        archive, _, inner = place.partition("/")
        if layout == "folders":
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            root.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(root / f"{archive}.zip", "a") as file:
                file.writestr(place if layout == "zip" else inner, content)


# What is in the scenes


def random_image(bands: int, shape: tuple[int, int], dtype: str, high: int, seed: int) -> np.ndarray:
    """Return [C, H, W] of numbers below `high`."""
    return np.random.default_rng(seed).integers(0, high, (bands, *shape)).astype(dtype)


def random_mask(shape: tuple[int, int], values: Sequence[int], seed: int) -> np.ndarray:
    """Return [H, W] of rectangles that are large enough to have an inside, and a pixel of every value."""
    rng = np.random.default_rng(seed)
    mask = np.full(shape, values[0], np.uint8)
    for value in [*values, *values]:
        top, left = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
        mask[top : top + rng.integers(8, 16), left : left + rng.integers(8, 16)] = value
    mask[-1, : len(values)] = values
    return mask


def slowly_eroded(mask: np.ndarray) -> np.ndarray:
    """Ignore each pixel from which a pixel of another class is at most 3 pixels away, pixel by pixel."""
    height, width = mask.shape
    eroded = mask.copy()
    near = [(y, x) for y in range(-3, 4) for x in range(-3, 4) if y * y + x * x <= 9]
    for row in range(height):
        for column in range(width):
            for y, x in near:
                inside = 0 <= row + y < height and 0 <= column + x < width
                if inside and mask[row + y, column + x] != mask[row, column]:
                    eroded[row, column] = 255
    return eroded


@cache
def isprs_scene(bands: int, shape: tuple[int, int], seed: int) -> Scene:
    """Return a scene with all six classes."""
    mask = random_mask(shape, range(6), seed)
    return Scene(random_image(bands, shape, "uint8", 256, seed), mask, slowly_eroded(mask))


# The data sets


def write_potsdam(
    root: Path,
    layout: Layout = "folders",
    bands: str = "RGB",
    no_boundary: Callable[[str], bool] = lambda name: True,
    names: Sequence[str] = POTSDAM,
) -> dict[str, Scene]:
    """Write the 38 tiles, 27 x 31 pixels each; `no_boundary` says which of them have an eroded label."""
    files, scenes = {}, {}
    for name in names:
        scene = scenes[name] = isprs_scene(4 if bands == "RGBIR" else 3, (27, 31), POTSDAM.index(name))
        files[f"{POTSDAM_FOLDERS[bands]}/top_potsdam_{name}_{bands}.tif"] = tiff(scene.image)
        files[f"5_Labels_all/top_potsdam_{name}_label.tif"] = tiff(colored(scene.mask))
        if no_boundary(name):
            place = f"5_Labels_all_noBoundary/top_potsdam_{name}_label_noBoundary.tif"
            files[place] = tiff(colored(scene.eroded))
    write(root, files, layout)
    return scenes


def write_vaihingen(
    root: Path,
    layout: Layout = "folders",
    no_boundary: Callable[[str], bool] = lambda name: True,
    numbers: Sequence[str] = (*VAIHINGEN_TRAIN.split(), *VAIHINGEN_TEST.split()),
) -> dict[str, Scene]:
    """Write the 33 tiles, each of another size, and area 9, which no list has; labels of training tiles lie twice."""
    files, scenes = {}, {}
    for number in (*numbers, "9"):
        name = f"area{number}"
        scene = scenes[name] = isprs_scene(3, (20 + int(number) % 7, 21 + int(number) % 5), int(number))
        label = tiff(colored(scene.mask))
        files[f"{VAIHINGEN}/top/top_mosaic_09cm_{name}.tif"] = tiff(scene.image)
        files[f"{VAIHINGEN}_ground_truth_COMPLETE/top_mosaic_09cm_{name}.tif"] = label
        if number in VAIHINGEN_TRAIN.split():
            files[f"{VAIHINGEN}/gts_for_participants/top_mosaic_09cm_{name}.tif"] = label
        if no_boundary(name):
            place = f"{VAIHINGEN}_ground_truth_eroded_COMPLETE/top_mosaic_09cm_{name}_noBoundary.tif"
            files[place] = tiff(colored(scene.eroded))
    write(root, files, layout)
    del scenes["area9"]
    return scenes


def write_levir_cs(root: Path, layout: Layout = "folders", num_train: int = 12, num_test: int = 3) -> dict[str, Scene]:
    """Write scenes with their elevation models, which are not read."""
    files, scenes = {}, {}
    for number in range(num_train + num_test):
        name = f"GF1_WFV{number % 4 + 1}_E{100 + number}.6_N45.9_20171027_L1A00027139{number:02d}"
        folder, shape = "train" if number < num_train else "test", (19 + number % 3, 23)
        image = random_image(4, shape, "uint16", 1024, number)
        scene = scenes[name] = Scene(image, random_mask(shape, range(3), number))
        place = {"crs": "EPSG:4326", "transform": Affine(0.0016, 0.0, 100.6 + number, 0.0, -0.0016, 45.9)}
        files[f"{folder}/mss/{name}_mss.tiff"] = tiff(scene.image, **place)
        files[f"{folder}/label_0_1_2/{name}_roiMap.tif"] = tiff(scene.mask[None], **place)
        files[f"{folder}/dem/{name}_dem.tiff"] = tiff(np.zeros((1, *shape), np.int16))
    write(root, files, layout)
    return scenes


def write_loveda(root: Path, layout: Layout = "folders") -> dict[str, Scene]:
    """Write 6 + 6 images of Train, 2 + 2 of Val and 1 + 1 of Test, of which the masks are hidden."""
    files, scenes = {}, {}
    places = [("Train", 6), ("Val", 2), ("Test", 1)]
    for seed, (part, area, number) in enumerate(
        (part, area, number) for part, count in places for area in ("Rural", "Urban") for number in range(count)
    ):
        values = random_mask((17, 21), range(8), seed)
        image = random_image(3, values.shape, "uint8", 256, seed)
        files[f"{part}/{area}/images_png/{number}.png"] = picture(np.ascontiguousarray(image.transpose(1, 2, 0)))
        if part != "Test":
            files[f"{part}/{area}/masks_png/{number}.png"] = picture(values)
            mask = np.where(values == 0, 255, values.astype(int) - 1).astype(np.uint8)
            scenes[f"{part}_{area}_{number}".lower()] = Scene(image, mask)
    write(root, files, layout)
    return scenes


def write_ukis_clouds(root: Path) -> dict[str, Scene]:
    """Write the three scenes."""
    files, scenes = {}, {}
    for seed, name in enumerate(("landsat5", "landsat7", "sentinel2")):
        rng = np.random.default_rng(seed)
        image = rng.uniform(-0.001, 1.3, (6, 19, 22)).astype(np.float32)
        mask = random_mask((19, 22), range(5), seed)
        scenes[name] = Scene(image, mask)
        files[f"{name}.npz"] = npz(img=np.ascontiguousarray(image.transpose(1, 2, 0)), msk=mask[..., None])
    write(root, files)
    return scenes


def write_mbrsc(root: Path) -> None:
    """Write the 72 parts, 40 x 33 pixels each."""
    colors = np.array([(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41)], np.uint8)
    files = {}
    for tile in range(1, 9):
        for part in range(1, 10):
            image = random_image(3, (40, 33), "uint8", 256, tile).transpose(1, 2, 0)
            name = f"image_part_{part:03d}"
            files[f"Tile {tile}/images/{name}.jpg"] = picture(np.ascontiguousarray(image), "JPEG")
            files[f"Tile {tile}/masks/{name}.png"] = picture(colors[random_mask((40, 33), range(5), part)])
    write(root, files)


# What must hold for all of them


def assert_read_exactly(store: Store, scenes: Mapping[str, Scene]) -> None:
    """Compare every pixel of a store with the scenes as they should be read."""
    assert {record.id for record in store.manifest.scenes} == set(scenes)
    for index, record in enumerate(store.manifest.scenes):
        scene = scenes[record.id]
        assert store.image(index).dtype == scene.image.dtype
        assert np.array_equal(store.image(index), scene.image)
        assert np.array_equal(store.mask(index), scene.mask)
        if scene.eroded is not None:
            assert np.array_equal(store.eroded(index), scene.eroded)
        assert record.class_pixels == tuple((scene.mask == k).sum() for k in range(len(store.manifest.classes)))


def empty(content: bytes) -> bytes:
    """Return nothing."""
    return b""


def truncated(content: bytes) -> bytes:
    """Return the first two thirds."""
    return content[: len(content) * 2 // 3]


def wrong_magic(content: bytes) -> bytes:
    """Return something that is no such file."""
    return b"<html>404 Not Found</html>" + content[26:]


BROKEN = (empty, truncated, wrong_magic)


def assert_refused_and_skipped(
    make: Callable[..., Dataset], stores: Path, path: Path, scene_id: str, *words: str
) -> None:
    """Check that a bad file stops the preparation, is named with the reason, and can be left out."""
    with pytest.raises(InputError) as caught:
        prepare(make(), stores)
    for part in (str(path), *words, "on_bad_scene=skip"):
        assert part in str(caught.value)
    expected = {scene.id for scene in make().scenes()} - {scene_id}
    manifest = prepare(make(on_bad_scene="skip"), stores).manifest
    assert {scene.id for scene in manifest.scenes} == expected
    (skipped,) = manifest.skipped
    assert skipped.id == scene_id
    for part in (path.name, *words):
        assert part in skipped.reason
