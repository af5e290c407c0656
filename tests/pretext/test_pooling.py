"""Positions without data are left out of what tasks pool."""

import itertools

import pytest
import torch

from ssl_rs.pretext.contrastive import Contrastive
from ssl_rs.pretext.pooling import mean_over_positions, position_weights
from ssl_rs.pretext.transform_prediction import TransformPrediction
from ssl_rs.pretext.transform_prediction_pooled import PooledTransformPrediction
from ssl_rs.views.base import TransformedView, crop_view
from ssl_rs.views.fused import TRANSFORMS, undo_each

SIZE = 8


def some_valid(batch=6, seed=0):
    """Two positions of 2 x 2 pixels of the 4 x 4 map without data, one with a half of its pixels; others at random."""
    valid = torch.rand(batch, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) > 0.2
    valid[:, :, :2, :4] = False
    valid[:, :, 4:6, 4:6] = torch.tensor([[True, True], [False, False]])
    return valid


def views(valid_clean, valid_transformed):
    image = torch.zeros(6, 3, SIZE, SIZE)
    clean = crop_view(image, valid=valid_clean)
    return {
        "clean": clean,
        "transformed": TransformedView(image, clean.geometry, torch.arange(6), valid=valid_transformed),
    }


def test_weights_are_shares_of_pixels():
    view, maps = crop_view(torch.zeros(6, 3, SIZE, SIZE), valid=some_valid()), torch.zeros(6, 5, 4, 4)
    weights = position_weights(view, maps)
    assert weights.shape == (6, 1, 4, 4)
    for sample, row, column in itertools.product(range(6), range(4), range(4)):
        pixels = [(2 * row + down, 2 * column + right) for down, right in itertools.product(range(2), range(2))]
        count = sum(bool(some_valid()[sample, 0, y, x]) for y, x in pixels)
        assert weights[sample, 0, row, column] == count / 4
    assert position_weights(crop_view(torch.zeros(6, 3, SIZE, SIZE)), maps) is None


def test_the_mean_is_that_of_a_loop_over_positions():
    values, weights = torch.rand(3, 4, 2, 3), torch.rand(3, 1, 2, 3) * (torch.rand(3, 1, 2, 3) > 0.3)
    weights[2] = 0
    found = mean_over_positions(values, weights)
    for sample, channel in itertools.product(range(3), range(4)):
        total = weight_sum = 0.0
        for row, column in itertools.product(range(2), range(3)):
            weight = float(weights[sample, 0, row, column])
            total, weight_sum = total + weight * float(values[sample, channel, row, column]), weight_sum + weight
        assert found[sample, channel].item() == pytest.approx(total / weight_sum if weight_sum else 0.0, rel=1e-5)
    assert torch.equal(mean_over_positions(values, None), values.mean(dim=(-2, -1)))


def test_where_nothing_has_a_weight_the_gradient_is_nothing():
    values, weights = torch.rand(2, 3, 2, 2, requires_grad=True), torch.ones(2, 1, 2, 2)
    weights[1] = 0
    (1000 * mean_over_positions(values, weights)).sum().backward()
    assert torch.equal(values.grad[0], torch.full((3, 2, 2), 250.0))
    assert torch.equal(values.grad[1], torch.zeros(3, 2, 2))


def test_agreement_is_that_of_a_loop_over_candidates_and_positions():
    task = TransformPrediction(channels=[3, 8], level=-1, dimensions=4)
    clean, transformed = torch.randn(6, 8, 4, 4), torch.randn(6, 8, 4, 4)
    valid = some_valid(), some_valid(seed=1)
    pair = views(*valid)
    output = task(pair, {"clean": [clean], "transformed": [transformed]})
    with torch.no_grad():
        first, second = (torch.nn.functional.normalize(task.project(maps), dim=1) for maps in (clean, transformed))
        shares = [position_weights(pair[name], clean) for name in ("clean", "transformed")]
        undone, undone_share = undo_each(second), undo_each(shares[1])
        logits = torch.zeros(6, len(TRANSFORMS))
        for candidate, sample in itertools.product(range(len(TRANSFORMS)), range(6)):
            total = weight_sum = 0.0
            for row, column in itertools.product(range(4), range(4)):
                cosine = float(undone[candidate, sample, :, row, column] @ first[sample, :, row, column])
                weight = float(undone_share[candidate, sample, 0, row, column] * shares[0][sample, 0, row, column])
                total, weight_sum = total + weight * cosine, weight_sum + weight
            logits[sample, candidate] = task.log_scale.exp() * total / weight_sum
        expected = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(output.loss, expected)


TASKS = {
    "contrastive": lambda: Contrastive(channels=[3, 8], hidden=16, dimensions=8),
    "undo": lambda: TransformPrediction(channels=[3, 8], level=-1, dimensions=8),
}


@pytest.mark.parametrize("name", TASKS)
def test_features_without_data_get_no_gradient_and_do_not_count(name):
    task = TASKS[name]().eval()
    valid = some_valid()
    pair = views(valid, torch.ones_like(valid))
    clean, transformed = torch.randn(6, 8, 4, 4, requires_grad=True), torch.randn(6, 8, 4, 4)
    loss = task(pair, {"clean": [clean], "transformed": [transformed]}).loss
    loss.backward()
    empty = position_weights(pair["clean"], clean)[:, 0] == 0  # [B, 4, 4]
    assert empty[:, 0, :2].all()
    assert (clean.grad.abs().amax(dim=1)[empty] == 0).all()
    assert (clean.grad.abs().amax(dim=1)[~empty] > 0).all()
    changed = torch.where(empty[:, None], torch.randn_like(clean), clean).detach()
    torch.testing.assert_close(task(pair, {"clean": [changed], "transformed": [transformed]}).loss, loss.detach())


def test_the_pooled_head_leaves_out_what_either_view_lacks(monkeypatch):
    task = PooledTransformPrediction(channels=[3, 8], reduction=4).eval()
    valid = some_valid(), some_valid(seed=1)
    pair = views(*valid)
    compared = torch.randn(6, 4, 4, 4)
    monkeypatch.setattr(task.compare, "forward", lambda maps: compared)
    given = []
    monkeypatch.setattr(
        task.classify, "forward", lambda pooled: given.append(pooled) or torch.zeros(6, 6, requires_grad=True)
    )
    task(pair, {name: [torch.randn(6, 8, 4, 4)] for name in pair})
    weights = position_weights(pair["clean"], compared) * position_weights(pair["transformed"], compared)
    torch.testing.assert_close(given[0], (compared * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)))


@pytest.mark.parametrize("name", [*TASKS, "pooled"])
def test_all_valid_is_as_no_mask(name):
    task = (TASKS | {"pooled": lambda: PooledTransformPrediction(channels=[3, 8], reduction=4)})[name]().eval()
    features = {view: [torch.randn(6, 8, 4, 4)] for view in ("clean", "transformed")}
    everywhere = torch.ones(6, 1, SIZE, SIZE, dtype=torch.bool)
    with_mask, without = (task(views(valid, valid), features).loss for valid in (everywhere, None))
    torch.testing.assert_close(with_mask, without)
