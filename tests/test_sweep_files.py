"""The studies of conf/sweep/: their cells are planned as they say, and fine-tuning finds what pretraining left."""

import itertools
import json
import re
from pathlib import Path

import pytest

from ssl_rs.sweep import _read_failure, plan_cells

pytestmark = pytest.mark.slow

PAPERS = ("inpainting", "transform_prediction", "contrastive")
METHODS = ("simclr", "moco_v2", "byol", "vicreg", "dense_contrastive")
SUBSETS = ["+".join(names) for size in (1, 2, 3) for names in itertools.combinations(PAPERS, size)]
STUDIES = {"pretext_ablation": SUBSETS, "methods": [SUBSETS[-1], *METHODS]}


@pytest.mark.parametrize("study", STUDIES)
def test_pretraining_plans_a_run_of_each(study, tiny):
    cells, _ = plan_cells("pretrain", [f"sweep={study}", *tiny])
    assert [cell.run_dir.parts[-2] for cell in cells] == STUDIES[study]
    assert [cell.row["label"] for cell in cells] == [name.replace("+", " + ") for name in STUDIES[study]]


@pytest.mark.parametrize("study", STUDIES)
def test_fine_tuning_plans_three_seeds_of_each_before_any_is_pretrained(study, tiny):
    cells, _ = plan_cells("finetune", [f"sweep={study}", *tiny])
    rows = [(cell.row["label"], cell.row["label_fraction"], cell.row["seed"]) for cell in cells]
    assert rows == [(name, 0.1, seed) for name in STUDIES[study] for seed in range(3)]
    assert len({cell.run_dir for cell in cells}) == len(cells)


def test_learning_rates_are_compared_on_validation_scenes_and_have_rows_of_their_own(command, tiny):
    given = (*tiny, "dataset.tile_size=32", "sweep=learning_rate")
    cells, _ = plan_cells("finetune", [*given, "initialization=random,imagenet"])
    assert len({cell.run_dir for cell in cells}) == 6
    assert {(cell.row["label_fraction"], cell.row["seed"], cell.row["split"]) for cell in cells} == {(0.1, 0, "val")}
    code, out, err = command(
        "finetune", *given, "initialization=random", "optimizer.lr=1e-3,3e-3", "trainer.max_steps=1",
        "trainer.log_every_steps=1",
    )  # fmt: skip
    assert code == 0, err
    code, out, err = command("report")
    assert code == 0, err
    table = (Path(out.strip().splitlines()[-1]).parent / "table.md").read_text()
    assert "val scenes" in table
    assert {"| random |", "| random, optimizer.lr=0.003 |"} <= set(
        re.findall(r"^\| random[^|]*\|", table, re.MULTILINE)
    )


def test_fine_tuning_takes_each_pretraining_of_the_study(command, tiny):
    some = ("transform_prediction", "inpainting+contrastive")
    chosen = ",".join(f"[{name.replace('+', ',')}]" for name in some)
    code, out, err = command("pretrain", *tiny, "sweep=pretext_ablation", f"pretext={chosen}")
    assert code == 0, err
    assert "2 of 2 runs are finished." in out
    code, out, err = command(
        "finetune", *tiny, "sweep=pretext_ablation", f"initialization.run={','.join(some)}", "seed=0",
        "trainer.max_steps=1", "trainer.log_every_steps=1",
    )  # fmt: skip
    assert code == 0, err
    assert "2 of 2 runs are finished." in out
    results = [json.loads(path.read_text()) for path in Path("outputs/finetune").rglob("result.json")]
    assert {result["label"] for result in results} == {name.replace("+", " + ") for name in some}
    sources = {result["label"]: Path(result["provenance"]["source"]).parent.name for result in results}
    assert sources == {name.replace("+", " + "): name for name in some}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"error": "x"}', "[" * 100_000, '{"error": "\\ud800"}', "\xff"]
)
def test_a_damaged_record_of_a_failure_is_told(tmp_path, text):
    path = tmp_path / "failure.json"
    path.write_bytes(text.encode("latin-1"))
    told, is_defect = _read_failure(path)
    assert told.startswith("its record cannot be read (")
    assert not is_defect
    path.write_text('{"error": "why", "traceback": "Traceback"}')
    assert _read_failure(path) == ("why", True)
    path.unlink()
    assert _read_failure(path) == ("it did not run", False)
