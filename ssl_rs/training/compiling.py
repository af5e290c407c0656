"""torch.compile, or the network as it is where that does not work."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ssl_rs import distributed
from ssl_rs.errors import InputError, in_a_line
from ssl_rs.training.leaving_no_trace import leaving_no_trace


def compiled_or_eager(
    network: nn.Module, example: Callable[[], Any], device: torch.device, precision: str
) -> nn.Module:
    """Compile a network and try it forward and backward; warn and return it as it is if that fails.

    On several ranks all of them go back where one could not compile before its first exchange with the others; a rank
    that fails amid one ends the run.

    Args:
        network: In training mode, on its device; maps a batch to named outputs.
        example: Makes a batch as those of the steps to come.
        device: Where it trains.
        precision: bf16 or fp32.
    """
    module = cast(nn.Module, torch.compile(network))
    batch = example()
    problem = None
    try:
        with leaving_no_trace(network):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs = module(batch)
            sum(output.loss for output in outputs.values()).backward()
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # graphs, code generation and compilers fail each in their own way
        problem = in_a_line(error)
    if distributed.min_over_ranks(torch.tensor(float(problem is None), device=device)):
        return module
    if problem:
        warnings.warn(
            f"trainer.compile=true does not work here ({problem}); the run goes on without it, as with "
            "trainer.compile=false. It needs a C++ compiler on a CPU, and Triton on a GPU.",
            stacklevel=2,
        )
    return network
