import itertools
import math

import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.pretext.transform_prediction import TransformPrediction
from ssl_rs.pretext.transform_prediction_pooled import PooledTransformPrediction
from ssl_rs.views.base import TransformedView, crop_view
from ssl_rs.views.fused import TRANSFORMS, transform_matrix
from ssl_rs.views.resampling import move

HEADS = {
    "undo": lambda: TransformPrediction(channels=[3, 8, 16], level=-2, dimensions=8),
    "pooled": lambda: PooledTransformPrediction(channels=[3, 8, 16], reduction=4),
    "pooled_paper": lambda: PooledTransformPrediction(channels=[3, 8, 16], reduction=None),
}


def views(transform):
    clean = crop_view(torch.zeros(len(transform), 3, 8, 8))
    return {"clean": clean, "transformed": TransformedView(clean.image, clean.geometry, transform)}


def features(batch):
    return [torch.rand(batch, 3, 8, 8), torch.randn(batch, 8, 4, 4), torch.randn(batch, 16, 2, 2)]


def test_the_candidate_that_undoes_the_transform_scores_one():
    task = TransformPrediction(channels=[3, 8, 16], level=1, dimensions=8)
    transform = torch.arange(len(TRANSFORMS)).repeat(4)
    clean = features(len(transform))
    transformed = [move(level, transform_matrix(transform)) for level in clean]
    with torch.no_grad():
        task.log_scale.fill_(math.log(100.0))
    output = task(views(transform), {"clean": clean, "transformed": transformed})
    assert output.metrics["accuracy"] == 1
    assert output.loss < 0.01
    wrong = task(views((transform + 1) % 6), {"clean": clean, "transformed": transformed})
    assert wrong.metrics["accuracy"] == 0


def test_equal_maps_everywhere_are_chance():
    task = TransformPrediction(channels=[3, 8, 16], level=-2)
    flat = [torch.ones(6, 3, 8, 8), torch.ones(6, 8, 4, 4), torch.ones(6, 16, 2, 2)]
    output = task(views(torch.arange(6)), {"clean": flat, "transformed": flat})
    assert output.loss.item() == pytest.approx(math.log(6))


@pytest.mark.parametrize("level", [1, -1])
def test_only_the_level_asked_for_is_read(level):
    task = TransformPrediction(channels=[3, 8, 16], level=level).eval()
    pair = {"clean": features(6), "transformed": features(6)}
    before = task(views(torch.arange(6)), pair).loss
    for index in range(3):
        changed = {
            name: [*maps[:index], torch.randn_like(maps[index]), *maps[index + 1 :]] for name, maps in pair.items()
        }
        assert torch.equal(task(views(torch.arange(6)), changed).loss, before) == (index != level % 3)


@pytest.mark.parametrize("level", [2, -4, 1, 0])
def test_a_level_that_cannot_be_compared_is_refused(level):
    with pytest.raises(InputError, match=r"^level="):
        TransformPrediction(channels=[3, 0], level=level)


def test_a_map_of_one_position_is_refused():
    """No flip or rotation moves it: all candidates would be the same."""
    task = TransformPrediction(channels=[3, 8, 16], level=-1)
    task.check_side(32, [32, 16, 2])
    with pytest.raises(InputError, match=r"^level=-1: of crops of dataset\.crop_size=16 that map has one position"):
        task.check_side(16, [16, 8, 1])


def test_a_head_reduced_to_nothing_is_refused():
    with pytest.raises(InputError, match=r"^reduction=\[0\]"):
        PooledTransformPrediction([3, 8], reduction=0)


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter_and_both_views(name):
    task = HEADS[name]()
    pair = {view: [level.requires_grad_() for level in features(6)] for view in ("clean", "transformed")}
    task(views(torch.arange(6)), pair).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.parameters())
    for maps in pair.values():
        assert sum(level.grad is not None and bool(level.grad.abs().sum() > 0) for level in maps) == 1


def test_the_pooled_head_can_tell_classes_that_features_show():
    """Sanity of its wiring: where the maps themselves spell the class, a few steps learn it."""
    torch.manual_seed(0)
    task = PooledTransformPrediction(channels=[3, 8, 16], reduction=16, dropout=0.0)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    transform = torch.arange(6).repeat(2)
    spelled = torch.nn.functional.one_hot(transform, 16).float()[:, :, None, None].expand(-1, -1, 2, 2)
    maps = {"clean": [torch.zeros_like(spelled)], "transformed": [spelled]}
    for _ in range(50):
        optimizer.zero_grad()
        output = task(views(transform), maps)
        output.loss.backward()
        optimizer.step()
    assert output.metrics["accuracy"] == 1


def test_the_papers_head_is_as_large_as_theirs_on_resnet50():
    task = PooledTransformPrediction(channels=[3, 64, 256, 512, 1024, 2048], reduction=None)
    convolutions = sum(parameter.numel() for parameter in task.compare.parameters()) / 1e6
    assert convolutions == pytest.approx(113, abs=1)


@pytest.mark.parametrize("name", HEADS)
def test_a_view_without_a_class_is_refused(name):
    plain = crop_view(torch.zeros(6, 3, 8, 8))
    with pytest.raises(InputError, match=r"views\.transformed makes a View.*TransformedView"):
        HEADS[name]()({"clean": plain, "transformed": plain}, {"clean": features(6), "transformed": features(6)})


MOVES = {
    "hflip": lambda row, column: (row, 3 - column),
    "vflip": lambda row, column: (3 - row, column),
    "rot0": lambda row, column: (row, column),
    "rot90": lambda row, column: (3 - column, row),
    "rot180": lambda row, column: (3 - row, 3 - column),
    "rot270": lambda row, column: (column, 3 - row),
}
"""Where a pixel of a map of 4 x 4 lies after each transform."""


def slow_transform_prediction(maps, shares, transforms, weight, bias, log_scale):
    """Position by position: cross entropy over the candidates."""
    losses = []
    for index, transform in enumerate(transforms):
        logits = []
        for moved in (MOVES[name] for name in TRANSFORMS):
            total, count = 0, 0
            for row, column in itertools.product(range(4), range(4)):
                there = moved(row, column)
                one = weight @ maps["clean"][index, :, row, column] + bias
                other = weight @ maps["transformed"][index, :, *there] + bias
                share = shares["clean"][index, row, column] * shares["transformed"][index, *there]
                total = total + share * (one @ other) / (one.norm() * other.norm())
                count = count + share
            logits.append(log_scale.exp() * total / count)
        logits = torch.stack(logits)
        losses.append(logits.exp().sum().log() - logits[transform])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("nodata", [False, True])
def test_loss_and_gradients_are_those_of_the_slow_version(nodata):
    torch.manual_seed(5)
    task = TransformPrediction((3, 6, 4), level=1, dimensions=5)
    transform = torch.tensor([0, 1, 2, 3, 4, 5, 3])
    valid = {name: torch.rand(7, 1, 8, 8) > (0.4 if nodata else -1) for name in task.views}
    views = {
        "clean": crop_view(torch.zeros(7, 3, 8, 8), valid=valid["clean"] if nodata else None),
        "transformed": TransformedView(
            torch.zeros(7, 3, 8, 8), torch.eye(2, 3).expand(7, 2, 3), transform,
            valid=valid["transformed"] if nodata else None,
        ),
    }  # fmt: skip
    maps = {name: torch.randn(7, 6, 4, 4, requires_grad=True) for name in task.views}
    exact = {name: value.detach().double().requires_grad_() for name, value in maps.items()}
    shares = {name: each.double().view(7, 4, 2, 4, 2).mean(dim=(2, 4)) for name, each in valid.items()}
    weight, bias, log_scale = (
        value.detach().double().requires_grad_() for value in (task.project.weight, task.project.bias, task.log_scale)
    )
    expected = slow_transform_prediction(exact, shares, transform, weight[:, :, 0, 0], bias, log_scale)
    expected.backward()
    loss = task(views, {name: [views[name].image, value, None] for name, value in maps.items()}).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name in task.views:
        torch.testing.assert_close(maps[name].grad.double(), exact[name].grad, atol=1e-6, rtol=1e-4)
    for own, slow in ((task.project.weight, weight), (task.project.bias, bias), (task.log_scale, log_scale)):
        torch.testing.assert_close(own.grad.double(), slow.grad, atol=1e-5, rtol=1e-4)
