"""Scenes that cannot be used: refused by default, or left out, counted and named."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_rs.data.dataset import Scene, SceneArrays
from ssl_rs.data.folder import Folder
from ssl_rs.data.image_files import open_raster
from ssl_rs.data.manifest import SkippedScene
from ssl_rs.data.prepare import prepare
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.stages.prepared_store import lost_splits

RNG = np.random.default_rng(0)


def arrays(height=6, bands=2, dtype=np.uint8, **more):
    image = RNG.integers(1, 200, (bands, height, 7)).astype(dtype)
    return SceneArrays(image, more.pop("mask", RNG.integers(0, 3, (height, 7)).astype(np.uint8)), **more)


def broken_float():
    image = np.ones((2, 6, 7), np.float32)
    image[0, 4, 5] = np.inf
    return SceneArrays(image, np.zeros((6, 7), np.uint8))


BAD = {
    "bands": (lambda: arrays(bands=3), "expected 2 bands"),
    "type": (
        lambda: arrays(dtype=np.uint16),
        "values of type uint16, most scenes of uint8. Convert it: `gdal_translate -ot Byte -scale 0 10000 0 255`",
    ),
    "rounded": (
        lambda: arrays(dtype=np.float32),
        "most scenes of uint8. Convert it: `gdal_translate -ot Byte -scale 0 1 0 255`",
    ),
    "float64": (lambda: arrays(dtype=np.float64), "got float64"),
    "infinite": (broken_float, "NaN or infinite in 1 pixel, the first at row 4, column 5"),
    "shape": (lambda: SceneArrays(np.ones((6, 7), np.uint8)), "expected an image of bands, rows and columns"),
    "rows": (
        lambda: Scene(9, 7, None, None, iter([arrays()])),
        "its strips have 6 rows in all, expected its height of 9",
    ),
    "nodata": (lambda: arrays(valid=np.zeros((6, 7), bool)), "no pixel holds data"),
    "size": (lambda: arrays(mask=np.zeros((6, 6), np.uint8)), "the mask has 6 x 6 pixels, its image 6 x 7"),
    "class": (lambda: arrays(mask=np.full((6, 7), 9, np.uint8)), r"the mask holds \[9\]"),
    "unlabeled": (lambda: arrays(mask=None), "no mask"),
}


def test_an_unlabeled_scene_with_a_mask_contradicts_itself(made_up, tmp_path):
    entries = [("first", "train", arrays()), ("more", "unlabeled", arrays(mask=None)), ("odd", "unlabeled", arrays())]
    assert len(prepare(made_up(entries[:2]), tmp_path / "stores").manifest.scenes) == 2
    with pytest.raises(InputError, match="the scene is unlabeled, but has a mask"):
        prepare(made_up(entries), tmp_path / "stores")


def test_an_unreadable_image_is_told_in_the_same_words_every_time(tmp_path):
    """The words are in the manifest, whose hash names the data that a result was measured on."""
    told = set()
    for name in ("a", "b"):
        path = tmp_path / name / "odd.jpg"
        path.parent.mkdir()
        path.write_bytes(b"no image at all")
        with pytest.raises(InputError) as refusal:
            open_raster(SourceFile(path))
        told.add(str(refusal.value).replace(str(path), "odd.jpg"))
    assert told == {"odd.jpg cannot be read as an image: cannot identify image file. Replace the file, or take it out."}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("split", ["train", "test"])
def test_bad_scenes_are_errors_or_left_out_and_named(made_up, tmp_path, kind, split):
    make, words = BAD[kind]
    entries = [("first", "train", arrays()), ("bad", split, make()), ("last", "train", arrays())]
    with pytest.raises(InputError, match=words) as caught:
        prepare(made_up(entries), tmp_path / "stores")
    assert "dataset.on_bad_scene=skip" in str(caught.value)
    reported = []
    store = prepare(made_up(entries, on_bad_scene="skip"), tmp_path / "stores", lambda *done: reported.append(done))
    assert reported == [(1, 3, "first"), (2, 3, "bad"), (3, 3, "last")]
    assert [(scene.id, scene.number) for scene in store.manifest.scenes] == [("first", 0), ("last", 2)]
    (skipped,) = store.manifest.skipped
    assert (skipped.id, skipped.split) == ("bad", split)
    assert np.array_equal(store.image(1), entries[2][2].image)
    assert np.array_equal(store.mask(1), entries[2][2].mask)
    assert not [path for path in store.path.iterdir() if path.name.startswith(("00001", "."))]


def test_all_bad_scenes_are_told_at_once_up_to_as_many_as_are_shown(made_up, tmp_path):
    bad = [(f"bad{place}", "train", arrays(bands=3)) for place in range(7)]
    with pytest.raises(InputError) as caught:
        prepare(made_up([("good", "train", arrays()), *bad[:2]]), tmp_path / "stores")
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 3 scenes cannot be used:"
    assert [line.count("expected 2 bands") for line in lines[1:3]] == [1, 1]
    reads = made_up([("good", "train", arrays()), *bad])
    with pytest.raises(InputError, match="5 of the first 6 of 8 scenes cannot be used:"):
        prepare(reads, tmp_path / "stores")
    assert len(reads.reads) == 6
    odd = [(f"odd{place}", "train", arrays(dtype=np.uint16)) for place in range(2)]
    usual = [(f"usual{place}", "train", arrays()) for place in range(3)]
    with pytest.raises(InputError, match="2 of 5 scenes cannot be used:"):
        prepare(made_up([*odd, *usual]), tmp_path / "stores")


def test_the_odd_type_is_left_out_even_if_it_comes_first(made_up, tmp_path):
    entries = [("odd", "train", arrays(dtype=np.uint16)), ("a", "train", arrays()), ("b", "test", arrays())]
    store = prepare(made_up(entries, on_bad_scene="skip"), tmp_path)
    assert [scene.id for scene in store.manifest.scenes] == ["a", "b"]
    assert store.manifest.dtype == "uint8"


def test_of_two_scenes_with_one_id_the_first_is_kept(made_up, tmp_path):
    entries = [("a", "train", arrays()), ("a", "test", arrays(height=9))]
    store = prepare(made_up(entries, on_bad_scene="skip"), tmp_path)
    assert [scene.height for scene in store.manifest.scenes] == [6]
    assert "more than one scene with the id 'a'" in store.manifest.skipped[0].reason


def test_nothing_left_to_train_on_is_an_error_all_the_same(made_up, tmp_path):
    entries = [("a", "train", arrays(bands=3)), ("b", "test", arrays())]
    with pytest.raises(InputError, match=r"no usable training scene is left\. Left out: 1 scene;.*expected 2 bands"):
        prepare(made_up(entries, on_bad_scene="skip"), tmp_path)


def test_several_scenes_of_lost_splits_are_counted(make_store):
    manifest = make_store({"a": ("train", 4, 4), "b": ("val", 4, 4)}).manifest
    gone = (("c", "train"), ("d", "test"), ("e", "test"), ("f", "unlabeled"))
    skipped = tuple(SkippedScene(name, split, "why") for name, split in gone)
    test, unlabeled = lost_splits(dataclasses.replace(manifest, skipped=skipped))
    assert "the split test of made_up is empty: all of its 2 scenes were left out, so fine-tuning has nothing" in test
    assert "the split unlabeled of made_up is empty: its only scene was left out, so pretraining sees the" in unlabeled
    assert lost_splits(manifest) == []


@pytest.fixture
def folder(tmp_path, shared):
    """Four labeled images in a folder with a name that trips careless programs, and what reads it."""
    root = tmp_path / "Fläche 7" / "my data"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for index in range(4):
        Image.fromarray(RNG.integers(1, 256, (6, 7, 3)).astype(np.uint8)).save(root / "images" / f"größe {index}.png")
        Image.fromarray(np.zeros((6, 7), np.uint8)).save(root / "masks" / f"größe {index}.png")
    (root / "classes.yaml").write_text("classes:\n  - {name: ground, index: 0}\n")
    settings = {"name": "mine", "root": str(root), "bands": None, "val_share": 0.0, "test_share": 0.25, "split_seed": 0}
    return root, lambda **more: Folder(**(shared | settings | more))


def test_what_all_scenes_have_alike_is_said_once_and_as_a_setting(folder, tmp_path):
    _, make = folder
    with pytest.raises(InputError) as error:
        prepare(make(channels=(1, 9)), tmp_path / "stores")
    first, second = str(error.value).splitlines()
    assert first.endswith("0.png has 3 bands: dataset.channels=[1,9] asks for more. Name others.")
    assert second == "That is so of 4 scenes, all that were read: a setting may be wrong."


def truncated(path):
    path.write_bytes(path.read_bytes()[:-30])


def empty(path):
    path.write_bytes(b"")


def wrong_magic(path):
    path.write_bytes(b"GIF89a" + path.read_bytes())


@pytest.mark.parametrize("damage", [truncated, empty, wrong_magic])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_damaged_files_are_named_or_left_out(folder, tmp_path, damage, kind):
    root, make = folder
    path = root / kind / "größe 2.png"
    damage(path)
    with pytest.raises(InputError, match="cannot be read as an image") as caught:
        prepare(make(), tmp_path / "stores")
    assert str(path) in str(caught.value)
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert [scene.id for scene in manifest.scenes] == ["größe 0", "größe 1", "größe 3"]
    (skipped,) = manifest.skipped
    assert skipped.reason.startswith(f"{kind}/größe 2.png")  # below the root: equal on every machine


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", ["c.png", "c.tif"])
def test_a_disk_that_fails_says_nothing_about_the_scene(tmp_path, monkeypatch, name, number, write_tif):
    """Left out, it would be missing for good; and what was read until then must not be lost."""
    (tmp_path / "data/images").mkdir(parents=True)
    for stem in "abd":
        Image.fromarray(RNG.integers(1, 256, (6, 6, 3)).astype(np.uint8)).save(tmp_path / f"data/images/{stem}.png")
    path = tmp_path / "data/images" / name
    if path.suffix == ".tif":
        path.write_bytes(b"II*\0")  # GDAL tells the same of a file that is cut and of a disk that fails
    else:
        Image.fromarray(RNG.integers(1, 256, (6, 6, 3)).astype(np.uint8)).save(path)
    dataset = Folder(
        name="city", root=str(tmp_path / "data"), crop_size=4, tile_size=4, tile_shift=0.25, protocol="all_classes",
        value_scale=None, on_bad_scene="skip", transductive=False, bands=["red", "green", "blue"], val_share=0.0,
        test_share=0.0, split_seed=0,
    )  # fmt: skip
    fails, whole = [True], Path.read_bytes

    def read(self):
        if self.name == name and fails[0]:
            raise OSError(number, os.strerror(number), str(self))
        return whole(self)

    def hashed(path):
        if path.name == name and fails[0]:
            raise OSError(number, os.strerror(number), str(path))
        return sha256_of(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr("ssl_rs.data.source_files.sha256_of", hashed)
    said = rf"could not be built: .*{os.strerror(number)}: '.*{name}'\. Make that file readable, or take it out"
    with pytest.raises(InputError, match=said):
        prepare(dataset, tmp_path / "stores")
    (partial,) = (tmp_path / "stores").glob(".*.partial")
    assert (partial / "00000.json").is_file()
    fails[0] = False
    manifest = prepare(dataset, tmp_path / "stores").manifest
    assert len(manifest.scenes) + len(manifest.skipped) == 4
    assert len(manifest.scenes) == (4 if path.suffix == ".png" else 3)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_made_is_no_file_to_take_out(made_up, tmp_path, monkeypatch, number):
    def refuse(path, *given):
        code = number if Path(path).parent.is_dir() else errno.ENOENT  # the one above is made first
        raise OSError(code, os.strerror(code), str(path))

    dataset = made_up([("a", "train", SceneArrays(np.ones((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)))])
    monkeypatch.setattr(os, "mkdir", refuse)
    said = rf"'{tmp_path}/out'\. Make {tmp_path} writable, or choose another store_dir or output_dir;"
    with pytest.raises(InputError, match=said):
        prepare(dataset, tmp_path / "out/stores")


def test_a_folder_of_stores_that_is_read_only_is_named(made_up, tmp_path, monkeypatch):
    def refuse(path, *given, **options):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    dataset = made_up([("a", "train", SceneArrays(np.ones((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)))])
    monkeypatch.setattr("ssl_rs.data.prepare.hold", refuse)
    with pytest.raises(InputError, match=rf"Make {tmp_path} writable, or choose another store_dir or output_dir;"):
        prepare(dataset, tmp_path)
