"""ISPRS Potsdam: official names, folders and archives, small."""

from collections import Counter

import numpy as np
import pytest
from official_sets import (
    BROKEN,
    POTSDAM_TEST,
    POTSDAM_TRAIN,
    assert_read_exactly,
    assert_refused_and_skipped,
    colored,
    isprs_scene,
    slowly_eroded,
    tiff,
    write,
    write_potsdam,
)

from ssl_rs.data.potsdam import TEST, TRAIN, Potsdam
from ssl_rs.data.prepare import prepare
from ssl_rs.errors import InputError

SETTINGS = {"name": "potsdam", "bands": "RGB", "val_share": 0.1, "split_seed": 0, "unknown_colors": "error"}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Größe & 数据 1" / "Potsdam"


@pytest.fixture
def make(shared, root):
    def build(**settings):
        return Potsdam(**(shared | SETTINGS | {"root": str(root)} | settings))

    return build


@pytest.fixture
def few(root, monkeypatch):
    """The first three training tiles and the last test tile, as if there were no others."""
    monkeypatch.setattr("ssl_rs.data.potsdam.TRAIN", TRAIN[:3])
    monkeypatch.setattr("ssl_rs.data.potsdam.TEST", TEST[-1:])

    def build(**settings):
        return write_potsdam(root, **({"names": (*TRAIN[:3], *TEST[-1:])} | settings))

    return build


def image_of(root, name):
    return root / "2_Ortho_RGB" / f"top_potsdam_{name}_RGB.tif"


def label_of(root, name):
    return root / "5_Labels_all" / f"top_potsdam_{name}_label.tif"


def eroded_of(root, name):
    return root / "5_Labels_all_noBoundary" / f"top_potsdam_{name}_label_noBoundary.tif"


def test_official_lists():
    assert tuple(POTSDAM_TRAIN.split()) == TRAIN
    assert tuple(POTSDAM_TEST.split()) == TEST
    assert (len(TRAIN), len(TEST), len({*TRAIN, *TEST})) == (24, 14, 38)


@pytest.mark.parametrize("layout", ["folders", "zip", "flat zip"])
def test_every_pixel_is_read_right(root, make, tmp_path, layout):
    scenes = write_potsdam(root, layout)
    store = prepare(make(), tmp_path / "stores")
    assert_read_exactly(store, scenes)
    manifest = store.manifest
    assert manifest.bands == ("red", "green", "blue")
    assert (manifest.dtype, manifest.value_scale, manifest.eroded) == ("uint8", 255, True)
    assert [entry.name for entry in manifest.classes] == [
        "impervious_surface", "building", "low_vegetation", "tree", "car", "clutter",
    ]  # fmt: skip
    assert all(255 in scene.eroded and 255 not in scene.mask for scene in scenes.values())
    assert all(len(np.unique(scene.mask)) == 6 for scene in scenes.values())


def test_the_root_may_be_the_parent_of_several_sets(few, root, make, tmp_path):
    scenes = few()
    assert_read_exactly(prepare(make(root=str(root.parent)), tmp_path / "stores"), scenes)


def test_folders_may_be_links_even_in_a_circle(few, root, make, tmp_path):
    scenes = few()
    elsewhere = tmp_path / "elsewhere"
    (root / "2_Ortho_RGB").rename(elsewhere)
    (root / "2_Ortho_RGB").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (elsewhere / "above").symlink_to(tmp_path)
    (elsewhere / "self").symlink_to(elsewhere)
    (root / "0").symlink_to(root / "5_Labels_all")
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)


@pytest.mark.parametrize(
    ("bands", "names"),
    [("IRRG", ("nir", "red", "green")), ("RGBIR", ("red", "green", "blue", "nir"))],
)
def test_other_bands_come_from_their_own_folder(few, root, make, tmp_path, bands, names):
    few()
    scenes = few(bands=bands)
    store = prepare(make(bands=bands), tmp_path / "stores")
    assert_read_exactly(store, scenes)
    assert store.manifest.bands == names
    assert store.path != prepare(make(), tmp_path / "stores").path


def test_boundaries_are_computed_where_no_file_leaves_them_out(root, make, tmp_path):
    scenes = write_potsdam(root, no_boundary=lambda name: name.endswith("0"))
    assert Counter(len(scene.files) for scene in make().scenes()) == {3: 6, 2: 32}
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)


def test_a_file_without_boundaries_wins_over_their_computation(few, root, make, tmp_path):
    few(no_boundary=lambda name: False)
    published = np.full((27, 31), 3, np.uint8)
    published[5:9, 7] = 255
    eroded_of(root, "2_10").parent.mkdir()
    eroded_of(root, "2_10").write_bytes(tiff(colored(published)))
    store = prepare(make(), tmp_path / "stores")
    index = [scene.id for scene in store.manifest.scenes].index("2_10")
    assert np.array_equal(store.eroded(index), published)


def test_validation_is_drawn_from_training_and_written(root, make, tmp_path):
    write_potsdam(root)
    drawn = {}
    for share, seed, count in ((0, 0, 0), (0.01, 0, 1), (0.1, 0, 2), (0.25, 0, 6), (0.25, 1, 6)):
        scenes = make(val_share=share, split_seed=seed).scenes()
        assert {scene.id for scene in scenes if scene.split == "test"} == set(TEST)
        drawn[share, seed] = {scene.id for scene in scenes if scene.split == "val"}
        assert len(drawn[share, seed]) == count
        assert {scene.id for scene in scenes if scene.split == "train"} == set(TRAIN) - drawn[share, seed]
    assert drawn[0.1, 0] == {"6_12", "7_7"}  # of the hex digits of sha256, those of "0/6_12" and "0/7_7" come first
    assert drawn[0.01, 0] < drawn[0.1, 0] < drawn[0.25, 0] != drawn[0.25, 1]
    manifest = prepare(make(), tmp_path / "stores").manifest
    assert {scene.id for scene in manifest.scenes if scene.split == "val"} == drawn[0.1, 0]


@pytest.mark.parametrize("share", [-0.1, 1])
def test_shares_that_cannot_be_are_refused(make, share):
    with pytest.raises(InputError, match=r"dataset\.val_share"):
        make(val_share=share)


@pytest.mark.parametrize("color", [(0, 0, 0), (252, 255, 0)])
def test_another_color_is_an_error_or_ignored_never_a_class(few, root, make, tmp_path, color):
    scenes = few(no_boundary=lambda name: False)
    colors = colored(scenes["2_12"].mask)
    colors[:, 4, 9] = colors[:, 20, 3] = colors[:, 20, 4] = color
    label_of(root, "2_12").write_bytes(tiff(colors))
    shown = "{},{},{}".format(*color)
    words = f"unknown color {shown} in 3 pixels, one at row 4, column 9", "dataset.unknown_colors=ignore"
    assert_refused_and_skipped(make, tmp_path / "stores", label_of(root, "2_12"), "2_12", *words)
    store = prepare(make(unknown_colors="ignore"), tmp_path / "stores")
    expected = scenes["2_12"].mask.copy()
    expected[4, 9] = expected[20, 3] = expected[20, 4] = 255
    index = [scene.id for scene in store.manifest.scenes].index("2_12")
    assert np.array_equal(store.mask(index), expected)
    assert np.array_equal(store.eroded(index), slowly_eroded(expected))


def test_black_is_known_without_boundaries_but_other_colors_are_not(few, root, make, tmp_path):
    scenes = few()
    colors = colored(scenes["2_12"].eroded)
    colors[:, 6, 2] = (1, 0, 0)
    eroded_of(root, "2_12").write_bytes(tiff(colors))
    words = "unknown color 1,0,0 in 1 pixel, one at row 6, column 2"
    assert_refused_and_skipped(make, tmp_path / "stores", eroded_of(root, "2_12"), "2_12", words)


def test_full_labels_are_preferred_to_those_for_participants_and_files_to_archives(root, make, tmp_path):
    scenes = write_potsdam(root, no_boundary=lambda name: False)
    other = tiff(colored(np.zeros((27, 31), np.uint8)))
    write(root, {f"5_Labels_for_participants/top_potsdam_{name}_label.tif": other for name in TRAIN})
    write(root, {f"5_Labels_all/top_potsdam_{name}_label.tif": other for name in TRAIN}, "zip")
    assert_read_exactly(prepare(make(), tmp_path / "stores"), scenes)
    for name in TRAIN:
        label_of(root, name).unlink()
    (root / "5_Labels_all.zip").unlink()
    store = prepare(make(), tmp_path / "stores")
    assert not any(np.asarray(store.mask(index)).any() for index in store.scenes_of("train"))


@pytest.mark.parametrize("place", [image_of, label_of])
def test_a_missing_file_is_named_or_its_scene_left_out(few, root, make, tmp_path, place):
    few()
    path = place(root, "2_11")
    path.unlink()
    named = f"{path.parent.name}/{path.name} not found"
    with pytest.raises(InputError, match=named):
        prepare(make(), tmp_path / "stores")
    manifest = prepare(make(on_bad_scene="skip"), tmp_path / "stores").manifest
    assert [scene.id for scene in manifest.scenes] == ["2_10", "2_12", "7_13"]
    (skipped,) = manifest.skipped
    assert (skipped.id, skipped.split) == ("2_11", "train")
    assert named in skipped.reason
    assert str(root) not in skipped.reason


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("place", [image_of, label_of, eroded_of])
def test_damaged_files_are_refused_or_left_out(few, root, make, tmp_path, place, damage):
    few()
    path = place(root, "2_10")
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "2_10", "cannot be read as an image")


UNFIT = {
    "image of 4 bands": (image_of, lambda scene: np.concatenate([scene.image, scene.image[:1]]), "expected 3 bands"),
    "image of 16 bits": (image_of, lambda scene: scene.image.astype(np.uint16), "expected values of type uint8"),
    "label of another size": (label_of, lambda scene: colored(scene.mask[:-1]), "26 x 31 pixels, its image 27 x 31"),
    "label of numbers": (label_of, lambda scene: scene.mask[None], "RGB colors"),
    "label of 16 bits": (label_of, lambda scene: colored(scene.mask).astype(np.uint16), "RGB colors"),
    "eroded of another size": (eroded_of, lambda scene: colored(scene.eroded[:, 1:]), "27 x 30 pixels"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_files_are_refused_or_left_out(few, root, make, tmp_path, kind):
    few()
    place, change, words = UNFIT[kind]
    path = place(root, "7_13")
    path.write_bytes(tiff(change(isprs_scene(3, (27, 31), 37))))
    assert_refused_and_skipped(make, tmp_path / "stores", path, "7_13", words)


def test_a_damaged_archive_is_named(root, make):
    write_potsdam(root, "zip")
    archive = root / "5_Labels_all.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"5_Labels_all\.zip cannot be read as a zip archive"):
        make().scenes()


def test_a_damaged_file_in_an_archive_is_refused_or_left_out(few, root, make, tmp_path):
    few(layout="zip", no_boundary=lambda name: False)
    archive = root / "2_Ortho_RGB.zip"
    content = bytearray(archive.read_bytes())
    start = content.find(b"II*\0", content.find(b"top_potsdam_2_12_RGB.tif"))
    content[start + 200] ^= 255
    archive.write_bytes(content)
    member = archive / "2_Ortho_RGB" / "top_potsdam_2_12_RGB.tif"
    assert_refused_and_skipped(make, tmp_path / "stores", member, "2_12", "cannot be")


def test_a_wrong_layout_is_answered_with_the_right_one_and_what_was_found(root, make):
    write(root, {"3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif": b"x", "other/notes.txt": b"x"})
    with pytest.raises(InputError) as caught:
        make().scenes()
    for part in (
        f"dataset.root={root} holds no image of the bands RGB (dataset.bands)",
        "2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
        "5_Labels_all/top_potsdam_2_10_label.tif",
        "3_Ortho_IRRG: top_potsdam_2_10_IRRG.tif",
        "other: notes.txt",
    ):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"dataset\.root is not set.*2_Ortho_RGB"):
        make(root=None).scenes()
