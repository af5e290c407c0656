"""When a checkpoint is written: every so many steps, or as often as it takes little of the time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEAST = 30.0
"""Seconds between checkpoints, at least, where their number of steps is not given."""

SHARE = 0.02
"""Of the time that they may take then: a GPU does a hundred steps in the time of one checkpoint."""


class Saving:
    """Tells whether a checkpoint is due.

    Args:
        every_steps: Steps between them; None: by the time that they take.
        now: Clock in seconds.
    """

    def __init__(self, every_steps: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self.every_steps, self.now = every_steps, now
        self.due_at = now() + LEAST

    def asks(self) -> bool:
        """Tell whether it is time, by the clock of this process: once, since other ranks hear of it a step later."""
        if self.every_steps is not None or self.now() < self.due_at:
            return False
        self.due_at = math.inf  # until it was written
        return True

    def is_due_after(self, step: int) -> bool:
        """Tell whether a checkpoint belongs behind a step, alike on all processes."""
        return self.every_steps is not None and step % self.every_steps == 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within it a checkpoint is written."""
        start = self.now()
        yield
        end = self.now()
        self.due_at = end + max(LEAST, (end - start) / SHARE)
