"""ISPRS Vaihingen: official names, folders and archives, small."""

import numpy as np
import pytest
from official_sets import (
    BROKEN,
    VAIHINGEN,
    VAIHINGEN_TEST,
    VAIHINGEN_TRAIN,
    assert_read_exactly,
    assert_refused_and_skipped,
    colored,
    tiff,
    write,
    write_vaihingen,
)

from ssl_rs.data.prepare import prepare
from ssl_rs.data.vaihingen import TEST, TRAIN, Vaihingen
from ssl_rs.errors import InputError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Größe & 数据 1" / "Vaihingen"


@pytest.fixture
def make(shared, root):
    settings = {"name": "vaihingen", "val_share": 0.1, "split_seed": 0, "unknown_colors": "error"}

    def build(**changed):
        return Vaihingen(**(shared | settings | {"root": str(root)} | changed))

    return build


@pytest.fixture
def few(root, monkeypatch):
    """The areas 1, 3, 5 and 2, as if there were no others."""
    monkeypatch.setattr("ssl_rs.data.vaihingen.TRAIN", TRAIN[:3])
    monkeypatch.setattr("ssl_rs.data.vaihingen.TEST", TEST[:1])

    def build(**settings):
        return write_vaihingen(root, **({"numbers": ("1", "3", "5", "2")} | settings))

    return build


def image_of(root, name):
    return root / VAIHINGEN / "top" / f"top_mosaic_09cm_{name}.tif"


def label_of(root, name):
    return root / f"{VAIHINGEN}_ground_truth_COMPLETE" / f"top_mosaic_09cm_{name}.tif"


def eroded_of(root, name):
    return root / f"{VAIHINGEN}_ground_truth_eroded_COMPLETE" / f"top_mosaic_09cm_{name}_noBoundary.tif"


def test_official_lists():
    assert tuple(f"area{number}" for number in VAIHINGEN_TRAIN.split()) == TRAIN
    assert tuple(f"area{number}" for number in VAIHINGEN_TEST.split()) == TEST
    assert (len(TRAIN), len(TEST), len({*TRAIN, *TEST})) == (16, 17, 33)
    assert "area9" not in (*TRAIN, *TEST)


@pytest.mark.parametrize("layout", ["folders", "flat zip"])
def test_every_pixel_is_read_right_where_image_and_label_have_one_name(root, make, tmp_path, layout):
    scenes = write_vaihingen(root, layout)
    store = prepare(make(), tmp_path / "stores")
    assert_read_exactly(store, scenes)
    assert store.manifest.bands == ("nir", "red", "green")
    assert {scene.split for scene in store.manifest.scenes} == {"train", "val", "test"}
    assert len({(scene.height, scene.width) for scene in store.manifest.scenes}) > 20
    assert all(len(np.unique(scene.mask)) == 6 and 255 in scene.eroded for scene in scenes.values())


def test_the_root_may_be_the_parent_and_boundaries_are_computed(few, root, make, tmp_path):
    scenes = few(no_boundary=lambda name: name == "area3")
    assert_read_exactly(prepare(make(root=str(root.parent)), tmp_path / "stores"), scenes)


@pytest.mark.parametrize(
    "folder", ["ground_truth/top_mosaic_09cm", "gts", "gts_for_participants", f"{VAIHINGEN}_ground_truth_COMPLETE/gts"]
)
def test_labels_may_lie_in_folders_of_other_names(few, root, make, tmp_path, folder):
    scenes = few(no_boundary=lambda name: False)
    for name in (*scenes, "area9"):
        label = label_of(root, name)
        moved = root / folder / label.name
        moved.parent.mkdir(parents=True, exist_ok=True)
        label.rename(moved)
        (root / VAIHINGEN / "gts_for_participants" / label.name).unlink(missing_ok=True)
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)


def test_the_complete_labels_are_preferred_to_those_for_participants(few, root, make, tmp_path):
    scenes = few(no_boundary=lambda name: False)
    for label in (root / VAIHINGEN / "gts_for_participants").iterdir():
        label.write_bytes(b"")
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)


def test_a_draw_of_a_tenth_is_two_of_sixteen(root, make):
    write_vaihingen(root, no_boundary=lambda name: False)
    split_of = {scene.id: scene.split for scene in make().scenes()}
    assert len(split_of) == 33
    assert {name for name, split in split_of.items() if split == "test"} == set(TEST)
    assert sum(split == "val" for split in split_of.values()) == 2
    assert not [name for name in TRAIN if make(val_share=0.0).scenes()[TRAIN.index(name)].split != "train"]


def test_black_is_an_error_in_full_labels(few, root, make, tmp_path):
    scenes = few()
    colors = colored(scenes["area3"].mask)
    colors[:, 4, 9] = colors[:, 8, 3] = 0
    label_of(root, "area3").write_bytes(tiff(colors))
    words = "unknown color 0,0,0 in 2 pixels, one at row 4, column 9"
    assert_refused_and_skipped(make, tmp_path / "stores", label_of(root, "area3"), "area3", words)


@pytest.mark.parametrize("place", [image_of, label_of])
def test_a_missing_file_is_named_or_its_scene_left_out(few, root, make, tmp_path, place):
    few()
    path = place(root, "area2")
    path.unlink()
    named = f"{path.name} not found"
    with pytest.raises(InputError, match=named):
        prepare(make(), tmp_path / "stores")
    (skipped,) = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest.skipped
    assert (skipped.id, skipped.split) == ("area2", "test")
    assert named in skipped.reason


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("place", [image_of, label_of, eroded_of])
def test_damaged_files_are_refused_or_left_out(few, root, make, tmp_path, place, damage):
    few()
    path = place(root, "area5")
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "area5", "cannot be read as an image")


UNFIT = {
    "image of 1 band": (image_of, lambda scene: scene.image[:1], "expected 3 bands"),
    "image of floats": (image_of, lambda scene: scene.image.astype(np.float32), "expected values of type uint8"),
    "label of another size": (label_of, lambda scene: colored(scene.mask[:, 1:]), "pixels, its image"),
    "label of 2 bands": (label_of, lambda scene: scene.image[:2], "RGB colors"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_files_are_refused_or_left_out(few, root, make, tmp_path, kind):
    scenes = few()
    place, change, words = UNFIT[kind]
    path = place(root, "area1")
    path.write_bytes(tiff(change(scenes["area1"])))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "area1", words)


def test_a_wrong_layout_is_answered_with_the_right_one_and_what_was_found(root, make):
    write(root, {"images/top_mosaic_09cm_area1.tif": b"x"})
    with pytest.raises(InputError) as caught:
        make().scenes()
    for part in (
        f"dataset.root={root} holds no image in a folder top",
        "ISPRS_semantic_labeling_Vaihingen/top/top_mosaic_09cm_area1.tif",
        "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE/top_mosaic_09cm_area1.tif",
        "Found: images: top_mosaic_09cm_area1.tif",
    ):
        assert part in str(caught.value)
