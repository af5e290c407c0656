import json
import subprocess
import sys

import pytest

from ssl_rs.training.host_memory import keep_freed_memory

# Blocks above glibc's largest threshold of 32 MB, below which it keeps freed memory by itself.
FAULTS = """
import json, resource, sys
import numpy as np
from ssl_rs.training.host_memory import keep_freed_memory

taken = sys.argv[1] == "keep" and keep_freed_memory()
np.ones(6_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(6_000_000)
print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def faults(mode):
    run = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_freed_memory_is_used_again_without_page_faults():
    _, given_back = faults("give back")
    taken, kept = faults("keep")
    if not taken:
        pytest.skip("this system's allocator has no mallopt")
    assert 10 * kept < given_back


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
