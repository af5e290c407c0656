"""scripts/study_gpu.py: its cells, without running them."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssl_rs.config import compose_config


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "study_gpu", Path(__file__).parent.parent / "scripts" / "study_gpu.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "study_gpu", module)
    spec.loader.exec_module(module)
    return module


def test_cells_have_folders_of_their_own_and_come_after_those_that_they_wait_for(script):
    study, before = script.Study("DATA", "WEIGHTS", Path("out")), []
    for cell in script.cells():
        folder = study.folder(cell)
        assert folder not in before  # else two would write to one
        if cell.start in ("pretrained", "imagenet_first") and cell.given:
            assert study.pretraining("random" if cell.start == "pretrained" else "imagenet", cell.seed) in before
        if cell.given and cell.rate is None:
            assert {study.folder(each) for each in script.choice(cell.start)} <= set(before)
        before.append(folder)
    assert len(before) == 54


def test_cells_are_commands_and_the_rate_is_the_best_on_validation_parts(script, monkeypatch, tmp_path):
    study, called = script.Study("DATA", "WEIGHTS", tmp_path), []
    monkeypatch.setattr("ssl_rs.command.main", lambda *given: called.append(given) or 0)
    for cell, score in zip(script.choice("random"), (0.5, 0.7, 0.6), strict=True):
        study.folder(cell).mkdir(parents=True)
        (study.folder(cell) / "result.json").write_text(f'{{"miou": {score}}}')
    study.run(script.Cell("random", 1, ("label_fraction=2pct",)))
    study.run(script.Cell("imagenet", 2))
    for name, arguments in called:
        compose_config(name, arguments)
    assert [name for name, _ in called] == ["finetune", "pretrain"]
    assert {"optimizer.lr=3e-3", "seed=1", "label_fraction=2pct"} <= set(called[0][1])
    assert "trainer.encoder_lr_factor=0.1" in called[1][1]


def test_who_waits_for_a_cell_that_failed_fails_too(script, monkeypatch, tmp_path):
    monkeypatch.setattr("ssl_rs.command.main", lambda *given: 2)
    monkeypatch.setattr(os, "dup2", lambda *given: None)
    study = script.Study("DATA", "WEIGHTS", tmp_path)
    for name in ("logs", "failed"):
        (tmp_path / name).mkdir()
    cells = [script.Cell("random", 0), next(script.choice("pretrained"))]
    queue = SimpleNamespace(get=iter([*cells, None]).__next__)
    script.work(study, queue)
    assert all(study.failed(study.folder(cell)).exists() for cell in cells)
