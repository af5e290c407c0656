"""Image files that claim too much, and those that are to be shown turned."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from ssl_rs.data.image_files import open_raster, read_raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)


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


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0garbagegarbage"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_pixels_are_read_whatever_damaged_exif_says(tmp_path, name, exif):
    Image.fromarray(RGB).save(tmp_path / name, exif=exif)
    assert read_raster(SourceFile(tmp_path / name)).values.shape == RGB.transpose(2, 0, 1).shape


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


def test_a_tif_that_claims_more_than_its_bytes_can_hold_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "bomb.tif", "w", driver="GTiff", count=3, height=60000, width=60000, dtype="uint8",
        sparse_ok=True, tiled=True, compress="deflate",
    ):  # fmt: skip
        pass
    with pytest.raises(InputError, match=r"bomb\.tif .*claims 3 x 60000 x 60000 pixels, 10\.1 GiB"):
        open_raster(SourceFile(tmp_path / "bomb.tif"))
