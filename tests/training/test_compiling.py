"""torch.compile inside a run: the same numbers, no trace of the trial, and a way out where it fails."""

import warnings

import pytest
import torch
from torch import nn

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.randomness import Draws, Rows
from ssl_rs.segmentation.augmentation import SegmentationAugmentation
from ssl_rs.stages.pretraining_batches import batch_making, scene_crops
from ssl_rs.stages.pretraining_plan import read_plan
from ssl_rs.task_output import TaskOutput
from ssl_rs.training.compiling import compiled_or_eager
from ssl_rs.training.loop import train
from ssl_rs.training.step import wrap
from ssl_rs.views.base import all_in_two_parts, crop_view, draw_views, views_as_drawn
from ssl_rs.views.fused import ColorJitter
from tests.training.test_loop import Recorder, job, make_batch

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
        compiled, doubled = compiled_or_eager(network, lambda batch: 2 * batch, example, 2, CPU, "fp32")
    assert compiled is not network
    assert torch.equal(doubled(example()), 2 * example())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    loss = compiled(example())["task"].loss
    assert loss.item() == pytest.approx(network(example())["task"].loss.item(), rel=1e-5)


def test_without_a_compiler_a_run_says_so_and_goes_on_as_without_compile(own_cache, tmp_path):
    plain, asked = job(tmp_path / "plain"), job(tmp_path / "asked", compile=True)
    train(plain, Recorder)
    no_compiler = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with no_compiler, pytest.warns(UserWarning, match=r"trainer\.compile=true does not work here \(.*compiler"):
        train(asked, Recorder)
    for name, value in asked.network.state_dict().items():
        assert torch.equal(value, plain.network.state_dict()[name]), name


@pytest.mark.parametrize(
    ("views", "some_without_data"), [("clean,transformed,corrupted", False), ("clean,masked,byol", True)]
)
def test_compiled_views_are_those_that_are_not_and_one_graph(own_cache, views, some_without_data):
    settings = Settings("pretrain", resolve(compose_config("pretrain", [f"views=[{views}]"])))
    makers = {name: settings.build(f"views.{name}") for name in settings.names("views")}
    assert all_in_two_parts(makers)
    images = torch.rand(4, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.1 if some_without_data else None

    def make(drawn):
        return views_as_drawn(crop_view(images, (3, 0, 1), valid), makers, drawn)

    compiled = torch.compile(make, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for step in range(2):
            drawn = draw_views(makers, (32, 32), seed=0, step=step, rows=Rows(0, 4, 4), device=CPU)
            for name, plain in make(drawn).items():
                view = compiled(drawn)[name]
                assert type(view) is type(plain)
                torch.testing.assert_close(view.image, plain.image, atol=1e-5, rtol=0)
                torch.testing.assert_close(view.geometry, plain.geometry)
                assert view.valid is None if valid is None else torch.equal(view.valid, plain.valid)
    assert torch.equal(compiled(drawn)["clean"].image, make(drawn)["clean"].image)  # moved, not resampled


def test_labeled_crops_are_augmented_alike_when_compiled(own_cache):
    augment = SegmentationAugmentation(0.5, 0.5, 0.5, (0.7, 0.9), ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3)))
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.rand(4, 3, 32, 32, generator=generator), torch.randint(0, 5, (4, 32, 32), generator=generator)
    drawn = augment.draw(Draws(0, 0, "augmentation", Rows(0, 4, 4)))
    apply = torch.compile(augment.apply, fullgraph=True)
    changed, moved = apply(images, masks, drawn, 255, (0, 1, 2))
    plain, plainly_moved = augment.apply(images, masks, drawn, 255, (0, 1, 2))
    torch.testing.assert_close(changed, plain, atol=1e-5, rtol=0)
    assert (moved == plainly_moved).float().mean() > 0.999  # a pixel at the border of two may round to the other
    assert (moved == 255).any()


def test_where_the_augmentation_does_not_compile_it_runs_as_it_is(own_cache, tmp_path, monkeypatch):
    own_compile = torch.compile

    def refusing(what):
        return own_compile(what) if isinstance(what, nn.Module) else own_compile(what, backend="no-such-backend")

    asked = job(tmp_path, make_batch=lambda *given: given, complete=lambda given: make_batch(*given), compile=True)
    monkeypatch.setattr(torch, "compile", refusing)
    with pytest.warns(UserWarning, match=r"does not work here \(.*no-such-backend.*; the augmentation runs") as told:
        module, wrapped = wrap(asked, 0)
    assert len(told) == 1
    assert module._orig_mod is asked.network
    assert wrapped.complete is asked.complete


def test_what_a_step_completes_is_compiled_once(own_cache, tiny):
    plan = read_plan(Settings("pretrain", resolve(compose_config("pretrain", tiny))))
    make_batch, complete = batch_making(plan)
    crops = scene_crops(plan, 0)
    batches = [make_batch(crops.batch(step, plan.site.rows), step) for step in range(3)]
    expected = [complete(batch) for batch in batches]
    compiled = torch.compile(complete, fullgraph=True)
    compiled(batches[0])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, views in zip(batches, expected, strict=True):
            for name, view in compiled(batch).items():
                torch.testing.assert_close(view.image, views[name].image, atol=1e-5, rtol=0)


def test_a_run_whose_steps_are_all_done_needs_no_compiling(tmp_path, monkeypatch):
    done = job(tmp_path / "run")
    train(done, Recorder)
    monkeypatch.setattr(torch, "compile", None)
    progress, _ = train(job(tmp_path / "run", compile=True, accept_other_versions=True), Recorder)
    assert progress.step == done.settings.max_steps
