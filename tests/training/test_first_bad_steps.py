"""Which step is told where a value stops being finite."""

import pytest
import torch

from ssl_rs.training.divergence import FirstBadSteps

NAN, FINE = torch.tensor(float("nan")), torch.tensor(1.0)


def test_nothing_is_told_where_all_was_finite():
    steps = FirstBadSteps()
    assert steps.first() is None
    steps.note(0, {"loss": FINE, "norm": FINE})
    assert steps.first() is None


@pytest.mark.parametrize("step", [0, 7, 2**24 + 1, 10**9])  # floats would tell the third as its neighbor
def test_the_first_step_is_told_with_what_was_bad_in_it(step):
    steps = FirstBadSteps()
    steps.note(step, {"loss": FINE, "norm": NAN})
    steps.note(step + 1, {"loss": NAN, "norm": NAN})
    steps.note(step + 2, {"weight": torch.tensor(float("inf"))})
    assert steps.first() == (step, ["norm"])
