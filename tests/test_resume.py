"""A run that is killed at any moment and started again ends as the unbroken run does, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ssl_rs.run_directory import TIMING_KEYS, RunDirectory

pytestmark = pytest.mark.slow

STEPS = (
    "trainer.max_steps=14",
    "trainer.checkpoint_every_steps=3",
    "trainer.log_every_steps=2",
    "trainer.batch_size=4",
)


def start(name, processes, overrides, run_dir):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", f"ssl_rs.{name}", *overrides, f"run_dir={run_dir}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(name, processes, overrides, run_dir):
    started = start(name, processes, overrides, run_dir)
    _, err = started.communicate(timeout=300)
    assert started.returncode == 0, err


def kill_after(lines, name, processes, overrides, run):
    """Start the run and SIGKILL all its processes as soon as metrics.jsonl has so many lines."""
    started = start(name, processes, overrides, run.path)
    deadline = time.monotonic() + 200
    while len(run.metrics.read_text().splitlines() if run.metrics.is_file() else []) < lines:
        assert started.poll() is None, started.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not run.result.exists()


def without_timing(run):
    return [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in run.read_metrics()]


def assert_equal_tensors(first: Path, second: Path):
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_a_killed_pretraining_ends_as_the_unbroken_one(tiny, tmp_path, processes):
    overrides = (*tiny, *STEPS)
    broken, whole = RunDirectory(tmp_path / "broken"), RunDirectory(tmp_path / "whole")
    kill_after(2, "pretrain", processes, overrides, broken)
    kill_after(4, "pretrain", processes, overrides, broken)
    finish("pretrain", processes, overrides, broken.path)
    finish("pretrain", processes, overrides, whole.path)
    assert_equal_tensors(broken.encoder, whole.encoder)
    assert without_timing(broken) == without_timing(whole)
    assert [line["step"] for line in broken.read_metrics()] == [2, 4, 6, 8, 10, 12, 14]
    assert broken.read_result()["encoder_sha256"] == whole.read_result()["encoder_sha256"]


def test_a_killed_finetuning_ends_as_the_unbroken_one(tiny, tmp_path):
    overrides = (*tiny, *STEPS, "label_fraction=20pct", "trainer.num_workers=1")
    broken, whole = RunDirectory(tmp_path / "broken"), RunDirectory(tmp_path / "whole")
    kill_after(3, "finetune", 1, overrides, broken)
    finish("finetune", 1, overrides, broken.path)
    finish("finetune", 1, (*overrides, "trainer.num_workers=0"), whole.path)
    assert_equal_tensors(broken.model, whole.model)
    assert without_timing(broken) == without_timing(whole)
    assert broken.read_result()["confusion"] == whole.read_result()["confusion"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_saves_a_checkpoint_and_exits_with_130(tiny, tmp_path, number):
    overrides = (*tiny, *STEPS, "trainer.max_steps=1000", "trainer.checkpoint_every_steps=1000")
    run = RunDirectory(tmp_path / "run")
    started = start("pretrain", 1, overrides, run.path)
    while not run.metrics.is_file():
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.05)
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "The same command goes on from there" in err
    assert len(list(run.checkpoints.glob("step-*.ckpt"))) == 1
    assert "Traceback" not in err
