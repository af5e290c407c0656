"""UKIS clouds: made small, and the real files where they are."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from official_sets import BROKEN, assert_read_exactly, assert_refused_and_skipped, npz, write, write_ukis_clouds

from ssl_rs.data.prepare import prepare
from ssl_rs.data.ukis_clouds import UkisClouds
from ssl_rs.errors import InputError

REAL = Path(os.environ.get("SSL_RS_DATA", "")) / "ukis_cloud6b"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Größe & 数据 1" / "ukis"


@pytest.fixture
def make(shared, root):
    settings = {"name": "ukis_clouds", "val_scenes": [], "test_scenes": ["sentinel2"], "value_scale": 1.0}

    def build(**changed):
        return UkisClouds(**(shared | settings | {"root": str(root)} | changed))

    return build


def test_every_pixel_is_read_right(root, make, tmp_path):
    scenes = write_ukis_clouds(root)
    store = prepare(make(val_scenes=["landsat7"]), tmp_path / "stores")
    assert_read_exactly(store, scenes)
    manifest = store.manifest
    assert manifest.bands == ("blue", "green", "red", "nir", "swir1", "swir2")
    assert (manifest.dtype, manifest.value_scale) == ("float32", 1)
    assert [entry.name for entry in manifest.classes] == ["shadow", "water", "snow", "land", "cloud"]
    split_of = {scene.id: scene.split for scene in manifest.scenes}
    assert split_of == {"landsat5": "train", "landsat7": "val", "sentinel2": "test"}
    pixels = np.clip(scenes["landsat5"].image.astype(np.float64), 0, 1).reshape(6, -1)
    assert manifest.mean == pytest.approx(pixels.mean(axis=1))
    assert manifest.std == pytest.approx(pixels.std(axis=1))


def test_files_may_stay_in_an_archive_and_masks_may_have_two_dimensions(root, make, tmp_path):
    scenes = write_ukis_clouds(root)
    files = {f"scenes/{path.name}": path.read_bytes() for path in root.iterdir()}
    for path in root.iterdir():
        path.unlink()
    scene = scenes["landsat5"]
    files["scenes/landsat5.npz"] = npz(img=scene.image.transpose(1, 2, 0).astype(">f4"), msk=scene.mask)
    write(root, files, "zip")
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)


def test_settings_that_name_no_file_or_one_twice_are_refused(root, make):
    write_ukis_clouds(root)
    with pytest.raises(InputError, match=r"dataset\.test_scenes: there is no file sentinel3\.npz.*'sentinel2'"):
        make(test_scenes=["sentinel3"]).scenes()
    with pytest.raises(InputError, match=r"val_scenes and dataset\.test_scenes both name \['sentinel2'\]"):
        make(val_scenes=["sentinel2"])


@pytest.mark.parametrize("damage", BROKEN)
def test_damaged_files_are_refused_or_left_out(root, make, tmp_path, damage):
    write_ukis_clouds(root)
    path = root / "landsat7.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "landsat7", "cannot be read as an .npz file with img")


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6, 0.8])
def test_a_flipped_byte_is_noticed(root, make, tmp_path, place):
    write_ukis_clouds(root)
    path = root / "landsat7.npz"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 255
    path.write_bytes(content)
    assert_refused_and_skipped(make, tmp_path / "stores", path, "landsat7", "cannot be read as an .npz file")


def pickled():
    return np.array([{"a": 1}], dtype=object)


IMAGE = np.zeros((19, 22, 6), np.float32)
MASK = np.zeros((19, 22, 1), np.uint8)
UNFIT = {
    "no mask": ({"img": IMAGE}, "with msk"),
    "no image": ({"msk": MASK}, "with img"),
    "pickled": ({"img": pickled(), "msk": MASK}, "allow_pickle=False"),
    "image of 4 bands": ({"img": IMAGE[..., :4], "msk": MASK}, "expected 6 bands"),
    "image without bands": ({"img": IMAGE[..., 0], "msk": MASK}, "img: expected rows, columns and bands"),
    "image without pixels": ({"img": IMAGE[:0], "msk": MASK[:0]}, "img: expected rows, columns and bands"),
    "image of doubles": ({"img": IMAGE.astype(np.float64), "msk": MASK}, "type float32, got float64"),
    "image of whole numbers": ({"img": IMAGE.astype(np.uint16), "msk": MASK}, "type float32, got uint16"),
    "image with NaN": ({"img": IMAGE + np.nan, "msk": MASK}, "NaN or infinite in 418 pixels"),
    "mask of another size": ({"img": IMAGE, "msk": MASK[1:]}, "the mask has 18 x 22 pixels, its image 19 x 22"),
    "mask of two bands": ({"img": IMAGE, "msk": np.concatenate([MASK, MASK], axis=2)}, "one band of whole numbers"),
    "mask of floats": ({"img": IMAGE, "msk": MASK.astype(np.float32)}, "one band of whole numbers"),
    "unknown number": ({"img": IMAGE, "msk": MASK + 5}, "msk: unknown value 5 in 418 pixels, one at row 0, column 0"),
    "unknown number 255": ({"img": IMAGE, "msk": MASK + 255}, "msk: unknown value 255"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_files_are_refused_or_left_out(root, make, tmp_path, kind):
    write_ukis_clouds(root)
    arrays, words = UNFIT[kind]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (root / "landsat7.npz").write_bytes(buffer.getvalue())
    assert_refused_and_skipped(make, tmp_path / "stores", root / "landsat7.npz", "landsat7", words)


def test_a_wrong_layout_is_answered_with_the_right_one_and_what_was_found(root, make):
    write(root, {"scenes/sentinel2.tif": b"x"})
    with pytest.raises(InputError) as caught:
        make().scenes()
    for part in (f"dataset.root={root}", "landsat7.npz", "img [H, W, 6]", "Found: scenes: sentinel2.tif"):
        assert part in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="SSL_RS_DATA names no folder that holds ukis_cloud6b")
def test_the_real_files(make, tmp_path):
    store = prepare(make(root=str(REAL)), tmp_path)
    class_pixels = {scene.id: scene.class_pixels for scene in store.manifest.scenes}
    assert class_pixels == {
        "sentinel2": (28583, 840, 0, 183124, 49597),
        "landsat5": (60488, 2698, 0, 113029, 85929),
        "landsat7": (43494, 6176, 0, 118023, 94451),
    }
    with np.load(REAL / "landsat5.npz") as arrays:
        assert np.array_equal(store.image(0), arrays["img"].transpose(2, 0, 1))
        assert np.array_equal(store.mask(0), arrays["msk"][..., 0])
    assert {scene.id: scene.split for scene in store.manifest.scenes} == {
        "landsat5": "train", "landsat7": "train", "sentinel2": "test",
    }  # fmt: skip
    assert all(0 < value < 1 for value in (*store.manifest.mean, *store.manifest.std))
