"""What only a GPU can show."""

import json

import pytest
import torch

from ssl_rs.benchmarks.step import Step
from ssl_rs.command import main
from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.data.ahead import copied_ahead
from ssl_rs.data.cutting import Place, ResidentScenes
from ssl_rs.data.sampling import SceneCrops, batches
from ssl_rs.randomness import Rows
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages.pretraining import read_plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


def plan_of(*arguments):
    return read_plan(Settings("pretrain", resolve(compose_config("pretrain", arguments))))


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_step_waits_for_nothing_on_the_device(tiny, resident):
    step = Step(plan_of(*tiny, f"trainer.resident={resident}"))
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
    ahead = list(copied_ahead(batches(source, 0, 5, Rows(0, 4, 4), 1), torch.device("cuda")))
    for copied, read in zip(ahead, batches(source, 0, 5, Rows(0, 4, 4), 0), strict=True):
        assert copied.images.is_cuda
        assert torch.equal(copied.images.cpu(), read.images)
        assert copied.valid is None


def test_a_deterministic_run_repeats_bit_for_bit(tiny, tmp_path):
    found = []
    for name in ("a", "b"):
        arguments = (*tiny, "trainer=deterministic", "trainer.max_steps=8", f"run_dir={tmp_path / name}")
        assert main("pretrain", arguments) == 0
        found.append(RunDirectory(tmp_path / name).encoder.read_bytes())
    assert found[0] == found[1]


def test_bf16_and_compile_run(tiny, tmp_path):
    arguments = (*tiny, "trainer.precision=bf16", "trainer.compile=true", f"run_dir={tmp_path / 'run'}")
    assert main("pretrain", arguments) == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["precision"] == "bf16"
