"""Batches in the order of steps, on any number of processes."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch

from ssl_rs.data.label_subset import LabelFraction, choose_labels
from ssl_rs.data.sampling import batches, to_unit
from ssl_rs.data.scene_crops import Crops, SceneCrops
from ssl_rs.data.tile_crops import TileCrops
from ssl_rs.randomness import Rows

ALL = Rows(0, 6, 6)


@pytest.mark.parametrize("kind", ["scenes", "tiles"])
def test_two_ranks_see_what_one_process_sees(make_store, kind):
    store = make_store({"a": ("train", 20, 30), "b": ("train", 33, 9)})
    if kind == "scenes":
        source = SceneCrops(store, ("train",), 8, seed=3)
    else:
        source = TileCrops(store, choose_labels(store, 8, LabelFraction(1.0, "tile"), 0), 8, 0.25, seed=3)
    for step in (0, 7):
        whole = source.batch(step, ALL)
        parts = [source.batch(step, Rows.of_rank(rank, 2, 3)) for rank in range(2)]
        for place, tensor in enumerate(whole):
            if tensor is not None:  # nothing is invalid
                assert torch.equal(tensor, torch.cat([part[place] for part in parts]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_hand_over_the_validity(with_nodata, tmp_path, num_workers):
    valid = np.random.default_rng(0).random((30, 30)) > 0.3
    source = SceneCrops(with_nodata(tmp_path / "stores", (valid, "train")), ("train",), 8, seed=0)
    for step, found in enumerate(batches(source, 0, 3, ALL, num_workers)):
        expected = source.batch(step, ALL)
        assert isinstance(found, Crops)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.valid, expected.valid)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_for_any_number_of_workers(make_store, num_workers):
    store = make_store({"a": ("train", 24, 40)})
    tiles = TileCrops(store, choose_labels(store, 8, LabelFraction(1.0, "tile"), 0), 8, 0.25, seed=0)
    state = torch.get_rng_state()
    found = list(batches(tiles, 3, 8, Rows(1, 3, 6), num_workers))
    assert torch.equal(torch.get_rng_state(), state)  # nothing else draws
    assert len(found) == 5
    for step, (images, masks) in zip(range(3, 8), found, strict=True):
        expected = tiles.batch(step, Rows(1, 3, 6))
        assert torch.equal(images, expected[0])
        assert torch.equal(masks, expected[1])
    crops = SceneCrops(store, ("train",), 8, seed=0)
    assert torch.equal(next(batches(crops, 4, 9, ALL, num_workers)).images, crops.batch(4, ALL).images)


def test_torch_does_not_warn_of_more_workers_than_cores(make_store, monkeypatch, recwarn):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    crops = SceneCrops(make_store({"a": ("train", 24, 40)}), ("train",), 8, seed=0)
    assert torch.equal(next(batches(crops, 0, 1, ALL, 2)).images, crops.batch(0, ALL).images)
    assert not [each for each in recwarn if "DataLoader" in str(each.message)]


class Stale:
    """A source whose files lie on a mount that is gone."""

    def __init__(self, error):
        self.error = error

    def batch(self, step, rows):
        raise self.error


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_system_arrives_whole(num_workers):
    error = OSError(errno.ESTALE, "Stale file handle", "/mount/image.npy")
    with pytest.raises(OSError, match="Stale file handle") as told:
        next(batches(Stale(error), 0, 2, ALL, num_workers))
    assert (told.value.errno, told.value.filename) == (errno.ESTALE, "/mount/image.npy")


@pytest.mark.slow
@pytest.mark.parametrize("error", ["OSError(5, 'Input/output error')", "KeyError('a defect')"])
def test_after_an_error_of_a_worker_python_ends(error):
    """It waits for its processes, which leave SIGTERM to the parent."""
    code = f"""
from ssl_rs.data.sampling import batches
from ssl_rs.randomness import Rows

class Broken:
    def batch(self, step, rows):
        raise {error}

try:
    list(batches(Broken(), 0, 2, Rows(0, 1, 1), 1))
except Exception as error:
    print(type(error).__name__)
"""
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == error.partition("(")[0], done.stderr


def test_to_unit_scales_and_clips():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_unit(images, 255.0).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit(images, 102.0).tolist() == pytest.approx([0, 0.5, 1])
    assert to_unit(torch.tensor([-1.0, 0.5]), 2.0).tolist() == [0, 0.25]
    assert images.tolist() == [0, 51, 255]
