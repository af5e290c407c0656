"""Tensors on their way from host memory to a device."""

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, without waiting for it where that is safe.

    CUDA is done with memory that is not pinned when the call returns. Metal may read it later, when it may have been
    given away: https://github.com/pytorch/pytorch/issues/139550
    """
    return value.to(device, non_blocking=device.type == "cuda")
