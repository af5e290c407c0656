import pytest

from ssl_rs.reporting.statistics import Summary


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


def test_rows_go_from_random_over_imagenet_to_pretrained_by_name(write_run, tables_of):
    for label in ("zebra", "imagenet", "ant", "random"):
        write_run(label, label=label)
    (table,), _ = tables_of()
    assert table.labels == ["random", "imagenet", "ant", "zebra"]


def test_tables_of_most_runs_come_first(write_run, tables_of):
    for steps, number in ((20, 1), (40, 3), (60, 2)):
        for seed in range(number):
            write_run(f"{steps}-{seed}", steps=steps, seed=seed)
    write_run("val", steps=80, split="val")
    assert [table.comparison.steps for table in tables_of()[0]] == [40, 60, 20, 80]


def test_runs_of_one_place_stand_in_the_order_of_their_weights(write_run, tables_of):
    for name, sha256 in (("a", "bb" * 32), ("b", "aa" * 32)):
        write_run(name, label="tasks", provenance={"kind": "pretrained", "sha256": sha256})
    (table,), _ = tables_of()
    assert [run.weights_sha256[:2] for run in table.runs] == ["aa", "bb"]
