"""A network where it is trained: the optimizer and whose learning rate is whose."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssl_rs.stages.placed_network import place_network
from ssl_rs.training.settings import TrainerSettings


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 2)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, values):
        return (self.head(self.encoder(values)) * self.fixed).square().sum()


def steps_taken(factor, optimizer, steps=1, **settings):
    """Return by how much each tensor of the state moved, and the optimizer."""
    network = Network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    site = SimpleNamespace(
        device=torch.device("cpu"), trainer=TrainerSettings(1, 2, encoder_lr_factor=factor, **settings)
    )
    placed = place_network(network, network.encoder, site, SimpleNamespace(optimizer=optimizer))
    for group in placed.param_groups:
        group["lr"] = group["initial_lr"]  # as the loop does in every step
    for step in range(steps):
        network(torch.randn(8, 3, generator=torch.Generator().manual_seed(step))).backward()
        placed.step()
        placed.zero_grad()
    return {name: value - before[name] for name, value in network.state_dict().items()}, placed


def test_the_encoder_moves_by_its_own_rate_and_all_else_as_before():
    plain, _ = steps_taken(1.0, partial(torch.optim.SGD, lr=0.1))
    gentle, _ = steps_taken(0.25, partial(torch.optim.SGD, lr=0.1))
    for name, moved in plain.items():
        factor = 0.25 if name.startswith("encoder.") and "running" not in name and "batches" not in name else 1
        torch.testing.assert_close(gentle[name], moved * factor, atol=1e-7, rtol=1e-4)
    assert plain["encoder.0.weight"].abs().max() > 1e-3


def test_a_factor_of_zero_keeps_the_encoders_weights():
    moved, _ = steps_taken(0.0, partial(torch.optim.AdamW, lr=0.1, weight_decay=0.05), steps=3)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert not moved[f"encoder.{name}"].any(), name
    assert moved["head.weight"].all()
    assert moved["encoder.1.running_mean"].all()


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_weight_decay_may_leave_norms_and_biases_alone(factor):
    """Two steps that differ in their decay alone: AdamW takes lr * decay of what was there off beside its step."""
    make = [partial(torch.optim.AdamW, lr=0.1, weight_decay=decay) for decay in (0.0, 0.5)]
    (plain, _), (decayed, optimizer) = (steps_taken(factor, each, decay_norms_and_biases=False) for each in make)
    start = Network().state_dict()
    for name in start:
        expected = plain[name]
        if name == "head.weight" or (name == "encoder.0.weight" and factor):
            expected = plain[name] - 0.1 * 0.5 * start[name]
        torch.testing.assert_close(decayed[name], expected, atol=1e-6, rtol=1e-5)
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == ([0.5, 0.0] if factor else [0.5, 0.0, 0.5, 0.0])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_every_trained_parameter_is_in_one_group_and_the_rate_of_the_rest_is_logged(factor):
    _, optimizer = steps_taken(factor, partial(torch.optim.AdamW, lr=0.1))
    counts = [len(group["params"]) for group in optimizer.param_groups]
    assert counts == ([6] if factor == 1 else [2, 4])
    assert [group["initial_lr"] for group in optimizer.param_groups] == ([0.1] if factor == 1 else [0.1, 0.05])
    assert not any("lr_factor" in group for group in optimizer.param_groups)


def test_depthwise_convolutions_of_a_placed_network_train_in_fp32():
    """What is too fine for bf16, 1 + 2^-12, reaches the gradient."""
    network = nn.ModuleDict({"encoder": nn.Conv2d(2, 2, 1, groups=2, bias=False)})
    with torch.no_grad():
        network["encoder"].weight.fill_(1 + 2**-12)
    site = SimpleNamespace(device=torch.device("cpu"), trainer=TrainerSettings(1, 2))
    place_network(network, network["encoder"], site, SimpleNamespace(optimizer=partial(torch.optim.SGD, lr=0.1)))
    image = torch.full((1, 2, 4, 4), 1.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        network["encoder"](image).float().sum().backward()
    assert (image.grad == 1 + 2**-12).all()
