"""Prefixes of the stratified order, and the counts of subsets of either order, for any data."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_rs.data.label_subset import LabelFraction, LabelSubset, choose_labels, class_pixels
from ssl_rs.data.stratified import stratified_order

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PINNED = [8, 9, 0, 12, 4, 3, 5, 16, 7, 15, 6, 13, 10, 2, 1, 17, 11, 19, 18, 14]


def deviations(histograms):
    """Half the sum of absolute differences of shares, prefix by prefix, against those of all."""
    shares = np.cumsum(histograms, axis=0) / np.cumsum(histograms.sum(axis=1))[:, None]
    return np.abs(shares - shares[-1]).sum(axis=1) / 2


def slow_order(histograms, candidates):
    """The rule with exact fractions, unit by unit."""
    from fractions import Fraction

    rows = [[int(value) for value in row] for row in histograms]
    total = [sum(column) for column in zip(*rows, strict=True)]
    target = [Fraction(round(Fraction(count * 2**20, sum(total)) + Fraction(1, 10**12)), 2**20) for count in total]
    following = min(candidates, -(-len(rows) // 2))
    waiting, placed, order = list(range(following)), [0] * len(total), []
    while waiting:
        distances = []
        for unit in waiting:
            counts = [one + other for one, other in zip(placed, rows[unit], strict=True)]
            size = sum(counts)
            distances.append(sum(abs(Fraction(each, size) - aim) for each, aim in zip(counts, target, strict=True)))
        best = distances.index(min(distances))
        placed = [one + other for one, other in zip(placed, rows[waiting[best]], strict=True)]
        order.append(waiting[best])
        if following < len(rows):
            waiting[best] = following
            following += 1
        else:
            del waiting[best]
    return order


def made_up(number, seed=0):
    generator = np.random.default_rng(seed)
    return generator.multinomial(64, [0.6, 0.3, 0.1], number) * generator.integers(0, 2, (number, 3)) + 1


@pytest.mark.parametrize("number", [1, 2, 3, 63, 130, 200])
def test_it_is_the_greedy_rule_with_exact_numbers(number):
    histograms = made_up(number)
    assert stratified_order(histograms) == slow_order(histograms, 64)


def test_the_order_is_pinned():
    # Another order would make results of the same seed and fraction incomparable.
    histograms = np.array([[(7 * i * i + 3 * i) % 11 + 1, (5 * i) % 7, (i * i) % 5] for i in range(20)])
    assert stratified_order(histograms) == PINNED


@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 4).filter(any), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_every_unit_has_one_place_and_shares_are_near(rows):
    histograms = np.array(rows, np.int64)
    order = stratified_order(histograms)
    assert sorted(order) == list(range(len(rows)))
    assert stratified_order(histograms) == order


@given(st.integers(0, 2**32), st.integers(20, 400), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_prefixes_are_nearer_to_the_shares_of_all_than_those_of_a_random_order(seed, number, classes):
    generator = np.random.default_rng(seed)
    histograms = generator.dirichlet(np.full(classes, 0.5), number)
    histograms = (histograms * 1000).astype(np.int64) + 1  # tiles of few classes, as real ones
    found, random = deviations(histograms[stratified_order(histograms)]), deviations(histograms)
    assert found[: number // 2].mean() < random[: number // 2].mean()
    assert found.mean() < random.mean()


def test_counts_beyond_32_bits_do_not_overflow():
    histograms = made_up(50) * 10**9
    assert stratified_order(histograms) == stratified_order(made_up(50))


def blocks(seed, height, width, side=8):
    """A mask of classes in blocks that do not lie on the grid of tiles, with unlabeled pixels."""
    generator = np.random.default_rng(seed)
    small = generator.choice(3, (height // side + 2, width // side + 2), p=[0.7, 0.25, 0.05])
    mask = np.kron(small, np.ones((side, side), int))[3 : height + 3, 5 : width + 5].astype(np.uint8)
    mask[generator.random(mask.shape) < 0.1] = 255
    return mask


@pytest.fixture
def store(make_store):
    masks = {"a": blocks(0, 100, 83), "b": blocks(1, 64, 120), "test": blocks(2, 40, 40)}
    return make_store({"a": ("train", 100, 83), "test": ("test", 40, 40), "b": ("train", 64, 120)}, masks)


@pytest.mark.parametrize("size", [8, 10, None])
def test_pixels_of_units_are_counted_by_class(store, size):
    unit = "scene" if size is None else "tile"
    units = choose_labels(store, size or 8, LabelFraction(1.0, unit), 0).units
    masks = {store.manifest.scenes[index].id: store.mask(index) for index in store.scenes_of("train")}
    expected = [
        [
            int((masks[u.scene][u.row : u.row + u.height, u.column : u.column + u.width] == index).sum())
            for index in range(3)
        ]
        for u in units
    ]
    found = class_pixels(store, unit, units)
    assert found.tolist() == expected


def test_stratified_subsets_are_nested_named_and_nearer_to_the_shares(store):
    def shares_off(subset):
        found = class_pixels(store, "tile", subset.units).sum(axis=0)
        return np.abs(found / found.sum() - whole).sum()

    every = choose_labels(store, 8, LabelFraction(1.0, "tile"), 0)
    whole = class_pixels(store, "tile", every.units).sum(axis=0)
    whole = whole / whole.sum()
    off = {"random": [], "stratified": []}
    for seed in range(5):
        for order, found in off.items():
            subsets = [choose_labels(store, 8, LabelFraction(each, "tile", order), seed) for each in FRACTIONS]
            assert all(large.units[: len(small.units)] == small.units for small, large in pairwise(subsets))
            assert {subset.order for subset in subsets} == {order}
            assert set(subsets[-1].units) == set(every.units)
            found.append([shares_off(subset) for subset in subsets[:-1]])
    assert (np.mean(off["stratified"], axis=0) < 0.6 * np.mean(off["random"], axis=0)).all()
    first, other = (choose_labels(store, 8, LabelFraction(0.1, "tile", "stratified"), seed) for seed in (0, 1))
    assert set(first.units) != set(other.units)


def test_a_stratified_subset_survives_the_disk_and_has_a_hash_of_its_own(store, tmp_path):
    random, stratified = (
        choose_labels(store, 8, LabelFraction(1.0, "scene", order), 0) for order in ("random", "stratified")
    )
    assert random.sha256 != stratified.sha256
    stratified.write(tmp_path / "labels.json")
    assert LabelSubset.read(tmp_path / "labels.json") == stratified


@given(st.floats(0.0001, 1.0), st.floats(0.0001, 1.0), st.integers(0, 50), st.sampled_from(["random", "stratified"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_two_fractions_are_nested_exact_and_equal_each_time(store, one, other, seed, order):
    small, large = (
        choose_labels(store, 10, LabelFraction(fraction, "tile", order), seed) for fraction in sorted((one, other))
    )
    assert large.units[: len(small.units)] == small.units
    for subset in (small, large):
        exact = subset.fraction * subset.total_units
        assert abs(len(subset.units) - exact) <= 0.5 + 1e-9 or len(subset.units) == 1
    again = choose_labels(store, 10, LabelFraction(large.fraction, "tile", order), seed)
    assert (again, again.sha256) == (large, large.sha256)
