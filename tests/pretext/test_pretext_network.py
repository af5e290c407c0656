import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.contrastive import Contrastive
from ssl_rs.pretext.decoder import AdditiveDecoder
from ssl_rs.pretext.inpainting import Inpainting
from ssl_rs.pretext.momentum import MomentumRule
from ssl_rs.pretext.network import PretextNetwork, build_task, check_views, split_views
from ssl_rs.pretext.transform_prediction import TransformPrediction
from ssl_rs.pretext.transform_prediction_pooled import PooledTransformPrediction
from ssl_rs.randomness import Rows
from ssl_rs.task_output import TaskOutput
from ssl_rs.training.settings import exactness
from ssl_rs.views.base import TransformedView, crop_view, make_views
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.corrupted import CorruptedMaker
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.transformed import TransformedMaker

JITTER = ColorJitter((0.7, 1.3), (0.5, 1.5), (0.5, 1.5), (-0.3, 0.3))
MAKERS = {
    "clean": CleanMaker("crop"),
    "transformed": TransformedMaker("clean", (0.7, 0.95), JITTER),
    "corrupted": CorruptedMaker("clean", 2, (0.2, 0.4), JITTER),
}
TASKS = {
    "inpainting": functools.partial(Inpainting, decoder=functools.partial(AdditiveDecoder, widths=[16, 8, 8, 8])),
    "transform_prediction": functools.partial(TransformPrediction, level=-3, dimensions=8),
    "pooled": functools.partial(PooledTransformPrediction, reduction=8),
    "contrastive": functools.partial(Contrastive, hidden=16, dimensions=8),
}


def step_views(batch=4, size=32, bands=3, valid=None):
    crops = torch.rand(batch, bands, size, size, generator=torch.Generator().manual_seed(0))
    return make_views(crop_view(crops, valid=valid), MAKERS, seed=0, step=0, rows=Rows(0, batch, batch))


def build(backbone="resnet18", tasks=tuple(TASKS), encoder_pass="joint", bands=3):
    torch.manual_seed(0)
    encoder = Backbone(backbone).build(bands)
    built = {name: build_task(TASKS[name], channels=encoder.out_channels, bands=bands) for name in tasks}
    statistics = Statistics((0.5,) * bands, (0.25,) * bands, "test")
    return PretextNetwork(encoder, Normalization(statistics), built, encoder_pass)


@pytest.mark.parametrize(
    ("backbone", "bands"), [("resnet18", 4), ("vgg16_bn", 3), ("mobilenet_v2", 3), ("tu-convnext_atto", 3)]
)
def test_gradients_reach_every_parameter_of_every_task(backbone, bands):
    network = build(backbone, bands=bands)
    outputs = network(step_views(size=32, bands=bands))
    sum(output.loss for output in outputs.values()).backward()
    assert [key for key, parameter in network.tasks.named_parameters() if not _has_gradient(parameter)] == []
    assert _has_gradient(next(network.encoder.parameters()))
    for output in outputs.values():
        assert all(not value.requires_grad and value.isfinite() for value in output.metrics.values())


def test_crops_without_any_data_leave_losses_and_gradients_finite():
    valid = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    valid[0] = False
    valid[1, :, :20] = False
    network, views = build(), step_views(valid=valid)
    assert all(view.valid is not None for view in views.values())
    outputs = network(views)
    sum(output.loss for output in outputs.values()).backward()
    assert all(output.loss.isfinite() for output in outputs.values())
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def _has_gradient(parameter):
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


class CountingEncoder(nn.Module):
    out_channels = (3, 4)

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 2, stride=2)
        self.batches = []

    def forward(self, images):
        self.batches.append(images)
        return [images, self.convolution(images)]


class Recorder(PretextTask):
    """Keeps what it is given."""

    def __init__(self, *views):
        super().__init__()
        self.views = views

    def forward(self, views, features):
        self.features = {name: features[name] for name in self.views}
        return TaskOutput(sum(features[name][-1].sum() for name in self.views))


@pytest.mark.parametrize(("encoder_pass", "calls"), [("joint", [8]), ("per_view", [4, 4])])
def test_each_view_is_encoded_once_and_only_if_a_task_reads_it(encoder_pass, calls):
    encoder, tasks = CountingEncoder(), {"a": Recorder("corrupted"), "b": Recorder("clean", "corrupted")}
    network = PretextNetwork(encoder, Normalization(Statistics((0.5,) * 3, (0.25,) * 3, "test")), tasks, encoder_pass)
    views = step_views()
    network(views)
    assert [len(batch) for batch in encoder.batches] == calls
    for name, pyramid in tasks["b"].features.items():
        expected = (views[name].image - 0.5) / 0.25
        torch.testing.assert_close(pyramid[0], expected)
        torch.testing.assert_close(pyramid[1], encoder.convolution(expected))
    assert tasks["a"].features["corrupted"][1] is tasks["b"].features["corrupted"][1]


def test_passes_agree_where_no_statistics_are_shared():
    joint, per_view = build().eval(), build(encoder_pass="per_view").eval()
    views = step_views()
    for name, output in joint(views).items():
        torch.testing.assert_close(output.loss, per_view(views)[name].loss, atol=1e-4, rtol=1e-4)


def test_passes_differ_in_the_statistics_of_batch_norm():
    views = step_views()
    joint, per_view = build()(views), build(encoder_pass="per_view")(views)
    assert not torch.allclose(joint["contrastive"].loss, per_view["contrastive"].loss, atol=1e-4)


def test_a_subset_of_tasks_needs_only_its_views():
    network = build(tasks=("inpainting",))
    outputs = network({"corrupted": step_views()["corrupted"]})
    assert list(outputs) == ["inpainting"]


def test_the_encoders_state_is_that_of_the_bare_encoder():
    network = build()
    state = {key: value for key, value in network.state_dict().items() if key.startswith("encoder.")}
    bare = Backbone("resnet18").build(3).state_dict()
    assert {key.removeprefix("encoder.") for key in state} == set(bare)


class WithoutInit(Recorder):
    __init__ = nn.Module.__init__


class WithoutChannels(Recorder):
    def __init__(self, size: int = 1):
        super().__init__("clean")


class WithAnything(Recorder):
    def __init__(self, **settings):
        super().__init__("clean")
        self.given = settings


def test_a_task_is_told_that_it_is_given_channels():
    for kind in (WithoutInit, WithoutChannels):
        with pytest.raises(
            TypeError, match=rf"^{kind.__name__}\.__init__ does not take channels\. Every task is given c"
        ):
            build_task(functools.partial(kind), channels=(3, 8), bands=3)
    assert build_task(functools.partial(WithAnything), channels=(3, 8), bands=3).given == {"channels": (3, 8)}


def test_a_task_with_a_view_that_nobody_makes_is_refused():
    tasks = {"inpainting": Recorder("corrupted")}
    makers = {name: MAKERS[name] for name in ("clean", "transformed")}
    with pytest.raises(InputError) as error:
        check_views(tasks, makers)
    assert str(error.value) == (
        "Pretext task 'inpainting' reads the view 'corrupted', but the views made are ['clean', 'transformed'].\n"
        "Add corrupted to views=[...], or leave the task out of pretext=[...]."
    )
    check_views(tasks, MAKERS)


def test_a_view_of_another_kind_than_a_task_reads_is_refused_before_anything_is_built():
    with pytest.raises(InputError, match=r"views\.corrupted makes a View, but .* reads a CorruptedView"):
        check_views({"inpainting": Inpainting}, {"corrupted": MAKERS["clean"]})
    check_views({"inpainting": Inpainting}, {"corrupted": MAKERS["corrupted"]})


def test_a_transform_is_told_against_the_view_that_it_was_applied_to():
    makers = MAKERS | {"transformed": dataclasses.replace(MAKERS["transformed"], source="crop")}
    with pytest.raises(InputError, match=r"views\.transformed\.source=crop: .* Set views\.transformed\.source=clean\."):
        check_views({"transform_prediction": TransformPrediction}, makers)
    check_views({"transform_prediction": TransformPrediction}, MAKERS)

    class Alone(PretextTask):
        views, view_kinds = ("transformed",), TransformPrediction.view_kinds

    check_views({"alone": Alone}, makers)  # it compares with nothing


def test_a_kind_of_a_view_that_a_task_does_not_read_is_refused():
    class Odd(PretextTask):
        views, view_kinds = ("clean",), TransformPrediction.view_kinds

    with pytest.raises(InputError, match=r"view_kinds of Odd names the view 'transformed', which it does not read"):
        check_views({"odd": Odd}, {"clean": MAKERS["clean"]})


@pytest.mark.parametrize("kinds", [[("clean", TransformedView)], {"clean": "TransformedView"}, None])
def test_kinds_of_views_are_classes_by_view(kinds):
    class Odd(PretextTask):
        views, view_kinds = ("clean",), kinds

    with pytest.raises(
        InputError, match=r"pretext\.odd\.task: view_kinds of Odd is .*, expected the class of each view"
    ):
        check_views({"odd": Odd}, MAKERS)


@pytest.mark.parametrize("name", ["loss", "collapse", "validation", "keys", "forward", "training"])
def test_a_name_of_a_task_that_means_something_else_is_refused(name):
    with pytest.raises(InputError, match=rf"^pretext\.{name}: no task can have that name"):
        check_views({name: Contrastive}, MAKERS)


def test_a_task_that_reads_no_view_is_refused():
    with pytest.raises(InputError, match="Recorder has to say which views it reads"):
        check_views({"blind": Recorder()}, MAKERS)


@pytest.mark.parametrize(("given", "lacks"), [("momentum_views", "momentum"), ("momentum", "momentum_views")])
def test_a_momentum_encoder_needs_views_and_a_rule(given, lacks):
    task = Recorder("clean")
    setattr(task, given, {"momentum_views": ("clean",), "momentum": MomentumRule(0.9, 1.0)}[given])
    normalization = Normalization(Statistics((0.5,) * 3, (0.25,) * 3, "test"))
    with pytest.raises(InputError, match=rf"pretext\.odd\.task: Recorder has no {lacks}: "):
        PretextNetwork(CountingEncoder(), normalization, {"odd": task}, "joint")


def test_features_of_pixels_without_data_hide_no_collapse():
    """At every position with data the encoder says the same, and something else where there is none."""

    class Collapsed(nn.Module):
        out_channels = (3, 4)

        def forward(self, images):
            bright = (F.avg_pool2d(images, 8).mean(dim=1, keepdim=True) > 0).float()
            return [images, torch.cat([bright, 1 - bright, bright, 2 * bright], dim=1)]

    network = build(tasks=("contrastive",))
    network.encoder, network.normalization = Collapsed(), nn.Identity()
    views = {}
    for name, view in step_views(size=32).items():
        valid = torch.ones(len(view.image), 1, 32, 32, dtype=torch.bool)
        for row in range(len(valid)):
            valid[row, :, : 8 * (row % 3)] = False
        views[name] = dataclasses.replace(view, image=(view.image + 0.1).clamp(0, 1) * valid, valid=valid)
    network.encode(views)
    network.after_part(1)
    assert float(network.probe_collapse()["feature_std"]) < 1e-6


def test_the_collapse_of_a_batch_is_that_of_all_its_parts():
    network = build(tasks=("contrastive",)).eval()  # by running statistics, so that parts change no feature
    views = step_views(size=32)
    network.encode(views)
    network.after_part(1)
    whole, count = network.probe_collapse(), len(views["clean"].image)
    for _ in range(2):  # a second batch forgets the first
        for number, rows in enumerate(torch.arange(count).split(2), start=1):
            network.encode({name: dataclasses.replace(view, image=view.image[rows]) for name, view in views.items()})
            network.after_part(number)
    found = network.probe_collapse()
    assert whole["effective_rank"] > 1.5  # two images alone have one direction
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_gradients_keep_the_layout_of_the_encoders_maps():
    """Where one is contiguous and the other channels_last, everything after it is slow."""
    network = build().to(memory_format=torch.channels_last)
    seen = []

    def watch(module, inputs, levels):
        for level in levels[1:]:
            level.register_hook(lambda gradient: seen.append(gradient.is_contiguous(memory_format=torch.channels_last)))

    network.encoder.register_forward_hook(watch)
    outputs = network(step_views(size=64))
    sum(output.loss for output in outputs.values()).backward()
    assert seen == [True] * 5


@pytest.mark.parametrize("used", [(0, 1, 2), (1,), (0, 2), ()])
def test_the_gradient_of_parts_is_that_of_torch_split(used):
    whole = torch.randn(6, 2, 3, 3).to(memory_format=torch.channels_last)
    ours, theirs = whole.clone().requires_grad_(), whole.clone().requires_grad_()
    weights = torch.randn(3, 2, 2, 3, 3)
    with exactness(deterministic=True):  # memory that nobody has written is NaN
        for leaf, split in ((ours, split_views), (theirs, torch.split)):
            parts = split(leaf, 2)
            assert [len(part) for part in parts] == [2, 2, 2]
            total = leaf.sum() * 0 + sum((weights[index] * parts[index].square()).sum() for index in used)
            total.backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert ours.grad.is_contiguous(memory_format=torch.channels_last)


class Giving(Recorder):
    """Gives what it is told to make of a loss with a gradient."""

    def __init__(self, make):
        super().__init__("clean")
        self.make = make

    def forward(self, views, features):
        return self.make(features["clean"][-1].mean())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda loss: TaskOutput(loss.detach()), "its loss has no gradient, so nothing would be learnt by it"),
        (lambda loss: TaskOutput(loss.long()), r"its loss is of torch\.int64, expected real numbers"),
        (lambda loss: TaskOutput(loss.to(torch.complex64)), r"its loss is of torch\.complex64, expected real numbers"),
        (lambda loss: TaskOutput(loss, {"loss": loss.detach()}), "its metric 'loss' is logged anyway"),
        (lambda loss: TaskOutput(loss, None), "its metrics are a NoneType, expected a dictionary of tensors"),
        (lambda loss: TaskOutput(loss, [loss.detach()]), "its metrics are a list, expected a dictionary of tensors"),
    ],
)
def test_what_would_train_nothing_beside_another_task_is_refused(make, said):
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, "test")
    tasks = {"good": Recorder("clean"), "own": Giving(make)}
    network = PretextNetwork(CountingEncoder(), Normalization(statistics), tasks, "joint")
    with pytest.raises(InputError, match=rf"pretext\.own\.task: {said}"):
        network(step_views())


def test_where_nothing_is_learnt_a_loss_needs_no_gradient():
    with torch.no_grad():
        assert not build()(step_views())["contrastive"].loss.requires_grad


def test_the_features_that_are_kept_hold_no_graph():
    network = build()
    network(step_views())
    assert network.pooled.grad_fn is None


def test_the_features_that_tell_a_collapse_are_those_of_the_first_view():
    network = build(tasks=("contrastive",))
    features = network.encode(step_views())
    torch.testing.assert_close(network.pooled, features["clean"][-1].mean(dim=(-2, -1)).detach())
    assert not torch.allclose(network.pooled, features["transformed"][-1].mean(dim=(-2, -1)))
