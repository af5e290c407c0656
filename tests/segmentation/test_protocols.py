import json

import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.segmentation.protocols import ALL_CLASSES, Protocol, score

NAMES = ["building", "tree", "clutter"]
CONFUSION = torch.tensor([[6, 1, 1], [0, 8, 2], [3, 1, 4]])


def slow_score(confusion, excluded, ignored):
    """Means over the classes that are not excluded, from pixels listed one by one."""
    pixels = [(t, p) for t in range(3) for p in range(3) for _ in range(int(confusion[t][p]))]
    if ignored:
        pixels = [(t, p) for t, p in pixels if t not in excluded]
    iou, f1 = [], []
    for c in range(3):
        both = sum(t == p == c for t, p in pixels)
        either = sum(c in (t, p) for t, p in pixels)
        if c not in excluded and either:
            iou.append(both / either)
            f1.append(2 * both / (either + both))
    return sum(iou) / len(iou), sum(f1) / len(f1), sum(t == p for t, p in pixels) / len(pixels)


@pytest.mark.parametrize(
    ("protocol", "excluded", "ignored"),
    [
        (ALL_CLASSES, set(), False),
        (Protocol("as_errors", ("clutter",), "error"), {2}, False),
        (Protocol("ignored", ("clutter",), "ignored"), {2}, True),
        (Protocol("one_class", ("building", "clutter"), "ignored"), {0, 2}, True),
    ],
)
def test_protocols_equal_an_independent_slow_version(protocol, excluded, ignored):
    result = score(CONFUSION, NAMES, protocol)
    slow = slow_score(CONFUSION.tolist(), excluded, ignored)
    assert (result["miou"], result["mean_f1"], result["overall_accuracy"]) == pytest.approx(slow)
    assert list(result["class_iou"]) == [name for index, name in enumerate(NAMES) if index not in excluded]


def test_hand_computed_protocols_differ_as_they_must():
    as_errors = score(CONFUSION, NAMES, Protocol("e", ("clutter",), "error"))
    ignored = score(CONFUSION, NAMES, Protocol("i", ("clutter",), "ignored"))
    assert as_errors["class_iou"] == pytest.approx({"building": 6 / 11, "tree": 8 / 12})
    assert ignored["class_iou"] == pytest.approx({"building": 6 / 8, "tree": 8 / 11})
    assert as_errors["overall_accuracy"] == pytest.approx(18 / 26)
    assert ignored["overall_accuracy"] == pytest.approx(14 / 18)


def test_an_absent_class_is_named_and_left_out_of_means():
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    result = score(confusion, NAMES, ALL_CLASSES)
    assert result["absent_classes"] == ["clutter"]
    assert result["class_iou"]["clutter"] is None
    assert result["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    json.dumps(result, allow_nan=False)


def test_kappa_is_none_where_it_is_undefined():
    assert score(torch.tensor([[7, 0, 0], [0, 0, 0], [0, 0, 0]]), NAMES, ALL_CLASSES)["kappa"] is None


def test_no_valid_pixel_is_refused():
    with pytest.raises(InputError, match=r"all_classes.*no test scene has a valid pixel"):
        score(torch.zeros(3, 3, dtype=torch.int64), NAMES, ALL_CLASSES)


def test_an_excluded_class_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"'five'.*'cluter'.*'clutter'"):
        score(CONFUSION, NAMES, Protocol("five", ("cluter",)))
