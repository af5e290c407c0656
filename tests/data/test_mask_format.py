"""Colors and numbers of masks, and the file that explains them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssl_rs.data.classes_file import REMEDY, read_classes
from ssl_rs.data.dataset import SegmentationClass
from ssl_rs.data.image_files import read_raster
from ssl_rs.data.mask_format import ROWS, MaskFormat
from ssl_rs.data.raster import Raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

ROAD, WATER = SegmentationClass("road", (255, 255, 255)), SegmentationClass("water", (0, 0, 255))
COLORS = MaskFormat.of_colors((ROAD, WATER), ignore=((0, 0, 0),))
NUMBERS = MaskFormat((ROAD, WATER), False, {7: 0, 300: 1, 0: 255})


def picture(colors):
    return Raster(np.array(colors, np.uint8).transpose(2, 0, 1))


def test_colors_become_indices(tmp_path):
    mask = COLORS.decode(picture([[(255, 255, 255), (0, 0, 255)], [(0, 0, 0), (255, 255, 255)]]), tmp_path)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1], [255, 0]]


def test_palettes_are_colors_or_numbers(tmp_path):
    indices = np.array([[[0, 7]]], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[7] = 255
    raster = Raster(indices, palette)
    assert COLORS.decode(raster, tmp_path).tolist() == [[255, 0]]
    assert NUMBERS.decode(raster, tmp_path).tolist() == [[255, 0]]


def test_numbers_become_indices(tmp_path):
    assert NUMBERS.decode(Raster(np.array([[[7, 300, 0]]], np.uint16)), tmp_path).tolist() == [[0, 1, 255]]


def test_nodata_of_a_mask_is_ignored_unless_it_is_a_class(tmp_path):
    values = np.array([[[7, 9]]], np.uint8)
    assert NUMBERS.decode(Raster(values, valid=values[0] != 9), tmp_path).tolist() == [[0, 255]]
    values = np.array([[[7, 0]]], np.uint8)
    assert NUMBERS.decode(Raster(values, valid=values[0] != 7), tmp_path).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("masks", "mode", "pixels", "options"),
    [
        (COLORS, "RGBA", [(255, 255, 255, 0), (9, 9, 9, 0)], {}),
        (NUMBERS, "LA", [(7, 0), (9, 0)], {}),
        (NUMBERS, "P", [7, 9], {"transparency": bytes(256)}),
    ],
)
def test_what_is_transparent_in_a_mask_is_ignored_unless_it_is_a_class(tmp_path, masks, mode, pixels, options):
    image = Image.new(mode, (2, 1))
    image.putdata(pixels)
    if mode == "P":
        image.putpalette(bytes(3 * 256))
    image.save(tmp_path / "mask.png", **options)
    assert masks.decode(read_raster(SourceFile(tmp_path / "mask.png")), "mask").tolist() == [[0, 255]]


EXTREMES = [
    ("int32", -(2**31)),
    ("int32", 2**31 - 1),
    ("uint32", 2**32 - 1),
    ("int64", -(2**63)),
    ("uint64", 2**64 - 1),
]


@pytest.mark.parametrize(("dtype", "value"), EXTREMES)
def test_numbers_of_any_type_stay_what_they_are(tmp_path, dtype, value):
    raster = Raster(np.array([[[7, value, 300]]], dtype))
    assert NUMBERS.decode(replace(raster, valid=raster.values[0] != value), tmp_path).tolist() == [[0, 255, 1]]
    with pytest.raises(InputError, match=r"unknown value -?[0-9]{10,} in 1 pixel, one at row 0, column 1"):
        NUMBERS.decode(raster, tmp_path)
    far = MaskFormat((ROAD, WATER), False, {2**32 + 7: 0, 300: 1})  # in 32 bits it would be 7
    if dtype == "int64":
        assert far.decode(Raster(np.array([[[2**32 + 7, 300]]], dtype)), tmp_path).tolist() == [[0, 1]]
    with pytest.raises(InputError, match="unknown value 7 in 1 pixel"):
        far.decode(Raster(np.array([[[7, 300]]], dtype)), tmp_path)


def test_an_unknown_color_is_named_counted_and_located(tmp_path):
    almost = (255, 255, 254)
    raster = picture([[(0, 0, 0), (1, 0, 0)], [(255, 255, 255), almost], [almost, almost]])
    with pytest.raises(InputError) as caught:
        COLORS.decode(raster, tmp_path / "m.png")
    message = str(caught.value)
    for part in (
        "m.png",
        "255,255,254 in 3 pixels",
        "row 1, column 1",
        "2 unknown colors in 4 pixels",
        "0,0,255 water",
    ):
        assert part in message


@pytest.mark.parametrize("value", [1, 8, 299, 301, 65535])
def test_an_unknown_number_is_named(tmp_path, value):
    with pytest.raises(InputError, match=rf"{value} in 1 pixel, one at row 0, column 1 \(1 unknown value in 1 pixel\)"):
        NUMBERS.decode(Raster(np.array([[[7, value]]], np.uint16)), tmp_path)


@pytest.mark.parametrize("code", [(0, 0, 1), (255, 255, 0), (254, 255, 255)])
def test_neighbors_of_known_colors_are_unknown(tmp_path, code):
    with pytest.raises(InputError, match="unknown color"):
        COLORS.decode(picture([[code]]), tmp_path)


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 2, 2)])
def test_color_masks_need_three_bands(tmp_path, shape):
    with pytest.raises(InputError, match="got 1 band of uint8" if shape[0] == 1 else "got 4 bands of uint8"):
        COLORS.decode(Raster(np.zeros(shape, np.uint8)), tmp_path)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        (np.arange(12, dtype=np.uint8).reshape(3, 2, 2), "give every class a 'color'"),
        (np.zeros((3, 2, 2), np.uint8), "Keep one: `gdal_translate -b 1`"),
        (np.zeros((1, 2, 2), np.float32), "a number that is no class: `gdalwarp -ot Byte -dstnodata 255`"),
    ],
)
def test_number_masks_need_one_band_of_whole_numbers(tmp_path, values, remedy):
    with pytest.raises(InputError, match=f"one band of whole numbers.*{remedy}"):
        NUMBERS.decode(Raster(values), tmp_path)


def test_classes_file_of_colors(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(
        "classes:\n  - {name: road, color: [255, 255, 255]}\n  - {name: water, color: [0, 0, 255]}\nignore: [[0, 0, 0]]"
    )
    assert read_classes(path) == replace(COLORS, remedy=REMEDY)


def test_classes_file_of_numbers(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n  - {name: b, index: 7, color: [1, 2, 3]}\n  - {name: a, index: 2}\nignore: [0, 255]\n")
    found = read_classes(path)
    assert [entry.name for entry in found.classes] == ["b", "a"]
    assert found.classes[0].color == (1, 2, 3)
    assert not found.by_color
    assert found.indices == {7: 0, 2: 1, 0: 255, 255: 255}


def test_colors_for_pictures_differ_where_none_are_given(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n" + "".join(f"  - {{name: c{i}, index: {i}}}\n" for i in range(12)))
    colors = {entry.color for entry in read_classes(path).classes}
    assert len(colors) == 12
    assert all(0 <= channel <= 255 for color in colors for channel in color)


def test_colors_for_pictures_keep_from_given_ones(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [{name: a, index: 0}, {name: b, index: 1}, {name: c, index: 2, color: [255, 0, 0]}]")
    first, _, given = (entry.color for entry in read_classes(path).classes)
    assert given == (255, 0, 0)
    assert first[0] < max(first)  # no red


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("classes: [", ["cannot be read as YAML"]),
        ("- a", ["expected a mapping"]),
        ("classes: 3", ["classes: expected a list"]),
        (
            "classes:\n  building: [0, 0, 255]",
            [
                "expected a list of 1 to 254 classes, got {'building'",
                "}. Write a line for each class: - {name: building, ",
            ],
        ),
        ("classes: [building]", ["classes[0]: expected a mapping", "got 'building'. Write a line for each class: - {"]),
        (
            "# no color: #abcdef\nclasses:\n  - {name: a, index: 1, color: #ff0080}\n",
            ["classes.yaml, line 3: YAML takes # for", "Write the color #ff0080 as [255, 0, 128]."],
        ),
        (
            "classes: [{name: a, index: 1}]\nignore: [#fff]",
            ["line 2: YAML", "Write the color #fff as [255, 255, 255]."],
        ),
        ("classes:\n- name: a\n  color: #ff0000", ["color: expected", "got None. YAML takes # for the beginning"]),
        ("classes: [{name: a, color: '#F08000'}]", ["got '#F08000'. Write [240, 128, 0]."]),
        ("classes: []", ["classes: expected a list"]),
        ("clases: []", ["no such key 'clases'", "'classes'"]),
        ("classes: [{name: a, colour: [0, 0, 0]}]", ["classes[0]", "'colour'", "'color'"]),
        ("classes: [{color: [0, 0, 0]}]", ["classes[0].name"]),
        ("classes: [{name: no, index: 0}]", ["classes[0].name", "got False", "put it in quotes"]),
        ("classes: [{name: a}]", ["classes[0]", "neither a color nor an index"]),
        ("classes: [{name: a, color: [0, 0]}]", ["classes[0].color"]),
        ("classes: [{name: a, color: [0, 0, 256]}]", ["classes[0].color"]),
        ("classes: [{name: a, index: 1}, {name: b, color: [0, 0, 0]}]", ["classes[1].index"]),
        ("classes: [{name: a, index: true}]", ["classes[0].index"]),
        ("classes: [{name: a, index: 4294967296}]", ["classes[0].index"]),
        ("classes: [{name: a, index: 1}, {name: b, index: 1}]", ["index 1 comes twice"]),
        ("classes: [{name: a, index: 1}, {name: a, index: 2}]", ["name a comes twice"]),
        ("classes: [{name: a, index: 1}]\nignore: [1]", ["index 1 comes twice"]),
        ("classes: [{name: a, index: 1}]\nignore: [[0, 0, 0]]", ["ignore[0]"]),
        ("classes: [{name: a, color: [0, 0, 0]}]\nignore: [0]", ["ignore[0]"]),
        ("classes: [{name: a, color: [0, 0, 0]}]\nignore: [[0, 0, 0]]", ["(0, 0, 0) comes twice"]),
        ("classes: [{name: a, index: 1}]\nignore: 0", ["ignore: expected a list"]),
        ("classes: [{name: a, index: 1}]\nignore:", ["ignore: expected a list ([] for none), got None"]),
        ("classes: !!python/object/apply:os.getcwd []", ["cannot be read as YAML"]),
    ],
)
def test_classes_files_with_mistakes_name_the_entry(tmp_path, content, words):
    path = tmp_path / "classes.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_classes(path)
    assert [word for word in ["classes.yaml", *words] if word not in str(caught.value)] == []


def test_unknown_colors_are_ignored_where_that_was_asked_for(tmp_path):
    lenient = MaskFormat.of_colors(COLORS.classes, ((0, 0, 0),), unknown="ignore")
    assert lenient.decode(picture([[(255, 255, 255), (254, 255, 255)]]), tmp_path).tolist() == [[0, 255]]


def test_numbers_below_zero_may_be_listed(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: -9999}]\nignore: [-1]")
    values = np.array([[[0, -1, -9999]]], np.int16)
    assert read_classes(tmp_path / "classes.yaml").decode(Raster(values), tmp_path).tolist() == [[0, 255, 1]]


@pytest.mark.parametrize("beyond", [2**32 + 8, 2**62])
def test_numbers_beyond_far_ones_are_unknown(tmp_path, beyond):
    far = MaskFormat((ROAD, WATER), False, {2**32 + 7: 0, 300: 1})
    with pytest.raises(InputError, match=f"unknown value {beyond} in 1 pixel"):
        far.decode(Raster(np.array([[[300, beyond]]], np.int64)), tmp_path)


def test_the_least_number_may_be_listed(tmp_path):
    least = MaskFormat((ROAD, WATER), False, {-(2**31): 0, 1 - 2**31: 1})
    assert least.decode(Raster(np.array([[[-(2**31), 1 - 2**31]]], np.int32)), tmp_path).tolist() == [[0, 1]]


def test_of_equally_frequent_unknown_values_the_smallest_is_named(tmp_path):
    values = np.full((1, ROWS + 1, 1), 7, np.uint8)
    values[0, 0], values[0, ROWS] = 9, 8
    with pytest.raises(InputError, match=f"unknown value 8 in 1 pixel, one at row {ROWS}, column 0"):
        NUMBERS.decode(Raster(values), tmp_path)
