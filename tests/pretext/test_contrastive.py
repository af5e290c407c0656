import math

import pytest
import torch
import torch.nn.functional as F

from ssl_rs.pretext.contrastive import Contrastive, contrast, pair_logits
from ssl_rs.views.base import crop_view

VIEW = crop_view(torch.zeros(4, 3, 8, 8))


def nt_xent(first, second, temperature):
    return contrast(first, second, temperature).loss


def slow_nt_xent(first, second, temperature):
    """Equation 1 of SimCLR, pair by pair, in float64."""
    rows = [row / row.norm() for row in torch.cat([first, second]).double()]
    count = len(first)
    losses = []
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        total = sum(math.exp(float(rows[i] @ rows[k]) / temperature) for k in range(2 * count) if k != i)
        losses.append(-math.log(math.exp(float(rows[i] @ rows[j]) / temperature) / total))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_agrees_with_a_double_loop(temperature):
    first, second = torch.randn(5, 7), torch.randn(5, 7)
    expected = slow_nt_xent(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_nt_xent_of_equal_rows_is_log_of_candidates():
    rows = torch.ones(4, 8)
    assert nt_xent(rows, rows, temperature=0.5).item() == pytest.approx(math.log(2 * 4 - 1))


def test_nt_xent_of_orthogonal_pairs():
    rows = torch.eye(4, 8)  # the positive at cosine 1, the six others at 0
    expected = math.log(math.exp(1 / 0.2) + 6) - 1 / 0.2
    assert nt_xent(rows, rows, temperature=0.2).item() == pytest.approx(expected, rel=1e-4)


def test_nt_xent_does_not_see_length_or_order():
    first, second = torch.randn(5, 7), torch.randn(5, 7)
    loss = nt_xent(first, second, 0.2)
    torch.testing.assert_close(nt_xent(first * 3, second * torch.rand(5, 1).add(0.1), 0.2), loss)
    order = torch.randperm(5)
    torch.testing.assert_close(nt_xent(second[order], first[order], 0.2), loss)


def test_nt_xent_gradient_is_that_of_its_numbers():
    first, second = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    nt_xent(first, second, 0.5).backward()
    step = torch.zeros(3, 4)
    step[1, 2] = 1e-4
    slope = slow_nt_xent((first + step).detach(), second.detach(), 0.5)
    slope -= slow_nt_xent((first - step).detach(), second.detach(), 0.5)
    assert first.grad[1, 2].item() == pytest.approx(slope / 2e-4, rel=1e-2)


def test_nt_xent_is_computed_in_float32_under_autocast():
    first, second = torch.randn(5, 7), torch.randn(5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(first, second, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_nt_xent(first, second, 0.1), rel=1e-5)


def test_the_mean_of_ranks_is_the_loss_of_the_whole_batch(monkeypatch):
    from ssl_rs.pretext import contrastive

    first, second = torch.randn(6, 7), torch.randn(6, 7)
    whole = nt_xent(first, second, 0.2)
    losses = []
    for rank in range(2):
        mine = slice(3 * rank, 3 * rank + 3)
        gathered = iter([F.normalize(first, dim=1), F.normalize(second, dim=1), torch.cat([first, second])])
        monkeypatch.setattr(contrastive, "first_row", lambda count, rank=rank: rank * count)
        monkeypatch.setattr(contrastive, "gather", lambda rows, gathered=gathered: next(gathered))
        losses.append(nt_xent(first[mine], second[mine], 0.2))
    torch.testing.assert_close(sum(losses) / 2, whole)


def test_pair_logits_exclude_only_the_row_itself():
    logits, positive = pair_logits(torch.randn(3, 4), torch.randn(3, 4), 0.2)
    assert torch.equal(logits == float("-inf"), torch.eye(6, dtype=torch.bool))
    assert positive.tolist() == [3, 4, 5, 0, 1, 2]


def test_equal_views_are_found_and_equal_samples_are_reported_as_collapse():
    task = Contrastive(channels=[3, 8], hidden=16, dimensions=8).eval()
    different, equal = torch.randn(4, 8, 2, 2), torch.randn(1, 8, 2, 2).expand(4, 8, 2, 2)
    views = {"clean": VIEW, "transformed": VIEW}
    found = task(views, {"clean": [different], "transformed": [different]})
    collapsed = task(views, {"clean": [equal], "transformed": [equal]})
    assert found.metrics["accuracy"] == 1
    assert found.metrics["feature_std"] > 0.1
    assert collapsed.metrics["feature_std"] < 1e-3
    assert collapsed.loss.item() == pytest.approx(math.log(7), abs=1e-3)


def test_the_papers_projection_has_a_sigmoid_and_no_batch_norm():
    task = Contrastive(channels=[3, 8], hidden=1024, dimensions=512, temperature=1.0, activation="sigmoid")
    kinds = [type(layer).__name__ for layer in task.project]
    assert kinds == ["Linear", "Sigmoid", "Linear"]
    assert task.project[-1].out_features == 512
