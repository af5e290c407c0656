"""What every benchmark is given, what it returns, and how time is taken."""

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from ssl_rs.errors import InputError
from ssl_rs.segmentation.sliding_window import WindowSettings
from ssl_rs.stages.pretraining_plan import Plan


@dataclass(frozen=True)
class Workplace:
    """What is measured.

    Args:
        plan: The pretraining that the config describes.
        decoder: The segmentation model that the config describes, still to be built.
        window: How it cuts scenes.
    """

    plan: Plan
    decoder: "partial[nn.Module]"
    window: WindowSettings


@dataclass(frozen=True)
class Findings:
    """What a benchmark found.

    Args:
        figures: Everything, for benchmark.json: numbers and texts in mappings and lists.
        table: Columns of each line, the header first.
        sentence: What it means, and what to change.
    """

    figures: Mapping[str, Any]
    table: Sequence[Sequence[str]]
    sentence: str


class Benchmark(Protocol):
    """Measures one thing; a new one is a Python file here and a YAML file in conf/benchmark/."""

    @property
    def repeats(self) -> int:
        """Turns, of which the median counts."""
        ...

    def __call__(self, workplace: Workplace) -> Findings:
        """Measure."""
        ...


ENOUGH = {"benchmark.repeats": 5, "trainer.batch_size": 16}
"""From which on figures are worth keeping."""


def caveat(repeats: int, batch_size: int) -> str:
    """Return a sentence, with a space before it, that says why figures are a trial only; empty where they are not."""
    given = {"benchmark.repeats": repeats, "trainer.batch_size": batch_size}
    short = [f"{key}={value} (below {ENOUGH[key]})" for key, value in given.items() if value < ENOUGH[key]]
    return f" A trial, not a measurement: {', '.join(short)}." if short else ""


def check_repeats(repeats: int, calls: int) -> None:
    """Refuse measurements of which no median can be taken.

    Raises:
        InputError: Names the key.
    """
    for key, value in (("repeats", repeats), ("calls", calls)):
        if value < 1:
            raise InputError(f"benchmark.{key} must be at least 1, got {value}.")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    subjects: Mapping[str, Callable[[], object]],
    repeats: int,
    calls: int,
    device: torch.device,
    before: Mapping[str, Callable[[], object]] | None = None,
    warm: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Return the median seconds of one call of each subject.

    The subjects take turns, forward and backward, so that a machine that slows down slows all of them. Each is called
    twice before, so that nothing is measured that happens once.

    Args:
        subjects: What is measured, by name.
        repeats: Turns.
        calls: Calls in a row at each turn; what is taken is their mean.
        device: Where they compute.
        before: What is called before each turn of a subject and not timed, by its name: e.g. what uses up the batches
            that other processes have read while it waited for its turn.
        warm: Called once all have been called twice, e.g. to forget what they noted of that.
    """
    taken: dict[str, list[float]] = defaultdict(list)
    for subject in subjects.values():
        subject()
        subject()
    warm()
    for turn in range(repeats):
        names = list(subjects)
        for name in names if turn % 2 == 0 else reversed(names):
            if before and name in before:
                before[name]()
            synchronize(device)
            begun = time.perf_counter()
            for _ in range(calls):
                subjects[name]()
            synchronize(device)
            taken[name].append((time.perf_counter() - begun) / calls)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


class Phases:
    """Seconds of the parts of a step; every part waits for the device, so their sum is above an unwatched step.

    Args:
        device: Where the step computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._step: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Take the time of what happens within; a step may come by it several times."""
        synchronize(self.device)
        begun = time.perf_counter()
        yield
        synchronize(self.device)
        self._step[name] += time.perf_counter() - begun

    def end_step(self) -> None:
        """Note what the parts of this step took."""
        for name, seconds in self._step.items():
            self.seconds[name].append(seconds)
        self._step.clear()

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each part in a step."""
        return {name: statistics.median(seconds) for name, seconds in self.seconds.items()}


def peak_memory(device: torch.device) -> float:
    """Return the most memory held so far, MB: of the GPU by tensors, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return most_resident()


def most_resident() -> float:
    """Return the most memory that this process held so far, MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def milliseconds(seconds: float) -> str:
    """Return a time for a table."""
    return f"{seconds * 1000:.1f}"
