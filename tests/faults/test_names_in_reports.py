"""Names of strangers, of scenes, classes, runs or data sets, stay text in the report and data in its CSV."""

import csv
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Notes every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


INJECTION = """</title></svg></td><script>alert(1)</script><img src=x onerror=alert(1)>--><!--"'onload='x&lt;<b>"""


def write_runs(tuned, folder, text):
    """Write runs in which every text that may be a stranger's holds a text."""
    for number, fraction in enumerate((0.1, 1.0)):
        run = folder / text.replace("/", "") / f"{number}"
        shutil.copytree(tuned.path, run)
        result = json.loads(json.dumps(tuned.read_result()).replace('"a"', json.dumps(text)))
        result |= {"label_fraction": fraction, "provenance": {text: {text: [text]}}}
        result |= {
            key: f"{key} {text}" for key in ("dataset", "backbone", "decoder", "label", "label_unit", "label_order")
        }
        (run / "result.json").write_text(json.dumps(result))
        (run / "environment.json").write_text(json.dumps({text: text}))
        with np.load(run / "samples.npz") as archive:
            arrays = {**archive, "names": np.array([text] * len(archive["names"]))}
        np.savez(run / "samples.npz", **arrays)
    failure = {"command": text, "overrides": [text], "error": text, "traceback": text}
    for name, content in (("failure.json", failure), ("result.json", {"command": text})):
        (folder / name).mkdir()
        (folder / name / name).write_text(json.dumps(content))
    return folder


def test_no_name_becomes_a_tag_of_the_report(tuned, tmp_path, command):
    texts = {}
    for name, text in (("hostile", INJECTION), ("harmless", "some words, " * 9)):
        runs = write_runs(tuned, tmp_path / f"runs of {name}", text)
        assert command("report", f"runs={runs}", f"run_dir={tmp_path / name}")[0] == 0
        texts[name] = (tmp_path / name / "index.html").read_text()
    hostile, harmless = (Page(text) for text in texts.values())
    kinds = [{(tag, *sorted(given)) for tag, given in page.tags} for page in (hostile, harmless)]
    assert kinds[0] == kinds[1]
    assert {given["src"].partition(",")[0] for tag, given in hostile.tags if tag == "img"} == {"data:image/png;base64"}
    assert hostile.text.count("<script>alert(1)</script>") >= 10
    curves = [svg.partition("</svg>")[0] for svg in texts["hostile"].split("<svg")[1:] if "<text" in svg]
    assert curves
    assert all("&lt;/title&gt;" in curve for curve in curves)  # the rows' names, as text


def test_cells_of_the_csv_files_are_data_as_they_are(tuned, tmp_path, command):
    """Nothing is put before a formula: programs read the file, and must find the names that they know."""
    runs = write_runs(tuned, tmp_path / "runs", "=1+1")
    for path in runs.glob("*/[01]/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"label": "=1+1"}))
    assert command("report", f"runs={runs}", f"run_dir={tmp_path / 'page'}")[0] == 0
    with open(tmp_path / "page" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"=1+1"}
    assert {"iou/=1+1", "iou/b", "iou/c"} <= rows[0].keys()
