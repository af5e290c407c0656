import csv
import json
import shlex
from pathlib import Path

import pytest

from ssl_rs.errors import InputError
from ssl_rs.reporting.cells import missing_cells, read_failures, stale_runs
from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.plans import Moved, command_line, read_plans
from ssl_rs.reporting.results import read_runs


@pytest.fixture
def plan(tmp_path):
    """Write a plan of cells (label, fraction, seed, name of the run)."""

    def write(*cells, name="sweep", command="finetune", **extra):
        entries = [
            {
                "overrides": [f"initialization={label}", f"seed={seed}"],
                "run_dir": str(tmp_path / "runs" / run),
                "label": label,
                "label_fraction": fraction,
                "seed": seed,
                **extra,
            }
            for label, fraction, seed, run in cells
        ]
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        (tmp_path / "sweeps" / f"{name}.json").write_text(json.dumps({"command": command, "cells": entries}))

    return write


@pytest.fixture
def missing(tmp_path):
    def find():
        tables, _ = compare(read_runs(tmp_path / "runs")[0])
        planned, left_out = read_plans(tmp_path / "sweeps", tmp_path / "runs")
        assert left_out == []
        found = missing_cells(tables, planned, read_failures(tmp_path / "runs")[0], Path("outputs"))
        return [(cell.label, cell.label_fraction, cell.seed, cell.state, cell.command) for cell in found]

    return find


def test_rows_times_columns_times_seeds_without_a_run_are_missing(write_run, missing):
    write_run("a", fraction=0.1, seed=0)
    write_run("b", fraction=1.0, seed=1)
    write_run("c", label="imagenet", fraction=0.1, seed=0)
    there = {("random", 0.1, 0), ("random", 1.0, 1), ("imagenet", 0.1, 0)}
    every = {(label, fraction, seed) for label in ("random", "imagenet") for fraction in (0.1, 1.0) for seed in (0, 1)}
    found = missing()
    assert {cell[:3] for cell in found} == every - there
    assert len(found) == 5
    assert {cell[3:] for cell in found} == {("not started", None)}


RANDOM = {"a": {"fraction": 0.1, "seed": 0}, "b": {"fraction": 0.5, "seed": 1}}


def test_a_place_that_nobody_planned_is_filled_by_the_command_of_a_run_of_its_row(write_run, missing):
    def ran(name, *overrides, **more):
        write_run(name, **RANDOM[name], made_with={"overrides": overrides, "world_size": 1, **more})

    ran("a", "label_fraction=10pct", "seed=0", "optimizer.lr=3e-3", "run_dir=a", world_size=2)
    ran("b", "label_fraction.fraction=0.5", "seed=1", "dataset.root=/my data", "api_key=mine")
    commands = {cell[1:3]: cell[4] for cell in missing()}
    assert commands == {
        (0.1, 1): "python -m ssl_rs.finetune 'dataset.root=/my data' 'api_key=***' label_fraction.fraction=0.1 seed=1",
        (0.5, 0): "torchrun --nproc_per_node=2 -m ssl_rs.finetune label_fraction=10pct optimizer.lr=3e-3 "
        "label_fraction.fraction=0.5 seed=0",
    }


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"made_with": {}},
        {"made_with": {"overrides": "seed=0"}},
        {"made_with": {"overrides": ["seed=0", 5]}},
    ],
)
def test_results_that_do_not_tell_their_command_fill_no_place(write_run, missing, told):
    for name, place in RANDOM.items():
        write_run(name, **place, **told)
    assert [cell[4] for cell in missing()] == [None, None]


def test_planned_cells_without_result_carry_their_command_once(tmp_path, write_run, plan, missing):
    write_run("a", fraction=0.1, seed=0)
    write_run("b", fraction=0.1, seed=1, label="imagenet")
    plan(
        ("random", 0.1, 0, "a"), ("random", 0.1, 1, "open"), ("imagenet", 0.1, 0, "begun"), ("imagenet", 0.5, 7, "new")
    )
    plan(("random", 0.1, 1, "open"), name="again")
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / "config.yaml").touch()
    assert missing() == [
        ("random", 0.1, 1, "not started", "python -m ssl_rs.finetune initialization=random seed=1"),
        ("imagenet", 0.1, 0, "unfinished", "python -m ssl_rs.finetune initialization=imagenet seed=0"),
        ("imagenet", 0.5, 7, "not started", "python -m ssl_rs.finetune initialization=imagenet seed=7"),
    ]


def test_a_plan_for_another_data_set_does_not_hide_a_missing_cell(write_run, plan, missing):
    write_run("a", fraction=0.1)
    write_run("b", fraction=1.0)
    write_run("c", fraction=0.1, label="imagenet")
    plan(("imagenet", 1.0, 0, "elsewhere"), dataset="other")
    assert [cell[4] is None for cell in missing()] == [False, True]


def test_scores_of_some_runs_on_other_scenes_ask_for_no_further_ones(write_run, missing):
    for label in ("random", "imagenet"):
        for fraction in (0.1, 1.0):
            write_run(f"{label}{fraction}", label=label, fraction=fraction)
    write_run("random0.1/evaluation-val", command="evaluate", split="val")
    write_run("imagenet1.0/evaluation-val", command="evaluate", split="val", label="imagenet", fraction=1.0)
    assert missing() == []


def test_a_protocol_that_some_runs_were_not_scored_by_makes_none_missing(write_run, missing, six_protocols):
    write_run("old", fraction=0.1)
    write_run("new", fraction=1.0, protocols=six_protocols(0.5))
    assert missing() == []
    write_run("other", fraction=1.0, label="imagenet", protocols=six_protocols(0.5))
    assert [cell[:3] for cell in missing()] == [("imagenet", 0.1, 0)]


def test_pretrainings_of_a_plan_are_told_beside_the_tables(tmp_path, write_run, plan):
    write_run("done")
    plan(("random", 0.1, 0, "done"))
    entries = [
        {"overrides": [f"seed={seed}"], "run_dir": str(tmp_path / "runs" / name), "label": "simclr", "seed": seed}
        for seed, name in enumerate(("finished", "open", "broken"))
    ]
    (tmp_path / "sweeps/pretrain.json").write_text(json.dumps({"command": "pretrain", "cells": entries}))
    for name in ("finished", "broken"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs/finished/result.json").write_text(json.dumps({"command": "pretrain"}))
    failure = {"command": "pretrain", "overrides": ["seed=2"], "error": "no memory"}
    (tmp_path / "runs/broken/failure.json").write_text(json.dumps(failure))
    said = []
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append).read_text()
    assert said[0] == "Cells: 1 done, 1 failed, 1 missing, 0 stale"
    assert said[1].endswith("broken: no memory\n           python -m ssl_rs.pretrain seed=2")
    assert said[2] == (
        "  missing  simclr, pretraining, seed 1: not started\n           python -m ssl_rs.pretrain seed=1"
    )
    assert "python -m ssl_rs.pretrain seed=1" in page
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert [(cell["state"], cell["label_fraction"]) for cell in cells] == [
        ("done", "0.1"),
        ("missing", ""),
        ("failed", ""),
    ]


def test_plans_of_runs_elsewhere_do_not_count(tmp_path, write_run, plan, missing):
    write_run("a")
    plan(("random", 0.5, 0, "../elsewhere/a"))
    assert missing() == []


def test_a_failed_run_is_failed_not_missing_until_it_has_a_result(tmp_path, write_run, plan, missing):
    write_run("a")
    plan(("random", 1.0, 0, "b"))
    (tmp_path / "runs" / "b").mkdir()
    failure = {"command": "finetune", "overrides": ["initialization.label=a b"], "error": "no\nmemory"}
    (tmp_path / "runs" / "b" / "failure.json").write_text(json.dumps(failure))
    (failed,), left_out = read_failures(tmp_path / "runs")
    assert (failed.error, failed.command) == ("no\nmemory", "python -m ssl_rs.finetune 'initialization.label=a b'")
    assert left_out == []
    assert missing() == []
    (tmp_path / "runs" / "b" / "result.json").write_text("{}")
    assert read_failures(tmp_path / "runs") == ([], [])


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"command": "finetune", "cells": 3}',
        '{"command": "finetune", "cells": ["x"]}',
        '{"command": "finetune", "cells": [{}]}',
    ],
)
def test_broken_plans_are_named(tmp_path, content):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "bad.json").write_text(content)
    cells, (left_out,) = read_plans(tmp_path / "sweeps", tmp_path)
    assert cells == []
    assert left_out.path.name == "bad.json"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"command": "finetune", "overrides": "seed=1", "error": "x"}'])
def test_broken_failures_are_named(tmp_path, content):
    (tmp_path / "failure.json").write_text(content)
    failures, (left_out,) = read_failures(tmp_path)
    assert failures == []
    assert left_out.path.name == "failure.json"


def test_no_plans_is_no_error(tmp_path):
    assert read_plans(tmp_path / "sweeps", tmp_path) == ([], [])


def test_commands_can_be_pasted_into_a_shell():
    assert command_line("finetune", ["a=[x,y]", "b=1"]) == "python -m ssl_rs.finetune 'a=[x,y]' b=1"


# Stale runs, and all states together

PLACE = {
    "dataset": "tiny", "backbone": "resnet18", "decoder": "unet", "steps": 20, "label_unit": "tile",
    "label_order": "random", "manifest_sha256": "ef" * 32, "split": "test",
}  # fmt: skip


@pytest.fixture
def stale(tmp_path):
    def find(home=tmp_path):
        planned, _ = read_plans(tmp_path / "sweeps", tmp_path / "runs")
        runs, left_out = read_runs(tmp_path / "runs")
        assert left_out == []
        return [(each.run.directory.name, each.reason, each.command) for each in stale_runs(runs, planned, home)]

    return find


def test_a_run_in_the_place_of_a_planned_one_with_other_settings_is_stale(write_run, plan, stale):
    write_run("old")
    write_run("elsewhere", seed=3)
    write_run("longer", steps=40)
    write_run("again", command="evaluate")
    plan(("random", 0.1, 0, "new"), **PLACE)
    ((name, reason, command),) = stale()
    assert name == "old"
    assert "other settings" in reason
    assert command == "python -m ssl_rs.finetune initialization=random seed=0"


def test_a_plan_of_scores_makes_no_training_stale(write_run, plan, stale):
    write_run("tuned")
    plan(("random", 0.1, 0, "scored"), command="evaluate", **PLACE)
    assert stale() == []


def test_other_settings_that_are_told_make_another_row_and_no_stale_run(write_run, plan, stale):
    write_run("old", settings_hash="t", settings={"loss.dice": 1.0})
    plan(("random", 0.1, 0, "new"), settings_hash="s", **PLACE)
    assert stale() == []


def test_what_some_plan_names_is_not_stale(write_run, plan, stale):
    write_run("old")
    write_run("new", miou=0.6)
    plan(("random", 0.1, 0, "new"), **PLACE)
    plan(("random", 0.1, 0, "old"), name="another sweep", **PLACE)
    assert stale() == []


def test_a_plan_that_does_not_tell_enough_calls_nothing_stale(write_run, plan, stale):
    write_run("old")
    plan(("random", 0.1, 0, "new"), dataset="tiny")
    assert stale() == []


@pytest.mark.parametrize(("now", "is_stale"), [("ab" * 32, False), ("00" * 32, True), (None, False)])
def test_a_run_whose_pretraining_has_other_weights_now_is_stale(tmp_path, write_run, stale, now, is_stale):
    provenance = {"kind": "pretrained", "source": str(tmp_path / "pretraining"), "sha256": "ab" * 32}
    write_run("a", label="tasks", provenance=provenance)
    write_run("b")
    if now is not None:
        (tmp_path / "pretraining").mkdir()
        (tmp_path / "pretraining" / "result.json").write_text(json.dumps({"encoder_sha256": now}))
    assert [each[0] for each in stale()] == (["a"] if is_stale else [])


def test_kept_results_are_not_held_against_what_lies_where_they_were_made(tmp_path, write_run, stale):
    provenance = {"kind": "pretrained", "source": str(tmp_path / "pretraining"), "sha256": "ab" * 32}
    write_run("a", label="tasks", provenance=provenance)
    (tmp_path / "pretraining").mkdir()
    (tmp_path / "pretraining" / "result.json").write_text(json.dumps({"encoder_sha256": "00" * 32}))
    assert [each[0] for each in stale()] == ["a"]
    assert stale(home=tmp_path / "outputs") == []


@pytest.mark.parametrize("names", [("first", "then"), ("then", "first")])
def test_of_two_plans_that_of_its_own_settings_says_whether_a_run_is_stale(write_run, plan, stale, names):
    write_run("old", settings_hash="s", settings={"loss.dice": 1.0})
    plan(("random", 0.1, 0, "new"), name=names[0], settings_hash="s", **PLACE)
    plan(("random", 0.1, 0, "other"), name=names[1], settings_hash="t", **PLACE)
    assert [each[0] for each in stale()] == ["old"]


def test_a_probe_of_an_encoder_that_was_trained_again_is_stale(tmp_path, write_run, stale):
    (tmp_path / "pretraining").mkdir()
    (tmp_path / "pretraining" / "result.json").write_text(json.dumps({"encoder_sha256": "cd" * 32}))
    for name, sha256 in (("before", "ab" * 32), ("now", "cd" * 32)):
        provenance = {"kind": "pretrained", "source": str(tmp_path / "pretraining"), "sha256": sha256}
        write_run(name, label="tasks", command="evaluate", steps=0, decoder="knn", provenance=provenance)
    ((name, reason, command),) = stale()
    assert (name, command) == ("before", None)
    assert "has other weights now than those it was made from" in reason


def test_scores_of_a_run_that_was_trained_again_are_stale(tmp_path, write_run, stale):
    tuned = write_run("tuned", model_sha256="cd" * 32)
    for name, sha256 in (("before", "ab" * 32), ("now", "cd" * 32), ("older version", None)):
        write_run(name, command="evaluate", split="val", run=str(tuned), model_sha256=sha256)
    assert [each[0] for each in stale()] == ["before"]


def test_a_result_that_is_broken_is_told_with_the_command_of_its_cell(tmp_path, write_run, plan):
    write_run("a")
    (write_run("b", seed=1) / "result.json").write_text('{"command": ')
    plan(("random", 0.1, 0, "a"), ("random", 0.1, 1, "b"), **PLACE)
    (tmp_path / "sweeps/other.json").write_text("{")
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 1 failed, 0 missing, 0 stale, 1 left out"
    assert sorted("other.json" in line for line in said[1:]) == [False, True]
    command = "python -m ssl_rs.finetune initialization=random seed=1"
    told = "\n".join(said)
    assert "result.json cannot be used: no valid JSON" in told
    assert f"Delete it; the command then fills the cell\n           {command}" in told
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert [(cell["state"], cell["seed"]) for cell in cells] == [("done", "0"), ("failed", "1")]
    assert cells[1]["command"] == command
    assert "no valid JSON" in cells[1]["reason"]


def start(sha256, pretraining_hash="p", source="outputs/pretrain/a"):
    """Return the provenance of weights from a pretraining with some settings."""
    pretraining = {"settings_hash": pretraining_hash, "steps": 100, "dataset": "tiny", "images_seen": 400}
    return {"kind": "pretrained", "sha256": sha256 * 32, "source": source, "pretraining": pretraining}


def test_a_planned_run_that_cannot_be_read_is_no_place_that_nobody_planned(tmp_path, write_run, plan):
    for label in ("random", "imagenet"):
        for seed in (0, 1):
            write_run(f"{label}{seed}", label=label, seed=seed)
    (tmp_path / "runs/imagenet1/result.json").write_text('{"command": "fine')
    plan(("imagenet", 0.1, 1, "imagenet1"), **PLACE)
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 3 done, 1 failed, 0 missing, 0 stale"
    (tmp_path / "sweeps/sweep.json").unlink()
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.clear() or said.append)
    assert said[0] == "Cells: 3 done, 0 failed, 1 missing, 0 stale, 1 left out"


@pytest.mark.parametrize("to", ["mine", "seed0-renamed", "elsewhere/seed0-0123456789ab"])
def test_a_run_fills_its_planned_cell_from_any_folder(tmp_path, write_run, plan, to):
    """Somebody renamed it, or chose its folder: its settings and weights are those that were planned."""
    write_run(to, config_hash="0123456789ab")
    plan(("random", 0.1, 0, "seed0-0123456789ab"), settings_hash="s", **PLACE)
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said == ["Cells: 1 done, 0 failed, 0 missing, 0 stale"]
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert [cell["command"] for cell in cells] == ["python -m ssl_rs.finetune initialization=random seed=0"]


def test_a_run_of_another_config_in_the_place_of_a_planned_one_stays_stale(write_run, plan, stale):
    write_run("mine", config_hash="ba9876543210", provenance={"kind": "random", "sha256": "a" * 64})
    plan(("random", 0.1, 0, "seed0-0123456789ab"), settings_hash="t", **PLACE)
    assert [each[0] for each in stale()] == ["mine"]


def test_a_copy_of_a_run_is_called_one(tmp_path, write_run, plan):
    for name in ("a-copy", "seed0-0123456789ab"):
        write_run(name, config_hash="0123456789ab")
    plan(("random", 0.1, 0, "seed0-0123456789ab"), settings_hash="s", **PLACE)
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 0 failed, 0 missing, 0 stale, 1 left out"
    assert "a second copy of the run" in said[1]


def test_a_plan_is_that_of_the_folder_it_lies_in_wherever_that_is(tmp_path, write_run, monkeypatch):
    """Its paths are from where the sweep was started, and outputs may be moved since."""
    write_run("finetune/seed0-0a")
    (tmp_path / "runs/sweeps").mkdir()
    cells = [
        {"overrides": [f"seed={seed}"], "run_dir": f"outputs/finetune/seed{seed}-0{seed}a", "label": "random",
         "label_fraction": 0.1, "seed": seed}
        for seed in (0, 1)
    ]  # fmt: skip
    plan = {"command": "finetune", "output_dir": "./outputs", "cells": cells}
    (tmp_path / "runs/sweeps/a.json").write_text(json.dumps(plan))
    monkeypatch.chdir("/")
    planned, _ = read_plans(tmp_path / "runs/sweeps", tmp_path / "runs")
    assert [cell.run_dir for cell in planned] == [(tmp_path / f"runs/finetune/seed{s}-0{s}a").resolve() for s in (0, 1)]
    assert planned[1].command == f"python -m ssl_rs.finetune seed=1 output_dir={tmp_path}/runs"
    (tmp_path / "runs").rename(tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)  # where they were written
    planned, _ = read_plans(Path("outputs/sweeps"), Path("outputs"))
    assert planned[1].command == "python -m ssl_rs.finetune seed=1"


def test_a_score_that_the_run_itself_tells_is_counted_once(tmp_path, write_run):
    write_run("a")
    write_run("a/again", command="evaluate")
    said = []
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append).read_text()
    assert said == ["Cells: 1 done, 0 failed, 0 missing, 0 stale"]
    assert "1 result of finished runs" in page
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert {cell["state"]: cell["run"].endswith("again") for cell in cells} == {"done": False, "repeated": True}


def test_cells_say_which_table_they_belong_to(tmp_path, write_run, plan):
    write_run("a", label="imagenet", steps=100, made_with={"overrides": ["seed=0"], "git_commit": "c" * 40})
    write_run("b", label="imagenet", steps=200)
    write_run("c", label="imagenet", steps=100, seed=1, fraction=0.5)
    plan(("random", 0.2, 0, "new"), ("random", 0.1, 7, "broken"), **PLACE | {"steps": 100})
    (tmp_path / "runs/broken").mkdir()
    failure = {"command": "finetune", "overrides": ["seed=7"], "error": "no memory"}
    (tmp_path / "runs/broken/failure.json").write_text(json.dumps(failure))
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    found = [(cell["state"], cell["label_fraction"], cell["seed"], cell["steps"]) for cell in cells]
    assert found == [
        ("done", "0.1", "0", "100"), ("done", "0.1", "0", "200"), ("done", "0.5", "1", "100"),
        ("missing", "0.2", "0", "100"), ("missing", "0.1", "1", "100"), ("missing", "0.5", "0", "100"),
        ("failed", "0.1", "7", "100"),
    ]  # fmt: skip
    assert {cell["dataset"] for cell in cells} == {"tiny"}
    assert [cell["command_of_commit"] for cell in cells if cell["state"] == "missing"] == ["", "c" * 40, "c" * 40]


@pytest.mark.parametrize(
    ("pretraining_hash", "settings_hash", "is_stale"), [("p", "s", False), ("q", "s", True), ("p", "t", True)]
)
def test_a_further_pretraining_of_a_row_is_not_stale(write_run, plan, stale, pretraining_hash, settings_hash, is_stale):
    write_run("one", label="tasks", settings_hash="s", provenance=start("aa"))
    plan(("tasks", 0.1, 0, "one"), settings_hash="s", pretraining_settings_hash="p", **PLACE)
    write_run("two", label="tasks", settings_hash=settings_hash, provenance=start("bb", pretraining_hash))
    assert [each[0] for each in stale()] == (["two"] if is_stale else [])


@pytest.mark.parametrize("planned_label", ["tasks", "pretrained", "outputs/pretrain/a", "pretrain/*", "pretrain"])
@pytest.mark.parametrize("marked", ["", " (transductive)"])
def test_a_cell_that_waited_for_its_weights_is_filled_by_the_run_that_has_them(
    tmp_path, write_run, plan, planned_label, marked
):
    """Its folder is another one, since the weights count for it."""
    plan((planned_label, 0.1, 0, "waiting"), settings_hash="s", waits_for_weights=True, **PLACE)
    (tmp_path / "runs/waiting").mkdir(parents=True)
    failure = {"command": "finetune", "overrides": ["seed=0"], "error": "there is no finished pretraining"}
    (tmp_path / "runs/waiting/failure.json").write_text(json.dumps(failure))
    write_run("other", label="tasks", settings_hash="t", seed=1, provenance=start("aa"))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 1 failed, 0 missing, 0 stale"
    write_run("made", label=f"tasks{marked}", settings_hash="s", provenance=start("aa"))
    said.clear()
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    done = 2 if marked else 1  # "other" has other settings: of one row it is left out
    assert said[0].startswith(f"Cells: {done} done, 0 failed, {2 * done - 2} missing, 0 stale")
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert ("done", command_line("finetune", [f"initialization={planned_label}", "seed=0"])) in {
        (cell["state"], cell["command"]) for cell in cells
    }


def test_a_cell_that_waited_is_that_of_a_later_plan_that_names_its_run(tmp_path, write_run, plan):
    plan(("tasks", 0.1, 0, "waiting"), name="before", settings_hash="s", waits_for_weights=True, **PLACE)
    plan(("tasks", 0.1, 0, "made"), name="later", settings_hash="s", **PLACE)
    write_run("made", label="tasks", settings_hash="s", provenance=start("aa"))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said == ["Cells: 1 done, 0 failed, 0 missing, 0 stale"]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_cell_that_waits_for_other_weights_is_not_that_of_another_plan(tmp_path, write_run, plan, names):
    def planned(name, source, run):
        place = ("tasks", 0.1, 0, run)
        plan(place, name=name, settings_hash="s", waits_for_weights=True, **PLACE)
        path = tmp_path / "sweeps" / f"{name}.json"
        found = json.loads(path.read_text())
        found["cells"][0]["overrides"] = [f"initialization.run={source}", "seed=0"]
        path.write_text(json.dumps(found))

    planned(names[0], "outputs/pretrain/x", "of x")
    planned(names[1], "outputs/pretrain/y", "of y")
    write_run("made", label="tasks", settings_hash="s", provenance=start("aa", source="outputs/pretrain/x"))
    (tmp_path / "runs/of y").mkdir(parents=True)
    failure = {"command": "finetune", "overrides": ["seed=0"], "error": "there is no finished pretraining"}
    (tmp_path / "runs/of y/failure.json").write_text(json.dumps(failure))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 1 failed, 0 missing, 0 stale"


def test_a_planned_cell_of_a_row_that_was_renamed_is_missing_once(tmp_path, write_run, plan):
    for name, dice, seed in (("a", 0.0, 0), ("b", 0.0, 1), ("c", 1.0, 0)):
        write_run(name, seed=seed, settings_hash=f"dice{dice}", settings={"loss.dice": dice})
    done = [("random", 0.1, 0, "a"), ("random", 0.1, 1, "b")]
    plan(*done, name="plain", settings_hash="dice0.0", **PLACE)
    plan(("random", 0.1, 0, "c"), ("random", 0.1, 1, "open"), name="dice", settings_hash="dice1.0", **PLACE)
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 3 done, 0 failed, 1 missing, 0 stale"
    assert len(said) == 2


def test_an_odd_label_of_a_waiting_cell_stops_nothing(tmp_path, write_run, plan):
    plan(("a\0b", 0.1, 0, "waiting"), settings_hash="s", waits_for_weights=True, **PLACE)
    write_run("made", label="tasks", settings_hash="s", provenance=start("aa"))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 0 failed, 1 missing, 0 stale"


def test_without_a_finished_run_the_cells_are_told_before_it_is_refused(tmp_path, plan):
    plan(("random", 0.1, 0, "a"), ("random", 0.1, 1, "b"))
    (tmp_path / "runs").mkdir()
    said = []
    with pytest.raises(InputError, match="holds no finished run"):
        write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 0 done, 0 failed, 2 missing, 0 stale"
    assert said[1].endswith("python -m ssl_rs.finetune initialization=random seed=0")


def test_pretrainings_lie_beside_the_fine_tunings_of_a_report(tmp_path, write_run):
    write_run("done")
    folders = {"open": tmp_path / "pretrain/open", "elsewhere": tmp_path.parent / "elsewhere"}
    entries = [
        {"overrides": [f"seed={seed}"], "run_dir": str(folder), "label": name, "seed": seed}
        for seed, (name, folder) in enumerate(folders.items())
    ]
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/pretrain.json").write_text(json.dumps({"command": "pretrain", "cells": entries}))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 0 failed, 1 missing, 0 stale"
    assert said[1].startswith("  missing  open, pretraining")
    folders["open"].mkdir(parents=True)
    failure = {"command": "pretrain", "overrides": ["seed=0"], "error": "no memory"}
    (folders["open"] / "failure.json").write_text(json.dumps(failure))
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[2] == "Cells: 1 done, 1 failed, 0 missing, 0 stale"


def test_every_state_is_told_with_its_command_and_stale_runs_leave_the_table(tmp_path, write_run, plan):
    write_run("done", miou=0.5)
    write_run("aged", miou=0.987, seed=1)
    write_run("single", miou=0.4, label="imagenet")
    plan(("random", 0.1, 0, "done"), ("random", 0.1, 1, "new"), ("random", 0.1, 2, "broken"), **PLACE)
    (tmp_path / "runs/broken").mkdir()
    failure = {"command": "finetune", "overrides": ["seed=2"], "error": "no memory\nat all"}
    (tmp_path / "runs/broken/failure.json").write_text(json.dumps(failure))
    said = []
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append).read_text()
    assert said[0] == "Cells: 2 done, 1 failed, 1 missing, 1 stale"
    assert len(said) == 4
    assert "broken: no memory\n" in said[1]
    assert said[1].endswith("python -m ssl_rs.finetune seed=2")
    assert said[2].startswith("  missing  random, 10")
    assert said[2].endswith("python -m ssl_rs.finetune initialization=random seed=1")
    assert said[3].endswith("python -m ssl_rs.finetune initialization=random seed=1")
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert [(cell["state"], cell["label"], cell["seed"]) for cell in cells] == [
        ("done", "random", "0"),
        ("done", "imagenet", "0"),
        ("stale", "random", "1"),
        ("missing", "random", "1"),
        ("failed", "random", "2"),
    ]
    assert cells[0]["command"] == "python -m ssl_rs.finetune initialization=random seed=0"
    assert cells[1]["command"] == ""
    assert "98.7" not in page
    assert "1 stale run" in page
    assert "aged" not in (tmp_path / "report/results.csv").read_text()


def test_places_that_nobody_planned_take_one_line(tmp_path, write_run):
    for seed in range(3):
        write_run(f"random{seed}", seed=seed)
    write_run("tasks", label="tasks", seed=1)
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said == [
        "Cells: 4 done, 0 failed, 2 missing, 0 stale",
        "  2 of the missing are places of the tables that no sweep planned: cells.csv names them",
    ]
    cells = list(csv.DictReader((tmp_path / "report/cells.csv").open()))
    assert [(cell["label"], cell["seed"]) for cell in cells if cell["state"] == "missing"] == [
        ("tasks", "0"),
        ("tasks", "2"),
    ]


def test_a_row_that_was_only_evaluated_asks_for_no_runs(write_run, missing):
    for fraction in (0.1, 1.0):
        write_run(f"random{fraction}", fraction=fraction)
    write_run("kept/evaluation", command="evaluate", label="imagenet", fraction=0.1)
    assert missing() == []


def test_only_a_cell_that_waited_is_filled_by_a_run_of_another_folder(tmp_path, write_run, plan):
    plan(("tasks", 0.1, 0, "planned"), settings_hash="s", **PLACE)
    write_run("made", label="tasks", settings_hash="s", provenance=start("aa"))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 0 done, 0 failed, 1 missing, 1 stale"


def test_one_run_fills_one_of_two_cells_that_waited(tmp_path, write_run, plan):
    plan(("tasks", 0.1, 0, "one"), ("tasks", 0.1, 0, "two"), settings_hash="s", waits_for_weights=True, **PLACE)
    write_run("made", label="tasks", settings_hash="s", provenance=start("aa"))
    said = []
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", said.append)
    assert said[0] == "Cells: 1 done, 0 failed, 1 missing, 0 stale"


def test_a_cell_that_waits_for_weights_is_no_place_that_nobody_planned(write_run, plan, missing):
    """Its row has another name by now: that of the pretraining."""
    for seed in (0, 1):
        write_run(f"random{seed}", seed=seed, fraction=0.1)
    plan(("pretrained", 0.1, 0, "p0"), ("pretrained", 0.1, 1, "p1"), settings_hash="s", waits_for_weights=True, **PLACE)
    write_run("p0", label="inpainting", fraction=0.1, seed=0, settings_hash="s", provenance=start("aa"))
    assert [cell[:4] for cell in missing()] == [("pretrained", 0.1, 1, "not started")]


@pytest.mark.parametrize(("own", "told"), [("s", True), ("other", False)])
def test_a_cell_that_waits_stands_for_one_row_of_its_settings(write_run, plan, missing, own, told):
    for label, sha256 in (("inpainting", "aa"), ("contrastive", "bb")):
        write_run(label, label=label, fraction=0.1, seed=0, settings_hash="s", provenance=start(sha256))
    for seed in (0, 1):
        write_run(f"random{seed}", seed=seed, fraction=0.1, settings_hash="s")
    plan(("pretrained", 0.1, 1, "p1"), settings_hash=own, waits_for_weights=True, **PLACE)
    rows = {"inpainting", "contrastive", "pretrained"}
    found = sorted(cell[0] for cell in missing() if cell[0] in rows)
    assert found == (["inpainting", "pretrained"] if told else ["contrastive", "inpainting", "pretrained"])


@pytest.mark.parametrize(
    "named",
    ["outputs/pretrain/x/inpainting/seed1-bb", "inpainting/seed1-*", "HERE/outputs/pretrain/x/inpainting/seed1-bb"],
)
def test_a_cell_that_waits_for_a_named_pretraining_stands_for_that_of_another_seed(write_run, plan, missing, named):
    named = named.replace("HERE", str(Path.cwd()))
    for seed in (0, 1):
        write_run(f"random{seed}", seed=seed, fraction=0.1)
    plan((named, 0.1, 1, "p1"), settings_hash="s", waits_for_weights=True, **PLACE)
    first = start("aa", source="outputs/pretrain/x/inpainting/seed0-aa")
    write_run("p0", label="inpainting", fraction=0.1, seed=0, settings_hash="s", provenance=first)
    assert [cell[:4] for cell in missing()] == [(named, 0.1, 1, "not started")]


def plan_of_moved_outputs(tmp_path, overrides):
    (tmp_path / "sweeps").mkdir()
    cell = {"label": "a", "label_fraction": 0.1, "seed": 0, "run_dir": "elsewhere/runs/a", "overrides": overrides}
    plan = {"command": "finetune", "output_dir": "elsewhere", "cells": [cell]}
    (tmp_path / "sweeps/plan.json").write_text(json.dumps(plan))
    return read_plans(tmp_path / "sweeps", tmp_path / "runs")


def test_a_failed_run_of_moved_outputs_is_tried_again_there(tmp_path):
    planned, _ = plan_of_moved_outputs(tmp_path, ["seed=0"])
    failure = {"command": "finetune", "overrides": ["seed=0"], "error": "full"}
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/failure.json").write_text(json.dumps(failure))
    (found,), _ = read_failures(tmp_path / "runs", planned)
    assert found.command == f"python -m ssl_rs.finetune seed=0 output_dir={tmp_path}"


@pytest.mark.parametrize("overrides", [[1], ["seed=0", None], "ab"])
def test_a_plan_of_moved_outputs_without_readable_overrides_is_left_out(tmp_path, overrides):
    cells, (left_out,) = plan_of_moved_outputs(tmp_path, overrides)
    assert cells == []
    assert "expected a list of texts" in left_out.reason


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("initialization.run=elsewhere/pretrain/a", "initialization.run=HERE/pretrain/a"),
        ("initialization.run='elsewhere/pre train/a'", "initialization.run='HERE/pre train/a'"),
        ("encoder=elsewhere/pretrain/a", "encoder=HERE/pretrain/a"),
        (
            "initialization.weights=elsewhere/pretrain/a/encoder.safetensors",
            "initialization.weights=HERE/pretrain/a/encoder.safetensors",
        ),
        ("+encoder_weights=elsewhere/a.pth", "+encoder_weights=HERE/a.pth"),
        ("my.rerun=elsewhere/a", "my.rerun=elsewhere/a"),
        ("run=elsewhere/finetune/a", "run=HERE/finetune/a"),
        ("initialization.run=other/elsewhere/a", "initialization.run=other/elsewhere/a"),
        ("dataset.root=elsewhere/data", "dataset.root=elsewhere/data"),
        ("output_dir=elsewhere", None),
    ],
)
def test_commands_of_moved_outputs_start_from_the_runs_there(given, expected):
    command = shlex.split(command_line("finetune", [given, "seed=0"], moved=Moved("elsewhere", Path("HERE"))))
    assert command[3:] == [*([expected] if expected else []), "seed=0", "output_dir=HERE"]


@pytest.mark.parametrize("given", [[], ["output_dir=gone/outputs"], ["output_dir=HOME"]])
def test_the_command_of_a_place_that_nobody_planned_fills_it_where_the_outputs_are_now(tmp_path, write_run, given):
    """Of runs elsewhere, such as results that were kept, the commands stay as they were."""
    given = [each.replace("HOME", str(tmp_path)) for each in given]
    made_with = {"overrides": [*given, "initialization=random"], "world_size": 1}
    write_run("a", fraction=0.1, seed=0, made_with=made_with)
    write_run("b", fraction=1.0, seed=1, made_with=made_with)
    tables, _ = compare(read_runs(tmp_path / "runs")[0])
    for home, expected in ((tmp_path, [f"output_dir={tmp_path}"]), (tmp_path / "other", given)):
        cells = missing_cells(tables, [], [], home)
        assert len(cells) == 2
        for cell in cells:
            assert [each for each in shlex.split(cell.command) if each.startswith("output_dir=")] == expected


@pytest.fixture
def replaced(tmp_path, write_run, plan):
    """A planned run, old, from a pretraining that has other weights by now; the pretraining's folder."""
    source = tmp_path / "pretraining"
    plan(("tasks", 0.1, 0, "old"), settings_hash="s", pretraining_settings_hash="p", **PLACE)
    write_run("old", label="tasks", settings_hash="s", provenance=start("aa", "p", str(source)))
    source.mkdir()
    (source / "result.json").write_text(json.dumps({"encoder_sha256": "bb" * 32}))
    return str(source)


def test_what_is_trained_again_from_weights_that_were_replaced_fills_the_cell(replaced, write_run, stale):
    """The plan is as old as the run that it names: the new run is in its place, and the old one may go."""
    ((name, _, command),) = stale()
    assert (name, command) == ("old", "python -m ssl_rs.finetune initialization=tasks seed=0")
    new = write_run("new", label="tasks", settings_hash="s", provenance=start("bb", "q", replaced))
    ((name, reason, command),) = stale()
    assert (name, command) == ("old", None)
    assert reason.endswith(f"and {new} has its place: delete its folder")


def test_a_run_of_other_settings_has_not_the_place_of_one_whose_weights_were_replaced(replaced, write_run, stale):
    other = {"settings_hash": "t", "settings": {"loss.dice": 1.0}}
    write_run("other", label="tasks", provenance=start("bb", "p", replaced), **other)
    assert [each[::2] for each in stale()] == [("old", "python -m ssl_rs.finetune initialization=tasks seed=0")]
