import csv
import io
import json
import re

import pytest

from ssl_rs.reporting.csv_files import results_csv
from ssl_rs.reporting.protocols import Protocol
from ssl_rs.reporting.results import read_runs

SCORES = {"miou": 0.5, "overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}


def test_a_run_is_read_with_every_field(tmp_path, write_run):
    directory = write_run("a", label="imagenet", fraction=1, seed=3, miou=0.25, label_order="stratified")
    (directory / "environment.json").write_text('{"torch": "2.15"}')
    (run,), left_out = read_runs(tmp_path / "runs")
    assert left_out == []
    assert (run.directory, run.command, run.dataset, run.label, run.initialization) == (
        directory,
        "finetune",
        "tiny",
        "imagenet",
        "imagenet",
    )
    assert (run.label_fraction, run.labeled_units, run.seed, run.steps, run.label_order) == (
        1.0,
        100,
        3,
        20,
        "stratified",
    )
    assert run.scores["all_classes"].miou == 0.25
    assert run.scores["all_classes"].class_iou == {"water": 0.9, "land": None}
    assert run.classes[0].color == (0, 0, 255)
    assert run.environment == {"torch": "2.15"}
    assert run.weights_sha256 == "ab" * 32


def test_pretrainings_are_passed_over_and_order_follows_paths(tmp_path, write_run):
    write_run("c/deep", seed=2)
    write_run("b", seed=1)
    write_run("a", command="pretrain", protocols=None)
    runs, left_out = read_runs(tmp_path / "runs")
    assert [run.seed for run in runs] == [1, 2]
    assert left_out == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"miou": float("nan")}, "miou is nan"),
        ({"miou": 51.3}, r"miou is 51.3: expected a number in \[0, 1\]"),
        ({"miou": 10**400}, r"miou is 10+: expected a number in \[0, 1\]"),
        ({"label_fraction": 0}, "label_fraction is 0"),
        ({"label_fraction": "10pct"}, "label_fraction is '10pct': expected int or float"),
        ({"seed": True}, "seed is True: expected int"),
        ({"wall_seconds": float("inf")}, "wall_seconds is inf"),
        ({"wall_seconds": 1e308}, r"wall_seconds is 1e\+308: expected a number in"),
        ({"classes": [], "scene_confusions": {"full": {"s": []}}}, "classes is empty"),
        ({"command": "make coffee"}, "command is 'make coffee'"),
        ({"protocols": {}}, "protocols is empty"),
        ({"protocols": {"p": 3}}, "protocols.p is 3"),
        ({"protocols": {"p": {"miou": None, "overall_accuracy": None, "kappa": None}}}, "mean_f1 is missing"),
        ({"protocols": {"p": {**SCORES, "labels": "blurred"}}}, "labels of protocol p is 'blurred'"),
        ({"protocols": {"p": {**SCORES, "excluded": "land"}}}, "excluded of protocol p is 'land'"),
        ({"protocols": {"p": {**SCORES, "excluded": ["land"]}}}, "excluded_pixels of protocol p is None"),
        ({"protocols": {"p": {**SCORES, "excluded_pixels": "error"}}}, "excluded_pixels of protocol p is 'error'"),
        ({"provenance": None}, "provenance is None"),
        ({"classes": [{"name": "x", "color": "red"}]}, "color"),
        ({"classes": [{"name": "x", "color": [0, 0, 256]}]}, "color"),
        ({"classes": ["x"]}, "color"),
        ({"label": "\ud800"}, "no valid JSON"),
    ],
)
def test_results_of_the_wrong_kind_are_named_and_left_out(tmp_path, write_run, changes, reason):
    write_run("good")
    bad = write_run("bad", **changes)
    runs, (left_out,) = read_runs(tmp_path / "runs")
    assert len(runs) == 1
    assert left_out.path == bad / "result.json"
    assert re.search(reason, left_out.reason)


@pytest.mark.parametrize("content", [b"", b"{half", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_files_that_are_no_json_object_are_named_and_left_out(tmp_path, write_run, content):
    bad = write_run("bad")
    (bad / "result.json").write_bytes(content)
    runs, (left_out,) = read_runs(tmp_path / "runs")
    assert runs == []
    assert "no" in left_out.reason
    assert "JSON" in left_out.reason


@pytest.mark.parametrize("key", ["dataset", "label", "steps", "protocols", "classes", "manifest_sha256"])
def test_a_missing_key_is_named(tmp_path, write_run, key):
    bad = write_run("bad")
    content = json.loads((bad / "result.json").read_text())
    del content[key]
    (bad / "result.json").write_text(json.dumps(content))
    _, (left_out,) = read_runs(tmp_path / "runs")
    assert left_out.reason == f"{key} is missing"


def test_csv_names_how_each_of_six_rows_of_a_run_was_counted(tmp_path, write_run, six_protocols):
    write_run("a", protocols=six_protocols(0.5))
    write_run("b", seed=1, protocols=six_protocols(None))
    runs, left_out = read_runs(tmp_path / "runs")
    assert left_out == []
    text = results_csv(runs)
    assert "None" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    how = [(row["protocol"], row["labels"], row["excluded"], row["excluded_pixels"]) for row in rows]
    assert (
        how[:6]
        == how[6:]
        == [
            ("all_classes", "full", "", ""),
            ("clutter_as_error", "full", "land", "error"),
            ("clutter_ignored", "full", "land", "ignored"),
            ("all_classes_eroded", "eroded", "", ""),
            ("clutter_as_error_eroded", "eroded", "land", "error"),
            ("clutter_ignored_eroded", "eroded", "land", "ignored"),
        ]
    )
    for place, row in enumerate(rows[:6]):
        for metric in ("miou", "overall_accuracy", "mean_f1", "kappa", "iou/water"):
            assert float(row[metric]) == 0.5 + place / 100
        assert bool(row["iou/land"]) == (row["excluded"] == "")
    for row in rows[6:]:
        assert {row[key] for key in ("miou", "overall_accuracy", "mean_f1", "kappa", "iou/water")} == {""}


def test_results_from_before_protocols_were_described_have_full_labels(tmp_path, write_run):
    write_run("a")
    (run,), _ = read_runs(tmp_path / "runs")
    assert run.scores["all_classes"].protocol == Protocol("all_classes", "full", (), "")
    assert run.protocol == "all_classes"


def test_the_own_protocol_is_what_the_result_says(tmp_path, write_run, six_protocols):
    write_run("a", protocols=six_protocols(0.5), protocol="clutter_ignored_eroded")
    write_run("b", protocols=six_protocols(0.5), protocol="gone", seed=1)
    write_run("c", protocols=six_protocols(0.5), protocol=["all_classes"], seed=2)
    runs, _ = read_runs(tmp_path / "runs")
    assert [run.protocol for run in runs] == ["clutter_ignored_eroded", "all_classes", "all_classes"]


def test_csv_has_a_row_a_run_and_protocol_and_survives_commas_and_line_breaks(tmp_path, write_run):
    score = {"miou": 0.1, "overall_accuracy": 0.2, "mean_f1": 0.3, "kappa": None, "class_iou": {"roof, \n red": 0.4}}
    other = {**score, "miou": 0.9, "class_iou": {"tree": 0.5}}
    write_run("a", protocols={"six": score, "five": other}, label='say "hi", all')
    write_run("b", seed=1)
    runs, _ = read_runs(tmp_path / "runs")
    rows = list(csv.DictReader(io.StringIO(results_csv(runs))))
    assert [(row["protocol"], row["miou"], row["seed"]) for row in rows] == [
        ("six", "0.1", "0"),
        ("five", "0.9", "0"),
        ("all_classes", "0.5", "1"),
    ]
    assert rows[0]["label"] == 'say "hi", all'
    assert rows[0]["iou/roof, \n red"] == "0.4"
    assert rows[0]["kappa"] == rows[0]["iou/tree"] == rows[2]["iou/land"] == ""
    assert rows[2]["run"].endswith("runs/b")


def test_a_run_whose_environment_is_damaged_still_counts(tmp_path, write_run):
    path = write_run("a") / "environment.json"
    path.write_text("")
    (run,), (left_out,) = read_runs(tmp_path / "runs")
    assert (run.environment, left_out.path) == ({}, path)


def test_a_run_that_is_worse_than_chance_counts(tmp_path, write_run):
    score = {**SCORES, "class_iou": {}}
    for name, kappa in (("worse", -0.25), ("wrong", -1), ("beyond", -1.5)):
        write_run(name, protocols={"all_classes": {**score, "kappa": kappa}})
    runs, (left_out,) = read_runs(tmp_path / "runs")
    assert {run.directory.name: run.scores["all_classes"].kappa for run in runs} == {"worse": -0.25, "wrong": -1}
    assert left_out.path.parent.name == "beyond"


def test_what_is_told_of_classes_beside_several_protocols_is_no_ones(tmp_path, write_run):
    write_run("one", protocols={"p": SCORES}, class_iou={"water": 0.9})
    write_run("two", protocols={"p": SCORES, "q": SCORES}, class_iou={"water": 0.9})
    one, two = read_runs(tmp_path / "runs")[0]
    assert one.scores["p"].class_iou == {"water": 0.9}
    assert two.scores["p"].class_iou == two.scores["q"].class_iou == {}


def test_how_batch_norm_was_measured_is_told_of_random_weights_alone(tmp_path, write_run):
    """All others have statistics of their own."""
    for label in ("random", "tasks"):
        write_run(label, label=label, command="evaluate", probe={})
    random, tasks = read_runs(tmp_path / "runs")[0]
    assert random.settings["probe.batch_norm"] == "not told"
    assert "probe.batch_norm" not in tasks.settings
