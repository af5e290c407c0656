"""Image files as arrays: PNG, JPEG, and what is alike for all kinds."""

import warnings
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image

from ssl_rs.data.image_files import read_raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)


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


def test_palettes_keep_indices_and_colors(tmp_path, write_tif):
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
def test_files_that_are_cut_short_are_named(tmp_path, name, keep, write_tif):
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
