"""What is opened and written down before a network is trained."""

from types import SimpleNamespace

import pytest

from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages import trained_network
from ssl_rs.stages.identified import Identified


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open the mirror of a run's logs; what its logger was given, and the folder."""
    monkeypatch.setattr(trained_network, "environment", lambda site: {})

    def make(folder, run_dir, is_first=True):
        given = []
        recipe = SimpleNamespace(logger=SimpleNamespace(open=lambda *each: given.append(each)), run_dir=run_dir)
        site = SimpleNamespace(processes=SimpleNamespace(is_first=is_first))
        run = Identified(RunDirectory(tmp_path / folder), "abc", {}, ())
        trained_network._open_tracker(site, recipe, run, {"seed": 0}, None)
        return given, run.directory

    return make


@pytest.mark.parametrize(("folder", "run_dir", "name"), [("own", "own", "own-abc"), ("seed0-abc", None, "seed0-abc")])
def test_a_mirror_is_called_by_the_folder_and_by_the_hash_of_its_run(opened, folder, run_dir, name):
    """A folder that the user chose does not hold the hash: another run may get the same one later."""
    ((path, called, config, lines),), run = opened(folder, run_dir)
    assert (path, called, config, list(lines)) == (run.path, name, {"seed": 0}, [])
    assert run.config.is_file()


def test_of_several_processes_the_first_alone_opens_and_writes(opened):
    given, run = opened("mine", "mine", is_first=False)
    assert given == []
    assert not run.config.exists()
