"""The same architecture in torchvision and timm: our weights under the names that they use there.

Tensors are matched by name or, where the libraries name them differently, by their order; whether that was right is
then measured: every convolution and linear layer of both networks must give the same values on the same image, and
norms must have the same epsilon. What follows the last of these layers, e.g. an activation, is the model's own.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor, nn
from torchvision import models

from ssl_rs.errors import InputError

TIMM_NAMES = {"mobilenet_v2": "mobilenetv2_100"}
"""timm's names of the encoders of smp that are called otherwise there."""

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)

T = TypeVar("T")

TOLERANCE = 1e-4
"""By how much values may differ, as a share of the layer's largest: other kernels round differently."""


def torchvision_name(backbone: str, bands: int) -> str:
    """Return torchvision's name of a backbone.

    Raises:
        InputError: It has no such model, or none of as many bands.
    """
    name = backbone.removeprefix("tu-")
    if name not in models.list_models(module=models):
        raise InputError(f"torchvision has no model of the name {name}")
    if bands != 3:
        raise InputError(f"torchvision's models read 3 bands, this one reads {bands}")
    return name


def timm_name(backbone: str) -> str:
    """Return timm's name of a backbone.

    Raises:
        InputError: It has no such model.
    """
    name = backbone.removeprefix("tu-")
    name = TIMM_NAMES.get(name, name)
    if not timm.is_model(name):
        raise InputError(f"timm has no model of the name {name}")
    return name


@dataclass(frozen=True)
class Renamed:
    """Weights under another library's names.

    Args:
        weights: By name.
        lacking: Names of the model's tensors that are not among them, e.g. those of its head.
    """

    weights: Mapping[str, Tensor]
    lacking: tuple[str, ...]


def for_torchvision(encoder: nn.Module, name: str, image: Tensor) -> Renamed:
    """Return the weights of an encoder for `torchvision.models.get_model(name)`.

    Args:
        encoder: In evaluation mode.
        name: Of the model.
        image: [1, 3, H, W], normalized, on which both are compared.

    Raises:
        InputError: The model is another one.
    """
    model = models.get_model(name, weights=None).eval()
    return renamed(encoder, model, model, image, f"torchvision's {name}")


def for_timm(encoder: nn.Module, name: str, image: Tensor) -> Renamed:
    """Return the weights of an encoder for `timm.create_model(name, in_chans=C, num_classes=0)`.

    Args:
        encoder: In evaluation mode.
        name: Of the model.
        image: [1, C, H, W], normalized, on which both are compared.

    Raises:
        InputError: The model is another one.
    """
    model: Any = timm.create_model(name, pretrained=False, in_chans=image.shape[1], num_classes=0).eval()
    return renamed(encoder, model, model.forward_features, image, f"timm's {name}")


@torch.no_grad()
def renamed(
    encoder: nn.Module, model: nn.Module, forward: Callable[[Tensor], Any], image: Tensor, what: str
) -> Renamed:
    """Return the weights of an encoder under the names of a model that begins with the same layers.

    Args:
        encoder: In evaluation mode.
        model: In evaluation mode; its weights are replaced.
        forward: Runs at least those layers of the model.
        image: [1, C, H, W], normalized, on which both are compared.
        what: The model in words, for messages.

    Raises:
        InputError: Names, shapes or values differ.
    """
    ours, theirs = encoder.state_dict(), model.state_dict()
    weights = dict(ours) if _fits(ours, theirs) else dict(zip(theirs, ours.values(), strict=False))
    if len(weights) < len(ours) or not _fits(weights, theirs):
        raise InputError(f"{what} has tensors of other shapes or in another order")
    lacking = model.load_state_dict(weights, strict=False).missing_keys
    expected, got = layer_outputs(encoder, encoder, image), layer_outputs(model, forward, image)
    # What follows in `got` is the head's.
    same = _begins_with(got, expected, _close) and _begins_with(_epsilons(model), _epsilons(encoder), operator.eq)
    if not expected or not same:
        raise InputError(f"{what} computes other values from the same weights")
    return Renamed(weights, tuple(lacking))


def layer_outputs(network: nn.Module, forward: Callable[[Tensor], Any], image: Tensor) -> list[Tensor]:
    """Return what each convolution and linear layer of a network gave, in the order in which they ran."""
    outputs: list[Tensor] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *called: outputs.append(called[2])) for layer in layers]
    try:
        forward(image)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _fits(weights: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(name in theirs and theirs[name].shape == value.shape for name, value in weights.items())


def _epsilons(network: nn.Module) -> list[float]:
    return [module.eps for module in network.modules() if isinstance(module, NORMS)]


def _begins_with(longer: Sequence[T], first: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    return len(longer) >= len(first) and all(map(same, first, longer))


def _close(expected: Tensor, got: Tensor) -> bool:
    return expected.shape == got.shape and bool((expected - got).abs().max() <= TOLERANCE * expected.abs().max())
