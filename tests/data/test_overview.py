"""The list of the scenes and the sheet of their pictures: right shares, right colors in right places, any content."""

import csv
import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from ssl_rs.data import overview_sheet, sheet, thumbnails
from ssl_rs.data.dataset import SceneArrays, SegmentationClass
from ssl_rs.data.overview import write_overview
from ssl_rs.data.overview_sheet import draw_sheet
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import Store
from ssl_rs.data.thumbnails import fit, hatching, image_thumbnail, mask_thumbnail
from ssl_rs.errors import InputError

COLORS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


@pytest.fixture
def colored(made_up, tmp_path):
    """Prepare [(id, split, arrays)] with three classes in pure colors."""

    def make(entries, bands=("red", "green", "blue"), num_classes=3, **settings):
        dataset = made_up(entries, num_classes, len(bands), **settings)
        type(dataset).band_names = tuple(bands)
        type(dataset).classes = tuple(SegmentationClass(f"class {c}", COLORS[c]) for c in range(num_classes))
        return prepare(dataset, tmp_path / "stores")

    return make


def scene(height, width, color=(10, 20, 30), mask=None, dtype=np.uint8, **more):
    image = np.broadcast_to(np.array(color, dtype)[:, None, None], (len(color), height, width))
    return SceneArrays(image.copy(), np.zeros((height, width), np.uint8) if mask is None else mask, **more)


def sheet_of(store):
    with Image.open(store.path / "overview.png") as image:
        return np.array(image)


def rows_of(store):
    with open(store.path / "scenes.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def count(picture, color):
    return int((picture == np.array(color)).all(axis=-1).sum())


# The list


def test_the_list_has_a_row_a_scene_and_then_those_left_out(colored):
    mask = np.zeros((4, 10), np.uint8)
    mask[:, 5:] = 2
    mask[0] = 255
    valid = np.ones((4, 10), bool)
    valid[3] = False
    broken = scene(4, 4, color=(1, 2))
    entries = [
        ("a, b", "train", scene(4, 10, mask=mask, valid=valid, crs="EPSG:32633", transform=(10, 0, 5e5, 0, -10, 0))),
        ("bad", "test", broken),
        ("ü", "val", scene(3, 5)),
    ]
    first, second, last = rows_of(colored(entries, on_bad_scene="skip"))
    assert first == {
        "id": "a, b",
        "split": "train",
        "height": "4",
        "width": "10",
        "crs": "EPSG:32633",
        "pixel_size": "10 m",
        "valid_share": "0.750000",
        "labeled_share": "0.500000",  # one row has no label, another no data
        "share_class 0": "0.500000",
        "share_class 1": "0.000000",
        "share_class 2": "0.500000",
        "left_out": "",
    }
    assert (second["id"], second["split"], second["share_class 0"]) == ("ü", "val", "1.000000")
    assert (last["id"], last["split"], last["height"]) == ("bad", "test", "")
    assert "expected 3 bands" in last["left_out"]


def test_a_list_without_classes_has_no_columns_for_them(colored):
    store = colored([("a", "train", dataclasses.replace(scene(4, 4), mask=None))], num_classes=0)
    assert list(rows_of(store)[0]) == ["id", "split", "height", "width", "crs", "pixel_size", "valid_share", "left_out"]


# Thumbnails


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 50, (40, 20)), (3, 6, (20, 40)), (1, 9000, (1, 40)), (7, 7, (40, 40))]
)
def test_thumbnails_keep_the_proportions_within_a_square(height, width, expected):
    assert fit(height, width, 40) == expected


def test_image_and_mask_show_the_same_places(colored):
    mask = np.zeros((60, 40), np.uint8)
    mask[15:30, 30:] = 1
    image = np.where(mask == 1, 200, 50).astype(np.uint8)[None].repeat(3, axis=0)
    store = colored([("a", "train", SceneArrays(image, mask))])
    picture, colors = image_thumbnail(store, 0, (12, 8)), mask_thumbnail(store, 0, (12, 8))
    expected = np.zeros((12, 8), bool)
    expected[3:6, 6:] = True
    assert np.array_equal((picture == 200).all(axis=-1), expected)
    assert np.array_equal((picture == 50).all(axis=-1), ~expected)
    assert np.array_equal((colors == COLORS[1]).all(axis=-1), expected)
    assert np.array_equal((colors == COLORS[0]).all(axis=-1), ~expected)


def test_images_are_averaged_and_masks_are_not(colored):
    checks = (np.indices((60, 60)).sum(axis=0) % 2).astype(np.uint8)
    store = colored([("a", "train", SceneArrays((checks * 200)[None].repeat(3, axis=0), checks))])
    picture, colors = image_thumbnail(store, 0, (20, 20)), mask_thumbnail(store, 0, (20, 20))
    assert set(np.unique(picture)) <= {89, 111}  # 4 or 5 of 9 pixels
    assert count(colors, COLORS[0]) + count(colors, COLORS[1]) == 400


@pytest.mark.parametrize(
    ("bands", "shown"),
    [
        (("nir", "blue", "green", "red"), (40, 30, 20)),
        (("nir", "red", "green"), (10, 20, 30)),
        (("a", "b", "c", "d"), (10, 20, 30)),
        (("a", "b"), (10, 10, 10)),
        (("gray",), (10, 10, 10)),
    ],
)
def test_red_green_and_blue_are_shown_or_the_first_bands(colored, bands, shown):
    store = colored([("a", "train", scene(4, 4, color=(10, 20, 30, 40)[: len(bands)]))], bands=bands)
    assert (image_thumbnail(store, 0, (6, 6)) == shown).all()


@pytest.mark.parametrize(
    ("bands", "said"),
    [
        (("blue", "green", "red", "nir"), "(bands red, green, blue)"),
        (("nir", "red", "green"), "(bands nir, red, green)"),
        (("b1", "b2", "b3", "b4"), "(bands b1, b2, b3 as red, green, blue: none is called so)"),
        (("vv", "vh"), "(band vv)"),
    ],
)
def test_the_sheet_says_which_bands_it_shows(colored, bands, said):
    store = colored([("a", "train", scene(8, 8, range(len(bands))))], bands)
    assert said in overview_sheet._legend_of_pictures(store.manifest)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_other_values_are_stretched_and_missing_ones_do_not_count(colored, dtype):
    values = np.arange(100, 200, dtype=dtype).repeat(10).reshape(1, 10, 100, order="F").repeat(3, axis=0)
    valid = np.ones((10, 100), bool)
    valid[:5] = False
    arrays = SceneArrays(values, np.zeros((10, 100), np.uint8), valid=valid)
    picture = image_thumbnail(colored([("a", "train", arrays)]), 0, (10, 100))
    low, high = np.percentile(np.arange(100, 200), (2, 98))
    expected = np.round(np.clip((np.arange(100, 200) - low) / (high - low), 0, 1) * 255)
    assert np.array_equal(picture[5:], np.broadcast_to(expected[None, :, None], (5, 100, 3)))
    assert np.array_equal(picture[:5], hatching((10, 100))[:5])


def test_a_flat_image_of_16_bits_has_no_division_by_zero(colored):
    store = colored([("a", "train", scene(4, 4, color=(7, 7, 7), dtype=np.uint16))])
    assert not image_thumbnail(store, 0, (4, 4)).any()


def test_what_has_no_label_is_hatched_and_no_class_looks_like_it(colored):
    mask = np.full((20, 20), 255, np.uint8)
    mask[:, 10:] = 1
    colors = mask_thumbnail(colored([("a", "train", scene(20, 20, mask=mask))]), 0, (20, 20))
    assert np.array_equal(colors[:, :10], hatching((20, 20))[:, :10])
    assert (colors[:, 10:] == COLORS[1]).all()
    assert len(np.unique(colors[:, :10].reshape(-1, 3), axis=0)) == 2


def test_a_large_array_is_mapped_in_pieces_with_the_same_result(colored, monkeypatch):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (3, 50, 70)).astype(np.uint8), rng.integers(0, 3, (50, 70)).astype(np.uint8)
    store = colored([("a", "train", SceneArrays(image, mask))])
    whole = image_thumbnail(store, 0, (20, 28)), mask_thumbnail(store, 0, (20, 28))
    load, mapped = np.load, []
    monkeypatch.setattr(thumbnails, "PIECE_BYTES", 700)
    monkeypatch.setattr(np, "load", lambda *given, **more: (mapped.append(given), load(*given, **more))[1])
    assert np.array_equal(image_thumbnail(store, 0, (20, 28)), whole[0])
    assert np.array_equal(mask_thumbnail(store, 0, (20, 28)), whole[1])
    assert len(mapped) == 16 + 6
    assert not store._maps  # the store keeps none open


# The sheet


def test_the_sheet_groups_by_split_in_order(colored):
    entries = [
        ("one", "test", scene(30, 30, color=(1, 2, 3))),
        ("two", "train", scene(30, 30, color=(4, 5, 6))),
        ("three", "val", scene(30, 30, color=(7, 8, 9))),
        ("four", "unlabeled", dataclasses.replace(scene(30, 30, color=(6, 8, 9)), mask=None)),
    ]
    picture = sheet_of(colored(entries))
    marks = [*overview_sheet.SPLIT_COLORS.values(), (4, 5, 6), (7, 8, 9), (1, 2, 3), (6, 8, 9)]
    tops = [np.flatnonzero((picture == color).all(axis=-1).any(axis=1))[0] for color in marks]
    train, val, test, unlabeled, two, three, one, four = tops
    assert train < two < val < three < test < one < unlabeled < four


def test_an_unlabeled_scene_stands_alone_and_counts_nothing_in_the_legend(colored, monkeypatch):
    told = []
    write = sheet.write
    monkeypatch.setattr(sheet, "write", lambda *a: (told.append(a[2]), write(*a))[1])
    entries = [
        ("a", "train", scene(30, 30, color=(4, 5, 6))),
        ("b", "unlabeled", dataclasses.replace(scene(90, 90, color=(6, 8, 9)), mask=None)),
    ]
    picture = sheet_of(colored(entries))
    assert "no label or no data  0.0 % of all pixels" in told
    assert count(picture, thumbnails.HATCH[0]) < 600  # the legend's swatch, and grays of letters


def test_the_legend_shows_every_class_even_one_that_is_absent(colored):
    picture = sheet_of(colored([("a", "train", scene(30, 30))]))
    swatch = sheet.SWATCH * 2 * sheet.SWATCH
    assert [count(picture, color) for color in COLORS[1:]] == [swatch, swatch]
    assert count(picture, COLORS[0]) > swatch  # the mask itself


@pytest.mark.parametrize(
    ("dtype", "largest", "said"), [(np.uint8, 200, "(uint8; 255 = white)"), (np.uint16, 1999, "(uint16; 1999 = white)")]
)
def test_the_head_says_which_value_is_white(colored, monkeypatch, dtype, largest, said):
    told = []
    write = sheet.write
    monkeypatch.setattr(sheet, "write", lambda *a: (told.append(a[2]), write(*a))[1])
    colored([("a", "train", scene(5, 5, color=(9, largest, 7), dtype=dtype))])
    assert any(said in line for line in told)


def test_each_image_stands_beside_its_mask(colored):
    entries = [(f"s{c}", "train", scene(30, 30, (c + 1,) * 3, np.full((30, 30), c, np.uint8))) for c in range(3)]
    picture = sheet_of(colored(entries))
    for c in range(3):
        image = np.argwhere((picture == (c + 1,) * 3).all(axis=-1))
        top, left = image.min(axis=0)
        bottom, right = image.max(axis=0)
        assert len(image) == (bottom - top + 1) * (right - left + 1)
        beside = picture[top : bottom + 1, right + 5 : 2 * right - left + 6]
        assert (beside == COLORS[c]).all()


def test_without_classes_there_are_images_only(colored):
    bare = dataclasses.replace(scene(30, 40), mask=None)
    picture = sheet_of(colored([("a", "train", bare)], num_classes=0))
    assert count(picture, (10, 20, 30)) > 10000
    assert count(picture, thumbnails.HATCH[0]) < 200  # letters have grays too; a swatch has 400 of this


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (9, 7)])
def test_any_size_is_drawn(colored, size):
    picture = sheet_of(colored([("a", "train", scene(*size))]))
    assert picture.shape[1] == sheet.WIDTH
    assert count(picture, (10, 20, 30)) >= min(size)


@pytest.mark.parametrize("name", ["東京", "Москва ü", "a\nb\t\x00c", "x" * 3000, "bad\udcff", "[bold]", " "])
def test_any_name_is_drawn(colored, name):
    store = colored([(name, "train", scene(5, 5))])
    assert (store.path / "overview.png").is_file()
    assert len(rows_of(store)) == 1


def test_letters_of_many_languages_have_glyphs(colored):
    drawn = [np.array(draw_sheet(colored([(name, "train", scene(5, 5))]))) for name in ("üé", "Мо", "\uffff\uffff")]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(drawn, 2))


def test_a_long_name_loses_its_middle():
    font = sheet.font(14)
    shown = sheet.shortened("begin" + "x" * 300 + "end", font, 200)
    assert shown.startswith("begin")
    assert shown.endswith("end")
    assert 150 < font.getlength(shown) <= 200


def test_of_too_many_scenes_an_even_choice_of_each_split_is_shown(colored, monkeypatch):
    monkeypatch.setattr(overview_sheet, "MOST", 16)
    monkeypatch.setattr(overview_sheet, "COLUMNS", ((16, 6),))
    drawn, headings = [], []
    image, write = image_thumbnail, sheet.write
    monkeypatch.setattr(overview_sheet, "image_thumbnail", lambda *a: (drawn.append(a[1]), image(*a))[1])
    monkeypatch.setattr(sheet, "write", lambda *a: (headings.append(a[2]), write(*a))[1])
    splits = ["train"] * 30 + ["test"] * 10 + ["val"]
    colored([(f"s{place}", split, scene(4, 4)) for place, split in enumerate(splits)])
    train, test = [index for index in drawn if index < 30], [index for index in drawn if 30 <= index < 40]
    assert (train[0], train[-1], test[0], test[-1], drawn.count(40)) == (0, 29, 30, 39, 1)
    assert max(np.diff(train)) <= min(np.diff(train)) + 1
    assert len(drawn) <= 16
    assert "train: 30 scenes, 8 of them shown" in headings
    assert "val: 1 scene" in headings


def test_scenes_that_are_left_out_are_told_in_the_warning_color(colored):
    entries = [("a", "train", scene(5, 5)), ("bad", "train", scene(4, 4, color=(1, 2)))]
    good = count(sheet_of(colored(entries[:1])), sheet.WARNING)
    assert good == 0
    assert count(sheet_of(colored(entries, on_bad_scene="skip")), sheet.WARNING) > 0


def test_the_same_store_gives_the_same_bytes(colored):
    store = colored([("a", "train", scene(50, 50)), ("b", "test", scene(20, 90))])
    before = [(store.path / name).read_bytes() for name in ("overview.png", "scenes.csv")]
    write_overview(Store.open(store.path))
    assert [(store.path / name).read_bytes() for name in ("overview.png", "scenes.csv")] == before


def test_a_failed_preparation_leaves_no_sheet(colored, tmp_path):
    with pytest.raises(InputError):
        colored([("bad", "train", scene(4, 4, color=(1, 2)))])
    assert not list((tmp_path / "stores").rglob("*.png"))


def test_a_kill_while_the_sheet_is_drawn_costs_no_scene(made_up, tmp_path, monkeypatch):
    entries = [(f"s{place}", "train", scene(9, 9, color=(1, 2))) for place in range(3)]

    def kill(store):
        (store.path / "overview.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ssl_rs.data.prepare.write_overview", kill)
        with pytest.raises(KeyboardInterrupt):
            prepare(made_up(entries), tmp_path / "stores")
    resumed = made_up(entries)
    store = prepare(resumed, tmp_path / "stores")
    assert resumed.reads == []
    with Image.open(store.path / "overview.png") as sheet:
        sheet.load()
    assert sorted(path.suffix for path in store.path.iterdir()) == [".csv", ".json", *[".npy"] * 6, ".png", ".sha256"]
