"""Runs that are killed or asked to stop at any moment and started again end as those that were left alone, bit for bit.

`scripts/kill_test.py` does the same at many random moments.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from killed_runs import SETTINGS, Moment, Trial, differences, family, kill_at, wait_for_end, write_dataset
from warm import WarmProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc"),
]

SHORT = (*SETTINGS, "backbone=mobilenet_v2", "trainer.max_steps=9")


@pytest.fixture
def trials(tmp_path):
    """Return a run that was left alone, and one to be killed, of a stage and a number of processes."""
    write_dataset(tmp_path / "data")

    def make(stage, processes, settings=()):
        whole = Trial(stage, processes, tmp_path / "data", tmp_path / "whole", (*SHORT, *settings))
        whole.finish()
        settings = (*whole.settings, "trainer.num_workers=1")
        return whole, replace(whole, folder=tmp_path / "broken", settings=settings, launch=WarmProcess)

    return make


def stop_at_line(trial, number, everybody):
    """Start the run, send a signal as soon as there is a line more, and return the exit code."""
    lines, process = len(trial.run.read_metrics()), trial.start()
    deadline = time.monotonic() + 200
    while len(trial.run.read_metrics()) <= lines:
        assert process.poll() is None, trial.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    members = list(family(process.pid))
    for pid in members if everybody else members[:1]:
        os.kill(pid, number)
    code = process.wait(60)
    wait_for_end(members)
    return code


def newest_checkpoint(trial):
    return max(int(path.stem.removeprefix("step-")) for path in trial.run.checkpoints.glob("step-*.ckpt"))


def test_one_process(trials):
    whole, broken = trials("pretrain", 1)
    assert kill_at(broken, Moment("store", 0)) == "preparing"
    assert kill_at(broken, Moment("checkpoint", 0)) == "writing a checkpoint"
    # As SLURM does: every process gets the signal, also the one that reads batches.
    assert stop_at_line(broken, signal.SIGTERM, everybody=True) == 130
    said = broken.log.read_text()
    assert "Traceback" not in said
    assert f"Stopped after step {newest_checkpoint(broken)} of 9. The same command goes on from there." in said
    assert kill_at(broken, Moment("result", 0)) is not None
    broken.finish()
    assert differences(whole, broken) == []


def test_one_process_and_wandbs(trials):
    """wandb, the default logger, has a process of its own, which hears the signal too and is gone before the run."""
    offline = ("logger=wandb", "logger.mode=offline")
    whole, broken = trials("pretrain", 1, offline)
    assert stop_at_line(broken, signal.SIGTERM, everybody=True) == 130
    said = broken.log.read_text()
    assert "Traceback" not in said
    assert f"Stopped after step {newest_checkpoint(broken)} of 9. The same command goes on from there." in said
    broken.finish()
    assert [name for name in differences(whole, broken) if not name.startswith("wandb/")] == []


def test_momentum_networks_and_queues(trials):
    methods = (
        "pretext=[byol,dense_contrastive]", "pretext.dense_contrastive.task.queue=10",
        "pretext.dense_contrastive.task.momentum.start=0.97", "pretext.dense_contrastive.task.momentum.final=1.0",
        *(f"pretext.{task}.task.widths=[16,8]" for task in ("byol", "dense_contrastive")),
        "pretext.byol.task.predictor_widths=[16]",
    )  # fmt: skip
    whole, broken = trials("pretrain", 1, methods)
    assert kill_at(broken, Moment("checkpoint", 0.02)) is not None
    assert kill_at(broken, Moment("checkpoint", 0)) is not None
    broken.finish()
    assert differences(whole, broken) == []


def test_fine_tuning(trials):
    whole, broken = trials("finetune", 1, ("trainer.encoder_lr_factor=0.25",))  # two groups of parameters
    assert kill_at(broken, Moment("checkpoint", 0.02)) is not None
    assert stop_at_line(broken, signal.SIGUSR1, everybody=True) == 130
    assert "Traceback" not in broken.log.read_text()
    assert kill_at(broken, Moment("weights", 0)) is not None
    broken.finish()
    assert differences(whole, broken) == []


@pytest.mark.distributed
def test_two_processes(trials):
    whole, broken = trials("pretrain", 2)
    assert kill_at(broken, Moment("checkpoint", 0, "a rank")) is not None
    # torchrun hands the signal on, and kills after 30 seconds.
    assert stop_at_line(broken, signal.SIGTERM, everybody=False) == 1
    assert f"Stopped after step {newest_checkpoint(broken)} of 9" in broken.log.read_text()
    assert kill_at(broken, Moment("checkpoint", 0, "torchrun")) is not None  # its ranks end, too
    broken.finish()
    assert differences(whole, broken) == []
