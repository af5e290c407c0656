"""The momentum encoder is another network, moves by the rule, gets no gradient, and no optimizer has it."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.pretext.base import PretextTask, momentum_of
from ssl_rs.pretext.byol import Byol
from ssl_rs.pretext.moco_v2 import MoCoV2
from ssl_rs.pretext.momentum import MomentumRule, _move_at_once, common_rule, follow, momentum_copy
from ssl_rs.pretext.network import PretextNetwork
from ssl_rs.stages.placed_network import place_network
from ssl_rs.task_output import TaskOutput
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.views.base import crop_view

RULE = MomentumRule(0.9, 1.0)
STATISTICS = Statistics((0.5,) * 3, (0.25,) * 3, "a test")


class Recorder(PretextTask):
    """Keep the features it was given."""

    views = ("a", "b")
    momentum_views = ("b", "c")

    def __init__(self, rule=RULE):
        super().__init__()
        self.momentum = rule

    def forward(self, views, features):
        self.features = dict(features)
        return TaskOutput(features["a"][-1].square().mean())


def views(names="abc"):
    generator = torch.Generator().manual_seed(0)
    return {name: crop_view(torch.rand(4, 3, 32, 32, generator=generator)) for name in names}


def network(tasks, encoder_pass="joint"):
    torch.manual_seed(0)
    return PretextNetwork(Backbone("resnet18").build(3), Normalization(STATISTICS), tasks, encoder_pass)


def real_tasks():
    channels = Backbone("resnet18").build(3).out_channels
    return {
        "moco_v2": MoCoV2(channels, RULE, (8, 4), queue=8),
        "byol": Byol(channels, RULE, (8, 4), (8,)),
    }


def real_views():
    names = ("moco_v2_first", "moco_v2_second", "byol_first", "byol_second")
    return dict(zip(names, views("abcd").values(), strict=True))


# The rule


def test_the_rule_is_half_a_cosine_or_constant():
    rule = MomentumRule(0.996, 1.0)
    assert rule(0, 100) == pytest.approx(0.996)
    assert rule(50, 100) == pytest.approx(0.998)
    for step in range(100):
        assert rule(step, 100) == pytest.approx(1 - 0.004 * (math.cos(math.pi * step / 100) + 1) / 2)
    assert {MomentumRule(0.999, 0.999)(step, 100) for step in range(100)} == {0.999}


def test_following_is_a_weighted_mean_of_weights_and_leaves_buffers():
    online = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    momentum = momentum_copy(online)
    old = [value.clone() for value in momentum.parameters()]
    with torch.no_grad():
        for value in online.parameters():
            value.normal_()
    online(torch.rand(4, 2))  # moves the statistics of the trained one only
    follow(momentum, online, 0.75)
    for own, before, trained in zip(momentum.parameters(), old, online.parameters(), strict=True):
        torch.testing.assert_close(own, 0.75 * before + 0.25 * trained)
    assert torch.equal(momentum[1].running_mean, torch.zeros(3))
    assert int(momentum[1].num_batches_tracked) == 0


def test_following_at_once_as_on_a_gpu_gives_the_same_bits():
    online = Backbone("resnet18").build(3)
    momentum = momentum_copy(Backbone("resnet18").build(3))
    at_once = momentum_copy(momentum)
    follow(momentum, online, 0.996)
    _move_at_once([*at_once.parameters()], [*online.parameters()], 0.996)
    for one, other in zip(momentum.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="cannot follow"):
        follow(momentum, nn.Linear(1, 1), 0.5)


def test_tasks_that_disagree_are_refused():
    assert common_rule({}) is None
    assert common_rule({"a": RULE, "b": MomentumRule(0.9, 1.0)}) == RULE
    with pytest.raises(InputError) as error:
        common_rule({"moco_v2": MomentumRule(), "byol": MomentumRule(0.996, 1.0)})
    assert str(error.value) == (
        "pretext=[...]: one momentum encoder serves all tasks, but they move it by different rules: "
        "'moco_v2' from 0.999 to 0.999, 'byol' from 0.996 to 1.\n"
        "Set pretext.*.task.momentum.start and .final of all to those of 'moco_v2', or leave a task out."
    )


# The network


@pytest.mark.parametrize("encoder_pass", ["joint", "per_view"])
def test_momentum_features_are_those_of_the_copy_without_gradient(encoder_pass):
    task = Recorder()
    built = network({"task": task}, encoder_pass).eval()
    with torch.no_grad():
        for value in built.momentum_encoder.parameters():
            value.mul_(1.5)
    batch = views()
    built(batch)
    assert set(task.features) == {"a", "b", momentum_of("b"), momentum_of("c")}
    for name in "bc":
        expected = built.momentum_encoder(built.normalization(batch[name].image))
        for level, own in zip(expected, task.features[momentum_of(name)], strict=True):
            torch.testing.assert_close(own, level, atol=1e-3, rtol=1e-4)
            assert not own.requires_grad
    assert task.features["b"][-1].requires_grad
    assert not torch.allclose(task.features["b"][-1], task.features[momentum_of("b")][-1])


def test_there_is_one_momentum_encoder_with_tensors_of_its_own():
    built = network(real_tasks())
    online, momentum = built.encoder.state_dict(), built.momentum_encoder.state_dict()
    assert online.keys() == momentum.keys()
    assert all(torch.equal(online[name], momentum[name]) for name in online)
    assert not {value.data_ptr() for value in online.values()} & {value.data_ptr() for value in momentum.values()}
    prefixes = {name.split(".")[0] for name in built.state_dict()}
    assert prefixes == {"encoder", "momentum_encoder", "normalization", "tasks"}


def test_no_momentum_encoder_where_no_task_asks_for_one():
    class Plain(Recorder):
        momentum_views = ()

    built = network({"task": Plain(None)})
    assert built.momentum_encoder is None
    assert not [name for name in built.state_dict() if name.startswith("momentum")]
    built.after_step(0, 10)


def test_a_step_moves_momentum_networks_by_the_rule_only():
    built = network(real_tasks())
    recipe = SimpleNamespace(optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    site = SimpleNamespace(device=torch.device("cpu"), trainer=TrainerSettings(1, 2))
    optimizer = place_network(built, built.encoder, site, recipe)
    owned = {value.data_ptr() for group in optimizer.param_groups for value in group["params"]}
    trained = {name for name, value in built.named_parameters() if value.data_ptr() in owned}
    pairs = {
        "momentum_encoder.": "encoder.",
        "tasks.moco_v2.project_keys.": "tasks.moco_v2.project.",
        "tasks.byol.project_targets.": "tasks.byol.project.",
    }
    assert not [name for name in trained if name.startswith(tuple(pairs))]
    before = {name: value.clone() for name, value in built.named_parameters()}
    for step in range(2):
        sum(output.loss for output in built(real_views()).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        built.after_step(step, 4)
        share = RULE(step, 4)
        now = dict(built.named_parameters())
        for prefix, source in pairs.items():
            for name in (name for name in now if name.startswith(prefix)):
                online = now[source + name.removeprefix(prefix)]
                torch.testing.assert_close(now[name], share * before[name] + (1 - share) * online)
                assert now[name].grad is None
        moved = [name for name in trained if not torch.equal(now[name], before[name])]
        assert len(moved) == len(trained)
        before = {name: value.clone() for name, value in now.items()}
    assert int(built.tasks["moco_v2"].queue.newest) == 0  # 8 keys of 8


def test_statistics_of_the_momentum_encoder_are_its_own():
    built = network(real_tasks())
    built(real_views())
    name = "bn1.running_mean"
    online, momentum = built.encoder.state_dict()[name], built.momentum_encoder.state_dict()[name]
    assert momentum.abs().sum() > 0
    assert not torch.allclose(online, momentum)  # they saw other views


def test_each_alone_of_two_rules_is_refused_together():
    tasks = {"one": Recorder(), "two": Recorder(MomentumRule(0.5, 0.5))}
    with pytest.raises(InputError, match="move it by different rules"):
        network(tasks)
