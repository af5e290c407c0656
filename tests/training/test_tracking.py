"""The mirror never asks for a key: offline without one, refused where online was wanted."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from ssl_rs.errors import InputError
from ssl_rs.training import tracking
from ssl_rs.training.tracking import NoLogger, WandbLogger

KEY = "0123456789abcdef0123456789abcdef01234567"
PAST = [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}]


@pytest.fixture
def session(monkeypatch, tmp_path):
    """wandb without a network, a key or a terminal to ask at; records what it is given."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("builtins.input", lambda *arguments: pytest.fail("it asked"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    made = SimpleNamespace(logged=[], summary={}, ended=[], opened=[])
    made.log = lambda values, step: made.logged.append((step, values))
    made.finish = lambda exit_code: made.ended.append(exit_code)
    monkeypatch.setattr(wandb, "init", lambda **settings: made.opened.append(settings) or made)
    return made


def open_mirror(tmp_path, **settings):
    return WandbLogger(**settings).open(tmp_path, "seed0-abc", {"seed": 0}, PAST)


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_without_a_key_the_run_is_offline_and_gets_the_past(session, tmp_path, mode, capsys):
    open_mirror(tmp_path, mode=mode).log({"step": 6, "loss": 0.25})
    (settings,) = session.opened
    assert settings["mode"] == "offline"
    assert settings["id"] is None
    assert settings["dir"] == str(tmp_path)
    assert settings["config"] == {"seed": 0}
    assert session.logged == [(2, {"loss": 1.0}), (4, {"loss": 0.5}), (6, {"loss": 0.25})]
    assert capsys.readouterr() == ("", "")


def test_online_without_a_key_is_refused(session, tmp_path):
    with pytest.raises(InputError, match=r"logger\.mode=online needs a key: set WANDB_API_KEY"):
        open_mirror(tmp_path, mode="online")
    assert not session.opened


@pytest.mark.parametrize("where", ["environment", "token", "netrc"])
@pytest.mark.parametrize("mode", ["auto", "online"])
def test_with_a_key_the_run_is_online_and_goes_on_with_itself(session, tmp_path, monkeypatch, where, mode):
    if where == "netrc":
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    else:
        monkeypatch.setenv({"environment": "WANDB_API_KEY", "token": "WANDB_IDENTITY_TOKEN_FILE"}[where], KEY)
    open_mirror(tmp_path, mode=mode, project="mine", entity="team")
    (settings,) = session.opened
    assert (settings["mode"], settings["id"], settings["resume"]) == ("online", "seed0-abc", "allow")
    assert (settings["project"], settings["entity"]) == ("mine", "team")
    assert session.logged == []  # the server has the past


@pytest.mark.parametrize(
    ("said", "mode"), [("dryrun", "offline"), ("offline", "offline"), ("run", "online"), ("", "online")]
)
def test_what_the_environment_says_counts_in_older_words_too(session, tmp_path, monkeypatch, said, mode):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", said)
    open_mirror(tmp_path)
    assert session.opened[0]["mode"] == mode


def test_a_misspelt_mode_of_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "Offline")
    with pytest.raises(InputError, match=r"WANDB_MODE=Offline: expected one of auto, online, .* unset it, or choose"):
        WandbLogger()
    assert WandbLogger(mode="offline").mode == "offline"


def test_offline_stays_offline_with_a_key(session, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    open_mirror(tmp_path, mode="offline")
    assert session.opened[0]["mode"] == "offline"


@pytest.mark.parametrize("content", ["machine elsewhere.org login a password b\n", "machine", "\x00"])
def test_a_netrc_without_a_key_of_wandb_is_none(session, tmp_path, content):
    (tmp_path / "netrc").write_text(content)
    open_mirror(tmp_path)
    assert session.opened[0]["mode"] == "offline"


def test_a_netrc_that_is_no_text_holds_no_key(session, tmp_path):
    (tmp_path / "netrc").write_bytes(b"machine api.wandb.ai login user password \xff\n")
    open_mirror(tmp_path)
    assert session.opened[0]["mode"] == "offline"


def test_without_a_home_there_is_no_key(session, monkeypatch):
    def nobodys():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NETRC")
    monkeypatch.setattr(tracking.Path, "home", nobodys)
    assert not tracking._has_key()


def test_a_key_belongs_to_its_server(session, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.our-lab.org")
    open_mirror(tmp_path)
    assert session.opened[0]["mode"] == "offline"


def test_numbers_of_the_result_end_in_the_summary(session, tmp_path):
    open_mirror(tmp_path).finish({"miou": 0.5, "steps": 10, "dataset": "x", "classes": [1]})
    assert session.summary == {"miou": 0.5, "steps": 10}
    assert session.ended == [0]


def test_a_run_that_did_not_finish_is_marked(session, tmp_path):
    open_mirror(tmp_path).finish(None)
    assert session.ended == [1]
    assert session.summary == {}


def test_no_logger_shows_nothing(tmp_path, capsys):
    tracker = NoLogger().open(tmp_path, "name", {}, PAST)
    tracker.log(PAST[0])
    tracker.finish(None)
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def wandbs_process():
    """Return the number of the process that wandb started for the runs of this one."""
    children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
    (found,) = [child for child in map(int, children) if b"wandb" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds wandb's process by /proc")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_goes_on_without_its_mirror_and_the_next_run_has_one(tmp_path, by):
    """Where memory runs out, or a cluster signals every process, wandb's own may be killed before the run's."""
    mirror = WandbLogger(mode="offline").open(tmp_path, "seed0-abc", {}, PAST)
    killed = wandbs_process()
    os.kill(killed, by)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(6, 600):
            mirror.log({"step": step, "loss": 0.25})
            time.sleep(0 if told else 0.01)
        mirror.finish({"miou": 0.5})
    (lost,) = told
    assert re.match(r"wandb is lost \(.*\): the run goes on without it\. metrics\.jsonl has", str(lost.message))
    following = WandbLogger(mode="offline").open(tmp_path / "next", "seed1-abc", {}, PAST)
    assert wandbs_process() != killed
    following.log({"step": 6, "loss": 0.25})
    following.finish({"miou": 0.5})
    assert list((tmp_path / "next").rglob("*.wandb"))


def test_where_wandb_cannot_be_started_the_run_goes_on_without(session, tmp_path, monkeypatch):
    def fail(**settings):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.warns(UserWarning, match=r"wandb is lost \(ConnectionResetError: Connection lost\)"):
        mirror = open_mirror(tmp_path, mode="offline")
    mirror.log({"step": 6, "loss": 0.25})
    mirror.finish(None)
