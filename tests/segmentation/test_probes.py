"""Probes against slow versions, closed forms and features that tell the classes."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from ssl_rs.encoder import Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.segmentation.dense_features import DenseFeatures, ProbeNetwork, Standardization
from ssl_rs.segmentation.probes import AT_ONCE, LinearProbe, NearestNeighbors, Vote

LINEAR = {"stride": 4, "samples": 100, "sampling": "uniform", "penalty": 0.1, "iterations": 200}
KNN = {"stride": 8, "samples": 100, "sampling": "uniform", "neighbors": 5, "temperature": 0.07}


def data(number=60, dimensions=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(number, dimensions, generator=generator),
        torch.randint(0, classes, (number,), generator=generator),
    )


def test_the_linear_probe_is_at_the_minimum_that_scipy_finds():
    features, labels = data()
    rows, truth = features.double().numpy(), labels.numpy()

    def objective(flat):
        weight, bias = flat[:12].reshape(3, 4), flat[12:]
        logits = rows @ weight.T + bias
        highest = logits.max(axis=1, keepdims=True)
        log_sum = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
        return (log_sum - logits[np.arange(len(truth)), truth]).mean() + 0.05 * (weight**2).sum()

    expected = minimize(objective, np.zeros(15), tol=1e-14).x
    linear, _ = LinearProbe(**LINEAR).fit(features, labels, 3)
    assert linear.weight.detach().numpy() == pytest.approx(expected[:12].reshape(3, 4), abs=2e-4)
    assert (linear.bias - linear.bias.mean()).detach().numpy() == pytest.approx(
        expected[12:] - expected[12:].mean(), abs=2e-4
    )


def test_without_features_the_linear_probe_gives_the_shares_of_the_classes():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    found = LinearProbe(**LINEAR).fit(torch.zeros(10, 2), labels, 3)
    assert found(torch.zeros(1, 2)).exp()[0].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=1e-5)


def test_a_class_without_a_pixel_is_never_chosen():
    features, labels = data(classes=2)
    for probe in (LinearProbe(**LINEAR), NearestNeighbors(**KNN)):
        found = probe.fit(features, labels, 3)(features)
        assert found.shape == (60, 3)
        assert found.isfinite().all()
        assert (found.argmax(dim=1) < 2).all()


def slow_vote(bank, labels, query, neighbors, temperature, classes):
    """Pixel by pixel, in Python's floats."""
    cosines = []
    for row, label in zip(bank, labels, strict=True):
        product = sum(one * other for one, other in zip(row, query, strict=True))
        cosines.append((product / math.sqrt(sum(v * v for v in row) * sum(v * v for v in query)), label))
    votes = [0.0] * classes
    for cosine, label in sorted(cosines, reverse=True)[:neighbors]:
        votes[label] += math.exp(cosine / temperature)
    return [math.log(max(vote / sum(votes), 1e-12)) for vote in votes]


def test_the_vote_is_that_of_a_loop():
    (bank, labels), (queries, _) = data(), data(20, seed=1)
    found = NearestNeighbors(**KNN).fit(bank, labels, 3)(queries)
    expected = [
        slow_vote(bank.double().tolist(), labels.tolist(), query, 5, 0.07, 3) for query in queries.double().tolist()
    ]
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-4)


@pytest.mark.parametrize("at_once", [60 * 3, 59])
def test_the_vote_of_parts_is_that_of_the_whole(monkeypatch, at_once):
    """Also where one query has more labeled pixels to be compared with than are held at once."""
    (bank, labels), (queries, _) = data(), data(20, seed=1)
    assert len(bank) == 60
    vote = NearestNeighbors(**KNN).fit(bank, labels, 3)
    whole = vote(queries)
    monkeypatch.setattr("ssl_rs.segmentation.probes.AT_ONCE", at_once)
    torch.testing.assert_close(vote(queries), whole)
    assert at_once < AT_ONCE


def test_a_small_temperature_gives_the_nearest_and_more_neighbors_than_pixels_are_all():
    bank, labels = torch.eye(3), torch.tensor([2, 0, 1])
    vote = Vote(bank, labels, 3, 20, 1e-6)
    assert vote(torch.tensor([[0.1, 5.0, 0.2]])).exp()[0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("probe", [LinearProbe(**LINEAR | {"penalty": 1e-4}), NearestNeighbors(**KNN)])
def test_features_that_tell_the_classes_are_classified_without_error_and_each_time_alike(probe):
    features, labels = data()
    features = features * 0.05 + torch.eye(4)[labels]
    first, second = (probe.fit(features, labels, 3) for _ in range(2))
    assert (first(features).argmax(dim=1) == labels).all()
    assert torch.equal(first(features), second(features))


@pytest.mark.parametrize(
    ("probe", "settings", "key"),
    [
        (LinearProbe, LINEAR | {"stride": 3}, "stride"),
        (LinearProbe, LINEAR | {"samples": 0}, "samples"),
        (LinearProbe, LINEAR | {"penalty": -1.0}, "penalty"),
        (LinearProbe, LINEAR | {"penalty": math.nan}, "penalty"),
        (LinearProbe, LINEAR | {"penalty": math.inf}, "penalty"),
        (LinearProbe, LINEAR | {"iterations": 0}, "iterations"),
        (NearestNeighbors, KNN | {"neighbors": 0}, "neighbors"),
        (NearestNeighbors, KNN | {"temperature": 0.0}, "temperature"),
    ],
)
def test_settings_out_of_range_name_their_key(probe, settings, key):
    with pytest.raises(InputError, match=f"probe.{key}"):
        probe(**settings)


# Features


class Levels(nn.Module):
    """An encoder whose levels tell their stride and place: channel 0 the stride, channel 1 the column of the cell."""

    out_channels = (3, 0, 2, 2, 2)

    def forward(self, images):
        levels = [images, images.new_zeros(len(images), 0, 16, 16)]
        for stride in (4, 8, 16):
            side = images.shape[-1] // stride
            columns = (torch.arange(side).float() + 0.5) * stride
            levels.append(
                torch.stack([torch.full((side, side), float(stride)), columns.expand(side, side)]).expand(
                    len(images), -1, -1, -1
                )
            )
        return levels


@pytest.fixture
def normalization():
    return Normalization(Statistics((0.5,) * 3, (0.5,) * 3, "a test"))


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_all_levels_from_stride_4_on_lie_on_one_grid(normalization, stride):
    features = DenseFeatures(Levels(), normalization, stride)
    found = features(torch.rand(2, 3, 64, 64))
    assert found.shape == (2, 6, 64 // stride, 64 // stride)
    assert features.channels == [2, 2, 2]
    assert found[0, ::2, 0, 0].tolist() == [4, 8, 16]
    centers = (torch.arange(64 // stride) + 0.5) * stride
    inside = slice(16 // stride, 48 // stride)  # at the border a coarse level has no neighbor to lean on
    for level in (1, 3, 5):
        torch.testing.assert_close(found[1, level, 5 * 4 // stride, inside], centers[inside])


def test_features_are_frozen(normalization):
    features = DenseFeatures(Levels(), normalization, 4)
    assert not features.training
    assert not features(torch.rand(1, 3, 64, 64, requires_grad=True)).requires_grad


def test_standardized_channels_have_unit_variance_and_levels_the_same_weight():
    features = torch.randn(500, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 0.0]) + 7
    found = Standardization(features, [1, 4])(features)
    assert found.mean(dim=0).abs().max() < 1e-4
    assert found.var(dim=0, unbiased=False).tolist() == pytest.approx([1, 0.25, 0.25, 0.25, 0], abs=1e-4)


def test_probabilities_of_cells_are_interpolated(normalization):
    class Step(nn.Module):
        def forward(self, features):
            right = (features[:, 0] > 0).float()
            return torch.stack([1 - right, right], dim=1).clamp(min=1e-12).log()

    features = DenseFeatures(Levels(), normalization, 4)
    cells = features(torch.zeros(1, 3, 64, 64))[0].movedim(0, -1).flatten(0, 1)  # [256, 6]
    standardization = Standardization(cells, [2, 2, 2])
    standardization.scale[0] = 0  # the stride says nothing; the column, of channel 1, does
    network = ProbeNetwork(features, standardization, nn.Sequential(nn.Linear(6, 1, bias=False), nn.Identity(), Step()))
    network.classifier[0].weight.data = torch.tensor([[0.0, 1, 0, 0, 0, 0]])
    found = network.logits(torch.zeros(1, 3, 64, 64)).exp()
    assert found.shape == (1, 2, 64, 64)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 64, 64))
    # Between the cells 28-32 and 32-36 the share of class 1 rises in steps of an eighth and a quarter.
    assert found[0, 1, 10, 28:36].tolist() == pytest.approx([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1], abs=1e-5)


def test_a_channel_that_never_varied_says_little_where_it_does():
    standardization = Standardization(torch.full((64, 1), 0.25), [1])
    assert standardization(torch.tensor([[0.75]])).item() == 0.5
    constant = torch.full((10_000, 1), 0.1)
    assert constant.std(unbiased=False) > 0  # by rounding
    assert Standardization(constant, [1])(torch.tensor([[0.6]])).item() == pytest.approx(0.5, abs=1e-6)
