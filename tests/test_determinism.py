"""Fresh processes with the same settings make the same weights and metrics, bit for bit."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from killed_runs import SETTINGS, Trial, check_done, differences, write_dataset
from warm import WarmProcess

pytestmark = pytest.mark.slow

EXACT = (*SETTINGS, "trainer=deterministic", "trainer.max_steps=6")


def way_to_start(name):
    """Start one as a shell does, the others warm."""
    return None if name == "one" else WarmProcess


def test_deterministic_runs_are_equal_with_any_number_of_readers(tmp_path):
    write_dataset(tmp_path / "data")
    others = {"one": (), "again": (), "readers": ("trainer.num_workers=2",), "other": ("seed=1",)}
    trials = {
        name: Trial("pretrain", 1, tmp_path / "data", tmp_path / name, (*EXACT, *settings), launch=way_to_start(name))
        for name, settings in others.items()
    }
    started = {name: trial.start() for name, trial in trials.items()}
    for name, process in started.items():
        check_done(trials[name], process.wait(300))
    assert differences(trials["one"], trials["again"]) == []
    assert differences(trials["one"], trials["readers"]) == []
    assert {"encoder.safetensors", "metrics.jsonl", "result.json"} <= set(differences(trials["one"], trials["other"]))


def test_two_starts_of_one_fine_tuning_are_equal(tmp_path):
    """Of two processes `test_resume.test_two_processes` says more: one of its runs is killed on the way."""
    write_dataset(tmp_path / "data")
    one, again = (
        Trial("finetune", 1, tmp_path / "data", tmp_path / name, EXACT, launch=way_to_start(name))
        for name in ("one", "again")
    )
    one.finish()
    again.finish()
    assert differences(one, again) == []
    assert one.run.model.is_file()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_crops_of_scenes_that_lie_on_the_device_are_those_of_the_store(tmp_path, stage):
    write_dataset(tmp_path / "data")
    stored, resident = (
        Trial(stage, 1, tmp_path / "data", tmp_path / where, (*EXACT, f"trainer.resident={where}"), launch=WarmProcess)
        for where in ("never", "always")
    )
    stored.finish()
    resident.finish()
    assert differences(stored, resident) == []
