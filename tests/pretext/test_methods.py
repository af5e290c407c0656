"""Contrastive learning and every published method against slow versions: by samples, in float64, gradients included."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ssl_rs.errors import InputError
from ssl_rs.pretext.base import momentum_of
from ssl_rs.pretext.byol import Byol
from ssl_rs.pretext.collapse import feature_std
from ssl_rs.pretext.contrastive import Contrastive
from ssl_rs.pretext.heads import dense_mlp, mlp
from ssl_rs.pretext.moco_v2 import MoCoV2, first_is_largest
from ssl_rs.pretext.momentum import MomentumRule
from ssl_rs.pretext.queue import KeyQueue
from ssl_rs.pretext.simclr import SimClr
from ssl_rs.pretext.vicreg import VicReg, lacking_deviation, redundancy, vicreg_terms
from ssl_rs.views.base import crop_view

CHANNELS = (3, 4, 6)
BATCH = 5
RULE = MomentumRule(0.9, 1.0)


def some_valid():
    valid = torch.ones(BATCH, 1, 8, 8, dtype=torch.bool)
    valid[0, :, :4] = False
    valid[1, :, :, 6:] = False
    return valid


def inputs(task, nodata=False):
    """Views and features of a batch; features by the encoder are leaves with gradient."""
    torch.manual_seed(1)
    view = crop_view(torch.zeros(BATCH, 3, 8, 8), valid=some_valid() if nodata else None)
    names = dict.fromkeys((*task.views, *task.momentum_views))
    features = {name: [torch.zeros(BATCH, 3, 8, 8), None, leaf()] for name in task.views}
    features |= {momentum_of(name): [None, None, leaf().detach()] for name in task.momentum_views}
    return dict.fromkeys(names, view), features


def apart(task):
    """Move the momentum heads away from those that they are copies of at first, and which must not serve for them."""
    with torch.no_grad():
        for value in task.parameters():
            if not value.requires_grad:
                value.add_(torch.randn_like(value), alpha=0.5)
    return task


def leaf():
    return torch.randn(BATCH, 6, 4, 4, requires_grad=True)


def slow_pool(maps, view):
    """Each image's mean over positions, weighted by the share of valid pixels under each."""
    pooled = []
    for index, image in enumerate(maps):
        valid = torch.ones(8, 8) if view.valid is None else view.valid[index, 0]
        total, count = torch.zeros(maps.shape[1], dtype=torch.float64), 0.0
        for row in range(4):
            for column in range(4):
                share = valid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].double().mean()
                total, count = total + share * image[:, row, column], count + share
        pooled.append(total / count)
    return torch.stack(pooled)


def slow_mlp(rows, layers, parameters, prefix):
    """Linear, BatchNorm over the given rows, ReLU; parameters by name."""
    for index, layer in enumerate(layers):
        weight, bias = (parameters.get(f"{prefix}.{index}.{name}") for name in ("weight", "bias"))
        if isinstance(layer, torch.nn.Linear):
            rows = torch.stack([weight @ row for row in rows]) + (0 if bias is None else bias)
        elif isinstance(layer, torch.nn.BatchNorm1d):
            mean = sum(rows) / len(rows)
            variance = sum((row - mean) ** 2 for row in rows) / len(rows)
            rows = (rows - mean) / (variance + 1e-5).sqrt() * weight + bias
        else:
            rows = rows.clamp_min(0)
    return rows


def cosine(one, other):
    return (one @ other) / (one.norm() * other.norm())


def slow_pairs(task, pooled, parameters, temperature):
    first, second = (pooled[name] for name in task.views)
    rows = slow_mlp(torch.cat([first, second]), task.project, parameters, "project")
    losses = []
    for i, row in enumerate(rows):
        j = (i + BATCH) % (2 * BATCH)
        total = sum((cosine(row, rows[k]) / temperature).exp() for k in range(2 * BATCH) if k != i)
        losses.append(total.log() - cosine(row, rows[j]) / temperature)
    return sum(losses) / len(losses)


def slow_moco(task, pooled, parameters):
    queries = slow_mlp(pooled["moco_v2_first"], task.project, parameters, "project")
    keys = slow_mlp(pooled[momentum_of("moco_v2_second")], task.project_keys, parameters, "project_keys")
    losses = []
    for query, key in zip(queries, keys, strict=True):
        negatives = sum((cosine(query, old) / 0.2).exp() for old in parameters["queue.keys"])
        positive = cosine(query, key) / 0.2
        losses.append((positive.exp() + negatives).log() - positive)
    return sum(losses) / BATCH


def slow_byol(task, pooled, parameters):
    def predicted(name):
        projection = slow_mlp(pooled[name], task.project, parameters, "project")
        return slow_mlp(projection, task.predict, parameters, "predict")

    def target(name):
        return slow_mlp(pooled[momentum_of(name)], task.project_targets, parameters, "project_targets")

    loss = 0
    for one, other in (("byol_first", "byol_second"), ("byol_second", "byol_first")):
        for prediction, goal in zip(predicted(one), target(other), strict=True):
            loss = loss + ((prediction / prediction.norm() - goal / goal.norm()) ** 2).sum() / BATCH
    return loss


def slow_vicreg(task, pooled, parameters):
    views = [slow_mlp(pooled[name], task.expand, parameters, "expand") for name in task.views]
    width = views[0].shape[1]
    invariance = sum(((a - b) ** 2).sum() for a, b in zip(*views, strict=True)) / (BATCH * width)
    variance = covariance = 0
    for rows in views:
        mean = sum(rows) / BATCH
        for i in range(width):
            for j in range(width):
                moment = sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (BATCH - 1)
                if i == j:
                    variance = variance + (1 - (moment + 1e-4).sqrt()).clamp_min(0) / width / 2
                else:
                    covariance = covariance + moment**2 / width
    return 25 * invariance + 25 * variance + covariance


METHODS = {
    "contrastive": (lambda: Contrastive(CHANNELS, 7, 5), partial(slow_pairs, temperature=0.2)),
    "simclr": (lambda: SimClr(CHANNELS, (7, 5)), partial(slow_pairs, temperature=0.1)),
    "moco_v2": (lambda: MoCoV2(CHANNELS, RULE, (7, 5), queue=6), slow_moco),
    "byol": (lambda: Byol(CHANNELS, RULE, (7, 5), (6,)), slow_byol),
    "vicreg": (lambda: VicReg(CHANNELS, (7, 5, 4)), slow_vicreg),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("nodata", [False, True])
def test_loss_and_gradients_are_those_of_the_slow_version(name, nodata):
    torch.manual_seed(3)
    build, slow = METHODS[name]
    task = apart(build())
    views, features = inputs(task, nodata)
    state = {key: value.detach().double().clone() for key, value in task.state_dict().items()}
    trained = {key: state[key].requires_grad_() for key, value in task.named_parameters() if value.requires_grad}
    leaves = {key: pyramid[-1].detach().double().requires_grad_() for key, pyramid in features.items()}
    view = next(iter(views.values()))
    expected = slow(task, {key: slow_pool(maps, view) for key, maps in leaves.items()}, state)
    expected.backward()
    output = task(views, features)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for key in task.views:
        torch.testing.assert_close(features[key][-1].grad.double(), leaves[key].grad, atol=1e-5, rtol=1e-3)
    own = dict(task.named_parameters())
    assert trained
    for key, value in trained.items():
        torch.testing.assert_close(own[key].grad.double(), value.grad, atol=1e-4, rtol=1e-3)
    assert all(value.grad is None for value in own.values() if not value.requires_grad)
    assert all(not value.requires_grad and value.isfinite() for value in output.metrics.values())


# The head of momentum: another network, that moves by the rule


@pytest.mark.parametrize(("name", "head"), [("moco_v2", "project_keys"), ("byol", "project_targets")])
def test_the_momentum_head_begins_equal_and_moves_by_the_rule(name, head):
    task = METHODS[name][0]()
    online, momentum = task.project, getattr(task, head)
    before = [value.clone() for value in momentum.parameters()]
    for own, trained in zip(momentum.parameters(), online.parameters(), strict=True):
        assert torch.equal(own, trained)
        assert own.data_ptr() != trained.data_ptr()
        assert not own.requires_grad
    with torch.no_grad():
        for value in online.parameters():
            value.add_(1)
    task.after_step(2, 8)
    share = 1.0 - 0.1 * (math.cos(math.pi * 2 / 8) + 1) / 2
    for own, old, trained in zip(momentum.parameters(), before, online.parameters(), strict=True):
        torch.testing.assert_close(own, share * old + (1 - share) * trained)
        assert not torch.equal(own, old)


# The queue


def test_the_queue_holds_the_newest_keys_in_the_order_they_came():
    queue, pushed = KeyQueue(5, 3, "queue"), []
    random = queue.keys.clone()
    torch.testing.assert_close(random.norm(dim=1), torch.ones(5))
    for step in range(4):
        keys = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        queue.push(keys)
        pushed += list(keys / keys.norm(dim=1, keepdim=True))
        held = [random[row] if row >= len(pushed) else pushed[max(range(row, len(pushed), 5))] for row in range(5)]
        torch.testing.assert_close(queue.keys, torch.stack(held))
    assert int(queue.newest) == 8 % 5


def test_of_more_keys_than_it_holds_the_queue_takes_the_last():
    queue, keys = KeyQueue(3, 2, "queue"), torch.nn.functional.normalize(torch.randn(8, 2), dim=1)
    queue.push(keys)
    torch.testing.assert_close(queue.keys, keys[[6, 7, 5]])  # key i lies in row i modulo 3
    assert int(queue.newest) == 2


def test_the_queue_takes_keys_while_training_only():
    task = apart(MoCoV2(CHANNELS, RULE, (7, 5), queue=6))
    views, features = inputs(task)
    task.eval()(views, features)
    assert int(task.queue.newest) == 0
    task.train()(views, features)
    assert int(task.queue.newest) == BATCH
    keys = task.project_keys(features[momentum_of("moco_v2_second")][-1].mean(dim=(-2, -1)))
    torch.testing.assert_close(task.queue.keys[:BATCH], torch.nn.functional.normalize(keys, dim=1))


def test_a_query_that_is_its_key_and_no_other_is_found():
    queue = KeyQueue(3, 4, "queue")
    queue.keys.copy_(torch.eye(4)[1:])
    row = torch.eye(4)[:1]
    logits = queue.logits(5 * row, 2 * row, 0.2)
    torch.testing.assert_close(logits, torch.tensor([[5.0, 0, 0, 0]]))


# Closed forms


def test_byol_of_equal_and_opposite_predictions():
    from ssl_rs.pretext.byol import distance

    rows = torch.randn(4, 3)
    assert distance(rows, 3 * rows).item() == pytest.approx(0, abs=1e-5)
    assert distance(rows, -rows).item() == pytest.approx(4, abs=1e-5)


def test_vicreg_of_constant_and_of_independent_dimensions():
    constant, independent = torch.ones(4, 3), torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * 3
    assert lacking_deviation(constant).item() == pytest.approx(1 - 0.01)
    assert lacking_deviation(independent) == 0
    assert redundancy(independent) == 0
    twice = independent[:, :1].repeat(1, 2)  # one says what the other does: covariance 12 both ways
    assert redundancy(twice).item() == pytest.approx((12**2 + 12**2) / 2)


# Heads and settings


def test_heads_have_the_layers_of_their_authors():
    def kinds(layers):
        return [type(layer).__name__ for layer in layers]

    def biases(layers):
        return [layer.bias is not None for layer in layers if hasattr(layer, "in_features")]

    assert kinds(mlp(4, [8, 2], "none", "k")) == ["Linear", "ReLU", "Linear"]
    assert kinds(mlp(4, [8, 2], "hidden", "k")) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds(mlp(4, [8, 2], "all", "k")) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert biases(mlp(4, [8, 2], "none", "k")) == [True, True]
    assert biases(mlp(4, [8, 2], "hidden", "k")) == [False, True]
    assert biases(mlp(4, [8, 2], "hidden", "k", last_bias=False)) == [False, False]
    for head in (Byol(CHANNELS, RULE, (7, 5), (6,)).predict, VicReg(CHANNELS, (7, 5)).expand):
        assert biases(head) == [False, False]
    assert biases(mlp(4, [8, 2], "all", "k")) == [False, False]
    assert dense_mlp(4, [8, 2])(torch.rand(1, 4, 5, 6)).shape == (1, 2, 5, 6)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SimClr(CHANNELS, ()), r"^widths=\[\]: expected the width of each layer"),
        (lambda: VicReg(CHANNELS, (4, 0)), r"^widths=\[4, 0\]"),
        (lambda: VicReg(CHANNELS, (4,), variance=-1.0), "^variance=-1: expected a finite number, at least 0"),
        (lambda: VicReg(CHANNELS, (4,), covariance=math.nan), "^covariance=nan"),
        (lambda: VicReg(CHANNELS, (4,), 0.0, 0.0, 0.0), "^invariance=0, as variance and covariance"),
        (lambda: SimClr(CHANNELS, (4,), 0.0), "temperature must be a number above 0"),
        (lambda: MoCoV2(CHANNELS, RULE, (4,), 4, -1.0), "temperature must be a number above 0"),
        (lambda: MoCoV2(CHANNELS, RULE, (4,), 0), "queue=0: expected at least 1 key"),
        (lambda: MomentumRule(1.1), r"^start=1\.1: expected a number in \[0, 1\]"),
        (lambda: MomentumRule(0.5, -0.1), r"^final=-0\.1"),
    ],
)
def test_settings_without_a_meaning_are_refused(build, said):
    with pytest.raises(InputError, match=said):
        build()


def test_the_accuracy_is_the_share_of_queries_whose_own_key_is_nearest():
    assert first_is_largest(torch.tensor([[3.0, 1, 2], [5, 1, 2], [0, 1, 2]])).item() == pytest.approx(2 / 3)


def test_byol_tells_the_mean_cosine_of_prediction_and_target():
    task = apart(METHODS["byol"][0]())
    views, features = inputs(task)
    told = task(views, features).metrics["cosine"]
    pooled = {name: pyramid[-1].mean(dim=(-2, -1)) for name, pyramid in features.items()}
    cosines = [
        F.cosine_similarity(task.predict(task.project(pooled[one])), task.project_targets(pooled[momentum_of(other)]))
        for one, other in (task.views, task.views[::-1])
    ]
    torch.testing.assert_close(told, torch.cat(cosines).mean().detach())


def test_moments_are_float32_under_autocast(monkeypatch):
    task, seen = VicReg(CHANNELS, widths=(7, 8)), []
    views, features = inputs(task)
    monkeypatch.setattr("ssl_rs.pretext.vicreg.gather", lambda rows: seen.append(rows) or rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = task(views, features).metrics
    for name, value in vicreg_terms(*seen).items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-5, atol=1e-7)


def test_cosines_of_the_queue_are_float32_under_autocast():
    queue, queries, positives = KeyQueue(6, 7, "queue"), torch.randn(5, 7), torch.randn(5, 7)
    expected = queue.logits(queries, positives, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = queue.logits(queries, positives, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", [mlp(6, (4, 3), "none", "widths"), dense_mlp(6, (4, 3))])
def test_a_head_has_a_relu_between_its_layers_and_none_behind_them(head):
    assert [isinstance(layer, torch.nn.ReLU) for layer in head] == [False, True, False]


def test_the_spread_of_moco_is_that_of_the_queries():
    task = apart(MoCoV2(CHANNELS, RULE, widths=(5, 4), queue=8))
    views, features = inputs(task)
    queries = task.project(features["moco_v2_first"][-1].mean(dim=(-2, -1)))
    told = task(views, features).metrics["feature_std"]
    torch.testing.assert_close(told, feature_std(queries.detach()))
