"""What a person sees: plain lines where there is no terminal, nothing on other ranks."""

import re
import sys

import pytest

from ssl_rs.training import progress
from ssl_rs.training.progress import open_display

VALUES = {
    "step": 20,
    "loss": 1.23456,
    "loss/inpainting": 0.5,
    "inpainting/error": 7.0,
    "lr": 9.0,
    "images_per_second": 12.34,
}


def test_plain_lines_without_a_terminal(capsys, monkeypatch):
    clock = iter([100.0, 150.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    display = open_display(10, 100, True)
    display.step()
    display.line(20, VALUES)  # 10 steps in 50 seconds: 80 are left
    display.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "step 20/100 | loss 1.235 inpainting 0.5 | 12.3 images/s | 0:06:40 left\n"


def test_the_last_line_has_nothing_left(capsys):
    display = open_display(0, 20, True)
    display.line(20, VALUES)
    assert capsys.readouterr().err.endswith("| 0:00:00 left\n")


def test_other_ranks_are_silent(capsys):
    display = open_display(0, 20, False)
    display.step()
    display.line(20, VALUES)
    display.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("done", [0, 10])
def test_a_bar_on_a_terminal(capsys, monkeypatch, done):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    display = open_display(done, 12, True)
    display.step()
    display.step()
    display.line(done + 2, VALUES)
    display.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{done + 2}/12" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
