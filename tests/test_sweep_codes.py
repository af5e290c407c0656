"""How a sweep ends: its exit code, and what becomes of its plan."""

import json

import pytest

from ssl_rs import sweep
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.sweep_plan import Cell


@pytest.fixture
def cells_of(tmp_path):
    """Write the folders of cells, each of which is done, a defect, a mistake, busy or left out."""
    locks = []

    def make(states):
        cells = []
        for place, state in enumerate(states):
            run = RunDirectory(tmp_path / f"{place}-{state}")
            run.path.mkdir()
            if state == "done":
                run.result.write_text("{}")
            elif state == "busy":
                locks.append(run.lock())
            elif state != "left out":
                told = {"error": state, "traceback": "Traceback" if state == "defect" else None}
                run.failure.write_text(json.dumps(told))
            cells.append(Cell((f"a={place}",), run.path, {}))
        return cells

    yield make
    for lock in locks:
        lock.close()


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (("done", "done"), 0),
        (("done", "mistake"), 2),
        (("done", "left out"), 2),
        (("busy", "done"), 2),
        (("defect", "done"), 1),
        (("defect", "mistake"), 1),
        (("mistake", "defect"), 1),
        (("defect", "busy"), 1),
        (("busy", "defect"), 1),
    ],
)
def test_a_defect_in_any_run_is_the_exit_code_whatever_the_others_are(cells_of, capsys, states, code):
    assert sweep._summarize(cells_of(states)) == code
    out, err = capsys.readouterr()
    assert out == f"{states.count('done')} of 2 runs are finished.\n"
    assert (err.count("failed: "), err.count("still at work: ")) == (
        states.count("defect") + states.count("mistake"),
        states.count("busy"),
    )


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a sweep of two runs, which its launcher does not get to, and give the plans there are."""
    cells = [Cell(("a=1",), tmp_path / "one", {}), Cell(("a=2",), tmp_path / "two", {})]
    monkeypatch.setattr(sweep, "plan_cells", lambda name, overrides: (cells, tmp_path))

    def run(overrides, fails=False):
        def launch(*arguments):
            if fails:
                raise InputError("no such launcher")

        monkeypatch.setattr(sweep, "_launch", launch)
        if fails:
            with pytest.raises(InputError, match="no such launcher"):
                sweep.run_sweep("finetune", overrides)
        else:
            assert sweep.run_sweep("finetune", overrides) == 2
        return sorted((tmp_path / "sweeps").glob("*.json"))

    return run


def test_the_order_of_its_arguments_makes_no_other_sweep(start):
    (plan,) = start(["a=1,2", "b=3"])
    assert start(["b=3", "a=1,2"]) == [plan]
    assert len(start(["a=1,2", "b=4"])) == 2


def test_a_plan_that_was_there_outlives_a_start_that_failed(start):
    assert start(["a=1,2"], fails=True) == []
    plans = start(["a=1,2"])
    assert start(["a=1,2"], fails=True) == plans != []
