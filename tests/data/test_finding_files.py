"""What is found in folders and in archives."""

import hashlib

import pytest

from ssl_rs.data.finding_files import find_files
from ssl_rs.errors import InputError


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


def test_archives_of_archives_name_the_remedy(zipped, tmp_path):
    zipped(tmp_path / "Potsdam.zip", {"Potsdam/2_Ortho_RGB.zip": b"PK"})
    with pytest.raises(InputError, match=r"Potsdam\.zip holds archives itself .*Unzip"):
        find_files(tmp_path)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_place_that_two_links_lead_to_is_listed_once(tmp_path, names):
    """Whichever comes first: the link to a folder, or the one to a folder in it."""
    (tmp_path / "disk/sub").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    for path in ("disk/x.png", "disk/sub/y.png"):
        (tmp_path / path).write_text("image")
    (tmp_path / "root" / names[0]).symlink_to(tmp_path / "disk")
    (tmp_path / "root" / names[1]).symlink_to(tmp_path / "disk/sub")
    assert sorted(file.name for file in find_files(tmp_path / "root")) == ["x.png", "y.png"]


def test_a_link_to_a_hidden_folder_of_the_same_place_is_followed(tmp_path):
    """As git-annex and other stores keep files; a link to a folder that is listed anyway adds nothing."""
    for folder in (".store/images", "seen"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{folder[-4:]}.png").write_text("image")
    (tmp_path / "images").symlink_to(tmp_path / ".store/images")
    (tmp_path / "again").symlink_to(tmp_path / "seen")
    (tmp_path / ".store/images/back").symlink_to(tmp_path)
    found = find_files(tmp_path)
    assert [(file.path.parent.name, file.name) for file in found] == [("images", "ages.png"), ("seen", "seen.png")]


def test_a_link_to_a_folder_above_is_left_out_and_told(root):
    before = find_files(root)
    (root / "images" / "link").symlink_to(root.parent)
    with pytest.warns(UserWarning, match=r"images/link links to .*, in which .* itself lies: it is left out"):
        found = find_files(root)
    assert found == before
