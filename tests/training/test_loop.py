"""The loop against one written out by hand, and what it does when training breaks off."""

import dataclasses
import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ssl_rs.data.scene_crops import Crops
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError, Interrupted
from ssl_rs.messages import OutputClosed
from ssl_rs.randomness import derive_seed
from ssl_rs.run_directory import TIMING_KEYS, RunDirectory
from ssl_rs.task_output import TaskOutput
from ssl_rs.training import checkpoint_times, loop
from ssl_rs.training.divergence import without_data
from ssl_rs.training.job import Job, Validation
from ssl_rs.training.loop import train
from ssl_rs.training.schedule import Cosine
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.training.state import Identity, load_checkpoint
from ssl_rs.training.stopping import stop_requests

CPU = torch.device("cpu")
SEED = 7
WEIGHTS = {"near": 2.0, "far": 0.5}
STEPS = 11


class Network(nn.Module):
    """Two tasks on one layer; dropout draws from the global generator, BatchNorm keeps statistics."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, batch):
        near, far = self.layers(batch).T
        return {
            "near": TaskOutput(near.square().mean(), {"size": near.detach().abs().mean()}),
            "far": TaskOutput((far - 3).abs().mean()),
        }


class Killed(BaseException):
    """Ends the loop as a kill would: no chance to save anything."""


def crop(step):
    return torch.rand(4, 3, generator=torch.Generator().manual_seed(step))


def crops(start):
    yield from map(crop, range(start, STEPS))


def make_batch(stored, step):
    return stored + step / 10


def fresh(kind=torch.optim.AdamW, lr=0.1):
    torch.manual_seed(0)
    network = Network()
    optimizer = kind(network.parameters(), lr=lr)
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    return network, optimizer


def job(folder, **changes):
    network, optimizer = fresh()
    run = RunDirectory(folder / "run")
    run.path.mkdir(parents=True, exist_ok=True)
    settings = TrainerSettings(STEPS, 4, device="cpu", precision="fp32", checkpoint_every_steps=3, log_every_steps=4)
    settings = dataclasses.replace(
        settings, **{key: changes.pop(key) for key in list(changes) if hasattr(settings, key)}
    )
    whole = Job(
        network, crops, make_batch, WEIGHTS, optimizer, Cosine(0.2, 0.1), settings, CPU, run,
        Identity("hash", 1, "fp32"), Processes(), SEED,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


class Recorder:
    def __init__(self):
        self.lines, self.results = [], []

    def log(self, line):
        self.lines.append(line)

    def finish(self, result):
        self.results.append(result)


def by_hand(lr=0.1, clip=None, kind=torch.optim.AdamW):
    """The same training without the loop; also every step's learning rate and values."""
    network, optimizer = fresh(kind, lr)
    lines = []
    for step in range(STEPS):
        torch.manual_seed(derive_seed(SEED, step, "rank", 0))
        rate = lr * Cosine(0.2, 0.1)(step, STEPS)
        optimizer.param_groups[0]["lr"] = rate
        outputs = network(crop(step) + step / 10)
        near, far = outputs["near"].loss, outputs["far"].loss
        total = 2.0 * near + 0.5 * far
        optimizer.zero_grad()
        total.backward()
        if clip is not None:
            norm = torch.sqrt(sum(parameter.grad.square().sum() for parameter in network.parameters()))
            for parameter in network.parameters():
                parameter.grad *= min(1.0, clip / float(norm))
        optimizer.step()
        values = {"loss": total, "loss/near": near, "loss/far": far, "near/size": outputs["near"].metrics["size"]}
        lines.append({"lr": rate, **{name: value.item() for name, value in values.items()}})
    return network, lines


def state(network):
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def without_timing(run):
    return [{key: value for key, value in line.items() if key not in TIMING_KEYS} for line in run.read_metrics()]


def test_the_loop_is_the_one_written_by_hand_bit_for_bit(tmp_path):
    own = job(tmp_path)
    own.network.eval()  # as whoever looked at it may leave it
    progress, _ = train(own, Recorder)
    assert state(own.network) == state(by_hand()[0])
    assert progress.step == STEPS


def test_lines_are_means_since_the_line_before(tmp_path):
    own = job(tmp_path)
    train(own, Recorder)
    _, steps = by_hand()
    lines = own.run.read_metrics()
    assert [line["step"] for line in lines] == [4, 8, 11]
    for line, part in zip(lines, (steps[:4], steps[4:8], steps[8:]), strict=True):
        for name in ("loss", "loss/near", "loss/far", "near/size"):
            assert line[name] == pytest.approx(sum(step[name] for step in part) / len(part), rel=1e-6)
        assert line["lr"] == part[-1]["lr"]
        assert line["images_per_second"] > 0
        assert set(line) == {"step", "loss", "loss/near", "loss/far", "near/size", "gradient_norm", "lr", *TIMING_KEYS}


def test_the_schedule_multiplies_the_rate_of_every_group(tmp_path):
    network, _ = fresh()
    groups = [
        {"params": [parameter], "lr": lr} for parameter, lr in zip(network.parameters(), (1e-3, 1e-2), strict=False)
    ]
    optimizer = torch.optim.SGD(groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append([group["lr"] for group in optimizer.param_groups]))
    train(job(tmp_path, network=network, optimizer=optimizer), Recorder)
    factors = [Cosine(0.2, 0.1)(step, STEPS) for step in range(STEPS)]
    assert seen == [[1e-3 * factor, 1e-2 * factor] for factor in factors]


def test_what_no_optimizer_moves_is_moved_after_each_of_its_steps(tmp_path):
    seen, left = [], []
    own = job(tmp_path)
    own.optimizer.register_step_post_hook(lambda *_: left.append(state(own.network)))
    train(dataclasses.replace(own, after_step=lambda *steps: seen.append((*steps, state(own.network)))), Recorder)
    assert [(step, steps) for step, steps, _ in seen] == [(step, STEPS) for step in range(STEPS)]
    assert [weights for _, _, weights in seen] == left


@pytest.mark.parametrize("clip", [None, 0.05, 1000.0])
def test_gradients_are_clipped_to_their_common_norm(tmp_path, clip):
    network, optimizer = fresh(torch.optim.SGD, lr=1e-2)
    own = job(tmp_path, network=network, optimizer=optimizer, gradient_clip=clip)
    train(own, Recorder)
    expected, _ = by_hand(1e-2, clip, torch.optim.SGD)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("killed_at", [2, 3, 5, 7, 8, 10])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, killed_at):
    """Checkpoints lie at 3, 6, 9 and lines at 4, 8: sums that no line has told yet have to survive."""
    whole = job(tmp_path / "whole")
    train(whole, Recorder)

    def dying(start):
        yield from map(crop, range(start, killed_at))
        raise Killed

    with pytest.raises(Killed):
        train(job(tmp_path, crops=dying), Recorder)
    again = job(tmp_path)
    with open(again.run.metrics, "a") as file:
        file.write('{"step": 10, "los')  # as a kill may leave it
    progress, _ = train(again, Recorder)
    assert state(again.network) == state(whole.network)
    assert without_timing(again.run) == without_timing(whole.run)
    assert progress.step == STEPS


def test_the_loader_starts_where_the_checkpoint_ends(tmp_path):
    starts = []

    def noting(start):
        starts.append(start)
        return crops(start)

    train(job(tmp_path, crops=noting, max_steps=6), Recorder)
    train(job(tmp_path, crops=noting), Recorder)
    assert starts == [0, 6]


def test_a_trained_run_takes_no_step_more(tmp_path):
    train(job(tmp_path), Recorder)
    again = job(tmp_path, make_batch=lambda stored, step: pytest.fail("it took a step"))
    progress, _ = train(again, Recorder)
    assert progress.step == STEPS
    assert state(again.network) == state(by_hand()[0])


@pytest.mark.parametrize(("log_every", "checkpoint_every"), [(1, 1), (2, 1), (8, 1), (8, 3), (4, 4), (20, 20)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_no_checkpoint_holds_it(
    tmp_path, log_every, checkpoint_every, value
):
    own = job(
        tmp_path,
        make_batch=lambda stored, step: stored * (value if step >= 5 else 1.0),
        log_every_steps=log_every,
        checkpoint_every_steps=checkpoint_every,
    )
    tracker = Recorder()
    with pytest.raises(
        InputError, match=r"stopped being finite at step 6: the run diverged.*step-00000005-rank-0.*optimizer\.lr"
    ) as caught:
        train(own, lambda: tracker)
    assert tracker.results == [None]
    assert ("the last good checkpoint" in str(caught.value)) == (checkpoint_every <= 5)
    assert "fp32" not in str(caught.value)  # it is that already
    network, optimizer = fresh()
    progress = load_checkpoint(own.run.checkpoints, network, optimizer, own.identity, CPU)
    assert (progress is not None) == (checkpoint_every <= 5)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert all(line["step"] <= 5 for line in own.run.read_metrics())
    assert not own.run.result.exists()


@pytest.mark.parametrize(("least", "saved"), [(0.0, list(range(1, STEPS + 1))), (1000.0, [STEPS])])
def test_without_a_number_of_steps_checkpoints_come_by_the_time_and_at_the_end(tmp_path, monkeypatch, least, saved):
    monkeypatch.setattr(checkpoint_times, "LEAST", least)
    monkeypatch.setattr(checkpoint_times, "SHARE", 1e9)
    steps = []

    def save(folder, network, optimizer, progress, *more):
        steps.append(progress.step)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    train(job(tmp_path, checkpoint_every_steps=None), Recorder)
    assert steps == saved


def test_crops_without_any_data_are_counted():
    valid = torch.ones(4, 1, 8, 8, dtype=torch.bool)
    images = torch.zeros(4, 3, 8, 8)
    assert without_data(Crops(images, None)) == without_data(Crops(images, valid)) == without_data((images,)) == ""
    valid[1], valid[2, :, 1:] = False, False
    assert without_data(Crops(images, valid)) == "1 of its 4 crops in this process hold no data at all. "


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    class Broken(Network):
        def forward(self, batch):
            outputs = super().forward(batch)
            return {**outputs, "far": TaskOutput(outputs["far"].loss * float("nan"))}

    with pytest.raises(InputError, match=r"loss/far and the norm of the gradient stopped being finite at step 1:"):
        train(job(tmp_path, network=Broken()), Recorder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stop_request_ends_after_the_step_with_a_checkpoint(tmp_path, number):
    def asking(stored, step):
        if step == 4:
            os.kill(os.getpid(), number)
        return make_batch(stored, step)

    handler, tracker = signal.getsignal(number), Recorder()
    with pytest.raises(Interrupted, match=f"Stopped after step 5 of {STEPS}"):
        train(job(tmp_path, make_batch=asking), lambda: tracker)
    assert signal.getsignal(number) == handler
    assert tracker.results == [None]
    again = job(tmp_path)
    assert (again.run.checkpoints / "step-00000005.ckpt").is_file()
    train(again, Recorder)
    assert state(again.network) == state(by_hand()[0])
    assert [line["step"] for line in again.run.read_metrics()] == [4, 8, 11]


def test_a_run_whose_lines_nobody_reads_ends_with_a_checkpoint_and_goes_on(tmp_path, monkeypatch, capsys):
    def closed(self, step, values):
        raise OutputClosed

    with monkeypatch.context() as patched:
        patched.setattr("ssl_rs.training.progress._Lines.line", closed)
        with pytest.raises(OutputClosed):
            train(job(tmp_path), Recorder)
    again = job(tmp_path)
    assert (again.run.checkpoints / "step-00000004.ckpt").is_file()
    assert "Going on" not in capsys.readouterr().err
    train(again, Recorder)
    assert capsys.readouterr().err.startswith(f"Going on after step 4 of {STEPS}.\n")
    assert state(again.network) == state(by_hand()[0])
    assert [line["step"] for line in again.run.read_metrics()] == [4, 8, 11]


def test_a_stop_request_at_the_last_step_leaves_the_scores_to_the_next_start(tmp_path):
    """Scoring takes minutes, and a sweep would go on with its next run."""

    def asking(stored, step):
        if step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(stored, step)

    with pytest.raises(Interrupted, match=rf"Stopped after step {STEPS} of {STEPS}\. The same command finishes it"):
        train(job(tmp_path, make_batch=asking), Recorder)
    again = job(tmp_path)
    assert train(again, Recorder)[0].step == STEPS
    assert state(again.network) == state(by_hand()[0])
    assert [line["step"] for line in again.run.read_metrics()] == [4, 8, 11]


def test_a_second_interrupt_does_not_wait():
    with stop_requests() as requested:
        signal.raise_signal(signal.SIGINT)
        assert requested == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_tracker_mirrors_the_lines_and_stays_open(tmp_path):
    own = job(tmp_path)
    _, tracker = train(own, Recorder)
    assert tracker.lines == own.run.read_metrics()
    assert tracker.results == []


def test_the_tracker_opens_behind_the_lines_that_count(tmp_path):
    """Lines behind the checkpoint are written again: the mirror must not see them twice."""
    own = job(tmp_path)
    own.run.append_metrics({"step": 4})
    seen = []
    train(own, lambda: seen.append(own.run.read_metrics()) or Recorder())
    assert seen == [[]]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    own = job(tmp_path, processes=Processes(rank=1, world_size=2, local_rank=1))
    tracker = Recorder()
    train(own, lambda: tracker)
    assert not own.run.metrics.exists()
    assert not own.run.checkpoints.exists()
    assert tracker.lines == []


def test_seconds_go_on_over_starts(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def tick():
        clock.now += 1.0
        return clock.now

    monkeypatch.setattr("ssl_rs.training.progress.time", SimpleNamespace(monotonic=tick))
    first, _ = train(job(tmp_path, max_steps=6), Recorder)
    spent = first.seconds
    again, _ = train(job(tmp_path), Recorder)
    assert again.seconds > spent >= 6


def test_seconds_are_those_of_the_steps_and_not_of_scoring(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ssl_rs.training.progress.time", SimpleNamespace(monotonic=lambda: clock.now))

    def score():
        clock.now += 1000.0
        return {"miou": 0.5}

    def slow_batch(stored, step):
        clock.now += 1.0
        return make_batch(stored, step)

    own = job(tmp_path, make_batch=slow_batch, validation=Validation(3, score))
    progress, _ = train(own, Recorder)
    assert progress.seconds == STEPS
    lines = own.run.read_metrics()
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 11]
    assert [line["step"] for line in lines if "validation/miou" in line] == [3, 6, 9, 11]
    assert [line["seconds"] for line in lines] == [line["step"] for line in lines]
    assert {line["images_per_second"] for line in lines} == {4.0}


class Poisoned(Network):
    """Its gradient is infinite where the batch is marked, its losses stay finite."""

    def forward(self, batch):
        marked = bool((batch > 100).any())
        outputs = super().forward(batch.clamp(max=2))
        if marked:
            outputs["near"].loss.register_hook(lambda gradient: gradient * float("inf"))
        return outputs


def marked_at(*steps):
    return lambda stored, step: make_batch(stored, step) + 1000.0 * (step in steps)


@pytest.fixture
def poisoned(tmp_path):
    def make(name, *steps, **changes):
        torch.manual_seed(0)
        network = Poisoned()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        optimizer.param_groups[0]["initial_lr"] = 0.1
        (tmp_path / name).mkdir()
        return job(tmp_path / name, network=network, optimizer=optimizer, make_batch=marked_at(*steps), **changes)

    return make


def test_a_gradient_that_is_not_finite_is_named_and_its_crops_are_kept(poisoned):
    own = poisoned("own", 5)
    with pytest.raises(InputError, match=r"^the norm of the gradient stopped being finite at step 6:"):
        train(own, Recorder)
    (path,) = (own.run.path / "not_finite").iterdir()
    assert path.name == "step-00000005-rank-0.safetensors"
    assert load_file(path)["crops"].equal(crop(5))


def test_left_out_steps_change_nothing_but_the_count(poisoned):
    own = poisoned("own", 2, 6, max_skipped_steps=2)
    before = {}

    def watched(stored, step):
        before[step] = state(own.network)
        return marked_at(2, 6)(stored, step)

    moved = []
    own = dataclasses.replace(own, make_batch=watched, after_step=lambda step, _: moved.append(step))
    with pytest.warns(UserWarning, match=r"was left out") as warned:
        progress, _ = train(own, Recorder)
    assert (progress.step, progress.skipped) == (STEPS, 2)
    assert "Step 3 was left out (1 of at most 2); not finite: the norm of the gradient." in str(warned[0].message)
    for step in (2, 6):
        path = own.run.path / "not_finite" / f"step-{step:08d}-rank-0.safetensors"
        assert load_file(path)["crops"].equal(crop(step))
    assert moved == [step for step in range(STEPS) if step not in (2, 6)]
    assert before[2] == before[3] != before[4]  # weights and running moments
    assert before[6] == before[7] != before[8]
    lines = own.run.read_metrics()
    assert [line.get("skipped_steps") for line in lines] == [1, 2, 2]
    assert all(line["loss"] - line["loss"] == 0 for line in lines)


@pytest.mark.filterwarnings("ignore:.*was left out")
def test_more_bad_steps_than_may_be_left_out_end_the_run(poisoned):
    with pytest.raises(InputError, match="at step 7 after 1 steps were left out"):
        train(poisoned("own", 2, 6, max_skipped_steps=1), Recorder)


@pytest.mark.filterwarnings("ignore:.*was left out")
def test_left_out_steps_survive_a_restart(poisoned):
    whole, broken = (poisoned(name, 2, 6, max_skipped_steps=2) for name in ("whole", "broken"))
    train(whole, Recorder)

    def dying(stored, step):
        if step == 7:
            raise Killed
        return marked_at(2, 6)(stored, step)

    with pytest.raises(Killed):
        train(dataclasses.replace(broken, make_batch=dying), Recorder)
    progress, _ = train(broken, Recorder)
    assert progress.skipped == 2
    assert state(broken.network) == state(whole.network)
    assert without_timing(broken.run) == without_timing(whole.run)


def probe(*stds):
    """Tell the next std at each log line."""
    values = iter(stds)
    return lambda: {"feature_std": torch.tensor(next(values)), "mean_pair_cosine": torch.tensor(0.9)}


def test_collapsed_features_are_told_once_after_three_lines_in_a_row(tmp_path):
    own = job(tmp_path, log_every_steps=1, probe=probe(0.001, 0.001, 0.5, 0.001, 0.001, 0.001, *[0.001] * 5))
    with pytest.warns(UserWarning, match="have collapsed at step 6") as caught:
        train(own, Recorder)
    assert len(caught) == 1
    assert own.run.read_metrics()[0]["collapse/feature_std"] == pytest.approx(0.001)


def test_lines_hold_no_number_that_json_has_not(tmp_path):
    own = job(tmp_path, probe=probe(*[math.nan] * STEPS), log_every_steps=1)
    train(own, Recorder)
    lines = own.run.metrics.read_text()
    assert "NaN" not in lines
    assert all("loss" in line and "collapse/feature_std" not in line for line in own.run.read_metrics())


class Undefined(Network):
    """Its metric is no number."""

    def forward(self, batch):
        outputs = super().forward(batch)
        return outputs | {"near": TaskOutput(outputs["near"].loss, {"size": torch.tensor(math.nan)})}


def test_a_metric_that_is_no_number_is_left_out_of_the_lines(tmp_path):
    own = job(tmp_path, network=Undefined(), log_every_steps=1)
    train(own, Recorder)
    assert "NaN" not in own.run.metrics.read_text()
    assert all("loss/near" in line and "near/size" not in line for line in own.run.read_metrics())


class Moody(Network):
    """One of its calls has a metric more."""

    def __init__(self, call):
        super().__init__()
        self.left = call

    def forward(self, batch):
        outputs, self.left = super().forward(batch), self.left - 1
        far = outputs["far"]
        moody = {"far": dataclasses.replace(far, metrics={"mood": far.loss.detach()})}
        return outputs if self.left else outputs | moody


@pytest.mark.parametrize(("call", "parts", "said"), [
    (3, 1, "Step 3 has far/mood, unlike every step before it"),
    (2, 2, "Part 2 of a batch has far/mood, unlike every part before it"),
    (1, 2, "Part 2 of a batch has no far/mood, unlike every part before it"),
])  # fmt: skip
def test_a_metric_that_only_some_steps_or_parts_have_ends_the_run(tmp_path, call, parts, said):
    own = job(tmp_path, network=Moody(call), gradient_accumulation=parts)
    with pytest.raises(InputError, match=said):
        train(own, Recorder)


def test_a_collapse_can_stop_the_run(tmp_path):
    own = job(tmp_path, log_every_steps=1, on_collapse="stop", probe=probe(*[0.001] * STEPS))
    with pytest.raises(InputError, match=r"have collapsed at step 3.*trainer\.on_collapse=warn"):
        train(own, Recorder)
    assert len(own.run.read_metrics()) == 3


def test_every_rank_draws_numbers_of_its_own(tmp_path):
    own = job(tmp_path, processes=Processes(rank=1, world_size=2, local_rank=1))
    train(own, Recorder)
    assert state(own.network) != state(by_hand()[0])  # of rank 0, whose dropout is another


def totals(network):
    """Collect the total loss of every forward pass of a network."""
    seen = []

    def note(module, inputs, outputs):
        seen.append(sum(WEIGHTS[name] * output.loss.item() for name, output in outputs.items()))

    network.register_forward_hook(note)
    return seen


@pytest.mark.filterwarnings("ignore:.*was left out")
def test_lines_are_means_over_the_steps_that_were_taken(poisoned):
    own = poisoned("own", 2, 6, max_skipped_steps=2)
    seen = totals(own.network)
    train(own, Recorder)
    for line, steps in zip(own.run.read_metrics(), ((0, 1, 3), (4, 5, 7), (8, 9, 10)), strict=True):
        assert line["loss"] == pytest.approx(sum(seen[step] for step in steps) / 3)


def test_the_norm_is_told_as_it_was_before_it_was_clipped(tmp_path):
    norms = []
    for clip in (None, 0.05):
        network, optimizer = fresh(torch.optim.SGD, lr=0.0)  # the weights stay
        own = job(tmp_path / str(clip), network=network, optimizer=optimizer, gradient_clip=clip)
        train(own, Recorder)
        norms.append([line["gradient_norm"] for line in own.run.read_metrics()])
    assert norms[0] == norms[1]
    assert min(norms[0]) > 0.05


def test_lines_of_a_collapse_are_counted_over_a_restart(tmp_path):
    def dying(stored, step):
        if step == 2:
            raise Killed
        return make_batch(stored, step)

    often = {"log_every_steps": 1, "checkpoint_every_steps": 2, "on_collapse": "stop"}
    with pytest.raises(Killed):
        train(job(tmp_path, **often, make_batch=dying, probe=probe(0.001, 0.001)), Recorder)
    with pytest.raises(InputError, match="have collapsed at step 3"):
        train(job(tmp_path, **often, probe=probe(*[0.001] * STEPS)), Recorder)


def test_lines_of_a_run_in_parts_are_means_over_the_parts(tmp_path):
    own, tracker = job(tmp_path, gradient_accumulation=2), Recorder()
    seen = totals(own.network)
    train(own, lambda: tracker)
    assert tracker.lines[0]["loss"] == pytest.approx(sum(seen[:8]) / 8)  # 4 steps of 2 parts


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path):
    """Loss and gradient of a step are those before its weights moved."""
    own = job(tmp_path, checkpoint_every_steps=1)
    own.optimizer.register_step_post_hook(lambda *_: next(own.network.parameters()).data.fill_(math.inf))
    with pytest.raises(InputError, match="is no longer finite after step 1"):
        train(own, Recorder)
    assert not list(own.run.checkpoints.glob("*.ckpt"))


def test_a_request_of_the_last_step_is_heard_behind_it(tmp_path, monkeypatch):
    class Late:
        """Another rank was asked to stop while the last step was taken."""

        def any_rank(self, ends, *flags):
            return (False,) * (1 + len(flags))

        def settle(self):
            return True, False

    monkeypatch.setattr("ssl_rs.training.loop.Agreement", Late)
    with pytest.raises(Interrupted, match="The same command finishes it"):
        train(job(tmp_path), Recorder)


def test_a_checkpoint_that_was_asked_for_at_the_last_step_stops_nothing(tmp_path, monkeypatch):
    class Late:
        """The first rank found it time for a checkpoint while the last step was taken."""

        def any_rank(self, ends, *flags):
            return (False,) * (1 + len(flags))

        def settle(self):
            return False, True

    monkeypatch.setattr("ssl_rs.training.loop.Agreement", Late)
    assert train(job(tmp_path), Recorder)[0].step == STEPS


def test_rates_are_those_of_the_steps_of_this_start(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("ssl_rs.training.progress.time", SimpleNamespace(monotonic=lambda: clock.now))

    def slow_batch(stored, step):
        clock.now += 1.0
        return make_batch(stored, step)

    train(job(tmp_path, make_batch=slow_batch, max_steps=6), Recorder)
    again = job(tmp_path, make_batch=slow_batch)
    train(again, Recorder)
    assert {line["images_per_second"] for line in again.run.read_metrics()} == {4.0}


@pytest.mark.parametrize(("precision", "computed"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_layers_compute_in_the_precision_of_the_run(tmp_path, precision, computed):
    own, seen = job(tmp_path, identity=Identity("hash", 1, precision), max_steps=1), []
    own.network.layers[0].register_forward_hook(lambda *called: seen.append(called[2].dtype))
    train(own, Recorder)
    assert seen == [computed]
