"""One run on many processes: who am I, and the few collective operations that keep N ranks equal to one process."""

import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_rs.errors import InputError, RefusedElsewhereError, explain

LAUNCHER_ANSWERS = 20.0
"""Seconds in which torchrun must answer when a process joins the others: it was there before them."""


PATIENCE = timedelta(days=7)
"""How long a process waits where another may have hours of work."""


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""By which torchrun tells a process which of how many it is."""


@dataclass(frozen=True)
class Processes:
    """This process among all of a run; torchrun sets the environment it is read from.

    Args:
        rank: Among all.
        world_size: How many there are.
        local_rank: Among those of this machine.
        on_this_machine: How many this machine has.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    on_this_machine: int = 1

    @property
    def is_first(self) -> bool:
        """Only the first process writes."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """Read torchrun's variables; without them the run is one process.

        Raises:
            InputError: They are not as torchrun sets them.
        """
        texts = [os.environ.get(name, default) for name, default in zip(VARIABLES, "0101", strict=True)]
        problem = None
        if wrong := [name for name, text in zip(VARIABLES, texts, strict=True) if not re.fullmatch("[0-9]{1,9}", text)]:
            problem = f"{wrong[0]} is no whole number"
        else:
            found = cls(*map(int, texts))
            here = found.on_this_machine if "LOCAL_WORLD_SIZE" in os.environ else found.world_size  # srun sets none
            if found.rank >= found.world_size:
                problem = "RANK counts from 0 and must be below WORLD_SIZE"
            elif found.local_rank >= here:
                problem = "LOCAL_RANK counts from 0 and must be below the number of processes"
        if problem is None:
            return found
        raise _no_launcher(problem)

    @classmethod
    def alone(cls, command: str) -> "Processes":
        """Return the one process of a command that has no use for more.

        Raises:
            InputError: torchrun started it.
        """
        processes = cls.from_environment()
        if processes.world_size > 1:
            raise InputError(f"{command} is one process. Start it without torchrun.")
        return processes


def _no_launcher(problem: str) -> InputError:
    """Return the error that the environment is not as torchrun makes it."""
    told = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    return InputError(
        f"The environment says {told:.300}: {problem}. Start with torchrun, which sets all that is needed, or unset "
        "these variables to run as one process."
    )


def start(processes: Processes, device: torch.device) -> None:
    """Join the process group where there is more than one process: nccl on GPUs, gloo elsewhere.

    Raises:
        InputError: It is not said where the processes meet, or torchrun, which brings them together, is not there any
            more.
    """
    if processes.world_size > 1 and not dist.is_initialized():
        if lacking := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise _no_launcher(f"{lacking[0]} is not set, where the processes meet")
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            _find_launcher(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def _find_launcher(host: str, port: int) -> None:
    """Wait until the launcher answers: torch would wait for half an hour for one that was killed.

    Raises:
        InputError: It does not.
    """
    deadline = time.monotonic() + LAUNCHER_ANSWERS
    while True:
        try:
            socket.create_connection((host, port), timeout=LAUNCHER_ANSWERS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"torchrun does not answer at {host}:{port} ({error.strerror or error}): it has ended, or the "
                    "network keeps its processes apart. Start torchrun again; the run goes on."
                ) from error
        time.sleep(0.5)


def stop() -> None:
    """Leave the process group, if one was joined."""
    if is_distributed():
        dist.destroy_process_group()
        _patient_group.cache_clear()


def is_distributed() -> bool:
    """Tell whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_loss_of_rank(error: RuntimeError) -> bool:
    """Tell whether an operation over ranks failed because another one has ended."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def barrier() -> None:
    """Wait for every process, for days if need be: one may prepare data, or score larger scenes, for hours.

    The wait of the process group itself ends after 10 minutes (nccl) or 30 (gloo), which is enough for a step. That a
    process has ended is found out at once.
    """
    if is_distributed():
        dist.barrier(_patient_group())


@contextmanager
def others_wait(processes: Processes) -> Iterator[None]:
    """Within it the first process alone has work to do; at its end the others wait for it, as at a `barrier`.

    Raises:
        RefusedElsewhereError: On the others, where the first one was refused: else they would wait until they are
            killed.
    """
    try:
        yield
    except Exception as error:  # raised again
        if processes.is_first and explain(error) is not None:
            _from_first(True)
        raise
    if _from_first(False):
        raise RefusedElsewhereError("The first process of this run was refused, and says why.")


def _from_first(flag: bool) -> bool:
    """Return what the first process says here, on all of them, however long it takes to come."""
    if not is_distributed():
        return flag
    said = torch.tensor(flag)
    dist.broadcast(said, src=0, group=_patient_group())
    return bool(said)


@cache
def _patient_group() -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert not isinstance(group, int), "this rank is in no group of all ranks"
    return group


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of each element over ranks, without gradient.

    Of a count, e.g. of valid pixels, it is the divisor with which averaging ranks gives the mean of one process.
    """
    total = values.detach()
    if not is_distributed():
        return total
    total = total.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of each element over ranks, of a tensor on the CPU, however long the slowest takes to come."""
    if not is_distributed():
        return values
    total = values.clone()
    dist.all_reduce(total, group=_patient_group())
    return total


def min_over_ranks(values: Tensor) -> Tensor:
    """Return the smallest of each element of a detached tensor over ranks."""
    smallest = values.clone()
    if is_distributed():
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return smallest


class _Gather(torch.autograd.Function):
    """All ranks' rows forward; the sum of all ranks' gradients of my rows backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.count = rows.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.count
        return total[first : first + ctx.count]


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in rank order, with gradient; the input itself on one process.

    Args:
        rows: [B, D], as many on every rank.

    Returns:
        [world_size * B, D].
    """
    return _Gather.apply(rows) if is_distributed() else rows  # type: ignore[no-any-return, no-untyped-call]


def first_row(count: int) -> int:
    """Return the index of this rank's first row among those of all ranks, each of which has `count`."""
    return dist.get_rank() * count if is_distributed() else 0


def gradients_stay(module: nn.Module, here: bool) -> AbstractContextManager[None]:
    """Return a context in which backward adds to the gradients of this rank only: a later one averages them all.

    Args:
        module: What `average_gradients` gave.
        here: False: gradients are averaged as ever.
    """
    if here and isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()  # type: ignore[no-any-return, no-untyped-call]
    return nullcontext()


def average_gradients(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module wrapped so that backward leaves the mean of all ranks' gradients; itself on one process.

    Some tasks leave the deepest level of the encoder without gradient, so unused parameters are looked for.
    static_graph would spare the search, but together with the collectives of a synchronized BatchNorm its gradients
    are wrong (torch 2.15, gloo: errors as large as the gradients, which tests/test_distributed.py then shows).
    """
    if not is_distributed():
        return module
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")  # and it may well find none
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)
