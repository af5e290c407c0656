import json

import pytest

from ssl_rs.reporting.cells import command_line, missing_cells, read_failures, read_plans
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.tables import compare


@pytest.fixture
def plan(tmp_path):
    """Write a plan of cells (label, fraction, seed, name of the run)."""

    def write(*cells, name="sweep", **extra):
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
        (tmp_path / "sweeps" / f"{name}.json").write_text(json.dumps({"command": "finetune", "cells": entries}))

    return write


@pytest.fixture
def missing(tmp_path):
    def find():
        tables, _ = compare(read_runs(tmp_path / "runs")[0])
        planned, left_out = read_plans(tmp_path / "sweeps", tmp_path / "runs")
        assert left_out == []
        found = missing_cells(tables, planned, read_failures(tmp_path / "runs")[0])
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


def test_plans_of_pretrainings_have_no_place_in_a_table(tmp_path):
    (tmp_path / "sweeps").mkdir()
    plan = {"command": "pretrain", "cells": [{"overrides": [], "run_dir": "x", "seed": 0}]}
    (tmp_path / "sweeps" / "p.json").write_text(json.dumps(plan))
    assert read_plans(tmp_path / "sweeps", tmp_path) == ([], [])


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
