"""Every random number of a run follows from (seed, step, name): nothing else draws.

Numbers are drawn on the CPU for the whole global batch and each process takes its rows, so any number of processes sees
what one process would see, but for dropout and kornia's own augmentations, of which each process draws its own; and a
run that was killed goes on exactly where it stopped.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_rs.transfer import to_device

_ALIGNED = 8
"""Bytes of the widest numbers that are sent."""


def derive_seed(*key: str | int) -> int:
    """Return a 63-bit seed that depends on every part of the key, equal on every machine.

    torch's generator of the CPU looks at its lower 32 bits.
    """
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generators for one step: for dropout and for kornia's own augmentations."""
    torch.manual_seed(derive_seed(seed, step, "rank", rank))


@dataclass(frozen=True)
class Rows:
    """The rows [start, stop) of a global batch of `total` samples that this process works on."""

    start: int
    stop: int
    total: int

    @classmethod
    def of_rank(cls, rank: int, world_size: int, batch_size: int) -> "Rows":
        """Give each rank `batch_size` consecutive rows."""
        return cls(rank * batch_size, (rank + 1) * batch_size, world_size * batch_size)


class Draws:
    """Random parameters of one view at one step, a row a sample.

    Args:
        seed: Seed of the run.
        step: Step of the run, from 0.
        name: What is drawn, e.g. the name of the view; other names give independent numbers.
        rows: The rows of the global batch that are returned.
        device: Where `send` brings what follows from them: each tensor that goes there alone costs a GPU as much as all
            of them in one.
    """

    def __init__(self, seed: int, step: int, name: str, rows: Rows, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator().manual_seed(derive_seed(seed, step, name))
        self.rows = rows
        self.device = torch.device(device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return float32 [rows, *shape] in [low, high), on the CPU as all that is drawn."""
        values = torch.rand(self.rows.total, *shape, generator=self.generator)
        return self._mine(low + (high - low) * values)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return int64 [rows, *shape] in [low, high)."""
        return self._mine(torch.randint(low, high, (self.rows.total, *shape), generator=self.generator))

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Return bool [rows, *shape], true with the given probability."""
        return self._mine(torch.rand(self.rows.total, *shape, generator=self.generator) < probability)

    def _mine(self, values: Tensor) -> Tensor:
        return values[self.rows.start : self.rows.stop]

    def send(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return tensors of the CPU on the device, in one copy that nobody waits for; on a CPU themselves."""
        if self.device.type == "cpu":
            return values
        return _unpacked(to_device(_packed(values), self.device), values)


def _packed(values: Sequence[Tensor]) -> Tensor:
    """Return the bytes of tensors one after another, uint8; each begins where a number of any type may lie."""
    packed = torch.zeros(sum(_room(value) for value in values), dtype=torch.uint8)
    for place, value in zip(_places(packed, values), values, strict=True):
        place.copy_(value.contiguous().view(-1).view(torch.uint8))
    return packed


def _unpacked(packed: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what was packed, wherever it lies now, in the types and shapes of the tensors."""
    places = zip(_places(packed, values), values, strict=True)
    return tuple(place.view(value.dtype).view(value.shape) for place, value in places)


def _places(packed: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    rooms = torch.split(packed, [_room(value) for value in values])  # type: ignore[no-untyped-call]
    return [room[: value.nbytes] for room, value in zip(rooms, values, strict=True)]


def _room(value: Tensor) -> int:
    """Return the bytes that a tensor takes among others."""
    return -(-value.nbytes // _ALIGNED) * _ALIGNED
