import json
import platform
import subprocess
import sys

import pytest

from ssl_rs.stages import site
from ssl_rs.training.host_memory import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"
# Twice 3 GB in blocks above glibc's largest threshold of 32 MB, below which it keeps freed memory by itself.
FAULTS = """
import json, resource, sys
import numpy as np
from ssl_rs.training.host_memory import keep_freed_memory

taken = sys.argv[1] == "keep" and keep_freed_memory()
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(12_000_000) for _ in range(30)]
    del blocks
print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def faults(mode):
    run = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator has mallopt")
def test_freed_memory_is_used_again_without_page_faults():
    _, given_back = faults("give back")
    taken, kept = faults("keep")
    assert taken
    assert 10 * kept < given_back


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
@pytest.mark.parametrize("keep", [True, False])
def test_training_keeps_memory_unless_told_otherwise(command, tiny, monkeypatch, name, keep):
    asked = []
    monkeypatch.setattr(site, "keep_freed_memory", lambda: asked.append(True))
    code, _, errors = command(name, *tiny, "trainer.max_steps=1", f"trainer.keep_memory={keep}")
    assert code == 0, errors
    assert asked == [True] * keep
