import math

import pytest
import torch

from ssl_rs.segmentation import metrics
from ssl_rs.segmentation.metrics import (
    confusion_matrix,
    f1_scores,
    intersection_over_union,
    kappa,
    overall_accuracy,
)

IGNORE = 255
HAND = torch.tensor([[5, 1, 0], [2, 3, 0], [0, 0, 0]])  # the third class is absent from truth and prediction


def slow_confusion(prediction, truth, num_classes):
    counts = [[0] * num_classes for _ in range(num_classes)]
    for predicted, true in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if true != IGNORE:
            counts[true][predicted] += 1
    return counts


def slow_scores(confusion):
    """IoU, F1 a class (None where absent), accuracy and kappa, from sets of pixels listed one by one."""
    pixels = [(t, p) for t, row in enumerate(confusion) for p, count in enumerate(row) for _ in range(count)]
    n, classes = len(pixels), range(len(confusion))
    iou, f1, chance = [], [], 0.0
    for c in classes:
        true = {i for i, (t, _) in enumerate(pixels) if t == c}
        predicted = {i for i, (_, p) in enumerate(pixels) if p == c}
        iou.append(len(true & predicted) / len(true | predicted) if true | predicted else None)
        f1.append(2 * len(true & predicted) / (len(true) + len(predicted)) if true or predicted else None)
        chance += len(true) * len(predicted) / n**2
    accuracy = sum(t == p for t, p in pixels) / n
    return iou, f1, accuracy, (accuracy - chance) / (1 - chance)


def test_hand_computed_scores():
    assert intersection_over_union(HAND)[:2].tolist() == pytest.approx([5 / 8, 3 / 6])
    assert f1_scores(HAND)[:2].tolist() == pytest.approx([10 / 13, 6 / 9])
    assert overall_accuracy(HAND).item() == pytest.approx(8 / 11)
    chance = (6 * 7 + 5 * 4) / 121
    assert kappa(HAND).item() == pytest.approx((8 / 11 - chance) / (1 - chance))
    assert math.isnan(intersection_over_union(HAND)[2])
    assert math.isnan(f1_scores(HAND)[2])


def test_a_class_that_is_only_predicted_scores_zero():
    confusion = torch.tensor([[3, 1], [0, 0]])
    assert intersection_over_union(confusion).tolist() == pytest.approx([0.75, 0.0])
    assert f1_scores(confusion).tolist() == pytest.approx([6 / 7, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_all_metrics_equal_an_independent_slow_version(seed):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, 4, (3, 9, 7), generator=generator)
    truth = torch.randint(0, 4, (3, 9, 7), generator=generator)
    truth[truth == 2] = IGNORE
    prediction[prediction == 2] = 0  # class 2 is absent everywhere
    confusion = confusion_matrix(prediction, truth.to(torch.uint8), 4, IGNORE)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == slow_confusion(prediction, truth, 4)
    iou, f1, accuracy, agreement = slow_scores(confusion.tolist())
    for fast, slow in ((intersection_over_union(confusion), iou), (f1_scores(confusion), f1)):
        assert [None if math.isnan(value) else pytest.approx(value) for value in fast.tolist()] == slow
    assert overall_accuracy(confusion).item() == pytest.approx(accuracy)
    assert kappa(confusion).item() == pytest.approx(agreement)


def test_rows_are_truth_and_columns_prediction():
    confusion = confusion_matrix(torch.tensor([1, 1]), torch.tensor([0, IGNORE]), 2, IGNORE)
    assert confusion.tolist() == [[0, 1], [0, 0]]


def test_counts_of_parts_add_up_to_the_whole():
    prediction, truth = torch.randint(0, 3, (2, 64)), torch.randint(0, 3, (2, 64))
    parts = sum(confusion_matrix(prediction[i], truth[i], 3, IGNORE) for i in range(2))
    assert torch.equal(parts, confusion_matrix(prediction, truth, 3, IGNORE))


def test_counting_in_parts_changes_nothing(monkeypatch):
    prediction, truth = torch.randint(0, 3, (2, 5, 7))
    truth[0] = IGNORE
    monkeypatch.setattr(metrics, "AT_ONCE", 4)
    assert confusion_matrix(prediction, truth, 3, IGNORE).tolist() == slow_confusion(prediction, truth, 3)


def test_an_ignore_index_inside_the_range_of_classes_is_not_counted():
    confusion = confusion_matrix(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), 3, ignore_index=0)
    assert confusion.tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_counts_beyond_the_exact_integers_of_float32_stay_exact():
    confusion = torch.tensor([[2**30 + 1, 1], [0, 2**30]])
    assert overall_accuracy(confusion).item() == 1 - 1 / (2**31 + 2)


def test_kappa_of_chance_is_zero_and_of_a_single_class_undefined():
    assert kappa(torch.tensor([[4, 4], [4, 4]])).item() == pytest.approx(0)
    assert kappa(torch.tensor([[0, 5], [5, 0]])).item() == pytest.approx(-1)
    assert math.isnan(kappa(torch.tensor([[9, 0], [0, 0]])))
