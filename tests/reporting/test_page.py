import csv
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ssl_rs.errors import InputError
from ssl_rs.reporting import page as page_module
from ssl_rs.reporting.page import duration_text, points_text, share_text, write_report

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
PROTOCOLS = (
    "all_classes",
    "clutter_as_error",
    "clutter_ignored",
    "all_classes_eroded",
    "clutter_as_error_eroded",
    "clutter_ignored_eroded",
)
FILES = (
    "cells.csv",
    "results.csv",
    "summary.csv",
    "differences.csv",
    "labels_saved.csv",
    "budgets.csv",
    "confusions.csv",
    "pretrainings.csv",
    "table.md",
    "table.tex",
)
VOID = {"meta", "img", "br", "path", "use", "line", "circle", "rect", "clippath", "wbr"}


class Page(HTMLParser):
    """Collects tags, links and the text of each cell, and checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open, self.cells = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


@pytest.fixture
def report(tmp_path):
    def write():
        path = write_report(tmp_path / "runs", tmp_path / "sweeps", tmp_path / "report")
        assert path == tmp_path / "report" / "index.html"
        return path.read_text(encoding="utf-8")

    return write


def protocol_parts(text):
    """Cut the page into what comes before the further protocols, and one part for each of them."""
    return text[: text.index("<h3>Where the weights")].split('<details class="protocol">')


def cells_of(text):
    return [" ".join(cell.split()) for cell in Page(text).cells]


def test_the_table_shows_mean_deviation_number_and_best(write_run, report):
    write_run("a", seed=0, miou=0.4)
    write_run("b", seed=1, miou=0.6)
    write_run("c", fraction=1.0, miou=0.45)
    write_run("d", label="imagenet", miou=0.3)
    write_run("e", label="imagenet", miou=0.3, seed=1)
    text = report()
    cells = cells_of(text)
    assert "50.0 ± 14.1[−77.1, 177.1]n = 2" in cells  # t of 1 degree of freedom: 12.7 times 14.1 / sqrt(2)
    assert "30.0 ± 0.0[30.0, 30.0]n = 2" in cells
    assert "45.0n = 1" in cells
    (best,) = re.findall(r'<td class="best"[^>]*>(.*?)</td>', text, re.DOTALL)
    assert "50.0" in best
    assert "protocol all_classes" in text
    assert "10 %10 tiles" in cells


def test_each_of_six_protocols_has_a_section_and_a_column_of_its_own(write_run, report, six_protocols):
    """Every score of the page is its own number, so that one in a foreign place shows."""
    for place, (label, fraction) in enumerate([("random", 0.1), ("random", 1.0), ("imagenet", 0.1), ("imagenet", 1.0)]):
        write_run(str(place), label=label, fraction=fraction, protocols=six_protocols(0.3 + 0.1 * place))
    text = report()
    before, *others = protocol_parts(text)
    own, overview = before.split("<h3>Every protocol")
    for number, (name, part) in enumerate(zip(PROTOCOLS, [own, *others], strict=True)):
        expected = {f"{100 * (0.3 + 0.1 * place) + number:.1f}" for place in range(4)}
        assert set(re.findall(r'class="mean">([\d.]+)<', part)) == expected
        assert f"protocol {name}<" in part
        assert part.count("<figure") == 1
    table = overview[overview.index("<tbody>") : overview.index("</tbody>")]
    rows = [re.findall(r'class="mean">([\d.]+)<', row) for row in table.split("</tr>")]
    assert rows[:4] == [[f"{100 * (0.3 + 0.1 * place) + number:.1f}" for number in range(6)] for place in range(4)]
    heads = [re.sub(r"<[^>]+>", "", head) for head in re.findall(r"<th scope=\"col\">(.*?)</th>", overview)]
    assert heads[:8] == ["initialization", "labels", *PROTOCOLS]
    Page(text)


def test_each_protocol_says_what_it_means(write_run, report, six_protocols):
    write_run("a", protocols=six_protocols(0.5), protocol="clutter_as_error_eroded")
    text = report()
    own, *others = text.split('<details class="protocol">')
    assert "Protocol clutter_as_error_eroded <small>the data set's own</small>" in own
    assert "1 class; pixels of land count as errors where they were given one of these; labels eroded by 3 px" in own
    said = [other.partition("</summary>")[0] for other in others]
    assert len(said) == 5
    assert "2 classes; full labels." in said[0]
    assert "1 class; pixels of land count nowhere; full labels." in said[2]
    assert "2 classes; labels eroded by 3 px" in said[3]


def test_undefined_scores_are_dashes_and_the_page_has_them_all(write_run, report, six_protocols):
    protocols = six_protocols(0.5) | {
        name: score for name, score in six_protocols(None).items() if name.endswith("eroded")
    }
    for fraction in (0.1, 1.0):
        write_run(f"{fraction}", fraction=fraction, protocols=protocols)
    text = report()
    _, *others = protocol_parts(text)
    assert [other.count("<figure") for other in others] == [1, 1, 0, 0, 0]
    cells = [" ".join(cell.split()) for cell in Page("<details>" + others[2]).cells]
    assert "–" in cells
    assert not any(re.search(r"\d\.\d", cell) for cell in cells)
    assert "None" not in text
    assert "nan" not in text


def test_a_cell_that_reaches_random_with_all_labels_is_marked(write_run, report):
    write_run("a", fraction=1.0, miou=0.5)
    write_run("b", fraction=0.1, miou=0.3)
    write_run("c", label="imagenet", fraction=0.1, miou=0.5)
    write_run("d", label="imagenet", fraction=0.2, miou=0.4)
    cells = cells_of(report())
    assert "50.0†n = 1" in cells
    assert sum("†" in cell for cell in cells) == 1
    write_run("e", fraction=0.2, miou=0.6)  # random initialization itself, with fewer labels
    cells = cells_of(report())
    assert "60.0†n = 1" in cells
    assert sum("†" in cell for cell in cells) == 2


def test_a_cell_of_other_seeds_than_random_with_all_labels_is_not_marked(write_run, report):
    for seed, miou in enumerate((0.7, 0.5, 0.5)):
        write_run(f"random{seed}", fraction=1.0, seed=seed, miou=miou)
    write_run("few", label="imagenet", fraction=0.1, miou=0.6)
    text = report()
    assert "†" not in text
    assert "Cells have different seeds: compare them by the paired differences" in " ".join(text.split())


def test_only_curves_of_an_earlier_report_are_removed(write_run, report, tmp_path):
    write_run("a", fraction=0.1)
    write_run("b", fraction=1.0)
    report()
    for name in ("curve_7.svg", "curve_1_for_paper.svg", "curve_old.svg"):
        (tmp_path / "report" / name).write_text("mine")
    report()
    assert {path.name for path in (tmp_path / "report").glob("curve_*")} == {
        "curve_1.svg", "curve_1_for_paper.svg", "curve_old.svg",
    }  # fmt: skip


def test_with_all_labels_alone_nothing_is_said_of_fewer(write_run, report):
    for seed in (0, 1, 2):
        write_run(f"a{seed}", fraction=1.0, seed=seed, miou=0.5 + seed / 100)
        write_run(f"b{seed}", label="imagenet", fraction=1.0, seed=seed, miou=0.6 + seed / 100)
    said = " ".join(report().split())
    assert "imagenet reaches random" not in said
    assert "Labels saved" not in said
    assert "with all labels only" not in said


def test_a_row_with_all_labels_alone_is_left_out_of_labels_saved(write_run, report, tmp_path):
    write_run("all", fraction=1.0, miou=0.5)
    write_run("imagenet", label="imagenet", fraction=1.0, miou=0.6)
    write_run("few", label="tasks", fraction=0.1, miou=0.6)
    said = " ".join(report().split())
    assert "imagenet reaches random" not in said
    assert "tasks reaches random initialization with all labels (50.0) at the smallest share measured, 10" in said
    with (tmp_path / "report/labels_saved.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"random", "tasks"}


def test_a_page_without_fine_tuning_on_its_own_data_asks_for_no_labels_saved(write_run, report):
    write_run("probe", decoder="knn_probe", steps=0)
    page = report()
    assert "<h1>How well do probes read frozen encoders?</h1>" in page
    assert "<title>How well do probes read frozen encoders: tiny</title>" in page
    assert "after fine-tuning" not in page
    write_run("other", command="evaluate", trained_on_manifest_sha256="a" * 64)
    assert "<h1>Probes, and scores on other data</h1>" in report()
    shutil.rmtree(write_run("own", seed=7).parent / "probe")
    page = report()
    assert "<h1>How many labels does pretraining save?</h1>" in page
    assert "<title>Label efficiency: tiny</title>" in page


def test_a_page_of_other_data_alone_says_so(write_run, report):
    write_run("other", command="evaluate", trained_on_manifest_sha256="a" * 64)
    assert "<h1>How do trained networks do on other data?</h1>" in report()


def test_the_page_needs_nothing_from_elsewhere(write_run, write_samples, report):
    write_samples(write_run("a"))
    page = Page(report())
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "img" in page.tags
    assert all(link.startswith(("data:image/png;base64,", "#")) or link in FILES for link in page.links)


def test_a_curve_is_drawn_from_two_label_fractions_on(write_run, report):
    write_run("a", fraction=0.1)
    assert "<figure" not in report()
    write_run("b", fraction=1.0)
    assert report().count("<figure") == 1


def test_each_curve_is_a_file_too_and_those_of_an_earlier_report_are_gone(write_run, report, tmp_path):
    write_run("a", fraction=0.1)
    write_run("b", fraction=1.0)
    report()
    (curve,) = (tmp_path / "report").glob("curve_*.svg")
    root = ElementTree.parse(curve).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert any("random" in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))
    curve.rename(curve.with_name("curve_7.svg"))
    assert f'href="{curve.name}"' in report()
    assert [path.name for path in curve.parent.glob("curve_*.svg")] == [curve.name]


def test_text_from_runs_never_becomes_html(write_run, write_samples, report, tmp_path):
    protocols = {
        HOSTILE: {"miou": 0.5, "overall_accuracy": 0.5, "mean_f1": 0.5, "kappa": 0.5, "class_iou": {HOSTILE: 0.5}}
    }
    shared = {"label": HOSTILE, "dataset": HOSTILE, "decoder": HOSTILE, "label_unit": HOSTILE, "protocols": protocols}
    write_run("full", fraction=1.0, manifest_sha256=HOSTILE, **shared)  # a second fraction: the curve is drawn too
    directory = write_run(
        "a",
        **shared,
        manifest_sha256=HOSTILE,
        classes=[{"name": HOSTILE, "color": [1, 2, 3]}],
        provenance={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
    )
    (directory / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    write_samples(directory, names=(HOSTILE,))
    broken = write_run("b", command=HOSTILE)
    (broken / "failure.json").write_text("{}")
    failed = tmp_path / "runs" / "c"
    failed.mkdir()
    failure = {"command": HOSTILE, "overrides": [HOSTILE], "error": HOSTILE}
    (failed / "failure.json").write_text(json.dumps(failure))
    text = report()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text
    assert "<figure" in text
    assert Page(text).tags.count("img") == 3


def test_missing_failed_and_left_out_are_named_with_commands(write_run, report, tmp_path):
    write_run("a", seed=0)
    write_run("b", seed=1, label="imagenet")
    cell = {
        "overrides": ["seed=1"],
        "run_dir": str(tmp_path / "runs/new"),
        "label": "random",
        "label_fraction": 0.1,
        "seed": 1,
    }
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/s.json").write_text(
        json.dumps({"command": "finetune", "cells": [cell, {**cell, "run_dir": str(tmp_path / "runs/failed")}]})
    )
    for name, error in (("failed", "out of memory"), ("stale", "of a plan that has changed")):
        (tmp_path / "runs" / name).mkdir()
        failure = {"command": "finetune", "overrides": ["seed=9"], "error": error}
        (tmp_path / "runs" / name / "failure.json").write_text(json.dumps(failure))
    (tmp_path / "runs/half").mkdir()
    (tmp_path / "runs/half/result.json").write_text("{")
    text = report()
    cells = cells_of(text)
    assert "python -m ssl_rs.finetune seed=1" in cells
    assert (
        '1 of the missing is a place of the tables that no sweep planned: <a href="cells.csv">cells.csv</a> names it.'
        in text
    )
    assert "<pre>out of memory</pre>" in text
    assert "of a plan that has changed" not in text
    assert "python -m ssl_rs.finetune seed=9" in text
    assert any("half/result.json" in cell for cell in cells)
    assert "2 results of finished runs" in text
    assert "2 missing cells" in text


def test_provenance_and_environment_are_told(write_run, report):
    pretraining = {
        "pretext": ["inpainting", "contrastive"],
        "steps": 1500,
        "final_losses": {"inpainting": 0.08123, "contrastive": 1.5},
    }
    provenance = {
        "kind": "pretrained",
        "label": "x",
        "source": "outputs/p",
        "sha256": "0123456789abcdef",
        "pretraining": pretraining,
    }
    for seed in range(5):
        directory = write_run(str(seed), label="x", seed=seed, provenance=provenance)
        (directory / "environment.json").write_text(
            json.dumps({"torch": "2.15", "command": f"seed={seed}", "cpu": seed % 2})
        )
    text = report()
    for key, value in {
        "sha256": "0123456789ab",
        "source": "outputs/p",
        "pretraining pretext": "inpainting, contrastive",
        "pretraining steps": "1,500",
        "pretraining final losses": "inpainting 0.08123 · contrastive 1.5",
        "torch": "2.15",
        "cpu": "0; 1",
        "command": "5 different values",
    }.items():
        assert f"<dt>{key}</dt><dd>{value}</dd>" in text
    assert text.count("<dd>0123456789ab</dd>") == 1  # once a row, not once a run


def test_the_same_runs_give_the_same_page_and_nothing_is_left_aside(write_run, report, tmp_path):
    write_run("a")
    assert report() == report()
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(["index.html", *FILES])
    assert sorted(page_module.FILES) == sorted(["index.html", *FILES])  # what no report may write over


def test_a_table_without_a_line_still_has_its_columns(write_run, report, tmp_path):
    write_run("a")
    report()
    for name in ("differences", "labels_saved", "budgets", "confusions"):
        (header,) = (tmp_path / f"report/{name}.csv").read_text().splitlines()
        assert header.startswith("dataset,backbone,decoder,"), name
        assert header.endswith(",protocol,labels,label"), name
    (header,) = (tmp_path / "report/pretrainings.csv").read_text().splitlines()
    assert header.startswith("pretext,dataset,backbone,start,seed,steps,")


def test_no_finished_run_names_the_key_and_what_was_left_out(tmp_path, write_run):
    with pytest.raises(InputError, match=r"(?s)runs=.*ssl_rs\.finetune"):
        write_report(tmp_path / "nowhere", tmp_path, tmp_path / "report")
    write_run("a", steps="many")
    with pytest.raises(InputError, match=r"steps is 'many'"):
        write_report(tmp_path / "runs", tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_numbers_read_well():
    assert [share_text(value) for value in (0.0037, 0.1, 1.0)] == [
        f"{n}\N{NO-BREAK SPACE}%" for n in ("0.37", "10", "100")
    ]
    assert points_text(0.5749) == "57.5"
    assert [duration_text(value).split()[1] for value in (12, 90, 7200)] == ["s", "min", "h"]
