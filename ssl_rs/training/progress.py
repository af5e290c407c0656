"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_rs.messages import say_line


class Display:
    """Shows how far a run is; this one shows nothing."""

    def step(self) -> None:
        """One step was done."""

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Show losses and rates."""

    def scoring(self) -> None:
        """Validation scenes are being scored."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def open_display(done: int, total: int, shown: bool) -> Display:
    """Return the display that fits standard error; `shown` is false on all ranks but the first."""
    if not shown:
        return Display()
    return _Bar(done, total) if sys.stderr.isatty() else _Lines(done, total)


def _summary(values: Mapping[str, float]) -> str:
    losses = " ".join(
        f"{name.removeprefix('loss/')} {value:.4g}" for name, value in values.items() if name.startswith("loss")
    )
    return f"{losses} | {values['images_per_second']:.1f} images/s"


def _score(values: Mapping[str, float]) -> str:
    return f"validation mIoU {100 * values['validation/miou']:.1f} %"


class _Bar(Display):
    def __init__(self, done: int, total: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
        self.task = self.progress.add_task("", total=total, completed=done)
        self.score = ""
        self.progress.start()

    def step(self) -> None:
        self.progress.advance(self.task)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        if "validation/miou" in values:
            self.score = f" | {_score(values)} at {step}"
        self.progress.update(self.task, description=_summary(values) + self.score)

    def scoring(self) -> None:
        self.progress.update(self.task, description="scoring validation scenes")

    def close(self) -> None:
        self.progress.stop()


class _Lines(Display):
    """Prints at log steps only."""

    def __init__(self, done: int, total: int) -> None:
        self.first, self.total, self.start = done, total, time.monotonic()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        left = (time.monotonic() - self.start) / (step - self.first) * (self.total - step)
        clock = f"{int(left // 3600)}:{int(left // 60 % 60):02d}:{int(left % 60):02d}"
        score = f"{_score(values)} | " if "validation/miou" in values else ""
        say_line(f"step {step}/{self.total} | {_summary(values)} | {score}{clock} left")


class Clock:
    """Seconds of training, and images a second since the last reading.

    Args:
        images_a_step: Of all processes.
        step: Steps that are done.
        seconds: That they took.
    """

    def __init__(self, images_a_step: int, step: int, seconds: float) -> None:
        self.images_a_step, self.step, self.time = images_a_step, step, time.monotonic()
        self.start = self.time - seconds

    @property
    def seconds(self) -> float:
        """What all steps have taken, those of earlier starts included."""
        return time.monotonic() - self.start

    def rate(self, step: int) -> float:
        """Return the rate up to a step."""
        now = time.monotonic()
        rate = (step - self.step) * self.images_a_step / max(now - self.time, 1e-9)
        self.step, self.time = step, now
        return round(rate, 2)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that something else takes."""
        before = time.monotonic()
        try:
            yield
        finally:
            taken = time.monotonic() - before
            self.time, self.start = self.time + taken, self.start + taken
