"""Two ranks with half the batch each do what one process does with the whole."""

import json
import multiprocessing
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from gradients_of_ranks import STAGES, gradients
from torch import nn

from ssl_rs import command
from ssl_rs.agreement import Agreement
from ssl_rs.batch_norm import SynchronizedBatchNorm
from ssl_rs.distributed import (
    Processes,
    barrier,
    gather,
    mean_over_ranks,
    others_wait,
    stop,
    sum_over_ranks,
)
from ssl_rs.errors import InputError, InUseError, RefusedElsewhereError, explain
from ssl_rs.run_directory import RunDirectory

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """What two ranks wrote, a file a stage; they are started once for all."""
    folder, script = tmp_path_factory.mktemp("gradients"), Path(__file__).with_name("gradients_of_ranks.py")
    subprocess.run([*TORCHRUN, str(script), str(folder), "8"], check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_have_the_gradients_of_one_process(stage, of_ranks):
    ranks, one = torch.load(of_ranks / f"{stage}.pt"), gradients(stage, 8)
    assert ranks.keys() == one.keys()
    assert len(one) > 60
    for name, value in one.items():
        error = float((ranks[name] - value).norm() / value.norm()) if value.norm() > 1e-9 else float(ranks[name].norm())
        assert error < 1e-4, f"{name}: {error}"
    assert float(ranks["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)


def test_ranks_that_read_different_checkpoints_stop(tmp_path):
    script = str(Path(__file__).with_name("checkpoints_of_ranks.py"))
    subprocess.run([sys.executable, script, str(tmp_path)], check=True, timeout=300)
    checkpoints = sorted(path.read_bytes() for path in (tmp_path / "run/checkpoints").iterdir())
    subprocess.run([*TORCHRUN, script, str(tmp_path)], check=True, capture_output=True, timeout=300)
    said = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "from step 9 and from step 11. Not all of them see the newest one" in said[0]
    assert sorted(path.read_bytes() for path in (tmp_path / "run/checkpoints").iterdir()) == checkpoints


def test_ranks_with_different_metrics_stop_instead_of_waiting_for_each_other(tmp_path):
    script = str(Path(__file__).with_name("checkpoints_of_ranks.py"))
    subprocess.run([*TORCHRUN, script, str(tmp_path), "metrics"], check=True, capture_output=True, timeout=300)
    said = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert "Ranks have different metrics, of which no mean can be taken; rank 0 has gradient_norm, loss, " in said[0]
    assert "rank 1 has far/more, gradient_norm, " in said[1]
    assert list((tmp_path / "run").rglob("*.ckpt")) == []


def test_torchrun_runs_both_stages(tiny):
    overrides = (*tiny, "trainer.batch_size=2")
    done = subprocess.run(
        [*TORCHRUN, "-m", "ssl_rs.pretrain", *overrides], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 2  # what was loaded, and the run: rank 0 alone speaks
    scored = ("evaluation.every_steps=3", "evaluation.split=val")  # by all ranks at once
    done = subprocess.run(
        [*TORCHRUN, "-m", "ssl_rs.finetune", *overrides, "initialization=pretrained", *scored],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = next(Path("outputs/finetune").rglob("result.json"))
    assert (result.parent / "samples.npz").is_file()
    lines = RunDirectory(result.parent).read_metrics()
    told = {line["step"]: line["validation/miou"] for line in lines if "validation/miou" in line}
    assert list(told) == [3, 4]
    assert told[4] == json.loads(result.read_text())["miou"]


def agree(rank, folder, asking, told):
    """Be a rank that asks at one of its calls, and say at which call it hears of it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    agreement, heard, others = Agreement(), [], []
    for call in range(6):
        time.sleep(0.05 * rank)  # one is slower
        stops, other = agreement.any_rank(call == asking and rank == 1, rank == 0 and call == 1)
        heard.append(stops)
        others.append(other)
    told.put((rank, heard, others, any(agreement.settle()[:1])))
    torch.distributed.destroy_process_group()


def answers_of_ranks(rank, *given):
    """Return what two processes that run a function put into the queue that is its last argument."""
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    ranks = [context.Process(target=rank, args=(place, *given, told)) for place in range(2)]
    for process in ranks:
        process.start()
    answers = sorted(told.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    return answers


@pytest.mark.parametrize(("asking", "heard", "rest"), [(2, [3], False), (5, [], True), (9, [], False)])
def test_all_ranks_hear_of_a_request_at_the_next_call(tmp_path, asking, heard, rest):
    answers = answers_of_ranks(agree, tmp_path, asking)
    expected = [call in heard for call in range(6)]
    others = [call == 2 for call in range(6)]  # the other flag, which ends nothing
    assert answers == [(0, expected, others, rest), (1, expected, others, rest)]


def wait_long(rank, folder, told):
    """Be a rank of a group that gives up after a second; the first has more to do than that."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2, timeout=timedelta(seconds=1)
    )
    if rank == 0:
        time.sleep(2.5)
    barrier()
    if rank == 1:
        time.sleep(2.5)
    told.put(sum_over_ranks(torch.tensor([rank + 1])).tolist())
    stop()


def test_ranks_wait_for_one_that_has_more_to_do(tmp_path):
    assert answers_of_ranks(wait_long, tmp_path) == [[3], [3]]


def be_refused(rank, folder, error, told):
    """Be a rank whose first one alone has work, which fails."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    processes, said = Processes(rank, 2), []
    for work in (None, error):
        try:
            with others_wait(processes):
                if rank == 0 and work is not None:
                    raise work
            said.append("done")
        except (InputError, OSError) as refused:
            said.append((type(refused).__name__, explain(refused)))
    told.put((rank, said))
    stop()


@pytest.mark.parametrize("error", [InUseError("run_dir=a is in use."), OSError(28, "No space left on device", "a.npy")])
def test_what_the_first_rank_is_refused_all_are_and_it_alone_says_why(tmp_path, error):
    first, other = answers_of_ranks(be_refused, tmp_path, error)
    assert first == (0, ["done", (type(error).__name__, explain(error))])
    assert other == (1, ["done", ("RefusedElsewhereError", "The first process of this run was refused, and says why.")])


def test_a_rank_that_the_first_one_speaks_for_says_nothing(monkeypatch, capsys):
    def run(name, arguments):
        raise RefusedElsewhereError("The first process of this run was refused, and says why.")

    monkeypatch.setattr(command, "_run", run)
    assert command.main("pretrain", []) == 2
    assert capsys.readouterr().err == ""


def test_one_process_hears_itself_at_once():
    agreement = Agreement()
    assert [agreement.any_rank(flag, not flag) for flag in (False, True)] == [(False, True), (True, False)]
    assert not agreement.settle()


def test_one_process_needs_no_process_group():
    assert Processes.from_environment() == Processes(0, 1, 0)
    rows = torch.rand(2, 3)
    assert gather(rows) is rows
    assert mean_over_ranks(torch.tensor(3)) == 3


def test_synchronized_batch_norm_is_batch_norm_on_one_process():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 5, 5)
    own, reference = SynchronizedBatchNorm(3), nn.BatchNorm2d(3)
    assert torch.equal(own(images), reference(images))
    assert torch.equal(own.running_var, reference.running_var)
