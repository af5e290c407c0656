"""An image and its masks, strip by strip."""

import warnings

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from ssl_rs.data import paired
from ssl_rs.data.dataset import SegmentationClass
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.paired import read_pair
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

FORMAT = MaskFormat((SegmentationClass("a", (1, 1, 1)), SegmentationClass("b", (2, 2, 2))), False, {1: 0, 2: 1, 9: 255})
GRID = rasterio.Affine(0.5, 0, 300000, 0, -0.5, 5800000)


def write(path, values, transform=GRID, crs="EPSG:32633", **profile):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count, height, width = values.shape
        shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(path, "w", driver="GTiff", **shape, transform=transform, crs=crs, **profile) as file:
            file.write(values)
    return SourceFile(path)


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9000, (4, 50, 30)).astype(np.uint16)
    mask = rng.choice([1, 2, 9], (1, 50, 30)).astype(np.uint8)
    return image, mask, write(tmp_path / "image.tif", image), write(tmp_path / "mask.tif", mask)


@pytest.mark.parametrize("tiled", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_strips_add_up_to_the_files(pair, tmp_path, monkeypatch, tiled):
    image, mask, _, mask_file = pair
    monkeypatch.setattr(paired, "STRIP_PIXELS", 200)
    monkeypatch.setattr(paired, "BLOCK_BYTES", 0)
    scene = read_pair(write(tmp_path / "tiled.tif", image, **tiled), mask_file, FORMAT)
    assert (scene.height, scene.width, scene.crs) == (50, 30, "EPSG:32633")
    assert scene.transform == (0.5, 0.0, 300000.0, 0.0, -0.5, 5800000.0)
    strips = list(scene.strips)
    assert len(strips) > 2
    assert np.array_equal(np.concatenate([strip.image for strip in strips], axis=1), image)
    labels = np.concatenate([strip.mask for strip in strips])
    assert np.array_equal(labels, np.select([mask[0] == 1, mask[0] == 2], [0, 1], 255))


def test_wide_rows_of_blocks_are_not_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(paired, "STRIP_PIXELS", 100)
    image = np.random.default_rng(0).integers(0, 9000, (3, 50, 64)).astype(np.uint16)
    file = write(tmp_path / "image.tif", image, tiled=True, blockxsize=16, blockysize=16)
    assert [strip.image.shape[1] for strip in read_pair(file, None, None).strips] == [16, 16, 16, 2]
    monkeypatch.setattr(paired, "BLOCK_BYTES", 16 * 64 * 6 - 1)
    assert max(strip.image.shape[1] for strip in read_pair(file, None, None).strips) == 1


@pytest.mark.parametrize(
    "crs", ["EPSG:32633", "+proj=utm +zone=10 +ellps=clrk66", "+proj=tmerc +lon_0=9 +x_0=3500000 +ellps=bessel"]
)
def test_the_coordinate_reference_system_is_the_files_own(tmp_path, crs):
    file = write(tmp_path / "image.tif", np.ones((1, 4, 4), np.uint8), crs=crs)
    found = read_pair(file, None, None).crs
    with rasterio.open(file.path) as written:
        assert CRS.from_string(found) == written.crs
    assert (found == crs) == crs.startswith("EPSG")


def test_a_mask_fits_whose_reference_system_does_not_name_its_datum(tmp_path):
    image = write(tmp_path / "image.tif", np.ones((1, 4, 4), np.uint8), crs="+proj=utm +zone=32 +ellps=GRS80")
    mask = write(tmp_path / "mask.tif", np.ones((1, 4, 4), np.uint8), crs="EPSG:25832")
    assert [strip.mask.shape for strip in read_pair(image, mask, FORMAT).strips] == [(4, 4)]


def test_strips_of_many_bands_have_fewer_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(paired, "STRIP_PIXELS", 1200)
    image = np.random.default_rng(0).integers(0, 9000, (32, 50, 30)).astype(np.uint16)
    strips = list(read_pair(write(tmp_path / "image.tif", image), None, None).strips)
    assert max(strip.image.shape[1] for strip in strips) == 12  # a quarter of 1200 pixels, in whole blocks of 4 rows
    assert np.array_equal(np.concatenate([strip.image for strip in strips], axis=1), image)


def test_an_unknown_value_is_counted_in_the_whole_file(pair, tmp_path, monkeypatch):
    _, mask, image_file, _ = pair
    monkeypatch.setattr(paired, "STRIP_PIXELS", 300)
    mask[0, 30, 4] = mask[0, 45, 2] = mask[0, 49, 29] = 77
    mask[0, 3, 3] = 55
    with pytest.raises(
        InputError, match=r"mask\.tif: unknown value 77 in 3 pixels, one at row 30, column 4 .2 unknown"
    ):
        list(read_pair(image_file, write(tmp_path / "mask.tif", mask), FORMAT).strips)


def test_a_mask_without_georeference_fits(pair, tmp_path):
    _, mask, image_file, _ = pair
    bare = write(tmp_path / "bare.tif", mask, transform=rasterio.Affine.identity(), crs=None)
    assert read_pair(image_file, bare, FORMAT).crs == "EPSG:32633"


def test_a_reference_system_alone_places_nothing(pair, tmp_path):
    image, _, _, mask_file = pair
    found = read_pair(write(tmp_path / "unplaced.tif", image, transform=rasterio.Affine.identity()), mask_file, FORMAT)
    assert found.transform == tuple(GRID)[:6]
    assert read_pair(write(tmp_path / "unplaced.tif", image, transform=rasterio.Affine.identity())).transform is None


def test_rounding_of_the_transform_is_no_difference(pair, tmp_path):
    _, mask, image_file, _ = pair
    near = rasterio.Affine(0.5, 0, 300000.1, 0, -0.5, 5800000)
    assert read_pair(image_file, write(tmp_path / "near.tif", mask, transform=near), FORMAT).height == 50


@pytest.mark.parametrize(
    ("transform", "crs", "words"),
    [
        (rasterio.Affine(0.5, 0, 300001, 0, -0.5, 5800000), "EPSG:32633", "2 pixels away"),
        (rasterio.Affine(0.51, 0, 300000, 0, -0.5, 5800000), "EPSG:32633", "0.6 pixels away"),
        (rasterio.Affine(0.5, 0, 300000.25, 0, -0.5, 5800000), "EPSG:32633", "0.5 pixels away"),
        (GRID, "EPSG:32632", "lies in EPSG:32632"),
    ],
)
def test_masks_of_another_place_are_refused(pair, tmp_path, transform, crs, words):
    _, mask, image_file, _ = pair
    with pytest.raises(InputError, match=words):
        read_pair(image_file, write(tmp_path / "off.tif", mask, transform=transform, crs=crs), FORMAT)


@pytest.mark.parametrize(
    ("transform", "remedy"),
    [
        (GRID, "Their pixels are of one size: cut both to the same extent, or pad the mask"),
        (rasterio.Affine(0.52, 0, 300000, 0, -0.5, 5800000), r"Resample one of them\.$"),
    ],
)
def test_masks_of_another_size_are_refused(pair, tmp_path, transform, remedy):
    _, mask, image_file, _ = pair
    small = write(tmp_path / "small.tif", mask[..., :29], transform=transform)
    with pytest.raises(InputError, match=rf"small\.tif: the mask has 50 x 29 pixels, its image 50 x 30.*{remedy}"):
        read_pair(image_file, small, FORMAT)
