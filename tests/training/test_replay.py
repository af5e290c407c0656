"""What a CUDA graph may be recorded of; that it is recorded, tests/test_gpu.py checks where there is a GPU."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from ssl_rs.training import replay
from ssl_rs.training.leaving_no_trace import leaving_no_trace


class Pair(NamedTuple):
    images: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class Piece:
    image: Tensor
    name: str


class OwnTask(nn.Module):
    """Might count its calls."""


def test_networks_of_known_packages_are_recorded_and_those_with_a_module_of_ones_own_are_not():
    network = smp.Unet("resnet18", encoder_weights=None)
    assert replay.does_the_same_each_step(network)
    network.add_module("head", OwnTask())
    assert not replay.does_the_same_each_step(network)


def test_a_batch_is_held_in_tensors_of_its_own_whatever_its_structure():
    wide = torch.rand(1, 3).expand(4, 3)
    batch = {"a": Piece(torch.rand(2), "x"), "b": (wide, Pair(torch.arange(3), None))}
    held = replay._copied(batch)
    assert type(held["b"][1]) is Pair
    assert held["a"].name == "x"
    for copied, given in zip(replay._tensors(held), replay._tensors(batch), strict=True):
        assert torch.equal(copied, given)
        assert copied.data_ptr() != given.data_ptr()
        assert copied.is_contiguous()  # an expanded one could not be written to
    assert len(list(replay._tensors(batch))) == 3


def test_work_that_cannot_be_recorded_is_done_as_it_is_with_a_warning():
    """On a machine without CUDA nothing can."""
    if torch.cuda.is_available():
        pytest.skip("here it can be recorded")
    network = nn.Linear(3, 2)

    def work(batch: Tensor) -> dict[str, Tensor]:
        return {"loss": network(batch).sum()}

    with pytest.warns(UserWarning, match="cannot be recorded.*trainer.cuda_graph=never"):
        assert replay.replayed_or_not(work, network, lambda: torch.ones(1, 3)) is work


def test_a_trial_leaves_buffers_as_they_were_and_no_gradient():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = [buffer.clone() for buffer in network.buffers()]
    with leaving_no_trace(network):
        network(torch.rand(5, 3)).sum().backward()
        assert not torch.equal(network[1].running_mean, before[0])
    assert all(torch.equal(now, then) for now, then in zip(network.buffers(), before, strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())
