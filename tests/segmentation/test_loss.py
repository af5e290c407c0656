import math
from itertools import product

import numpy as np
import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.segmentation.loss import FEW_CLASSES, SegmentationLoss, dice_loss, log_probabilities

IGNORE = 255


def random_batch(classes=4, seed=0):
    """Return scores [2, K, 5, 6] with gradient and masks [2, 5, 6]; a third is ignored, class 2 never occurs."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(2, classes, 5, 6, generator=generator)).requires_grad_()
    masks = torch.tensor([0, 1, 3, IGNORE, 1, IGNORE])[torch.randint(0, 6, (2, 5, 6), generator=generator)]
    return logits, masks


def probabilities_of(logits, place):
    """Return the softmax of one pixel, [K] float64."""
    batch, row, column = place
    return torch.softmax(logits[batch, :, row, column].double(), dim=0)


def labeled(masks):
    """Return the places of labeled pixels."""
    return [place for place in product(*map(range, masks.shape)) if masks[place] != IGNORE]


def slow_focal(logits, masks, focusing, weights):
    """Sum over pixels, one at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for place in labeled(masks):
        truth = int(masks[place])
        probability = probabilities_of(logits, place)[truth]
        total = total - weights[truth] * (1 - probability) ** focusing * probability.log()
    return total / len(labeled(masks))


def slow_dice(logits, masks):
    """Count what lies on each class, one pixel at a time."""
    classes = logits.shape[1]
    shared, predicted, truth = ([torch.zeros((), dtype=torch.float64) for _ in range(classes)] for _ in range(3))
    for place in labeled(masks):
        for index, probability in enumerate(probabilities_of(logits, place)):
            predicted[index] = predicted[index] + probability
            if masks[place] == index:
                shared[index], truth[index] = shared[index] + probability, truth[index] + 1
    missed = [1 - 2 * shared[k] / (predicted[k] + truth[k]) for k in range(classes) if truth[k] > 0]
    return torch.stack(missed).mean()


def value_and_gradient(loss, logits):
    logits.grad = None
    loss.backward()
    return loss.item(), logits.grad.clone()


@pytest.mark.parametrize("focusing", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0, 1.5)])
def test_weighted_and_focused_cross_entropy_is_the_slow_one(focusing, weights):
    logits, masks = random_batch()
    given = None if weights is None else torch.tensor(weights)
    output = SegmentationLoss(focusing=focusing)(logits, masks, IGNORE, given)
    value, gradient = value_and_gradient(output.loss, logits)
    expected, slow = value_and_gradient(slow_focal(logits, masks, focusing, weights or (1.0,) * 4), logits)
    assert value == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(gradient, slow, rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("classes", [2, 6, FEW_CLASSES - 1, FEW_CLASSES, FEW_CLASSES + 1])
def test_probabilities_of_maps_are_those_of_rows_to_the_last_bit(classes):
    generator = torch.Generator().manual_seed(classes)
    maps = (5 * torch.randn(3, classes, 4, 12, generator=generator)).contiguous(memory_format=torch.channels_last)
    maps, above = maps.requires_grad_(), torch.randn(3 * 4 * 12, classes, generator=generator)
    own, by_rows = log_probabilities(maps), maps.movedim(1, -1).flatten(0, 2).log_softmax(dim=1)
    assert torch.equal(own, by_rows)
    assert torch.equal(*(torch.autograd.grad(each, maps, above)[0] for each in (own, by_rows)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_dice_loss_is_the_slow_one(seed):
    logits, masks = random_batch(seed=seed)
    rows = logits.movedim(1, -1).flatten(0, 2)
    value, gradient = value_and_gradient(dice_loss(rows, masks.flatten(), IGNORE), logits)
    expected, slow = value_and_gradient(slow_dice(logits, masks), logits)
    assert value == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(gradient, slow, rtol=1e-4, atol=1e-7)
    assert gradient.abs().max() > 0


def test_the_dice_loss_is_0_where_all_is_right_and_1_where_all_is_wrong():
    masks = torch.tensor([0, 1, 1, IGNORE])
    right = 50.0 * torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0]), 3)
    assert dice_loss(right, masks, IGNORE).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(right.roll(1, dims=1), masks, IGNORE).item() == pytest.approx(1)


def test_parts_add_up_and_are_logged():
    logits, masks = random_batch()
    entropy = SegmentationLoss()(logits, masks, IGNORE, None)
    both = SegmentationLoss(dice=0.5)(logits, masks, IGNORE, None)
    assert set(entropy.metrics) == {"pixel_accuracy"}
    assert both.metrics["cross_entropy"].item() == pytest.approx(entropy.loss.item())
    assert both.loss.item() == pytest.approx(entropy.loss.item() + 0.5 * both.metrics["dice"].item())
    assert not any(value.requires_grad for value in both.metrics.values())


def test_ignored_pixels_have_no_gradient():
    logits, masks = random_batch()
    SegmentationLoss(focusing=2.0, dice=1.0)(logits, masks, IGNORE, torch.ones(4)).loss.backward()
    reached = logits.grad.abs().sum(dim=1) > 0
    assert (reached == (masks != IGNORE)).all()


@pytest.mark.parametrize("loss", [SegmentationLoss(focusing=0.5), SegmentationLoss(dice=1.0)])
def test_what_is_told_for_sure_has_a_finite_gradient(loss):
    logits = torch.zeros(1, 2, 1, 2).index_fill_(1, torch.tensor(0), 1e4).requires_grad_()
    loss(logits, torch.zeros(1, 1, 2, dtype=torch.long), IGNORE, None).loss.backward()
    assert logits.grad.isfinite().all()


def test_a_batch_without_labels_has_loss_0_and_gradient_0():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    masks = torch.full((1, 2, 2), IGNORE)
    loss = SegmentationLoss(focusing=1.0, dice=1.0)(logits, masks, IGNORE, torch.ones(3)).loss
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_class_weights_follow_from_how_rare_a_class_is_and_weigh_1_on_average():
    pixels = np.array([100, 25, 0])
    root = SegmentationLoss(balance=0.5).class_weights(pixels)  # 1/10 and 1/5, times 125/15
    assert root.tolist() == pytest.approx([0.1 * 125 / 15, 0.2 * 125 / 15, 0])
    even = SegmentationLoss(balance=1).class_weights(pixels)
    assert (even * torch.tensor([100, 25, 0])).tolist() == pytest.approx([62.5, 62.5, 0])
    assert SegmentationLoss(focusing=2.0, dice=1.0).class_weights(pixels) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("balance", -0.1), ("balance", 1.1), ("balance", math.nan), ("focusing", -1.0), ("focusing", math.inf),
     ("dice", -1.0), ("dice", math.nan)],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(InputError, match=f"loss.{key}="):
        SegmentationLoss(**{key: value})
