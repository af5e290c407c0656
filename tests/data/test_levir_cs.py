"""LEVIR_CS: official names, folders and archives, small."""

import shutil
from collections import Counter

import numpy as np
import pytest
from official_sets import (
    BROKEN,
    assert_read_exactly,
    assert_refused_and_skipped,
    tiff,
    write,
    write_levir_cs,
)

from ssl_rs.data.levir_cs import LevirCs
from ssl_rs.data.prepare import prepare
from ssl_rs.errors import InputError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Größe & 数据 1" / "Levir_CS"


@pytest.fixture
def make(shared, root):
    settings = {"name": "levir_cs", "val_share": 0.25, "split_seed": 0, "value_scale": 1023.0}

    def build(**changed):
        return LevirCs(**(shared | settings | {"root": str(root)} | changed))

    return build


def path_of(root, kind, name):
    (path,) = root.glob(f"*/{kind}/{name}_*")
    return path


@pytest.mark.parametrize("layout", ["folders", "zip", "flat zip"])
def test_every_pixel_is_read_right(root, make, tmp_path, layout):
    scenes = write_levir_cs(root, layout)
    store = prepare(make(), tmp_path / "stores")
    assert_read_exactly(store, scenes)
    manifest = store.manifest
    assert manifest.bands == ("blue", "green", "red", "nir")
    assert (manifest.dtype, manifest.value_scale, manifest.eroded) == ("uint16", 1023, False)
    assert [entry.name for entry in manifest.classes] == ["background", "cloud", "snow"]
    assert Counter(scene.split for scene in manifest.scenes) == {"train": 9, "val": 3, "test": 3}
    assert {scene.id for scene in manifest.scenes if scene.split == "test"} == set(list(scenes)[-3:])
    assert {scene.crs for scene in manifest.scenes} == {"EPSG:4326"}
    pixels = [store.image(index).reshape(4, -1) for index in store.scenes_of("train")]
    assert manifest.mean == pytest.approx(np.concatenate(pixels, axis=1).mean(axis=1) / 1023)


def test_elevation_models_are_not_read(root, make):
    write_levir_cs(root)
    with_them = make().scenes()
    for folder in ("train", "test"):
        shutil.rmtree(root / folder / "dem")
    assert make().scenes() == with_them


def test_validation_is_drawn_from_training_only(root, make):
    scenes = write_levir_cs(root)
    train = set(list(scenes)[:-3])
    drawn = [{s.id for s in make(val_share=0.5, split_seed=seed).scenes() if s.split == "val"} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(val) == 6 and val < train for val in drawn)
    assert not [scene for scene in make(val_share=0.0).scenes() if scene.split == "val"]


@pytest.mark.parametrize(("kind", "named"), [("mss", "_mss.tiff"), ("label_0_1_2", "_roiMap.tif")])
def test_a_missing_file_is_named_or_its_scene_left_out(root, make, tmp_path, kind, named):
    name = list(write_levir_cs(root, num_train=4, num_test=1))[1]
    path_of(root, kind, name).unlink()
    with pytest.raises(InputError, match=f"train/{kind}/{name}{named} not found"):
        prepare(make(), tmp_path / "stores")
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert [scene.id for scene in manifest.skipped] == [name]
    assert len(manifest.scenes) == 4


def test_one_name_in_training_and_test_is_an_error(root, make, tmp_path):
    name = list(write_levir_cs(root, num_train=4, num_test=1))[1]
    for kind in ("mss", "label_0_1_2"):
        path = path_of(root, kind, name)
        shutil.copy(path, root / "test" / kind / path.name)
    with pytest.raises(InputError, match=f"more than one scene with the id '{name}'"):
        prepare(make(), tmp_path / "stores")


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("kind", ["mss", "label_0_1_2"])
def test_damaged_files_are_refused_or_left_out(root, make, tmp_path, kind, damage):
    name = list(write_levir_cs(root, num_train=4, num_test=1))[2]
    path = path_of(root, kind, name)
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_and_skipped(make, tmp_path / "stores", path, name, "cannot be read as an image")


UNFIT = {
    "image of 3 bands": ("mss", lambda scene: scene.image[:3], "expected 4 bands (blue, green, red, nir), got 3"),
    "image of 8 bits": ("mss", lambda scene: scene.image.astype(np.uint8), "expected values of type uint16, got uint8"),
    "label of another size": ("label_0_1_2", lambda scene: scene.mask[None, 2:], "pixels, its image"),
    "label of 3 bands": ("label_0_1_2", lambda scene: np.stack([scene.mask] * 3), "one band of whole numbers"),
    "label of floats": ("label_0_1_2", lambda scene: scene.mask[None] * np.float32(0.5), "one band of whole numbers"),
    "unknown number": ("label_0_1_2", lambda scene: scene.mask[None] + (scene.mask == 2)[None], "unknown value 3"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_files_are_refused_or_left_out(root, make, tmp_path, kind):
    scenes = write_levir_cs(root, num_train=4, num_test=1)
    name = list(scenes)[4]
    folder, change, words = UNFIT[kind]
    path = path_of(root, folder, name)
    path.write_bytes(tiff(change(scenes[name])))
    assert_refused_and_skipped(make, tmp_path / "stores", path, name, words)


def test_a_wrong_layout_is_answered_with_the_right_one_and_what_was_found(root, make):
    write(root, {"images/a_mss.tiff": b"x"})
    with pytest.raises(InputError) as caught:
        make().scenes()
    for part in (f"dataset.root={root}", "train/mss/NAME_mss.tiff", "label_0_1_2", "Found: images: a_mss.tiff"):
        assert part in str(caught.value)
