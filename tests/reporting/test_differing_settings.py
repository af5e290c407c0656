import re

from ssl_rs.config_hash import value_text
from ssl_rs.reporting.differing_settings import differing_settings
from ssl_rs.reporting.page import write_report
from ssl_rs.reporting.results import read_runs


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
    told = page.split("<dt>trainer.batch_size</dt><dd>")[1].split("</dd>")[0]
    assert re.sub(r"<svg.*?</svg>", "", told) == "<b>16</b>: random<br><b>64</b>: tasks"


def test_settings_are_told_as_one_types_them(write_run, tmp_path):
    settings = {"dataset.bands": None, "trainer.compile": False, "views.clean.scale": [0.5, 1.0]}
    write_run("a", settings=settings)
    others = {"dataset.bands": ["vv", "vh"], "trainer.compile": True, "views.clean.scale": {"low": None}}
    write_run("b", label="tasks", settings=others)
    assert {key: list(values) for key, values in differing_settings(read_runs(tmp_path / "runs")[0]).items()} == {
        "dataset.bands": ["null", "[vv,vh]"],
        "trainer.compile": ["false", "true"],
        "views.clean.scale": ["[0.5,1.0]", "{low:null}"],
    }


def test_values_that_differ_have_different_texts():
    values = [None, "null", True, "true", 1, "1", "", ["a", "b"], ["a,b"], [1], ["1"], "[1]", {"a": None}, ["{a:null}"]]
    texts = [value_text(value) for value in values]
    assert texts[:-5] == ["null", '"null"', "true", '"true"', "1", '"1"', '""', "[a,b]", '["a,b"]']
    assert len({*texts}) == len(values)
