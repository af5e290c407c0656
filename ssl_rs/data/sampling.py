"""The batches of a run in the order of its steps: the same ones however many processes read them ahead."""

import signal
import warnings
from collections.abc import Generator, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import data as torch_data

from ssl_rs.data.cutting import CropKind, Cutter
from ssl_rs.errors import InputError
from ssl_rs.randomness import Rows

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

READ_AHEAD = 2
"""Batches that each process reads ahead."""


class BatchSource(Protocol[T_co]):
    """Gives the rows of any step's batch: crops of some scenes.

    Args:
        cutter: Cuts them; from memory maps, unless somebody puts another one there.
        scenes: The indices of the scenes.
        kinds: Which of their arrays are cut.
    """

    cutter: Cutter
    scenes: Sequence[int]
    kinds: Sequence[CropKind]

    def batch(self, step: int, rows: Rows) -> T_co:
        """Return the samples of these rows."""
        ...


def to_unit(images: Tensor, value_scale: float) -> Tensor:
    """Return stored values as float32 in [0, 1]; brighter values, e.g. of other scenes, are clipped."""
    return (images.to(torch.float32) / value_scale).clamp_(0, 1)


class _Steps(torch_data.Dataset[T | InputError | OSError], Generic[T]):
    """The batches of a source, by step; an error is handed over: raised in a worker, it would come as a traceback."""

    def __init__(self, source: BatchSource[T], rows: Rows) -> None:
        self.source = source
        self.rows = rows

    def __getitem__(self, step: int) -> T | InputError | OSError:
        try:
            return self.source.batch(step, self.rows)
        except (InputError, OSError) as error:
            return error


def batches(
    source: BatchSource[T], start_step: int, stop_step: int, rows: Rows, num_workers: int, pinned: bool = False
) -> Generator[T, None, None]:
    """Yield the batch of each step, in order; the same ones for any number of workers.

    Args:
        source: Gives the batch of a step.
        start_step: The first step.
        stop_step: The first step that is not wanted any more.
        rows: This process's rows of each global batch.
        num_workers: Processes that read ahead; 0 reads in this one.
        pinned: Whether what they read goes to a GPU: it then lies where that copies from fastest. This opens the GPU.

    Raises:
        InputError: A file of the store is damaged or gone.
        OSError: It cannot be read, e.g. since a network mount is stale.
    """
    steps = range(start_step, stop_step)
    if num_workers == 0:
        yield from (source.batch(step, rows) for step in steps)
        return
    with warnings.catch_warnings():  # `trainer.num_workers` is told of by those who know it
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = torch_data.DataLoader(
            _Steps(source, rows),
            batch_size=None,
            sampler=steps,
            num_workers=num_workers,
            prefetch_factor=READ_AHEAD,
            pin_memory=pinned,
            generator=torch.Generator(),  # its own: else it would draw from the global one
            worker_init_fn=_leave_signals_to_the_parent,
        )
        iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, (InputError, OSError)):
                raise batch
            yield batch
    finally:  # not when Python happens to collect it: at its end it would wait for them, and they hear no SIGTERM
        iterator._shutdown_workers()  # type: ignore[attr-defined]


def _leave_signals_to_the_parent(worker: int) -> None:
    """Outlive a request to stop that all processes get: the loop still finishes its step, and then ends us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
