"""Two processes on one run or store: the second is told who holds it; what a dead one held is free."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_rs.locks import hold, holder
from ssl_rs.run_directory import RunDirectory

pytestmark = pytest.mark.slow

ENDLESS = ("trainer.max_steps=100000", "trainer.checkpoint_every_steps=100000")

SLOW_PREPARE = """
import sys, time
from ssl_rs.command import main
from ssl_rs.data import workers

write = workers.write_scene

def slow(*arguments):
    time.sleep(1 if arguments[1] < 2 else 100)
    return write(*arguments)

workers.write_scene = slow
sys.exit(main("prepare", sys.argv[1:]))
"""

SLOW_SCORES = """
import sys, time
from ssl_rs.command import main
from ssl_rs.stages.evaluation import Evaluator

Evaluator.score = lambda *arguments: time.sleep(100)
sys.exit(main("evaluate", sys.argv[1:]))
"""


def started(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        env=environment, text=True,
    )  # fmt: skip


def wait_for(condition, process):
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def kill(process):
    """Kill a process and, since torchrun gives each a session of its own, those it started."""
    for pid in (process.pid, *children(process)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


def test_a_run_is_held_until_its_process_dies(quick, tmp_path, command, fails, ends_as_whole):
    run = RunDirectory(tmp_path / "run")
    overrides = (*quick, f"run_dir={run.path}", f"store_dir={tmp_path / 'stores'}")
    first = started("-m", "ssl_rs.pretrain", *overrides, *ENDLESS)
    try:
        wait_for(run.metrics.is_file, first)
        before = run.config.read_bytes()
        said = fails("pretrain", *overrides)
        assert f"{run.path} is in use by process {first.pid} on {os.uname().nodename} since 20" in said
        assert "choose another run_dir" in said
        assert run.config.read_bytes() == before
    finally:
        kill(first)
    assert f"process {first.pid} " in (run.path / ".lock").read_text()
    assert command("pretrain", *overrides)[0] == 0
    ends_as_whole(run)


@pytest.mark.distributed
def test_ranks_that_find_the_run_held_end_with_one_message(quick, tmp_path):
    run = RunDirectory(tmp_path / "run")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ssl_rs.pretrain")
    with run.lock():
        ranks = started(*torchrun, *quick, f"run_dir={run.path}", f"store_dir={tmp_path / 'stores'}")
        _, err = ranks.communicate(timeout=200)
    assert ranks.returncode != 0
    own = err.partition("torch/distributed/elastic")[0]  # what torchrun itself says comes last
    assert own.count(f"is in use by process {os.getpid()} ") == own.count("is in use by process ") == 1
    assert "Traceback" not in own
    assert not run.metrics.exists()


@pytest.mark.parametrize("kind", ["run", "encoder"])
def test_scores_are_held_until_their_process_dies(tmp_path, command, fails, tuned, folder_dataset, kind):
    folder = tmp_path / "scores"
    stores, data = tuned.path.parent / "stores", f"dataset.root={json.dumps(str(folder_dataset))}"
    chosen = {
        "run": (f"run={tuned.path}", "evaluation.window.size=32"),
        "encoder": (
            "encoder=random", "backbone=mobilenet_v2", "probe=knn", "dataset=folder", "dataset.crop_size=32", data,
        ),
    }  # fmt: skip
    overrides = (*chosen[kind], f"store_dir={stores}", f"run_dir={folder}", f"output_dir={tmp_path}")
    first = started("-c", SLOW_SCORES, *overrides)
    try:
        wait_for((folder / "environment.json").is_file, first)
        said = fails("evaluate", *overrides)
        assert f"{folder} is in use by process {first.pid} on {os.uname().nodename} since 20" in said
        assert "choose another run_dir" in said
    finally:
        kill(first)
    half = folder / ".samples.npz.1.partial"
    half.write_bytes(b"half")
    assert command("evaluate", *overrides)[0] == 0
    assert not half.exists()
    assert json.loads((folder / "result.json").read_text())["command"] == "evaluate"


def test_a_store_is_prepared_by_one_process_and_goes_on_after_its_death(quick, tmp_path, command, fails, tuned):
    folder = tmp_path / "stores"
    given = (*quick[:2], f"store_dir={folder}")
    first = started("-c", SLOW_PREPARE, *given, "num_workers=0")
    try:
        wait_for(lambda: list(folder.glob(".*.partial/00001.json")), first)
        said = fails("prepare", *given)
        assert f"is in use by process {first.pid} on {os.uname().nodename} since 20" in said
        assert "prepare it into another store_dir" in said
    finally:
        kill(first)
    (aside,) = folder.glob(".*.partial")
    kept = {path.name: path.stat().st_ino for path in aside.glob("0000[01]_*.npy")}
    assert len(kept) == 4
    store = Path(command("prepare", *given)[1].strip())
    assert {name: (store / name).stat().st_ino for name in kept} == kept
    (other,) = (tuned.path.parent / "stores").glob("folder-*")
    assert (store / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


@pytest.mark.parametrize("left", ["", "process 1 on elsewhere since 2020-01-01 00:00:00", "x" * 5000, "\0"])
def test_a_lock_file_that_nobody_holds_is_taken_over_whatever_stands_in_it(tmp_path, left):
    path = tmp_path / ".lock"
    path.write_text(left)
    with hold(path, "it", "wait"):
        content = path.read_text()
        assert content.startswith(f"process {os.getpid()} on {os.uname().nodename} since 20")
        assert len(content) < 200
    assert path.exists()


def test_who_waits_for_a_store_holds_the_lock_that_a_third_one_finds(tmp_path):
    """Were the file deleted by who held it, one who waits and one who comes later would each hold a file of its own."""
    code = "import sys; from pathlib import Path; from ssl_rs.locks import hold; print(1, flush=True); "
    code += "held = hold(Path(sys.argv[1]), 'it', 'wait', wait=True); print(2, flush=True); input()"
    from ssl_rs.data.prepare import _held
    from ssl_rs.errors import InputError

    lock = tmp_path / ".store.lock"
    with _held(tmp_path / "store", wait=False):
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert waiting.stdout.readline() == "1\n"
        time.sleep(0.2)
    assert waiting.stdout.readline() == "2\n"
    with pytest.raises(InputError, match=f"in use by process {waiting.pid}"), _held(tmp_path / "store", wait=False):
        pass
    waiting.communicate("\n")


def test_who_only_looks_stops_nobody(tmp_path):
    """One process asks in a loop who holds the lock, while this one takes it again and again."""
    code = "import sys; from pathlib import Path; from ssl_rs.locks import holder; print(1, flush=True)\n"
    code += "while True: holder(Path(sys.argv[1]))"
    lock = tmp_path / ".lock"
    lock.touch()
    with subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE, text=True) as looking:
        try:
            assert looking.stdout.readline() == "1\n"
            for _ in range(300):
                hold(lock, "it", "wait").close()
        finally:
            looking.kill()
    with hold(lock, "it", "wait"):
        assert holder(lock).startswith(f"process {os.getpid()} on ")
