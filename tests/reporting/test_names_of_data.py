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


def test_a_setting_that_varies_under_another_protocol_does_not_tell_tables_apart(write_run, tables_of, six_protocols):
    """Tables of one comparison bear one name, whichever runs each of their protocols knows."""
    both = {name: six_protocols(0.5)[name] for name in ("all_classes", "clutter_as_error")}
    for data, side in (("a", 64), ("b", 128)):
        given = {"manifest_sha256": data * 64, "protocols": both}
        write_run(f"{data} random", settings={"dataset.crop_size": side}, **given)
        given["protocols"] = {"all_classes": both["all_classes"]}
        write_run(f"{data} imagenet", label="imagenet", settings={"dataset.crop_size": 256}, **given)
    tables, _ = tables_of()
    assert {table.apart for table in tables} == {"data aaaaaaaa", "data bbbbbbbb"}


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


def test_tables_that_differ_in_their_steps_tell_their_data_where_these_are_others(write_run, tables_of):
    for steps, downsample in ((100, 2), (200, 2), (400, 8)):
        given = {"steps": steps, "manifest_sha256": f"{downsample}" * 64}
        write_run(f"{steps}", settings={"dataset.downsample": downsample}, **given)
    tables, _ = tables_of()
    assert [(table.comparison.steps, table.apart) for table in tables] == [
        (100, "dataset.downsample=2"), (200, "dataset.downsample=2"), (400, "dataset.downsample=8"),
    ]  # fmt: skip


def test_tables_of_the_same_data_say_no_more(write_run, tables_of):
    for steps in (100, 200):
        write_run(f"{steps}", steps=steps, settings={"dataset.crop_size": steps})
        write_run(f"{steps} val", steps=steps, split="val", manifest_sha256="a" * 64, settings={"dataset.val_share": 1})
    tables, _ = tables_of()
    assert [table.apart for table in tables] == [""] * 4
