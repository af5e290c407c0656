"""Forward and backward of a step as a CUDA graph: recorded once, then started by one call instead of thousands."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_rs.errors import InputError
from ssl_rs.training.leaving_no_trace import leaving_no_trace

WARM_UP = 3
"""Rounds before a recording: libraries choose their kernels and allocate in them, as torch asks for."""

PLAIN = ("ssl_rs", "torch", "torchvision", "timm", "segmentation_models_pytorch")
"""Packages whose modules do the same work in every step."""

Work = Callable[[Any], Mapping[str, Tensor]]
"""Works on a batch, leaves gradients in parameters, and returns values."""


class Replayed:
    """Work on the device that was recorded with one batch and is repeated with others of the same shapes.

    What the work does on the host happens once. A batch of other shapes is worked on without the recording. The values
    that are returned are overwritten by the next batch.

    Args:
        work: Waits for nothing on the device; finds no gradient in the parameters and leaves them there.
        network: Whose parameters get the gradients.
        batch: Tensors in mappings, tuples or dataclasses on a CUDA device.
    """

    def __init__(self, work: Work, network: nn.Module, batch: Any) -> None:
        self.work, self.batch = work, _copied(batch)
        self.held = list(_tensors(self.batch))
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with leaving_no_trace(network):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    work(self.batch)
                    network.zero_grad()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            # Threads that bring data go on meanwhile: only what this one does is recorded, and may fail.
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.values = work(self.batch)
            self.gradients = [(each, each.grad) for each in network.parameters() if each.grad is not None]

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        """Work on a batch."""
        given = list(_tensors(batch))
        if _shapes(given) != _shapes(self.held):
            return self.work(batch)
        torch._foreach_copy_(self.held, given)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.values


def replayed_or_not(work: Work, network: nn.Module, example: Callable[[], Any]) -> Work:
    """Record the work, or warn and return it as it is where that fails.

    Args:
        work: As `Replayed` takes it.
        network: As `Replayed` takes it, in training mode.
        example: Makes a batch as those of the steps to come.
    """
    batch = example()
    try:
        return Replayed(work, network, batch)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever waits for the device, or allocates beside torch
        warnings.warn(
            f"The step cannot be recorded as a CUDA graph ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0][:300]}); the run goes on without it, as with "
            "trainer.cuda_graph=never.",
            stacklevel=2,
        )
        return work


def does_the_same_each_step(network: nn.Module) -> bool:
    """Tell whether all of a network's modules are of packages that are known to: others may count steps on the host."""
    return all(type(module).__module__.split(".")[0] in PLAIN for module in network.modules())


def _shapes(values: list[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(value.shape, value.dtype) for value in values]


def _copied(value: Any) -> Any:
    """Return a structure with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, tuple):
        copies = [_copied(each) for each in value]
        return type(value)(*copies) if hasattr(value, "_fields") else tuple(copies)
    if is_dataclass(value):
        return replace(cast(Any, value), **{each.name: _copied(getattr(value, each.name)) for each in fields(value)})
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name))
