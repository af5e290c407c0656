"""ImageNet's filters and statistics for bands that ImageNet does not have."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.imagenet import (
    check_published,
    describe_filters,
    download,
    filters_for_bands,
    first_convolution,
    statistics_for_bands,
)

RGB = ("red", "green", "blue")
LISTS = {
    "rgb": RGB,
    "bgr": ("blue", "green", "red"),
    "bgrn": ("blue", "green", "red", "nir"),
    "false_color": ("nir", "red", "green"),
    "gray": ("gray",),
    "two": ("vv", "vh"),
    "six": ("blue", "green", "red", "nir", "swir_1", "swir_2"),
    "six_unknown": tuple(f"band_{index}" for index in range(6)),
}
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet")


def filters():
    return torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LISTS)
def test_a_gray_image_gives_the_response_that_it_gave_before(name):
    gray = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = F.conv2d(gray.repeat(1, 3, 1, 1), filters())
    adapted = filters_for_bands(filters(), LISTS[name], "FILE")
    torch.testing.assert_close(F.conv2d(gray.repeat(1, len(LISTS[name]), 1, 1), adapted), expected, atol=1e-5, rtol=0)


def test_red_green_blue_keep_every_bit():
    assert torch.equal(filters_for_bands(filters(), RGB, "FILE"), filters())


def test_false_color_takes_the_three_filters_in_order():
    assert torch.equal(filters_for_bands(filters(), LISTS["false_color"], "FILE"), filters())


def test_colors_in_another_order_take_their_own_filters():
    assert torch.equal(filters_for_bands(filters(), LISTS["bgr"], "FILE"), filters()[:, [2, 1, 0]])


def test_other_bands_take_the_mean_and_all_are_scaled():
    found, given = filters_for_bands(filters(), LISTS["bgrn"], "FILE"), filters()
    for band, color in ((0, 2), (1, 1), (2, 0)):
        torch.testing.assert_close(found[:, band], given[:, color] * 0.75)
    torch.testing.assert_close(found[:, 3], (given[:, 0] + given[:, 1] + given[:, 2]) / 3 * 0.75)


def test_one_band_takes_the_sum_of_the_three():
    torch.testing.assert_close(filters_for_bands(filters(), ("gray",), "FILE"), filters().sum(dim=1, keepdim=True))


@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (5, 1, 3, 3), (5,)])
def test_filters_that_are_not_imagenets_are_refused(shape):
    with pytest.raises(InputError, match=r"FILE: conv1 is \(5.*expected filters of red, green and blue"):
        filters_for_bands(torch.zeros(shape), ("a", "b", "c", "d"), "FILE: conv1")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [("resnet18", "conv1.weight"), ("vgg16_bn", "features.0.weight"), ("mobilenet_v2", "features.0.0.weight")],
)
def test_the_first_convolution_is_the_one_that_reads_the_bands(backbone, name):
    state = Backbone(backbone).build(6).state_dict()
    assert first_convolution(state) == name
    assert state[name].shape[1] == 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rgb", None),
        ("bgr", "red, green, blue take those of red, green, blue"),
        ("false_color", "nir, red, green take those of red, green, blue"),
        ("two", "vv, vh: the mean of red, green and blue; all multiplied by 3/2"),
    ],
)
def test_what_was_done_is_said(name, said):
    assert describe_filters(LISTS[name]) == said


def test_bands_with_and_without_a_color_are_both_named():
    said = describe_filters(LISTS["bgrn"])
    assert said == (
        "red, green, blue take those of red, green, blue; nir: the mean of red, green and blue; all multiplied by 3/4"
    )


def own(bands):
    return Statistics(tuple(0.01 * i for i in range(len(bands))), tuple(1.0 + i for i in range(len(bands))), "the data")


def test_colors_of_8_bits_take_imagenets_statistics_and_others_their_own():
    found = statistics_for_bands(IMAGENET, own(LISTS["bgrn"]), LISTS["bgrn"], "uint8", 255.0)
    assert found.mean == (0.406, 0.456, 0.485, 0.03)
    assert found.std == (0.225, 0.224, 0.229, 4.0)
    assert found.source == "ImageNet, nir: the data"
    assert statistics_for_bands(IMAGENET, own(RGB), RGB, "uint8", 255.0) == IMAGENET


@pytest.mark.parametrize(
    ("name", "dtype", "scale"),
    [
        ("rgb", "uint16", 65535.0),
        ("rgb", "uint16", 255.0),
        ("bgrn", "float32", 1.0),
        ("two", "uint8", 255.0),
        ("rgb", "uint8", 100.0),
    ],
)
def test_values_that_imagenet_says_nothing_about_take_their_own_statistics(name, dtype, scale):
    bands = LISTS[name]
    assert statistics_for_bands(IMAGENET, own(bands), bands, dtype, scale) == own(bands)
    assert Normalization(own(bands)).mean.numel() == len(bands)


def test_a_download_is_compared_with_the_hash_in_its_name(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, **more: asked.append((url, path, more)))
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    path = tmp_path / "checkpoints/resnet18-f37072fd.pth"
    assert download(SimpleNamespace(url=url), "resnet18") == path
    assert asked == [(url, str(path), {"hash_prefix": "f37072fd", "progress": False})]


def test_a_file_with_the_name_of_a_published_one_is_that_one(tmp_path):
    recorded = SimpleNamespace(url="https://download.pytorch.org/models/resnet18-f37072fd.pth")
    own, published = "e" * 64, "f37072fd" + "0" * 56
    check_published(recorded, tmp_path / "resnet18-f37072fd.pth", published)
    check_published(recorded, tmp_path / "mine.pth", own)
    with pytest.raises(InputError, match=r"its sha256 begins with eeeeeeee\. Get it again, or rename it"):
        check_published(recorded, tmp_path / "resnet18-f37072fd.pth", own)
