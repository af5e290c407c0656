import pytest
import torch

from ssl_rs.pretext.collapse import collapse_measures, effective_rank, feature_std, mean_pair_cosine


def test_feature_std_of_equal_rows_is_zero_and_of_random_ones_about_one():
    assert feature_std(torch.ones(8, 5)) == 0
    assert feature_std(torch.randn(4000, 32)).item() == pytest.approx(1, abs=0.02)


def test_feature_std_of_axes_by_hand():
    # Each dimension is 1 in one row of four: mean 1/4, variance 3/16.
    assert feature_std(3 * torch.eye(4)).item() == pytest.approx(2 * (3 / 16) ** 0.5)


def test_feature_std_does_not_see_length():
    features = torch.randn(10, 6)
    torch.testing.assert_close(feature_std(features * torch.rand(10, 1).add(0.1)), feature_std(features))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_effective_rank_of_equally_used_directions(rank):
    axes = torch.eye(5)[:rank]
    assert effective_rank(torch.cat([axes, -axes]) + 7).item() == pytest.approx(rank)


def test_effective_rank_counts_uneven_directions_less():
    axes = torch.diag(torch.tensor([3.0, 1.0]))
    # Shares 3/4 and 1/4: exp(-(3/4) ln(3/4) - (1/4) ln(1/4)) = 4 / 3^(3/4).
    assert effective_rank(torch.cat([axes, -axes])).item() == pytest.approx(4 / 3**0.75)


def test_effective_rank_of_equal_rows_is_zero():
    assert effective_rank(torch.ones(6, 4)) == 0


def test_effective_rank_of_rows_that_differ_by_rounding_is_zero():
    row = torch.rand(64, generator=torch.Generator().manual_seed(0))
    rows = row * (1 + 5e-8 * torch.randn(32, 64, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(rows[0], rows[1])
    assert effective_rank(rows) == 0
    assert effective_rank(row * (1 + 1e-3 * torch.randn(32, 64, generator=torch.Generator().manual_seed(1)))) > 20


def test_mean_pair_cosine_agrees_with_a_loop():
    features = torch.randn(6, 3)
    unit = features / features.norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i in range(6) for j in range(6) if i != j]
    assert mean_pair_cosine(features).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_mean_pair_cosine_of_its_limits():
    assert mean_pair_cosine(torch.ones(5, 3)).item() == pytest.approx(1)
    assert mean_pair_cosine(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert mean_pair_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(-1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_have_no_rank(value):
    features = torch.rand(5, 4)
    features[2, 1] = value
    measures = collapse_measures(features)
    assert measures["effective_rank"].isnan()
    assert measures["effective_rank"].shape == measures["feature_std"].shape == ()
