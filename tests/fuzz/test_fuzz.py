"""A few of the cases that scripts/fuzz.py tries for long; the same ones in every run of the suite."""

import config_cases
import pytest
import reader_cases
import store_cases
from damage import seeded
from hypothesis import given

FUZZ = {
    f"{kind}.{name}": fuzz
    for kind, module in (("config", config_cases), ("readers", reader_cases), ("store", store_cases))
    for name, fuzz in module.FUZZ.items()
}


@pytest.mark.parametrize("name", FUZZ)
def test_odd_input_ends_in_a_message(name):
    fuzz = FUZZ[name]

    @seeded(fuzz.examples)
    @given(fuzz.cases)
    def check(case):
        fuzz.check(case)

    check()
