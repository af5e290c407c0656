"""Which run a config is: what makes it another one, and when it is finished."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.data.folder import Folder
from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.initialization import Provenance
from ssl_rs.randomness import Rows
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.sliding_window import WindowSettings
from ssl_rs.stages.environment import git_commit
from ssl_rs.stages.evaluate_run import _identify_scores
from ssl_rs.stages.evaluation import EvaluationSettings
from ssl_rs.stages.finetuning_plan import place
from ssl_rs.stages.finetuning_plan import read_plan as finetuning
from ssl_rs.stages.identified import Identified, changed_settings, identify, unavailable
from ssl_rs.stages.pretraining_plan import read_plan as pretraining
from ssl_rs.stages.probing import read_plan as probing
from ssl_rs.stages.site import Site


def test_the_commit_of_a_run_is_that_at_its_start(monkeypatch):
    commits = iter(["a" * 40, "b" * 40])
    git_commit.cache_clear()
    answers = {"ls-files": lambda: "", "rev-parse": lambda: next(commits), "status": lambda: "", "diff": lambda: ""}
    monkeypatch.setattr(
        subprocess, "run", lambda command, **how: SimpleNamespace(stdout=answers[command[1]](), returncode=0)
    )
    assert git_commit() == git_commit() == "a" * 40
    git_commit.cache_clear()


def test_a_key_that_came_later_is_no_difference_to_a_run_before_it():
    before = {"trainer": {"max_steps": 5}}
    assert changed_settings(before, {"trainer": {"max_steps": 6, "encoder_lr_factor": 1.0}}) == [
        "trainer.max_steps was 5, is 6"
    ]
    assert changed_settings(before, {"trainer": {"max_steps": 5, "encoder_lr_factor": 0.1}}) == [
        "trainer.encoder_lr_factor was 1.0, is 0.1"
    ]


def test_of_many_settings_that_differ_the_first_are_told(tmp_path):
    run = RunDirectory(tmp_path)
    run.result.write_text(
        json.dumps({"command": "finetune", "config_hash": "a", "settings": {f"key{place}": 0 for place in range(9)}})
    )
    settings = {f"key{place}": 1 for place in range(9)}
    with pytest.raises(InputError, match="key3 was 0, is 1; key4 was 0, is 1 and 4 more") as told:
        Identified(run, "b", settings, ()).is_finished("finetune")
    assert "key5" not in str(told.value)


@pytest.mark.parametrize(("command", "read_plan"), [("finetune", finetuning), ("pretrain", pretraining)])
def test_the_batch_of_all_processes_makes_another_run_and_another_row(tiny, monkeypatch, command, read_plan):
    def hashes(processes):
        monkeypatch.setattr(Site, "rows", property(lambda site: Rows.of_rank(0, processes, site.trainer.batch_size)))
        plan = read_plan(Settings(command, resolve(compose_config(command, [*tiny, "trainer.device=cpu"]))))
        return plan.run.hash, plan.settings_hash

    one, two, again = map(hashes, (1, 2, 1))
    assert one == again
    assert not {*one} & {*two}


@pytest.fixture
def hashes_of(tiny):
    """The hash of a run, and that of what a row has in common."""

    def make(command, *overrides):
        settings = Settings(command, resolve(compose_config(command, [*tiny[:2], "trainer.device=cpu", *overrides])))
        plan = {"finetune": finetuning, "pretrain": pretraining, "evaluate": probing}[command](settings)
        return plan.run.hash, plan.settings_hash

    return make


@pytest.mark.parametrize(
    ("command", "change", "same_run", "same_row"),
    [
        ("pretrain", "dataset.tile_size=48", True, True),  # no label is read
        ("pretrain", "seed=1", False, True),
        ("pretrain", "dataset.crop_size=64", False, False),
        ("finetune", "dataset.transductive=true", True, True),  # no pretraining is here
        ("finetune", "seed=1", False, True),
        ("finetune", "label_fraction=50pct", False, True),
        ("finetune", "dataset.tile_size=48", False, False),
    ],
)
def test_what_a_table_varies_makes_another_run_of_one_row(hashes_of, command, change, same_run, same_row):
    before, after = hashes_of(command, "dataset.crop_size=32"), hashes_of(command, "dataset.crop_size=32", change)
    assert [one == other for one, other in zip(before, after, strict=True)] == [same_run, same_row]


def test_probes_of_other_seeds_and_backbones_are_others(hashes_of):
    """Random weights have no file that tells two encoders apart."""
    given = ("encoder=random", "probe=linear", "evaluation.window.size=32", "backbone=resnet18")
    found = [hashes_of("evaluate", *given, *more) for more in ((), ("seed=1",), ("backbone=resnet34",))]
    assert len({run for run, _ in found}) == 3
    assert found[0][1] == found[1][1] != found[2][1]


@pytest.fixture
def identified(tmp_path):
    """The run of some settings on stand-ins for data and weights."""

    def make(data="data", dtype="uint8", scale=255.0, kind="pretrained", source="ImageNet", inputs="", **weights):
        values = {"trainer": {"max_steps": 5, "device": "cpu"}, "optimizer": {"lr": 0.1, "_partial_": True}, "own": 1}
        manifest = SimpleNamespace(sha256=data, dtype=dtype, value_scale=scale)
        site = SimpleNamespace(
            store=SimpleNamespace(manifest=manifest), rows=Rows(0, 2, 2), output_dir=tmp_path, seed=3
        )
        found = Provenance(kind, "x", None, **{"sha256": "weights", **weights}, statistics=Statistics((), (), source))
        recipe = SimpleNamespace(starts_from=lambda site: found, run_dir=None)
        settings = SimpleNamespace(values=values, trusted=(), overrides=())
        return identify(settings, site, recipe, Path("kind"), {"labels": inputs}, ("own",))

    return make


def test_data_weights_and_labels_that_go_in_make_another_run(identified):
    changes = ({"data": "others"}, {"sha256": "others"}, {"decoder_sha256": "its"}, {"inputs": "others"})
    assert len({identified(**change).hash for change in ({}, *changes)}) == 5
    run = identified()
    assert run.directory.path.name == f"seed3-{run.hash}"
    assert run.directory.path.parent.name == "kind"
    assert run.settings == {"trainer.max_steps": 5, "optimizer.lr": 0.1}


@pytest.mark.parametrize(
    ("kind", "dtype", "scale", "same"),
    [
        ("imagenet", "uint8", 255.0, True),
        ("imagenet", "uint8", 100.0, False),
        ("imagenet", "uint16", 100.0, True),
        ("pretrained", "uint8", 100.0, True),
    ],
)
def test_imagenets_weights_of_8_bits_in_another_scale_are_told_by_their_statistics(
    identified, kind, dtype, scale, same
):
    """Earlier versions normalized those alone by others; every other run stays what it was."""
    found = [identified(dtype=dtype, scale=scale, kind=kind, source=source).hash for source in ("ImageNet", "the data")]
    assert (found[0] == found[1]) == same


def test_weights_that_are_not_there_yet_are_known_by_what_names_them():
    def named(**node):
        return unavailable(SimpleNamespace(values={"initialization": node}))

    found = [named(), named(run=None, weights=None), named(run="a"), named(run="b"), named(weights="c")]
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_a_planned_cell_whose_weights_are_not_there_yet_is_called_by_what_names_them(tiny):
    labels = []
    for more in (("initialization.label=mine",), ()):
        given = (*tiny, "trainer.device=cpu", "initialization=pretrained", "initialization.run=outputs/later", *more)
        _, row = place(Settings("finetune", resolve(compose_config("finetune", list(given)))))()
        assert row["waits_for_weights"]
        labels.append(row["label"])
    assert labels == ["mine", "outputs/later"]


def test_scores_on_other_data_than_the_run_was_trained_on_are_others(tmp_path):
    """Earlier versions took them for scores on its own."""
    store = SimpleNamespace(manifest=SimpleNamespace(sha256="scored"))
    data = SimpleNamespace(name="city", scene_group=None)
    site = SimpleNamespace(store=store, dataset=data, precision="fp32", output_dir=tmp_path)
    evaluation = EvaluationSettings("test", WindowSettings(32), data)

    def hash_of(trained_on):
        trained = {"config_hash": "a", "model_sha256": "b", "manifest_sha256": trained_on}
        return _identify_scores(RunDirectory(tmp_path), trained, site, evaluation, None, ()).hash

    assert hash_of("scored") == hash_of("scored") != hash_of("other")


def test_what_differs_is_told_of_settings_that_count():
    before = {"trainer": {"max_steps": 5, "device": "cpu"}, "initialization": {"parts": "encoder"}, "logger": {"a": 1}}
    assert (
        changed_settings(before, {"trainer": {"max_steps": 5, "device": "cuda"}, "initialization": {"parts": None}})
        == []
    )
    assert changed_settings(before, before | {"seed": 0}) == ["seed was not set, is 0"]


def finished(path, **more):
    """A finished fine-tuning and what it is known by."""
    run = RunDirectory(path)
    run.result.write_text(json.dumps({"command": "finetune", "config_hash": "aa", **more}))
    return run, Identified(run, "aa", {}, ())


def test_a_finished_run_loses_what_a_kill_behind_its_result_left(tmp_path):
    run, known = finished(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / "step-00000002.ckpt").touch()
    run.failure.write_text("{}")
    assert known.is_finished("finetune")
    assert not run.checkpoints.exists()
    assert not run.failure.exists()


@pytest.mark.parametrize("name", ["encoder", "decoder", "model"])
def test_weights_of_a_finished_run_that_are_gone_are_told_and_damaged_ones_refused(tmp_path, capsys, name):
    path = getattr(RunDirectory(tmp_path), name)
    path.write_bytes(b"whole")
    _, known = finished(tmp_path, **{f"{name}_sha256": sha256_of(path)})
    assert known.is_finished("finetune")
    assert "missing" not in capsys.readouterr().err
    path.write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{path.name} is not the file that its result\.json names"):
        known.is_finished("finetune")
    path.unlink()
    assert known.is_finished("finetune")
    assert f"{path} is missing. If it is wanted: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "same_row"),
    [
        ("evaluation.window.overlap=0.25", False),
        ("probe.penalty=0.5", False),
        ("evaluation.split=val", False),
        ("label_fraction=50pct", True),
        ("label=mine", True),
    ],
)
def test_probes_of_other_settings_are_others_of_one_row_or_not(hashes_of, change, same_row):
    given = ("encoder=random", "probe=linear", "evaluation.window.size=32", "backbone=resnet18")
    before, after = hashes_of("evaluate", *given), hashes_of("evaluate", *given, change)
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, same_row]


@pytest.mark.parametrize(
    ("command", "given"), [("finetune", ()), ("evaluate", ("encoder=random", "probe=knn", "backbone=resnet18"))]
)
def test_scores_told_first_by_another_protocol_are_another_run_of_one_row(hashes_of, monkeypatch, command, given):
    monkeypatch.setattr(Folder, "clutter", "c")
    sides = ("dataset.crop_size=32", "evaluation.window.size=32")
    before, after = (
        hashes_of(command, *given, *sides, f"dataset.protocol={name}") for name in ("all_classes", "clutter_ignored")
    )
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]
