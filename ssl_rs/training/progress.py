"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_rs.messages import say_line


class Display(Protocol):
    """Shows how far a run is."""

    def step(self) -> None:
        """One step was done."""
        ...

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Show losses and rates."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def open_display(done: int, total: int, shown: bool) -> Display:
    """Return the display that fits standard error; `shown` is false on all ranks but the first."""
    if not shown:
        return _Silent()
    return _Bar(done, total) if sys.stderr.isatty() else _Lines(done, total)


def _summary(values: Mapping[str, float]) -> str:
    losses = " ".join(
        f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items() if name.startswith("loss")
    )
    miou = f" | validation mIoU {100 * values['validation/miou']:.1f} %" if "validation/miou" in values else ""
    return f"{losses}{miou} | {values['images_per_second']:.1f} images/s"


class _Silent:
    def step(self) -> None:
        """Show nothing."""

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing was opened."""


class _Bar:
    def __init__(self, done: int, total: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
        self.task = self.progress.add_task("", total=total, completed=done)
        self.progress.start()

    def step(self) -> None:
        self.progress.advance(self.task)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        self.progress.update(self.task, description=_summary(values))

    def close(self) -> None:
        self.progress.stop()


class _Lines:
    def __init__(self, done: int, total: int) -> None:
        self.first, self.total, self.start = done, total, time.monotonic()

    def step(self) -> None:
        """Lines are printed at log steps only."""

    def line(self, step: int, values: Mapping[str, float]) -> None:
        left = (time.monotonic() - self.start) / (step - self.first) * (self.total - step)
        clock = f"{int(left // 3600)}:{int(left // 60 % 60):02d}:{int(left % 60):02d}"
        say_line(f"step {step}/{self.total} | {_summary(values)} | {clock} left")

    def close(self) -> None:
        """Nothing to restore."""


class Clock:
    """Images a second since the last reading.

    Args:
        images_a_step: Of all processes.
        step: Steps that are done.
    """

    def __init__(self, images_a_step: int, step: int) -> None:
        self.images_a_step, self.step, self.time = images_a_step, step, time.monotonic()

    def rate(self, step: int) -> float:
        """Return the rate up to a step."""
        now = time.monotonic()
        rate = (step - self.step) * self.images_a_step / max(now - self.time, 1e-9)
        self.step, self.time = step, now
        return round(rate, 2)

    def restart(self) -> None:
        """Leave out the time since the last reading."""
        self.time = time.monotonic()
