import pytest


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


@pytest.mark.parametrize(("sources", "left"), [(("a.pth", "b.pth"), 0), (("a.pth, net.", "a.pth, other."), 1)])
def test_a_file_is_known_by_what_it_holds_and_what_is_taken_of_it_and_not_by_its_name(
    write_run, tables_of, sources, left
):
    for seed, source in enumerate((sources[0], *sources)):
        provenance = {"kind": "file", "label": "theirs", "sha256": "ab" * 32, "source": source}
        write_run(f"{seed}", label="theirs", seed=seed, initialization="file", provenance=provenance)
    _, left_out = tables_of()
    assert len(left_out) == left
    assert all(each.reason.startswith("it starts from another file of weights, or takes") for each in left_out)


def test_scores_of_a_run_give_it_no_further_vote(write_run, tables_of):
    odd = write_run("a", fraction=1.0, settings_hash="odd")
    for name in ("again", "and_again"):
        write_run(name, fraction=1.0, settings_hash="odd", command="evaluate")
    for seed in range(2):
        write_run(f"b{seed}", seed=seed, settings_hash="usual")
    (table,), left_out = tables_of()
    assert table.fractions == [0.1]
    assert odd in {each.path for each in left_out}
