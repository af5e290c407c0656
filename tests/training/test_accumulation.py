"""A step in parts: the parts of a batch, and the gradient they leave together."""

import dataclasses
from contextlib import nullcontext

import pytest
import torch

from ssl_rs import distributed
from ssl_rs.data.scene_crops import Crops
from ssl_rs.errors import InputError
from ssl_rs.randomness import derive_seed
from ssl_rs.training.accumulation import in_parts
from ssl_rs.training.loop import train
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.views.base import CorruptedView, View, crop_view
from tests.training.test_loop import SEED, STEPS, WEIGHTS, Recorder, crop, fresh, job

IMAGES = torch.arange(6 * 3 * 2 * 2, dtype=torch.float32).view(6, 3, 2, 2)


def test_the_parts_of_a_batch_together_are_the_batch():
    plain = crop_view(IMAGES, rgb=(0, 1, 2), valid=IMAGES[:, :1] > 5)
    views = {"clean": plain, "corrupted": CorruptedView(IMAGES, plain.geometry, IMAGES + 1, IMAGES + 2)}
    parts = list(in_parts((views, Crops(IMAGES, None)), 3))
    assert len(parts) == 3
    for number, (part, crops) in enumerate(parts):
        rows = slice(2 * number, 2 * number + 2)
        assert isinstance(crops, Crops)
        assert torch.equal(crops.images, IMAGES[rows])
        assert crops.valid is None
        assert type(part["clean"]) is View
        assert part["clean"].rgb == (0, 1, 2)
        assert torch.equal(part["clean"].valid, plain.valid[rows])
        assert type(part["corrupted"]) is CorruptedView
        assert torch.equal(part["corrupted"].weight, IMAGES[rows] + 2)
    assert next(in_parts(views, 1)) is views


def test_the_gradient_is_the_mean_over_the_parts(tmp_path):
    network, optimizer = fresh()
    schedule = job(tmp_path / "schedule").schedule
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.1 * schedule(step, STEPS)
        stored = crop(step) + step / 10
        torch.manual_seed(derive_seed(SEED, step, "rank", 0))
        for rows in (slice(0, 2), slice(2, 4)):
            outputs = network(stored[rows])
            (sum(WEIGHTS[name] * output.loss for name, output in outputs.items()) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    own, tracker = job(tmp_path / "own", gradient_accumulation=2), Recorder()
    train(own, lambda: tracker)
    assert own.settings.gradient_accumulation == 2
    for name, value in own.network.state_dict().items():
        assert torch.allclose(value, network.state_dict()[name], atol=1e-6), name
    whole = job(tmp_path / "whole")
    lines = Recorder()
    train(whole, lambda: lines)
    assert tracker.lines[0].keys() == lines.lines[0].keys()


@pytest.mark.parametrize(("batch", "parts"), [(4, 3), (4, 4), (6, 0), (2, 2)])
def test_parts_that_do_not_fit_are_refused(batch, parts):
    with pytest.raises(InputError, match=r"trainer\.gradient_accumulation"):
        TrainerSettings(1, batch, gradient_accumulation=parts)


def test_a_run_in_parts_that_was_stopped_goes_on_exactly(tmp_path):
    whole = job(tmp_path / "whole", gradient_accumulation=2)
    train(whole, Recorder)
    halves = tmp_path / "halves"

    def dying(stored, step):
        if step == 7:
            raise KeyboardInterrupt
        return stored + step / 10

    with pytest.raises(KeyboardInterrupt):
        train(job(halves, gradient_accumulation=2, make_batch=dying), Recorder)
    again = dataclasses.replace(job(halves, gradient_accumulation=2), seed=SEED)
    train(again, Recorder)
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[name]), name


def test_gradients_travel_between_ranks_with_the_last_part_alone(tmp_path, monkeypatch):
    stayed = []
    monkeypatch.setattr(distributed, "gradients_stay", lambda module, here: stayed.append(here) or nullcontext())
    train(job(tmp_path, gradient_accumulation=2, max_steps=2), Recorder)
    assert stayed == [True, False, True, False]
