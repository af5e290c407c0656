"""Protocols against pixels that are listed one by one: no confusion matrix, no tensors."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_rs.errors import InputError
from ssl_rs.segmentation.metrics import confusion_matrix
from ssl_rs.segmentation.protocols import (
    ALL_CLASSES,
    Protocol,
    counted_classes,
    find_protocol,
    protocols_of,
    score,
    score_all,
)

NAMES = ["building", "tree", "clutter"]
CONFUSION = torch.tensor([[6, 1, 1], [0, 8, 2], [3, 1, 4]])
AS_ERROR = Protocol("clutter_as_error", ("clutter",), "error")
IGNORED = Protocol("clutter_ignored", ("clutter",), "ignored")
IGNORE = 255


def slow_mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def slow_class(pixels, name):
    """IoU and F1 of one class, (None, None) where no pixel has it in truth or prediction."""
    right = wrong = missed = 0
    for true, predicted in pixels:
        if predicted == name and true == name:
            right += 1
        elif predicted == name:
            wrong += 1
        elif true == name:
            missed += 1
    if right + wrong + missed == 0:
        return None, None
    return right / (right + wrong + missed), right / (right + (wrong + missed) / 2)


def slow_score(pixels, names, protocol):
    """Score (truth, prediction) pairs of names; a truth of None has no label."""
    labeled = []
    for true, predicted in pixels:
        if true is None or (protocol.excluded_pixels == "ignored" and true in protocol.excluded):
            continue
        labeled.append((true, predicted))
    scored = [name for name in names if name not in protocol.excluded]
    by_class = {name: slow_class(labeled, name) for name in scored}
    agreed = expected = None
    if labeled:
        agreed = sum(true == predicted for true, predicted in labeled) / len(labeled)
        true_names, predicted_names = zip(*labeled, strict=True)
        expected = sum(true_names.count(name) * predicted_names.count(name) for name in names) / len(labeled) ** 2
    return {
        "miou": slow_mean([iou for iou, _ in by_class.values()]),
        "mean_f1": slow_mean([f1 for _, f1 in by_class.values()]),
        "overall_accuracy": agreed,
        "kappa": None if expected is None or expected == 1 else (agreed - expected) / (1 - expected),
        "class_iou": {name: iou for name, (iou, _) in by_class.items()},
        "absent_classes": [name for name, (iou, _) in by_class.items() if iou is None],
    }


def confusion_of(pixels, names):
    truth = torch.tensor([IGNORE if true is None else names.index(true) for true, _ in pixels], dtype=torch.uint8)
    prediction = torch.tensor([names.index(predicted) for _, predicted in pixels], dtype=torch.uint8)
    return confusion_matrix(prediction, truth, len(names), IGNORE)


def approximately(expected):
    return {
        key: {name: close(value) for name, value in found.items()} if isinstance(found, dict) else close(found)
        for key, found in expected.items()
    }


def close(value):
    return pytest.approx(value, abs=1e-12) if isinstance(value, float) else value


@st.composite
def predictions(draw):
    """Draw names of classes, and pixels in which some classes are absent from truth, prediction, or both."""
    names = ["a", "clutter", "b", "c", "d"][: draw(st.integers(2, 5))]
    true = st.sampled_from([None, *draw(st.lists(st.sampled_from(names), unique=True))])
    predicted = st.sampled_from(draw(st.lists(st.sampled_from(names), unique=True, min_size=1)))
    return names, draw(st.lists(st.tuples(true, predicted), min_size=1, max_size=60))


@given(predictions(), predictions())
def test_every_metric_of_every_protocol_equals_an_independent_slow_version(full, eroded):
    names, pixels = full
    fewer = [(true, predicted) for true, predicted in eroded[1] if {true, predicted} <= {None, *names}]
    confusions = {"full": confusion_of(pixels, names), "eroded": confusion_of(fewer, names)}
    protocols = protocols_of("clutter", eroded=True)
    found = score_all(confusions, names, protocols)
    assert list(found) == [protocol.name for protocol in protocols]
    for protocol in protocols:
        expected = slow_score(pixels if protocol.labels == "full" else fewer, names, protocol)
        metrics = {key: found[protocol.name][key] for key in expected}
        assert metrics == approximately(expected), protocol
    json.dumps(found, allow_nan=False)


def test_hand_computed_protocols_differ_as_they_must():
    every, as_errors, ignored = (score(CONFUSION, NAMES, each) for each in protocols_of("clutter", eroded=False))
    assert every["class_iou"] == pytest.approx({"building": 6 / 11, "tree": 8 / 12, "clutter": 4 / 11})
    assert as_errors["class_iou"] == pytest.approx({"building": 6 / 11, "tree": 8 / 12})
    assert ignored["class_iou"] == pytest.approx({"building": 6 / 8, "tree": 8 / 11})
    assert every["miou"] == pytest.approx((6 / 11 + 8 / 12 + 4 / 11) / 3)
    assert as_errors["miou"] == pytest.approx((6 / 11 + 8 / 12) / 2)
    assert ignored["miou"] == pytest.approx((6 / 8 + 8 / 11) / 2)
    assert as_errors["mean_f1"] == pytest.approx((12 / 17 + 16 / 20) / 2)
    assert ignored["mean_f1"] == pytest.approx((12 / 14 + 16 / 19) / 2)
    assert every["overall_accuracy"] == as_errors["overall_accuracy"] == pytest.approx(18 / 26)
    assert ignored["overall_accuracy"] == pytest.approx(14 / 18)
    chance = (8 * 9 + 10 * 10 + 8 * 7) / 26**2
    assert every["kappa"] == as_errors["kappa"] == pytest.approx((18 / 26 - chance) / (1 - chance))
    chance = (8 * 6 + 10 * 9 + 0 * 3) / 18**2
    assert ignored["kappa"] == pytest.approx((14 / 18 - chance) / (1 - chance))


def test_a_single_pixel_shows_what_becomes_of_clutter():
    """Truth x prediction of one pixel beside a right tree: what the tree's and the building's IoU become."""
    for true, predicted, as_error, ignored in (
        ("clutter", "tree", {"building": None, "tree": 0.5}, {"building": None, "tree": 1.0}),
        ("tree", "clutter", {"building": None, "tree": 0.5}, {"building": None, "tree": 0.5}),
        ("clutter", "clutter", {"building": None, "tree": 1.0}, {"building": None, "tree": 1.0}),
        ("clutter", "building", {"building": 0.0, "tree": 1.0}, {"building": None, "tree": 1.0}),
    ):
        confusion = confusion_of([("tree", "tree"), (true, predicted)], NAMES)
        assert score(confusion, NAMES, AS_ERROR)["class_iou"] == as_error
        assert score(confusion, NAMES, IGNORED)["class_iou"] == ignored
        right = 1.0 if true == predicted else 0.5
        assert score(confusion, NAMES, AS_ERROR)["overall_accuracy"] == right
        assert score(confusion, NAMES, IGNORED)["overall_accuracy"] == (1.0 if true == "clutter" else 0.5)


def test_data_sets_have_the_protocols_that_their_labels_allow():
    def names(clutter, eroded):
        return [protocol.name for protocol in protocols_of(clutter, eroded)]

    assert names(None, False) == ["all_classes"]
    assert names(None, True) == ["all_classes", "all_classes_eroded"]
    assert names("clutter", False) == ["all_classes", "clutter_as_error", "clutter_ignored"]
    full, eroded = (protocols_of("c", True)[part] for part in (slice(3), slice(3, 6)))
    assert full == (
        ALL_CLASSES,
        Protocol("clutter_as_error", ("c",), "error"),
        Protocol("clutter_ignored", ("c",), "ignored"),
    )
    assert {protocol.labels for protocol in full} == {"full"}
    for before, after in zip(full, eroded, strict=True):
        assert after == Protocol(f"{before.name}_eroded", before.excluded, before.excluded_pixels, "eroded")


def test_how_it_was_scored_stands_beside_the_score():
    found = score_all({"full": CONFUSION, "eroded": CONFUSION}, NAMES, protocols_of("clutter", eroded=True))
    how = {name: (each["labels"], each["excluded"], each["excluded_pixels"]) for name, each in found.items()}
    assert how == {
        "all_classes": ("full", [], None),
        "clutter_as_error": ("full", ["clutter"], "error"),
        "clutter_ignored": ("full", ["clutter"], "ignored"),
        "all_classes_eroded": ("eroded", [], None),
        "clutter_as_error_eroded": ("eroded", ["clutter"], "error"),
        "clutter_ignored_eroded": ("eroded", ["clutter"], "ignored"),
    }


def test_an_absent_class_is_named_and_left_out_of_means():
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    result = score(confusion, NAMES, ALL_CLASSES)
    assert result["absent_classes"] == ["clutter"]
    assert result["class_iou"]["clutter"] is None
    assert result["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    json.dumps(result, allow_nan=False)


def test_kappa_is_none_where_it_is_undefined():
    assert score(torch.tensor([[7, 0, 0], [0, 0, 0], [0, 0, 0]]), NAMES, ALL_CLASSES)["kappa"] is None


@pytest.mark.parametrize("protocol", protocols_of("clutter", eroded=False), ids=lambda protocol: protocol.name)
def test_without_any_pixel_every_score_is_none(protocol):
    result = score(torch.zeros(3, 3, dtype=torch.int64), NAMES, protocol)
    scored = [name for name in NAMES if name not in protocol.excluded]
    assert result == {
        "miou": None,
        "overall_accuracy": None,
        "mean_f1": None,
        "kappa": None,
        "class_iou": dict.fromkeys(scored),
        "absent_classes": scored,
    }


def test_pixels_of_clutter_alone_have_no_score_but_an_accuracy_where_they_count():
    confusion = torch.diag(torch.tensor([0, 0, 5]))
    as_error = score(confusion, NAMES, AS_ERROR)
    assert (as_error["miou"], as_error["mean_f1"], as_error["overall_accuracy"]) == (None, None, 1.0)
    assert score(confusion, NAMES, IGNORED)["overall_accuracy"] is None


def test_large_counts_stay_exact():
    confusion = torch.tensor([[2**40, 1], [0, 2**40]])
    result = score(confusion, ["a", "b"], ALL_CLASSES)
    assert math.isclose(1 - result["overall_accuracy"], 1 / (2**41 + 1), rel_tol=1e-3)


def test_a_protocol_is_found_by_its_name_or_all_are_listed():
    protocols = protocols_of("clutter", eroded=False)
    assert find_protocol("clutter_ignored", protocols) is protocols[2]
    with pytest.raises(InputError, match=r"dataset\.protocol=clutter_ignored_eroded.*'clutter_as_error'"):
        find_protocol("clutter_ignored_eroded", protocols)


def test_an_excluded_class_that_is_not_there_is_refused():
    wrong = Protocol("five", ("cluter",))
    with pytest.raises(InputError, match=r"'five'.*'cluter'.*'clutter'"):
        score(CONFUSION, NAMES, wrong)
    with pytest.raises(InputError, match="'cluter'"):
        counted_classes(NAMES, wrong)
    assert counted_classes(NAMES, IGNORED) == [True, True, False]
    assert counted_classes(NAMES, AS_ERROR) == [True, True, True]
