"""Copies to a GPU that overlap the step before."""

from collections.abc import Generator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T", bound=tuple[Any, ...])


def copied_ahead(batches: Generator[T, None, None], device: torch.device) -> Generator[T, None, None]:
    """Yield batches on a CUDA device; the next one is copied in a stream of its own while this one is worked on.

    Args:
        batches: Tuples of tensors and None on the CPU; only from pinned memory, as loader processes give it, do copies
            overlap.
        device: A CUDA device.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    try:
        following = _copied(next(batches, None), device, stream)
        while following is not None:
            torch.cuda.current_stream(device).wait_stream(stream)
            batch = following
            for value in batch:
                if value is not None:  # else its memory could be given away while the step still reads it
                    value.record_stream(torch.cuda.current_stream(device))
            following = _copied(next(batches, None), device, stream)
            yield batch
    finally:
        batches.close()


def _copied(batch: T | None, device: torch.device, stream: torch.cuda.Stream) -> T | None:
    if batch is None:
        return None
    with torch.cuda.stream(stream):
        copies = [value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for value in batch]
    named = hasattr(batch, "_fields")
    return cast(T, type(batch)(*copies) if named else tuple(copies))
