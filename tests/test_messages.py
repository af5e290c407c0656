"""Messages of processes that share a standard error, as those of torchrun do."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed  # noqa: F401 - as of a run of several processes

from ssl_rs import command
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory


def test_a_message_leaves_a_process_without_a_buffer_in_one_write():
    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps writes apart
    with read, write:
        call = [sys.executable, "-u", "-m", "ssl_rs.pretrain", "backbone=resnt50"]
        done = subprocess.run(call, stderr=write, check=False)
        write.close()
        writes = []
        while said := read.recv(1 << 16):
            writes.append(said.decode())
    assert done.returncode == 2
    assert len(writes) == 1
    assert "Did you mean 'resnet50'?" in writes[0]
    assert writes[0].endswith("\n")


@pytest.mark.parametrize("argument", ["--help", "--cfg"])
def test_a_closed_output_ends_a_command_without_a_word(argument):
    read, write = os.pipe()
    os.close(read)
    call = [sys.executable, "-m", "ssl_rs.pretrain", argument]
    done = subprocess.run(call, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("readers", [0, 1])
def test_when_nobody_reads_its_lines_a_run_saves_a_checkpoint_and_ends(tiny, tmp_path, readers):
    run = RunDirectory(tmp_path / "run")
    call = [sys.executable, "-m", "ssl_rs.pretrain", *tiny, f"run_dir={run.path}", "trainer.log_every_steps=1"]
    call += [f"trainer.num_workers={readers}"]
    process = subprocess.Popen([*call, "trainer.max_steps=100000"], stderr=subprocess.PIPE, text=True)
    while not process.stderr.readline().startswith("step "):
        assert process.poll() is None
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert list(run.checkpoints.glob("*.ckpt"))
    assert not run.result.exists()


def test_bad_input_of_which_nobody_reads_ends_with_its_own_code():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "ssl_rs.pretrain", "backbone=resnt50"], stderr=write, check=False)
    os.close(write)
    assert done.returncode == 2


SWEEP = """
import select, sys
from pathlib import Path
from ssl_rs import pretrain
from ssl_rs.command import main

def run(settings):
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    output.poll()  # until its reader is gone
    return Path("made")

pretrain.plan = lambda settings: lambda: (Path("out", str(settings.value("seed", int))), {})
pretrain.run = run
sys.exit(main("pretrain", ["-m", "seed=1,2", "output_dir=out"]))
"""


def test_a_closed_output_ends_a_sweep_and_is_no_failure_of_its_run(tmp_path):
    read, write = os.pipe()
    call = [sys.executable, "-c", SWEEP]
    process = subprocess.Popen(call, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(write)
    with os.fdopen(read) as lines:
        assert lines.readline().startswith("2 runs, 0 finished before")
        assert lines.readline() == "-- seed=1 output_dir=out\n"
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141, err
    assert err == ""
    assert not list(tmp_path.rglob("failure.json"))


def test_a_broken_pipe_that_is_not_the_output_is_told(monkeypatch, capsys):
    def broken(name, arguments):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(command, "_run", broken)
    assert command.main("pretrain", []) == 2
    assert "Broken pipe" in capsys.readouterr().err


WARNING = """
import sys, warnings
from pathlib import Path
from ssl_rs import pretrain
from ssl_rs.command import main

before = warnings.formatwarning
own, other = {"__name__": "ssl_rs.data.mine"}, {"__name__": "kornia.theirs"}
for names in (own, other):
    exec("import warnings\\ndef warn(text):\\n  warnings.warn(text, stacklevel=2)", names)

def run(settings):
    own["warn"]("a band is called alpha")
    other["warn"]("theirs")
    return Path("made")

pretrain.run = run
main("pretrain", [])
assert warnings.formatwarning is before
"""


def test_a_warning_of_ours_is_one_plain_line():
    done = subprocess.run([sys.executable, "-c", WARNING], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: a band is called alpha\n<string>:14: UserWarning: theirs\n"


def test_a_process_that_is_not_the_first_says_which_it_is_and_names_no_result(monkeypatch, capsys):
    def wrong(settings):
        raise InputError("there is no data")

    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(command, "load_run", lambda name: wrong)
    assert command.main("report", []) == 2
    assert capsys.readouterr() == ("", "[rank 3] there is no data\n")
    monkeypatch.setattr(command, "load_run", lambda name: lambda settings: Path("made"))
    assert command.main("report", []) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert command.main("report", []) == 0
    assert capsys.readouterr() == ("made\n", "")


def test_that_another_process_has_ended_is_no_defect_of_this_one(monkeypatch, capsys):
    def failing(text):
        def run(name, arguments):
            raise RuntimeError(text)

        monkeypatch.setattr(command, "_run", run)
        return command.main("pretrain", [])

    assert failing("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711") == 130
    assert capsys.readouterr().err == f"{command.LOST_RANK}\n"
    with pytest.raises(RuntimeError, match="a shape"):
        failing("a shape")


def test_libraries_are_asked_before_their_import_and_a_users_own_wish_stays(monkeypatch):
    names = ("CUBLAS_WORKSPACE_CONFIG", "THP_MEM_ALLOC_ENABLE")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    assert command.main("report", ["--cfg"]) == 0
    assert [os.environ[name] for name in names] == [":4096:8", "1"]
    for name in names:
        monkeypatch.setenv(name, "0")
    assert command.main("report", ["--cfg"]) == 0
    assert [os.environ[name] for name in names] == ["0", "0"]


def test_a_command_may_run_beside_the_main_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(command.main, "report", ["--cfg"]).result() == 0


def test_an_interruption_that_says_something_is_told_by_it(monkeypatch, capsys):
    def stopped(name, arguments):
        raise KeyboardInterrupt("2 runs are left.")

    monkeypatch.setattr(command, "_run", stopped)
    assert command.main("pretrain", []) == 130
    assert capsys.readouterr().err == "2 runs are left.\n"
