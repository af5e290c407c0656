"""Requests to stop outside of the training loop: a clean end, nothing half-written, and the same command goes on."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_rs.command
from ssl_rs.command import main
from ssl_rs.data.sampling import batches
from ssl_rs.interrupts import signals_end_the_command
from ssl_rs.randomness import Rows
from ssl_rs.run_directory import RunDirectory

pytestmark = pytest.mark.slow


def preparing(folder: Path, num_workers: int) -> tuple[tuple[str, ...], "subprocess.Popen[str]"]:
    """Return the command that prepares 40 scenes, and its process with the first scene done and others to do."""
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    for place in range(40):
        noise = np.random.default_rng(place).integers(1, 256, (400, 400, 3), np.uint8)
        Image.fromarray(noise).save(images / f"scene{place}.png", compress_level=1)
    settings = (f"dataset.root={images.parent}", f"output_dir={folder / 'out'}", f"num_workers={num_workers}")
    command = (sys.executable, "-m", "ssl_rs.prepare", "dataset=folder", *settings)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list((folder / "out").glob("stores/.*.partial/0*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return command, process


def check_interrupted(process: "subprocess.Popen[str]") -> None:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert "Interrupted. Start the same command again to go on from here." in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "num_workers"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_preparing_ends_at_once_and_goes_on(tmp_path, number, num_workers):
    """Every process gets the signal, as by Ctrl-C or from SLURM."""
    command, process = preparing(tmp_path, num_workers)
    os.killpg(process.pid, number)
    check_interrupted(process)
    assert not list((tmp_path / "out" / "stores").glob("[!.]*"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads((Path(done.stdout.strip()) / "manifest.json").read_text())["scenes"]) == 40


def readers_of(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the readers below /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_that_only_readers_hear_ends_preparing_too(tmp_path, number):
    """While readers start, the first process is deaf to it; one that is killed for its memory is another thing."""
    _, process = preparing(tmp_path, 2)
    for reader in readers_of(process):  # one may still be deaf itself
        os.kill(reader, number)
    if number == signal.SIGINT:
        check_interrupted(process)
        return
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "a process that reads scenes was killed, perhaps because the memory ran out" in err
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the readers below /proc")
@pytest.mark.parametrize("which", [0, 1])
def test_ctrl_c_that_one_reader_hears_is_known_whichever_it_is(tmp_path, which):
    """The second starts with the second scene; the other one is ended by the pool, not by Ctrl-C."""
    _, process = preparing(tmp_path, 2)
    readers = readers_of(process)
    assert len(readers) == 2
    while is_deaf(readers[which]):
        time.sleep(0.005)
    os.kill(readers[which], signal.SIGINT)
    check_interrupted(process)


def is_deaf(pid: int) -> bool:
    """Tell whether a process ignores Ctrl-C."""
    (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(ignored, 16) & 1 << (signal.SIGINT - 1))


def test_a_stop_during_the_evaluation_loses_no_training(command, tiny, tmp_path, monkeypatch):
    from ssl_rs.stages.evaluation import Evaluator
    from ssl_rs.training import step as training_step

    run = RunDirectory(tmp_path / "run")
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "predict", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
        code, _, err = command("finetune", *tiny, f"run_dir={run.path}")
    assert code == 130
    assert "Interrupted. Start the same command again" in err
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not run.result.exists()
    monkeypatch.setattr(training_step, "seed_step", lambda *arguments: pytest.fail("it took a step again"))
    code, _, err = command("finetune", *tiny, f"run_dir={run.path}")
    assert code == 0, err
    assert run.read_result()["steps"] == 4


def test_a_stopped_sweep_ends_behind_the_checkpoint_of_its_run(command, tiny, monkeypatch):
    from ssl_rs.training import step as training_step

    sweep = ("-m", *tiny, "pretext=[contrastive]", "views=[clean,transformed]", "seed=0,1")
    seed_step, steps = training_step.seed_step, []

    def asking(seed, step, rank):
        steps.append((seed, step))
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        seed_step(seed, step, rank)

    monkeypatch.setattr(training_step, "seed_step", asking)
    code, out, err = command("pretrain", *sweep)
    assert code == 130
    assert "Stopped after step 2 of 4. The same command goes on from there." in err
    assert "Traceback" not in err
    assert "2 runs, 0 finished before" in out
    (run,) = Path("outputs/pretrain").rglob("config.yaml")  # the second one has not begun
    assert [path.name for path in (run.parent / "checkpoints").iterdir()] == ["step-00000002.ckpt"]
    code, out, err = command("pretrain", *sweep)
    assert code == 0, err
    assert "2 of 2 runs are finished" in out
    assert steps == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]


class Source:
    def batch(self, step, rows):
        time.sleep(0.02)
        return torch.tensor([step])


def test_processes_that_read_batches_outlive_a_request_to_stop():
    """SLURM and torchrun send it to them too; without them the loop could not finish its step."""
    before = set(multiprocessing.active_children())
    found = batches(Source(), 0, 50, Rows(0, 1, 1), num_workers=1)
    assert next(found).item() == 0
    (reader,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(reader.pid, number)
    assert [batch.item() for batch in found] == list(range(1, 50))
    reader.join(10)
    assert not reader.is_alive()


STOPPED_IN_AN_IMPORT = """
import os, signal, sys
from ssl_rs.command import main

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(sys.argv[2]))

signal.signal(signal.SIGINT, signal.default_int_handler)  # behind `&` tests, too, inherit that it is ignored
sys.meta_path.insert(0, Stop())
sys.exit(main("pretrain", sys.argv[3:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["torch.nested", "torch._prims", "torch.distributed", "timm", "ssl_rs.distributed"])
def test_a_stop_during_an_import_is_a_clean_end(tmp_path, number, module):
    """Half of torch cannot be imported once more."""
    call = [sys.executable, "-c", STOPPED_IN_AN_IMPORT, module, str(int(number)), f"output_dir={tmp_path}"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "Interrupted. Start the same command again to go on from here.\n"


CAUGHT_IN_AN_IMPORT = """
import signal
from ssl_rs.interrupts import signals_end_the_command

signal.signal(signal.SIGINT, signal.default_int_handler)
with signals_end_the_command():
    print("begun")
    import careless
    print("gone on")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_is_not_lost_in_an_import_that_catches_all(tmp_path, number):
    text = f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\nexcept BaseException:\n    pass\n"
    (tmp_path / "careless.py").write_text(text)
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-c", CAUGHT_IN_AN_IMPORT], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "begun\n")
    assert done.stderr == "Interrupted. Start the same command again to go on from here.\n"


def test_ctrl_c_that_is_ignored_stays_so():
    """As with nohup, or behind `&` in a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_end_the_command():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_request_that_comes_twice_does_not_disturb_the_end(monkeypatch, capsys):
    """A cluster may send it to the launcher and to the process, which then tidies up."""
    tidied, handlers = [], [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]

    def run(name, arguments):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
            tidied.append(name)

    monkeypatch.setattr(ssl_rs.command, "_run", run)
    assert main("pretrain", []) == 130
    assert tidied == ["pretrain"]
    assert "Interrupted. Start the same command again" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == handlers
