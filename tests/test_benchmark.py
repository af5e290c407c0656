"""The benchmark command: what it writes down is whole and fits together. No time is judged here."""

import json
import mmap
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ssl_rs.benchmarks import augmentation, benchmarking, data, step, window
from ssl_rs.benchmarks.augmentation import COLOR, SIDE, fused, kornia_chain, torchvision_chain
from ssl_rs.benchmarks.base import Phases, alternate, caveat
from ssl_rs.benchmarks.benchmarking import as_text
from ssl_rs.benchmarks.step import CHANGES, PHASES, advice, bottleneck
from ssl_rs.command import main
from ssl_rs.data.cutting import ResidentScenes
from ssl_rs.data.sampling import READ_AHEAD
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.training.accumulation import in_parts
from ssl_rs.views.base import crop_view
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.transformed import TransformedMaker

CPU = torch.device("cpu")
QUICK = ("benchmark.repeats=1", "benchmark.calls=1", "trainer.device=cpu", "trainer.batch_size=2")


@pytest.fixture
def measured(tiny, tmp_path, capsys):
    """Run the command and return benchmark.json and what was printed."""

    def run(*arguments):
        assert main("benchmark", [*tiny, *QUICK, f"output_dir={tmp_path}", *arguments]) == 0
        said = capsys.readouterr().out
        path = said.strip().splitlines()[-1]
        assert path.startswith(str(tmp_path / "benchmark"))
        with open(path) as file:
            return json.load(file), said

    return run


def test_what_is_no_benchmark_is_refused_before_it_measures(command, tiny, tmp_path, monkeypatch):
    (tmp_path / "own_benchmark.py").write_text("def measure(workplace):\n    raise AssertionError('it ran')\n")
    (tmp_path / "own/benchmark").mkdir(parents=True)
    (tmp_path / "own/benchmark/mine.yaml").write_text("_target_: own_benchmark.measure\n_partial_: true\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ("--config-dir", str(tmp_path / "own"), "benchmark=mine", "trusted_packages=[own_benchmark]")
    code, _, err = command("benchmark", *own, *tiny, "trainer.device=cpu")
    assert (code, err.strip().splitlines()[-1]) == (
        2, "benchmark._target_=own_benchmark.measure: expected an object with `repeats`, its number of turns."
    )  # fmt: skip


def test_the_parts_of_a_step_and_its_bounds(measured):
    found, said = measured("pretext=[inpainting,contrastive]")
    assert set(found["milliseconds"]) == set(PHASES)
    assert all(value >= 0 for value in found["milliseconds"].values())
    assert found["views"] == ["corrupted", "clean", "transformed"]
    assert found["images_per_second"] == pytest.approx(3 * found["triplets_per_second"], rel=0.01)
    whole, network, encoder = (
        found["triplets_per_second"], found["bare_network"]["triplets_per_second"],
        found["bare_encoder"]["triplets_per_second"],
    )  # fmt: skip
    assert found["step_over_network"] == pytest.approx(whole / network, rel=0.01)
    assert found["step_over_encoder"] == pytest.approx(whole / encoder, rel=0.01)
    total = sum(found["milliseconds"].values())
    assert found["augmentation_share"] == pytest.approx(found["milliseconds"]["views"] / total, abs=0.01)
    assert found["data_wait_share"] == pytest.approx(found["milliseconds"]["data wait"] / total, abs=0.01)
    assert set(found["parameters"]) == {"encoder", "inpainting", "contrastive"}
    assert found["peak_memory_mb"] > 100
    assert found["environment"]["torch"] == str(torch.__version__)
    assert found["sentence"] in said
    assert found["sentence"].endswith(
        "A trial, not a measurement: benchmark.repeats=1 (below 5), trainer.batch_size=2 (below 16)."
    )


def test_the_encoder_sees_images_in_the_parts_of_a_step_in_all_that_is_measured(measured, monkeypatch):
    sizes, alternated = [], step.alternate

    def alternate(subjects, *others):
        encoder = subjects["step"].__self__.network.encoder
        encoder.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
        return alternated(subjects, *others)

    monkeypatch.setattr(step, "alternate", alternate)
    found, _ = measured("pretext=[contrastive]", "trainer.batch_size=4", "trainer.gradient_accumulation=2")
    assert set(sizes) == {2 * len(found["views"])}
    assert len(sizes) >= 2 * 4  # two parts of each of the four


def test_it_is_measured_with_the_kernels_and_in_the_mode_of_the_loop(measured, monkeypatch):
    seen, whole = [], step.Step.whole

    def watched(self):
        seen.append(
            (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, self.network.training)
        )
        whole(self)

    monkeypatch.setattr(step.Step, "whole", watched)
    measured("pretext=[contrastive]", "trainer=deterministic")
    assert set(seen) == {(True, False, True)}
    seen.clear()
    measured("pretext=[contrastive]")
    assert set(seen) == {(False, True, True)}


def test_other_settings_are_kept_in_another_file_and_the_same_in_the_same(measured):
    def path(*arguments):
        _, said = measured("benchmark=augmentation", *arguments)
        return said.strip().splitlines()[-1]

    first = path()
    assert path() == first
    assert path("trainer.keep_memory=false") != first


def test_what_is_repeated_often_enough_and_large_enough_is_no_trial():
    assert caveat(5, 16) == ""
    assert caveat(4, 16) == " A trial, not a measurement: benchmark.repeats=4 (below 5)."


def test_augmentation(measured, monkeypatch):
    compiled = []
    monkeypatch.setattr(augmentation, "fused", lambda images, choice: compiled.append(choice) or fused(images))
    found, _ = measured("benchmark=augmentation", "trainer.compile=true")
    assert compiled == [True]
    assert set(found["milliseconds"]) == {"fused", "kornia", "torchvision"}
    assert found["times_faster_than"]["kornia"] == pytest.approx(
        found["milliseconds"]["kornia"] / found["milliseconds"]["fused"], rel=0.05
    )


def test_the_fused_way_is_the_view_that_pretraining_makes():
    images = torch.rand(3, 3, 16, 16)
    draws = Draws(0, 1, "transformed", Rows(0, 3, 3))
    expected = TransformedMaker("crop", SIDE, COLOR)(crop_view(images, (0, 1, 2)), draws).image
    way = fused(images)
    assert torch.equal(way(), expected)
    assert not torch.equal(way(), expected)  # each draws anew


@pytest.mark.slow
def test_the_fused_way_may_be_compiled():
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(fused(images, compiled=True)(), fused(images)(), atol=1e-5, rtol=0)


def test_readers_and_growing_stores(measured, monkeypatch):
    readers, used_up, read = [], [], data.batches

    def batches(source, start, stop, rows, num_workers, **more):
        readers.append((num_workers, isinstance(source.cutter, ResidentScenes)))
        return read(source, start, stop, rows, num_workers, **more)

    monkeypatch.setattr(data, "batches", batches)
    monkeypatch.setattr(data, "_use_up", lambda _, count: used_up.append(count))
    found, _ = measured("benchmark=data", "benchmark.scenes=[200,3,200]")
    assert readers[:4] == [(0, False), (1, False), (2, False), (0, True)]
    assert sorted(used_up) == [0, READ_AHEAD, 2 * READ_AHEAD]
    assert set(found["milliseconds"]) == {"memory maps", "1 worker", "2 workers", "resident on cpu"}
    assert list(found["by_scenes"]) == ["3", "200"]
    assert all(each["milliseconds_again"] > 0 for each in found["by_scenes"].values())


def test_the_sliding_window(measured):
    found, _ = measured("benchmark=window", "benchmark.side=80", "evaluation.window.size=32")
    assert found["windows"] == 16
    times = found["milliseconds"]
    assert found["window_over_network"] == pytest.approx(times["bare_network"] / times["sliding_window"], rel=0.01)


@pytest.mark.parametrize("key", ["repeats", "calls"])
def test_measurements_without_a_median_are_refused(tiny, tmp_path, capsys, key):
    assert main("benchmark", [*tiny, f"benchmark.{key}=0", f"output_dir={tmp_path}"]) == 2
    assert f"benchmark.{key} must be at least 1, got 0." in capsys.readouterr().err


def test_subjects_take_turns_and_are_warm():
    calls = []
    taken = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 2, 3, CPU)
    assert "".join(calls) == "aabb" + "aaabbb" + "bbbaaa"
    assert all(seconds >= 0 for seconds in taken.values())


def test_what_was_made_ready_between_turns_is_used_up_untimed():
    """A reader that keeps two batches ready and needs 0.05 s for one: a turn of two calls would cost nothing."""
    ready_at = [time.monotonic(), time.monotonic()]

    def take():
        time.sleep(max(0, ready_at.pop(0) - time.monotonic()))
        ready_at.append(max(time.monotonic(), ready_at[-1]) + 0.05)

    def use_up():
        take()
        take()

    subjects = {"reader": take, "other": lambda: time.sleep(0.2)}
    assert alternate(subjects, 3, 2, CPU)["reader"] < 0.01
    assert alternate(subjects, 3, 2, CPU, {"reader": use_up})["reader"] > 0.03


def test_a_measurement_with_readers_ends(tiny, tmp_path):
    call = [sys.executable, "-m", "ssl_rs.benchmark", *tiny, *QUICK, f"output_dir={tmp_path}", "trainer.num_workers=1"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_phases_take_the_median():
    phases = Phases(CPU)
    phases.seconds["part"] = [1.0, 9.0, 2.0]
    for _ in range(2):
        with phases.measure("other"):
            pass
    phases.end_step()
    assert len(phases.seconds["other"]) == 1
    assert phases.medians()["part"] == 2.0
    assert 0 <= phases.medians()["other"] < 1


@given(st.dictionaries(st.sampled_from(PHASES), st.floats(0.001, 10), min_size=len(PHASES)))
def test_the_bottleneck_is_the_largest_part_that_could_be_smaller(parts):
    found = bottleneck(parts)
    around = {name: parts[name] for name in ("data wait", "transfer", "views", "optimizer")}
    if max(around.values()) > 0.05 * sum(parts.values()):
        assert around[found] == max(around.values())
    else:
        assert found == ("heads" if parts["heads"] > parts["encoder"] else "encoder")
    assert CHANGES[found] in advice(parts)


def test_the_advice_says_what_a_part_costs():
    parts = {**dict.fromkeys(PHASES, 1.0), "backward": 94.0}
    assert advice(parts).startswith("The encoder is the bottleneck, as it should be (with all of backward 95%): only")
    assert advice({**parts, "heads": 2.0}).startswith("The heads are the bottleneck: forward they cost 2%, more")
    assert advice({**parts, "views": 11.0}).startswith(
        "Beside the network, views costs 10.0% of a step, more than 5%: use"
    )


def step_measured(measured, monkeypatch, *arguments):
    """Run the command; the step that it measured, and the weights that its encoder began with."""
    seen, alternated = [], step.alternate

    def alternating(subjects, *others):
        own = subjects["step"].__self__
        seen.append((own, [value.clone() for value in own.network.encoder.parameters()]))
        return alternated(subjects, *others)

    monkeypatch.setattr(step, "alternate", alternating)
    measured(*arguments)
    return seen[0]


def test_no_weight_moves_however_long_it_is_measured(measured, monkeypatch):
    own, before = step_measured(measured, monkeypatch, "pretext=[contrastive]")
    assert all(map(torch.equal, own.network.encoder.parameters(), before))


@pytest.mark.parametrize("workers", [0, 1])
def test_all_that_is_read_ahead_is_used_up(measured, monkeypatch, workers):
    own, _ = step_measured(measured, monkeypatch, "pretext=[contrastive]", f"trainer.num_workers={workers}")
    assert own.ready == step.READ_AHEAD * workers


def test_what_no_optimizer_moves_is_moved_in_watched_steps_too(measured, monkeypatch):
    moved, after = [], step.PretextNetwork.after_step
    monkeypatch.setattr(step.PretextNetwork, "after_step", lambda self, *n: (moved.append(n), after(self, *n)))
    own, _ = step_measured(measured, monkeypatch, "pretext=[moco_v2]")
    assert len(moved) == own.progress.step + len(own.phases.seconds["optimizer"]) + 2  # of which the parts are not kept


def test_the_norm_of_the_gradient_is_part_of_the_optimizer(measured, monkeypatch):
    seen, norm = [], step.gradient_norm
    monkeypatch.setattr(step, "gradient_norm", lambda network: seen.append(norm(network)) or seen[-1])
    step_measured(measured, monkeypatch, "pretext=[contrastive]", "trainer.gradient_clip=1.0")
    assert all(value > 0 for value in seen)
    assert len(seen) == 3  # two before the first turn, and one


def test_parts_that_come_several_times_in_a_step_add_up(monkeypatch):
    now = iter([0.0, 1.0, 5.0, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    phases = Phases(torch.device("cpu"))
    for _ in range(2):
        with phases.measure("encoder"):
            pass
    phases.end_step()
    assert phases.medians() == {"encoder": 3.0}


def test_crops_that_are_read_again_were_read_before(monkeypatch):
    steps = []
    monkeypatch.setattr(data, "batches", lambda _, start, stop, *__: (steps.append(n) or n for n in range(start, stop)))
    data._rereader(None, SimpleNamespace(rows=None))
    assert steps == list(range(data.REREAD))


def test_both_ways_predict_the_windows_of_the_scene_and_no_more(measured, monkeypatch):
    seen, build = [], window.build_segmentation_model

    def watched(*given):
        model = build(*given)
        model.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
        return model

    monkeypatch.setattr(window, "build_segmentation_model", watched)
    measured("benchmark=window", "benchmark.side=80", "evaluation.window.size=32", "evaluation.window.batch_size=5")
    assert seen == 6 * [5, 5, 5, 1]  # each way twice before, and once timed


def test_the_parts_are_those_of_the_turns_alone():
    phases, calls = Phases(CPU), []

    def watched():
        calls.append(0)
        with phases.measure("encoder"):
            time.sleep(0.05 if len(calls) <= 2 else 0)
        phases.end_step()

    alternate({"watched": watched}, 1, 1, CPU, warm=phases.seconds.clear)
    assert len(phases.seconds["encoder"]) == 1
    assert phases.medians()["encoder"] < 0.04


@pytest.mark.parametrize(("encoder_pass", "passes"), [("joint", 1), ("per_view", 3)])
def test_the_bare_encoder_makes_the_passes_of_the_step(measured, monkeypatch, encoder_pass, passes):
    own, _ = step_measured(
        measured, monkeypatch, f"encoder_pass={encoder_pass}", "trainer.batch_size=4",
        "pretext=[contrastive,inpainting,transform_prediction]", "trainer.gradient_accumulation=2",
    )  # fmt: skip

    def shapes(work):
        seen = []
        hook = own.network.encoder.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
        work()
        hook.remove()
        return seen

    of_step = shapes(lambda: [own.network.encode(part) for part in in_parts(own.resident, 2)])
    assert shapes(own.bare_encoder) == of_step
    assert [shape[0] for shape in of_step] == [2 * 3 // passes] * 2 * passes


def test_with_test_time_augmentation_the_bare_network_makes_as_many_passes(measured):
    found, _ = measured(
        "benchmark=window", "benchmark.side=64", "evaluation.window.size=32",
        "+evaluation.window.test_time_augmentation=true",
    )  # fmt: skip
    assert found["window_over_network"] > 0.4


@pytest.mark.parametrize("chain", [kornia_chain, torchvision_chain])
def test_the_other_ways_turn_enlarge_and_color_as_the_fused_one(monkeypatch, chain):
    """Of ramps to the right, red, and down, green: how far each goes tells the part, and which way the turn."""
    monkeypatch.setattr(augmentation, "COLOR", replace(ColorJitter(), brightness=(0.5, 0.5), grayscale=0.5))
    torch.manual_seed(0)
    ramp = ((torch.arange(64) + 0.5) / 64).expand(64, 64)
    images = torch.stack([ramp, ramp.T, torch.zeros(64, 64)]).expand(96, 3, 64, 64)
    made = chain(images)()
    assert made.shape == images.shape
    colored = made[(made[:, 0] != made[:, 2]).flatten(1).any(dim=1)]
    assert 30 < len(colored) < 66
    red = 2 * colored[:, 0]  # [N, S, S]; the brightness is halved
    sides = red.amax(dim=(1, 2)) - red.amin(dim=(1, 2)) + 1 / 64
    assert SIDE[0] - 0.02 < sides.min() < SIDE[0] + 0.08
    assert SIDE[1] - 0.08 < sides.max() < SIDE[1] + 0.02
    steps = [
        (ramps[:, -1, 0] - ramps[:, 0, 0], ramps[:, 0, -1] - ramps[:, 0, 0]) for ramps in (colored[:, 0], colored[:, 1])
    ]
    turns = torch.stack([each.mul(4).round().sign() for pair in steps for each in pair], dim=1)  # [N, 4]
    assert len({tuple(turn) for turn in turns.tolist()}) == 8


def test_a_time_is_the_median_turn_of_the_mean_call(monkeypatch):
    now, steps = [0.0], iter([100, 100, 1, 2, 3, 4, 10, 20])  # two calls before the first of three turns
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def subject():
        now[0] += next(steps)

    assert alternate({"subject": subject}, 3, 2, CPU) == {"subject": 3.5}


def test_tables_are_columns_of_milliseconds_and_rates():
    found = augmentation._findings({"fused": 0.002, "kornia": 0.005, "torchvision": 0.113}, 16, 64)
    assert as_text(found).splitlines() == [
        "16 images of 64 px     ms  x fused",
        "fused                 2.0      1.0",
        "kornia                5.0      2.5",
        "torchvision         113.0     56.5",
        "",
        "The fused view is 2.5 times as fast as kornia and 56.5 times as fast as torchvision.",
    ]
    found = window._findings(0.5, 0.4, 1000, 10)
    assert found.figures["megapixels_per_second"] == 2.0
    assert as_text(found).splitlines() == [
        "scene of 1000 px, 10 windows     ms  windows/s",
        "sliding window                500.0       20.0",
        "bare network                  400.0       25.0",
        "",
        "The sliding window runs at 80.0% of the bare network's rate.",
    ]


def test_the_sentence_on_readers_names_the_fastest_and_compares_the_smallest_store_with_the_largest():
    site = SimpleNamespace(trainer=SimpleNamespace(batch_size=4), dataset=SimpleNamespace(crop_size=32))
    new, again = {"10": 0.002, "99": 0.003, "1000": 0.006}, {"10": 0.001, "99": 0.001, "1000": 0.0011}
    grown = dict.fromkeys(new, 0.25)
    found = data._findings({"memory maps": 0.002, "1 worker": 0.001, "2 workers": 0.004}, new, again, grown, site)
    assert found.sentence == (
        "Fastest here: 1 worker. A batch of 1000 scenes takes 1.10 times as long as one of 10, and 3.00 times as long "
        "where nobody has read those places yet."
    )
    expected = {"milliseconds": 6.0, "milliseconds_again": 1.1, "memory_growth_mb": 0.25}
    assert found.figures["by_scenes"]["1000"] == expected
    assert ("1 worker", "1.0", "4000", "") in found.table


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the most memory ever held is told")
def test_memory_that_batches_keep_is_told_in_megabytes():
    kept = []

    def read():
        kept.append(mmap.mmap(-1, 10**6, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        kept[-1].write(b"x" * 10**6)

    assert data._resident_growth(read) == pytest.approx(50, abs=10)
    assert data._resident_growth(kept.clear) == pytest.approx(-50, abs=10)


def test_sizes_that_cannot_be_measured_are_refused(tiny, capsys):
    with pytest.raises(InputError, match=r"benchmark\.scenes=\[3, 0\]: expected numbers of scenes, at least 1 each"):
        data.DataBenchmark(scenes=(3, 0))
    with pytest.raises(InputError, match=r"benchmark\.scenes=\[\]"):
        data.DataBenchmark(scenes=())
    with pytest.raises(InputError, match=r"benchmark\.side=0 must be at least 1 pixel"):
        window.WindowBenchmark(side=0)
    assert main("benchmark", [*tiny, *QUICK, "benchmark=window", "decoder=fpn", "evaluation.window.size=33"]) == 2
    assert "evaluation.window.size=33" in capsys.readouterr().err


def test_another_place_is_no_other_measurement_and_more_processes_are():
    def digest(world_size=1, **values):
        return benchmarking._digest(SimpleNamespace(values={"seed": 0, "output_dir": "here", **values}), world_size)

    assert digest(output_dir="there", run_dir="mine", store_dir="stores", logger={"_target_": "wandb"}) == digest()
    assert len({digest(), digest(2), digest(seed=1)}) == 3


def test_it_is_written_where_it_was_asked_for_by_the_first_process_alone(tiny, monkeypatch, capsys):
    quick = ("benchmark=window", "benchmark.side=32", "evaluation.window.size=32", "run_dir=mine")
    assert main("benchmark", [*tiny, *QUICK, *quick]) == 0
    said, file = capsys.readouterr().out, Path("mine/benchmark.json")
    assert said.splitlines()[-1] == str(file)
    found = json.loads(file.read_text())
    assert (found["benchmark"], found["config"]["benchmark"]["side"]) == ("window", 32)
    file.unlink()
    read_plan = benchmarking.read_plan

    def read_plan_as_another(settings):
        plan = read_plan(settings)
        monkeypatch.setattr(type(plan.site.processes), "is_first", False)
        return plan

    monkeypatch.setattr(benchmarking, "read_plan", read_plan_as_another)
    assert main("benchmark", [*tiny, *QUICK, *quick]) == 0
    assert not file.exists()
    assert capsys.readouterr().out == f"{file}\n"


def test_rates_are_of_the_crops_of_all_processes():
    phases = Phases(CPU)
    phases.seconds.update({name: [0.1] for name in PHASES})
    network = SimpleNamespace(views=("a", "b"), encoder=nn.Linear(2, 3), tasks={"contrastive": nn.Linear(3, 1)})
    plan = SimpleNamespace(site=SimpleNamespace(rows=Rows(0, 4, 8)))
    measured = SimpleNamespace(
        phases=phases, network=network, plan=plan, trainer=SimpleNamespace(batch_size=4), device=CPU
    )
    found = step._findings(measured, {"step": 0.5, "bare_network": 0.4, "bare_encoder": 0.25})
    assert (found.figures["triplets_per_second"], found.figures["images_per_second"]) == (16, 32)
    assert (found.figures["step_over_network"], found.figures["step_over_encoder"]) == (0.8, 0.5)
    assert found.figures["parameters"] == {"encoder": 9, "contrastive": 4}
    assert ("views", "100.0", "14.3%") in found.table
    assert ("step", "500.0", "16.00") in found.table
    assert ("bare encoder", "250.0", "32.00") in found.table
