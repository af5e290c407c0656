"""Depthwise convolutions train in fp32 within bf16 autocast on a CPU, and are what they were everywhere else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from ssl_rs.depthwise import train_depthwise_in_fp32

CPU = torch.device("cpu")


def gradients(layer, image, autocast):
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = layer(image)
    weight = torch.arange(out.numel()).reshape(out.shape).sin()
    return out, *torch.autograd.grad((out.float() * weight).sum(), (image, layer.weight))


@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients_are_those_of_float64(stride):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, stride=stride, padding=1, groups=6)
    plain = copy.deepcopy(layer)
    image = torch.randn(2, 6, 9, 9).bfloat16()
    train_depthwise_in_fp32(layer, CPU)
    out, to_image, to_weight = gradients(layer, image, autocast=True)
    exact = F.conv2d(image.double(), plain.weight.double(), plain.bias.double(), stride, 1, 1, 6)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() <= exact.abs().max() * 2**-8
    reference = copy.deepcopy(plain).double()
    _, exact_to_image, exact_to_weight = gradients(reference, image.double(), autocast=False)
    torch.testing.assert_close(to_image.double(), exact_to_image, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(to_weight.double(), exact_to_weight, rtol=2**-7, atol=2**-7)
    # In fp32 the weights are not rounded: those of plain autocast are further away.
    rounded = gradients(plain, image, autocast=True)[0]
    assert (out - exact).abs().mean() < (rounded - exact).abs().mean()


def test_without_autocast_or_gradients_nothing_changes():
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    layer = copy.deepcopy(plain)
    train_depthwise_in_fp32(layer, CPU)
    image = torch.randn(2, 6, 9, 9)
    for expected, got in zip(gradients(plain, image, False), gradients(layer, image, False), strict=True):
        assert torch.equal(expected, got)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(image), layer(image))


def test_grouped_convolutions_stay():
    layer = nn.Conv2d(6, 6, 3, groups=3)
    train_depthwise_in_fp32(layer, CPU)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet-b0"])  # the latter pads in a convolution of its own
def test_only_depthwise_layers_of_an_encoder_change(name):
    encoder = get_encoder(name, weights=None)
    before = {key: type(layer) for key, layer in encoder.named_modules()}
    keys, printed = list(encoder.state_dict()), repr(encoder)
    for _ in range(2):  # twice is once
        train_depthwise_in_fp32(encoder, CPU)
        changed = {key for key, layer in encoder.named_modules() if type(layer) is not before[key]}
        depthwise = {key for key, layer in encoder.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1}
        assert changed == depthwise
        assert depthwise
    assert list(encoder.state_dict()) == keys
    assert repr(encoder) == printed
    with torch.autocast("cpu", torch.bfloat16):
        deepest = copy.deepcopy(encoder)(torch.rand(2, 3, 64, 64))[-1]
    assert deepest.shape[-2:] == (2, 2)
    deepest.float().mean().backward()


def test_on_a_gpu_nothing_changes():
    layer = nn.Conv2d(6, 6, 3, groups=6)
    train_depthwise_in_fp32(layer, torch.device("cuda"))
    assert type(layer) is nn.Conv2d
