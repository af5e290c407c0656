"""A user's own folder."""

import csv
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image

from ssl_rs.data.dataset import USED_LATER
from ssl_rs.data.folder import Folder
from ssl_rs.data.manifest import FORMAT_VERSION
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import array_file
from ssl_rs.data.store_location import locate_store
from ssl_rs.data.verify import verify
from ssl_rs.errors import InputError

RNG = np.random.default_rng(0)
CLASSES = (
    "classes:\n  - {name: road, color: [255, 255, 255]}\n  - {name: water, color: [0, 0, 255]}\nignore: [[0, 0, 0]]\n"
)


@pytest.fixture
def make(shared, tmp_path):
    """The data set of tmp_path/data, with other settings if given."""

    def build(**settings):
        known = shared | {
            "name": "mine",
            "root": str(tmp_path / "data"),
            "bands": None,
            "val_share": 0.1,
            "test_share": 0.2,
            "split_seed": 0,
        }
        return Folder(**(known | settings))

    return build


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(values)).save(path)


def rgb(size=6):
    return RNG.integers(1, 256, (size, size, 3)).astype(np.uint8)


def colored(indices):
    return np.array([(255, 255, 255), (0, 0, 255), (0, 0, 0)], np.uint8)[indices]


@pytest.fixture
def labeled(tmp_path):
    """Ten labeled images."""
    root = tmp_path / "data"
    for index in range(10):
        save(root / "images" / f"scene{index}.png", rgb())
        save(root / "masks" / f"scene{index}.png", colored(RNG.integers(0, 3, (6, 6))))
    (root / "classes.yaml").write_text(CLASSES)
    return root


def save_tif(path, values, **profile):
    count, height, width = values.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **profile
    ) as file:
        file.write(values)


def splits(dataset):
    return {scene.id: scene.split for scene in dataset.scenes()}


def test_images_masks_and_classes_are_read(labeled, make, tmp_path):
    indices = np.array([[0, 1, 2]] * 6).repeat(2, axis=1)
    save(labeled / "masks" / "scene3.png", colored(indices))
    store = prepare(make(), tmp_path / "stores")
    place = [scene.id for scene in store.manifest.scenes].index("scene3")
    assert np.array_equal(store.mask(place), np.array([0, 1, 255])[indices])
    expected = np.array(Image.open(labeled / "images" / "scene3.png")).transpose(2, 0, 1)
    assert np.array_equal(store.image(place), expected)
    assert store.manifest.bands == ("red", "green", "blue")
    assert [entry.name for entry in store.manifest.classes] == ["road", "water"]
    assert store.path.name.startswith("mine-")
    sources = [source.name for source in store.manifest.scenes[place].sources]
    assert sources == ["scene3.png", "scene3.png", "classes.yaml"]


def test_other_classes_make_another_store(labeled, make, tmp_path):
    first = prepare(make(), tmp_path / "stores")
    (labeled / "classes.yaml").write_text(CLASSES.replace("road", "street"))
    assert prepare(make(), tmp_path / "stores").path != first.path


def test_drawn_split_has_its_shares_and_follows_the_seed(labeled, make):
    found = splits(make())
    assert Counter(found.values()) == {"train": 7, "val": 1, "test": 2}
    assert splits(make()) == found
    assert any(splits(make(split_seed=seed)) != found for seed in (1, 2))
    assert Counter(splits(make(val_share=0.0, test_share=0.01)).values()) == {"train": 9, "test": 1}


def test_a_draw_that_is_kept_as_the_page_says_stays_when_images_are_added(labeled, make, tmp_path):
    before = splits(make())
    store = prepare(make(), tmp_path / "stores")
    page = (Path(__file__).parents[2] / "docs/own-data.md").read_text()
    code = re.search(r'python -c "(import csv.*?)" < ', page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code[1]],
        input=(store.path / "scenes.csv").read_text(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    added = {f"added{index}": "train" for index in range(20)}
    for name in added:
        save(labeled / "images" / f"{name}.png", rgb())
        save(labeled / "masks" / f"{name}.png", colored(RNG.integers(0, 3, (6, 6))))
    assert not before.items() <= splits(make()).items()  # drawn anew
    listed = yaml.safe_load(done.stdout)
    listed["train"] += added
    (labeled / "splits.yaml").write_text(yaml.safe_dump(listed))
    assert splits(make()) == before | added


def test_scenes_that_lie_together_are_drawn_together(make, tmp_path):
    for name in [f"place{place}_{piece}" for place in range(10) for piece in range(4)] + ["alone"]:
        save(tmp_path / "data" / "images" / f"{name}.png", rgb())
        save(tmp_path / "data" / "masks" / f"{name}.png", colored(RNG.integers(0, 3, (6, 6))))
    (tmp_path / "data" / "classes.yaml").write_text(CLASSES)
    found = splits(make(scene_group=r"place\d+"))
    by_place = [{found[f"place{place}_{piece}"] for piece in range(4)} for place in range(10)]
    assert all(len(each) == 1 for each in by_place)
    assert 9 <= Counter(found.values())["test"] <= 12  # 20 % of 41, then whole places
    assert 5 <= Counter(found.values())["val"] <= 8
    with pytest.raises(InputError, match="lie together in groups, 2 in all, of which each split gets whole ones"):
        prepare(make(scene_group="place|alone"), tmp_path / "stores")
    alone = splits(make())
    assert any(len({alone[f"place{place}_{piece}"] for piece in range(4)}) > 1 for place in range(10))


@pytest.mark.parametrize("pattern", ["tile", ".*"])
def test_a_group_that_puts_nothing_together_is_refused(labeled, make, pattern):
    with pytest.raises(
        InputError, match=r"dataset\.scene_group=.* puts no two images together.* first are scene0, scene1"
    ):
        make(scene_group=pattern).scenes()


def test_files_that_are_not_used_are_told(labeled, make, tmp_path):
    (tmp_path / "data/images/scene.img").write_bytes(b"x")
    (tmp_path / "data/images/notes.txt").write_text("x")
    save(tmp_path / "data/masks/alone.png", colored(np.zeros((6, 6), int)))
    with pytest.warns(UserWarning, match="is not") as caught:
        assert len(make().scenes()) == 10
    told = [str(each.message) for each in caught]
    assert told[0] == f"scene.img in {tmp_path}/data/images: .img is not read. Convert to GeoTIFF."
    assert told[1] == f"alone.png in {tmp_path}/data/masks: there is no image of that stem, so it is not used."
    assert len(told) == 2


def test_whatever_is_no_image_and_lies_among_them_is_told(labeled, make, tmp_path):
    for name in ("batch2.zip", "more.tif.gz", "x.ntf", "y.heic", "z.tfw", "README", "notes.md", "a.tif.aux.xml"):
        (tmp_path / "data/images" / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match="is not read") as caught:
        make().scenes()
    assert [str(each.message) for each in caught] == [
        f"x.ntf, y.heic in {tmp_path}/data/images: .heic, .ntf is not read. Convert to GeoTIFF.",
        f"batch2.zip, more.tif.gz in {tmp_path}/data/images: .gz, .zip is not read. Unpack it.",
    ]


def test_most_images_say_how_many_bands_there_are(make, tmp_path):
    """The first one may be the odd one; left out are then the few."""
    save_tif(tmp_path / "data/images/a0.tif", np.ones((4, 6, 6), np.uint8))
    for number in range(4):
        save_tif(tmp_path / "data/images" / f"s{number}.tif", np.full((3, 6, 6), 10 + number, np.uint8))
    with pytest.raises(InputError, match=r"a0\.tif: expected 3 bands \(red, green, blue\), got 4"):
        prepare(make(), tmp_path / "stores")
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert (len(manifest.scenes), [each.id for each in manifest.skipped]) == (4, ["a0"])


def test_where_most_images_cannot_be_read_the_others_say_how_many_bands_there_are(make, tmp_path):
    for number in range(20):
        picture = Image.fromarray(rgb()).convert("CMYK" if number % 4 else "RGB")
        path = tmp_path / f"data/images/a{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    with pytest.raises(InputError, match="the color mode CMYK is not supported"):
        prepare(make(), tmp_path / "stores")
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert (manifest.bands, len(manifest.scenes)) == (("red", "green", "blue"), 5)


def test_alpha_is_not_asked_whether_the_other_bands_are_nodata(make, tmp_path):
    values = np.full((4, 6, 6), 9, np.uint8)
    values[:3, 0], values[3], values[3, 1] = 0, 255, 0
    save_tif(tmp_path / "data/images/a.tif", values, nodata=0)
    for channels in (None, [1, 2, 3, 4]):
        dataset = make(bands=["red", "green", "blue", "alpha"], channels=channels)
        (strip,) = dataset.read(dataset.scenes()[0]).strips
        assert np.flatnonzero(~strip.valid.any(axis=1)).tolist() == [0, 1]


def test_links_to_folders_of_unlabeled_images_are_followed(labeled, make, tmp_path):
    save(tmp_path / "archive/2019/c.png", rgb())
    (tmp_path / "data/images/unlabeled").mkdir()
    (tmp_path / "data/images/unlabeled/archive").symlink_to(tmp_path / "archive")
    assert [scene.id for scene in make().scenes() if scene.split == "unlabeled"] == ["unlabeled/archive/2019/c.png"]


@pytest.mark.parametrize("folder", ["images", "images/unlabeled"])
def test_a_name_that_is_no_text_is_refused(labeled, make, tmp_path, folder):
    path = tmp_path / "data" / folder / os.fsdecode(b"s2\xff.png")
    save(path.with_name("x.png"), rgb())
    path.with_name("x.png").rename(path)
    with pytest.raises(InputError, match=r"s2\\udcff\.png' is no UTF-8, which GDAL needs\. Rename it"):
        splits(make())


def test_without_masks_everything_is_for_pretraining(tmp_path, make):
    for index in range(4):
        save(tmp_path / "data" / "images" / f"{index}.jpg", rgb())
    dataset = make()
    assert dataset.classes == ()
    assert set(splits(dataset).values()) == {"train"}
    assert prepare(dataset, tmp_path / "stores").manifest.classes == ()


def test_subfolders_are_splits(tmp_path, make):
    for split in ("train", "val", "test"):
        save(tmp_path / "data" / "images" / split / f"of_{split}.png", rgb())
        save(tmp_path / "data" / "masks" / split / f"of_{split}.png", colored(np.zeros((6, 6), int)))
    (tmp_path / "data" / "classes.yaml").write_text(CLASSES)
    assert splits(make()) == {"of_train": "train", "of_val": "val", "of_test": "test"}
    save(tmp_path / "data" / "images" / "beside.png", rgb())
    with pytest.raises(InputError, match=r"beside\.png lies beside the folders"):
        make().scenes()


def test_images_among_the_unlabeled_serve_pretraining_alone(labeled, make, tmp_path):
    before, statistics = splits(make()), prepare(make(), tmp_path / "stores").manifest
    images = {f"unlabeled/{name}.png": rgb(8) for name in ("more0", "2019/scene0", "2020/more0")}
    for name, values in images.items():
        save(labeled / "images" / name, values)
    save(labeled / "images" / "unlabeled" / ".hidden" / "more.png", rgb())
    dataset = make()
    assert splits(dataset) == before | dict.fromkeys(images, "unlabeled")
    store = prepare(dataset, tmp_path / "stores")
    verify(dataset, tmp_path / "stores")
    manifest = store.manifest
    for index in store.scenes_of("unlabeled"):
        scene = manifest.scenes[index]
        assert np.array_equal(store.image(index), images[scene.id].transpose(2, 0, 1))
        assert [array.name for array in scene.arrays] == [array_file(scene.number, "image")]
        assert scene.class_pixels == (0, 0)
    assert (manifest.mean, manifest.std) == (statistics.mean, statistics.std)  # of the training scenes alone
    rows = list(csv.DictReader((store.path / "scenes.csv").open()))
    shares = {row["split"]: row["labeled_share"] for row in rows}
    assert shares["unlabeled"] == ""
    assert float(shares["train"]) > 0


def test_an_unlabeled_image_beside_splits_of_any_kind(labeled, make, tmp_path):
    save(labeled / "images" / "unlabeled" / "more.png", rgb())
    listed = f"train: [{', '.join(f'scene{i}' for i in range(10))}]"
    (labeled / "splits.yaml").write_text(listed)
    assert splits(make())["unlabeled/more.png"] == "unlabeled"
    (labeled / "splits.yaml").write_text(listed.replace("]", ", more]"))
    with pytest.raises(InputError, match=r"there is no image 'more' \(those in images/unlabeled are in no split\)"):
        make().scenes()
    (labeled / "splits.yaml").write_text(listed)
    save(labeled / "masks" / "more.png", colored(np.zeros((6, 6), int)))
    with pytest.raises(InputError, match=r"more\.png lies among the unlabeled, but has a mask, .*masks/more\.png"):
        prepare(make(), tmp_path / "stores")
    (labeled / "masks" / "unlabeled").mkdir()
    with pytest.raises(InputError, match="unlabeled: subfolders are named train, val, test\\."):
        make().scenes()


def test_unlabeled_images_decide_neither_bands_nor_type_nor_scale(labeled, make, tmp_path):
    for number in range(12):
        save_tif(labeled / "images/unlabeled" / f"a{number:02d}.tif", np.full((4, 6, 6), 60000, np.uint16))
    with pytest.raises(InputError, match=r"a00\.tif: expected 3 bands"):
        prepare(make(), tmp_path / "stores")
    skipped = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert {scene.split for scene in skipped.skipped} == {"unlabeled"}
    for number in range(12):
        save_tif(labeled / "images/unlabeled" / f"a{number:02d}.tif", np.full((3, 6, 6), 60000, np.uint16))
    with pytest.raises(InputError, match=r"a00\.tif has values of type uint16, most scenes of uint8"):
        prepare(make(), tmp_path / "stores")
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert (len(manifest.scenes), manifest.value_scale) == (10, 255)


def test_unlabeled_images_are_no_training_scenes(labeled, make, tmp_path):
    save(labeled / "images" / "unlabeled" / "more.png", rgb())
    for path in labeled.glob("images/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"no usable training scene is left\. Left out: 10 scenes"):
        prepare(make(on_bad_scene="skip"), tmp_path / "stores")
    for place in range(1, 10):
        (labeled / "images" / f"scene{place}.png").unlink()
    with pytest.raises(
        InputError, match=r"has 1 scene beside 1 unlabeled, but none in the training split\. Scenes are"
    ):
        locate_store(make(), Path("nowhere"))
    (labeled / "images" / "scene0.png").unlink()
    with pytest.raises(InputError, match=r"has 0 scenes beside 1 unlabeled, .* Only to pretrain, take masks/ and"):
        locate_store(make(), Path("nowhere"))


def test_images_without_masks_may_be_unlabeled_wherever_they_lie(labeled, make, tmp_path):
    before = splits(make())
    values = {name: rgb() for name in ("aerial", "more", "zoo")}
    for name, each in values.items():
        save(labeled / "images" / f"{name}.png", each)
    with pytest.raises(InputError, match=r"aerial\.png, .*: no mask .* dataset\.without_mask=unlabeled takes all such"):
        prepare(make(), tmp_path / "stores")
    dataset = make(without_mask="unlabeled")
    assert splits(dataset) == before | dict.fromkeys(values, "unlabeled")  # no labeled image changed its split
    store = prepare(dataset, tmp_path / "stores")
    verify(dataset, tmp_path / "stores")
    for index in store.scenes_of("unlabeled"):
        scene = store.manifest.scenes[index]
        assert np.array_equal(store.image(index), values[scene.id].transpose(2, 0, 1))
        assert [array.name for array in scene.arrays] == [array_file(scene.number, "image")]


def test_what_becomes_of_images_without_masks_leaves_the_stores_that_were_there(labeled, make):
    assert locate_store(make(), Path("stores"))[0] == locate_store(make(without_mask="unlabeled"), Path("stores"))[0]


def test_an_image_without_mask_among_those_to_test_on_is_an_error(labeled, make, tmp_path):
    for kind in ("images", "masks"):
        for split in ("train", "val", "test"):
            (labeled / kind / split).mkdir()
        for index in range(10):
            split = ("train", "val", "test")[min(index // 4, 2)]
            (labeled / kind / f"scene{index}.png").rename(labeled / kind / split / f"scene{index}.png")
    save(labeled / "images" / "train" / "more.png", rgb())
    dataset = make(without_mask="unlabeled")
    assert Counter(splits(dataset).values()) == {"train": 4, "val": 4, "test": 2, "unlabeled": 1}
    prepare(dataset, tmp_path / "stores")
    save(labeled / "images" / "test" / "forgotten.png", rgb())
    with pytest.raises(InputError, match=r"test/forgotten\.png has no mask"):
        prepare(make(without_mask="unlabeled"), tmp_path / "stores")


def test_splits_file_lists_the_labeled_images_alone(labeled, make):
    save(labeled / "images" / "more.png", rgb())
    listed = f"train: [{', '.join(f'scene{i}' for i in range(10))}]"
    (labeled / "splits.yaml").write_text(listed)
    assert splits(make(without_mask="unlabeled"))["more"] == "unlabeled"
    (labeled / "splits.yaml").write_text(listed.replace("]", ", more]"))
    with pytest.raises(InputError, match="there is no image 'more' with a mask"):
        make(without_mask="unlabeled").scenes()


def test_without_labels_the_unlabeled_are_as_the_others(tmp_path, make):
    save(tmp_path / "data/images/unlabeled/b.png", rgb())
    assert splits(make()) == {"unlabeled/b.png": "train"}
    save(tmp_path / "data/images/a.png", rgb())
    assert splits(make()) == {"a": "train", "unlabeled/b.png": "train"}


def test_a_folder_of_another_name_is_refused(labeled, make):
    (labeled / "images" / "dev").mkdir()
    with pytest.raises(InputError, match=r"dev: subfolders are named train, val, test, unlabeled\."):
        make().scenes()


def test_splits_file_wins(labeled, make):
    (labeled / "splits.yaml").write_text(
        "train: [scene0, scene1]\ntest: [" + ", ".join(f"scene{i}" for i in range(2, 10)) + "]"
    )
    assert Counter(splits(make()).values()) == {"train": 2, "test": 8}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("dev: [scene0]", ["no such key 'dev'"]),
        ("train: scene0", ["train: expected a list"]),
        ("train: 0", ["train: expected a list"]),
        ("train: [1]", ["quotes"]),
        ("val:", ["val: expected a list of stems ([] for none", "got None"]),
        ("train: [scene00]", ["no image 'scene00'", "'scene0'"]),
        ("train: [scene0, scene1]\nval: [scene0]", ["'scene0' is listed twice, in train and val"]),
        ("train: [scene0]", ["9 images are in no list", "'scene1'"]),
    ],
)
def test_splits_files_with_mistakes(labeled, make, content, words):
    (labeled / "splits.yaml").write_text(content)
    with pytest.raises(InputError) as caught:
        make().scenes()
    assert [word for word in ["splits.yaml", *words] if word not in str(caught.value)] == []


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_tif_of_many_bands_with_nodata_and_numbered_masks(tmp_path, make, dtype):
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    values = RNG.integers(1, 900, (5, 8, 7)).astype(dtype)
    values[:, :2] = 0
    numbers = RNG.integers(3, 5, (1, 8, 7)).astype(np.uint8)
    profile = {
        "driver": "GTiff",
        "height": 8,
        "width": 7,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(2, 0, 5, 0, -2, 9),
    }
    with rasterio.open(root / "images" / "a.tif", "w", count=5, dtype=dtype, nodata=0, **profile) as file:
        file.write(values)
    with rasterio.open(root / "masks" / "a.tif", "w", count=1, dtype="uint8", **profile) as file:
        file.write(numbers)
    (root / "classes.yaml").write_text("classes: [{name: four, index: 4}, {name: three, index: 3}]")
    store = prepare(make(val_share=0.0, test_share=0.0), tmp_path / "stores")
    (scene,) = store.manifest.scenes
    assert store.manifest.bands == ("band_1", "band_2", "band_3", "band_4", "band_5")
    assert (scene.crs, scene.transform) == ("EPSG:32633", (2.0, 0.0, 5.0, 0.0, -2.0, 9.0))
    assert scene.valid_share == 0.75
    assert np.array_equal(store.image(0), values)
    assert store.mask(0)[:2].tolist() == [[255] * 7] * 2
    assert np.array_equal(store.mask(0)[2:], 4 - numbers[0, 2:])
    assert store.manifest.value_scale == values.max()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 65535), ("float32", 1e20)])
def test_nodata_of_one_band_sets_no_value_scale(tmp_path, make, dtype, nodata):
    values = RNG.integers(1, 900, (2, 20, 20)).astype(dtype)
    values[1, :, :2] = nodata
    profile = {"driver": "GTiff", "height": 20, "width": 20, "count": 2, "dtype": dtype, "nodata": nodata}
    (tmp_path / "data" / "images").mkdir(parents=True)
    with rasterio.open(tmp_path / "data" / "images" / "a.tif", "w", **profile) as file:
        file.write(values)
    with pytest.warns(UserWarning, match=rf"If {re.escape(f'{nodata:g}')} is nodata, give it to all bands of a pixel"):
        manifest = prepare(make(val_share=0.0, test_share=0.0), tmp_path / "stores").manifest
    seen = np.minimum(values, values[values < nodata].max()) / manifest.value_scale
    assert manifest.value_scale == values[values < nodata].max()
    np.testing.assert_allclose(manifest.mean, seen.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(manifest.std, seen.std(axis=(1, 2)), rtol=1e-6)


def test_an_odd_image_is_named(tmp_path, make):
    save(tmp_path / "data" / "images" / "a.png", rgb())
    save(tmp_path / "data" / "images" / "b.png", rgb()[..., 0])
    with pytest.raises(InputError, match=r"b\.png: expected 3 bands .*, got 1 band of uint8"):
        prepare(make(), tmp_path / "stores")


def test_a_label_file_of_the_wrong_size_is_named(labeled, make, tmp_path):
    save(labeled / "masks" / "scene5.png", colored(np.zeros((6, 7), int)))
    with pytest.raises(InputError, match=r"masks/scene5\.png: the mask has 6 x 7 pixels, its image 6 x 6"):
        prepare(make(), tmp_path / "stores")


def test_an_unknown_color_is_named(labeled, make, tmp_path):
    save(labeled / "masks" / "scene5.png", np.full((6, 6, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"scene5\.png: unknown color 9,9,9 in 36 pixels") as refusal:
        prepare(make(), tmp_path / "stores")
    assert "(1 unknown color in 36 pixels)" in str(refusal.value)
    assert "Repair the mask, or list it below classes: of classes.yaml, or below ignore: there" in str(refusal.value)


def test_an_unknown_number_is_to_be_listed_in_classes_yaml(labeled, make, tmp_path):
    for place in range(10):
        save(labeled / "masks" / f"scene{place}.png", np.full((6, 6), 7, np.uint8))
    (labeled / "classes.yaml").write_text("classes: [{name: a, index: 1}, {name: b, index: 2}]")
    with pytest.raises(InputError, match=r"unknown value 7 .* or list it below classes: of classes\.yaml"):
        prepare(make(), tmp_path / "stores")


def test_missing_masks_are_told_together_before_a_scene_is_read(labeled, make, tmp_path):
    for number in range(1, 8):
        (labeled / "masks" / f"scene{number}.png").unlink()
    save(labeled / "masks" / "scene0.png", np.full((6, 6, 3), 9, np.uint8))  # known only once it is read
    with pytest.raises(InputError) as refusal:
        prepare(make(), tmp_path / "stores", before=lambda: pytest.fail("what is expensive came first"))
    first, told, remedy = str(refusal.value).splitlines()
    assert first == "7 of 10 scenes cannot be used, as their files show before they are read:"
    names = "scene1.png, scene2.png, scene3.png, scene4.png, scene5.png and 2 more"
    assert told.startswith(
        f"  {names}: no mask of that stem, .png or .tif, in {labeled}/masks/. Add them, move the images to"
    )
    assert remedy == "(dataset.on_bad_scene=skip leaves such scenes out.)"


def test_what_is_wrong_with_one_image_is_told_beside_what_several_have_alike(labeled, make, tmp_path):
    for number in (1, 4, 8):
        mask = labeled / "masks" / f"scene{number}.png"
        mask.rename(mask.with_suffix(".jpg"))
    save(labeled / "images" / "scene2.jpg", rgb())
    with pytest.raises(InputError) as refusal:
        prepare(make(), tmp_path / "stores")
    first, alike, alone, _ = str(refusal.value).splitlines()
    assert first.startswith("4 of 10 scenes")
    assert alike.startswith("  scene1.png, scene4.png, scene8.png: no mask of that stem")
    assert "/masks/, which holds scene1.jpg, scene4.jpg, scene8.jpg: JPEG blurs labels; make PNG files from" in alike
    assert "scene2.png and" in alone
    assert "have the same stem" in alone
    skipped = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest.skipped  # each with its own reason
    found = [f"images/{scene.id}.png has no mask {scene.id}.png" in scene.reason for scene in skipped]
    assert found == [True, False, True, True]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "scene.png has no mask scene.png or .tif in masks/. Add it, move the image to images/unlabeled"),
        (2, "/masks/, which holds scene0_mask.png, scene1_mask.png: rename masks to the stems of their images"),
        (10, "/masks/, which holds scene0_mask.png, scene1_mask.png, scene2_mask.png and 7 more: rename"),
    ],
)
def test_files_that_are_no_images_mask_are_named_with_a_missing_one(labeled, make, tmp_path, number, told):
    (labeled / "images" / "scene.png").write_bytes((labeled / "images" / "scene0.png").read_bytes())
    for name in (".hidden.png", "scene0.png.aux.xml"):
        (labeled / "masks" / name).touch()
    for place in range(number):
        mask = labeled / "masks" / f"scene{place}.png"
        mask.rename(mask.with_name(f"scene{place}_mask.png"))
    with pytest.raises(InputError) as refusal:
        prepare(make(), tmp_path / "stores")
    assert told in str(refusal.value)


def test_masks_that_are_jpeg_are_told(labeled, make, tmp_path):
    (labeled / "masks" / "scene3.png").rename(labeled / "masks" / "scene3.jpg")
    with pytest.raises(InputError, match=r"scene3\.png or \.tif in masks/, which holds scene3\.jpg: JPEG blurs labels"):
        prepare(make(), tmp_path / "stores")


def test_accents_of_other_systems_are_the_same(labeled, make, tmp_path):
    """A Mac writes the letter and its accent as two characters; both look alike."""
    composed, apart = "Z\u00fcrich", "Zu\u0308rich"
    for folder, name in (("images", composed), ("masks", apart)):
        (labeled / folder / "scene3.png").rename(labeled / folder / f"{name}.png")
    listed = [f"scene{index}" for index in range(10) if index not in (0, 3)]
    (labeled / "splits.yaml").write_text(json.dumps({"train": [*listed, apart], "val": [], "test": ["scene0"]}))
    assert splits(make())[composed] == "train"
    prepare(make(), tmp_path / "stores")
    (labeled / "images" / "more.png").write_bytes((labeled / "images" / "scene0.png").read_bytes())
    (labeled / "splits.yaml").unlink()
    with pytest.raises(InputError, match=r"more\.png has no mask more\.png or \.tif in masks/\. Add it"):  # no renaming
        prepare(make(), tmp_path / "stores")


def test_an_unlabeled_image_with_an_accent_of_another_system_has_its_mask_all_the_same(labeled, make, tmp_path):
    (labeled / "images/unlabeled").mkdir()
    save(labeled / "images/unlabeled/Zu\u0308rich.png", rgb())
    shutil.copy(labeled / "masks/scene1.png", labeled / "masks/Zu\u0308rich.png")
    with pytest.raises(InputError, match=r"rich\.png lies among the unlabeled, but has a mask, .*rich\.png\."):
        prepare(make(), tmp_path / "stores")


def test_a_scene_that_was_mended_is_no_longer_left_out(labeled, make, tmp_path):
    """What was wrong with it was another file, and its own did not change."""
    save(labeled / "images" / "scene4.jpg", rgb())
    before = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert [scene.id for scene in before.skipped] == ["scene4"]
    (labeled / "images" / "scene4.jpg").unlink()
    after = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert after.skipped == ()
    assert len(after.scenes) == len(before.scenes) + 1


@pytest.mark.parametrize(("share", "number"), [(0.07, 7), (0.14, 14), (0.1, 10), (0.071, 8)])
def test_shares_are_what_they_read(make, tmp_path, share, number):
    images = {f"{index}": tmp_path / "data" / "images" / f"{index}.png" for index in range(100)}
    (tmp_path / "data" / "masks").mkdir(parents=True)
    (tmp_path / "data" / "classes.yaml").write_text(CLASSES)
    found = make(test_share=share, val_share=0.0)._splits(images, ())
    assert list(found.values()).count("test") == number


def test_copies_in_other_splits_are_told(labeled, make, tmp_path):
    drawn = splits(make())
    test, train = (next(name for name, split in drawn.items() if split == wanted) for wanted in ("test", "train"))
    shutil.copy(labeled / "images" / f"{test}.png", labeled / "images" / f"{train}.png")
    with pytest.warns(UserWarning, match=rf"same, pixel for pixel, test '{test}' and train '{train}': scores are"):
        prepare(make(), tmp_path / "stores")


def test_a_problem_that_comes_later_leaves_what_was_prepared(labeled, make, tmp_path):
    aside = prepare(make(), tmp_path / "stores").path
    partial = aside.rename(aside.with_name(f".{aside.name}.partial"))  # as if it had been killed
    save(labeled / "images" / "scene4.jpg", rgb())
    with pytest.raises(InputError, match="have the same stem"):
        prepare(make(), tmp_path / "stores")
    assert list(partial.iterdir())


def test_layout_mistakes_say_what_is_missing(labeled, make, tmp_path):
    (labeled / "masks" / "scene4.png").unlink()
    with pytest.raises(InputError, match=r"scene4\.png has no mask"):
        prepare(make(), tmp_path / "stores")
    save(labeled / "images" / "scene4.jpg", rgb())
    with pytest.raises(InputError, match=r"scene4\.png and .*scene4\.jpg have the same stem"):
        prepare(make(), tmp_path / "stores")
    assert prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest.skipped[0].id == "scene4"
    (labeled / "classes.yaml").unlink()
    with pytest.raises(InputError, match=r"masks is there but .*classes\.yaml is not"):
        _ = make().classes
    with pytest.raises(InputError, match=r"dataset\.root is not set.*images/"):
        make(root=None).scenes()
    with pytest.raises(InputError, match=r"dataset\.root=.*nowhere is no folder"):
        make(root=str(tmp_path / "nowhere")).scenes()


@pytest.mark.parametrize(
    ("names", "root", "told"),
    [
        (["Images/a.png", "Images/b.png"], ".", "Found: Images/ (2 .png). Rename Images/ to images/."),
        (["img/a.png", "img/b.tif", "Masks/a.png"], ".", "Masks/ (1 .png), img/ (1 .png, 1 .tif). Rename img/ to"),
        (["images/a.png"], "images", "Found: 1 .png. It is within images/ already: set dataset.root={data}."),
        (["images/val/a.png"], "images/val", "It is within images/ already: set dataset.root={data}."),
        (["images/a.png", "masks/a.png"], "masks", "It is within masks/ already: set dataset.root={data}."),
        (["city/images/a.png"], ".", "Found: city/images/ (1 .png). Set dataset.root={data}/city."),
        (["a/images/a.jpg", "b/images/a.jpg"], ".", "Set dataset.root={data}/a, or another of them."),
        (["train/images/a.png"], ".", "Move the images of train/images/ to images/train/ (masks to masks/train/)"),
        (["train/a.png", "test/b.png"], ".", "Move test/, train/ into images/, those of masks/ alike."),
        (["2019/a.png", "2020/a.png"], ".", "2019/ (1 .png), 2020/ (1 .png). Put the images of one of them into"),
        ([f"y{n}/a.png" for n in range(9)], ".", "Found: y0/ (1 .png), y1/ (1 .png), y2/ (1 .png) and 6 more. Put"),
        (["a.png", "b.png"], ".", "Found: 2 .png. Move the images into images/."),
        (["images/a.img"], ".", "Found: images/ (1 .img). .img is not read: convert to GeoTIFF."),
        (["images/a.img", "masks/a.png"], ".", "masks/ (1 .png). .img is not read: convert to GeoTIFF."),
        (["gtiff/a.tif", "Labels/a.png"], ".", "Rename gtiff/ to images/."),
        (["images/city/img/a.png"], "images/city", "Found: img/ (1 .png). Rename img/ to images/."),
        (["images/city/images/a.png"], "images", "Found: city/images/ (1 .png). Set dataset.root={data}/images/city."),
        (["images/train/a.png"], "images", "It is within images/ already: set dataset.root={data}."),
        (["masks/a.png"], ".", "Found: masks/ (1 .png)."),
        (["images.zip"], ".", "Found: 1 .zip. Unzip it"),
        (["notes.txt", "more/notes.txt", ".a.png"], ".", "Found: more/, notes.txt, but no image."),
        ([".hidden/a.png"], ".", "Found: nothing."),
    ],
)
def test_another_layout_is_told_with_what_was_found_and_the_remedy(make, tmp_path, names, root, told):
    data = tmp_path / "data"
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"has no images in images/\. It should hold images/ \(jpg") as refusal:
        make(root=str(data / root)).scenes()
    assert told.format(data=data) in str(refusal.value)


def test_a_wrong_folder_is_found_from_within_it_too(make, tmp_path, monkeypatch):
    save(tmp_path / "data/images/a.png", rgb())
    monkeypatch.chdir(tmp_path / "data/images")
    with pytest.raises(InputError, match=f"already: set dataset.root={tmp_path / 'data'}\\."):
        make(root=".").scenes()


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.0, 1.0)])
def test_shares_that_leave_no_training_are_refused(make, val, test):
    with pytest.raises(InputError, match=r"dataset\.val_share"):
        make(val_share=val, test_share=test)


@pytest.mark.parametrize("named", [True, False])  # by the file
def test_a_last_band_named_alpha_says_where_there_is_data(make, tmp_path, named):
    values = RNG.integers(1, 256, (4, 6, 6)).astype(np.uint8)
    values[3, 2, 4] = 0
    save_tif(tmp_path / "data/images/a.tif", values, alpha="YES" if named else "UNSPECIFIED")
    save_tif(tmp_path / "data/images/b.tif", values[:3])
    rgba = np.dstack([rgb(), np.full((6, 6), 255, np.uint8)])
    rgba[1, 1, 3] = 0
    save(tmp_path / "data/images/c.png", rgba)
    store = prepare(make(bands=["red", "green", "blue", "alpha"]), tmp_path / "stores")
    assert store.manifest.bands == ("red", "green", "blue")
    assert np.array_equal(store.image(0), values[:3] * (values[3] > 0))
    missing = [
        np.argwhere(~store.valid(index)).tolist() if store.valid(index) is not None else [] for index in range(3)
    ]
    assert missing == [[[2, 4]], [], [[1, 1]]]


def test_a_band_that_the_file_calls_alpha_is_not_guessed_at(make, tmp_path):
    """GDAL calls the fourth of four bands of 8 bits so, whatever it is."""
    values = RNG.integers(1, 256, (4, 6, 6)).astype(np.uint8)
    values[3] = RNG.choice([0, 255], (6, 6))
    save_tif(tmp_path / "data/images/a.tif", values)
    said = r"a.tif calls the last of its 4 bands alpha. .*bands=\[red,green,blue,alpha\] if .*\[red,green,blue,nir\]"
    for on_bad_scene in ("error", "skip"):  # it is a question, no bad scene
        with pytest.raises(InputError, match=said):
            prepare(make(on_bad_scene=on_bad_scene), tmp_path / "stores")
    store = prepare(make(bands=["red", "green", "blue", "nir"]), tmp_path / "stores")
    assert np.array_equal(store.image(0), values)
    assert store.valid(0) is None
    values[3, 3, 3] = 7  # no mask: near infrared, say
    save_tif(tmp_path / "data/images/a.tif", values)
    with pytest.warns(
        UserWarning, match=r"a.tif calls the last of its 4 bands alpha, .* taken for a band like the others"
    ):
        assert prepare(make(), tmp_path / "stores").manifest.bands == ("band_1", "band_2", "band_3", "band_4")
    for wrong in (["alpha"], ["alpha", "red"], ["red", "alpha", "green"]):
        with pytest.raises(InputError, match=r"dataset.bands: alpha must be the last of several, got"):
            make(bands=wrong)


def test_channels_are_read_in_the_order_that_is_asked_for(make, tmp_path):
    values = RNG.integers(1, 900, (6, 6, 5)).astype(np.uint16)
    values[:, 0, 0] = 0  # no data in any band
    values[[3, 2, 1], 4, 4] = 0  # no data in the bands that are read
    values[3, 5, 1] = 0  # in one of them: data
    save_tif(tmp_path / "data/images/a.tif", values, nodata=0)
    store = prepare(make(channels=[4, 3, 2]), tmp_path / "stores")
    assert store.manifest.bands == ("band_4", "band_3", "band_2")  # that these are colors, nobody said
    assert np.array_equal(store.image(0), values[[3, 2, 1]])
    assert np.argwhere(~store.valid(0)).tolist() == [[0, 0], [4, 4]]
    assert prepare(make(channels=[5, 2]), tmp_path / "stores").manifest.bands == ("band_5", "band_2")
    named = prepare(make(channels=[5, 4, 3], bands=["nir", "red", "green"]), tmp_path / "stores")
    assert named.manifest.bands == ("nir", "red", "green")
    assert np.array_equal(named.image(0), values[[4, 3, 2]])


def test_one_of_the_channels_may_be_alpha(make, tmp_path):
    values = RNG.integers(1, 900, (6, 6, 5)).astype(np.uint16)
    values[5, 2, 3] = 0
    values[[2, 1, 0], 3, 3] = 9  # nodata in the bands that are read, though alpha says otherwise
    save_tif(tmp_path / "data/images/a.tif", values, nodata=9)
    store = prepare(make(channels=[3, 2, 1, 6], bands=["red", "green", "blue", "alpha"]), tmp_path / "stores")
    assert store.manifest.bands == ("red", "green", "blue")
    assert np.argwhere(~store.valid(0)).tolist() == [[2, 3], [3, 3]]
    assert np.array_equal(store.image(0), values[[2, 1, 0]] * store.valid(0))


def test_all_channels_are_the_store_of_before(labeled, make, tmp_path):
    """The setting came when there were stores; they stay what they are."""
    settings = {each.name: getattr(make(), each.name) for each in dataclasses.fields(Folder)}
    known = {name: value for name, value in settings.items() if name not in (*USED_LATER, "without_mask", "channels")}
    scenes = make().scenes()
    listing = [(scene.id, scene.split, [file.identity() for file in scene.files]) for scene in scenes]
    classes = [dataclasses.astuple(entry) for entry in make().classes]
    content = json.dumps([FORMAT_VERSION, known, classes, make().band_names, listing], sort_keys=True)
    path, _ = locate_store(make(), tmp_path)
    assert path.name == f"mine-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    assert locate_store(make(channels=[1, 2, 3]), tmp_path)[0] != path


@pytest.mark.parametrize(
    ("channels", "bands", "words"),
    [
        ([0, 1], None, "must be numbers from 1 on that differ, got [0, 1]"),
        ([2, 2], None, "must be numbers from 1 on that differ, got [2, 2]"),
        ([], None, "must be numbers from 1 on that differ, got []"),
        ([3, 2], ["red"], "expected a name for each of the 2 channels, got 1"),
    ],
)
def test_channels_with_mistakes(make, channels, bands, words):
    with pytest.raises(InputError, match=re.escape(words)):
        make(channels=channels, bands=bands)


def test_channels_that_a_file_lacks_are_told_with_the_file(labeled, make, tmp_path):
    with pytest.raises(
        InputError, match=r"scene0\.png has 3 bands: dataset\.channels=\[4,3,2\] asks for more. Name others"
    ):
        prepare(make(channels=[4, 3, 2]), tmp_path / "stores")


def test_the_last_band_is_asked_about_only_where_it_is_read(make, tmp_path):
    values = RNG.integers(1, 256, (4, 6, 6)).astype(np.uint8)
    values[3] = RNG.choice([0, 255], (6, 6))
    save_tif(tmp_path / "data/images/a.tif", values, alpha="YES")
    said = r"dataset.bands=\[band_3,band_1,alpha\] dataset.channels=\[3,1,4\] if it tells"
    with pytest.raises(InputError, match=said):
        prepare(make(channels=[3, 4, 1]), tmp_path / "stores")
    assert prepare(make(channels=[3, 1]), tmp_path / "stores").manifest.bands == ("band_3", "band_1")


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "float64"])
def test_other_types_of_values_are_read_as_float32(make, tmp_path, dtype):
    values = RNG.integers(1, 100, (2, 6, 5)).astype(dtype)
    values[:, 0, 0] = 101
    save_tif(tmp_path / "data/images/a.tif", values, nodata=101)
    store = prepare(make(), tmp_path / "stores")
    assert store.manifest.dtype == "float32"
    assert np.argwhere(~store.valid(0)).tolist() == [[0, 0]]
    expected = values.astype(np.float32)
    expected[:, 0, 0] = 0
    assert np.array_equal(store.image(0), expected)
    assert store.manifest.value_scale == expected.max()


def test_a_value_that_float32_cannot_hold_is_told_with_its_place(make, tmp_path):
    values = np.ones((1, 6, 5), np.float64)
    values[0, 2, 3] = 1e300
    save_tif(tmp_path / "data/images/a.tif", values)
    with pytest.raises(InputError, match=r"NaN or infinite in 1 pixel, the first at row 2, column 3"):
        prepare(make(), tmp_path / "stores")


def test_nan_that_the_file_does_not_declare_is_told_with_the_command_that_does(make, tmp_path):
    values = np.ones((2, 6, 5), np.float32)
    values[:, 2, 3] = np.nan
    save_tif(tmp_path / "data/images/a.tif", values)
    with pytest.raises(InputError, match=r"NaN or infinite in 1 pixel.*gdal_edit\.py -a_nodata nan"):
        prepare(make(), tmp_path / "stores")
    values[0, 4, 4] = np.nan
    save_tif(tmp_path / "data/images/a.tif", values)
    with pytest.raises(InputError, match=r"NaN or infinite in 2 pixels.*NaN in some bands alone is none"):
        prepare(make(), tmp_path / "stores")
    values[1, 4, 4] = np.nan
    save_tif(tmp_path / "data/images/a.tif", values, nodata=np.nan)
    assert prepare(make(), tmp_path / "stores").valid(0).sum() == 28


def test_complex_values_are_refused_with_the_types_that_are_read(make, tmp_path):
    save_tif(tmp_path / "data/images/a.tif", np.ones((1, 6, 5), np.complex64))
    with pytest.raises(InputError, match="expected values of type uint8, uint16, int16 or float32, got complex64"):
        prepare(make(), tmp_path / "stores")


def test_a_link_to_what_is_not_there_is_named(labeled, make, tmp_path):
    (tmp_path / "data/images/unlabeled").mkdir(exist_ok=True)
    (tmp_path / "data/images/unlabeled/far.tif").symlink_to(tmp_path / "unmounted/far.tif")
    (tmp_path / "data/images/.#scene.tif").symlink_to("me@host.1:2")  # an editor's lock
    (tmp_path / "data/images/unlabeled/lost+found").mkdir()
    (tmp_path / "data/images/unlabeled/lost+found/a.tif").write_bytes(b"of the file system")
    with pytest.raises(InputError, match=r"far\.tif links to .*unmounted/far\.tif, which is not there\. Mount"):
        make().scenes()


def test_a_store_needs_no_file_system_that_flushes_folders(labeled, make, tmp_path, monkeypatch):
    flush = os.fsync

    def of_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    assert prepare(make(), tmp_path / "stores").manifest.scenes


def test_complex_integers_are_refused(make, tmp_path):
    (tmp_path / "data/images").mkdir(parents=True)
    path = tmp_path / "data/images/a.tif"
    rasterio.open(path, "w", driver="GTiff", count=1, height=6, width=5, dtype="complex_int16").close()
    with pytest.raises(InputError, match=r"a\.tif has values of type complex_int16, which are not read"):
        prepare(make(), tmp_path / "stores")


def test_pages_of_a_tiff_are_not_left_out_without_a_word(make, tmp_path):
    (tmp_path / "data/images").mkdir(parents=True)
    pages = [Image.new("L", (5, 6), value) for value in range(6)]
    pages[0].save(tmp_path / "data/images/a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"a\.tif has 6 pages, of which only the first would be read"):
        prepare(make(), tmp_path / "stores")


def test_overviews_and_a_mask_within_a_tiff_are_no_further_pages(make, tmp_path):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64)
    path = tmp_path / "data/images/a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        save_tif(path, values, tiled=True, blockxsize=16, blockysize=16)
        with rasterio.open(path, "r+") as file:
            file.write_mask(values[0] > 0)
            file.build_overviews([2, 4])
    assert not path.with_name("a.tif.msk").exists()
    store = prepare(make(), tmp_path / "stores")
    assert np.array_equal(store.image(0), values)
    assert np.array_equal(store.valid(0), values[0] > 0)
