"""What only a GPU can show."""

import copy
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from ssl_rs.benchmarks.step import Step
from ssl_rs.command import main
from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.data.cutting import Place, ResidentScenes
from ssl_rs.data.gpu_prefetch import copied_ahead
from ssl_rs.data.sampling import batches
from ssl_rs.data.scene_crops import SceneCrops
from ssl_rs.randomness import Rows, seed_step
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.sliding_window import WindowSettings, predict_scene
from ssl_rs.stages.pretraining_plan import read_plan
from ssl_rs.training import loop
from ssl_rs.training import step as training_step
from ssl_rs.training.cuda_graph import Replayed, replayed_or_not
from ssl_rs.training.step import take_step
from ssl_rs.views.base import crop_view, make_views

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

RESNET = "backbone=resnet18"
"""The default: what is promised of a GPU is looked at with its layers."""


class Noting(torch.nn.Linear):
    """Keeps what it saw, as the network of pretraining does for the measures of collapse."""

    def __init__(self):
        super().__init__(3, 2)
        self.seen = None

    def forward(self, images):
        self.seen = 2 * images
        return super().forward(images)


def plan_of(*arguments):
    return read_plan(Settings("pretrain", resolve(compose_config("pretrain", arguments))))


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_step_waits_for_nothing_on_the_device(tiny, resident):
    step = Step(plan_of(*tiny, RESNET, f"trainer.resident={resident}"))
    step.whole()  # constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step.whole()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_crops_cut_on_the_device_are_those_of_the_maps(tiny):
    store = plan_of(*tiny).site.store
    where = [Place(0, -5, 70), Place(2, 10, 3)]
    on_gpu, on_cpu = (ResidentScenes(store, [0, 2], ["image"], torch.device(name)) for name in ("cuda", "cpu"))
    assert torch.equal(on_gpu.cut("image", where, 32).cpu(), on_cpu.cut("image", where, 32))


def test_batches_that_are_copied_ahead_are_those_that_were_read(tiny):
    site = plan_of(*tiny).site
    source = SceneCrops(site.store, ("train",), 32, 0)
    ahead = list(copied_ahead(batches(source, 0, 5, Rows(0, 4, 4), 1, pinned=True), torch.device("cuda")))
    for copied, read in zip(ahead, batches(source, 0, 5, Rows(0, 4, 4), 0), strict=True):
        assert copied.images.is_cuda
        assert torch.equal(copied.images.cpu(), read.images)
        assert copied.valid is None


def test_a_deterministic_run_repeats_bit_for_bit(tiny, tmp_path):
    found = []
    for name in ("a", "b"):
        arguments = (*tiny, RESNET, "trainer=deterministic", "trainer.max_steps=8", f"run_dir={tmp_path / name}")
        assert main("pretrain", arguments) == 0
        found.append(RunDirectory(tmp_path / name).encoder.read_bytes())
    assert found[0] == found[1]


@pytest.fixture
def recordings(monkeypatch):
    """What each run made of its step, in order: `Replayed` where it was recorded."""
    made = []

    def noted(*given):
        made.append(replayed_or_not(*given))
        return made[-1]

    monkeypatch.setattr(training_step, "replayed_or_not", noted)
    return made


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("pretrain", ()),
        ("pretrain", ("pretext=[moco_v2,inpainting]", "trainer.gradient_accumulation=2")),
        ("pretrain", ("pretext=[byol]", "trainer.gradient_clip=1.0", "trainer.max_skipped_steps=2")),
        ("pretrain", ("pretext=[vicreg,dense_contrastive]",)),
        ("finetune", ("augmentation=flip_rotate",)),
    ],
)
def test_a_recorded_step_leaves_the_weights_of_the_same_operations_one_by_one(
    tiny, tmp_path, recordings, command, given
):
    found = []
    for recorded in ("auto", "never"):
        run = RunDirectory(tmp_path / recorded)
        arguments = (*tiny, RESNET, *given, "trainer=deterministic", "trainer.max_steps=6", f"run_dir={run.path}")
        assert main(command, (*arguments, f"trainer.cuda_graph={recorded}")) == 0
        found.append((run.encoder if command == "pretrain" else run.model).read_bytes())
    assert [type(each) for each in recordings] == [Replayed]  # of the first run, not of the second
    assert hasattr(recordings[0].batch, "numbers")  # views and augmentation are in the recording
    assert found[0] == found[1]


def test_what_waits_for_the_device_is_not_recorded_and_runs_all_the_same():
    network = torch.nn.Linear(3, 2).cuda()

    def work(batch):
        loss = network(batch["images"]).sum()
        loss.item()
        loss.backward()
        return {"loss": loss.detach()}

    with pytest.warns(UserWarning, match="cannot be recorded.*trainer.cuda_graph=never"):
        found = replayed_or_not(work, network, lambda: {"images": torch.ones(4, 3, device="cuda")})
    assert found is work
    found({"images": torch.ones(4, 3, device="cuda")})
    assert torch.equal(network.weight.grad, torch.full((2, 3), 4.0, device="cuda"))


def test_what_modules_note_is_of_the_last_batch_also_after_one_without_the_recording():
    network = Noting().cuda()

    def work(batch):
        loss = network(batch["images"]).sum()
        loss.backward()
        return {"loss": loss.detach()}

    replayed = Replayed(work, network, lambda: {"images": torch.ones(4, 3, device="cuda")})
    for size in (4, 5, 4):
        images = torch.rand(size, 3, device="cuda")
        replayed({"images": images})
        network.zero_grad()
        assert torch.equal(network.seen, 2 * images)


FAILS_IN_THE_RECORDING = """
import torch
from ssl_rs.errors import SpentProcessError
from ssl_rs.training.cuda_graph import replayed_or_not
network = torch.nn.Linear(3, 2).cuda()

def work(batch):
    torch.cuda.synchronize()
    return {"loss": network(batch["images"]).sum()}

try:
    replayed_or_not(work, network, lambda: {"images": torch.ones(4, 3, device="cuda")})
except SpentProcessError as error:
    print(error)
"""


def test_what_fails_in_the_recording_is_named():
    done = subprocess.run([sys.executable, "-c", FAILS_IN_THE_RECORDING], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("The step could not be recorded as a CUDA graph: "), done.stderr
    assert "not permitted when stream is capturing" in done.stdout
    assert "previous error during capture" not in done.stdout


def test_a_batch_of_another_shape_is_worked_on_without_the_recording():
    network = torch.nn.Linear(3, 2).cuda()

    def work(batch):
        loss = network(batch).sum()
        loss.backward()
        return {"loss": loss.detach()}

    replayed = replayed_or_not(work, network, lambda: torch.ones(4, 3, device="cuda"))
    assert isinstance(replayed, Replayed)
    for rows in (4, 7, 4):
        replayed(torch.ones(rows, 3, device="cuda"))
        assert torch.equal(network.weight.grad, torch.full((2, 3), float(rows), device="cuda"))
        network.zero_grad()


def test_dropout_of_a_recording_draws_what_it_draws_without_one():
    network = torch.nn.Linear(64, 64).cuda()

    def work(batch):
        loss = torch.nn.functional.dropout(network(batch), 0.5).sum()
        loss.backward()
        return {"loss": loss.detach()}

    replayed = replayed_or_not(work, network, lambda: torch.ones(8, 64, device="cuda"))
    assert isinstance(replayed, Replayed)
    for step in range(3):
        found = []
        for way in (replayed, work):
            seed_step(0, step, 0)
            way(torch.full((8, 64), step + 1.0, device="cuda"))
            found.append(network.weight.grad.clone())
            network.zero_grad()
        assert torch.equal(*found)


def test_a_recorded_step_resumes_as_one_that_was_not_stopped(tiny, tmp_path, monkeypatch, recordings):
    given = (*tiny, RESNET, "trainer=deterministic", "trainer.max_steps=8", "trainer.checkpoint_every_steps=3")
    whole, parts = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "parts")
    assert main("pretrain", (*given, f"run_dir={whole.path}")) == 0

    def interrupted(backward, crops, job, progress, bad_steps):
        take_step(backward, crops, job, progress, bad_steps)
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "take_step", interrupted)
        assert main("pretrain", (*given, f"run_dir={parts.path}")) != 0
    assert not parts.encoder.exists()
    assert main("pretrain", (*given, f"run_dir={parts.path}")) == 0
    assert [type(each) for each in recordings] == [Replayed] * 3
    assert parts.encoder.read_bytes() == whole.encoder.read_bytes()


@pytest.mark.parametrize("views", ["clean,transformed,corrupted", "clean,masked", "simclr,byol"])
def test_views_made_on_the_device_are_those_of_the_cpu(tiny, views):
    settings = Settings("pretrain", resolve(compose_config("pretrain", [*tiny, f"views=[{views}]"])))
    makers = {name: settings.build(f"views.{name}") for name in settings.names("views")}
    image = torch.rand(6, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(6, 1, 48, 48, generator=torch.Generator().manual_seed(1)) > 0.1
    rows = Rows(0, 6, 6)
    for known in (None, valid):
        made = [
            make_views(
                crop_view(image.to(name), (0, 1, 2), None if known is None else known.to(name)),
                makers, seed=1, step=2, rows=rows,
            )
            for name in ("cuda", "cpu")
        ]  # fmt: skip
        for name in makers:
            close = (made[0][name].image.cpu() - made[1][name].image).abs() < 1e-4
            assert close.float().mean() > 0.999  # a pixel at the border of two may round to the other
            torch.testing.assert_close(made[0][name].geometry.cpu(), made[1][name].geometry)


def test_maps_on_the_device_are_those_of_the_cpu():
    scene = np.random.default_rng(0).integers(0, 255, (3, 90, 70), dtype=np.uint8)
    network = torch.nn.Conv2d(3, 4, 5, padding=2)

    def found(name):
        moved = copy.deepcopy(network).to(name)
        settings = WindowSettings(size=32, overlap=0.3, batch_size=4)
        return predict_scene(lambda images: moved(images) * 20, scene, 255.0, settings, torch.device(name))

    assert (found("cuda") == found("cpu")).mean() > 0.999


def test_bf16_and_compile_run(tiny, tmp_path, recwarn, recordings):
    arguments = (*tiny, RESNET, "trainer.precision=bf16", "trainer.compile=true", f"run_dir={tmp_path / 'run'}")
    assert main("pretrain", arguments) == 0
    assert not [each for each in recwarn if "does not work here" in str(each.message)]
    assert [type(each) for each in recordings] == [Replayed]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == "bf16"
