"""What tests of faults share: a run of seconds that is whole, the same one with a fault, and a small disk."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ssl_rs.command import main
from ssl_rs.run_directory import TIMING_KEYS, RunDirectory

QUICK = (
    "backbone=mobilenet_v2",
    "pretext=[contrastive]",
    "optimizer=sgd",
    "optimizer.lr=0.01",
    "trainer.batch_size=4",
    "trainer.max_steps=6",
    "trainer.log_every_steps=1",
    "trainer.checkpoint_every_steps=2",
)
"""A pretraining of seconds with checkpoints after steps 2, 4 and 6 of about 20 MB."""


@pytest.fixture
def quick(tiny: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides of the run that the tests break."""
    return (*tiny, *QUICK)


@pytest.fixture(scope="session")
def whole(folder_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same run without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    overrides = ("dataset=folder", f"dataset.root='{folder_dataset}'", "dataset.crop_size=32", "logger=none", *QUICK)
    assert main("pretrain", [*overrides, f"output_dir={folder}", f"run_dir={folder / 'run'}"]) == 0
    torch.set_num_threads(threads)
    return RunDirectory(folder / "run")


@pytest.fixture(scope="session")
def tuned(folder_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished fine-tuning of two steps; its data is prepared in stores/ beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    threads = torch.get_num_threads()
    overrides = ("dataset=folder", f"dataset.root='{folder_dataset}'", "dataset.crop_size=32", "logger=none", *QUICK)
    short = ("trainer.max_steps=2", "evaluation.window.size=64", "evaluation.window.overlap=0")
    given = [item for item in (*overrides, *short) if not item.startswith("pretext")]
    assert main("finetune", [*given, f"output_dir={folder}", f"run_dir={folder / 'run'}"]) == 0
    torch.set_num_threads(threads)
    return RunDirectory(folder / "run")


def lines(run: RunDirectory) -> list[dict[str, object]]:
    """Return metrics.jsonl without what depends on the clock."""
    return [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in run.read_metrics()]


@pytest.fixture
def ends_as_whole(whole: RunDirectory) -> Callable[[RunDirectory], None]:
    """Compare a finished run with the one without a fault: weights bit for bit, and all lines."""

    def compare(run: RunDirectory) -> None:
        assert run.encoder.read_bytes() == whole.encoder.read_bytes()
        assert lines(run) == lines(whole)
        assert [line["step"] for line in run.read_metrics()] == [1, 2, 3, 4, 5, 6]
        assert not run.checkpoints.exists()

    return compare


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a fault happen once, just before the line of a step is written."""

    def arrange(step: int, fault: Callable[[], object]) -> None:
        append, done = RunDirectory.append_metrics, []

        def append_after_fault(run: RunDirectory, line: dict[str, float]) -> None:
            if line["step"] == step and not done:
                done.append(True)
                fault()
            append(run, line)

        monkeypatch.setattr(RunDirectory, "append_metrics", append_after_fault)

    return arrange


@pytest.fixture
def fails(command: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a command that must exit with 2, and return its one message, which is no traceback."""

    def run(name: str, *arguments: str) -> str:
        code, _, err = command(name, *arguments)
        assert code == 2, err
        assert "Traceback" not in err
        return err

    return run


@dataclass(frozen=True)
class Disk:
    """A file system of a few MB in memory."""

    path: Path

    def resize(self, size: int) -> None:
        """Give it so many bytes."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)

    def fill(self) -> None:
        """Use all of its space."""
        with open(self.path / "filler", "wb", buffering=0) as file:
            for size in (2**20, 2**12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def clear(self) -> None:
        """Give back what `fill` took."""
        (self.path / "filler").unlink()


def mounted(path: Path, options: str) -> bool:
    """Mount a file system in memory at a path, if this user may."""
    path.mkdir(parents=True, exist_ok=True)
    done = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False
    )
    return bool(done) and done.returncode == 0


@pytest.fixture
def mount(pytestconfig: pytest.Config) -> Iterator[Callable[[Path, str], Path]]:
    """Mount file systems in memory that are gone after the test."""
    places = []

    def make(path: Path, options: str) -> Path:
        if not mounted(path, options):
            pytest.skip("this user may not mount a file system; RLIMIT_FSIZE is tested everywhere")
        places.append(path)
        return path

    yield make
    os.chdir(pytestconfig.invocation_params.dir)  # out of what goes away
    for path in reversed(places):
        subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)


@pytest.fixture
def disk(mount: Callable[[Path, str], Path], tmp_path: Path) -> Disk:
    """A disk of 100 MB."""
    return Disk(mount(tmp_path / "disk", "size=100m"))
