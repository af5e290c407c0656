"""torch.compile, or network and augmentation as they are where that does not work."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ssl_rs import distributed
from ssl_rs.errors import InputError, in_a_line
from ssl_rs.training.accumulation import in_parts
from ssl_rs.training.leaving_no_trace import leaving_no_trace

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
    """Compile a network and what makes its input, and try them; warn and return both as they are if that fails.

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
    complete(given)  # constants come to the device before they are traced
    module, completed, problem = network, complete, None
    try:
        module, completed = cast(nn.Module, torch.compile(network)), torch.compile(complete)
        with leaving_no_trace(network):
            batch = next(in_parts(completed(given), parts))
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = module(batch)
            sum(output.loss for output in outputs.values()).backward()
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # graphs, code generation and compilers fail each in their own way
        problem = in_a_line(error)
    if distributed.min_over_ranks(torch.tensor(float(problem is None), device=device)):
        return module, completed
    if problem:
        warnings.warn(
            f"trainer.compile=true does not work here ({problem}); the run goes on without it, as with "
            "trainer.compile=false. It needs a C++ compiler on a CPU, and Triton on a GPU.",
            stacklevel=2,
        )
    return network, complete
