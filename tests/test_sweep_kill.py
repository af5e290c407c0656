"""A sweep that is killed at random moments, restarted and filled in another order gives the same table, bit for bit."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from killed_runs import family, wait_for_end, write_dataset
from warm import WarmProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # four sweeps' worth of starts: 2.5 minutes of a core
    pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc"),
]

SETTINGS = (
    "dataset=folder", "dataset.crop_size=32", "dataset.tile_size=32", "trainer.device=cpu", "trainer.precision=fp32",
    "trainer.batch_size=4", "trainer.max_steps=4", "trainer.log_every_steps=2", "trainer.checkpoint_every_steps=2",
    "logger=none", "backbone=mobilenet_v2", "decoder=fpn",
)  # fmt: skip
VARIED = ("label_fraction=10pct,100pct", "initialization=random,pretrained", "seed=0,1")
TURNED = ("seed=1,0", "initialization=pretrained,random", "label_fraction=100pct,10pct")
CELLS = 8
TIMED = ("wall_seconds",)
TABLES = ("summary.csv", "differences.csv", "labels_saved.csv", "table.md", "table.tex")


def start(folder, command, *overrides):
    """Start a command in a folder of its own, so that the paths of its runs are equal in all of them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    if folder.name == "broken":
        return WarmProcess(f"ssl_rs.{command}", overrides, folder, folder / "log.txt", environment)
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"ssl_rs.{command}", *overrides],
            cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment,
        )  # fmt: skip


def finish(folder, command, *overrides):
    assert start(folder, command, *overrides).wait(900) == 0, (folder / "log.txt").read_text()[-3000:]


def done(folder):
    return len(list((folder / "outputs/finetune").rglob("result.json")))


def kill_after(folder, cells, delay, *overrides):
    """Start a sweep and kill all of it a while after it has filled some more cells."""
    process, deadline = start(folder, "finetune", *overrides), time.monotonic() + 600
    while done(folder) < cells:
        assert process.poll() is None, (folder / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    members = list(family(process.pid))
    for pid in members:
        os.kill(pid, signal.SIGKILL)
    process.wait(60)
    wait_for_end(members)


def tables_of(folder):
    """Report, and return what must be equal: all tables but times."""
    finish(folder, "report")
    report = folder / "outputs/report"
    rows = list(csv.DictReader((report / "results.csv").open()))
    rows = [{key: value for key, value in row.items() if key not in TIMED} for row in rows]
    return rows, {name: (report / name).read_bytes() for name in TABLES}


def test_a_sweep_killed_at_random_and_restarted_twice_gives_the_same_table(tmp_path):
    settings = (*SETTINGS, f"dataset.root={tmp_path / 'data'}")
    write_dataset(tmp_path / "data", size=64)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    finish(whole, "pretrain", *(each for each in settings if each != "decoder=fpn"), "pretext=[contrastive]")
    shutil.copytree(whole, broken)
    finish(whole, "finetune", "-m", *settings, *VARIED)

    moments = random.Random(0)
    kill_after(broken, 1, moments.uniform(0, 1.5), "-m", *settings, *VARIED)
    assert 1 <= done(broken) < CELLS
    filled = done(broken)
    kill_after(broken, filled + 2, moments.uniform(0, 1.5), "-m", *settings, *TURNED)
    assert filled + 2 <= done(broken) < CELLS
    finish(broken, "finetune", "-m", *settings, *VARIED)
    assert done(broken) == CELLS

    (rows, tables), (rows_again, tables_again) = tables_of(whole), tables_of(broken)
    assert len(rows) == CELLS
    assert rows_again == rows
    assert tables_again == tables
    assert "Cells: 8 done, 0 failed, 0 missing, 0 stale" in (broken / "log.txt").read_text()
    subsets = {(row["label_fraction"], row["seed"]): set() for row in rows}
    for row in rows:
        subsets[row["label_fraction"], row["seed"]].add(row["subset_sha256"])
    assert all(len(found) == 1 for found in subsets.values())  # initializations share the subset
    assert len(set.union(*subsets.values())) == 4
