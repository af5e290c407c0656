"""torch.compile, or network and augmentation as they are where that does not work."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ssl_rs import distributed
from ssl_rs.errors import InputError, in_a_line
from ssl_rs.precision import autocast
from ssl_rs.training.accumulation import in_parts
from ssl_rs.training.leaving_no_trace import leaving_no_trace

T = TypeVar("T")

Complete = Callable[[Any], Any]
"""Makes the network's input of what lies on the device."""


def compiled_or_eager(
    network: nn.Module,
    complete: Complete,
    example: Callable[[], Any],
    parts: int,
    device: torch.device,
    precision: str,
) -> tuple[nn.Module, Complete]:
    """Compile a network and what makes its input, and try them; warn and return what that fails with as it is.

    On several ranks all of them go back where one could not compile before its first exchange with the others; a rank
    that fails amid one ends the run.

    Args:
        network: In training mode, on its device; maps a batch to named outputs.
        complete: Makes its input, without gradient.
        example: Makes what `complete` takes, as in the steps to come.
        parts: In which the input goes through the network.
        device: Where it trains.
        precision: bf16 or fp32.
    """
    given = example()
    batch = next(in_parts(complete(given), parts))  # also brings constants to the device before they are traced

    def learn(module: nn.Module) -> None:
        with leaving_no_trace(network):
            with autocast(device, precision):
                outputs = module(batch)
            sum(output.loss for output in outputs.values()).backward()

    completed = _or_as_it_is("augmentation", complete, lambda compiled: compiled(given), device)
    return _or_as_it_is("network", network, learn, device), completed


def _or_as_it_is(name: str, what: T, attempt: Callable[[T], object], device: torch.device) -> T:
    """Return what was compiled, if the attempt went well with it on all ranks; else warn, and return what was given."""
    problem = None
    try:
        compiled = cast(T, torch.compile(cast(Any, what)))
        attempt(compiled)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # graphs, code generation and compilers fail each in their own way
        problem = in_a_line(error)
    if distributed.min_over_ranks(torch.tensor(float(problem is None), device=device)):
        return compiled
    if problem:
        warnings.warn(
            f"trainer.compile=true does not work here ({problem}); the {name} runs without it, as with "
            "trainer.compile=false. It needs a C++ compiler on a CPU, and Triton on a GPU.",
            stacklevel=2,
        )
    return what
