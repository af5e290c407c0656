"""In which precision a network computes."""

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which operations that may do so compute in bf16, where that is the precision.

    Args:
        device: Where they compute.
        precision: bf16 or fp32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
