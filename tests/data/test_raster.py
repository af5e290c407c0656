"""Image files as arrays."""

import warnings
import zipfile
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image

from ssl_rs.data.raster import open_raster, read_raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)


def write_tif(path, values, **profile):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count, height, width = values.shape
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **profile
        ) as file:
            file.write(values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 3, 4, 7])
def test_tif_of_any_bands_and_type(tmp_path, dtype, bands):
    values = RNG.integers(0, 200, (bands, 6, 5)).astype(dtype)
    write_tif(tmp_path / "a.tif", values)
    raster = read_raster(SourceFile(tmp_path / "a.tif"))
    assert np.array_equal(raster.bands(), values)
    assert raster.values.dtype == dtype
    assert (raster.valid, raster.crs, raster.transform) == (None, None, None)


def test_georeference_and_nodata_of_a_tif(tmp_path):
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


def test_nan_as_nodata(tmp_path):
    values = np.ones((1, 3, 3), np.float32)
    values[0, 1, 2] = np.nan
    write_tif(tmp_path / "a.tif", values, nodata=float("nan"))
    assert np.argwhere(~read_raster(SourceFile(tmp_path / "a.tif")).valid).tolist() == [[1, 2]]


def test_png_rgb_gray_and_one_bit(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    assert np.array_equal(read_raster(SourceFile(tmp_path / "rgb.png")).bands(), RGB.transpose(2, 0, 1))
    Image.fromarray(RGB[..., 0]).save(tmp_path / "gray.png")
    assert np.array_equal(read_raster(SourceFile(tmp_path / "gray.png")).bands(), RGB[None, ..., 0])
    Image.fromarray(RGB[..., 0] > 100).save(tmp_path / "bits.png")
    assert np.array_equal(
        read_raster(SourceFile(tmp_path / "bits.png")).bands(), (RGB[None, ..., 0] > 100).astype(np.uint8)
    )


def test_transparency_of_a_png_is_no_band(tmp_path):
    alpha = np.full((6, 5), 255, np.uint8)
    alpha[2, 3] = 0
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "a.png")
    raster = read_raster(SourceFile(tmp_path / "a.png"))
    assert np.array_equal(raster.values, RGB.transpose(2, 0, 1))
    assert np.argwhere(~raster.valid).tolist() == [[2, 3]]


def test_palettes_keep_indices_and_colors(tmp_path):
    indices = RNG.integers(0, 3, (6, 5)).astype(np.uint8)
    colors = np.array([[10, 20, 30], [200, 100, 0], [7, 7, 7]], np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colors.ravel().tolist())
    image.save(tmp_path / "a.png", bits=2)
    write_tif(tmp_path / "a.tif", indices[None], photometric="palette", transform=rasterio.Affine(2, 0, 0, 0, -2, 0))
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_colormap(1, {index: (*map(int, color), 255) for index, color in enumerate(colors)})
    for name in ("a.png", "a.tif"):
        raster = read_raster(SourceFile(tmp_path / name))
        assert np.array_equal(raster.values[0], indices)
        assert np.array_equal(raster.bands(), colors[indices].transpose(2, 0, 1))


def test_png_of_16_bits_keeps_them(tmp_path):
    values = RNG.integers(0, 65536, (3, 6, 5)).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "a.png", "w", driver="PNG", count=3, height=6, width=5, dtype="uint16") as file:
            file.write(values)
    assert np.array_equal(read_raster(SourceFile(tmp_path / "a.png")).values, values)


@pytest.mark.parametrize("bands", [2, 4])
def test_transparency_of_a_png_of_16_bits_is_no_band_either(tmp_path, bands):
    values = RNG.integers(0, 65536, (bands, 6, 5)).astype(np.uint16)
    values[-1] = 1  # the least that is not transparent
    values[-1, 2, 3] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            tmp_path / "a.png", "w", driver="PNG", count=bands, height=6, width=5, dtype="uint16"
        ) as file:
            file.write(values)
    raster = read_raster(SourceFile(tmp_path / "a.png"))
    assert np.array_equal(raster.values, values[:-1])
    assert np.argwhere(~raster.valid).tolist() == [[2, 3]]


def test_transparency_without_an_alpha_channel(tmp_path):
    gray, color = RGB[..., 0].copy(), RGB.copy()
    gray[1, 2], color[2, 3], color[0, 0, :2] = 77, (1, 2, 3), (1, 2)  # the last has but two of the three values
    Image.fromarray(gray).save(tmp_path / "gray.png", transparency=77)
    Image.fromarray(color).save(tmp_path / "color.png", transparency=(1, 2, 3))
    indexed = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), mode="P")
    indexed.putpalette(list(range(12)))
    indexed.save(tmp_path / "one.png", transparency=2)
    indexed.save(tmp_path / "several.png", transparency=bytes([0, 255, 1, 0]))  # 1: all but transparent, not quite
    for name, image in {"gray": gray[..., None], "color": color}.items():
        raster = read_raster(SourceFile(tmp_path / f"{name}.png"))
        assert np.array_equal(raster.values, image.transpose(2, 0, 1))
        assert np.array_equal(raster.valid, (image != {"gray": 77, "color": (1, 2, 3)}[name]).any(axis=2))
    assert read_raster(SourceFile(tmp_path / "one.png")).valid.tolist() == [[True, True, False, True]]
    assert read_raster(SourceFile(tmp_path / "several.png")).valid.tolist() == [[False, True, True, False]]


def test_one_bit_of_a_png_may_be_transparent(tmp_path):
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1").save(tmp_path / "a.png", transparency=1)
    raster = read_raster(SourceFile(tmp_path / "a.png"))
    assert raster.values.tolist() == [[[0, 1, 1]]]
    assert raster.valid.tolist() == [[True, False, False]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_pixels_that_are_to_be_shown_turned_are_refused(tmp_path, name):
    exif = Image.Exif()
    for orientation in (1, 3, 6):
        exif[0x0112] = orientation
        Image.fromarray(RGB).save(tmp_path / name, exif=exif)
        if orientation == 1:
            assert read_raster(SourceFile(tmp_path / name)).values.shape == RGB.transpose(2, 0, 1).shape
            continue
        with pytest.raises(InputError, match=rf"EXIF orientation {orientation}\).* Turn the pixels upright"):
            read_raster(SourceFile(tmp_path / name))


def test_gray_png_of_16_bits_may_have_a_transparent_value(tmp_path):
    values = RNG.integers(0, 60000, (1, 6, 5)).astype(np.uint16)
    values[0, 4, 1] = 60001
    write_png = {"driver": "PNG", "count": 1, "height": 6, "width": 5, "dtype": "uint16", "nodata": 60001}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "a.png", "w", **write_png) as file:
            file.write(values)
    (tmp_path / "a.png.aux.xml").unlink(missing_ok=True)
    raster = read_raster(SourceFile(tmp_path / "a.png"))
    assert np.array_equal(raster.values, values)
    assert np.argwhere(~raster.valid).tolist() == [[4, 1]]


def test_a_palette_of_16_bits_has_all_its_colors(tmp_path):
    indices = np.array([[[0, 300, 65535]]], np.uint16)
    write_tif(tmp_path / "a.tif", indices, photometric="palette")
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3, 255), 300: (40, 50, 60, 255), 65535: (7, 8, 9, 255)})
    colors = read_raster(SourceFile(tmp_path / "a.tif")).bands()
    assert colors.transpose(1, 2, 0).tolist() == [[[1, 2, 3], [40, 50, 60], [7, 8, 9]]]


def test_png_of_4_bits_keeps_its_numbers(tmp_path):
    rows = b"".join(b"\x00" + bytes([0x12, 0x3F]) for _ in range(3))  # 4 pixels a row: 1 2 3 15

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = (4).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes([4, 0, 0, 0, 0])
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert read_raster(SourceFile(tmp_path / "a.png")).values.tolist() == [[[1, 2, 3, 15]] * 3]


def test_jpeg_equals_pillow(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    assert np.array_equal(
        read_raster(SourceFile(tmp_path / "a.jpg")).bands(), np.array(Image.open(tmp_path / "a.jpg")).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_files_that_are_cut_short_are_named(tmp_path, name, keep):
    noise = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    if name == "a.tif":
        write_tif(tmp_path / name, noise.transpose(2, 0, 1))
    else:
        Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=name):
        read_raster(SourceFile(tmp_path / name))


def test_other_formats_under_a_known_name_are_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.bmp")
    for name in ("a.png", "a.jpg", "a.tif"):
        (tmp_path / name).write_bytes((tmp_path / "a.bmp").read_bytes())
        with pytest.raises(InputError, match=name):
            read_raster(SourceFile(tmp_path / name))


def test_image_bombs_are_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="GeoTIFF"):
        read_raster(SourceFile(tmp_path / "a.png"))


def test_cmyk_is_refused(tmp_path):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="CMYK"):
        read_raster(SourceFile(tmp_path / "a.jpg"))


def test_the_mask_inside_of_a_tif_says_what_is_valid(tmp_path):
    values = RNG.integers(1, 200, (3, 6, 5)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", values)
    inside = np.full((6, 5), 255, np.uint8)
    inside[4, 1] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask(inside)
    raster = read_raster(SourceFile(tmp_path / "a.tif"))
    assert np.argwhere(~raster.valid).tolist() == [[4, 1]]


def test_a_fourth_band_is_data_even_where_the_file_calls_it_alpha(tmp_path):
    values = RNG.integers(0, 200, (4, 6, 5)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", values, photometric="RGB", alpha="YES")
    raster = read_raster(SourceFile(tmp_path / "a.tif"))
    assert np.array_equal(raster.bands(), values)
    assert raster.valid is None


def test_a_tif_that_claims_more_than_its_bytes_can_hold_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "bomb.tif", "w", driver="GTiff", count=3, height=60000, width=60000, dtype="uint8",
        sparse_ok=True, tiled=True, compress="deflate",
    ):  # fmt: skip
        pass
    with pytest.raises(InputError, match=r"bomb\.tif .*claims 3 x 60000 x 60000 pixels, 10\.1 GiB"):
        open_raster(SourceFile(tmp_path / "bomb.tif"))


def test_rows_of_a_tif_are_those_of_the_whole(tmp_path):
    values = RNG.integers(0, 200, (2, 40, 5)).astype(np.uint16)
    write_tif(tmp_path / "a.tif", values, nodata=7)
    source = open_raster(SourceFile(tmp_path / "a.tif"))
    assert np.array_equal(source.rows(11, 23).values, values[:, 11:23])
    assert np.array_equal(source.rows(30, 99).values, values[:, 30:])


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_that_is_to_be_shown_turned_is_refused(tmp_path, big):
    for orientation in (1, 6):
        path = tmp_path / f"{orientation}.tif"
        Image.fromarray(RGB).save(path, tiffinfo={274: orientation}, big_tiff=big)
        if orientation == 1:
            assert read_raster(SourceFile(path)).values.shape == RGB.transpose(2, 0, 1).shape
            continue
        with pytest.raises(InputError, match=r"orientation 6\).* Turn the pixels upright"):
            read_raster(SourceFile(path))


def test_an_archive_whose_path_has_braces_is_refused_with_what_to_do(tmp_path):
    write_tif(tmp_path / "a.tif", RNG.integers(0, 9, (1, 6, 5)).astype(np.uint8))
    archive = tmp_path / "z}i{p.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tmp_path / "a.tif", "a.tif")
    with pytest.raises(InputError, match=r"GDAL opens no archive whose path has braces\. Rename it"):
        open_raster(SourceFile(archive, "a.tif"))
