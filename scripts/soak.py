"""Pretrain for some minutes with frequent checkpoints, logs and probes, and watch memory and open files.

usage: python scripts/soak.py FOLDER [--minutes 20] [key=value ...]

After a warm-up, resident memory and open files of the run and of the process that reads its batches are sampled every
second, and a line is fitted to each. Exits with 1 where memory grows by more than 2 % or 16 MB over the time of the
samples, whichever is more, or the open files by more than 2. Linux only: it reads /proc.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from killed_runs import SETTINGS, Trial, family, write_dataset

WARM_UP = 0.2  # of the time
SAMPLED_EVERY = 1.0  # seconds
SHARE, MEGABYTES, FILES = 0.02, 16.0, 2.0  # what may be more at the end

FREQUENT = (
    *SETTINGS, "trainer.max_steps=100000000", "trainer.checkpoint_every_steps=10", "trainer.log_every_steps=1",
    "trainer.num_workers=1", "schedule=constant", "optimizer.lr=1e-5",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What the processes of a run hold at one time; MB of resident memory, files by number."""

    seconds: float
    memory: float
    reader_memory: float
    files: float
    reader_files: float


def main() -> int:
    """Run, watch, stop, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).absolute())
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    write_dataset(options.folder / "data")
    trial = Trial("pretrain", 1, options.folder / "data", options.folder, (*FREQUENT, *options.overrides))
    process = trial.start()
    try:
        samples = watch(process.pid, options.minutes * 60, trial)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    lines = trial.run.read_metrics()
    print(f"{lines[-1]['step']} steps, {len(lines)} lines and probes, {lines[-1]['step'] // 10} checkpoints")
    print(f"{len(samples)} samples over {samples[-1].seconds - samples[0].seconds:.0f} s; exit code {code} on SIGTERM")
    return 0 if told(samples) and code == 130 else 1


def watch(pid: int, length: float, trial: Trial) -> list[Sample]:
    """Sample a process and the one below it for so many seconds, from the end of the warm-up on.

    Raises:
        RuntimeError: The run ended by itself.
    """
    while not trial.run.metrics.is_file():
        time.sleep(SAMPLED_EVERY)
        _check_lives(pid, trial)
    begun, samples = time.monotonic(), []
    while (seconds := time.monotonic() - begun) < length:
        time.sleep(SAMPLED_EVERY)
        _check_lives(pid, trial)
        if seconds >= WARM_UP * length:
            reader = list(family(pid))[-1]
            samples.append(Sample(seconds, memory_of(pid), memory_of(reader), files_of(pid), files_of(reader)))
    return samples


def _check_lives(pid: int, trial: Trial) -> None:
    if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
        raise RuntimeError(f"The run ended by itself:\n{trial.log.read_text()[-3000:]}")


def memory_of(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def files_of(pid: int) -> float:
    """Return how many files a process holds open."""
    return float(len(list(Path(f"/proc/{pid}/fd").iterdir())))


def told(samples: Sequence[Sample]) -> bool:
    """Print a line for each thing that was watched; return whether all are flat."""
    seconds = np.array([sample.seconds for sample in samples])
    rows = {
        "memory": "MB, the run",
        "reader_memory": "MB, its reader",
        "files": "files, the run",
        "reader_files": "files, its reader",
    }
    print(f"{'':<18} {'start':>8} {'end':>8} {'most':>8} {'a minute':>9} {'allowed':>8}")
    flat = True
    for name, label in rows.items():
        values = np.array([getattr(sample, name) for sample in samples])
        slope, start = np.polyfit(seconds - seconds[0], values, 1)
        growth = slope * (seconds[-1] - seconds[0])
        allowed = max(SHARE * start, MEGABYTES) if "MB" in label else FILES
        print(
            f"{label:<18} {start:>8.1f} {start + growth:>8.1f} {values.max():>8.1f} {slope * 60:>9.3f} {allowed:>8.1f}"
        )
        flat &= bool(growth <= allowed)
    print("flat" if flat else "GROWING")
    return flat


if __name__ == "__main__":
    sys.exit(main())
