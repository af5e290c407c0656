"""The same cells after more steps: has random initialization with all labels converged?"""

import csv
import itertools
import math

import pytest

from ssl_rs.reporting.budgets import budget_of
from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.variants import told_apart
from ssl_rs.reporting.wording import budget_sentence


@pytest.fixture
def budgets(tmp_path, write_run):
    """Write runs {steps: {(label, fraction): [mIoU of seed 0, 1, ...]}}; the budget of each table by its steps."""

    def make(scores, **changes):
        for steps, cells in scores.items():
            for (label, fraction), values in cells.items():
                for seed, miou in enumerate(values):
                    given = {"subset_sha256": f"{seed}-{fraction}", "steps": steps} | changes.get(f"of_{steps}", {})
                    write_run(
                        f"{steps}-{label}-{fraction}-{seed}",
                        label=label,
                        fraction=fraction,
                        seed=seed,
                        miou=miou,
                        **given,
                    )
        tables, left_out = compare(read_runs(tmp_path / "runs")[0])
        assert not left_out
        return {table.comparison.steps: budget_of(table, tables) for table in tables}

    return make


RANDOM, FEW = ("random", 1.0), ("pretrained", 0.1)


def test_twice_the_steps_are_compared_cell_by_cell_within_seeds(budgets):
    found = budgets(
        {20: {RANDOM: [0.60, 0.64, 0.62], FEW: [0.50, 0.51]}, 40: {RANDOM: [0.63, 0.66, 0.66], FEW: [0.49, 0.49]}}
    )
    assert found[40] is None
    budget = found[20]
    assert (budget.steps, budget.longer) == (20, 40)
    assert [(each.label, each.fraction) for each in budget.changes] == [RANDOM, FEW]
    random, few = budget.random, next(each for each in budget.changes if each.label == "pretrained")
    assert random.seeds.mean == pytest.approx(0.03)
    assert random.seeds.std == pytest.approx(0.01)
    assert random.error == pytest.approx(0.02 / math.sqrt(3))
    assert random.allowed == random.error
    assert (few.seeds.n, few.seeds.mean) == (2, pytest.approx(-0.015))
    assert budget.has_converged is False


@pytest.mark.parametrize(
    ("less", "more", "longer", "converged", "said"),
    [
        ([0.60, 0.64, 0.62], [0.61, 0.65, 0.63], 40, True, "has converged after 20 steps: 40 move its mean by +1.0"),
        ([0.60, 0.60, 0.60], [0.61, 0.61, 0.61], 40, False, "has not converged after 20 steps"),  # no error, 1 > 0.5
        ([0.60, 0.60, 0.60], [0.604, 0.604, 0.604], 40, True, "allowed are 0.5 (half a point"),
        ([0.60, 0.60, 0.60], [0.59, 0.59, 0.59], 40, False, "by −1.0 points"),
        ([0.60, 0.60, 0.60], [0.604, 0.604, 0.604], 30, None, "may have converged after 20 steps"),
        ([0.60, 0.60, 0.60], [0.61, 0.61, 0.61], 30, False, "has not converged after 20 steps: 30 move"),
        ([0.60], [0.604], 40, None, "n = 1, but that is one seed."),
        ([0.60], [0.604], 30, None, "n = 1, but that is one seed and less than twice the steps."),
        ([0.60], [0.64], 40, False, "has not converged"),
    ],
)
def test_it_has_converged_if_it_moves_by_less_than_its_error_or_half_a_point(
    budgets, less, more, longer, converged, said
):
    budget = budgets({20: {RANDOM: less}, longer: {RANDOM: more}})[20]
    assert budget.has_converged is converged
    assert said in budget_sentence(budget)


def test_the_nearest_number_that_is_twice_as_large_counts_or_else_the_largest(budgets):
    found = budgets({steps: {RANDOM: [0.5, 0.6]} for steps in (20, 30, 50, 90)})
    assert {steps: budget and budget.longer for steps, budget in found.items()} == {20: 50, 30: 90, 50: 90, 90: None}


def test_without_random_initialization_it_is_not_known(budgets):
    budget = budgets({20: {FEW: [0.5, 0.6]}, 40: {FEW: [0.6, 0.7]}})[20]
    assert budget.has_converged is None
    assert "Whether 20 steps are enough is not known: no row of random initialization" in budget_sentence(budget)


def test_fewer_labels_can_show_that_it_has_not_converged_and_not_that_it_has(budgets):
    cells = {("random", 0.1): [0.5, 0.6], ("random", 0.2): [0.6, 0.7]}
    budget = budgets({20: cells, 40: {**cells, ("random", 0.1): [0.9, 0.9]}})[20]
    assert (budget.random.fraction, budget.has_converged) == (0.2, None)
    assert "20\N{NO-BREAK SPACE}% of the labels may have converged" in budget_sentence(budget)
    assert "but that is not all labels." in budget_sentence(budget)


def test_fewer_labels_that_move_have_not_converged(budgets):
    budget = budgets({20: {("random", 0.1): [0.5, 0.52]}, 40: {("random", 0.1): [0.6, 0.62]}})[20]
    assert budget.has_converged is False
    assert "10\N{NO-BREAK SPACE}% of the labels has not converged after 20 steps" in budget_sentence(budget)


@pytest.mark.parametrize(
    "changes", [{"subset_sha256": "others"}, {"split": "val"}, {"decoder": "fpn"}, {"dataset": "other"}]
)
def test_what_differs_in_more_is_not_compared(budgets, changes):
    found = budgets({20: {RANDOM: [0.5]}, 40: {RANDOM: [0.6]}}, of_40=changes)
    assert found[20] is None


def test_other_settings_are_not_compared_where_they_are_told(budgets):
    told = [{"settings": {"trainer.max_steps": steps, "optimizer.lr": lr}} for steps, lr in ((20, 1e-3), (40, 3e-3))]
    assert budgets({20: {RANDOM: [0.5]}, 40: {RANDOM: [0.6]}}, of_20=told[0], of_40=told[1])[20] is None


def test_networks_trained_on_other_data_are_not_compared(budgets):
    other = {"command": "evaluate", "trained_on_manifest_sha256": "a" * 64}
    assert budgets({20: {RANDOM: [0.5]}, 40: {RANDOM: [0.6]}}, of_40=other)[20] is None


@pytest.mark.parametrize("change", [{"steps": 50}, {"settings_hash": "q"}, {"dataset": "other"}])
def test_other_pretrainings_are_not_compared(budgets, change):
    told = [
        {"provenance": {"sha256": "ab", "pretraining": {"steps": 5, "settings_hash": "p", "dataset": "tiny"} | more}}
        for more in ({}, change)
    ]
    scores = {20: {FEW: [0.5]}, 40: {FEW: [0.6]}}
    assert budgets(scores, of_20=told[0], of_40=told[1])[20] is None


@pytest.mark.parametrize(("more", "said"), [(0.66, True), (0.60, False)])
def test_labels_saved_are_told_with_whether_it_has_converged(tmp_path, budgets, more, said):
    budgets({20: {RANDOM: [0.60, 0.60], FEW: [0.62, 0.61]}, 40: {RANDOM: [more, more]}})
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    doubt = (
        "Random initialization with all labels has not converged after 20 steps: labels saved also measure how fast "
        "each initialization is optimized."
    )
    assert (doubt in page) is said
    assert (doubt in (tmp_path / "report/table.tex").read_text()) is said


def test_other_seeds_of_one_pretraining_are_compared(budgets):
    told = [
        {"provenance": {"sha256": name, "pretraining": {"steps": 5, "settings_hash": "p"}}} for name in ("ab", "cd")
    ]
    found = budgets({20: {FEW: [0.5]}, 40: {FEW: [0.6]}}, of_20=told[0], of_40=told[1])[20]
    assert found.changes[0].seeds.mean == pytest.approx(0.1)


def test_the_report_says_it_everywhere(tmp_path, budgets):
    budget = budgets({20: {RANDOM: [0.60, 0.64]}, 40: {RANDOM: [0.66, 0.68]}})[20]
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    said = budget_sentence(budget)
    assert said in page
    assert said in (tmp_path / "report/table.md").read_text().replace("\\", "")
    assert "Random initialization with all labels has not converged" in (tmp_path / "report/table.tex").read_text()
    (row,) = csv.DictReader((tmp_path / "report/budgets.csv").open())
    assert (row["steps"], row["longer_steps"], row["label"], row["pairs"]) == ("20", "40", "random", "2")
    assert float(row["change_mean"]) == pytest.approx(0.05)


def test_the_error_is_that_of_the_seeds_that_both_have(budgets):
    budget = budgets({20: {RANDOM: [0.60, 0.64, 0.90]}, 40: {RANDOM: [0.61, 0.65]}})[20]
    assert budget.random.seeds.n == 2
    assert budget.random.error == pytest.approx(0.02)  # half of what 0.60 and 0.64 differ by


def test_a_row_is_found_again_under_the_name_that_tells_it_apart(tmp_path, write_run):
    """Among the longer runs there are others, whose settings take the plain label away from these."""
    for steps, miou in ((20, 0.5), (40, 0.6)):
        settings = {"augmentation.flip": 0.0}
        write_run(f"{steps}", fraction=1.0, steps=steps, miou=miou, settings_hash=f"{steps}", settings=settings)
    for seed in range(3):
        settings = {"augmentation.flip": 0.5}
        write_run(f"flips{seed}", seed=seed, steps=40, miou=0.1, settings_hash="flips", settings=settings)
    tables, _ = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    short = next(table for table in tables if table.comparison.steps == 20)
    (change,) = budget_of(short, tables).changes
    assert (change.label, change.fraction, change.seeds.mean) == ("random", 1.0, pytest.approx(0.1))


def test_a_table_that_shares_no_cell_gives_way_to_the_next(budgets):
    found = budgets({20: {RANDOM: [0.5, 0.5]}, 40: {FEW: [0.6]}, 60: {RANDOM: [0.6, 0.6]}})
    assert (found[20].longer, found[20].random.seeds.mean) == (60, pytest.approx(0.1))


@pytest.mark.parametrize("rows", [1, 2])
def test_the_only_row_of_random_initialization_with_more_steps_tells_whether_it_has_converged(
    tmp_path, write_run, rows
):
    """The row so called has few labels and was not trained for longer."""
    for steps, miou in ((20, 0.5), (40, 0.6)):
        for decay in range(rows):
            settings = {"optimizer.weight_decay": decay + 0.5}
            name = f"{steps}-{decay}"
            write_run(name, fraction=1.0, steps=steps, miou=miou, settings_hash=name, settings=settings)
    for seed in range(3):
        write_run(f"few{seed}", seed=seed, settings_hash="few", settings={"optimizer.weight_decay": 0.0})
    tables, _ = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    budget = budget_of(next(table for table in tables if table.comparison.steps == 20), tables)
    assert len(budget.changes) == rows
    assert (budget.random is None) == (rows == 2)
    assert budget.has_converged is (False if rows == 1 else None)


def test_exactly_twice_the_steps_are_enough(budgets):
    found = budgets({steps: {RANDOM: [0.5, 0.6]} for steps in (20, 40, 90)})
    assert {steps: budget and budget.longer for steps, budget in found.items()} == {20: 40, 40: 90, 90: None}


def test_seeds_may_differ_where_settings_are_told(tmp_path, write_run):
    for steps, seed in itertools.product((20, 40), (0, 1)):
        told = {"trainer.max_steps": steps, "seed": seed, "label_fraction.fraction": 1.0}
        write_run(f"{steps}-{seed}", fraction=1.0, seed=seed, steps=steps, subset_sha256=f"{seed}", settings=told)
    tables, _ = compare(read_runs(tmp_path / "runs")[0])
    budget = budget_of(next(each for each in tables if each.comparison.steps == 20), tables)
    assert budget is not None
    assert budget.random.seeds.n == 2


def test_of_less_than_twice_the_steps_the_most_are_compared(budgets):
    assert budgets({steps: {RANDOM: [0.5, 0.6]} for steps in (20, 25, 30)})[20].longer == 30


def test_of_several_longer_rows_that_may_be_meant_the_one_of_the_same_name_is(tmp_path, write_run):
    """The run with fewer steps, of an earlier version, does not tell its settings."""
    write_run("short", fraction=1.0, steps=20, miou=0.5)
    for seed, (flip, miou) in enumerate(((0.0, 0.6), (0.0, 0.6), (0.5, 0.9))):
        told = {"settings_hash": str(flip), "settings": {"augmentation.flip": flip}}
        write_run(f"long{seed}", seed=0 if flip else seed, fraction=1.0, steps=40, miou=miou, **told)
    tables, _ = compare(told_apart(read_runs(tmp_path / "runs")[0]))
    longer = next(table for table in tables if table.comparison.steps == 40)
    assert longer.labels == ["random", "random, augmentation.flip=0.5"]
    budget = budget_of(next(table for table in tables if table.comparison.steps == 20), tables)
    assert budget.random.seeds.mean == pytest.approx(0.1)


def test_scores_by_another_protocol_are_not_compared(budgets):
    score = {"miou": 0.6, "overall_accuracy": 0.8, "mean_f1": 0.7, "kappa": 0.6, "class_iou": {}}
    assert budgets({20: {RANDOM: [0.5]}, 40: {RANDOM: [0.6]}}, of_40={"protocols": {"other": score}})[20] is None


def test_what_an_interval_does_not_exclude_is_its_farther_end(budgets):
    budget = budgets({20: {RANDOM: [0.6, 0.6, 0.6]}, 40: {RANDOM: [0.588, 0.598, 0.608]}})[20]
    assert budget.random.seeds.interval == pytest.approx((-0.0268, 0.0228), abs=1e-4)
    assert budget_sentence(budget).endswith("The interval does not exclude 2.7 points.")
