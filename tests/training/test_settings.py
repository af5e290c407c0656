"""Settings of the loop: ranges, devices, precision, exactness."""

import warnings
from contextlib import suppress

import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.training import settings
from ssl_rs.training.settings import TrainerSettings, computes_bf16, exactness

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_steps", 0),
        ("max_steps", 10**9 + 1),
        ("batch_size", 1),
        ("batch_size", 2**16 + 2),
        ("checkpoint_every_steps", 0),
        ("log_every_steps", -1),
        ("num_workers", -1),
        ("gradient_clip", 0.0),
        ("gradient_clip", -1.0),
        ("encoder_lr_factor", -0.1),
        ("encoder_lr_factor", float("nan")),
        ("encoder_lr_factor", float("inf")),
    ],
)
def test_values_out_of_range_name_their_key(key, value):
    with pytest.raises(InputError, match=rf"trainer\.{key} must be .*got {value}"):
        TrainerSettings(**{"max_steps": 1, "batch_size": 2, key: value})


def test_the_least_values_are_good():
    least = TrainerSettings(
        1, 2, num_workers=0, checkpoint_every_steps=1, log_every_steps=1, gradient_clip=None, encoder_lr_factor=0.0
    )
    assert (least.max_steps, least.batch_size) == (1, 2)


@pytest.mark.parametrize(("device", "gpu", "on_cpu"), [
    ("cpu", True, True), ("auto", True, False), ("auto", False, True), ("mps", False, False), ("cuda:1", True, False),
    ("cpu:0", True, True),
])  # fmt: skip
def test_it_is_known_without_opening_a_device_whether_a_cpu_computes(monkeypatch, device, gpu, on_cpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert TrainerSettings(1, 2, device=device).computes_on_cpu == on_cpu


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "", "mps", "cpu:x"])
def test_a_device_that_is_not_here_is_named(name):
    with pytest.raises(InputError, match=f"trainer.device={name} cannot be used here: .+"):
        TrainerSettings(1, 2, device=name).resolve_device(0)


def test_a_gpu_that_a_rank_lacks_is_named(monkeypatch):
    """Eight processes on a machine with four GPUs."""

    def four(size, device):
        if device.index >= 4:
            raise RuntimeError("CUDA error: invalid device ordinal")

    monkeypatch.setattr(torch, "empty", four)
    assert TrainerSettings(1, 2, device="cuda").resolve_device(3) == torch.device("cuda", 3)
    with pytest.raises(InputError, match=r"cuda, cuda:4 for local rank 4, cannot be used here: CUDA error: invalid"):
        TrainerSettings(1, 2, device="cuda").resolve_device(4)


def test_a_device_that_holds_no_values_is_refused():
    with pytest.raises(InputError, match=r"trainer\.device=meta cannot be used here: it holds no values"):
        TrainerSettings(1, 2, device="meta").resolve_device(0)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TrainerSettings(1, 2).resolve_device(0) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    assert TrainerSettings(1, 2).resolve_device(3) == torch.device("cuda", 3)
    assert TrainerSettings(1, 2, device="cuda:1").resolve_device(3) == torch.device("cuda", 1)
    with pytest.raises(InputError, match=r"trainer\.device=cuda:1 puts all 2 processes of this machine on one GPU"):
        TrainerSettings(1, 2, device="cuda:1").resolve_device(1, 2)
    assert TrainerSettings(1, 2, device="cpu").resolve_device(3, 4) == CPU


@pytest.mark.parametrize(
    ("given", "device", "cores", "processes", "expected"),
    [
        (None, "cpu", 16, 1, 0), (None, "cuda", 16, 1, 4), (None, "cuda", 16, 8, 1), (None, "cuda", 2, 4, 0),
        (0, "cuda", 16, 1, 0), (7, "cpu", 2, 1, 7),
    ],
)  # fmt: skip
def test_readers_take_their_share_of_the_cores_beside_a_gpu(monkeypatch, given, device, cores, processes, expected):
    monkeypatch.setattr(settings, "usable_cores", lambda: cores)
    found = TrainerSettings(1, 2, num_workers=given).resolve_workers(torch.device(device), processes, 0)
    assert found == expected


@pytest.mark.parametrize(("given", "processes", "told"), [(2, 1, False), (3, 1, True), (1, 2, False), (2, 2, True)])
def test_more_readers_than_cores_are_told(monkeypatch, given, processes, told):
    monkeypatch.setattr(settings, "usable_cores", lambda: 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        TrainerSettings(1, 2, num_workers=given).resolve_workers(CPU, processes, 0)
    assert [f"num_workers={given}: these processes share 2 cores" in str(each.message) for each in said] == [
        True
    ] * told


@pytest.mark.parametrize(("given", "size", "expected"), [(None, 50, 0), (None, 51, 1), (0, 10**6, 0), (2, 0, 2)])
def test_beside_a_cpu_one_reads_ahead_where_the_scenes_exceed_half_of_the_memory(monkeypatch, given, size, expected):
    monkeypatch.setattr(settings, "memory_of_machine", lambda: 100)
    assert TrainerSettings(1, 2, num_workers=given).resolve_workers(CPU, 1, size) == expected


@pytest.mark.parametrize(("avx", "amx"), [(False, False), (True, False), (False, True)])
def test_auto_takes_bf16_where_the_device_computes_in_it(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert computes_bf16(CPU) == (avx or amx)
    assert TrainerSettings(1, 2).resolve_precision(CPU) == ("bf16" if avx or amx else "fp32")
    for precision in ("bf16", "fp32"):
        assert TrainerSettings(1, 2, precision=precision).resolve_precision(CPU) == precision


@pytest.mark.parametrize(("capability", "good"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_compute_bf16_from_ampere_on(monkeypatch, capability, good):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_bf16(torch.device("cuda", 0)) == good
    assert not computes_bf16(torch.device("mps"))


@pytest.mark.parametrize(("before", "only_warned"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("deterministic", [True, False])
def test_exactness_ends_with_its_block(before, only_warned, deterministic):
    torch.use_deterministic_algorithms(before, warn_only=only_warned)
    benchmark = torch.backends.cudnn.benchmark
    try:
        with suppress(KeyError), exactness(deterministic):
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.backends.cudnn.benchmark != deterministic
            raise KeyError
        assert torch.are_deterministic_algorithms_enabled() == before
        assert torch.is_deterministic_algorithms_warn_only_enabled() == only_warned
        assert torch.backends.cudnn.benchmark == benchmark
    finally:
        torch.use_deterministic_algorithms(False)
