"""Schedules against their closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_rs.errors import InputError
from ssl_rs.training.schedule import Constant, Cosine, Polynomial, StepDecay, check_schedule


def test_cosine_falls_along_half_a_cosine():
    schedule = Cosine(warmup=0.0, final=0.0)
    for step, factor in ((0, 1.0), (30, (1 + math.sqrt(0.5)) / 2), (40, 0.75), (60, 0.5), (120, 0.0)):
        assert schedule(step, 120) == pytest.approx(factor)


def test_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=37, eta_min=0.1)
    for step in range(37):
        assert Cosine(warmup=0.0, final=0.1)(step, 37) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_warmup_rises_in_equal_parts_to_the_whole_rate():
    schedule = Cosine(warmup=0.1, final=0.0)
    factors = [schedule(step, 100) for step in range(12)]
    assert factors[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert factors[10] == 1
    assert factors[11] < 1


def test_cosine_ends_at_its_final_factor():
    assert Cosine(0.3, 0.2)(100, 100) == pytest.approx(0.2)
    assert Cosine(0.3, 0.2)(99, 100) == pytest.approx(0.2, abs=1e-3)
    assert Cosine(0.0, 1.0)(50, 100) == 1


@given(st.floats(0, 0.99), st.floats(0, 1), st.integers(1, 500))
def test_cosine_rises_then_falls_within_its_bounds(warmup, final, max_steps):
    factors = [Cosine(warmup, final)(step, max_steps) for step in range(max_steps)]
    top = factors.index(max(factors))
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)
    assert all(first <= second + 1e-12 for first, second in pairwise(factors[: top + 1]))
    assert all(first >= second - 1e-12 for first, second in pairwise(factors[top:]))
    assert min([1.0, *factors[math.ceil(warmup * max_steps) :]]) >= final - 1e-12
    assert top <= math.ceil(warmup * max_steps)


def test_step_decay_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.7)
    schedule = StepDecay(5, 0.7)
    for step in range(23):
        assert schedule(step, 23) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert [schedule(step, 0) for step in (0, 4, 5, 9, 10)] == pytest.approx([1, 1, 0.7, 0.7, 0.49])


def test_polynomial_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=37, power=0.9)
    for step in range(37):
        assert Polynomial()(step, 37) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_polynomial_rises_and_ends_at_its_final_factor():
    schedule = Polynomial(power=2.0, warmup=0.1, final=0.2)
    assert [schedule(step, 100) for step in range(11)] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert schedule(55, 100) == pytest.approx(0.2 + 0.8 * 0.5**2)
    assert schedule(100, 100) == pytest.approx(0.2)
    factors = [schedule(step, 100) for step in range(10, 100)]
    assert all(first > second for first, second in pairwise(factors))


def test_constant_is_one():
    assert {Constant()(step, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (Cosine, (1.0, 0.0), "warmup"),
        (Cosine, (-0.1, 0.0), "warmup"),
        (Cosine, (0.1, 1.5), "final"),
        (Polynomial, (0.0,), "power"),
        (Polynomial, (math.inf,), "power"),
        (Polynomial, (0.9, 1.0), "warmup"),
        (Polynomial, (0.9, 0.0, -0.1), "final"),
        (StepDecay, (0, 0.5), "every_steps"),
        (StepDecay, (1, 0.0), "gamma"),
        (StepDecay, (1, 1.1), "gamma"),
    ],
)
def test_settings_without_a_meaning_are_refused(kind, arguments, said):
    with pytest.raises(InputError, match=f"schedule: .*{said}"):
        kind(*arguments)


@pytest.mark.parametrize("factor", [None, "1", math.nan, math.inf, torch.tensor(1.0), np.float32(1.0)])
@pytest.mark.parametrize("bad", [0, 9])
def test_a_schedule_that_gives_no_finite_number_is_refused(factor, bad):
    def schedule(step, max_steps):
        return factor if step == bad else 1.0

    with pytest.raises(
        InputError, match=rf"^schedule: schedule returns .* at step {bad} of 10, expected a finite number"
    ):
        check_schedule(schedule, 10)


@pytest.mark.parametrize("schedule", [Cosine(), Polynomial(), Constant(), StepDecay(2, 0.5), lambda step, total: 1])
def test_schedules_that_give_numbers_are_taken(schedule):
    check_schedule(schedule, 1)
    check_schedule(schedule, 10)
