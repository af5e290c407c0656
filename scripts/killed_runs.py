"""Runs that are killed and started again: what `kill_test.py` and the tests share."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_rs.run_directory import TIMING_KEYS, RunDirectory

STEPS = 20
SETTINGS = (
    "dataset=folder", "dataset.crop_size=32", "trainer.device=cpu", "trainer.batch_size=4", "logger=none",
    f"trainer.max_steps={STEPS}", "trainer.log_every_steps=2", "trainer.checkpoint_every_steps=3",
)  # fmt: skip

AIMS = {
    "store": "stores/.*.partial/*",
    "checkpoint": "run/checkpoints/*.partial",
    "weights": "run/*.safetensors*.partial",
    "result": "run/result.json",
}
"""What is watched for, to kill while it is being written: patterns of files below a trial's folder."""

VICTIMS = ("all", "torchrun", "a rank")
"""Of several processes; torchrun gives each rank a session of its own, so a kill of its group reaches none of them."""

PATIENCE = 120.0  # seconds in which what is left of a killed run must have ended
LONGEST = 600.0  # seconds that a run may take

COLORS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


@dataclass(frozen=True)
class Trial:
    """A command and the folder in which it works.

    Args:
        stage: "pretrain" or "finetune".
        processes: 1, or as many as torchrun starts.
        data: The data set.
        folder: The store and the run lie in it.
        settings: Further overrides.
        launch: Starts `python -m MODULE ARGUMENTS`, given module, arguments, working directory, log and environment;
            None: as a shell does. Not for torchrun.
    """

    stage: str
    processes: int
    data: Path
    folder: Path
    settings: tuple[str, ...] = SETTINGS
    launch: "Callable[..., subprocess.Popen[bytes]] | None" = None

    @property
    def run(self) -> RunDirectory:
        """Where the run lives."""
        return RunDirectory(self.folder / "run")

    @property
    def log(self) -> Path:
        """What all starts said."""
        return self.folder / "log.txt"

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the command, or start it again."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        places = (f"dataset.root={json.dumps(str(self.data))}", f"output_dir={self.folder}", f"run_dir={self.run.path}")
        command = [sys.executable, *(torchrun if self.processes > 1 else []), "-m", f"ssl_rs.{self.stage}"]
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if self.launch is not None and self.processes == 1:
            arguments = (*self.settings, *places)
            return self.launch(f"ssl_rs.{self.stage}", arguments, Path.cwd(), self.log, environment)
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*command, *self.settings, *places], stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def finish(self) -> None:
        """Run to the end.

        Raises:
            RuntimeError: It does not end as it should; says what it said.
        """
        check_done(self, self.start().wait(LONGEST))


def check_done(trial: Trial, code: int) -> None:
    """Raise RuntimeError where a run ended by itself, but not well."""
    if code != 0:
        raise RuntimeError(f"exit code {code} of {trial.folder}:\n{trial.log.read_text()[-3000:]}")


@dataclass(frozen=True)
class Moment:
    """When a kill comes and whom it hits.

    Args:
        aim: Key of AIMS: as soon as such a file is there; None: at a time.
        delay: Seconds from then, or from the start, on.
        victim: One of VICTIMS.
    """

    aim: str | None
    delay: float
    victim: str = "all"


def kill_at(trial: Trial, moment: Moment) -> str | None:
    """Start the run, kill it, and tell what it was doing; None where it ended before.

    Raises:
        RuntimeError: It ended badly by itself, or something of it lives on after the kill.
    """
    started_at, process = time.time(), trial.start()
    begun = time.monotonic()
    while not _is_time(trial, moment, begun, started_at):
        if process.poll() is not None:
            check_done(trial, process.returncode)
            return None
        time.sleep(0.001)
    time.sleep(moment.delay if moment.aim else 0)
    members = list(family(process.pid))
    ranks = [pid for pid in members if pid != process.pid and _leads_group(pid)]
    chosen = {"all": members, "torchrun": members[:1], "a rank": ranks[-1:] or members}[moment.victim]
    for pid in chosen:
        with suppress(ProcessLookupError):  # it ended just now
            os.kill(pid, signal.SIGKILL)
    doing = phase(trial, started_at)
    process.wait(PATIENCE)
    wait_for_end(members)
    return doing


def _is_time(trial: Trial, moment: Moment, begun: float, started_at: float) -> bool:
    if moment.aim is None:
        return time.monotonic() - begun >= moment.delay
    return any(_written_since(path, started_at) for path in trial.folder.glob(AIMS[moment.aim]))


def _written_since(path: Path, started_at: float) -> bool:
    try:
        return path.stat().st_mtime >= started_at
    except OSError:  # it has got its name, or was removed
        return False


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it, parents first."""
    yield pid
    try:
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in itertools.chain.from_iterable(children):
        yield from family(int(child))


def _leads_group(pid: int) -> bool:
    """Tell whether a process has a group of its own; one that has just ended has none."""
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended, though its parent may not have asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for_end(members: Sequence[int]) -> None:
    """Wait until each of some processes has ended: readers and Python's resource tracker end just after their parent.

    Raises:
        RuntimeError: Some live on; it names them.
    """
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in members if not has_ended(pid)]:
        if time.monotonic() > deadline:
            told = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in left}
            raise RuntimeError(f"processes live on: {told}")
        time.sleep(0.05)


def phase(trial: Trial, started_at: float) -> str:
    """Tell from the files what the last start was doing."""
    if any(_written_since(path, started_at) for path in trial.folder.glob("stores/.*.partial")):
        return "preparing"
    if trial.run.result.exists():
        return "removing checkpoints" if _written_since(trial.run.result, started_at) else "starting"
    if not trial.run.config.exists() or trial.run.config.stat().st_mtime < started_at:
        return "starting"
    for aim, doing in (("checkpoint", "writing a checkpoint"), ("weights", "writing the weights")):
        if any(_written_since(path, started_at) for path in trial.folder.glob(AIMS[aim])):
            return doing
    step = max((line["step"] for line in trial.run.read_metrics()), default=0)
    return "evaluating" if f"trainer.max_steps={step}" in trial.settings else f"behind the line of step {step}"


def differences(one: Trial, other: Trial) -> list[str]:
    """Compare all that two runs left but times; return what differs."""
    pairs = [(_content(trial.run), _store(trial.folder)) for trial in (one, other)]
    found = []
    for first, second in zip(*pairs, strict=True):
        names = sorted(first.keys() | second.keys())
        found += [name for name in names if first.get(name) != second.get(name)]
    return found


def _content(run: RunDirectory) -> dict[str, Any]:
    """Return what must be equal in the folder of a run, by name: bytes, lines and numbers without times."""
    content: dict[str, Any] = {}
    for path in sorted(run.path.rglob("*")):
        if path.is_file():
            told = path.name in (run.config.name, "environment.json", ".lock")  # hold paths, and who ran
            content[str(path.relative_to(run.path))] = None if told else path.read_bytes()
    content["metrics.jsonl"] = [
        {key: value for key, value in line.items() if key not in TIMING_KEYS} for line in run.read_metrics()
    ]
    result = {key: value for key, value in (run.read_result() or {}).items() if key != "wall_seconds"}
    if result:
        result["made_with"] = result["made_with"] | {"overrides": None}  # hold paths
    content["result.json"] = result
    return content


def _store(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of the store; nothing but it may be left."""
    files = [path for path in folder.glob("stores/**/*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_dataset(root: Path, size: int = 128) -> None:
    """Write images of colored squares, and the masks that name them."""
    for number, split in enumerate(("train",) * 4 + ("val", "test")):
        generator = np.random.default_rng(number)
        mask = generator.integers(0, 3, (size // 16, size // 16), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        image = np.clip(np.array(COLORS)[mask] + generator.integers(-40, 40, (size, size, 3)), 0, 255)
        for kind, array in (("images", image.astype(np.uint8)), ("masks", mask)):
            path = root / kind / split / f"scene{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    classes = [f"  - {{name: {name}, index: {i}, color: {list(COLORS[i])}}}" for i, name in enumerate("abc")]
    (root / "classes.yaml").write_text("\n".join(["classes:", *classes, ""]))
