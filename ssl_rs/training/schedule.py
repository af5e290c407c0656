"""Learning rates as pure functions of the step: factors of the optimizer's own rate."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from ssl_rs.errors import InputError


class Schedule(Protocol):
    """The factor of the learning rate at a step."""

    def __call__(self, step: int, max_steps: int) -> float:
        """Return the factor at `step` in [0, max_steps)."""
        ...


def check_schedule(schedule: Schedule, max_steps: int) -> None:
    """Refuse what gives no factor: a schedule that a user wrote may return something else.

    Args:
        schedule: What is called in each step.
        max_steps: Steps of the run, at least 1.

    Raises:
        InputError: Says what is wrong with it.
    """
    for step in (0, max_steps - 1):
        factor: Any = schedule(step, max_steps)
        if not isinstance(factor, (int, float)) or not math.isfinite(factor):
            name = getattr(schedule, "__name__", type(schedule).__name__)
            raise InputError(
                f"schedule: {name} returns {factor!r:.60} at step {step} of {max_steps}, expected a "
                "finite number as a float: the factor of the optimizer's learning rate."
            )


@dataclass(frozen=True)
class Cosine:
    """Rise linearly, then fall along half a cosine.

    Source: Loshchilov & Hutter, ICLR 2017 (SGDR), without restarts.

    Args:
        warmup: Share of the steps that rise, in [0, 1).
        final: Factor at the end, in [0, 1].
    """

    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_ends(self.warmup, self.final)

    def __call__(self, step: int, max_steps: int) -> float:
        """Return the factor at `step`."""
        rising = self.warmup * max_steps
        if step < rising:
            return _rise(step, rising)
        progress = (step - rising) / (max_steps - rising)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Polynomial:
    """Rise linearly, then fall as a power of the steps that are left ("poly").

    Source: Chen et al., TPAMI 40, 2018 (DeepLab), with power 0.9.

    Args:
        power: Above 0; 1 falls along a line.
        warmup: Share of the steps that rise, in [0, 1).
        final: Factor at the end, in [0, 1].
    """

    power: float = 0.9
    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_ends(self.warmup, self.final)
        if not 0 < self.power < math.inf:
            raise InputError(f"schedule: power must be above 0 and finite, got {self.power}.")

    def __call__(self, step: int, max_steps: int) -> float:
        """Return the factor at `step`."""
        rising = self.warmup * max_steps
        if step < rising:
            return _rise(step, rising)
        left = (max_steps - step) / (max_steps - rising)
        return float(self.final + (1 - self.final) * left**self.power)


def _check_ends(warmup: float, final: float) -> None:
    if not (0 <= warmup < 1 and 0 <= final <= 1):
        raise InputError(f"schedule: warmup must be in [0, 1) and final in [0, 1], got {warmup} and {final}.")


def _rise(step: int, rising: float) -> float:
    return (step + 1) / (rising + 1)


@dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    def __call__(self, step: int, max_steps: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class StepDecay:
    """Multiply the rate by `gamma` every so many steps, as torch's StepLR does by epochs.

    Args:
        every_steps: Steps between two decays.
        gamma: Factor of each decay.
    """

    every_steps: int
    gamma: float

    def __post_init__(self) -> None:
        if self.every_steps < 1 or not 0 < self.gamma <= 1:
            raise InputError(
                f"schedule: every_steps must be at least 1 and gamma in (0, 1], got {self.every_steps}, {self.gamma}."
            )

    def __call__(self, step: int, max_steps: int) -> float:
        """Return the factor at `step`."""
        return float(self.gamma ** (step // self.every_steps))
