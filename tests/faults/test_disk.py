"""A disk that is full, read-only or gone: one message, the last good state stays, and the same command goes on."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from ssl_rs.data import store as stores
from ssl_rs.data.map_writer import Grid, MapWriter
from ssl_rs.exporting.forms import FORMS
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages import mapping, pretraining_result
from ssl_rs.training import loop

pytestmark = pytest.mark.slow

LATER = "the same command then goes on where it stopped"
MAKE_SPACE = f"No space left on device. Make space there, or choose another output_dir or run_dir; {LATER}"


def visible(folder):
    """Return the names of a folder's files that anybody would take for whole."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def command_line(name, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        [sys.executable, "-m", f"ssl_rs.{name}", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_a_disk_that_is_full_at_the_second_checkpoint(quick, disk, ends_as_whole):
    """The real command, on a disk that holds one checkpoint and a half."""
    run = RunDirectory(disk.path / "run")
    size = 24_000_000
    disk.resize(int(1.5 * size))
    overrides = (*quick, f"run_dir={run.path}")
    ended = command_line("pretrain", *overrides)
    assert ended.returncode == 2, ended.stderr
    assert f"{run.checkpoints / 'step-00000004.ckpt'}: cannot be written: {MAKE_SPACE}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert os.listdir(run.checkpoints) == ["step-00000002.ckpt"]
    assert 0.7 * size < (run.checkpoints / "step-00000002.ckpt").stat().st_size < 1.3 * size
    disk.resize(10 * size)
    ended = command_line("pretrain", *overrides)
    assert ended.returncode == 0, ended.stderr
    ends_as_whole(run)


@pytest.mark.parametrize("place", ["metrics.jsonl", "encoder.safetensors", "result.json"])
def test_a_full_disk_anywhere_else(quick, disk, place, fails, command, at_step, ends_as_whole, monkeypatch):
    run = RunDirectory(disk.path / "run")

    def fill_behind_metrics():
        with open(run.metrics, "a") as file:  # what is left of its last page could still be written
            file.write(" " * (-file.tell() % resource.getpagesize()))
        disk.fill()

    if place == "metrics.jsonl":
        at_step(3, fill_behind_metrics)
    else:
        module, name = (
            (pretraining_result, "save_tensors") if place == "encoder.safetensors" else (RunDirectory, "finish")
        )
        write = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *arguments: (disk.fill(), write(*arguments))[1])
    said = fails("pretrain", *quick, f"run_dir={run.path}")
    monkeypatch.undo()
    assert f"{run.path / place}: cannot be written: {MAKE_SPACE}" in said
    assert not run.result.exists()
    assert not (place == "encoder.safetensors" and run.encoder.exists())
    assert not list(run.path.rglob("*.partial"))
    last = 2 if place == "metrics.jsonl" else 6
    assert visible(run.checkpoints)[-1] == f"step-{last:08d}.ckpt"
    disk.clear()
    assert command("pretrain", *quick, f"run_dir={run.path}")[0] == 0
    ends_as_whole(run)


def test_a_disk_that_is_full_from_the_start(quick, disk, fails):
    disk.fill()
    said = fails("pretrain", *quick, f"run_dir={disk.path / 'run'}")
    assert f"{disk.path / 'run'}" in said
    assert "No space left on device. Make space there" in said


def test_a_checkpoint_folder_that_becomes_read_only(quick, tmp_path, mount, fails, command, monkeypatch, ends_as_whole):
    run = RunDirectory(tmp_path / "run")
    save = loop.save_checkpoint

    def save_after_fault(folder, *arguments):
        if (folder / "step-00000002.ckpt").is_file():
            mount(folder, "ro,size=1m")
        return save(folder, *arguments)

    monkeypatch.setattr(loop, "save_checkpoint", save_after_fault)
    said = fails("pretrain", *quick, f"run_dir={run.path}")
    monkeypatch.undo()
    expected = (
        f"cannot be written: Read-only file system. Make it writable, or choose another output_dir or run_dir; {LATER}"
    )
    assert f"{run.checkpoints / 'step-00000004.ckpt'}: {expected}" in said
    subprocess.run(["umount", run.checkpoints], check=True)
    assert visible(run.checkpoints) == ["step-00000002.ckpt"]
    assert command("pretrain", *quick, f"run_dir={run.path}")[0] == 0
    ends_as_whole(run)


def test_a_finished_run_that_has_become_read_only_is_still_finished(quick, tmp_path, mount, command):
    kept = mount(tmp_path / "kept", "size=200m")
    given = (*quick, f"run_dir={kept / 'run'}")
    assert command("pretrain", *given)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", kept], check=True)
    code, out, err = command("pretrain", *given)
    assert code == 0, err
    assert "was finished before" in out + err


@pytest.mark.parametrize("name", ["prepare", "pretrain", "report"])
def test_a_folder_that_is_read_only_from_the_start(quick, tmp_path, mount, fails, name, tuned):
    shut = mount(tmp_path / "shut", "ro,size=1m")
    given = {
        "prepare": (*quick[:2], f"store_dir={shut}"),
        "pretrain": (*quick, f"run_dir={shut / 'run'}", f"store_dir={tuned.path.parent / 'stores'}"),
        "report": (f"runs={tuned.path}", f"run_dir={shut}"),
    }
    said = fails(name, *given[name])
    assert str(shut) in said
    assert "Read-only file system" in said


def test_a_report_on_a_full_disk_leaves_the_old_page(disk, fails, command, tuned):
    assert command("report", f"runs={tuned.path}", f"run_dir={disk.path}")[0] == 0
    before = {name: (disk.path / name).read_bytes() for name in visible(disk.path)}
    disk.fill()
    said = fails("report", f"runs={tuned.path}", f"run_dir={disk.path}")
    assert f"{disk.path / 'cells.csv'}: cannot be written: {MAKE_SPACE}" in said
    disk.clear()
    assert {name: (disk.path / name).read_bytes() for name in visible(disk.path)} == before
    assert not list(disk.path.glob(".*"))
    assert command("report", f"runs={tuned.path}", f"run_dir={disk.path}")[0] == 0


def test_a_disk_that_fills_before_the_last_blocks_of_a_map(disk):
    """GDAL holds them until the file is closed, and says nothing where they cannot be written."""
    noise = np.random.default_rng(0).integers(0, 255, (1, 600, 600)).astype(np.uint8)
    path = disk.path / "map.tif"
    with MapWriter(path, Grid(600, 600, None, None), ["class"], "uint8", 255, [(1, 2, 3)]) as writer:
        writer.write(0, noise)
        disk.fill()
        with pytest.raises(OSError, match=f"cannot be written, the disk may be full.*{path}"):
            writer.complete()
    assert not path.exists()
    assert not list(disk.path.glob(".map*"))


@pytest.mark.parametrize("colors", [None, [(1, 2, 3)]])
@pytest.mark.parametrize("room", [0, 8_000, 24_000, 200_000])
def test_a_disk_that_holds_a_map_and_a_part_of_its_overviews(disk, colors, room):
    """Of a map of small blocks and, with more room, of noise, which cannot be compressed."""
    values = np.random.default_rng(0).integers(0, 255, (1, 1024, 1024)).astype(np.uint8)
    if room < 200_000:
        values = values[:, ::8, ::8].repeat(8, axis=1).repeat(8, axis=2)

    def write(path):
        with MapWriter(path, Grid(1024, 1024, None, None), ["class"], "uint8", 255, colors) as writer:
            writer.write(0, values)
            writer.complete()
            writer.finish()

    write(disk.path / "whole.tif")
    with rasterio.open(disk.path / "whole.tif") as whole:
        first = min(int(whole.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level)) for level in range(2))
    (disk.path / "whole.tif").unlink()
    disk.resize(first + room)
    with pytest.raises(OSError, match="cannot be written, the disk may be full"):
        write(disk.path / "map.tif")
    assert not list(disk.path.iterdir())


@pytest.mark.parametrize("place", ["image", "rows", "end", "picture", "json"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_map_on_a_full_disk_is_not_there_and_is_made_again(
    disk, fails, command, tuned, folder_dataset, monkeypatch, place, earlier
):
    """The image on its way through, rows of its map, what GDAL still holds of it, its picture, what is told of it.

    An earlier map of the same image stays until all but the last is written.
    """
    owner, name = {
        "image": (mapping, "write_scene"), "rows": (MapWriter, "write"), "end": (MapWriter, "complete"),
        "picture": (mapping, "written_aside"), "json": (mapping, "write_json"),
    }[place]  # fmt: skip
    write = getattr(owner, name)
    images = folder_dataset / "images/test/scene5.png"
    given = (f"run={tuned.path}", f"images={images}", f"run_dir={disk.path / 'maps'}", "evaluation.window.size=32")
    if earlier:
        assert command("predict", *given, "bands=[3,2,1]")[0] == 0
    before = {path.name: path.read_bytes() for path in (disk.path / "maps").glob("scene5*")}
    monkeypatch.setattr(owner, name, lambda *arguments: (disk.fill(), write(*arguments))[1])
    said = fails("predict", *given)
    monkeypatch.undo()
    assert "cannot be written" in said
    assert str(disk.path / "maps") in said
    disk.clear()
    if place == "json":
        assert not (disk.path / "maps/scene5.json").exists()
    else:
        assert {path.name: path.read_bytes() for path in (disk.path / "maps").glob("scene5*")} == before
    assert not list((disk.path / "maps").glob(".*.partial"))
    assert command("predict", *given)[0] == 0
    with rasterio.open(disk.path / "maps/scene5.tif") as made:
        assert set(np.unique(made.read())) <= {0, 1, 2}


@pytest.mark.parametrize("name", ["torchvision", "timm", "smp"])
def test_an_export_on_a_full_disk_is_not_there_and_the_one_before_is(disk, fails, command, tuned, monkeypatch, name):
    given = (f"run={tuned.path}", f"run_dir={disk.path / 'out'}")
    assert command("export", *given, "formats=[timm]")[0] == 0
    before = sorted(path.name for path in (disk.path / "out").iterdir())
    write = FORMS[name]
    monkeypatch.setitem(FORMS, name, lambda *arguments: (disk.fill(), write(*arguments))[1])
    said = fails("export", *given, f"formats=[{name}]" if name != "timm" else "formats=[timm,smp]")
    monkeypatch.undo()
    assert "cannot be written" in said
    disk.clear()
    assert sorted(path.name for path in (disk.path / "out").iterdir()) == before
    assert not list(disk.path.glob(".*.partial"))
    assert command("export", *given, "formats=[torchvision,timm,smp]")[0] == 0
    assert (disk.path / "out/smp/model.safetensors").is_file()


def test_a_store_on_a_full_disk_goes_on_after_space_was_made(quick, disk, tuned, fails, command):
    """Two of six scenes of 37 kB fit at first."""
    disk.resize(120_000)
    said = fails("prepare", *quick[:2], f"store_dir={disk.path}")
    assert f"The store {disk.path}/folder-" in said
    assert "cannot be written: No space left on device" in said
    assert "make space; started again, it goes on where it stopped" in said
    assert visible(disk.path) == []
    (aside,) = disk.path.glob(".*.partial")
    kept = {path.name: path.stat().st_ino for path in aside.glob("*.npy")}
    assert 2 <= len(kept) < 12
    assert not list(aside.glob(".*"))
    disk.resize(10_000_000)
    code, out, _ = command("prepare", *quick[:2], f"store_dir={disk.path}")
    assert code == 0
    store = Path(out.strip())
    assert {name: (store / name).stat().st_ino for name in kept} == kept
    (other,) = (tuned.path.parent / "stores").glob("folder-*")
    assert {path.name: path.read_bytes() for path in store.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


@pytest.mark.parametrize("checkpoint_first", [False, True])
def test_a_run_folder_that_is_moved_away(
    quick, tmp_path, fails, command, at_step, monkeypatch, ends_as_whole, checkpoint_first
):
    """Nothing is written into a new folder of its name, where it would pass for the run."""
    run, away = RunDirectory(tmp_path / "run"), tmp_path / "away"
    if checkpoint_first:
        save = loop.save_checkpoint
        monkeypatch.setattr(
            loop,
            "save_checkpoint",
            lambda folder, *rest: (folder.is_dir() and run.path.rename(away), save(folder, *rest))[1],
        )
    else:
        at_step(3, lambda: run.path.rename(away))
    said = fails("pretrain", *quick, f"run_dir={run.path}")
    monkeypatch.undo()
    missing = run.checkpoints if checkpoint_first else run.metrics
    assert (
        f"{missing}: cannot be written: No such file or directory. Bring back what was moved or deleted; {LATER}"
        in said
    )
    assert not run.path.exists()
    away.rename(run.path)
    assert command("pretrain", *quick, f"run_dir={run.path}")[0] == 0
    ends_as_whole(run)


def test_a_folder_of_checkpoints_that_is_deleted_is_made_again(quick, tmp_path, command, at_step, ends_as_whole):
    run = RunDirectory(tmp_path / "run")
    found = []
    at_step(3, lambda: shutil.rmtree(run.checkpoints))
    at_step(5, lambda: found.append(visible(run.checkpoints)))
    assert command("pretrain", *quick, f"run_dir={run.path}")[0] == 0
    assert found == [["step-00000004.ckpt"]]
    ends_as_whole(run)


def move_away(store):
    store.rename(store.with_name("away"))


def cut_short(store):
    for path in store.glob("*_image.npy"):
        os.truncate(path, 5000)


def cut_by_one_byte(store):
    """Within its last page a map reads zeros behind the end: no signal would tell."""
    for path in store.glob("*_image.npy"):
        os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(("fault", "workers"), [(move_away, 0), (cut_short, 1), (cut_by_one_byte, 0)])
def test_a_store_that_is_taken_away_or_cut_short_while_it_is_read(
    quick, tmp_path, command, fails, at_step, monkeypatch, ends_as_whole, fault, workers
):
    run, folder = RunDirectory(tmp_path / "run"), tmp_path / "stores"
    overrides = (*quick, f"run_dir={run.path}", f"store_dir={folder}", f"trainer.num_workers={workers}")
    store = Path(command("prepare", *quick[:2], f"store_dir={folder}")[1].strip())
    monkeypatch.setattr(stores, "OPEN_MAPS", 1)  # else all of this tiny store is open, and stays so
    at_step(3, lambda: fault(store))
    said = fails("pretrain", *overrides)
    monkeypatch.undo()
    assert f"{store}/0000" in said
    assert f"elete the folder {store}" in said
    assert visible(run.checkpoints)[-1] in ("step-00000002.ckpt", "step-00000004.ckpt")
    if fault is move_away:
        store.with_name("away").rename(store)
    else:
        assert f"Delete the folder {store} and run prepare again" in fails("pretrain", *overrides)
        shutil.rmtree(store)
    assert command("pretrain", *overrides)[0] == 0
    ends_as_whole(run)


BUS_ERROR = """
import os, sys
from pathlib import Path
from ssl_rs.command import main
from ssl_rs.data import store
from ssl_rs.run_directory import RunDirectory

store._size_and_time = lambda path: (0, 0)  # the file is cut between the question and the reading
append = RunDirectory.append_metrics

def append_after_fault(run, line):
    append(run, line)
    if line["step"] == 3:
        for path in Path(sys.argv[1]).glob("*/*_image.npy"):
            os.truncate(path, 0)

RunDirectory.append_metrics = append_after_fault
main("pretrain", sys.argv[2:])
"""


def test_a_map_that_is_cut_at_the_moment_it_is_read_kills_the_process_but_no_checkpoint(quick, tmp_path):
    run = RunDirectory(tmp_path / "run")
    given = (*quick, f"run_dir={run.path}", f"store_dir={tmp_path / 'stores'}")
    ended = subprocess.run(
        [sys.executable, "-c", BUS_ERROR, tmp_path / "stores", *given], capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGBUS, ended.stderr
    assert visible(run.checkpoints) == ["step-00000002.ckpt"]
    assert not run.result.exists()
