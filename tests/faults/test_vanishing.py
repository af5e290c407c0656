"""A folder that is moved away, or becomes read-only, in the middle of a command: nothing passes for whole."""

import subprocess
from pathlib import Path

import pytest
from official_sets import assert_read_exactly, write_loveda

from ssl_rs.data import prepare as prepare_module
from ssl_rs.data import scene_writer, workers
from ssl_rs.data.store import Store
from ssl_rs.reporting import page
from ssl_rs.run_directory import RunDirectory

pytestmark = pytest.mark.slow

BRING_BACK = "Bring back what was moved or deleted"


def before_call(monkeypatch, module, name, number, fault):
    """Let a fault happen before the call of this number, from 1 on."""
    function, calls = getattr(module, name), []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            fault()
        return function(*arguments)

    monkeypatch.setattr(module, name, call)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def the_store(tuned):
    (store,) = (tuned.path.parent / "stores").glob("folder-*")
    return store


@pytest.mark.parametrize(
    ("module", "name"), [(workers, "write_scene"), (scene_writer, "write_beside"), (prepare_module, "_manifest")]
)
def test_a_store_that_is_moved_away_while_it_is_built(
    quick, tmp_path, fails, command, monkeypatch, tuned, module, name
):
    """Before a scene, between its arrays and the record that says they are there, and before the manifest."""
    folder, away = tmp_path / "stores", tmp_path / "away"
    given = (*quick[:2], f"store_dir={folder}", "num_workers=0")
    number = 1 if name == "_manifest" else 3
    before_call(monkeypatch, module, name, number, lambda: next(folder.glob(".*.partial")).rename(away))
    said = fails("prepare", *given)
    monkeypatch.undo()
    assert f"The store {folder}/folder-" in said
    assert "cannot be written: No such file or directory" in said
    assert f"{BRING_BACK}; started again, it goes on where it stopped" in said
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]
    kept = {path.name: path.stat().st_ino for path in away.glob("0000[01]_*.npy")}
    assert len(kept) == 4
    away.rename(folder / f".{the_store(tuned).name}.partial")
    store = Path(command("prepare", *given)[1].strip())
    assert {name: (store / name).stat().st_ino for name in kept} == kept
    assert contents(store) == contents(the_store(tuned))


@pytest.mark.parametrize(
    ("layout", "on_bad_scene", "num_workers"), [("folders", "error", 0), ("zip", "skip", 0), ("zip", "error", 2)]
)
def test_data_that_are_moved_away_while_they_are_read(
    tmp_path, fails, command, monkeypatch, layout, on_bad_scene, num_workers
):
    """No scene is taken for a bad one, and left out of the store forever, because its disk was gone."""
    root, away, folder = tmp_path / "data", tmp_path / "away", tmp_path / "stores"
    scenes = write_loveda(root, layout)
    given = (
        "dataset=loveda", f"dataset.root={root}", f"store_dir={folder}", f"dataset.on_bad_scene={on_bad_scene}",
        "dataset.val_share=0.25", f"num_workers={num_workers}",
    )  # fmt: skip
    module, name, number = (prepare_module, "write_scenes", 1) if num_workers else (workers, "write_scene", 3)
    before_call(monkeypatch, module, name, number, lambda: root.rename(away))
    said = fails("prepare", *given)
    monkeypatch.undo()
    assert f"{root}/Train" in said
    assert f"{BRING_BACK}; started again, it goes on where it stopped" in said
    assert not list(folder.glob("loveda-*"))
    (aside,) = folder.glob(".*.partial")
    kept = {path.name: path.stat().st_ino for path in aside.glob("*_image.npy")}
    assert len(kept) == (0 if num_workers else 2)
    away.rename(root)
    store = Path(command("prepare", *given)[1].strip())
    assert {name: (store / name).stat().st_ino for name in kept} == kept
    assert_read_exactly(Store.open(store), scenes)


def test_an_output_folder_that_is_moved_away_while_the_report_is_written(tmp_path, fails, command, monkeypatch, tuned):
    folder, away = tmp_path / "report", tmp_path / "away"
    given = (f"runs={tuned.path}", f"run_dir={folder}")
    assert command("report", *given)[0] == 0
    before = contents(folder)
    before_call(monkeypatch, page, "write_beside", 3, lambda: folder.rename(away))
    said = fails("report", *given)
    monkeypatch.undo()
    assert f"{folder / 'summary.csv'}: cannot be written: No such file or directory. {BRING_BACK}" in said
    assert not folder.exists()
    assert contents(away) == before
    away.rename(folder)
    assert command("report", *given)[0] == 0
    assert contents(folder) == before


def test_a_run_folder_that_becomes_read_only_at_a_line_of_metrics(
    quick, tmp_path, mount, fails, command, at_step, ends_as_whole
):
    run = RunDirectory(tmp_path / "run")
    at_step(4, lambda: mount(run.path, "ro,size=1m"))
    said = fails("pretrain", *quick, f"run_dir={run.path}")
    assert f"{run.metrics}: cannot be written: Read-only file system. Make it writable" in said
    subprocess.run(["umount", run.path], check=True)
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000002.ckpt"]
    assert command("pretrain", *quick, f"run_dir={run.path}")[0] == 0
    ends_as_whole(run)
