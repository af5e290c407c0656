"""Files in folders and in archives."""

import hashlib
import os
import zipfile

import pytest

from ssl_rs.data.source_files import SourceFile, describe_files, find_files, match_files
from ssl_rs.errors import InputError


def zipped(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def root(tmp_path):
    """A folder, an archive with a folder, one without; things that no listing should show."""
    root = tmp_path / "Größe 1"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a_1.tif").write_bytes(b"own a1")
    (root / "images" / ".hidden.tif").write_bytes(b"x")
    zipped(root / "labels.zip", {"labels/a_1_label.tif": b"label a1", "__MACOSX/labels/._a_1_label.tif": b"x"})
    zipped(root / "images.zip", {"a_1.tif": b"zipped a1", "ä_2.tif": b"zipped a2"})
    return root


def test_folders_and_archives_are_listed_alike(root):
    found = find_files(root)
    assert [(file.name, file.member) for file in found] == [
        ("a_1.tif", None),
        ("a_1.tif", "a_1.tif"),
        ("ä_2.tif", "ä_2.tif"),
        ("a_1_label.tif", "labels/a_1_label.tif"),
    ]
    label = found[-1]
    assert (label.stem, label.suffix, label.size, label.exists()) == ("a_1_label", ".tif", 8, True)
    assert str(label) == f"{root}/labels.zip/labels/a_1_label.tif"
    assert [file.read() for file in found] == [b"own a1", b"zipped a1", b"zipped a2", b"label a1"]
    assert [file.sha256() for file in found] == [hashlib.sha256(file.read()).hexdigest() for file in found]


def test_what_is_unpacked_wins_over_what_is_not(root):
    found = match_files(find_files(root), root, r"/images/(\w)_(\d)\.tif")
    assert {groups: file.read() for groups, file in found.items()} == {("a", "1"): b"own a1", ("ä", "2"): b"zipped a2"}


def test_a_preferred_folder_wins_over_everything(root):
    (root / "all").mkdir()
    zipped(root / "all.zip", {"a_1.tif": b"all a1"})
    found = match_files(find_files(root), root, r"/(\w)_(\d)\.tif", prefer="/all/")
    assert found["a", "1"].read() == b"all a1"


def test_the_root_itself_counts_as_a_folder(root):
    images = root / "images"
    assert list(match_files(find_files(images), images, r"/images/(\w)_(\d)\.tif")) == [("a", "1")]


def test_a_folder_is_described_by_its_folders_and_archives(root):
    told = describe_files(root, find_files(root))
    assert told == "images: a_1.tif; images (zip): a_1.tif and 1 more; labels/labels (zip): a_1_label.tif"
    (root / "empty").mkdir()
    assert describe_files(root / "empty", find_files(root / "empty")) == "nothing"


def test_archives_of_archives_name_the_remedy(tmp_path):
    zipped(tmp_path / "Potsdam.zip", {"Potsdam/2_Ortho_RGB.zip": b"PK"})
    with pytest.raises(InputError, match=r"Potsdam\.zip holds archives itself .*Unzip"):
        find_files(tmp_path)


def test_damaged_archives_are_named(tmp_path):
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


def test_a_link_to_a_folder_above_is_left_out_and_told(root):
    before = find_files(root)
    (root / "images" / "link").symlink_to(root.parent)
    with pytest.warns(UserWarning, match=r"images/link links to .*, in which .* itself lies: it is left out"):
        found = find_files(root)
    assert found == before
