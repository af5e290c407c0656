"""The command prepare: what it says and leaves, on a terminal and in a log, after a kill, and by several processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from PIL import Image

from ssl_rs.data.clipping import usual_largest
from ssl_rs.data.store import Store
from ssl_rs.locks import hold
from ssl_rs.stages import prepared_store
from ssl_rs.stages.prepared_store import dim_scale, odd_scale, scene_progress


def only_lines(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture
def labeled(folder_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ("dataset=folder", f"dataset.root={json.dumps(str(folder_dataset))}")


# What it says and leaves


def test_the_path_comes_last_and_alone_on_standard_output(command, labeled):
    code, out, err = command("prepare", *labeled)
    assert code == 0
    path = Path(out.strip())
    assert (path / "manifest.json").is_file()
    assert "prepared 6/6 scenes (scene5)" in err
    assert "6 scenes (4 train, 1 val, 1 test); bands red, green, blue (uint8); 3 classes" in err
    assert str(path / "overview.png") in err
    with Image.open(path / "overview.png") as sheet:
        assert sheet.width == 1600
    assert len((path / "scenes.csv").read_text().splitlines()) == 7
    code, again, err = command("prepare", *labeled)
    assert (code, again) == (0, out)
    assert "prepared" not in err
    assert "6 scenes (4 train" in err


def test_scenes_whose_masks_hold_no_label_are_told(command, folder_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "blank"
    shutil.copytree(folder_dataset, root)
    classes = (root / "classes.yaml").read_text()
    (root / "classes.yaml").write_text(f"{classes}ignore: [9]\n")
    Image.fromarray(np.full((96, 96), 9, np.uint8)).save(root / "masks/test/scene5.png")
    code, _, err = command("prepare", "dataset=folder", f"dataset.root={root}")
    assert code == 0
    assert "warning: no pixel is labeled in the masks of test 'scene5': these scenes count for nothing." in err


def test_scenes_that_lie_together_are_told(command, folder_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = sorted((folder_dataset / "images").rglob("*.png"), key=lambda path: path.name)
    listed = {"train": [], "val": [], "test": []}
    for place, path in enumerate(paths):
        name = f"site{place // 2}_{place}"
        for kind in ("images", "masks"):
            (tmp_path / "own" / kind).mkdir(parents=True, exist_ok=True)
            of_kind = folder_dataset / kind / path.relative_to(folder_dataset / "images")
            shutil.copy(of_kind, tmp_path / "own" / kind / f"{name}.png")
        listed[path.parent.name].append(name)
    shutil.copy(folder_dataset / "classes.yaml", tmp_path / "own")
    settings = ("dataset=folder", "dataset.root=own", r"dataset.scene_group='site\d'")
    code, _, err = command("prepare", *settings)
    assert code == 0
    assert sorted(re.findall(r"(\d) (train|val|test)", err)) == [("2", "test"), ("2", "train"), ("2", "val")]
    assert r"By dataset.scene_group=site\d the scenes lie in 3 groups." in err
    (tmp_path / "own" / "splits.yaml").write_text(json.dumps(listed))
    code, _, err = command("prepare", *settings)
    assert code == 0
    assert "lie in 3 groups." in err  # 4 train, of two sites
    listed["val"].append(listed["train"].pop())
    (tmp_path / "own" / "splits.yaml").write_text(json.dumps(listed))
    code, _, err = command("prepare", *settings)
    assert code == 0
    told = "lie in 3 groups; 1 of them both train and score, so scores say little about new places."
    assert told in err
    assert told in command("prepare", *settings, "check=true")[2]


@pytest.fixture
def damaged(folder_dataset, tmp_path, monkeypatch):
    """A data set of 9 images without masks of which 5 cannot be read."""
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for place in range(9):
        path = images / f"im{place}.png"
        Image.fromarray(np.full((9, 8, 3), 40 + place, np.uint8)).save(path)
        if place in (2, 3, 5, 6, 8):
            path.write_bytes(path.read_bytes()[:-30])
    return ("dataset=folder", "dataset.root=data")


def test_scenes_that_are_left_out_are_told_with_the_first_reasons(command, damaged):
    code, _, err = command("prepare", *damaged)
    assert code == 2
    assert "dataset.on_bad_scene=skip" in err
    code, out, err = command("prepare", *damaged, "dataset.on_bad_scene=skip")
    assert code == 0
    csv = Path(out.strip()) / "scenes.csv"
    assert f"Left out of folder: 5 of 9 scenes; {csv} lists all:" in err
    told = re.findall(r"^  train '(im\d)': .*cannot be read", err, re.MULTILINE)
    assert told == ["im2", "im3", "im5"]
    assert csv.read_text().count("cannot be read") == 5
    _, _, err = command("prepare", *damaged, "dataset.on_bad_scene=skip")
    assert "Left out of folder: 5 of 9 scenes" in err  # said again, though nothing was done


def test_a_split_that_loses_all_of_its_scenes_is_told(command, folder_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder_dataset, tmp_path / "data")
    for place in (3, 4):  # one of four that train, and the only one that validates
        path = next((tmp_path / "data" / "images").rglob(f"scene{place}.png"))
        path.write_bytes(path.read_bytes()[:-30])
    told = (
        "warning: the split val of folder is empty: its only scene was left out, so evaluation.split=val and "
        "evaluation.every_steps have nothing to score. Repair what was left out, or give the split others.\n"
    )
    for _ in range(2):  # said again, though nothing was done
        code, _, err = command("prepare", "dataset=folder", "dataset.root=data", "dataset.on_bad_scene=skip")
        assert code == 0
        assert told in err
        assert err.count("warning: the split") == 1


@pytest.mark.slow
def test_training_says_which_scenes_are_left_out(command, damaged):
    short = (
        "trainer.max_steps=1",
        "trainer.batch_size=2",
        "dataset.crop_size=8",
        "logger=none",
        "pretext=[contrastive]",
    )
    _, _, err = command("pretrain", *damaged, "dataset.on_bad_scene=skip", *short)
    assert "Left out of folder: 5 of 9 scenes" in err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("num_workers=-1", "num_workers must be 0"),
        ("num_workers=two", "num_workers must be a whole number or null"),
        ("check=maybe", "check must be true or false"),
        ("chek=true", "Did you mean 'check'?"),
    ],
)
def test_wrong_settings_are_named(command, labeled, override, said):
    code, _, err = command("prepare", *labeled, override)
    assert code == 2
    assert said in err
    assert not Path("outputs").exists()


def test_a_check_builds_nothing_and_finds_what_changed(command, labeled):
    code, _, err = command("prepare", *labeled, "check=true")
    assert code == 2
    assert "nothing to check" in err
    assert not Path("outputs").exists()

    _, path, _ = command("prepare", *labeled)
    code, out, err = command("prepare", *labeled, "check=true")
    assert (code, out) == (0, path)
    assert "checked 6/6 scenes (scene5)" in err
    assert "12 arrays of the store and 13 files it was made from" in err  # 6 images, 6 masks, classes.yaml

    array = Path(path.strip()) / "00003_image.npy"
    content = array.read_bytes()
    array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, out, err = command("prepare", *labeled, "check=true")
    assert (code, out) == (2, "")
    assert f"{array.name}: expected sha256" in err


def test_preparing_needs_no_torch(labeled):
    code = (
        f"import sys; from ssl_rs.command import main; main('prepare', {list(labeled)}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"  # it would be most of the memory


# Values far below the largest


@pytest.fixture
def saturated(tmp_path, monkeypatch):
    """Two images of 16 bits whose values end at 1,000, but for one pixel."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(100, 1001, (2, 2, 64, 64)).astype(np.uint16)
    values[0, :, 5, 5] = 65535
    Path("data/images").mkdir(parents=True)
    for place, image in enumerate(values):
        profile = {"driver": "GTiff", "count": 2, "height": 64, "width": 64, "dtype": "uint16"}
        with rasterio.open(f"data/images/{place}.tif", "w", **profile) as file:
            file.write(image)
    return ("dataset=folder", "dataset.root=data")


def test_a_scale_set_by_a_saturated_pixel_is_told_once(command, saturated):
    _, _, err = command("prepare", *saturated)
    share, proposed = re.search(
        r"divided by the largest of its training scenes, 65535, but at least 98 % of each band's lie below (\S+) % "
        r"of it\. If it is a saturated pixel or stands for no data, set dataset\.value_scale=(\d+);",
        only_lines(err),
    ).groups()
    assert err.count("value_scale=65535") == 1
    assert 1000 <= int(proposed) < 0.25 * 65535
    assert float(share) == pytest.approx(100 * int(proposed) / 65535, rel=0.1)
    for scale in (proposed, "65535"):
        assert "saturated" not in command("prepare", *saturated, f"dataset.value_scale={scale}")[2]


@pytest.mark.parametrize(
    ("dtype", "scale", "odd", "said"),
    [
        ("uint16", 10000, 0.0, "at least 98 % of each band's lie below 12 % of it"),
        ("uint16", 10000, 0.015, "dataset.value_scale=1200;"),  # however many are saturated, if they are few
        ("uint16", 10000, 0.03, None),
        ("uint16", 4000, 0.0, None),  # 25 % and more
        ("float32", 3.4e38, 0.01, "dataset.value_scale=1200;"),
        ("uint8", 255, 0.0, None),
    ],
)
def test_only_values_far_below_the_scale_are_told(dtype, scale, odd, said):
    values = np.full((2, 100, 400), 100 if dtype == "uint8" else 1000, dtype)
    values[1, :, :] = np.linspace(0, 1200 if dtype != "uint8" else 60, 400)
    values[0, :, : round(odd * 400)] = scale
    store = SimpleNamespace(
        manifest=SimpleNamespace(dataset="x", dtype=dtype, value_scale=float(scale)), scenes_of=lambda split: [5, 7],
        image=lambda index: values, valid=lambda index: None,
    )  # fmt: skip
    told = odd_scale(store)
    assert said in told if said else told is None


@pytest.mark.parametrize(
    ("dtype", "largest", "scale", "told"),
    [
        ("float32", 0.334, 10000, True),
        ("uint16", 900, 10000, False),
        ("uint8", 255, 60000, True),
        ("uint8", 0, 255, False),
    ],
)
def test_a_scale_of_other_units_than_the_images_is_told(dtype, largest, scale, told):
    """As reflectance from 0 to 1 with the scale of reflectance times 10,000; pictures are stretched and hide it."""
    values = np.linspace(0, largest, 2 * 60 * 60).reshape(2, 60, 60).astype(dtype)
    store = SimpleNamespace(
        manifest=SimpleNamespace(dataset="x", dtype=dtype, value_scale=float(scale)), scenes_of=lambda split: [0],
        image=lambda index: values, valid=lambda index: None,
    )  # fmt: skip
    said = dim_scale(store)
    if told:
        assert (
            f"divided by dataset.value_scale={scale}, but the largest seen in its training scenes is {largest}" in said
        )
    else:
        assert said is None


def test_values_where_there_are_no_data_do_not_set_what_is_usual(tmp_path):
    values, valid = np.full((1, 60, 60), 1000, np.uint16), np.zeros((60, 60), bool)
    values[:, :, 30:], valid[:, :30] = 65535, True
    store = SimpleNamespace(scenes_of=lambda split: [0], image=lambda index: values, valid=lambda index: valid)
    assert usual_largest(store, 60000) == 1000
    assert usual_largest(store, 1000) is None


# How far it is


def test_lines_are_few_without_a_terminal(capsys):
    with scene_progress("prepared") as report:
        for done in range(1, 41):
            report(done, 40, f"s{done}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"prepared {done}/40 scenes (s{done})" for done in range(4, 41, 4)]


def test_one_long_scene_is_told_in_percent_after_each_silence(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(prepared_store.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(prepared_store, "SILENCE", 20.0)
    with scene_progress("mapped") as report:
        for done in range(1, 100):
            now[0] = float(done)
            report(done / 100, 1, "big")
    assert capsys.readouterr().err.splitlines() == [f"mapped {done} % of big" for done in (20, 40, 60, 80)]


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "150")
    with scene_progress("prepared") as report:
        report(3, 12, "s[3]")
        report(4, 12, "s[bold]4")
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/12" in only_lines(err)
    assert "s[bold]4" in only_lines(err)  # names are no markup
    assert "0:00:0" in only_lines(err)


# Several processes, kills, memory


def write_tiff(path: Path, height: int, width: int, seed: int) -> None:
    """Write a tiled TIFF of 3 bands row of tiles by row of tiles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    place = rasterio.Affine(1, 0, 500000, 0, -1, 4000000)
    profile = {"driver": "GTiff", "transform": place, "height": height, "width": width, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=256, blockysize=256) as file:
        for top in range(0, height, 256):
            rows = min(256, height - top)
            window = rasterio.windows.Window(0, top, width, rows)
            file.write(rng.integers(1, 256, (3, rows, width), np.uint8), window=window)


def start(root: Path, output: Path, num_workers: int) -> "subprocess.Popen[str]":
    settings = ("dataset=folder", f"dataset.root={root}", f"output_dir={output}", f"num_workers={num_workers}")
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_rs.prepare", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> Store:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return Store.open(Path(out.strip()))


def children(pid: int) -> list[int]:
    """Return the processes below a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def content(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.path.iterdir())}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")
def test_a_killed_preparation_leaves_no_process_and_goes_on_where_it_stopped(tmp_path):
    for place in range(10):
        write_tiff(tmp_path / "data" / "images" / f"scene{place}.tif", 1600, 1600, place)
    whole = finish(start(tmp_path / "data", tmp_path / "whole", num_workers=0))

    process = start(tmp_path / "data", tmp_path / "killed", num_workers=2)
    deadline = time.monotonic() + 60
    while not (records := list((tmp_path / "killed").glob("stores/.*.partial/0*.json"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    time.sleep(1)
    assert not [worker for worker in workers if alive(worker)]
    partial = records[0].parent
    finished = [int(path.stem) for path in partial.glob("0*.json")]
    assert 1 <= len(finished) < 10
    assert not (partial / "manifest.json").exists()
    before = {number: (partial / f"{number:05d}_image.npy").stat() for number in finished}

    resumed = finish(start(tmp_path / "data", tmp_path / "killed", num_workers=2))
    assert resumed.manifest.sha256 == whole.manifest.sha256
    assert content(resumed) == content(whole)
    for number, stat in before.items():
        after = (resumed.path / f"{number:05d}_image.npy").stat()
        assert (after.st_ino, after.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


@pytest.mark.slow
def test_two_processes_make_the_same_store_as_one(folder_dataset, tmp_path):
    one, two = (finish(start(folder_dataset, tmp_path / f"by{count}", count)) for count in (0, 2))
    assert one.manifest.sha256 == two.manifest.sha256
    assert content(one) == content(two)


PEAK = """
import sys
from ssl_rs.command import main
assert main("prepare", sys.argv[1:]) == 0
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Prepare, then print the peak of this process's memory; `ru_maxrss` would begin with that of the parent."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_scene(tmp_path):
    peaks = []
    for height in (4000, 20000):
        root = tmp_path / f"data{height}"
        write_tiff(root / "images" / "scene.tif", height, 3000, 0)
        settings = ("dataset=folder", f"dataset.root={root}", f"output_dir={tmp_path / 'out'}", "num_workers=0")
        done = subprocess.run([sys.executable, "-c", PEAK, *settings], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-2]) * 1024)
    small, large = peaks
    assert large - small < 3 * 3000 * 16000 / 3  # a third of what the scene is larger: 48 of 144 MB
    assert large < 400e6


def test_who_prepares_the_same_store_is_named(command, labeled):
    code, out, _ = command("prepare", *labeled)
    path = Path(out.strip())
    path.rename(path.with_name("elsewhere"))
    with hold(path.with_name(f".{path.name}.lock"), "store", "wait"):
        code, out, err = command("prepare", *labeled)
    assert code == 2
    assert out == ""
    assert f"The store {path} is in use by process {os.getpid()} on" in err
