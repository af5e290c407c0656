"""Files of a folder or of an archive: what they hold, and what tells that they changed."""

import os

import pytest

from ssl_rs.data.finding_files import find_files
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError


def test_damaged_archives_are_named(zipped, tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.tif": b"content " * 100})
    (file,) = find_files(tmp_path)
    content = bytearray(path.read_bytes())
    content[45] ^= 0xFF  # within the compressed data
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip/a\.tif cannot be unpacked"):
        file.read()
    (tmp_path / "b.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"b\.zip cannot be read as a zip archive"):
        find_files(tmp_path)


def test_identity_tells_a_changed_file(root):
    file = SourceFile(root / "images" / "a_1.tif")
    before = file.identity()
    (root / "images" / "a_1.tif").write_bytes(b"longer than before")
    assert file.identity() != before


@pytest.mark.parametrize("name", ["a_1.tif.msk", "a_1.tfw", "a_1.wld", "A_1.TIF.MSK", "a_1.Tfw", "a_1.TAB"])
def test_identity_tells_a_changed_file_beside_it_that_is_read_too(root, name):
    file, mask = SourceFile(root / "images" / "a_1.tif"), root / "images" / name
    told, hashes = [file.identity()], [file.sha256()]
    mask.write_bytes(b"first")
    told.append(file.identity())
    hashes.append(file.sha256())
    mask.write_bytes(b"other")
    os.utime(mask, ns=(0, file.identity()[2] + 1))
    told.append(file.identity())
    hashes.append(file.sha256())
    assert len(set(told)) == len(set(hashes)) == 3


def test_identity_tells_an_older_file_in_the_place_of_one_beside_it(root):
    """As of a copy that keeps its times; sizes are equal, too."""
    file, place = SourceFile(root / "images" / "a_1.tif"), root / "images" / "a_1.tfw"
    told = []
    for content, seconds in ((b"first", 10), (b"other", 20)):
        place.write_bytes(content)
        os.utime(place, (seconds, seconds))
        told.append(file.identity())
    assert told[0] != told[1]
