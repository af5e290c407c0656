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
    with pytest.raises(InputError, match=r"transform_prediction\.task\.level"):
        TransformPrediction(channels=[3, 0], level=level)


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
