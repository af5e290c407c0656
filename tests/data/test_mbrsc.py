"""MBRSC Dubai: the official layout made small, and the real files where they are."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_rs.data.label_subset import LabelFraction, choose_labels
from ssl_rs.data.mbrsc import MbrscDubai
from ssl_rs.data.prepare import prepare
from ssl_rs.errors import InputError

COLORS = [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41), (155, 155, 155), (0, 0, 0)]
INDICES = [0, 1, 2, 3, 4, 255, 255]
REAL = Path(os.environ.get("SSL_RS_DATA", "")) / "mbrsc_dubai"


@pytest.fixture
def make(shared, tmp_path):
    def build(root=tmp_path / "data", **settings):
        return MbrscDubai(**(shared | {"name": "mbrsc", "root": root and str(root), "val_parts": []} | settings))

    return build


def write_mask(path, places, palette):
    colors = np.array(COLORS, np.uint8)
    if palette:
        image = Image.fromarray(places.astype(np.uint8), mode="P")
        image.putpalette(colors.ravel().tolist())
    else:
        image = Image.fromarray(colors[places])
    image.save(path)


@pytest.fixture
def official(tmp_path):
    """All 72 pairs, 8 x 7 pixels each, palettes in Tiles 2 and 4; gives the mask of each (tile, part)."""
    rng = np.random.default_rng(0)
    masks = {}
    for tile in range(1, 9):
        images, labels = (tmp_path / "data" / f"Tile {tile}" / name for name in ("images", "masks"))
        images.mkdir(parents=True)
        labels.mkdir()
        for part in range(1, 10):
            name = f"image_part_{part:03d}"
            Image.fromarray(rng.integers(0, 256, (8, 7, 3)).astype(np.uint8)).save(images / f"{name}.jpg")
            masks[tile, part] = rng.integers(0, 7, (8, 7))
            write_mask(labels / f"{name}.png", masks[tile, part], palette=tile in (2, 4))
    return masks


def test_masks_and_splits(official, make, tmp_path):
    store = prepare(make(), tmp_path / "stores")
    assert Counter(scene.split for scene in store.manifest.scenes) == {"train": 48, "test": 24}
    for index, scene in enumerate(store.manifest.scenes):
        tile, part = int(scene.id[4]), int(scene.id[-1])
        assert np.array_equal(store.mask(index), np.array(INDICES)[official[tile, part]])
        assert (scene.split == "test") == (part in (3, 6, 9))
    names = ["building", "land", "road", "vegetation", "water"]
    assert [entry.name for entry in store.manifest.classes] == names
    assert [entry.color for entry in store.manifest.classes] == COLORS[:5]


def test_validation_parts_are_taken_from_training(official, make):
    split_of = {scene.id: scene.split for scene in make(val_parts=[8]).scenes()}
    assert Counter(split_of.values()) == {"train": 40, "val": 8, "test": 24}
    assert split_of["tile3_part8"] == "val"


@pytest.mark.parametrize("parts", [[3], [0], [10], [1, 2, 4, 5, 7, 8]])
def test_validation_parts_that_cannot_be_are_refused(make, parts):
    with pytest.raises(InputError, match=r"dataset\.val_parts"):
        make(val_parts=parts)


def test_an_unknown_color_is_reported_never_a_class(official, make, tmp_path):
    path = tmp_path / "data" / "Tile 5" / "masks" / "image_part_004.png"
    pixels = np.array(Image.open(path))
    pixels[2, 3] = pixels[6, 1] = (60, 16, 153)
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError) as caught:
        prepare(make(), tmp_path / "stores")
    for part in (str(path), "60,16,153 in 2 pixels", "row 2, column 3", "Get the file again."):
        assert part in str(caught.value)


def test_a_missing_file_and_a_missing_root_are_named(official, make, tmp_path):
    (tmp_path / "data" / "Tile 7" / "masks" / "image_part_009.png").unlink()
    assert [scene.problem for scene in make().scenes() if scene.problem] == [
        "Scene 'tile7_part9': Tile 7/masks/image_part_009.png not found below dataset.root. "
        "Add what is missing, or correct dataset.root."
    ]
    with pytest.raises(InputError, match=r"holds no image.*Tile 1.*Found: "):
        make(tmp_path / "data" / "Tile 7" / "masks").scenes()
    with pytest.raises(InputError, match=r"dataset\.root is not set.*Tile 1"):
        make(None).scenes()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="SSL_RS_DATA names no folder that holds mbrsc_dubai")
def test_the_real_files(make, tmp_path):
    store = prepare(make(REAL), tmp_path)
    full = Counter()  # whole tiles of 128 px, as other counts of this data set have them
    for scene in store.manifest.scenes:
        full[scene.split] += (scene.height // 128) * (scene.width // 128)
    assert full == {"train": 3690, "test": 1845}
    assert choose_labels(store, 128, LabelFraction(1.0, "tile"), 0).total_units == 4500  # with those at the edges
    pixels = np.array([scene.class_pixels for scene in store.manifest.scenes]).sum(axis=0) / 99_032_529
    assert pixels == pytest.approx([0.1331, 0.5236, 0.0935, 0.1031, 0.1361], abs=6e-5)
