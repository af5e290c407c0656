import pytest

from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.statistics import Summary
from ssl_rs.reporting.wording import OTHER_SEEDS, doubts_of_means


def test_cells_hold_mean_deviation_and_number_of_their_own_runs(write_run, tables_of):
    write_run("a", seed=0, miou=0.4)
    write_run("b", seed=1, miou=0.6)
    write_run("c", fraction=1.0, miou=0.7)
    write_run("d", label="imagenet", miou=0.9)
    write_run("e", label="imagenet", seed=1, miou=0.9)
    (table,), left_out = tables_of()
    assert left_out == []
    assert (table.labels, table.fractions) == (["random", "imagenet"], [0.1, 1.0])
    assert table.miou("random", 0.1) == Summary(pytest.approx(0.5), pytest.approx(0.02**0.5), 2)
    assert table.miou("random", 1.0) == Summary(0.7, None, 1)
    assert table.miou("imagenet", 1.0) is None
    assert table.best(0.1) == ["imagenet"]
    assert table.best(1.0) == []  # nothing to compare with
    assert table.full_random() == Summary(0.7, None, 1)


def test_undefined_scores_are_left_out_of_cells(write_run, tables_of):
    write_run("a", miou=None)
    write_run("b", seed=1, miou=0.4)
    write_run("c", label="imagenet", miou=None)
    (table,), _ = tables_of()
    assert table.miou("random", 0.1) == Summary(0.4, None, 1)
    assert table.miou("imagenet", 0.1) is None
    assert len(table.cell("imagenet", 0.1)) == 1
    assert table.best(0.1) == []


def test_settings_that_are_hashed_alike_are_told_alike(write_run, tables_of):
    for seed, factor in enumerate((1, 1.0)):
        write_run(f"{seed}", seed=seed, settings_hash="s", settings={"trainer.encoder_lr_factor": factor, "seed": seed})
    (table,), _ = tables_of()
    assert table.mixed_rows == {}


@pytest.mark.parametrize(
    ("made", "key"),
    [
        ({"made_with": {"precision": "bf16"}}, "trainer.precision (fp32, bf16)"),
        ({"probe": {"batch_norm": "measured"}}, "probe.batch_norm (not told, measured)"),
    ],
)
def test_runs_of_a_row_that_were_made_otherwise_are_told(write_run, tables_of, made, key):
    usual = {"settings_hash": "s", "made_with": {"precision": "fp32"}, "probe": {}}
    write_run("a", seed=0, **usual)
    write_run("b", seed=1, **(usual | made))
    write_run("c", seed=0, label="imagenet", settings_hash="s")
    (table,), _ = tables_of()
    assert f"The runs of random were not all made alike: {key}." in doubts_of_means(table)
    assert table.mixed_rows.keys() == {"random"}


def test_the_same_seed_from_another_pretraining_is_another_run_but_no_further_seed(write_run, tables_of):
    write_run("a", label="tasks", miou=0.2, provenance={"sha256": "1"})
    write_run("b", label="tasks", miou=0.4, provenance={"sha256": "2"})
    (table,), left_out = tables_of()
    assert table.miou("tasks", 0.1) == Summary(pytest.approx(0.3), None, 1)
    assert len(table.cell("tasks", 0.1)) == 2
    assert left_out == []


def test_a_class_that_only_some_runs_predict_is_named(write_run, tables_of):
    for seed, land in enumerate((None, 0.0, None)):
        scores = {"overall_accuracy": 0.8, "mean_f1": 0.7, "kappa": 0.6, "class_iou": {"water": 0.6, "land": land}}
        write_run(f"{seed}", seed=seed, protocols={"all_classes": {"miou": 0.6 if land is None else 0.3, **scores}})
    (table,), _ = tables_of()
    assert table.classes_of_some_runs == ["land"]
    assert any(said.startswith("land: not in the test scenes") for said in doubts_of_means(table))


def test_columns_of_different_seeds_have_no_best_and_say_so(write_run, tmp_path, tables_of):
    for label, seed, miou in (("random", 0, 0.4), ("random", 1, 0.6), ("tasks", 0, 0.45)):
        write_run(f"{label}{seed}", label=label, seed=seed, miou=miou)
        write_run(f"{label}{seed}all", label=label, seed=0, fraction=1.0, miou=miou) if seed == 0 else None
    (table,), _ = tables_of()
    assert table.best(0.1) == []  # 50 and 45, but 40 and 45 with the seed of both
    assert table.best(1.0) == ["tasks"]
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    for text in (page.read_text(), *((page.parent / name).read_text() for name in ("table.md", "table.tex"))):
        assert OTHER_SEEDS in " ".join(text.split())


@pytest.mark.parametrize("weights", ["ab" * 32, "cd" * 32])
def test_rows_of_one_pretraining_are_said_to_hold_for_it_alone(write_run, tmp_path, tables_of, weights):
    for label, seed in (("random", 0), ("random", 1), ("tasks", 0), ("tasks", 1), ("single", 0)):
        provenance = {"kind": "pretrained", "label": label, "sha256": weights if seed else "ab" * 32}
        write_run(f"{label}{seed}", label=label, seed=seed, **({} if label == "random" else {"provenance": provenance}))
    (table,), _ = tables_of()
    one = weights == "ab" * 32
    assert table.of_one_pretraining == (["tasks"] if one else [])
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    for text in (page.read_text(), *((page.parent / name).read_text() for name in ("table.md", "table.tex"))):
        assert ("All seeds of tasks start from one pretraining: intervals" in " ".join(text.split())) == one


def test_a_table_says_on_which_other_data_its_networks_were_trained(write_run, tables_of, tmp_path):
    trained = {"command": "evaluate", "split": "all", "settings": {"dataset.name": "my_city"}}
    write_run("a", dataset="other_city", trained_on_manifest_sha256="a" * 64, **trained)
    write_run("b", dataset="my_city", trained_on_manifest_sha256="b" * 64, **trained)  # as earlier versions named it
    write_run("c", dataset="third_city", trained_on_manifest_sha256="c" * 64, **trained)
    write_run("own", dataset="third_city", seed=1, split="all")
    tables, _ = tables_of()
    assert {table.comparison.dataset: table.setting for table in tables} == {
        "other_city": "20 steps, all scenes, labels by tile, trained on my_city",
        "my_city": "20 steps, all scenes, labels by tile, trained on data bbbbbbbb",
        "third_city": "20 steps, all scenes, labels by tile",  # where some are, the rows of the others say it
    }
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    assert "scored on all scenes, trained on my_city (" in page.read_text()
    assert "trained on my\\_city; protocol" in (page.parent / "table.md").read_text()


def test_rows_that_are_equally_good_are_all_the_best(write_run, tables_of):
    for label in ("random", "tasks"):
        write_run(label, label=label, miou=0.5)
    (table,), _ = tables_of()
    assert table.best(0.1) == ["random", "tasks"]


@pytest.mark.parametrize(("device", "told"), [("cpu", {"random": ["cpu (one, other)"]}), ("NVIDIA H100", {})])
def test_processors_tell_runs_apart_where_they_computed(write_run, tables_of, device, told):
    for seed, cpu in enumerate(("one", "other")):
        write_run(f"{seed}", seed=seed, settings_hash="s", made_with={"device": device, "cpu": cpu})
    (table,), _ = tables_of()
    assert table.mixed_rows == told


def test_a_share_that_is_rounded_a_little_keeps_its_name(write_run, tables_of):
    for fraction, units in ((0.01, 2), (0.255, 26), (1.0, 100)):
        write_run(f"{units}", fraction=fraction, labeled_units=units, total_units=100)
    (table,), _ = tables_of()
    assert table.rounded_shares == {0.01: 0.02}
    assert table.share(0.255) == 0.255


def test_shares_are_of_the_units_of_their_own_row_where_no_run_tells_how_many_there_are(write_run, tables_of):
    """Of earlier versions; tiles of another size are others in number."""
    for label, units in (("random", (10, 100)), ("large tiles", (1, 4))):
        for fraction, count in zip((0.1, 1.0), units, strict=True):
            write_run(f"{label}{fraction}", label=label, fraction=fraction, labeled_units=count)
    (table,), _ = tables_of()
    assert table.share(0.1) == pytest.approx((0.1 + 0.25) / 2)


def test_no_share_is_more_than_all(write_run, tables_of):
    for fraction, units in ((0.8, 120), (1.0, 100)):
        write_run(f"{fraction}", fraction=fraction, labeled_units=units)
    (table,), _ = tables_of()
    assert table.share(0.8) == 1.0
