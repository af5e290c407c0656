"""What the runs of a table say together, and how it reads as CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from ssl_rs.reporting.bootstrap import percentile_interval, resampled_miou
from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.confusions import confusions_of
from ssl_rs.reporting.csv_files import differences_csv, labels_saved_csv, summary_csv
from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.sections import sections_of
from ssl_rs.reporting.statistics import LabelsSaved, labels_saved
from ssl_rs.reporting.study import study_of
from ssl_rs.reporting.text_tables import escape_latex, escape_markdown, tables_text
from ssl_rs.reporting.wording import OTHER_GROUPS, doubts_of_means, saved_sentence

FRACTIONS = (0.01, 0.1, 1.0)
CURVES = {"random": (0.1, 0.2, 0.3), "imagenet": (0.3, 0.4, 0.5), "tasks": (0.2, 0.4, 0.5)}


@pytest.fixture
def tables_of(tmp_path):
    def read():
        tables, left_out = compare(read_runs(tmp_path / "runs")[0])
        assert left_out == []
        return tables

    return read


@pytest.fixture
def write_study(write_run):
    """Write a run a label, fraction and seed: seeds differ by a point, and tasks gain half a point with each."""

    def write(seeds=(0, 1, 2)):
        for label, values in CURVES.items():
            for fraction, value in zip(FRACTIONS, values, strict=True):
                for seed in seeds:
                    miou = value + 0.01 * seed + (0.005 * seed if label == "tasks" else 0)
                    name = f"{label}/{fraction}/{seed}"
                    write_run(name, label=label, fraction=fraction, seed=seed, miou=miou, subset_sha256=f"{seed}")

    return write


def test_cells_differences_and_labels_saved_of_a_hand_made_study(write_study, tables_of):
    write_study()
    (table,) = tables_of()
    study = study_of(table)
    cells = {(cell.label, cell.fraction): cell for cell in study.cells}
    assert len(cells) == 9
    assert cells["random", 0.1].seeds.mean == pytest.approx(0.21)
    assert cells["random", 0.1].seeds.std == pytest.approx(0.01)
    assert (cells["random", 0.1].runs, cells["random", 0.1].pretrainings, cells["random", 0.1].scenes) == (
        3,
        None,
        None,
    )
    differences = {(each.label, each.reference, each.fraction): each for each in study.differences}
    assert set(differences) == {
        (*pair, fraction)
        for pair in (("imagenet", "random"), ("tasks", "random"), ("tasks", "imagenet"))
        for fraction in FRACTIONS
    }
    found = differences["tasks", "random", 0.1].seeds
    assert (found.mean, found.std, found.n) == (pytest.approx(0.205), pytest.approx(0.005), 3)
    assert differences["tasks", "random", 0.1].is_clear
    assert not differences["tasks", "imagenet", 0.1].is_clear
    assert study.saved["tasks"].fraction == pytest.approx(10 ** (-2 + 0.095 / 0.2))  # 0.31 of 0.205 ... 0.415 ...
    assert study.saved["imagenet"].at_smallest
    assert study.saved["random"].fraction == pytest.approx(1.0)
    assert study.random == "random"
    assert study.saturation is None


def test_random_that_needs_no_labels_is_told(write_run, tables_of):
    for fraction in (0.1, 1.0):
        write_run(f"r{fraction}", fraction=fraction, miou=0.5)
        write_run(f"t{fraction}", label="tasks", fraction=fraction, miou=0.55)
    (table,) = tables_of()
    assert study_of(table).saturation.fraction == 0.1


def test_what_random_needs_itself_is_said_beside_what_others_save(tmp_path, write_run):
    """Random initialization is as good with a tenth as with all labels: a row that needs a quarter saves nothing."""
    for label, values in {"random": (0.1, 0.31, 0.3), "tasks": (0.1, 0.2, 0.4)}.items():
        for fraction, value in zip(FRACTIONS, values, strict=True):
            write_run(f"{label}{fraction}", label=label, fraction=fraction, miou=value)
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    for text in (page.read_text(), *((page.parent / name).read_text() for name in ("table.md", "table.tex"))):
        plain = " ".join(text.replace("\\", "").replace("~", " ").split())
        assert "tasks reaches random initialization with all labels (30.0) with 32 % of the labels" in plain
        assert (
            "Random initialization itself reaches with 9 % of the labels (n = 1: no interval) what it reaches" in plain
        )


@pytest.mark.parametrize(("fraction", "said"), [(0.97, ""), (0.4, ": 2.5 times fewer"), (0.1, ": 10 times fewer")])
def test_how_many_times_fewer_is_said_where_it_is_more_than_once(fraction, said):
    found = LabelsSaved(fraction, None, 1, 0.01, 1.0, 0.5, None)
    share = f"{100 * fraction:.2g}\N{NO-BREAK SPACE}%"
    expected = f"a reaches random initialization with all labels (50.0) with {share} of the labels{said} (n = 1"
    assert saved_sentence("a", found).startswith(expected)
    at_smallest = replace(found, smallest=fraction)
    assert f"measured, {share} of the labels{said}, or better" in saved_sentence("a", at_smallest)


def test_rows_of_random_initialization_that_cannot_be_told_apart_are_told(tmp_path, write_run):
    for label in ("random_1e-3", "random_3e-3", "tasks"):
        kind = "pretrained" if label == "tasks" else "random"
        write_run(label, label=label, initialization=kind, fraction=1.0)
    write_run("few", label="tasks", fraction=0.1)
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    assert "several rows start from random weights (random_1e-3, random_3e-3). Label one of them random." in page
    write_run("random", label="random", fraction=1.0, miou=0.1)
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    assert "Labels saved cannot be computed" not in page
    assert "tasks reaches random initialization with all labels (10.0)" in page


def test_runs_on_other_subsets_are_no_pairs(write_run, tables_of):
    write_run("a", subset_sha256="1")
    write_run("b", label="tasks", subset_sha256="2")
    (table,) = tables_of()
    assert study_of(table).differences == []


def test_crossed_pretrainings_are_averaged_within_a_seed(write_run, tables_of):
    values = {(0, "p"): 0.50, (0, "q"): 0.54, (1, "p"): 0.52, (1, "q"): 0.60}
    for (seed, weights), value in values.items():
        write_run(f"{seed}{weights}", label="tasks", seed=seed, miou=value, provenance={"sha256": weights})
        write_run(f"r{seed}{weights}", seed=seed, miou=0.4, provenance={}) if weights == "p" else None
    (table,) = tables_of()
    study = study_of(table)
    (cell,) = (cell for cell in study.cells if cell.label == "tasks")
    assert (cell.seeds.mean, cell.seeds.n, cell.runs) == (pytest.approx(0.54), 2, 4)
    assert cell.seeds.std == pytest.approx(0.04 / 2**0.5)  # of 0.52 and 0.56
    assert (cell.pretrainings.n, cell.pretrainings.std) == (2, pytest.approx(0.06 / 2**0.5))  # of 0.51 and 0.57
    (difference,) = study.differences
    assert (difference.seeds.mean, difference.seeds.n) == (pytest.approx(0.14), 2)


def scenes_of(seed, number=6):
    generator = np.random.default_rng(seed)
    return {f"scene{place}": generator.integers(1, 60, (2, 2)).tolist() for place in range(number)}


def test_confusions_are_summed_over_runs_and_scenes(write_run, tables_of, tmp_path):
    scenes = {"x": [[8, 2], [0, 0]], "y": [[1, 1], [0, 0]]}
    for seed in (0, 1):
        write_run(f"{seed}", seed=seed, scene_confusions={"full": scenes})
    write_run("untold", label="tasks")
    more = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    write_run(
        "odd", seed=2, scene_confusions={"full": {"x": more}}, classes=[{"name": n, "color": [0, 0, 0]} for n in "abc"]
    )
    (table,) = tables_of()
    (found,) = confusions_of(table)
    assert found.counts.tolist() == [[18, 6], [0, 0]]
    assert found.shares == [[0.75, 0.25], [None, None]]
    assert (found.producers_accuracy, found.users_accuracy) == ([0.75, None], [1.0, 0.0])
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    rows = rows_of((page.parent / "confusions.csv").read_text())
    assert [(row["truth"], row["prediction"], row["pixels"]) for row in rows][1] == (*found.names, "6")
    assert "user's accuracy" in page.read_text()


def test_scenes_are_drawn_alike_for_both_sides_of_a_difference(write_run, tables_of):
    scenes = {(label, seed): scenes_of(hash_of(label, seed)) for label in ("random", "tasks") for seed in (0, 1)}
    for (label, seed), found in scenes.items():
        turned = dict(reversed(found.items()))  # the order of the scenes means nothing
        write_run(f"{label}{seed}", label=label, seed=seed, scene_confusions={"full": turned})
    (table,) = tables_of()
    study = study_of(table)
    every = np.ones(2, bool)

    def drawn(label):
        each = [resampled_miou(np.array(list(scenes[label, seed].values())), every, every) for seed in (0, 1)]
        return (each[0] + each[1]) / 2

    cell = study.cells[0]
    assert (cell.label, cell.num_scenes) == ("random", 6)
    assert cell.scenes == pytest.approx(percentile_interval(drawn("random"), 6))
    assert study.differences[0].scenes == pytest.approx(percentile_interval(drawn("tasks") - drawn("random"), 6))


def test_scenes_of_one_group_are_drawn_as_one(write_run, tables_of, tmp_path):
    scenes = scenes_of(0, 18)
    groups = {name: f"place{int(name[5:]) % 6}" for name in scenes}
    write_run("a", scene_confusions={"full": scenes}, scene_groups=groups)
    places = dict.fromkeys(groups[name] for name in sorted(scenes))  # in the order of their first scenes
    pooled = np.array([np.sum([scenes[name] for name in scenes if groups[name] == place], axis=0) for place in places])
    every = np.ones(2, bool)
    (table,) = tables_of()
    (cell,) = study_of(table).cells
    assert cell.num_scenes == 6
    assert cell.scenes == pytest.approx(percentile_interval(resampled_miou(pooled, every, every), 6))
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    assert "over test scenes, those that lie together as one" in (tmp_path / "report" / "table.md").read_text()
    assert "pooled (test scenes, those that lie together as one)" in (tmp_path / "report" / "index.html").read_text()

    # What the runs say gives way to what the report is told: here five groups, of which nothing can be said.
    write_report(
        tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report", group_of=lambda name: str(int(name[5:]) % 5)
    )
    assert "over test scenes" not in (tmp_path / "report" / "table.md").read_text()


def test_runs_whose_scenes_lie_together_otherwise_share_no_interval(write_run, tables_of):
    write_run("a", scene_confusions={"full": scenes_of(0, 12)})
    groups = {f"scene{place}": f"place{place % 6}" for place in range(12)}
    write_run("b", label="tasks", scene_confusions={"full": scenes_of(1, 12)}, scene_groups=groups)
    (table,) = tables_of()
    study = study_of(table)
    assert [(cell.num_scenes, cell.scenes is None) for cell in study.cells] == [(12, False), (6, False)]
    assert study.differences[0].scenes is None
    assert table.any_groups_differ
    assert OTHER_GROUPS in doubts_of_means(table)


def test_groups_of_one_scene_each_are_none(write_run, tables_of):
    """However they are called: of MBRSC's validation scenes each Tile has one."""
    for label, groups in (("random", {}), ("tasks", {f"scene{place}": f"tile{9 - place}" for place in range(8)})):
        write_run(label, label=label, scene_confusions={"full": scenes_of(len(label), 8)}, scene_groups=groups)
    (table,) = tables_of()
    study = study_of(table)
    assert not table.any_groups_differ
    assert not study.in_groups
    assert study.differences[0].scenes is not None


def hash_of(label, seed):
    return len(label) * 10 + seed


@pytest.mark.parametrize(
    "other", [{}, {"scene_confusions": {"full": scenes_of(1, 4)}}, {"scene_confusions": {"eroded": scenes_of(1)}}]
)
def test_runs_that_do_not_know_the_same_scenes_have_no_interval_over_them(write_run, tables_of, other):
    write_run("a", scene_confusions={"full": scenes_of(0)})
    write_run("b", label="tasks", **other)
    write_run("c", seed=1, **other)
    (table,) = tables_of()
    study = study_of(table)
    assert study.cells[0].scenes is None
    assert study.differences[0].scenes is None


@pytest.mark.parametrize("number", [1, 5])
def test_few_test_scenes_have_no_interval(write_run, tables_of, number):
    write_run("a", scene_confusions={"full": scenes_of(0, number)})
    (table,) = tables_of()
    assert study_of(table).cells[0].scenes is None


def test_scenes_without_a_pixel_that_counts_are_none(write_run, tables_of):
    """Six scenes, of which one has no labeled pixel: five tell something, and five have no interval."""
    scenes = scenes_of(0, 6)
    write_run("a", scene_confusions={"full": scenes})
    (table,) = tables_of()
    assert study_of(table).cells[0].scenes is not None
    empty = {name: [[0, 0], [0, 0]] if name == min(scenes) else counts for name, counts in scenes.items()}
    write_run("b", label="imagenet", scene_confusions={"full": empty})
    (table,) = tables_of()
    assert [cell.scenes is None for cell in study_of(table).cells] == [False, True]


@pytest.mark.parametrize("counts", [[[1, 2]], [[1, 2], [3]], [[1, 2], [3, -1]], [[1, 2], [3, True]], "x", [[1, 2], 3]])
def test_broken_counts_are_named(tmp_path, write_run, counts):
    write_run("a", scene_confusions={"full": {"s": counts}})
    runs, (left_out,) = read_runs(tmp_path / "runs")
    assert runs == []
    assert "scene_confusions has" in left_out.reason


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_files_have_the_numbers_and_leave_empty_what_is_unknown(write_study, tables_of):
    write_study(seeds=(0,))
    (table,) = tables_of()
    studies = [(table, study_of(table))]
    row = rows_of(summary_csv(studies))[0]
    assert (row["label"], row["label_fraction"], row["miou_mean"], row["seeds"]) == ("random", "0.01", "0.1", "1")
    assert row["miou_std"] == row["miou_low"] == row["miou_scenes_low"] == row["scenes"] == row["pretrainings"] == ""
    row = rows_of(differences_csv(studies))[0]
    assert (row["label"], row["reference"], row["pairs"], row["difference_low"]) == ("imagenet", "random", "1", "")
    row = {row["label"]: row for row in rows_of(labels_saved_csv(studies))}["tasks"]
    assert float(row["fraction"]) == pytest.approx(0.1**1.5)
    assert row["fraction_low"] == row["falls_below_again_at"] == ""
    assert float(row["target_miou"]) == 0.3


def test_markdown_and_latex_say_the_same(write_study, tables_of):
    write_study()
    (table,) = tables_of()
    studies = [(table, study_of(table))]
    markdown, latex = (tables_text(studies, kind) for kind in ("markdown", "latex"))
    assert "| random | 11.0\xa0±\xa01.0 \\[8.5,\xa013.5\\], n\xa0=\xa03 |" in markdown
    assert r"random & \begin{tabular}[t]{@{}r@{}}11.0~$\pm$~1.0 \\ {[}8.5,~13.5], n~=~3\end{tabular} &" in latex
    assert "tasks reaches random initialization with all labels (31.0) with 3\xa0% of the labels" in markdown
    assert r"with 3~\% of the labels" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 2
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("| r")}
    assert widths == {5}
    assert "−" not in latex


def test_names_are_escaped():
    assert escape_latex(r"a_b & 5 % {x} \y [z] ~ ^ # $") == (
        r"a\_b \& 5 \% \{x\} \textbackslash{}y {[}z] \textasciitilde{} \textasciicircum{} \# \$"
    )
    assert escape_markdown("a|b *c* [d](e)\n<f>") == r"a\|b \*c\* \[d\](e) \<f\>"
    assert [escape_markdown(text) for text in ("&copy; x", "1. plain", "- minus", "12) x", "1.5 x", "-0.3")] == [
        r"\&copy; x", r"1\. plain", r"\- minus", r"12\) x", "1.5 x", "-0.3"
    ]  # fmt: skip
    assert escape_latex("37.5\N{NO-BREAK SPACE}%  *x* | y\n") == r"37.5~\% {*}x{*} \textbar{} y"


def test_the_table_is_rebuilt_from_bare_results(tmp_path, write_study, write_samples):
    """As they lie in git: result.json in folders, no weights, pictures, configs or plans."""
    write_study()
    for path in (tmp_path / "runs").rglob("result.json"):
        write_samples(path.parent)
        (path.parent / "environment.json").write_text("{}")
        bare = tmp_path / "docs/results" / path.relative_to(tmp_path / "runs")
        bare.parent.mkdir(parents=True)
        shutil.copy(path, bare)
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "one")
    page = write_report(tmp_path / "docs/results", tmp_path / "sweeps", tmp_path / "other").read_text()
    for name in ("summary.csv", "differences.csv", "labels_saved.csv", "table.md", "table.tex"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "other" / name).read_text()
    assert "<img" not in page
    assert "What is not in the tables" not in page


def test_the_page_shows_intervals_differences_and_labels_saved(tmp_path, write_study):
    write_study()
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "tasks reaches random initialization with all labels (31.0) with 3 % of the labels: 33 times fewer" in text
    assert "imagenet reaches random initialization with all labels (31.0) at the smallest share measured, 1 %" in text
    assert "Random initialization itself" not in text
    assert "+20.5 [+19.3, +21.7]" in text
    assert "[18.5, 23.5]" in text
    assert "Every other pair" not in text  # all are against random or imagenet


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not here")
def test_latex_takes_the_tables(tmp_path, write_study, write_run):
    write_study()
    write_run("long", label="imagenet, then inpainting + transform_prediction + contrastive")
    write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    assert (
        r"\raggedright imagenet, then inpainting + transform\_prediction" in (tmp_path / "report/table.tex").read_text()
    )
    paper = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{report/table}\end{document}"
    (tmp_path / "paper.tex").write_text(paper)
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_pairs_of_neither_random_nor_imagenet_come_second(tmp_path, write_run):
    for label, miou in (("random", 0.4), ("one", 0.5), ("two", 0.6), ("three", 0.7)):
        write_run(label, label=label, miou=miou)
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
    assert "Every other pair" in page.read_text()
    for name in ("table.md", "table.tex"):
        text = (page.parent / name).read_text()
        assert "(3 more, between other rows, are in differences.csv)" in text
        assert text.count("random") == 4  # its own row, and what each of three is measured by
    assert len(rows_of((page.parent / "differences.csv").read_text())) == 6


def test_the_page_warns_where_labels_did_not_limit_random_initialization(tmp_path, write_run):
    for label in ("random", "tasks"):
        for fraction in (0.1, 1.0):
            write_run(f"{label}{fraction}", label=label, fraction=fraction, miou=0.5)
    page = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report").read_text()
    assert "Random initialization itself reaches with 10 % of the labels" in " ".join(page.split())
    assert "n = 1: no interval" in page


EVERY = np.ones(2, bool)
SCORES = {"miou": 0.5, "overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5}


def drawn_of(scenes, counted=EVERY, scored=EVERY):
    return resampled_miou(np.array(list(scenes.values())), counted, scored)


def test_the_interval_of_a_difference_is_over_the_pairs_alone(write_run, tables_of):
    scenes = {(label, seed): scenes_of(10 * len(label) + seed) for label in ("random", "tasks") for seed in (0, 1, 2)}
    for (label, seed), found in scenes.items():
        if (label, seed) != ("tasks", 2):  # so that seed 2 of random has no partner
            write_run(f"{label}{seed}", label=label, seed=seed, scene_confusions={"full": found})
    (table,) = tables_of()
    (difference,) = study_of(table).differences
    sides = [np.mean([drawn_of(scenes[label, seed]) for seed in (0, 1)], axis=0) for label in ("tasks", "random")]
    assert difference.seeds.n == 2
    assert difference.scenes == pytest.approx(percentile_interval(sides[0] - sides[1], 6))


def test_resampled_scenes_are_averaged_within_a_seed_first(write_run, tables_of):
    scenes = {pair: scenes_of(place) for place, pair in enumerate([(0, "p"), (0, "q"), (0, "r"), (1, "p")])}
    for (seed, weights), found in scenes.items():
        start = {"provenance": {"sha256": weights}, "scene_confusions": {"full": found}}
        write_run(f"{seed}{weights}", label="tasks", seed=seed, **start)
    (table,) = tables_of()
    (cell,) = study_of(table).cells
    drawn = {pair: drawn_of(found) for pair, found in scenes.items()}
    expected = (np.mean([drawn[0, weights] for weights in "pqr"], axis=0) + drawn[1, "p"]) / 2
    assert cell.scenes == pytest.approx(percentile_interval(expected, 6))


def test_a_clear_loss_is_as_clear_as_a_clear_gain(write_run, tables_of):
    for label, values in {"random": (0.5, 0.52, 0.54), "imagenet": (0.4, 0.421, 0.439)}.items():
        for seed, miou in enumerate(values):
            write_run(f"{label}{seed}", label=label, seed=seed, miou=miou)
    (table,) = tables_of()
    (difference,) = study_of(table).differences
    assert difference.seeds.interval.high < 0
    assert difference.is_clear


@pytest.mark.parametrize("how", ["error", "ignored"])
def test_scenes_are_resampled_by_the_protocol_of_the_table(write_run, tables_of, how):
    scenes = scenes_of(0)
    protocols = {"p": {**SCORES, "excluded": ["land"], "excluded_pixels": how, "labels": "full"}}
    write_run("a", protocols=protocols, scene_confusions={"full": scenes})
    (table,) = tables_of()
    scored = np.array([True, False])  # water, land
    expected = drawn_of(scenes, scored if how == "ignored" else EVERY, scored)
    assert study_of(table).cells[0].scenes == pytest.approx(percentile_interval(expected, 6))


@pytest.mark.parametrize("how", ["error", "ignored"])
def test_confusions_leave_out_what_the_protocol_ignores(write_run, tables_of, how):
    protocols = {"p": {**SCORES, "excluded": ["land"], "excluded_pixels": how, "labels": "full"}}
    write_run("a", protocols=protocols, scene_confusions={"full": {"x": [[8, 2], [3, 4]]}})
    (table,) = tables_of()
    (found,) = confusions_of(table)
    assert found.counts.tolist() == [[8, 2], [0, 0] if how == "ignored" else [3, 4]]


@pytest.fixture
def crossed(write_run, tables_of):
    """A table of two rows and seeds, of which one starts from two pretrainings, and what it says."""
    for label in ("random", "tasks"):
        for seed in (0, 1):
            for weights in "pq" if label == "tasks" else "p":
                miou = 0.4 + 0.1 * (label == "tasks") + 0.013 * seed + 0.05 * (weights == "q")
                scenes = scenes_of(10 * len(label) + seed + (weights == "q"))
                write_run(
                    f"{label}{seed}{weights}", label=label, seed=seed, miou=miou, fraction=1.0,
                    provenance={"sha256": weights}, scene_confusions={"full": scenes},
                )  # fmt: skip
    (table,) = tables_of()
    return table, study_of(table)


def ends_of(row, name):
    return [float(row[f"{name}_{key}"]) for key in ("low", "high", "scenes_low", "scenes_high")]


def test_summary_csv_has_the_ends_of_its_intervals(crossed):
    for row, cell in zip(rows_of(summary_csv([crossed])), crossed[1].cells, strict=True):
        assert ends_of(row, "miou") == [*cell.seeds.interval, *cell.scenes]


def test_differences_csv_has_the_ends_of_its_intervals(crossed):
    (row,), (difference,) = rows_of(differences_csv([crossed])), crossed[1].differences
    assert ends_of(row, "difference") == [*difference.seeds.interval, *difference.scenes]


def test_summary_csv_tells_the_spread_over_pretrainings(crossed):
    stds = [row["miou_pretrainings_std"] for row in rows_of(summary_csv([crossed]))]
    assert stds == ["", str(crossed[1].cells[1].pretrainings.std)]


def test_labels_saved_csv_says_where_a_curve_falls_again(write_run, tables_of):
    for label, values in {"random": (0.1, 0.1, 0.3), "tasks": (0.2, 0.4, 0.25)}.items():
        for fraction, miou in zip((0.01, 0.1, 1.0), values, strict=True):
            write_run(f"{label}{fraction}", label=label, fraction=fraction, miou=miou)
    (table,) = tables_of()
    row = {each["label"]: each for each in rows_of(labels_saved_csv([(table, study_of(table))]))}
    assert (row["tasks"]["falls_below_again_at"], row["random"]["falls_below_again_at"]) == ("1.0", "")


@pytest.mark.parametrize("told", [True, False])
def test_labels_saved_count_the_labels_that_there_were(write_run, tables_of, told):
    """1 % and 5 % of 24 scenes are one scene; results of earlier versions tell 24 only where all are labeled."""
    units = {0.01: 1, 0.05: 1, 0.5: 12, 1.0: 24}
    curves = {"random": {0.01: 0.1, 0.05: 0.1, 0.5: 0.4, 1.0: 0.6}, "tasks": {0.01: 0.2, 0.05: 0.2, 0.5: 0.8}}
    for label, curve in curves.items():
        for fraction, miou in curve.items():
            total = {"total_units": 24} if told else {}
            given = {"labeled_units": units[fraction], "label_unit": "scene", **total}
            write_run(f"{label}{fraction}", label=label, fraction=fraction, miou=miou, **given)
    (table,) = tables_of()
    found = study_of(table).saved["tasks"]
    assert (found.smallest, found.largest) == (1 / 24, 0.5)
    # 0.6 lies two thirds of the way from 0.2 to 0.8, over the logarithm of the labels
    assert found.fraction == pytest.approx(math.exp(math.log(1 / 24) + 2 / 3 * math.log(12)))
    (doubt,) = [said for said in doubts_of_means(table) if "rounded" in said]
    assert "whole scenes: 1\N{NO-BREAK SPACE}% are 4.2\N{NO-BREAK SPACE}%, 5\N{NO-BREAK SPACE}% are 4.2" in doubt


def test_pretrainings_of_a_seed_each_have_no_spread_of_their_own(write_run, tables_of):
    for seed in range(3):
        write_run(f"{seed}", label="tasks", seed=seed, miou=0.4 + 0.02 * seed, provenance={"sha256": f"{seed}"})
    (cell,) = study_of(tables_of()[0]).cells
    assert cell.pretrainings is None


def test_the_spread_of_pretrainings_is_over_the_seeds_that_all_of_them_have(write_run, tables_of):
    for weights, seed, miou in (("a", 0, 0.4), ("a", 1, 0.6), ("a", 2, 0.9), ("b", 0, 0.5), ("b", 1, 0.7)):
        write_run(f"{weights}{seed}", label="tasks", seed=seed, miou=miou, provenance={"sha256": weights})
    (cell,) = study_of(tables_of()[0]).cells
    assert (cell.pretrainings.mean, cell.pretrainings.n) == (pytest.approx(0.55), 2)


def test_each_class_has_its_own_column(write_run, tables_of):
    score = {"miou": 0.6, "overall_accuracy": 0.5, "mean_f1": 0.4, "kappa": 0.3}
    write_run("a", protocols={"all_classes": {**score, "class_iou": {"water": 0.9, "land": 0.2}}})
    ((section,), _) = sections_of(tables_of())
    ((_, _, found),) = section.tables[0].details
    assert section.tables[0].class_names == ["water", "land"]
    assert [each.mean for each in found] == [0.6, 0.5, 0.4, 0.3, 0.9, 0.2]


def test_weights_that_knew_the_labels_save_none(write_run, tables_of):
    seen = {"kind": "finetuned", "sha256": "ab" * 32, "pretraining": {"training_labels_seen": 4}}
    for fraction, (plain, knowing) in {0.1: (0.1, 0.4), 1.0: (0.3, 0.5)}.items():
        write_run(f"r{fraction}", fraction=fraction, miou=plain)
        write_run(f"t{fraction}", label="mine", fraction=fraction, miou=knowing, provenance=seen)
    (table,) = tables_of()
    assert set(study_of(table).saved) <= {"random"}


def test_a_row_that_was_tried_with_all_labels_alone_saves_none(write_run, tables_of):
    for label, miou in (("random", 0.3), ("tasks", 0.4)):
        write_run(f"{label}all", label=label, fraction=1.0, miou=miou)
    assert study_of(tables_of()[0]).saved == {}
    for label in ("random", "imagenet"):
        write_run(f"{label}few", label=label, fraction=0.1, miou=0.2)
    assert set(study_of(tables_of()[0]).saved) == {"random", "imagenet"}


def test_scenes_of_nothing_but_an_ignored_class_are_none(write_run, tables_of):
    """Six scenes, of which one is all clutter: by the protocol that ignores it, five tell something."""
    scenes = {**scenes_of(0, 5), "clutter": [[0, 0], [3, 4]]}
    protocols = {how: {**SCORES, "excluded": ["land"], "excluded_pixels": how} for how in ("error", "ignored")}
    write_run("a", protocols=protocols, scene_confusions={"full": scenes})
    scenes_told = {table.protocol.name: study_of(table).cells[0].num_scenes for table in tables_of()}
    assert scenes_told == {"error": 6, "ignored": 0}


def test_summary_csv_counts_pretrainings_apart_from_seeds(write_run, tables_of):
    for weights, seed in (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)):
        write_run(f"{weights}{seed}", label="tasks", seed=seed, provenance={"sha256": weights})
    (table,) = tables_of()
    (row,) = rows_of(summary_csv([(table, study_of(table))]))
    assert (row["runs"], row["seeds"], row["pretrainings"]) == ("6", "3", "2")


def test_published_weights_are_what_others_are_measured_by(write_run, tables_of):
    for label, kind in (("random", "random"), ("theirs", "file"), ("tasks", "pretrained"), ("more", "pretrained")):
        write_run(label, label=label, initialization=kind)
    (table,) = tables_of()
    study = study_of(table)
    assert study.references == {"random", "theirs"}
    assert {(each.label, each.reference) for each in study.other_differences} == {("tasks", "more")}


def test_draws_without_a_score_have_no_interval_and_stop_nothing(write_run, tables_of):
    """All is clutter, and the result says a score none the less."""
    score = {"miou": 0.5, "overall_accuracy": 1.0, "mean_f1": 0.5, "kappa": 0.0, "class_iou": {}}
    protocol = score | {"labels": "full", "excluded": ["land"], "excluded_pixels": "error"}
    scenes = {f"scene{place}": [[0, 0], [0, 9]] for place in range(6)}
    write_run("a", protocols={"clutter_as_error": protocol}, scene_confusions={"full": scenes})
    (table,) = tables_of()
    (cell,) = study_of(table).cells
    assert (cell.seeds.mean, cell.scenes) == (0.5, None)


@pytest.mark.parametrize(("fractions", "broken"), [((1.0,), 0), ((0.1, 1.0), 1)])
def test_a_long_name_is_broken_where_the_table_has_many_columns(write_run, tables_of, fractions, broken):
    for fraction in fractions:
        write_run(f"{fraction}", label="a name of more letters than a column should have", fraction=fraction)
    (table,) = tables_of()
    assert tables_text([(table, study_of(table))], "latex").count(r"\parbox") == broken


def test_labels_saved_over_fewer_seeds_than_the_curves_have_say_so():
    """The means that are drawn have all seeds."""
    reference = {0: 0.4}
    curves = {0: {0.1: 0.3, 1.0: 0.5}, 1: {0.1: 0.1, 1.0: 0.2}}
    said = saved_sentence("a", labels_saved(curves, reference))
    assert "n = 1 of 2, the others lack a cell: no interval" in said
    said = saved_sentence("a", labels_saved({**curves, 2: curves[0]}, {**reference, 1: 0.2}))
    assert "n = 2 of 3, the others lack a cell" in said
    assert "n = 2 seeds" in saved_sentence("a", labels_saved(curves, {**reference, 1: 0.2}))
