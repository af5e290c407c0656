"""Damaged and hostile data files: reading them ends in a store of arrays that make sense, or in a message."""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import rasterio
from damage import Fuzz, damaged, damages, within
from hypothesis import strategies as st
from official_sets import colored, npz, picture, tiff
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from ssl_rs.data.dataset import Dataset
from ssl_rs.data.folder import Folder
from ssl_rs.data.potsdam import Potsdam
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import Store
from ssl_rs.data.ukis_clouds import UkisClouds
from ssl_rs.errors import InputError

SIZE = 40
SHARED: dict[str, Any] = {
    "crop_size": 8, "tile_size": 8, "tile_shift": 0.25, "protocol": "all_classes", "value_scale": None, "transductive": False,
}  # fmt: skip
BOMB = 2**22
"""Bytes that count as an image bomb here: the rule is the same, and a case needs little memory and disk."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npz", ".zip", ".yaml")


def _array(bands: int, dtype: str = "uint8", high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (bands, SIZE, SIZE)).astype(dtype)


def _pillow(mode: str, kind: str, **options: Any) -> bytes:
    rng, buffer = np.random.default_rng(1), io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).convert(mode)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _masked_tiff() -> bytes:
    """Return a TIFF with an internal mask."""
    profile = {"driver": "GTiff", "count": 3, "height": SIZE, "width": SIZE, "dtype": "uint8"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(_array(3))
            file.write_mask(np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3 > 0)
        return bytes(memory.read())


def _palette_tiff() -> bytes:
    """Return a TIFF of indices with a color table."""
    profile = {"driver": "GTiff", "count": 1, "height": SIZE, "width": SIZE, "dtype": "uint8", "photometric": "palette"}
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write_colormap(1, {0: (200, 60, 60, 255), 1: (60, 200, 60, 255)})
            file.write(_array(1, high=2))
        return bytes(memory.read())


def _unusual_png() -> bytes:
    """Return a PNG of three bands of 16 bits, which Pillow cannot write."""
    with MemoryFile() as memory:
        with memory.open(driver="PNG", count=3, height=SIZE, width=SIZE, dtype="uint16") as file:
            file.write(_array(3, "uint16", 65536))
        return bytes(memory.read())


@cache
def images() -> Mapping[str, bytes]:
    """Return a small real file of every form, by a name that ends with its extension."""
    place: dict[str, Any] = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 4e5, 0, -0.5, 5.8e6)}
    tiles: dict[str, Any] = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return {
            **{f"{mode.lower()}.png": _pillow(mode, "PNG") for mode in ("RGB", "L", "P", "RGBA", "LA", "1")},
            "optimized.png": _pillow("RGB", "PNG", optimize=True),
            "16bit.png": picture(_array(1, "uint16", 65536)[0]),
            "rgb16.png": _unusual_png(),
            **{f"{mode.lower()}.jpg": _pillow(mode, "JPEG") for mode in ("RGB", "L", "CMYK")},
            "progressive.jpeg": _pillow("RGB", "JPEG", progressive=True),
            "rgb.tif": tiff(_array(3)),
            "plain.tif": _plain(),
            "placed.tiff": tiff(_array(3), **place),
            "tiled.tif": tiff(_array(4, "uint16", 4096), **tiles, **place),
            "bands.tif": tiff(_array(4), interleave="band"),
            "float.tif": tiff(_array(3, "float32"), nodata=-9999.0, predictor=3),
            "nodata.tif": tiff(_array(3), nodata=7.0),
            "nan.tif": tiff(_array(3, "float32"), nodata=float("nan")),
            "short.tif": tiff(_array(3, "int16")),
            "double.tif": tiff(_array(3, "float64")),
            "complex.tif": tiff(_array(1, "complex64")),
            "big.tif": tiff(_array(3), BIGTIFF="YES"),
            "bits.tif": tiff(_array(1, high=2), nbits=1),
            "masked.tif": _masked_tiff(),
            "palette.tif": _palette_tiff(),
        }


def _plain() -> bytes:
    profile = {"driver": "GTiff", "count": 3, "height": SIZE, "width": SIZE, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(_array(3))
        return bytes(memory.read())


@cache
def masks() -> Mapping[str, bytes]:
    """Return a mask of two classes, as numbers or colors, in every form."""
    numbers = _array(1, high=2)[0]
    colors = np.array([(200, 60, 60), (60, 200, 60)], np.uint8)[numbers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return {
            "numbers.png": picture(numbers),
            "numbers.tif": tiff(numbers[None], nodata=255),
            "wide.tif": tiff(numbers[None].astype(np.uint16)),
            "colors.png": picture(colors),
            "colors.tif": tiff(np.ascontiguousarray(colors.transpose(2, 0, 1))),
            "palette.tif": _palette_tiff(),
        }


CLASSES = {
    "numbers": b"classes:\n  - {name: a, index: 0}\n  - {name: b, index: 1, color: [9, 9, 9]}\nignore: [255]\n",
    "colors": b"classes:\n  - {name: a, color: [200, 60, 60]}\n  - {name: b, color: [60, 200, 60]}\nignore: [[0, 0, 0]]\n",
}
SPLITS = b"train: [scene, other]\nval: []\ntest: []\n"

YAMLS = (
    b"", b"null", b"[]", b"classes: []", b"classes: [1]", b"classes: {a: 1}", b"classes: [{name: a, index: 1.5}]", b"&a [*a]",
    b"classes: &a [*a]", b"classes: [{name: &a [*a], index: 0}]", b"!!python/object/apply:os.system ['touch attacked']",
    b"classes: [{name: a, index: 1" + b"0" * 5000 + b"}]", b"[" * 10_000, b"{" * 10_000, b"a: " * 5000, b"? " * 10_000, b"- " * 10_000,
    b"\0", b"\xff\xfe", b"classes: 2020-99-99", b"classes: !!binary x", b"!!timestamp x", b"{[]: 1}", b"{{}: 1}", b"? [1]\n: 2", b"%YAML 9.9\n---\n",
    b"classes: [{name: a, index: 0x7fffffff}]", b"train: [scene]\ntrain: [other]", b"train: [[scene]]", b"train: [1, other]", b"<<: 1", b"<<: [1]",
    b"classes: [{name: a, color: [.nan, .inf, 0]}, {name: b, color: [true, 1, 1]}]", b"train: [scene, scene]", b"1: 2", b"!!int x", b"!!float x",
    b"!!null {}", b"!!set {a}", b"!!omap [a]", b"!!pairs [[1]]", b"a: 0b", b"a: 0x", b"a: 1:99", b"a: 0o9", b"a: 08", b"a: 1_", b"a: _", b"a: -", b"--- a\n--- b",
)  # fmt: skip
"""Hostile YAML: huge numbers, deep nesting, aliases to themselves, tags that run code or do not fit."""


@dataclass(frozen=True)
class Files:
    """A data set on disk.

    Args:
        dataset: What reads it.
        files: Content by place.
    """

    dataset: str
    files: Mapping[str, bytes]

    def __repr__(self) -> str:
        """Show what is there, not all of its bytes."""
        return f"{self.dataset}: " + ", ".join(
            f"{place} ({len(data)}) {data[:48]!r}" for place, data in self.files.items()
        )


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "folder": lambda root: Folder(
        name="f", root=root, bands=None, val_share=0.0, test_share=0.0, split_seed=0, on_bad_scene="skip", **SHARED
    ),
    "strict": lambda root: Folder(
        name="f", root=root, bands=None, val_share=0.2, test_share=0.2, split_seed=0, on_bad_scene="error", **SHARED
    ),
    "potsdam": lambda root: Potsdam(
        name="p", root=root, bands="RGB", val_share=0.0, split_seed=0, unknown_colors="error", on_bad_scene="skip", **SHARED
    ),
    "tolerant": lambda root: Potsdam(
        name="p", root=root, bands="RGB", val_share=0.0, split_seed=0, unknown_colors="ignore", on_bad_scene="skip", **SHARED
    ),
    "ukis": lambda root: UkisClouds(name="u", root=root, val_scenes=[], test_scenes=[], on_bad_scene="skip", **SHARED),
}  # fmt: skip


def hurt(content: bytes) -> st.SearchStrategy[bytes]:
    """Draw what becomes of a file: small damages mostly, or it is left alone, empty, or replaced by noise."""
    hurts = damages().map(lambda damage: damaged(content, damage))
    return st.one_of(hurts, hurts, hurts, hurts, st.just(content), st.binary(max_size=200))


@st.composite
def image_folders(draw: st.DrawFn) -> Files:
    """Draw images and masks of which one or more are damaged, misnamed, or of a form that does not fit."""
    name = draw(st.sampled_from(sorted(images())))
    suffix = Path(name).suffix if draw(st.integers(0, 9)) else draw(st.sampled_from(EXTENSIONS))
    files = {
        f"images/scene{suffix}": draw(hurt(images()[name])),
        "images/other.png": images()[draw(st.sampled_from(("rgb.png", "l.png")))],
    }
    if draw(st.booleans()):
        kind = draw(st.sampled_from(sorted(CLASSES)))
        fitting = [mask for mask in masks() if mask.startswith(kind)]
        mask = draw(st.sampled_from([*fitting, *fitting, *sorted(masks())]))
        files[f"masks/scene{Path(mask).suffix}"] = draw(hurt(masks()[mask]))
        files["masks/other.png"] = masks()[f"{kind}.png"]
        files["classes.yaml"] = draw(
            st.one_of(st.just(CLASSES[kind]), st.just(CLASSES[kind]), hurt(CLASSES[kind]), st.sampled_from(YAMLS))
        )
    if draw(st.integers(0, 4)) == 0:
        files["splits.yaml"] = draw(st.one_of(st.just(SPLITS), hurt(SPLITS), st.sampled_from(YAMLS)))
    return Files(draw(st.sampled_from(("folder", "folder", "strict"))), files)


@st.composite
def mask_values(draw: st.DrawFn) -> Files:
    """Draw masks of colors and numbers that may be unknown, for classes with any numbers."""
    kind = draw(st.sampled_from(sorted(CLASSES)))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    known = rng.integers(0, 256, (draw(st.integers(1, 6)), 3))
    if kind == "colors":
        entries = [{"name": f"c{i}", "color": color.tolist()} for i, color in enumerate(known)]
        shown = np.concatenate([known, rng.integers(0, 256, (draw(st.integers(0, 2)), 3))])
        mask = shown[rng.integers(0, len(shown), (SIZE, SIZE))].astype(np.uint8).transpose(2, 0, 1)
    else:
        dtype = draw(st.sampled_from(("uint8", "uint16", "int16", "int32", "uint32")))
        numbers = rng.choice(65536 if dtype == "uint16" else 256, len(known), replace=False)
        entries = [{"name": f"c{i}", "index": int(number)} for i, number in enumerate(numbers)]
        shown = np.concatenate([numbers, rng.integers(-(2**40), 2**40, draw(st.integers(0, 1)))]).astype(dtype)
        mask = shown[rng.integers(0, len(shown), (SIZE, SIZE))][None]
    nodata = draw(st.sampled_from((None, 0, 255)))
    files = {
        "images/scene.png": images()["rgb.png"],
        "masks/scene.tif": tiff(np.ascontiguousarray(mask), nodata=nodata),
        "classes.yaml": json.dumps({"classes": entries}).encode(),
    }
    return Files("strict" if draw(st.booleans()) else "folder", files)


@cache
def _potsdam() -> Mapping[str, bytes]:
    mask = _array(1, high=6)[0]
    folder, name = "2_Ortho_RGB", "top_potsdam_{}_RGB.tif"
    return {
        f"{folder}/{name.format('2_10')}": tiff(_array(3)),
        "5_Labels_all/top_potsdam_2_10_label.tif": tiff(colored(mask)),
        "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif": tiff(colored(mask)),
        f"{folder}/{name.format('2_11')}": tiff(_array(3, seed=1)),
        "5_Labels_all/top_potsdam_2_11_label.tif": tiff(colored(mask)),
    }


@st.composite
def published(draw: st.DrawFn) -> Files:
    """Draw Potsdam or the UKIS clouds, in folders or in an archive, with one damaged file."""
    dataset = draw(st.sampled_from(("potsdam", "tolerant", "ukis", "ukis")))
    if dataset == "ukis":
        image = np.random.default_rng(0).uniform(0, 1, (SIZE, SIZE, 6)).astype(np.float32)
        entry = npz(img=image, msk=_array(1, high=5)[0][..., None])
        files = {"landsat5.npz": draw(st.one_of(hurt(entry), odd_npz())), "other.npz": entry}
    else:
        files = dict(_potsdam())
        place = draw(st.sampled_from(sorted(files)))
        files[place] = draw(hurt(files[place]))
    if draw(st.booleans()):
        files = {"data.zip": draw(st.one_of(st.just(_zipped(files)), hurt(_zipped(files)), odd_zips(files)))}
    return Files(dataset, files)


@st.composite
def odd_npz(draw: st.DrawFn) -> bytes:
    """Draw an .npz file whose arrays have other shapes, types or names, or hold objects."""
    kinds = ("float32", "float64", "int8", "uint8", "bool", "complex64", ">f4", "U3", "M8[s]", "O", "V8")
    shapes = (
        (),
        (0,),
        (3,),
        (SIZE, SIZE),
        (SIZE, SIZE, 1),
        (SIZE, SIZE, 6),
        (SIZE, SIZE, 7),
        (6, SIZE, SIZE),
        (1, 1, 6),
        (0, 5, 6),
        (1,) * 32,
    )
    arrays = {}
    for key in draw(st.sampled_from((("img", "msk"), ("img",), ("msk",), ("img", "msk", "x"), ("arr_0",)))):
        arrays[key] = np.zeros(draw(st.sampled_from(shapes)), np.dtype(draw(st.sampled_from(kinds))))
    if "img" in arrays and arrays["img"].dtype.kind == "f" and draw(st.booleans()):
        arrays["img"] = arrays["img"] + draw(st.sampled_from((np.nan, np.inf, 1e38, 1.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return npz(**arrays)


def _zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for place, content in files.items():
            archive.writestr(zipfile.ZipInfo(place), content, compression)
    return buffer.getvalue()


@st.composite
def odd_zips(draw: st.DrawFn, files: Mapping[str, bytes]) -> bytes:
    """Draw an archive whose members have odd names, or are packed in odd ways."""
    sign = draw(
        st.sampled_from(
            (
                "../",
                "/",
                "../../../../tmp/",
                "C:\\",
                "a/../",
                "./",
                "//",
                "x" * 300 + "/",
                "ü\n/",
                ".hidden/",
                "\u202e/",
                "a/" * 200,
            )
        )
    )
    some = draw(st.lists(st.sampled_from(sorted(files)), max_size=3))
    compression = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that come twice
        return _zipped(
            {(sign + place if place in some else place): content for place, content in files.items()}, compression
        )


@st.composite
def noise(draw: st.DrawFn) -> Files:
    """Draw random bytes behind every extension, with the beginning of a real file or without."""
    begin = draw(
        st.sampled_from(
            (
                b"",
                b"\x89PNG\r\n\x1a\n",
                b"\xff\xd8\xff\xe0",
                b"II*\0",
                b"MM\0*",
                b"II+\0\x08\0\0\0",
                b"PK\x03\x04",
                b"\x93NUMPY\x01\0",
            )
        )
    )
    content = begin + draw(st.binary(max_size=300))
    suffix = draw(st.sampled_from(EXTENSIONS))
    dataset = draw(st.sampled_from(("folder", "strict", "ukis", "potsdam")))
    places = {
        "folder": f"images/scene{suffix}",
        "strict": f"images/scene{suffix}",
        "ukis": f"scene{suffix}",
        "potsdam": f"2_Ortho_RGB/top_potsdam_2_10_RGB{suffix}",
    }
    return Files(dataset, {places[dataset]: content})


def check_reading(case: Files) -> None:
    """Prepare the data set; fail where that raises anything but a message, or stores what makes no sense."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, within(60):
        root = Path(folder, "data")
        for place, content in case.files.items():
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with mock.patch("ssl_rs.data.refused_images.BOMB_BYTES", BOMB), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                store = prepare(DATASETS[case.dataset](str(root)), Path(folder, "stores"), num_workers=0)
            except InputError as error:
                assert str(error).strip()
                assert len(str(error)) < 20_000, f"a message of {len(str(error))} characters"
                return
        _check_store(store)
        assert {path.name for path in Path(folder).iterdir()} <= {"data", "stores"}


def _check_store(store: Store) -> None:
    manifest = store.manifest
    assert manifest.scenes
    for index, scene in enumerate(manifest.scenes):
        size = (scene.height, scene.width)
        assert store.image(index).shape == (len(manifest.bands), *size)
        assert store.image(index).dtype == manifest.dtype
        assert np.isfinite(store.image(index)).all()
        for read, there in ((store.mask, bool(manifest.classes)), (store.eroded, manifest.eroded)):
            if there:
                assert read(index).shape == size
                assert set(np.unique(read(index)).tolist()) <= {*range(len(manifest.classes)), manifest.ignore_index}
    assert np.isfinite([*manifest.mean, *manifest.std]).all()


FUZZ = {
    "images": Fuzz(image_folders(), check_reading, 60),
    "masks": Fuzz(mask_values(), check_reading, 40),
    "published": Fuzz(published(), check_reading, 40),
    "noise": Fuzz(noise(), check_reading, 40),
}
