"""A process whose torchrun was killed ends, wherever it is: else it would hold its run, its memory and its GPU."""

import os
import socket
import subprocess
import sys
import time

import pytest

from ssl_rs import distributed
from ssl_rs.command import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")

DEAF = """
import os, sys, datetime
from ssl_rs import interrupts
interrupts.GRACE = 4.0
from torch.distributed import TCPStore
with interrupts.signals_end_the_command():
    print(os.getpid(), flush=True)
    TCPStore("localhost", int(sys.argv[1]), is_master=False, timeout=datetime.timedelta(minutes=30))
"""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def test_a_launcher_that_is_gone_is_named(monkeypatch, capsys, tmp_path):
    port = free_port()
    variables = {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "LAUNCHER_ANSWERS", 0.5)
    assert main("pretrain", ["trainer.device=cpu", f"output_dir={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert f"torchrun does not answer at localhost:{port} (Connection refused)" in said


@pytest.mark.slow
def test_a_process_that_hears_no_signal_ends_soon_after_its_launcher():
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "test"}
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); input()"
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, DEAF, str(free_port())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True,
    )  # fmt: skip
    child = int(launcher.stdout.readline())
    time.sleep(3)  # by then it waits inside of torch, or has crashed
    assert running(child)
    launcher.kill()
    launcher.wait()
    time.sleep(2)  # the signal comes within the first second: this one did not hear it
    assert running(child)
    deadline = time.monotonic() + 60
    while running(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(pid):
    """Tell whether a process is there, and no zombie that nobody waits for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
