"""Every number follows from (seed, step, name): independent by name, cut by rows, the same on every machine."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_rs.randomness import Draws, Rows, _packed, _unpacked, derive_seed, seed_step

WHOLE = Rows(0, 4096, 4096)


def uniform(seed=0, step=0, name="clean", rows=WHOLE):
    return Draws(seed, step, name, rows).uniform(0, 1)


def test_derived_seeds_are_pinned():
    assert derive_seed(0) == 3456079177858693020
    assert derive_seed(0, "weights") == 133441691874178746
    assert derive_seed(7, 3, "clean") == 1680079325104777292


def test_draws_are_pinned():
    draws = Draws(0, 3, "clean", Rows(0, 4, 4))
    expected = torch.tensor([0.1575563, 0.5728122, 0.36957932, 0.30906355])
    torch.testing.assert_close(draws.uniform(0, 1), expected, atol=1e-7, rtol=0)
    assert draws.integers(0, 1000).tolist() == [123, 296, 950, 260]
    assert draws.chance(0.5).tolist() == [True, False, False, False]


@given(st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=5)), min_size=1, max_size=4))
def test_a_seed_is_a_63_bit_number(key):
    assert 0 <= derive_seed(*key) < 2**63
    assert derive_seed(*key) == derive_seed(*key)


@pytest.mark.parametrize("other", [{"name": "transformed"}, {"step": 1}, {"seed": 1}])
def test_other_names_steps_and_seeds_give_independent_numbers(other):
    pair = torch.stack([uniform(), uniform(**other)])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.06  # 4 standard errors of 4096 independent pairs
    assert not (pair[0] == pair[1]).any()


def test_seed_and_step_do_not_run_into_each_other():
    assert derive_seed(1, 11, "clean") != derive_seed(11, 1, "clean")
    assert derive_seed(1, 1) != derive_seed(11)


def test_the_same_draws_again_are_the_same():
    assert torch.equal(uniform(), uniform())


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_the_rows_of_all_ranks_are_the_whole(batch_size, world_size, dimensions):
    shape = (2,) * dimensions

    def numbers(rows):
        draws = Draws(3, 9, "view", rows)
        return draws.uniform(-1, 2, *shape), draws.integers(0, 6, *shape), draws.chance(0.3, *shape)

    total = batch_size * world_size
    whole = numbers(Rows(0, total, total))
    ranks = [numbers(Rows.of_rank(rank, world_size, batch_size)) for rank in range(world_size)]
    for values, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), values)
        assert values.shape == (total, *shape)


def test_rows_of_ranks():
    assert Rows.of_rank(1, 3, 4) == Rows(4, 8, 12)


def test_uniform_numbers_fill_their_range():
    values = Draws(0, 0, "x", WHOLE).uniform(-2, 3)
    assert values.dtype == torch.float32
    assert -2 <= values.min() < -1.99
    assert 2.99 < values.max() < 3
    assert float(values.mean()) == pytest.approx(0.5, abs=0.1)


def test_integers_take_every_value_alike():
    counts = Draws(0, 0, "x", WHOLE).integers(2, 8).bincount(minlength=8)
    assert counts[:2].sum() == 0
    assert len(counts) == 8
    torch.testing.assert_close(counts[2:] / 4096, torch.full((6,), 1 / 6), atol=0.03, rtol=0)


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_chances(probability, share):
    values = Draws(0, 0, "x", WHOLE).chance(probability)
    assert values.dtype == torch.bool
    assert float(values.float().mean()) == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    uniform()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_follows_from_seed_step_and_rank():
    def numbers(*key):
        seed_step(*key)
        return torch.rand(8)

    first = numbers(0, 1, 0)
    assert torch.equal(first, numbers(0, 1, 0))
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert not torch.equal(first, numbers(*other))


def test_what_is_sent_to_a_device_in_one_copy_keeps_values_types_and_shapes():
    values = (
        torch.rand(3, 2),
        torch.tensor([True, False, True]),
        torch.arange(6).view(2, 3).T,
        torch.zeros(0, 4),
        torch.tensor(7, dtype=torch.int16),
        torch.rand(5, dtype=torch.float64),
    )
    packed = _packed(values)
    assert packed.dtype == torch.uint8
    for sent, value in zip(_unpacked(packed, values), values, strict=True):
        assert sent.dtype == value.dtype
        assert torch.equal(sent, value)


def test_on_a_cpu_nothing_is_sent():
    values = (torch.rand(3), torch.arange(3))
    assert Draws(0, 0, "view", WHOLE).send(*values) == values
