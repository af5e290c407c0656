"""Files of a run: whole or not there; a line that a kill cut short is dropped; one process at a time."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from ssl_rs import run_directory
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of, write_json, write_text
from ssl_rs.run_directory import RunDirectory, read_metadata, save_tensors

TENSORS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.count": torch.tensor(5),
    "c.half": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def write_lines(run, *lines):
    run.path.mkdir(exist_ok=True)
    run.metrics.write_text("".join(lines))


def test_text_and_json_arrive_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    write_json(path, {"key": [1, "ä"]})
    assert json.loads(path.read_text()) == {"key": [1, "ä"]}
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_tensors_that_share_memory_are_written_whole(tmp_path):
    """As tied layers do, and views of one tensor."""
    table = torch.arange(12.0).reshape(3, 4)
    given = {"a": table, "b": table, "row": table[1], "turned": table.T}
    save_tensors(tmp_path / "w.safetensors", given, {"key": "x"})
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], value) for name, value in given.items())


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "result.json"
    write_text(path, "old")
    save_tensors(tmp_path / "w.safetensors", TENSORS, {"key": "old"})

    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(*((run_directory.os, "fsync") if fails == "fsync" else (type(path), "replace")), broken)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    with pytest.raises(OSError, match="disk full"):
        save_tensors(tmp_path / "w.safetensors", {}, {"key": "new"})
    assert path.read_text() == "old"
    assert read_metadata(tmp_path / "w.safetensors") == {"key": "old"}


def test_what_cannot_be_written_as_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "result.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "result.json", {"new": torch.ones(1)})
    assert json.loads((tmp_path / "result.json").read_text()) == {"old": 1}


def test_equal_content_gives_equal_bytes_that_safetensors_reads(tmp_path):
    metadata = {f"key {index}": f"värde {index}" for index in range(20)}
    for turn in range(6):
        names = list(TENSORS)[:: 1 if turn % 2 else -1]
        order = list(metadata)[turn:] + list(metadata)[:turn]
        save_tensors(tmp_path / f"{turn}", {name: TENSORS[name] for name in names}, {k: metadata[k] for k in order})
    assert len({sha256_of(tmp_path / f"{turn}") for turn in range(6)}) == 1
    loaded = load_file(tmp_path / "0")
    assert loaded.keys() == TENSORS.keys()
    assert all(loaded[name].equal(value) and loaded[name].dtype == value.dtype for name, value in TENSORS.items())
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert file.metadata() == metadata
    assert read_metadata(tmp_path / "0") == metadata


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_metadata_is_read_back(tmp_path, metadata):
    save_tensors(tmp_path / "file", TENSORS, metadata)
    assert read_metadata(tmp_path / "file") == metadata
    assert load_file(tmp_path / "file")["b.weight"].equal(TENSORS["b.weight"])


def test_other_tensors_give_other_bytes(tmp_path):
    save_tensors(tmp_path / "one", TENSORS, {"key": "value"})
    save_tensors(tmp_path / "other", {**TENSORS, "a.count": torch.tensor(6)}, {"key": "value"})
    assert sha256_of(tmp_path / "one") != sha256_of(tmp_path / "other")


def test_tensors_of_any_layout_are_saved_by_value(tmp_path):
    value = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(torch.rand(3, 2)).T
    save_tensors(tmp_path / "file", {"image": value, "parameter": parameter}, {"key": "value"})
    loaded = load_file(tmp_path / "file")
    assert loaded["image"].equal(value)
    assert loaded["parameter"].equal(parameter)


def test_a_damaged_file_of_tensors_is_named(tmp_path):
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, {"key": "value"})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"file\.safetensors is no whole"):
        read_metadata(path)
    with pytest.raises(InputError, match=r"gone\.safetensors is no whole"):
        read_metadata(tmp_path / "gone.safetensors")


def test_metrics_are_appended_and_read(run):
    run.path.mkdir()
    assert run.read_metrics() == []
    run.append_metrics({"step": 1, "loss": 0.5})
    run.append_metrics({"step": 2, "loss": 0.25})
    assert run.read_metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


@pytest.mark.parametrize("cut", ["", '{"step": 4', '{"step": 4, "loss": 1.0}', "\0\0\0"])
def test_metrics_are_cut_to_a_step_and_a_half_written_line_is_dropped(run, cut):
    write_lines(run, *(f'{{"step": {step}}}\n' for step in (1, 2, 3)), cut)
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]
    run.keep_metrics_until(2)
    assert run.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'
    run.append_metrics({"step": 3})
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]


def test_metrics_of_a_run_from_the_start_are_dropped(run):
    run.keep_metrics_until(0)
    assert not run.metrics.exists()
    write_lines(run, '{"step": 1}\n')
    run.keep_metrics_until(0)
    assert run.read_metrics() == []


def test_one_process_holds_a_run(run):
    held = run.lock()
    with pytest.raises(InputError, match=rf"run is in use by process {os.getpid()} on .* since 20.*another run_dir"):
        run.lock()
    held.close()
    run.lock().close()


def test_a_lock_ends_with_its_process(run):
    code = "import sys, os; from pathlib import Path; from ssl_rs.run_directory import RunDirectory; "
    code += "held = RunDirectory(Path(sys.argv[1])).lock(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(run.path)], check=False).returncode == -9
    run.lock().close()


def test_a_lock_does_not_outlive_its_process_in_a_child(run):
    """What reads batches is forked, and ends some seconds after a kill of its parent."""
    code = (
        "import sys, os, time; from pathlib import Path; from ssl_rs.run_directory import RunDirectory\n"
        "held = RunDirectory(Path(sys.argv[1])).lock()\n"
        "child = os.fork()\n"
        "if not child: os.close(1), time.sleep(60)\n"
        "print(child, flush=True), os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True, check=False)
    run.lock().close()
    os.kill(int(done.stdout), 9)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '"text"', "\udcff"])
def test_a_result_that_is_no_object_is_named(run, content):
    run.path.mkdir()
    run.result.write_bytes(os.fsencode(content))
    with pytest.raises(InputError, match=r"result\.json .*Delete it"):
        run.read_result()


def test_a_result_means_finished(run):
    assert run.read_result() is None
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step-00000001.ckpt").write_text("large")
    run.finish({"miou": 0.5})
    assert run.read_result() == {"miou": 0.5}
    assert not run.checkpoints.exists()


def test_no_result_is_written_where_the_weights_have_vanished(run):
    with pytest.raises(OSError, match=r"result\.json"):
        run.finish({"miou": 0.5})
    assert not run.path.exists()


def test_beginning_forgets_an_earlier_failure(run):
    write_json(run.failure, {"error": "out of memory"})
    run.begin("seed: 0\n", {"torch": "2"})
    assert not run.failure.exists()
    assert run.config.read_text() == "seed: 0\n"
    assert json.loads((run.path / "environment.json").read_text()) == {"torch": "2"}
