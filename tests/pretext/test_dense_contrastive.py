"""Positives of the dense loss lie where the geometry says, and the loss is that of a loop over positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_rs.errors import InputError
from ssl_rs.pretext.base import momentum_of
from ssl_rs.pretext.dense_contrastive import DenseContrastive, inverse, partners
from ssl_rs.pretext.momentum import MomentumRule
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.augmented import AugmentedMaker
from ssl_rs.views.base import View, crop_view
from ssl_rs.views.fused import ColorJitter, compose, transform_matrix

RULE = MomentumRule(0.9, 1.0)
MAKER = AugmentedMaker("crop", ColorJitter(), area=(0.3, 0.9), blur=0.0)


def draws(name, count=6):
    return Draws(0, 0, name, Rows(0, count, count))


def coordinates(batch=6, size=64):
    """Crops that say where each of their pixels is: x and y in [0, 1]."""
    axis = (torch.arange(size) + 0.5) / size
    image = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)])
    return image.expand(batch, 2, size, size).contiguous()


def test_partners_show_the_same_ground():
    crop = crop_view(coordinates())
    first, second = (MAKER(crop, draws(name)) for name in ("first", "second"))
    maps = [F.avg_pool2d(view.image, 8) for view in (first, second)]  # each position: where its middle lies
    found, weight = partners(first, second, *maps)
    assert 0.2 < weight.mean() < 0.9
    shown = weight.bool().unsqueeze(1).expand_as(found)
    # At the border of the second map its outermost positions stand for what lies up to half a position beyond them.
    inner = partners(first, shrunk(second, 7 / 8), *maps)[1].bool().unsqueeze(1).expand_as(found)
    torch.testing.assert_close(found[inner], maps[0][inner], atol=2e-3, rtol=0)
    assert (found - maps[0])[shown].abs().max() < 0.07  # half a position of the second view, in the crop
    assert (found - maps[0])[~shown].abs().max() > 0.2


def test_partners_are_found_in_float32_under_autocast():
    crop = crop_view(coordinates())
    first, second = (MAKER(crop, draws(name)) for name in ("first", "second"))
    maps = [F.avg_pool2d(view.image, 8) for view in (first, second)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = partners(first, second, *maps)
    for value, expected in zip(found, partners(first, second, *maps), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def shrunk(view, share):
    scale = torch.tensor([[share, 0, 0], [0, share, 0]]).expand(len(view.image), 2, 3)
    return View(view.image, compose(view.geometry, scale))


@pytest.mark.parametrize("kind", range(6))
def test_a_marked_position_is_found_after_every_flip_and_rotation(kind):
    """The second view is the first one turned: each position has exactly one partner, the turned one."""
    reference = [
        lambda image: image.flip(-1),
        lambda image: image.flip(-2),
        *(lambda image, turns=turns: torch.rot90(image, turns, (-2, -1)) for turns in range(4)),
    ][kind]
    marked = torch.arange(16.0).view(1, 1, 4, 4)
    first = crop_view(marked)
    second = View(reference(marked), transform_matrix(torch.tensor([kind])))
    found, weight = partners(first, second, marked, second.image)
    torch.testing.assert_close(found, marked)
    assert weight.eq(1).all()


def test_a_position_without_a_partner_does_not_count():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    right_half = View(maps, torch.tensor([[[0.5, 0, 0.5], [0, 1, 0]]]))
    found, weight = partners(crop_view(maps), right_half, maps, maps)
    assert weight.view(4, 4).tolist() == [[0, 0, 1, 1]] * 4
    # Middles at x = 0.25 and 0.75 of the crop lie at -0.5 and 0.5 of its right half: between its positions.
    torch.testing.assert_close(found[0, 0, :, 2:], torch.tensor([[0.5, 2.5], [4.5, 6.5], [8.5, 10.5], [12.5, 14.5]]))


def test_no_data_in_either_view_does_not_count():
    maps = torch.ones(1, 1, 2, 2)
    left, upper = torch.ones(1, 1, 4, 4, dtype=torch.bool), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    left[..., :2] = False
    upper[..., :1, :] = False
    first, second = (crop_view(torch.zeros(1, 3, 4, 4), valid=valid) for valid in (left, upper))
    _, weight = partners(first, second, maps, maps)
    assert weight.tolist() == [[[0, 0.5], [0, 1]]]


def test_the_inverse_undoes():
    matrix = MAKER(crop_view(coordinates()), draws("first")).geometry
    identity = torch.eye(2, 3).expand(6, 2, 3)
    torch.testing.assert_close(compose(inverse(matrix), matrix), identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(compose(matrix, inverse(matrix)), identity, atol=1e-5, rtol=0)


def cosine(one, other):
    return (one @ other) / (one.norm() * other.norm())


def slow_dense(queries, keys, first, second, negatives):
    """The mean over positions with a partner, one after the other, in float64; maps [B, D, 4, 4]."""
    losses = []
    for index in range(len(queries)):
        back = torch.linalg.inv(torch.cat([second[index], torch.tensor([[0.0, 0, 1]])]).double())
        unit = keys[index] / keys[index].norm(dim=0, keepdim=True)
        for row in range(4):
            for column in range(4):
                place = torch.tensor([(2 * column + 1) / 4 - 1, (2 * row + 1) / 4 - 1, 1], dtype=torch.float64)
                ground = torch.cat([first[index].double() @ place, torch.ones(1, dtype=torch.float64)])
                x, y = (back @ ground)[:2].tolist()
                if max(abs(x), abs(y)) > 1:
                    continue
                x, y = (min(max((value + 1) * 2 - 0.5, 0), 3) for value in (x, y))
                left, top = min(int(x), 2), min(int(y), 2)
                x, y = x - left, y - top
                key = (1 - y) * ((1 - x) * unit[:, top, left] + x * unit[:, top, left + 1])
                key = key + y * ((1 - x) * unit[:, top + 1, left] + x * unit[:, top + 1, left + 1])
                query = queries[index, :, row, column]
                positive = cosine(query, key) / 0.2
                others = sum((cosine(query, old) / 0.2).exp() for old in negatives)
                losses.append((positive.exp() + others).log() - positive)
    return sum(losses) / len(losses)


def test_the_dense_loss_and_its_gradient_are_those_of_a_loop():
    torch.manual_seed(0)
    task = DenseContrastive([3, 5, 6], RULE, level=-2, dense=1.0, widths=(7, 4), queue=5)
    with torch.no_grad():
        for value in task.project_key_positions.parameters():  # no longer those of the queries
            value.add_(torch.randn_like(value), alpha=0.5)
    crop = crop_view(coordinates(3, 16))
    names = ("moco_v2_first", "moco_v2_second")
    views = {name: MAKER(crop, draws(name, 3)) for name in names}
    maps = torch.randn(3, 5, 4, 4, requires_grad=True)
    key_maps, deep = torch.randn(3, 5, 4, 4), torch.randn(3, 6, 2, 2)
    features = {names[0]: [None, maps, deep], momentum_of(names[1]): [None, key_maps, deep]}
    negatives = task.dense_queue.keys.double().clone()
    heads = [head.double() for head in (task.project_positions, task.project_key_positions)]
    copy = maps.detach().double().requires_grad_()
    expected = slow_dense(
        heads[0](copy), heads[1](key_maps.double()).detach(), *(views[name].geometry for name in names), negatives
    )
    expected.backward()
    slow_gradients = [parameter.grad.clone() for parameter in heads[0].parameters()]
    task.float().zero_grad()
    output = task(views, features)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(maps.grad.double(), copy.grad, atol=1e-5, rtol=1e-3)
    for parameter, slow in zip(task.project_positions.parameters(), slow_gradients, strict=True):
        torch.testing.assert_close(parameter.grad.double(), slow, atol=1e-5, rtol=1e-3)
    assert output.metrics["dense_loss"] == output.loss.detach()
    # Negatives of later steps are means over an image's positions.
    means = F.normalize(task.project_key_positions(key_maps).mean(dim=(-2, -1)), dim=1)
    torch.testing.assert_close(task.dense_queue.keys[:3], means)


def test_the_share_weighs_both_losses():
    losses = {}
    for dense in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        task = DenseContrastive([3, 5, 6], RULE, dense=dense, widths=(7, 4), queue=5)
        names = ("moco_v2_first", "moco_v2_second")
        views = dict.fromkeys(names, crop_view(coordinates(3, 16)))
        pyramid = [None, torch.randn(3, 5, 4, 4), torch.randn(3, 6, 2, 2)]
        losses[dense] = task(views, {names[0]: pyramid, momentum_of(names[1]): pyramid}).loss.item()
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0])
    assert losses[0.0] != pytest.approx(losses[1.0])


def test_views_that_share_no_ground_have_no_dense_loss():
    task = DenseContrastive([3, 5, 6], RULE, dense=1.0, widths=(7, 4), queue=5)
    image = coordinates(2, 16)
    halves = [View(image, torch.tensor([[[0.4, 0, side], [0, 1, 0]]]).expand(2, 2, 3)) for side in (-0.5, 0.5)]
    names = ("moco_v2_first", "moco_v2_second")
    pyramid = [None, torch.randn(2, 5, 4, 4, requires_grad=True), torch.randn(2, 6, 2, 2)]
    output = task(dict(zip(names, halves, strict=True)), {names[0]: pyramid, momentum_of(names[1]): pyramid})
    assert output.loss == 0
    assert output.metrics["matched"] == 0
    (1000 * output.loss).backward()
    assert torch.equal(pyramid[1].grad, torch.zeros_like(pyramid[1]))


def test_both_heads_of_the_keys_move():
    task = DenseContrastive([3, 5, 6], RULE, widths=(7, 4), queue=5)
    pairs = [
        (task.project_key_positions, task.project_positions),
        (task.pooled.project_keys, task.pooled.project),
    ]
    before = [[value.clone() for value in keys.parameters()] for keys, _ in pairs]
    with torch.no_grad():
        for _, online in pairs:
            for value in online.parameters():
                value.add_(1)
    task.after_step(1, 4)
    share = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    for (keys, online), old in zip(pairs, before, strict=True):
        for own, was, trained in zip(keys.parameters(), old, online.parameters(), strict=True):
            torch.testing.assert_close(own, share * was + (1 - share) * trained)
            assert not own.requires_grad


@pytest.mark.parametrize(
    ("change", "key"), [({"level": 0}, "level=0"), ({"level": 5}, "level=5"), ({"dense": 1.2}, "dense=1.2")]
)
def test_settings_without_a_meaning_are_refused(change, key):
    with pytest.raises(InputError, match=rf"^{key}"):
        DenseContrastive([3, 5, 6], RULE, **change)


NAMES = ("moco_v2_first", "moco_v2_second")


def right_half(count=3, size=16):
    """Views of crops whose left half has no data."""
    valid = torch.ones(count, 1, size, size, dtype=torch.bool)
    valid[..., : size // 2] = False
    return dict.fromkeys(NAMES, crop_view(coordinates(count, size), valid=valid))


def dense_task():
    task = DenseContrastive([3, 5, 6], RULE, dense=1.0, widths=(7, 4), queue=5)
    maps = [None, torch.randn(3, 5, 4, 4), torch.randn(3, 6, 2, 2)]
    return task, {NAMES[0]: maps, momentum_of(NAMES[1]): maps}


def test_negatives_leave_out_positions_without_data():
    task, features = dense_task()
    task(right_half(), features)
    keys = task.project_key_positions(features[NAMES[0]][1])[..., 2:].mean(dim=(-2, -1))
    torch.testing.assert_close(task.dense_queue.keys[:3], F.normalize(keys, dim=1))


def test_both_queues_take_keys_while_training_only():
    task, features = dense_task()
    task.eval()(right_half(), features)
    assert int(task.dense_queue.newest) == int(task.pooled.queue.newest) == 0
    task.train()(right_half(), features)
    assert int(task.dense_queue.newest) == int(task.pooled.queue.newest) == 3


def test_positions_that_do_not_count_are_not_in_the_accuracy():
    task = DenseContrastive([3, 4, 6], RULE, dense=1.0, widths=(7, 4), queue=5)
    task.project_positions = task.project_key_positions = nn.Identity()
    maps, deep = torch.randn(3, 4, 4, 4), torch.randn(3, 6, 2, 2)
    keys = torch.cat([-maps[..., :2], maps[..., 2:]], dim=-1)  # right where there is data
    features = {NAMES[0]: [None, maps, deep], momentum_of(NAMES[1]): [None, keys, deep]}
    metrics = task(right_half(), features).metrics
    assert metrics["dense_accuracy"] == 1
    assert metrics["matched"] == 0.5
