"""Depthwise convolutions on a CPU that computes in bf16."""

from functools import lru_cache

import torch
from torch import Tensor, nn


class _InFloat32(nn.Conv2d):
    """A convolution that trains in fp32 where the layers around it compute in bf16."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H', W'] of the same type."""
        if not (torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype)).to(torch.get_autocast_dtype("cpu"))


def train_depthwise_in_fp32(module: nn.Module, device: torch.device) -> None:
    """Let the depthwise convolutions of a module on a CPU train in fp32 within autocast; keys and values stay.

    oneDNN has no fast gradient of them in bf16, above all with stride 2: without this, a step of MobileNetV2 takes a
    quarter longer in bf16 than in fp32, and twice as long as with it (docs/benchmarks.md). Without gradients they stay
    in bf16, also in a momentum encoder.

    The layers cannot be pickled afterwards; their state can.
    """
    if device.type != "cpu":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            # Same attributes and state: only forward differs.
            layer.__class__ = _widened(type(layer))  # type: ignore[arg-type]


@lru_cache
def _widened(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """Return the subclass of a convolution, which may pad in a way of its own, that trains in fp32."""
    return kind if issubclass(kind, _InFloat32) else type(kind.__name__, (_InFloat32, kind), {})
