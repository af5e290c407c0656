"""Pretrainings beside the runs that start from them."""

import csv
import json

import pytest

from ssl_rs.errors import InputError
from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.pretrainings import read_pretrainings

RESULT = {
    "command": "pretrain",
    "dataset": "tiny",
    "backbone": "resnet18",
    "initialization": "random",
    "provenance": {"kind": "random", "label": "random"},
    "pretext": ["inpainting", "contrastive"],
    "seed": 3,
    "steps": 1500,
    "images_seen": 48000,
    "wall_seconds": 754.0,
    "transductive": False,
    "final_losses": {"contrastive": 1.25, "inpainting": 0.0625},
    "final_metrics": {"contrastive/accuracy": 0.5, "inpainting/unrepaired_error": 0.25, "collapse/feature_std": 0.7},
    "collapse": {"feature_std": 0.75, "effective_rank": 40.4, "mean_pair_cosine": 0.1, "dimensions": 512},
}


@pytest.fixture
def write_pretraining(tmp_path):
    """Write OUTPUTS/pretrain/NAME/result.json."""

    def write(name, **changes):
        directory = tmp_path / "outputs/pretrain" / name
        directory.mkdir(parents=True)
        (directory / "result.json").write_text(json.dumps(RESULT | changes))
        return directory

    return write


def reported(tmp_path):
    said = []
    page = write_report(tmp_path / "outputs/finetune", tmp_path / "sweeps", tmp_path / "report", said.append)
    rows = list(csv.DictReader((tmp_path / "report/pretrainings.csv").read_text().splitlines()))
    return page.read_text(), rows, said


def test_what_each_task_came_to_stands_on_the_page_and_in_the_table(write_pretraining, tmp_path):
    """Without any fine-tuning too: one looks at pretrainings before."""
    one = write_pretraining("a")
    start = {"kind": "imagenet", "label": "imagenet"}
    changes = {"pretext": ["byol"], "final_losses": {"byol": 0.5}, "final_metrics": {}, "collapse": {}}
    write_pretraining("b", initialization="imagenet", provenance=start, transductive=True, **changes)
    page, rows, said = reported(tmp_path)
    assert "contrastive loss 1.25, accuracy 0.5<br>inpainting loss 0.0625, unrepaired_error 0.25<br>" in page
    assert "features std 0.75, effective rank 40 of 512" in page
    assert "imagenet, then byol (transductive)" in page
    assert "byol loss 0.5" in page
    assert "nothing is fine-tuned from them yet" in page
    assert said[0].startswith("Cells: 0 done")
    assert [row["run"] for row in rows] == [str(one), str(one.parent / "b")]
    first = rows[0]
    assert (first["pretext"], first["start"], first["seed"], first["images_seen"]) == (
        "inpainting + contrastive", "random", "3", "48000",
    )  # fmt: skip
    numbers = {key: float(first[key]) for key in ("loss/contrastive", "contrastive/accuracy", "collapse/feature_std")}
    assert numbers == {"loss/contrastive": 1.25, "contrastive/accuracy": 0.5, "collapse/feature_std": 0.7}
    assert float(first["final_collapse/effective_rank"]) == 40.4
    assert (rows[1]["contrastive/accuracy"], rows[1]["loss/byol"]) == ("", "0.5")


def test_those_below_the_runs_count_too_and_none_counts_twice(write_pretraining, tmp_path):
    one = write_pretraining("a")
    found, left_out = read_pretrainings(tmp_path / "outputs", one.parent, tmp_path / "none")
    assert ([each.directory for each in found], left_out) == ([one], [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": "many"}, "steps is 'many': expected int"),
        ({"seed": True}, "seed is True: expected int"),
        ({"pretext": None}, "pretext is None: expected list"),
        ({"transductive": 1}, "transductive is 1: expected bool"),
        ({"wall_seconds": float("inf")}, "wall_seconds is inf: expected a number in [0, 1e+12]"),
    ],
)
def test_a_damaged_result_is_left_out_with_the_reason(write_pretraining, tmp_path, changes, reason):
    write_pretraining("good")
    bad = write_pretraining("bad", **changes)
    found, left_out = read_pretrainings(tmp_path / "outputs/pretrain")
    assert [each.directory.name for each in found] == ["good"]
    assert [(each.path, each.reason) for each in left_out] == [(bad / "result.json", reason)]
    page, _, _ = reported(tmp_path)
    assert reason.replace("'", "&#39;") in page


def test_a_result_that_lacks_something_is_left_out_with_its_name(write_pretraining, tmp_path):
    directory = write_pretraining("bad")
    result = {key: value for key, value in RESULT.items() if key != "images_seen"}
    (directory / "result.json").write_text(json.dumps(result))
    _, left_out = read_pretrainings(tmp_path / "outputs/pretrain")
    assert [each.reason for each in left_out] == ["images_seen is missing"]


def test_no_run_at_all_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"holds no finished run \(RUN/result\.json of finetune, evaluate or pretrain\)"
    ):
        reported(tmp_path)


def test_pretrainings_beside_are_those_of_finetune_alone(write_pretraining, tmp_path):
    """A folder of one's own below outputs, e.g. of results that were kept, is told without what lies beside it."""
    write_pretraining("a")
    kept = tmp_path / "outputs/kept/pretrain"
    kept.mkdir(parents=True)
    (kept / "result.json").write_text(json.dumps(RESULT | {"seed": 7}))
    write_report(tmp_path / "outputs/kept", tmp_path / "sweeps", tmp_path / "report")
    rows = csv.DictReader((tmp_path / "report/pretrainings.csv").read_text().splitlines())
    assert [row["seed"] for row in rows] == ["7"]
