"""What data are called that a finished run is scored on."""

import shutil

import pytest

from ssl_rs.data.folder import Folder
from ssl_rs.data.prepare import prepare
from ssl_rs.stages.other_data import may_be_other, name_by_folder, named_as_trained


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("data/other_city", "other_city"),
        ("data/other_city/", "other_city"),
        ("data/other_city/images/..", "other_city"),
        ("/data/São Tomé (2024)", "São_Tomé_2024_"),
        ("/data/.hidden", "hidden"),
        ("/", "other_than_my_city"),
        ("/data/(?)", "other_than_my_city"),
        ("elsewhere/my_city", "other_than_my_city"),
        ("/" + 200 * "x", 100 * "x"),
    ],
)
def test_data_are_called_by_their_folder(root, name):
    assert name_by_folder(root, "my_city") == name


@pytest.fixture
def named(folder_dataset):
    def make(name, root=folder_dataset):
        return Folder(
            name=name, root=str(root), crop_size=32, tile_size=32, tile_shift=0.25, protocol="all_classes",
            value_scale=None, on_bad_scene="error", transductive=False, bands=None, val_share=0.1, test_share=0.2,
            split_seed=0,
        )  # fmt: skip

    return make


def test_a_folder_that_moved_is_known_by_its_store(named, folder_dataset, tmp_path):
    own, moved = named("city"), tmp_path / "moved"
    shutil.copytree(folder_dataset, moved)
    trained = prepare(own, tmp_path / "stores").manifest.sha256
    assert not may_be_other(named("city", moved), tmp_path / "stores", trained)
    assert may_be_other(named("city", moved), tmp_path / "elsewhere", trained)
    (moved / "images/train/scene0.png").unlink()
    (moved / "masks/train/scene0.png").unlink()
    assert may_be_other(named("city", moved), tmp_path / "stores", trained)


def test_the_data_of_the_training_get_their_name_back(named, tmp_path):
    trained = prepare(named("city"), tmp_path).manifest.sha256
    store = prepare(named("my_images"), tmp_path)
    assert store.manifest.sha256 != trained
    back = named_as_trained(store, "city", trained)
    assert (back.manifest.dataset, back.manifest.sha256, back.path) == ("city", trained, store.path)
    assert named_as_trained(store, "town", trained) is None


def test_a_data_set_that_is_no_folder_of_a_user_keeps_its_name(tmp_path):
    assert not may_be_other(object(), tmp_path, "ab")
