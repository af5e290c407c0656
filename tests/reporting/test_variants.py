"""Runs of one label whose settings differ get rows that tell them apart."""

import csv
import json

import pytest

from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.variants import told_apart


@pytest.fixture
def labels(tmp_path):
    def read():
        return {run.directory.name: run.label for run in told_apart(read_runs(tmp_path / "runs")[0])}

    return read


LOSS = {"loss.balance": 0.0, "loss.dice": 0.0}


def test_a_sweep_over_losses_has_a_row_for_each(write_run, tmp_path, labels):
    """One run each: the values that come first keep the label, here those of the plain cross entropy."""
    for name, loss in {"a": {"loss.balance": 0.5}, "b": {"loss.dice": 1.0}, "c": {}}.items():
        write_run(name, settings_hash=name, settings={**LOSS, **loss, "seed": 0}, miou=0.3)
    assert labels() == {"a": "random, loss.balance=0.5", "b": "random, loss.dice=1.0", "c": "random"}
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    assert "random, loss.dice=1.0" in page.read_text()
    rows = list(csv.DictReader((page.parent / "results.csv").open()))
    assert {row["label"] for row in rows} == set(labels().values())


def test_the_settings_of_most_runs_keep_the_label(write_run, labels):
    for seed in range(3):
        write_run(f"usual{seed}", seed=seed, settings_hash="u", settings={"optimizer.lr": 0.01, "seed": seed})
    write_run("other", settings_hash="o", settings={"optimizer.lr": 0.001, "seed": 0})
    assert labels() == {**{f"usual{seed}": "random" for seed in range(3)}, "other": "random, optimizer.lr=0.001"}


def test_components_are_named_by_their_class_and_many_settings_are_counted(write_run, labels):
    write_run("a0", settings_hash="a", settings={"schedule._target_": "x.Cosine", "b": 1, "c": 1, "d": 1, "e": 1})
    write_run(
        "a1", seed=1, settings_hash="a", settings={"schedule._target_": "x.Cosine", "b": 1, "c": 1, "d": 1, "e": 1}
    )
    write_run("b", settings_hash="b", settings={"schedule._target_": "x.Constant", "b": 1, "c": 1, "d": 1, "e": 1})
    write_run("c", settings_hash="c", settings={"schedule._target_": "x.Cosine", "b": 2, "c": 2, "d": 2, "e": 2})
    assert labels()["b"] == "random, schedule=Constant"
    assert labels()["c"] == "random, b=2, c=2, d=2, and 1 more setting"


def test_what_tells_two_rows_apart_is_named_first(write_run, labels):
    shared = dict.fromkeys(("a", "b", "c"), 1)
    usual = dict.fromkeys(("a", "b", "c"), 0)
    for name, settings in (("u", usual | {"z": 0}), ("v", shared | {"z": 0}), ("w", shared | {"z": 1})):
        for seed in range(1 + 2 * (name == "u")):
            write_run(f"{name}{seed}", seed=seed, settings_hash=name, settings=settings)
    found = labels()
    assert (found["v0"], found["w0"]) == ("random, a=1, b=1, c=1", "random, z=1, a=1, b=1, and 1 more setting")


def test_runs_that_do_not_tell_their_settings_keep_their_label(write_run, labels):
    write_run("old", settings_hash="a")
    write_run("new", settings_hash="b", settings={"optimizer.lr": 0.1})
    assert set(labels().values()) == {"random"}


def test_longer_pretrainings_are_told(write_run, labels):
    for name, steps in (("a", 1500), ("b", 1500), ("c", 4500)):
        write_run(name, label="tasks", seed=ord(name), provenance={"sha256": name, "pretraining": {"steps": steps}})
    assert labels() == {"a": "tasks", "b": "tasks", "c": "tasks, 4,500 steps of pretraining"}


def of_pretraining(settings_hash):
    pretraining = {"settings_hash": settings_hash, "steps": 100, "dataset": "tiny", "images_seen": 400}
    return {"kind": "pretrained", "sha256": settings_hash * 4, "source": "outputs/a", "pretraining": pretraining}


def test_as_many_runs_of_one_pretraining_as_of_another_have_a_row_each(write_run, labels):
    for name in ("aaaaaaaa1234", "bbbbbbbb1234"):
        write_run(name, label="a + b", initialization="pretrained", provenance=of_pretraining(name))
    assert labels() == {
        "aaaaaaaa1234": "a + b, pretraining of settings aaaaaaaa",
        "bbbbbbbb1234": "a + b, pretraining of settings bbbbbbbb",
    }
    scored = {"command": "evaluate", "label": "a + b", "initialization": "pretrained"}
    write_run("again", provenance=of_pretraining("aaaaaaaa1234"), **scored)  # is no further run
    assert len(set(labels().values())) == 2
    write_run("more", label="a + b", seed=1, initialization="pretrained", provenance=of_pretraining("aaaaaaaa1234"))
    assert set(labels().values()) == {"a + b"}  # by its majority: the other one is left out, and named


def test_runs_with_the_decoder_of_the_pretraining_are_told(write_run, labels):
    for name, decoder in (("a", None), ("b", None), ("c", "dd")):
        provenance = {"sha256": name, "decoder_sha256": decoder, "pretraining": {"steps": 100}}
        write_run(name, label="ours", seed=ord(name), provenance=provenance)
    assert labels() == {"a": "ours", "b": "ours", "c": "ours, encoder and decoder"}


def test_a_run_from_before_a_key_came_has_its_earlier_value(write_run, labels):
    write_run("old", settings_hash="a", settings={"optimizer.lr": 0.1})
    write_run("new", settings_hash="b", settings={"optimizer.lr": 0.1, "loss.dice": 1.0})
    assert labels() == {"old": "random", "new": "random, loss.dice=1.0"}


def test_the_settings_that_other_rows_share_keep_the_label(write_run, labels):
    """However many others there are: what pretraining is measured by must be trained alike."""
    plain, dice = {"loss.dice": 0.0}, {"loss.dice": 1.0}
    write_run("random", settings_hash="plain", settings=plain)
    write_run("tasks", label="tasks", settings_hash="plain", settings=plain)
    for seed in range(3):
        write_run(f"dice{seed}", seed=seed, settings_hash="dice", settings=dice)
    assert labels() == {"random": "random", "tasks": "tasks"} | {
        f"dice{seed}": "random, loss.dice=1.0" for seed in range(3)
    }


def test_odd_records_of_a_pretraining_stop_nothing(write_run, labels):
    write_run("a", label="tasks", provenance={"sha256": "a", "pretraining": {"steps": [1]}})
    write_run("b", label="tasks", seed=1, provenance={"sha256": "b", "pretraining": {"steps": 5}})
    assert len(labels()) == 2


def test_scores_of_networks_that_were_trained_on_other_data_have_a_row_of_their_own(write_run, labels):
    for seed, data in enumerate(("a", "b", "a")):
        write_run(f"{seed}", command="evaluate", seed=seed, settings_hash="s", trained_on_manifest_sha256=data * 64)
    assert labels() == {"0": "random", "1": "random, trained on data bbbbbbbb", "2": "random"}


def test_those_trained_on_the_data_of_the_table_keep_their_label(write_run, labels):
    """However few they are: the others must not become what it is measured by."""
    for seed in range(3):
        write_run(f"{seed}", command="evaluate", seed=seed, settings_hash="s", trained_on_manifest_sha256="a" * 64)
    write_run("own", settings_hash="s")
    assert labels() == {"own": "random"} | {f"{seed}": "random, trained on data aaaaaaaa" for seed in range(3)}


def test_data_that_others_were_trained_on_are_named_where_runs_tell(write_run, labels):
    for name, city, data in (("0", "one", "a"), ("1", "two", "b"), ("2", "two", "c"), ("3", "three", "d")):
        write_run(
            name, command="evaluate", seed=int(name), settings_hash="s", trained_on_manifest_sha256=data * 64,
            settings={"dataset.name": city},
        )  # fmt: skip
    write_run("own", settings_hash="s")
    assert labels() == {
        "0": "random, trained on one",
        "1": "random, trained on two, data bbbbbbbb",
        "2": "random, trained on two, data cccccccc",
        "3": "random, trained on three",
        "own": "random",
    }


# Hashes that mean the same


def kept(write_run, name, hash_, seed, processes=1, precision="bf16", **settings):
    settings = {"trainer.batch_size": 8, **settings}
    batch = {} if processes is None else {"global_batch": processes * settings["trainer.batch_size"]}
    made_with = {"world_size": processes, "precision": precision}
    return write_run(name, seed=seed, settings_hash=hash_, settings=settings, made_with=made_with, **batch)


def row_of(tmp_path):
    tables, left_out = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    assert not left_out
    return {label: sorted(run.seed for run in tables[0].runs if run.label == label) for label in tables[0].labels}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"loss.dice": 1}, {"loss.dice": 1.0}),
        ({"augmentation.scale": [1, 1]}, {"augmentation.scale": [1.0, 1.0]}),
        ({"trainer.precision": "auto"}, {"trainer.precision": "bf16"}),
        ({"trainer.batch_size": 16}, {"trainer.batch_size": 8, "processes": 2}),
    ],
)
def test_settings_that_mean_the_same_share_a_row(write_run, tmp_path, one, other):
    for seed in range(2):
        kept(write_run, f"one{seed}", "one", seed, **one)
    kept(write_run, "other", "other", 2, **other)
    assert row_of(tmp_path) == {"random": [0, 1, 2]}


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"loss.dice": 1}, {"loss.dice": 2.0}, "loss.dice=2.0"),
        ({"trainer.batch_size": 8}, {"trainer.batch_size": 8, "processes": 2}, "trainer.batch_size=16"),
        ({"trainer.precision": "auto"}, {"trainer.precision": "fp32", "precision": "fp32"}, "trainer.precision=fp32"),
    ],
)
def test_settings_that_mean_something_else_have_a_row_that_says_so(write_run, tmp_path, one, other, told):
    for seed in range(2):
        kept(write_run, f"one{seed}", "one", seed, **one)
    kept(write_run, "other", "other", 2, **other)
    assert row_of(tmp_path) == {"random": [0, 1], f"random, {told}": [2]}


def test_what_does_not_tell_its_batch_joins_nothing(write_run, tmp_path):
    """Of an earlier version: the hash may differ since it ran on two processes."""
    kept(write_run, "one", "one", 0, **{"loss.dice": 1})
    kept(write_run, "other", "other", 1, processes=None, **{"loss.dice": 1.0})
    _, left_out = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    assert len(left_out) == 1


def test_the_hash_that_a_run_wrote_down_stays_what_it_is(write_run, tmp_path):
    """Plans and scores of other windows are found by it."""
    for seed, value in enumerate((1, 1.0)):
        kept(write_run, f"run{seed}", f"hash{seed}", seed, **{"loss.dice": value})
    runs = told_apart(read_runs(tmp_path / "runs")[0])
    assert [(run.settings_hash, run.row_hash) for run in runs] == [("hash0", "hash0"), ("hash1", "hash0")]


def test_scores_of_other_windows_tell_the_batch_of_their_run(write_run, tmp_path):
    kept(write_run, "trained", "t", 0, processes=2)
    path = kept(write_run, "scored", "w", 0, processes=2) / "result.json"
    result = json.loads(path.read_text())
    result |= {"command": "evaluate", "made_with": {"world_size": 1, "precision": "bf16"}}
    path.write_text(json.dumps(result))
    assert {run.settings["trainer.batch_size"] for run in read_runs(tmp_path / "runs")[0]} == {16}


def scored_again(write_run, name, hash_, seed, trained="bf16", scored="bf16", told=True, **settings):
    path = kept(write_run, name, hash_, seed, precision=scored, **settings) / "result.json"
    result = json.loads(path.read_text()) | {"command": "evaluate", "run": f"outputs/{name}"}
    path.write_text(json.dumps(result | ({"trained_with": {"precision": trained}} if told else {})))


def test_runs_that_scored_other_splits_at_their_end_share_a_row_of_the_split_that_all_were_scored_on(
    write_run, tmp_path
):
    for seed in range(2):
        kept(write_run, f"test{seed}", "t", seed, **{"evaluation.split": "test"})
        scored_again(write_run, f"val{seed}", "v", seed + 2, **{"evaluation.split": "test", "loss.dice": 0})
    assert row_of(tmp_path) == {"random": [0, 1, 2, 3]}


def test_windows_given_to_evaluate_are_those_given_to_a_run(write_run, tmp_path):
    kept(write_run, "own", "o", 0, **{"evaluation.window.overlap": 0.5})
    scored_again(write_run, "later", "w", 1, **{"evaluation.window.overlap": 0.5})
    assert row_of(tmp_path) == {"random": [0, 1]}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"trained": "fp32", "scored": "fp32"}, "trainer.precision=fp32"),
        ({"trained": "fp32", "scored": "bf16"}, "evaluation.precision=bf16, trainer.precision=fp32"),
        ({"loss.dice": 1.0}, "loss.dice=1.0"),
        ({"evaluation.window.overlap": 0.75}, "evaluation.window.overlap=0.75"),
    ],
)
def test_scores_of_networks_that_were_trained_otherwise_have_a_row_that_says_so(write_run, tmp_path, other, told):
    settings = {"trainer.precision": "auto", "evaluation.window.overlap": 0.5, "loss.dice": 0.0}
    for seed in range(2):
        kept(write_run, f"own{seed}", "o", seed, **settings)
    scored_again(write_run, "later", "w", 2, **(settings | other))
    assert row_of(tmp_path) == {"random": [0, 1], f"random, {told}": [2]}


def test_scores_that_do_not_tell_the_precision_of_the_training_join_nothing(write_run, tmp_path):
    """Of an earlier version."""
    kept(write_run, "own", "o", 0, **{"evaluation.split": "test"})
    scored_again(write_run, "later", "v", 1, told=False, **{"evaluation.split": "test"})
    _, left_out = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    assert len(left_out) == 1


def test_a_row_scored_in_another_precision_than_it_was_trained_in_says_so(write_run, tmp_path):
    kept(write_run, "own", "o", 0)
    scored_again(write_run, "later", "o", 1, scored="fp32")
    (table,), _ = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    assert table.mixed_rows == {"random": ["evaluation.precision (as trained, fp32)"]}


def test_a_hash_that_meant_several_things_joins_nothing(write_run, labels, tmp_path):
    """`auto` on two kinds of computers: the rows of either precision stay two."""
    for seed, precision in enumerate(("bf16", "fp32")):
        kept(write_run, f"auto{seed}", "auto", seed, precision=precision, **{"trainer.precision": "auto"})
        kept(write_run, precision, precision, 2, precision=precision, **{"trainer.precision": precision})
    found = labels()
    assert found["bf16"] != found["fp32"]
    runs = told_apart(read_runs(tmp_path / "runs")[0])
    assert all(run.row_hash == run.settings_hash for run in runs)
