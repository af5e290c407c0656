"""A file that may not grow any further: what was there before stays, and nothing half-written does."""

import os
import resource

import numpy as np
import pytest
import torch
from torch import nn

from ssl_rs.data.array_writer import SceneFiles
from ssl_rs.files import write_text
from ssl_rs.run_directory import read_metadata, save_tensors
from ssl_rs.training.state import Identity, Progress, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def small_files():
    """Let no file grow beyond 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, small_files):
    network, identity, device = nn.Linear(100, 100), Identity("hash", 1, "fp32"), torch.device("cpu")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, network, optimizer, Progress(1), identity, device)
    small_files()
    with pytest.raises(OSError, match=r"step-00000002\.ckpt") as caught:
        save_checkpoint(folder, network, optimizer, Progress(2), identity, device)
    assert caught.value.strerror == "cannot be written: File too large"
    assert os.listdir(folder) == ["step-00000001.ckpt"]
    assert load_checkpoint(folder, network, optimizer, identity, device).step == 1


def test_texts_and_tensors_that_do_not_fit_leave_what_was_there(tmp_path, small_files):
    write_text(tmp_path / "page.html", "old")
    save_tensors(tmp_path / "w.safetensors", {"a": torch.ones(3)}, {"key": "old"})
    small_files()
    with pytest.raises(OSError, match=r"page\.html"):
        write_text(tmp_path / "page.html", "x" * 10_000)
    with pytest.raises(OSError, match=r"w\.safetensors"):
        save_tensors(tmp_path / "w.safetensors", {"a": torch.ones(3000)}, {"key": "new"})
    assert (tmp_path / "page.html").read_text() == "old"
    assert read_metadata(tmp_path / "w.safetensors") == {"key": "old"}
    assert sorted(os.listdir(tmp_path)) == ["page.html", "w.safetensors"]


def test_an_array_of_a_store_that_does_not_fit_leaves_nothing(tmp_path, small_files):
    def write():
        with SceneFiles(tmp_path, 3, 100) as files:
            files.write("mask", 0, np.zeros((100, 10), np.uint8))
            files.write("image", 0, np.zeros((1, 100, 100), np.uint8))
            files.finish()

    small_files()
    with pytest.raises(OSError, match=r"00003_image\.npy"):
        write()
    assert [name for name in os.listdir(tmp_path) if "image" in name or "partial" in name] == []
