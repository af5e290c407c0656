"""Which files match by their place, and how a folder is described."""

from ssl_rs.data.finding_files import find_files
from ssl_rs.data.matching_files import describe_files, match_files


def test_what_is_unpacked_wins_over_what_is_not(root):
    found = match_files(find_files(root), root, r"/images/(\w)_(\d)\.tif")
    assert {groups: file.read() for groups, file in found.items()} == {("a", "1"): b"own a1", ("ä", "2"): b"zipped a2"}


def test_a_preferred_folder_wins_over_everything(zipped, root):
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


def test_an_extension_in_capitals_is_as_good(root):
    (root / "images/ü_3.TIF").write_bytes(b"own")
    found = match_files(find_files(root), root, r"/images/(\w)_(\d)\.tiff?")
    assert found["ü", "3"].read() == b"own"
    assert not match_files(find_files(root), root, r"/Images/(\w)_(\d)\.tif")
