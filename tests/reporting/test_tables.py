import pytest

from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.statistics import Summary
from ssl_rs.reporting.tables import compare, differing_settings
from ssl_rs.reporting.wording import OTHER_SEEDS, doubts_of_means


@pytest.fixture
def tables_of(tmp_path):
    def read():
        return compare(read_runs(tmp_path / "runs")[0])

    return read


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "other"),
        ("backbone", "resnet50"),
        ("decoder", "fpn"),
        ("steps", 21),
        ("label_unit", "scene"),
        ("label_order", "stratified"),
        ("manifest_sha256", "00" * 32),
        ("split", "val"),
    ],
)
def test_runs_that_must_not_be_mixed_get_tables_of_their_own(write_run, tables_of, key, value):
    write_run("a", miou=0.2)
    write_run("b", miou=0.8, seed=1, **{key: value})
    tables, _ = tables_of()
    assert sorted(table.miou("random", 0.1).mean for table in tables) == [0.2, 0.8]
    assert {getattr(table.comparison, key) for table in tables} >= {value}


def test_fine_tuning_on_test_scenes_comes_first_and_probes_last(write_run, tables_of):
    write_run("a", decoder="knn_probe", steps=0, miou=0.1)
    write_run("b", decoder="unet", steps=20, split="val", miou=0.2)
    write_run("c", decoder="unet", steps=20, miou=0.3)
    write_run("d", dataset="a_set", decoder="unet", steps=20, miou=0.4)
    tables, _ = tables_of()
    assert [table.miou("random", 0.1).mean for table in tables] == [0.4, 0.3, 0.2, 0.1]


def test_protocols_get_tables_of_their_own(write_run, tables_of):
    score = {"overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}
    write_run("a", protocols={"six": {"miou": 0.78, **score}, "five": {"miou": 0.86, **score}})
    tables, _ = tables_of()
    assert {table.protocol.name: table.miou("random", 0.1).mean for table in tables} == {"six": 0.78, "five": 0.86}


@pytest.mark.parametrize(
    "other", [{"labels": "eroded"}, {"excluded": ["land"], "excluded_pixels": "error"}, {"labels": "full"}]
)
def test_one_name_with_two_meanings_gets_two_tables(write_run, tables_of, other):
    score = {"overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}
    write_run("a", protocols={"p": {"miou": 0.2, **score}})
    write_run("b", seed=1, protocols={"p": {"miou": 0.4, **score, **other}})
    tables, _ = tables_of()
    assert len(tables) == (1 if other == {"labels": "full"} else 2)  # what older results do not say is full labels


def test_the_own_protocol_is_the_first_table(write_run, tables_of, six_protocols):
    write_run("a", protocols=six_protocols(0.5), protocol="clutter_ignored")
    tables, _ = tables_of()
    assert [table.protocol.name for table in tables] == [
        "clutter_ignored",
        "all_classes",
        "clutter_as_error",
        "all_classes_eroded",
        "clutter_as_error_eroded",
        "clutter_ignored_eroded",
    ]


def test_undefined_scores_are_left_out_of_cells(write_run, tables_of):
    write_run("a", miou=None)
    write_run("b", seed=1, miou=0.4)
    write_run("c", label="imagenet", miou=None)
    (table,), _ = tables_of()
    assert table.miou("random", 0.1) == Summary(0.4, None, 1)
    assert table.miou("imagenet", 0.1) is None
    assert len(table.cell("imagenet", 0.1)) == 1
    assert table.best(0.1) == []


def test_a_second_run_in_the_same_place_is_left_out_and_named(write_run, tables_of):
    first = write_run("a", miou=0.2)
    second = write_run("b", miou=0.8)
    (table,), (left_out,) = tables_of()
    assert table.miou("random", 0.1) == Summary(0.2, None, 1)
    assert left_out.path == second
    assert str(first) in left_out.reason
    assert "initialization.label" in left_out.reason


def test_a_run_that_is_left_out_is_in_no_table(write_run, tables_of):
    score = {"overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}
    write_run("a", miou=0.2)
    write_run("b", protocols={name: {"miou": 0.4, **score} for name in ("all_classes", "other")})
    (table,), (left_out,) = tables_of()
    assert (table.protocol.name, left_out.path.name) == ("all_classes", "b")


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


def test_one_odd_run_does_not_put_out_its_row(write_run, tables_of):
    odd = write_run("a", miou=0.1, settings_hash="odd", fraction=1.0)
    for seed in range(3):
        write_run(f"b{seed}", miou=0.6, seed=seed, settings_hash="usual")
    (table,), (left_out,) = tables_of()
    assert (table.miou("random", 0.1).mean, table.fractions) == (pytest.approx(0.6), [0.1])
    assert left_out.path == odd
    assert "its settings are not those of most other runs of the row 'random'" in left_out.reason


@pytest.mark.parametrize(
    ("changed", "left"), [({}, 0), ({"steps": 4500}, 1), ({"settings_hash": "other"}, 1), ({"settings_hash": None}, 0)]
)
def test_pretrainings_of_one_row_have_equal_settings(write_run, tables_of, changed, left):
    """One without a hash, of an earlier version, is told by what it has."""
    pretraining = {"settings_hash": "h", "steps": 1500, "images_seen": 48000, "dataset": "tiny", "seed": 0}
    for seed in range(3):
        own = pretraining | {"seed": seed} | (changed if seed == 0 else {})
        write_run(f"{seed}", label="tasks", seed=seed, provenance={"sha256": f"{seed}", "pretraining": own})
    (table,), left_out = tables_of()
    assert table.miou("tasks", 0.1).n == 3 - left
    assert len(left_out) == left
    assert all(
        "the settings of its pretraining are not those of the pretrainings of" in each.reason for each in left_out
    )


def test_runs_of_one_label_that_start_from_other_weights_are_no_seeds_of_one_another(write_run, tables_of):
    for seed, digest in enumerate(("ab", "ab", "cd")):
        provenance = {"kind": "imagenet", "label": "imagenet", "sha256": digest * 32}
        write_run(f"{digest}{seed}", label="imagenet", seed=seed, miou=0.7, provenance=provenance)
    for seed, start in enumerate(("random", "random", "imagenet")):
        write_run(f"{start}{seed}", label="mine", seed=seed, miou=0.4, initialization=start)
    (table,), left_out = tables_of()
    assert {label: table.miou(label, 0.1).n for label in table.labels} == {"imagenet": 2, "mine": 2}
    reasons = {each.path.name: each.reason for each in left_out}
    assert reasons["cd2"].startswith("it starts from another file of weights")
    assert reasons["imagenet2"].startswith("its weights start from imagenet, not as those of most")
    assert len(reasons) == 2


def test_the_same_seed_from_another_pretraining_is_another_run_but_no_further_seed(write_run, tables_of):
    write_run("a", label="tasks", miou=0.2, provenance={"sha256": "1"})
    write_run("b", label="tasks", miou=0.4, provenance={"sha256": "2"})
    (table,), left_out = tables_of()
    assert table.miou("tasks", 0.1) == Summary(pytest.approx(0.3), None, 1)
    assert len(table.cell("tasks", 0.1)) == 2
    assert left_out == []


def test_an_evaluation_gives_way_to_its_run_but_adds_protocols(write_run, tables_of):
    score = {"overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}
    protocols = {"all_classes": {"miou": 0.9, **score}, "eroded": {"miou": 0.7, **score}}
    write_run("a", command="evaluate", protocols=protocols)
    write_run("b", miou=0.2)
    tables, left_out = tables_of()
    assert {table.protocol.name: table.miou("random", 0.1) for table in tables} == {
        "all_classes": Summary(0.2, None, 1),
        "eroded": Summary(0.7, None, 1),
    }
    assert left_out == []


def test_a_second_evaluation_in_the_same_place_is_left_out_and_named(write_run, tables_of):
    for name, miou in (("a", 0.3), ("b", 0.7)):
        write_run(name, command="evaluate", split="val", miou=miou)
    (table,), (left_out,) = tables_of()
    assert table.miou("random", 0.1) == Summary(0.3, None, 1)
    assert left_out.path.name == "b"
    assert left_out.reason.endswith("/a, but other settings; delete one of the two")


def test_a_class_that_only_some_runs_predict_is_named(write_run, tables_of):
    for seed, land in enumerate((None, 0.0, None)):
        scores = {"overall_accuracy": 0.8, "mean_f1": 0.7, "kappa": 0.6, "class_iou": {"water": 0.6, "land": land}}
        write_run(f"{seed}", seed=seed, protocols={"all_classes": {"miou": 0.6 if land is None else 0.3, **scores}})
    (table,), _ = tables_of()
    assert table.classes_of_some_runs == ["land"]
    assert any(said.startswith("land: not in the test scenes") for said in doubts_of_means(table))


def test_rows_go_from_random_over_imagenet_to_pretrained_by_name(write_run, tables_of):
    for label in ("zebra", "imagenet", "ant", "random"):
        write_run(label, label=label)
    (table,), _ = tables_of()
    assert table.labels == ["random", "imagenet", "ant", "zebra"]


def test_settings_that_differ_between_rows_are_told(write_run, tmp_path):
    settings = {"optimizer.lr": 0.001, "trainer.batch_size": 16, "trainer.precision": "auto", "seed": 0}
    write_run("a", settings=settings, made_with={"precision": "fp32"})
    write_run("b", seed=1, settings={**settings, "seed": 1}, made_with={"precision": "fp32"})
    other = {**settings, "trainer.batch_size": 64, "initialization.label": "tasks"}
    write_run("c", label="tasks", settings=other, made_with={"precision": "bf16"})
    write_run("d", label="old")
    runs = read_runs(tmp_path / "runs")[0]
    assert differing_settings(runs) == {
        "trainer.batch_size": {"16": ["random"], "64": ["tasks"]},
        "trainer.precision": {"fp32": ["random"], "bf16": ["tasks"]},
    }
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    assert "<dt>trainer.batch_size</dt><dd>16 (random); 64 (tasks)</dd>" in page


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
        assert ("All seeds of tasks start from one pretraining each" in " ".join(text.split())) == one


def test_tables_that_read_alike_are_told_apart_by_the_settings_of_their_data(write_run, tables_of):
    for number, downsample in enumerate((2, 4)):
        settings = {"dataset.downsample": downsample, "optimizer.lr": downsample}
        write_run(f"{number}", manifest_sha256=f"{number}" * 64, settings=settings)
    write_run("untold", manifest_sha256="ab" * 32)
    tables, _ = tables_of()
    said = [table.setting.partition("labels by tile, ")[2] for table in tables]
    assert said == ["dataset.downsample=2", "dataset.downsample=4", "data abababab"]


def test_settings_that_vary_within_a_table_do_not_tell_it_apart(write_run, tables_of):
    for data in ("a", "b"):
        for label, side in (("random", 128), ("imagenet", 256)):
            settings = {"dataset.crop_size": side}
            write_run(f"{data}{side}", label=label, manifest_sha256=data * 64, settings=settings)
    tables, _ = tables_of()
    assert [table.apart for table in tables] == ["data aaaaaaaa", "data bbbbbbbb"]


def test_tables_whose_settings_read_alike_name_their_data_too(write_run, tables_of):
    for data, scale in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        write_run(data, manifest_sha256=data * 64, settings={"dataset.value_scale": scale})
    tables, _ = tables_of()
    read = "dataset.value_scale=1.0, data "
    assert [table.apart for table in tables] == [f"{read}aaaaaaaa", f"{read}bbbbbbbb", "dataset.value_scale=2.0"]


def test_tables_of_other_data_say_in_words_what_differs(write_run, tables_of):
    for data, scenes, units in (("a", 1, 50), ("b", 2, 60), ("c", 2, 60)):
        counts = {f"s{scene}": [[3, 1], [0, 4 if data == "c" else 2]] for scene in range(scenes)}
        given = {"manifest_sha256": data * 64, "scene_confusions": {"full": counts}}
        write_run(data, fraction=1.0, labeled_units=units, **given)
        write_run(f"{data}-few", fraction=0.1 if data == "a" else 0.2, labeled_units=5, **given)
    tables, _ = tables_of()
    assert [table.apart for table in tables] == [
        "data aaaaaaaa (1 test scene, 6 test pixels, all labels: 50 tiles)",
        "data bbbbbbbb (2 test scenes, 12 test pixels, all labels: 60 tiles)",
        "data cccccccc (2 test scenes, 16 test pixels, all labels: 60 tiles)",
    ]


def test_of_data_that_differ_only_what_differs_is_told(write_run, tables_of):
    for data, units in (("a", 1), ("b", 2)):
        counts = {"full": {"s": [[3, 1], [0, 4]]}}
        write_run(data, labeled_units=units, manifest_sha256=data * 64, scene_confusions=counts)
    share = "10\N{NO-BREAK SPACE}% of the labels:"
    write_run("a all", split="all", manifest_sha256="a" * 64, scene_confusions={"full": {"s": [[1, 0], [0, 0]]}})
    write_run("b all", split="all", manifest_sha256="b" * 64, scene_confusions={"full": {"s": [[2, 0], [0, 0]]}})
    said = {(table.comparison.split, table.apart) for table in tables_of()[0]}
    assert said == {
        ("test", f"data aaaaaaaa ({share} 1 tile)"), ("test", f"data bbbbbbbb ({share} 2 tiles)"),
        ("all", "data aaaaaaaa (1 pixels)"), ("all", "data bbbbbbbb (2 pixels)"),
    }  # fmt: skip


def test_tables_that_read_otherwise_say_no_more(write_run, tables_of):
    for steps in (100, 200):
        write_run(f"{steps}", steps=steps, manifest_sha256=f"{steps}", settings={"dataset.downsample": steps})
    tables, _ = tables_of()
    assert [table.apart for table in tables] == ["", ""]


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
