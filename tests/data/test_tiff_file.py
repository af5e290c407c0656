"""GeoTIFF and JPEG 2000 files as arrays."""

import zipfile

import numpy as np
import pytest
import rasterio

from ssl_rs.data.finding_files import find_files
from ssl_rs.data.image_files import open_raster, read_raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 3, 4, 7])
def test_tif_of_any_bands_and_type(tmp_path, dtype, bands, write_tif):
    values = RNG.integers(0, 200, (bands, 6, 5)).astype(dtype)
    write_tif(tmp_path / "a.tif", values)
    raster = read_raster(SourceFile(tmp_path / "a.tif"))
    assert np.array_equal(raster.bands(), values)
    assert raster.values.dtype == dtype
    assert (raster.valid, raster.crs, raster.transform) == (None, None, None)


def test_georeference_and_nodata_of_a_tif(tmp_path, write_tif):
    values = RNG.integers(1, 200, (2, 6, 5)).astype(np.uint8)
    values[:, 0, 0] = 0
    values[0, 1, 1] = 0  # in one band only: data
    transform = rasterio.Affine(0.5, 0, 10, 0, -0.5, 20)
    write_tif(tmp_path / "a.tiff", values, nodata=0, crs="EPSG:32633", transform=transform)
    raster = read_raster(SourceFile(tmp_path / "a.tiff"))
    assert raster.crs == "EPSG:32633"
    assert raster.transform == (0.5, 0.0, 10.0, 0.0, -0.5, 20.0)
    assert np.argwhere(~raster.valid).tolist() == [[0, 0]]


def write_jp2(path, values, **more):
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=len(values), height=values.shape[1], width=values.shape[2],
        dtype=values.dtype, QUALITY=100, REVERSIBLE="YES", **more,
    ) as file:  # fmt: skip
        file.write(values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_jpeg_2000_is_read_in_rows_with_its_place(tmp_path, dtype, bands):
    values = RNG.integers(0, np.iinfo(dtype).max, (bands, 300, 70)).astype(dtype)
    transform = rasterio.Affine(10, 0, 300000, 0, -10, 5000000)
    write_jp2(tmp_path / "a.JP2", values, crs="EPSG:32633", transform=transform, BLOCKXSIZE=64, BLOCKYSIZE=64)
    file = open_raster(SourceFile(tmp_path / "a.JP2"))
    assert (file.crs, file.transform[:3]) == ("EPSG:32633", (10.0, 0.0, 300000.0))
    assert file.block_rows < 300
    assert np.array_equal(np.concatenate([file.rows(0, 130).values, file.rows(130, 300).values], axis=1), values)


def test_a_damaged_jpeg_2000_is_named(tmp_path):
    path = tmp_path / "a.jp2"
    write_jp2(path, RNG.integers(0, 255, (1, 300, 300)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a\.jp2 cannot be read as an image"):
        read_raster(SourceFile(path))


def test_nan_as_nodata(tmp_path, write_tif):
    values = np.ones((1, 3, 3), np.float32)
    values[0, 1, 2] = np.nan
    write_tif(tmp_path / "a.tif", values, nodata=float("nan"))
    assert np.argwhere(~read_raster(SourceFile(tmp_path / "a.tif")).valid).tolist() == [[1, 2]]


def test_a_palette_of_16_bits_has_all_its_colors(tmp_path, write_tif):
    indices = np.array([[[0, 300, 65535]]], np.uint16)
    write_tif(tmp_path / "a.tif", indices, photometric="palette")
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3, 255), 300: (40, 50, 60, 255), 65535: (7, 8, 9, 255)})
    colors = read_raster(SourceFile(tmp_path / "a.tif")).bands()
    assert colors.transpose(1, 2, 0).tolist() == [[[1, 2, 3], [40, 50, 60], [7, 8, 9]]]


def test_the_mask_inside_of_a_tif_says_what_is_valid(tmp_path, write_tif):
    values = RNG.integers(1, 200, (3, 6, 5)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", values)
    inside = np.full((6, 5), 255, np.uint8)
    inside[4, 1] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask(inside)
    raster = read_raster(SourceFile(tmp_path / "a.tif"))
    assert np.argwhere(~raster.valid).tolist() == [[4, 1]]


def test_a_fourth_band_is_data_even_where_the_file_calls_it_alpha(tmp_path, write_tif):
    values = RNG.integers(0, 200, (4, 6, 5)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", values, photometric="RGB", alpha="YES")
    raster = read_raster(SourceFile(tmp_path / "a.tif"))
    assert np.array_equal(raster.bands(), values)
    assert raster.valid is None


def test_rows_of_a_tif_are_those_of_the_whole(tmp_path, write_tif):
    values = RNG.integers(0, 200, (2, 40, 5)).astype(np.uint16)
    write_tif(tmp_path / "a.tif", values, nodata=7)
    source = open_raster(SourceFile(tmp_path / "a.tif"))
    assert np.array_equal(source.rows(11, 23).values, values[:, 11:23])
    assert np.array_equal(source.rows(30, 99).values, values[:, 30:])


def test_an_archive_whose_path_has_braces_is_refused_with_what_to_do(tmp_path, write_tif):
    write_tif(tmp_path / "a.tif", RNG.integers(0, 9, (1, 6, 5)).astype(np.uint8))
    archive = tmp_path / "z}i{p.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tmp_path / "a.tif", "a.tif")
    with pytest.raises(InputError, match=r"GDAL opens no archive whose path has braces\. Rename it"):
        open_raster(SourceFile(archive, "a.tif"))


def test_a_tif_in_an_archive_whose_names_begin_with_a_dot_is_read(tmp_path, write_tif):
    write_tif(tmp_path / "a.tif", np.arange(12, dtype=np.uint8).reshape(1, 3, 4))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("./images/a.tif", (tmp_path / "a.tif").read_bytes())
    (file,) = [file for file in find_files(tmp_path) if file.member is not None]
    assert file.member == "./images/a.tif"
    assert np.array_equal(read_raster(file).values, np.arange(12).reshape(1, 3, 4))
