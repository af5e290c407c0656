"""Requests to stop: noted, so that a run can end behind a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect requests to stop instead of dying from them; the list fills as they come. A second SIGINT kills.

    SIGUSR1 is what SLURM sends ahead of a requeue (`#SBATCH --signal=USR1@120`).
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
