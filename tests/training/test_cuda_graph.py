"""What a CUDA graph may be recorded of; that it is recorded, tests/test_gpu.py checks where there is a GPU."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Normalization, Statistics
from ssl_rs.segmentation.network import SegmentationNetwork, build_segmentation_model
from ssl_rs.stages.pretraining import initial_network
from ssl_rs.stages.pretraining_plan import read_plan
from ssl_rs.training import cuda_graph
from ssl_rs.training.leaving_no_trace import leaving_no_trace
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.training.step import records


@dataclass(frozen=True)
class Piece:
    image: Tensor
    name: str


class OwnTask(nn.Module):
    """Might count its calls."""


def counting(*given):
    """Stands for what counts its calls."""


def test_networks_of_known_packages_are_recorded_and_those_with_anything_of_ones_own_are_not():
    network = smp.Unet("resnet18", encoder_weights=None)
    assert cuda_graph.does_the_same_each_step(network)
    network.encoder.loss = partial(torch.relu)
    assert cuda_graph.does_the_same_each_step(network)
    network.encoder.loss = partial(counting)  # a loss is no module
    assert not cuda_graph.does_the_same_each_step(network)
    del network.encoder.loss
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        hook = getattr(network.decoder, f"register_{kind}")(counting)
        assert not cuda_graph.does_the_same_each_step(network), kind
        hook.remove()
        assert cuda_graph.does_the_same_each_step(network)
    network.add_module("head", OwnTask())
    assert not cuda_graph.does_the_same_each_step(network)
    assert not cuda_graph.does_the_same_each_step(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)))


@pytest.mark.parametrize(
    "given",
    [
        ("pretrain", "pretext=[inpainting_unet,transform_prediction,contrastive]"),
        ("pretrain", "pretext=[inpainting_fpn,simclr,moco_v2,vicreg,dense_contrastive]"),
        ("pretrain", "pretext=[byol,transform_prediction_pooled]"),
    ],
)
def test_every_network_of_ours_is_recorded(tiny, given):
    command, *chosen = given
    plan = read_plan(Settings(command, resolve(compose_config(command, [*tiny, *chosen]))))
    assert cuda_graph.does_the_same_each_step(initial_network(plan)[0])


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced", "focal", "dice"])
@pytest.mark.parametrize("decoder", ["unet", "fpn", "deeplabv3plus"])
def test_every_segmentation_network_of_ours_is_recorded(loss, decoder):
    settings = Settings("finetune", resolve(compose_config("finetune", [f"loss={loss}", f"decoder={decoder}"])))
    model = build_segmentation_model(settings.build("decoder", made_later=True), "resnet18", 3, 4)
    statistics = Statistics((0.5,) * 3, (0.2,) * 3, "nowhere")
    network = SegmentationNetwork(model, Normalization(statistics), 255, settings.build("loss"), None)
    assert cuda_graph.does_the_same_each_step(network)


@pytest.mark.parametrize(
    "other",
    [
        {"a": Piece(torch.rand(2), "y")},
        {"a": Piece(torch.rand(3), "x")},
        {"a": Piece(torch.rand(2).double(), "x")},
        {"a": Piece(torch.rand(2), "x"), "b": torch.rand(1)},
        {"b": Piece(torch.rand(2), "x")},
    ],
)
def test_only_a_batch_that_differs_in_values_alone_is_served_by_a_recording(other):
    batch = {"a": Piece(torch.rand(2), "x")}
    tensors, shape = cuda_graph._tensors_and_shape(batch)
    assert tensors[0] is batch["a"].image
    assert cuda_graph._tensors_and_shape({"a": Piece(torch.rand(2), "x")})[1] == shape
    assert cuda_graph._tensors_and_shape(other)[1] != shape


def test_values_that_have_no_truth_are_not_equal():
    """As arrays in a view of one's own: the batch is then worked on without the recording."""
    assert cuda_graph._is_equal([("a", 1)], [("a", 1)])
    assert not cuda_graph._is_equal([("a", np.arange(2))], [("a", np.arange(2))])


def test_work_that_cannot_be_recorded_is_done_as_it_is_with_a_warning():
    """On a machine without CUDA nothing can."""
    if torch.cuda.is_available():
        pytest.skip("here it can be recorded")
    network = nn.Linear(3, 2)

    def work(batch: Tensor) -> dict[str, Tensor]:
        return {"loss": network(batch).sum()}

    with pytest.warns(UserWarning, match="cannot be recorded.*trainer.cuda_graph=never"):
        assert cuda_graph.replayed_or_not(work, network, lambda: torch.ones(1, 3)) is work


def test_a_trial_leaves_buffers_as_they_were_and_no_gradient():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = [buffer.clone() for buffer in network.buffers()]
    with leaving_no_trace(network):
        network(torch.rand(5, 3)).sum().backward()
        assert not torch.equal(network[1].running_mean, before[0])
    assert all(torch.equal(now, then) for now, then in zip(network.buffers(), before, strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("device", "processes", "choice", "network", "recorded"),
    [
        ("cuda", 1, "auto", nn.Linear(2, 2), True),
        ("cuda", 1, "auto", OwnTask(), False),
        ("cuda", 1, "always", OwnTask(), True),
        ("cuda", 1, "never", nn.Linear(2, 2), False),
        ("cuda", 2, "always", nn.Linear(2, 2), False),
        ("cpu", 1, "always", nn.Linear(2, 2), False),
    ],
)
def test_one_process_with_a_gpu_records_what_is_known_or_asked_for(device, processes, choice, network, recorded):
    job = SimpleNamespace(
        device=torch.device(device), processes=Processes(world_size=processes), network=network,
        settings=TrainerSettings(1, 2, cuda_graph=choice),
    )  # fmt: skip
    assert records(job) == recorded
