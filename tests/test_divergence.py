"""Whole runs whose numbers go bad: what they say, what they keep, and that no rank is left waiting."""

import re
import subprocess
import sys
import time
import warnings

import pytest
from safetensors.torch import load_file

from ssl_rs.run_directory import TIMING_KEYS, RunDirectory
from ssl_rs.stages import pretraining_result
from ssl_rs.training import step as training_step

pytestmark = pytest.mark.slow

DIVERGING = ("optimizer.lr=1e30", "schedule=constant", "trainer.checkpoint_every_steps=1", "trainer.max_steps=9")


def own(task):
    """Overrides that make a task of own_tasks.py the only one."""
    node = f"+pretext.own={{task:{{_target_:own_tasks.{task},_partial_:true}},weight:1}}"
    return ("views=[clean]", "pretext=[contrastive]", "~pretext.contrastive", node, "trusted_packages=[own_tasks]")


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def steps_of_checkpoints(run):
    return sorted(int(path.stem.removeprefix("step-")) for path in run.checkpoints.iterdir())


def without_timing(run):
    return [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in run.read_metrics()]


def check_diverged(run, said, ranks):
    """Check the message; its crops of every rank and the checkpoint before the step must be there."""
    found = re.search(r"(?m)^(loss/.*) stopped being finite at step (\d+): the run diverged.*optimizer\.lr", said)
    assert found, said
    assert set(re.findall(r"loss/(\w+)", found[1])) <= {"inpainting", "transform_prediction", "contrastive"}
    step = int(found[2])
    crops = sorted(path.name for path in (run.path / "not_finite").iterdir())
    assert crops == [f"step-{step - 1:08d}-rank-{rank}.safetensors" for rank in range(ranks)]
    assert load_file(run.path / "not_finite" / crops[0])["crops.0"].shape == (4, 3, 32, 32)
    assert steps_of_checkpoints(run)[-1] == step - 1
    assert not run.result.exists()


def test_a_diverging_run_names_task_and_step_and_keeps_what_was_good(command, tiny, run):
    code, _, err = command("pretrain", *tiny, *DIVERGING, f"run_dir={run.path}")
    assert code == 2
    assert "Traceback" not in err
    check_diverged(run, err, ranks=1)


@pytest.mark.distributed
def test_no_rank_of_a_diverging_run_waits_for_the_others(tiny, run):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ssl_rs.pretrain")
    overrides = (*tiny, *DIVERGING, f"run_dir={run.path}")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *torchrun, *overrides], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1  # torchrun's own
    assert time.monotonic() - started < 200
    assert "exitcode  : 2" in done.stderr
    check_diverged(run, done.stderr, ranks=2)


@pytest.mark.filterwarnings("ignore:.*was left out")
def test_left_out_steps_survive_a_restart(command, tiny, tmp_path, monkeypatch):
    settings = (*tiny, *own("Poison"), "trainer.max_skipped_steps=9", "trainer.max_steps=12")
    whole, broken = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "broken")
    assert command("pretrain", *settings, f"run_dir={whole.path}")[0] == 0
    skipped = [line.get("skipped_steps", 0) for line in whole.read_metrics()]
    assert 0 < skipped[2] < skipped[-1] < 9

    def killed(seed, step, rank):
        if step == 8:
            raise KeyboardInterrupt
        seed_step(seed, step, rank)

    seed_step = training_step.seed_step
    monkeypatch.setattr(training_step, "seed_step", killed)
    often = (*settings, "trainer.checkpoint_every_steps=6", f"run_dir={broken.path}")
    assert command("pretrain", *often)[0] == 130
    monkeypatch.setattr(training_step, "seed_step", seed_step)
    assert command("pretrain", *often)[0] == 0
    assert without_timing(broken) == without_timing(whole)
    assert broken.encoder.read_bytes() == whole.encoder.read_bytes()


def test_without_leave_to_skip_the_first_bad_batch_ends_the_run(command, tiny, run):
    code, _, err = command("pretrain", *tiny, *own("Poison"), "trainer.max_steps=12", f"run_dir={run.path}")
    assert code == 2
    assert re.search(r"loss/own and the norm of the gradient stopped being finite at step \d+: ", err)
    assert "trainer.max_skipped_steps" in err


COLLAPSING = (
    "optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.lr=0.1", "optimizer.weight_decay=9",
    "schedule=constant", "trainer.log_every_steps=1", "trainer.max_steps=8",
)  # fmt: skip


def test_a_provoked_collapse_stops_the_run_where_that_is_wanted(command, tiny, run):
    settings = (*tiny, *own("Pull"), *COLLAPSING, "trainer.checkpoint_every_steps=2", f"run_dir={run.path}")
    code, _, err = command("pretrain", *settings, "trainer.on_collapse=stop")
    assert code == 2
    step = int(re.search(r"have collapsed at step (\d+): for 3 lines", err)[1])
    assert "trainer.on_collapse=warn goes on all the same" in err
    lines = run.read_metrics()
    assert lines[-1]["step"] == step < 8
    assert lines[0]["collapse/feature_std"] > 0.3
    assert all(line["collapse/feature_std"] < 0.02 for line in lines[-3:])
    assert step - 2 <= steps_of_checkpoints(run)[-1] < step
    assert not run.result.exists()

    with pytest.warns(
        UserWarning, match=f"have collapsed at step {step}:"
    ) as told:  # the same command, but for the key
        code, _, err = command("pretrain", *settings)
    assert code == 0, err
    assert len(told) == 2  # while it trains, and of what it leaves behind
    assert "The deepest features of 128 training crops are nearly equal" in str(told[1].message)
    assert [line["step"] for line in run.read_metrics()] == list(range(1, 9))
    assert run.read_result()["collapse"]["feature_std"] < 0.02


def test_few_steps_end_with_a_line_and_no_warning(command, tiny, run, monkeypatch):
    monkeypatch.setattr(pretraining_result, "collapse_measures", lambda features: {"feature_std": 0.001})
    few = (*tiny, "trainer.max_steps=2", "trainer.log_every_steps=1", f"run_dir={run.path}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The deepest features")
        code, _, err = command("pretrain", *few)
    assert code == 0, err
    assert "2 steps do not settle BatchNorm's statistics" in err
    monkeypatch.setattr(pretraining_result, "SETTLED", 2)
    with pytest.warns(UserWarning, match="The deepest features"):
        assert command("pretrain", *few, "seed=5", f"run_dir={run.path}_settled")[0] == 0
