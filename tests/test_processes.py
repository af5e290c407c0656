"""What launchers say of a process, and what none would say."""

import pytest
import torch

from ssl_rs.distributed import Processes, start
from ssl_rs.errors import InputError

MEET = {"MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set, where the processes meet"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}, "MASTER_PORT is not set"),
        ({"RANK": "abc"}, "RANK is no whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is no whole number"),
        ({"RANK": "1"}, "RANK counts from 0 and must be below WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "RANK counts from 0"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK counts from 0 and must be below the number"),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2", **MEET}, "LOCAL_RANK counts from 0"),
        ({"WORLD_SIZE": "2", "RANK": "2", **MEET}, "RANK counts from 0"),
    ],
)
def test_what_no_launcher_says_is_refused(monkeypatch, variables, said):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(InputError, match=rf"The environment says .*: {said}.* Start with torchrun, .* or unset"):
        start(Processes.from_environment(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Processes()),
        (  # torchrun, the second of two machines
            {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MEET}, Processes(3, 4, 1, 2)
        ),
        (  # srun or mpirun, whose numbers a script gives these names
            {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", **MEET}, Processes(3, 4, 3, 1)
        ),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Processes()),
    ],
)  # fmt: skip
def test_what_launchers_say_is_heard(monkeypatch, variables, expected):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert Processes.from_environment() == expected
