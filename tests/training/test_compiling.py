"""torch.compile inside a run: the same numbers, no trace of the trial, and a way out where it fails."""

import warnings

import pytest
import torch
from torch import nn

from ssl_rs.task_output import TaskOutput
from ssl_rs.training.compiling import compiled_or_eager
from ssl_rs.training.loop import train
from tests.training.test_loop import Recorder, job

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


class WithMoments(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images):
        return {"task": TaskOutput(self.layers(images).square().mean())}


def example():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_compiled_network_computes_the_same_and_the_trial_leaves_no_trace(own_cache):
    torch.manual_seed(0)
    network = WithMoments()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled = compiled_or_eager(network, example, CPU, "fp32")
    assert compiled is not network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    loss = compiled(example())["task"].loss
    assert loss.item() == pytest.approx(network(example())["task"].loss.item(), rel=1e-5)


def test_without_a_compiler_a_run_says_so_and_goes_on_as_without_compile(own_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    plain, asked = job(tmp_path / "plain"), job(tmp_path / "asked", compile=True)
    train(plain, Recorder)
    with pytest.warns(UserWarning, match=r"trainer\.compile=true does not work here \(.*compiler"):
        train(asked, Recorder)
    for name, value in asked.network.state_dict().items():
        assert torch.equal(value, plain.network.state_dict()[name]), name


def test_a_run_whose_steps_are_all_done_needs_no_compiling(tmp_path, monkeypatch):
    done = job(tmp_path / "run")
    train(done, Recorder)
    monkeypatch.setattr(torch, "compile", None)
    progress, _ = train(job(tmp_path / "run", compile=True, accept_other_versions=True), Recorder)
    assert progress.step == done.settings.max_steps
