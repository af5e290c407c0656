"""Forward and backward of a step as a CUDA graph: recorded once, then started by one call instead of thousands."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_rs.errors import InputError
from ssl_rs.training.leaving_no_trace import leaving_no_trace

WARM_UP = 3
"""Rounds before a recording: libraries choose their kernels and allocate in them, as torch asks for."""

PLAIN = ("ssl_rs", "torch", "torchvision", "timm", "segmentation_models_pytorch", "builtins")
"""Packages whose modules and functions do the same work in every step."""

Work = Callable[[Any], Mapping[str, Tensor]]
"""Works on a batch, leaves gradients in parameters, and returns values."""


class Replayed:
    """Work on the device that was recorded with one batch and is repeated with others that differ in values alone.

    What the work does on the host happens once. A batch of other shapes, or with other values that are no tensors, is
    worked on without the recording. The values that are returned are overwritten by the next batch.

    Args:
        work: Finds no gradient in the parameters and leaves them there.
        network: Whose parameters get the gradients.
        example: Makes a batch: tensors on one CUDA device in mappings, tuples, lists or dataclasses.

    Raises:
        InputError: What the device does cannot be recorded, though nothing waits for it; torch cannot go on in this
            process as if nothing had been tried.
        RuntimeError: The work waits for the device.
    """

    def __init__(self, work: Work, network: nn.Module, example: Callable[[], Any]) -> None:
        self.work, self.batch = work, _copied(example())
        self.held, self.shape = _parts(self.batch)
        self.device = self.held[0].device
        with torch.cuda.device(self.device), leaving_no_trace(network):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._warm_up(network, stream)
            self.graph = torch.cuda.CUDAGraph()
            try:
                # The outer context is there for torch's own, which does not give the stream back where it fails.
                # Threads that bring data go on meanwhile: only what this one does is recorded, and may fail.
                with (
                    torch.cuda.stream(torch.cuda.current_stream()),
                    torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"),
                ):
                    self.values = work(self.batch)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                raise InputError(
                    f"The step could not be recorded as a CUDA graph: {_first_line(error)}. Start it again with "
                    "trainer.cuda_graph=never."
                ) from error
            self.gradients = [(each, each.grad) for each in network.parameters() if each.grad is not None]

    def _warm_up(self, network: nn.Module, stream: torch.cuda.Stream) -> None:
        """Work on the batch outside of a recording, at last where waiting for the device is an error."""
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for number in range(WARM_UP):
                    with waiting_is_an_error(number == WARM_UP - 1):
                        self.work(self.batch)
                    network.zero_grad()
        finally:
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        """Work on a batch."""
        given, shape = _parts(batch)
        if shape != self.shape:
            return self.work(batch)
        torch._foreach_copy_(self.held, given)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.values


@contextmanager
def waiting_is_an_error(active: bool) -> Iterator[None]:
    """Within it torch raises where the host waits for the device, if that is active."""
    before = torch.cuda.get_sync_debug_mode()
    if active:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def replayed_or_not(work: Work, network: nn.Module, example: Callable[[], Any]) -> Work:
    """Record the work, or warn and return it as it is where it waits for the device.

    Args:
        work: As `Replayed` takes it.
        network: As `Replayed` takes it, in training mode.
        example: As `Replayed` takes it.

    Raises:
        InputError: See `Replayed`.
    """
    try:
        return Replayed(work, network, example)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        warnings.warn(
            f"The step cannot be recorded as a CUDA graph ({_first_line(error)}); the run goes on without it, as with "
            "trainer.cuda_graph=never.",
            stacklevel=2,
        )
        return work


def does_the_same_each_step(network: nn.Module) -> bool:
    """Tell whether all of a network is of packages that are known to: what others wrote may count steps on the host."""
    return all(_is_plain(module) for module in network.modules())


def _is_plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    called = [value for value in vars(module).values() if callable(value)]
    called += [hook for each in hooks for hook in each.values()]
    return not isinstance(module, torch.jit.ScriptModule) and all(_is_known(each) for each in (module, *called))


def _is_known(value: Any) -> bool:
    while isinstance(value, partial):
        value = value.func
    return str(getattr(value, "__module__", None) or "builtins").split(".")[0] in PLAIN


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _copied(value: Any) -> Any:
    """Return a structure with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        copies = [_copied(each) for each in value]
        return type(value)(*copies) if hasattr(value, "_fields") else type(value)(copies)
    if is_dataclass(value):
        return replace(cast(Any, value), **{each.name: _copied(getattr(value, each.name)) for each in fields(value)})
    return value


def _parts(value: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors of a structure, and all that else tells it from others."""
    if isinstance(value, Tensor):
        return [value], (value.shape, value.dtype)
    if isinstance(value, Mapping):
        inner = dict(value)
    elif isinstance(value, tuple | list):
        inner = dict(enumerate(value))
    elif is_dataclass(value):
        inner = {each.name: getattr(value, each.name) for each in fields(value)}
    else:
        return [], value
    parts = {key: _parts(each) for key, each in inner.items()}
    return [tensor for found, _ in parts.values() for tensor in found], {key: rest for key, (_, rest) in parts.items()}
