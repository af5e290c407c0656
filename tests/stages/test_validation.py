"""Validation scenes scored while a network trains: the same scores as afterwards, and the same weights as without."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from official_sets import write_mbrsc
from PIL import Image
from safetensors.torch import load_file

from ssl_rs.run_directory import RunDirectory
from ssl_rs.training import loop, progress

EVERY = "evaluation.every_steps"


@pytest.fixture
def finetune(command, tiny):
    """Fine-tune for 6 steps with further settings; the run's folder and what was told."""

    def run(name, *arguments):
        given = ("trainer.max_steps=6", "trainer.log_every_steps=4", "trainer.checkpoint_every_steps=4")
        code, out, err = command("finetune", *tiny, *given, f"run_dir={name}", *arguments)
        assert code == 0, err
        return RunDirectory(Path(out.strip().splitlines()[-1])), err

    return run


def scores(run):
    """What metrics.jsonl says of validation, by the step."""
    return {
        line["step"]: {key: value for key, value in line.items() if key.startswith("validation/")}
        for line in run.read_metrics()
        if any(key.startswith("validation/") for key in line)
    }


def test_the_last_score_is_that_of_the_result_and_no_weight_changes(finetune):
    plain, _ = finetune("plain", "evaluation.split=val")
    scored, told = finetune("scored", "evaluation.split=val", f"{EVERY}=3")
    assert list(scores(scored)) == [3, 6]
    result = scored.read_result()
    last = scores(scored)[6]
    assert last["validation/miou"] == result["miou"]
    assert last["validation/overall_accuracy"] == result["overall_accuracy"]
    assert {key.split("/")[2]: value for key, value in last.items() if "/iou/" in key} == result["class_iou"]
    assert f"validation mIoU {100 * result['miou']:.1f} %" in told
    before, after = (load_file(run.model) for run in (plain, scored))
    assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)
    assert plain.read_result()["config_hash"] == result["config_hash"]
    assert scores(plain) == {}


def test_test_scenes_stay_the_result(finetune):
    scored, _ = finetune("scored", f"{EVERY}=4")
    result = scored.read_result()
    assert result["split"] == "test"
    assert scores(scored)[6]["validation/miou"] != result["miou"]


def test_a_run_that_was_stopped_tells_the_same_scores(finetune, command, tiny, monkeypatch):
    whole, _ = finetune("whole", f"{EVERY}=2")
    take_step = loop.take_step

    def interrupted(module, crops, job, progress, bad_steps):
        take_step(module, crops, job, progress, bad_steps)
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "take_step", interrupted)
    given = ("trainer.max_steps=6", "trainer.log_every_steps=4", f"{EVERY}=2", "run_dir=parts")
    assert command("finetune", *tiny, *given)[0] != 0
    monkeypatch.setattr(loop, "take_step", take_step)
    parts, _ = finetune("parts", f"{EVERY}=2")
    assert list(scores(whole)) == [2, 4, 6]
    assert scores(parts) == scores(whole)


def test_a_finished_run_says_that_nothing_of_it_is_scored(finetune):
    finetune("plain")
    run, told = finetune("plain", f"{EVERY}=2")
    assert f"{EVERY} has no effect on a finished run. run_dir=NEW_FOLDER trains again." in told
    assert scores(run) == {}


def test_a_bar_keeps_the_last_score(monkeypatch):
    bar = progress._Bar(0, 8)
    told = []
    monkeypatch.setattr(bar.progress, "update", lambda task, description: told.append(description))
    line = {"loss": 1.5, "images_per_second": 3.0}
    bar.line(2, line)
    bar.scoring()
    bar.line(4, line | {"validation/miou": 0.25})
    bar.line(6, line)
    bar.close()
    plain = "loss 1.5 | 3.0 images/s"
    scored = f"{plain} | validation mIoU 25.0 % at 4"
    assert told == [plain, "scoring validation scenes", scored, scored]


@pytest.mark.parametrize("value", ["0", "-5"])
def test_less_than_one_step_is_refused(command, tiny, value):
    code, _, err = command("finetune", *tiny, f"{EVERY}={value}")
    assert code == 2
    assert f"{EVERY}={value}: expected at least 1, or null for never." in err


def test_without_validation_scenes_it_is_refused_before_training(command, tiny, tmp_path):
    given = Path(json.loads(tiny[1].removeprefix("dataset.root=")))
    root = tmp_path / "mine"
    for kind in ("images", "masks"):
        for split in ("train", "test"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            (root / kind / split).symlink_to(given / kind / split)
    (root / "classes.yaml").symlink_to(given / "classes.yaml")
    code, out, err = command("finetune", tiny[0], f"dataset.root={root}", *tiny[2:], f"{EVERY}=2")
    assert (code, out) == (2, "")
    assert f"{EVERY}=2: folder has no validation scenes to score. Leave it out, or prepare the data with" in err
    assert "with such a split: in splits.yaml, in images/val, or by dataset.val_share." in err


def test_the_setting_of_a_data_set_that_makes_validation_scenes_is_named(command, tiny, tmp_path):
    write_mbrsc(tmp_path / "data")
    given = ("dataset=mbrsc", "dataset.root=data", *tiny[2:])
    code, out, err = command("finetune", *given, f"{EVERY}=2")
    assert (code, out) == (2, "")
    assert f"{EVERY}=2: mbrsc has no validation scenes to score. Leave it out, or set dataset.val_parts=[8]." in err
    _, _, err = command("finetune", *given, "evaluation.split=val")
    assert "mbrsc has no such scenes. Choose evaluation.split=test, or set dataset.val_parts=[8]." in err
    _, _, err = command(
        "evaluate", "encoder=random", "probe=knn", "backbone=resnet18", *given[:3], "evaluation.split=val"
    )
    assert "mbrsc has no such scenes. Choose evaluation.split=test, or set dataset.val_parts=[8]." in err


def test_validation_scenes_without_labels_are_refused_before_training(command, tiny, tmp_path):
    root = tmp_path / "mine"
    shutil.copytree(json.loads(tiny[1].removeprefix("dataset.root=")), root)
    classes = root / "classes.yaml"
    classes.write_text(classes.read_text() + "ignore: [9]\n")
    Image.fromarray(np.full((96, 96), 9, np.uint8)).save(root / "masks/val/scene4.png")
    code, out, err = command("finetune", tiny[0], f"dataset.root={root}", *tiny[2:], f"{EVERY}=2")
    assert (code, out) == (2, "")
    assert f"{EVERY}=2: no validation scene of folder has a labeled pixel that counts by dataset.protocol=all_" in err
