"""An export takes its folder when it is whole; whatever goes wrong, the one before stays."""

import shutil
from pathlib import Path

import pytest

from ssl_rs.errors import InputError
from ssl_rs.exporting.folder import check_place, filled_aside, is_there, write_about


@pytest.fixture
def folder(tmp_path):
    """An export that is there."""
    place = tmp_path / "export"
    place.mkdir()
    (place / "old").touch()
    return place


def names(folder):
    return sorted(path.name for path in folder.parent.iterdir()), [path.name for path in folder.iterdir()]


def test_a_whole_export_takes_the_place_of_the_one_before(folder):
    with filled_aside(folder) as aside:
        (aside / "new").touch()
        assert names(folder)[1] == ["old"]
    assert names(folder) == (["export"], ["new"])


def test_where_it_cannot_be_filled_the_one_before_stays(folder):
    with pytest.raises(OSError, match="full"), filled_aside(folder):
        raise OSError("full")
    assert names(folder) == (["export"], ["old"])


def test_where_it_cannot_take_its_name_the_one_before_comes_back(folder, monkeypatch):
    rename = Path.replace

    def fails(self, target):
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="no"), filled_aside(folder):
        pass
    assert names(folder) == (["export"], ["old"])


def test_what_a_kill_between_the_renames_left_comes_back_even_if_the_next_start_fails(folder):
    folder.rename(folder.with_name(".export.before"))
    with pytest.raises(OSError, match="full"), filled_aside(folder):
        raise OSError("full")
    assert names(folder) == (["export"], ["old"])


def test_a_kill_behind_both_renames_leaves_nothing_in_the_way(folder):
    shutil.copytree(folder, folder.with_name(".export.before"))
    with filled_aside(folder) as aside:
        (aside / "new").touch()
    assert names(folder) == (["export"], ["new"])


@pytest.mark.parametrize("files", ['["a"]', "null", '{"old": 3}'])
def test_of_a_damaged_account_nothing_is_believed(folder, files):
    (folder / "export.json").write_text(f'{{"config_hash": "x", "files": {files}}}')
    with pytest.raises(InputError, match="which no export wrote"):
        is_there(folder, "x")


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(InputError, match=r"run_dir=.*disk is a mount point, which cannot be replaced\. Choose a new"):
        check_place(str(tmp_path / "disk"))
    assert check_place(str(tmp_path / "disk/new")) == (tmp_path / "disk/new").resolve()


def test_an_export_is_there_while_each_of_its_files_is(folder):
    (folder / "smp").mkdir()
    (folder / "smp/new").write_text("whole")
    write_about(folder, {"config_hash": "x"})
    assert is_there(folder, "x")
    assert not is_there(folder, "y")
    (folder / "smp/new").write_text("half")
    assert not is_there(folder, "x")
    (folder / "smp/new").unlink()
    assert not is_there(folder, "x")
