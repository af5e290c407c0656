"""Batch normalization over all processes of a run, on any device."""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from ssl_rs.distributed import is_distributed
from ssl_rs.errors import InputError


class _Sum(torch.autograd.Function):
    """The sum over ranks, with gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization with the moments of all ranks, on any device.

    torch.nn.SyncBatchNorm runs on GPUs only; this one makes ranks on CPU equal to one process. Values are those of
    torch.nn.BatchNorm2d over the joint batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [B, C, ...] by channel."""
        if not (self.training and is_distributed()):
            return super().forward(input)  # type: ignore[no-any-return]
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.to(torch.promote_types(input.dtype, torch.float32))  # moments of bf16 in fp32
        count = values.numel() / values.shape[1] * dist.get_world_size()
        mean = _Sum.apply(values.sum(axes)) / count  # type: ignore[no-untyped-call]  # [C]
        centered = values - mean.view(shape)
        variance = _Sum.apply(centered.square().sum(axes)) / count  # type: ignore[no-untyped-call]  # [C]
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        normalized = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(input.dtype)  # type: ignore[no-any-return]

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class SynchronizedBatchNormAct(SynchronizedBatchNorm):
    """What timm's BatchNormAct2d becomes: after the normalization come its own dropout and activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [B, C, H, W] by channel, drop, activate."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module with every BatchNorm taking its moments over all ranks; keys and values stay as they are.

    Raises:
        InputError: A layer whose moments cannot be taken over ranks.
    """
    if not is_distributed():
        return module
    if device.type == "cuda":
        # timm's knows its own layers with an activation, and torch's.
        synchronized: nn.Module = convert_sync_batchnorm(module)
        return synchronized
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            child.__class__ = SynchronizedBatchNorm  # same attributes and state: only forward differs
        elif isinstance(child, BatchNormAct2d):
            child.__class__ = SynchronizedBatchNormAct
        elif isinstance(child, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"Layers of type {type(child).__name__} cannot be synchronized over ranks: use one process."
            )
        else:
            setattr(module, name, synchronize_batch_norm(child, device))
    return module
