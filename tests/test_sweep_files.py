"""The studies of conf/sweep/: their cells are planned as they say, and fine-tuning finds what pretraining left."""

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from ssl_rs import sweep
from ssl_rs.config_files import search_in
from ssl_rs.errors import SpentProcessError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.sweep import _read_failure, _tell_of_waiting
from ssl_rs.sweep_plan import Cell, plan_cells

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


def test_a_run_whose_result_cannot_be_read_is_not_finished(command, tiny):
    given = ("finetune", "-m", *tiny, "seed=0,1", "trainer.max_steps=1", "trainer.log_every_steps=1")
    assert command(*given)[0] == 0
    result = next(Path("outputs/finetune").rglob("seed1-*/result.json"))
    result.write_text(result.read_text()[:300])
    code, out, err = command(*given)
    assert code == 2
    assert "2 runs, 1 finished before" in out
    assert "1 of 2 runs are finished." in out
    assert f"{result} cannot be read" in err
    assert "Delete it: the same command then trains again" in err
    assert "Cells: 1 done, 1 failed, 0 missing, 0 stale\n" in command("report")[2]
    result.unlink()
    code, out, err = command(*given)
    assert code == 0, err
    assert "2 of 2 runs are finished." in out
    assert "Cells: 2 done, 0 failed, 0 missing, 0 stale\n" in command("report")[2]


def test_a_finished_run_whose_weights_are_damaged_is_a_failed_one(command, tiny):
    given = ("pretrain", "-m", *tiny, "seed=0,1", "trainer.max_steps=1", "trainer.log_every_steps=1")
    assert command(*given)[0] == 0
    encoder = next(Path("outputs/pretrain").rglob("seed1-*/encoder.safetensors"))
    whole = encoder.read_bytes()
    encoder.write_bytes(whole + b"0")
    code, out, err = command(*given)
    assert code == 2
    assert "1 of 2 runs are finished." in out
    assert f"{encoder} is not the file that its result.json names" in err
    encoder.write_bytes(whole)
    code, out, err = command(*given)
    assert code == 0, err
    assert "2 of 2 runs are finished." in out
    assert not list(Path("outputs").rglob("failure.json"))


def test_a_file_that_varies_something_is_a_sweep_though_it_does_not_say_so(command, tiny, tmp_path):
    (tmp_path / "mine/sweep").mkdir(parents=True)
    (tmp_path / "mine/sweep/bare.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
    )
    code, out, err = command(
        "pretrain", *tiny, "--config-dir", str(tmp_path / "mine"), "sweep=bare", "trainer.max_steps=1"
    )
    assert code == 0, err
    assert "2 of 2 runs are finished." in out


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


@pytest.mark.parametrize("wrong", ["optimizer.lr=-1", "decoder=deeplabv3plus backbone=vgg16_bn"])
@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_what_no_run_of_a_sweep_can_use_is_refused_before_data_is_prepared(command, unprepared, start, wrong):
    code, _, err = command("finetune", "-m", *unprepared, "seed=0,1", f"initialization={start}", *wrong.split())
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not Path("outputs").exists()


def test_why_a_single_run_waits_is_told_before_the_first_one_trains(capsys):
    cells = [
        Cell(("a=1",), Path("a"), {"waits_for_weights": True, "lacks": "no simcrl. Did you mean 'simclr'?"}),
        Cell(("a=2",), Path("b"), {"waits_for_weights": False}),
    ]
    _tell_of_waiting(cells)
    said = "1 of them starts from weights that are not there yet and will fail, the others run. The first: a=1\n"
    assert capsys.readouterr().err == f"{said}  no simcrl. Did you mean 'simclr'?\n"
    _tell_of_waiting(cells[1:])
    assert capsys.readouterr().err == ""
    _tell_of_waiting([Cell(("a=3",), Path("c"), {"waits_for_weights": True, "lacks": f"no {i}."}) for i in range(7)])
    told = capsys.readouterr().err.splitlines()
    assert told[-3:] == ["a=3", "  no 4.", "and for 2 more reasons"]


def test_weights_that_are_not_there_yet_fail_alone(command, tiny):
    code, _, err = command("finetune", "-m", *tiny, "initialization=file", "initialization.weights=a.pth,b.pth")
    assert code == 2
    assert "2 of them start from weights that are not there yet and will fail. The first: " in err
    start, _, rest = err.partition("\nfailed: ")
    assert [start.count(f"initialization.weights={name}: ") for name in ("a.pth", "b.pth")] == [1, 1]
    assert [rest.count(f"initialization.weights={name}: ") for name in ("a.pth", "b.pth")] == [1, 1]
    assert rest.count("are not there, for the reason told above.\n") == 2
    plan = json.loads(next(Path("outputs/sweeps").glob("*.json")).read_text())
    assert not any("lacks" in cell for cell in plan["cells"])
    failures = [json.loads(path.read_text())["error"] for path in Path("outputs").rglob("failure.json")]
    assert sorted(re.findall(r"weights=(\w\.pth)", " ".join(failures))) == ["a.pth", "b.pth"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 2, "Lower trainer.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "Lower trainer.batch_size"),
        (RuntimeError("upsample does not have a deterministic implementation. It"), 2, "trainer.deterministic=false"),
        (RuntimeError("shapes"), 1, "shapes"),
        (KeyError("nope"), 1, "failed: KeyError: 'nope'"),
    ],
)
def test_a_run_of_a_sweep_ends_as_it_would_alone(command, tiny, monkeypatch, error, code, said):
    def fails(_):
        raise error

    monkeypatch.setattr("ssl_rs.finetune.run", fails)
    found, _, err = command("finetune", "-m", *tiny, "seed=0,1")
    assert found == code
    assert err.count(said) >= 2
    failures = [json.loads(path.read_text()) for path in Path("outputs").rglob("failure.json")]
    assert [bool(failure["traceback"]) for failure in failures] == [code == 1] * 2


def test_a_key_of_all_options_of_a_sweep_is_given_to_each_run(command, tiny, monkeypatch):
    taken = []

    def run(settings):
        taken.append((settings.values["probe"]["_target_"].rpartition(".")[2], settings.values["probe"]["samples"]))
        return Path("somewhere")

    monkeypatch.setattr("ssl_rs.evaluate.run", run)
    chosen = (*tiny[:3], "encoder=random", "backbone=mobilenet_v2", "evaluation.window.size=32", "probe=linear,knn")
    _, _, err = command("evaluate", "-m", *chosen, "probe.samples=50")
    assert taken == [("LinearProbe", 50), ("NearestNeighbors", 50)], err
    code, _, err = command("evaluate", "-m", *chosen, "probe.iterations=5")
    assert (code, len(taken)) == (2, 2)
    assert "probe.iterations: evaluate has no such key. It is a key of probe=linear" in err


def test_a_process_that_is_spent_ends_the_sweep(command, tiny, monkeypatch):
    def fails(_):
        raise SpentProcessError("It could not be recorded.")

    monkeypatch.setattr("ssl_rs.finetune.run", fails)
    code, out, err = command("finetune", "-m", *tiny, "seed=0,1")
    assert code == 2
    assert out.count("-- ") == 1
    assert "It could not be recorded. The sweep ends here, since its other runs need a new process." in err
    assert "0 of 2 runs are finished." in out
    assert err.count("left out: ") == 1
    assert len(list(Path("outputs").rglob("failure.json"))) == 1


def test_two_sweeps_that_write_hydras_file_at_once_do_not_stop_each_other(command, tiny, monkeypatch):
    whole, path = sweep.run_cell, Path("outputs/sweeps/multirun.yaml")

    def run_cell(*arguments):
        whole(*arguments)
        path.write_text("seed: 0\nlogger: a\nlogger: b\n")  # the other's, while ours was still being written

    monkeypatch.setattr(sweep, "run_cell", run_cell)
    code, out, err = command("finetune", *tiny, "-m", "seed=0,1,2", "initialization=random", "trainer.max_steps=1")
    assert code == 0, err
    assert "3 of 3 runs are finished." in out


def test_a_run_that_another_process_works_on_is_no_failure(command, tiny):
    given = (*tiny, "seed=0,1", "initialization=random", "trainer.max_steps=1")
    cells, _ = plan_cells("finetune", given)
    run = RunDirectory(cells[1].run_dir)
    lock = run.lock()
    code, out, err = command("finetune", "-m", *given)
    assert code == 2
    assert "1 of 2 runs are finished." in out
    assert f"left out: {run.path} is in use by process {os.getpid()} on " in err
    assert "still at work: " in err
    assert err.count("failed") == 0
    assert not run.failure.exists()
    lock.close()
    assert run.held_by() is None
    code, out, err = command("finetune", "-m", *given)
    assert code == 0, err
    assert "2 of 2 runs are finished." in out


def test_a_sweep_of_ones_own_varies_whole_experiments(tiny, tmp_path):
    for name, text in {
        "sweep/mine": "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      experiment: short,long\n",
        "experiment/short": "trainer:\n  max_steps: 3\n",
        "experiment/long": "trainer:\n  max_steps: 7\n",
    }.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# @package _global_\n{text}")
    given = [argument for argument in tiny if not argument.startswith("trainer.max_steps")]
    cells, _ = plan_cells("finetune", [*search_in(tmp_path / "own"), "sweep=mine", *given])
    assert [[each for each in cell.overrides if each.startswith("experiment")] for cell in cells] == [
        ["experiment=short"],
        ["experiment=long"],
    ]
    assert len({cell.run_dir for cell in cells}) == 2


def test_a_folder_that_runs_would_share_is_refused_before_data_is_prepared(command, unprepared):
    code, _, err = command("finetune", "-m", *unprepared, "seed=0,1", "run_dir=mine")
    assert code == 2
    assert "Several runs of this sweep would share one folder" in err
    assert not Path("outputs/stores").exists()


def test_a_folder_of_its_own_for_each_run_can_be_named(tiny, tmp_path):
    cells, _ = plan_cells("finetune", [*tiny, "seed=0,1", f"run_dir={tmp_path}/mine-${{seed}}"])
    assert [cell.run_dir.name for cell in cells] == ["mine-0", "mine-1"]


@pytest.mark.parametrize("named", ["", "label: mine\n"])
def test_an_initialization_of_ones_own_may_leave_keys_to_their_defaults(tiny, tmp_path, named):
    path = tmp_path / "own" / "initialization" / "theirs.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"_target_: ssl_rs.initialization.Pretrained\n{named}")
    given = (*search_in(tmp_path / "own"), *tiny, "seed=0,1", "initialization=theirs")
    cells, _ = plan_cells("finetune", given)
    assert [cell.row["label"] for cell in cells] == ["mine" if named else "pretrained"] * 2
    assert len({cell.run_dir for cell in cells}) == 2
