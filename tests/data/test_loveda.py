"""LoveDA: official names, folders and archives, small."""

from collections import Counter

import numpy as np
import pytest
from official_sets import BROKEN, assert_read_exactly, assert_refused_and_skipped, picture, write, write_loveda
from PIL import Image

from ssl_rs.data.loveda import LoveDA
from ssl_rs.data.prepare import prepare
from ssl_rs.errors import InputError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Größe & 数据 1" / "LoveDA"


@pytest.fixture
def make(shared, root):
    settings = {"name": "loveda", "area": None, "val_share": 0.25, "split_seed": 0}

    def build(**changed):
        return LoveDA(**(shared | settings | {"root": str(root)} | changed))

    return build


@pytest.mark.parametrize("layout", ["folders", "zip", "flat zip"])
def test_every_pixel_is_read_right(root, make, tmp_path, layout):
    scenes = write_loveda(root, layout)
    store = prepare(make(), tmp_path / "stores")
    assert_read_exactly(store, scenes)
    assert [entry.name for entry in store.manifest.classes] == [
        "background", "building", "road", "water", "barren", "forest", "agriculture",
    ]  # fmt: skip
    assert all(set(np.unique(scene.mask)) == {*range(7), 255} for scene in scenes.values())
    assert Counter(scene.split for scene in store.manifest.scenes) == {"train": 9, "val": 3, "test": 4}
    tests = {scene.id for scene in store.manifest.scenes if scene.split == "test"}
    assert tests == {"val_rural_0", "val_rural_1", "val_urban_0", "val_urban_1"}


def test_scenes_that_lie_together_validate_together(root, make):
    write_loveda(root)
    splits = {scene.id: scene.split for scene in make(scene_group="train_(rural|urban)").scenes()}
    by_area = {
        area: {split for name, split in splits.items() if name.startswith(f"train_{area}")}
        for area in ("rural", "urban")
    }
    assert sorted(map(sorted, by_area.values())) == [["train"], ["val"]]


def test_the_hidden_test_images_are_not_read(root, make):
    write_loveda(root)
    assert not [file for scene in make().scenes() for file in scene.files if "Test" in str(file)]


@pytest.mark.parametrize("area", ["rural", "urban"])
def test_one_area_alone(root, make, tmp_path, area):
    scenes = write_loveda(root)
    store = prepare(make(area=area), tmp_path / "stores")
    assert_read_exactly(store, {name: scene for name, scene in scenes.items() if area in name})
    assert len(store.manifest.scenes) == 8


def test_a_palette_says_nothing_about_the_numbers(root, make, tmp_path):
    scenes = write_loveda(root)
    for path in root.glob("*/*/masks_png/*.png"):
        with Image.open(path) as image:
            colored = Image.fromarray(np.array(image), mode="P")
        colored.putpalette([7] * 24)
        colored.save(path)
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)


@pytest.mark.parametrize("kind", ["images_png", "masks_png"])
def test_a_missing_file_is_named_or_its_scene_left_out(root, make, tmp_path, kind):
    write_loveda(root)
    (root / "Train" / "Urban" / kind / "3.png").unlink()
    with pytest.raises(InputError, match=rf"Train/Urban/{kind}/3\.png not found"):
        prepare(make(), tmp_path / "stores")
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert [scene.id for scene in manifest.skipped] == ["train_urban_3"]
    assert len(manifest.scenes) == 15


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("kind", ["images_png", "masks_png"])
def test_damaged_files_are_refused_or_left_out(root, make, tmp_path, kind, damage):
    write_loveda(root)
    path = root / "Train" / "Rural" / kind / "2.png"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "train_rural_2", "cannot be read as an image")


UNFIT = {
    "gray image": ("images_png", lambda scene: scene.image[0], "expected 3 bands"),
    "image of 16 bits": ("images_png", lambda scene: scene.image[0].astype(np.uint16), "values of type uint8"),
    "mask of another size": ("masks_png", lambda scene: scene.mask[1:] % 7, "16 x 21 pixels, its image 17 x 21"),
    "mask of colors": ("masks_png", lambda scene: np.stack([scene.mask] * 3, axis=-1), "one band of whole numbers"),
    "unknown number": ("masks_png", lambda scene: np.full_like(scene.mask, 8), "unknown value 8 in 357 pixels"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_files_are_refused_or_left_out(root, make, tmp_path, kind):
    scenes = write_loveda(root)
    folder, change, words = UNFIT[kind]
    path = root / "Val" / "Urban" / folder / "1.png"
    path.write_bytes(picture(change(scenes["val_urban_1"])))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "val_urban_1", words)


def test_a_wrong_layout_is_answered_with_the_right_one_and_what_was_found(root, make):
    write(root, {"Test/Rural/images_png/1.png": b"x"})
    with pytest.raises(InputError) as caught:
        make().scenes()
    for part in (f"dataset.root={root}", "Train/Rural/masks_png/0.png", "Found: Test/Rural/images_png: 1.png"):
        assert part in str(caught.value)
