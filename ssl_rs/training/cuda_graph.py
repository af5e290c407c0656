"""A step up to its gradients as a CUDA graph: recorded once, then started by one call instead of thousands."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs.errors import InputError, SpentProcessError, in_a_line
from ssl_rs.training.leaving_no_trace import leaving_no_trace
from ssl_rs.training.structure import map_tensors, named_parts

WARM_UP = 3
"""Rounds before a recording, as torch demands: in them libraries choose their kernels and allocate."""

PLAIN = ("ssl_rs", "torch", "torchvision", "timm", "segmentation_models_pytorch", "builtins")
"""Packages whose modules and functions do the same work in every step; what names no module counts as builtin."""

Work = Callable[[Any], Mapping[str, Tensor]]
"""Works on a batch, leaves gradients in parameters, and returns values."""


class Replayed:
    """Work on the device that was recorded with one batch and is repeated with others that differ in values alone.

    What the work does on the host happens once. A batch of other shapes, or with other values that are no tensors, is
    worked on without the recording. The values that are returned are overwritten by the next batch.

    Args:
        work: Finds no gradients in the parameters and leaves its own there.
        network: Whose parameters get the gradients.
        example: Makes a batch: tensors on one CUDA device in mappings, tuples, lists or dataclasses.

    Raises:
        SpentProcessError: The recording failed once begun.
        torch.OutOfMemoryError: There is no room for it.
        RuntimeError: The work waits for the device; what else it raises in the rounds before is passed on.
    """

    def __init__(self, work: Work, network: nn.Module, example: Callable[[], Any]) -> None:
        self.work, self.batch = work, map_tensors(Tensor.clone, example())
        self.held, self.shape = _tensors_and_shape(self.batch)
        self.device = self.held[0].device
        with torch.cuda.device(self.device), leaving_no_trace(network):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._warm_up(network, stream)
            self.graph = torch.cuda.CUDAGraph()
            before = _noted(network)
            self.values = self._record(stream)
            self.gradients = [(each, each.grad) for each in network.parameters() if each.grad is not None]
            self.noted = [(*place, value) for place, value in _noted(network).items() if value is not before.get(place)]

    def _record(self, stream: torch.cuda.Stream) -> Mapping[str, Tensor]:
        """Record the work on the batch, and return where its values will be."""
        failed: Exception | None = None
        try:
            # The outer context is there for torch's own, which does not give the stream back where it fails.
            # Threads that bring data go on meanwhile: only what this one does is recorded, and may fail.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"),
            ):
                try:
                    return self.work(self.batch)
                except Exception as error:
                    failed = error  # the end of the recording fails then, too, and says less
                    raise
        except Exception as error:
            cause = failed or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise SpentProcessError(
                f"The step could not be recorded as a CUDA graph: {in_a_line(cause)}. Start it again with "
                "trainer.cuda_graph=never."
            ) from cause

    def _warm_up(self, network: nn.Module, stream: torch.cuda.Stream) -> None:
        """Work on the batch outside of a recording, at last where waiting for the device is an error."""
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for number in range(WARM_UP):
                    with waiting_is_an_error() if number == WARM_UP - 1 else nullcontext():
                        self.work(self.batch)
                    network.zero_grad()
        finally:
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        """Work on a batch."""
        given, shape = _tensors_and_shape(batch)
        if not _is_equal(shape, self.shape):
            return self.work(batch)
        torch._foreach_copy_(self.held, given)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        for module, name, value in self.noted:  # a batch worked on without the recording left others there
            setattr(module, name, value)
        return self.values


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Within it torch raises where the host waits for the device, in any thread."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():  # it says once that the mode is a prototype
        warnings.filterwarnings("ignore", "Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(mode)


def replayed_or_not(work: Work, network: nn.Module, example: Callable[[], Any]) -> Work:
    """Record the work, or warn and return it as it is where it fails before the recording, e.g. by waiting.

    Args:
        work: As `Replayed` takes it.
        network: As `Replayed` takes it, in training mode.
        example: As `Replayed` takes it.

    Raises:
        InputError: See `Replayed`, or the work raised it.
        torch.OutOfMemoryError: There is no room for a recording.
    """
    try:
        return Replayed(work, network, example)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        warnings.warn(
            f"The step cannot be recorded as a CUDA graph ({in_a_line(error)}); the run goes on without it, as with "
            "trainer.cuda_graph=never.",
            stacklevel=2,
        )
        return work


def does_the_same_each_step(network: nn.Module) -> bool:
    """Tell whether modules, functions that are their attributes, and hooks are of PLAIN: others' may count calls."""
    return all(_is_plain(module) for module in network.modules())


def _is_plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    called = [value for value in vars(module).values() if callable(value)]
    called += [hook for each in hooks for hook in each.values()]
    return not isinstance(module, torch.jit.ScriptModule) and all(is_known(each) for each in (module, *called))


def is_known(value: Any) -> bool:
    """Tell whether a function, or the class of an object, is of one of PLAIN."""
    while isinstance(value, partial):
        value = value.func
    return str(getattr(value, "__module__", None) or "builtins").split(".")[0] in PLAIN


def _noted(network: nn.Module) -> dict[tuple[nn.Module, str], Tensor]:
    """Return the tensors that modules hold as plain attributes, e.g. the features that they saw last."""
    values = ((module, name, value) for module in network.modules() for name, value in vars(module).items())
    return {(module, name): value for module, name, value in values if isinstance(value, Tensor)}


def _is_equal(one: list[Any], other: list[Any]) -> bool:
    try:
        return one == other
    except Exception:  # what a view of one's own holds may have no truth value, e.g. an array
        return False


def _tensors_and_shape(batch: Any) -> tuple[list[Tensor], list[Any]]:
    """Return the tensors of a batch, and all that must be equal in another one for a recording to serve it."""
    parts = list(named_parts(batch, "batch"))
    tensors = [part for _, part in parts if isinstance(part, Tensor)]
    shape = [(name, (part.shape, part.dtype) if isinstance(part, Tensor) else part) for name, part in parts]
    return tensors, shape
