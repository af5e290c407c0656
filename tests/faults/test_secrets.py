"""No key, token or password reaches what a run writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_rs.reporting.cells import command_line
from ssl_rs.run_directory import RunDirectory
from ssl_rs.secret_values import hide_secrets, without_secrets

pytestmark = pytest.mark.slow


SECRETS = {
    "WANDB_API_KEY": "secret-of-wandb-0123456789abcdef0123456789abcdef",
    "AWS_SECRET_ACCESS_KEY": "secret-of-aws-0123456789",
    "HF_TOKEN": "secret-of-hf-0123456789",
    "DATABASE_PASSWORD": "secret-of-database",
}


def test_no_secret_of_the_environment_is_written(quick, tmp_path):
    """The real command with the logger of Weights & Biases, offline, in a checkout whose remote has a password."""
    here = tmp_path / "work"
    here.mkdir()
    for given in (
        ["init", "-q"],
        ["remote", "add", "origin", "https://user:secret-of-git@example.org/x.git"],
        ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *given], cwd=here, check=True)
    run = RunDirectory(here / "run")
    given = [item for item in quick if item != "logger=none" and not item.startswith("trainer.max_steps")]
    more = (
        "trainer.max_steps=1",
        f"run_dir={run.path}",
        "logger=wandb",
        "+hydra.job.env_set.MY_API_KEY=secret-on-line",
    )
    ended = subprocess.run(
        [sys.executable, "-m", "ssl_rs.pretrain", *given, *more], cwd=here, capture_output=True, text=True, check=False,
        env={**os.environ, **SECRETS, "WANDB_MODE": "offline", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "secret-" not in ended.stdout + ended.stderr
    written = [path for path in here.rglob("*") if path.is_file() and ".git/" not in f"{path}"]
    assert {"config.yaml", "environment.json", "metrics.jsonl", "result.json"} <= {path.name for path in written}
    assert any(path.suffix == ".wandb" for path in written)
    assert [path for path in written if b"secret-" in path.read_bytes()] == []
    assert (
        "+hydra.job.env_set.MY_API_KEY=***" in json.loads((run.path / "environment.json").read_text())["command_line"]
    )


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("trainer.max_steps=5", "trainer.max_steps=5"),
        ("logger.entity=me", "logger.entity=me"),
        ("pretext.keypoints.weight=2.0", "pretext.keypoints.weight=2.0"),
        ("pretext.keypoints.task.decoder.widths=[8,8]", "pretext.keypoints.task.decoder.widths=[8,8]"),
        ("backbone.num_tokens=64", "backbone.num_tokens=64"),
        ("pretext.keypoints.task.word=abc", "pretext.keypoints.task.word=***"),
        ("hf_token=12345", "hf_token=***"),
        ("logger.api_keys=123456789", "logger.api_keys=***"),
        ("x.apikeys=12345678", "x.apikeys=***"),
        ("dataset.tokens=123456", "dataset.tokens=***"),
        ("pretext.mine.tokens=16", "pretext.mine.tokens=16"),
        ("decoder.keys=[1,2]", "decoder.keys=[1,2]"),
        ("dataset.token=1234", "dataset.token=***"),
        ("logger.api_keys=[12,123456]", "logger.api_keys=***"),
        ("x.userkey=12345678", "x.userkey=***"),
        ("x.passkey=12345", "x.passkey=***"),
        ("+my.key=12345", "+my.key=***"),
        ("HF_TOKEN_2=abc", "HF_TOKEN_2=***"),
        ("+hydra.job.env_set.MY_API_KEY=abc=def", "+hydra.job.env_set.MY_API_KEY=***"),
        ("+hydra.job.env_set.db_Password=", "+hydra.job.env_set.db_Password=***"),
        ("dataset.root=https://me:word@example.org/a@b", "dataset.root=https://***@example.org/a@b"),
        ("dataset.root=https\\://me\\:word@example.org", "dataset.root=https\\://***@example.org"),
        ("dataset.root=s3://token@bucket/x", "dataset.root=s3://***@bucket/x"),
        ("dataset.root=https://example.org/a@b", "dataset.root=https://example.org/a@b"),
        ("dataset.root=https://me:pa/ss@example.org/x", "dataset.root=https://***@example.org/x"),
        ("dataset.root=https://me:p@ss@example.org/x", "dataset.root=https://***@example.org/x"),
        ("+hydra.job.env_set={WANDB_API_KEY:abc123,A:b}", "+hydra.job.env_set={WANDB_API_KEY:***,A:b}"),
        ("dataset.root=/data/keys=v1/monkey=2", "dataset.root=/data/keys=v1/monkey=2"),
        ("initialization.label='tokenizer: a'", "initialization.label='tokenizer: a'"),
        ("+x={apiKey:abc, my_key:abc, secretKey: abc}", "+x={apiKey:***, my_key:***, secretKey: ***}"),
        ("+x={tokens: abc, db_passwd: abc, awsAccessKey: abc}", "+x={tokens: ***, db_passwd: ***, awsAccessKey: ***}"),
        ("+hydra.job.env_set={'MY_TOKEN': abc123}", "+hydra.job.env_set={'MY_TOKEN': ***}"),
        (
            "hydra.launcher.setup=['export WANDB_API_KEY=abc123', 'module load x']",
            "hydra.launcher.setup=['export WANDB_API_KEY=***', 'module load x']",
        ),
    ],
)
def test_secrets_on_the_command_line_are_not_recorded(typed, written):
    assert hide_secrets(typed) == written


def test_secrets_in_nested_settings_are_hidden_whatever_their_type():
    node = {
        "env_set": {"MY_TOKEN": 12345, "OTHER": 7},
        "setup": ["export MY_API_KEY=abc"],
        "keys": {"a": 1},
        "key": True,
    }
    hidden = {"env_set": {"MY_TOKEN": "***", "OTHER": 7}, "setup": ["export MY_API_KEY=***"]}
    assert without_secrets(node) == {**hidden, "keys": {"a": 1}, "key": True}


def test_a_secret_is_not_interpolated_into_a_config(quick, fails, command, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "secret-0123456789")
    monkeypatch.setenv("MY_PROJECT", "mine")
    said = fails("pretrain", *quick[:-1], "logger=wandb", "logger.entity=${oc.env:MY_API_KEY}")
    assert "MY_API_KEY is secret" in said
    assert "secret-0123456789" not in said
    code, out, _ = command("pretrain", "--cfg", "logger=wandb", "logger.entity=${oc.env:MY_PROJECT}")
    assert code == 0
    assert "entity: mine" in out


def test_a_sweep_runs_with_secrets_and_writes_none(quick, command, tmp_path, monkeypatch):
    """One cell ends well and one fails; the plan, the failure, the report and what is printed hide the values."""
    monkeypatch.chdir(tmp_path)
    given = [item for item in quick if not item.startswith(("pretext", "trainer.max_steps"))]
    given += ["trainer.max_steps=1", "evaluation.window.size=64", "evaluation.window.overlap=0"]
    failing = ("initialization=random,imagenet", "initialization.weights='https://me:secret-word@example.org'")
    code, out, err = command("finetune", "-m", *given, "+hydra.job.env_set.MY_API_KEY=secret-on-line", *failing)
    assert code == 2, err
    assert "1 of 2 runs are finished." in out
    (failure,) = tmp_path.rglob("failure.json")
    (plan,) = (tmp_path / "outputs" / "sweeps").glob("*.json")
    assert "***" in (plan.parent / "multirun.yaml").read_text()
    assert command("report")[0] == 0
    hidden = "+hydra.job.env_set.MY_API_KEY=***"
    record = json.loads(failure.read_text())
    assert any("//***@example.org" in override for override in record["overrides"])
    assert "//***@example.org" in record["error"]
    assert all(hidden in cell["overrides"] for cell in json.loads(plan.read_text())["cells"])
    assert hidden in (tmp_path / "outputs" / "report" / "index.html").read_text()
    assert hidden in err
    assert "secret-" not in out + err


def test_a_sweep_that_cannot_start_a_run_leaves_no_secret(quick, command, tmp_path, monkeypatch):
    """Hydra notes the command line before its launcher starts the first job."""
    monkeypatch.chdir(tmp_path)
    given = ("initialization=file", "initialization.weights='https://me:secret-word@example.org/x.pth'", "seed=0,1")
    own = [item for item in quick if not item.startswith("pretext")]
    code, out, err = command("finetune", "-m", *own, *given, "hydra.sweep.subdir=${nowhere}")
    assert code == 2
    assert "Hydra's sweeper or launcher failed" in err
    assert "//***@example.org" in (tmp_path / "outputs" / "sweeps" / "multirun.yaml").read_text()
    assert "secret-" not in out + err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"secret-" in path.read_bytes()] == []


def test_a_plan_of_before_secrets_were_hidden_is_shown_without():
    assert command_line("finetune", ["my_token=abc", "seed=1"]) == "python -m ssl_rs.finetune 'my_token=***' seed=1"
