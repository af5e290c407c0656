"""The training loop of both stages: batch, forward, backward, step; logs and checkpoints between steps."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs import distributed
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError, Interrupted
from ssl_rs.randomness import seed_step
from ssl_rs.run_directory import RunDirectory
from ssl_rs.task_output import TaskOutput
from ssl_rs.training.progress import open_display
from ssl_rs.training.schedule import Schedule
from ssl_rs.training.settings import TrainerSettings, exactness
from ssl_rs.training.state import Identity, Progress, load_checkpoint, save_checkpoint
from ssl_rs.training.tracking import Tracker


@dataclass(frozen=True)
class Job:
    """All that one training needs.

    Args:
        network: Maps a batch to {task: TaskOutput}; lies on the device; its state is what checkpoints hold.
        crops: Gives the stored crops of each step from a given step on.
        make_batch: Makes the network's input on the device from the crops of a step; draws only from (seed, step).
        weights: Factor of each task's loss.
        optimizer: Over the network's parameters.
        schedule: Factor of the learning rate by step.
        settings: Length, sizes, device.
        device: Where it trains.
        run: Where logs and checkpoints go.
        identity: What a checkpoint must agree with.
        processes: This process among all.
        seed: Seed of the run.
    """

    network: nn.Module
    crops: Callable[[int], Iterator[Any]]
    make_batch: Callable[[Any, int], Any]
    weights: Mapping[str, float]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    settings: TrainerSettings
    device: torch.device
    run: RunDirectory
    identity: Identity
    processes: Processes
    seed: int


def train(job: Job, open_tracker: Callable[[], Tracker]) -> tuple[Progress, Tracker]:
    """Train until `max_steps`, from the newest checkpoint if there is one.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved after the step in progress.
        InputError: A loss is no longer finite, or the checkpoints belong to another run.
    """
    network, settings = job.network, job.settings
    progress = load_checkpoint(job.run.checkpoints, network, job.optimizer, job.identity, job.device) or Progress(
        0, 0.0, {}, 0
    )
    if job.processes.is_first:
        job.run.keep_metrics_until(progress.step)
    tracker = open_tracker()
    network.train()
    compiled: nn.Module = torch.compile(network) if settings.compile else network  # type: ignore[assignment]
    module = distributed.average_gradients(compiled, job.device)
    display = open_display(progress.step, settings.max_steps, job.processes.is_first)
    crops, before = job.crops(progress.step), progress.seconds
    started = time.monotonic()
    clock = _Clock(settings.batch_size * job.processes.world_size, progress)
    try:
        with exactness(settings.deterministic), stop_requests() as requested:
            while progress.step < settings.max_steps:
                _step(module, next(crops), job, progress)
                display.step()
                progress.seconds = before + time.monotonic() - started
                last = progress.step == settings.max_steps
                logged = last or progress.step % settings.log_every_steps == 0
                if logged:
                    line = _line(job, progress, clock)
                    display.line(progress.step, line)
                    if job.processes.is_first:
                        job.run.append_metrics(line)
                        tracker.log(line)
                stopping = _stop_now(requested, job, logged)
                if last or stopping or progress.step % settings.checkpoint_every_steps == 0:
                    _share_sums(progress)
                    if job.processes.is_first:
                        save_checkpoint(job.run.checkpoints, network, job.optimizer, progress, job.identity, job.device)
                if stopping and not last:
                    raise Interrupted(
                        f"Stopped after step {progress.step} of {settings.max_steps}. "
                        "The same command goes on from there."
                    )
    except BaseException:
        tracker.finish(None)
        raise
    finally:
        display.close()
    return progress, tracker


def _step(module: nn.Module, crops: Any, job: Job, progress: Progress) -> None:
    """One optimizer step; its losses and metrics are added to the sums of the next log line."""
    seed_step(job.seed, progress.step, job.processes.rank)  # after the loader, which may draw from the global generator
    for group in job.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * job.schedule(progress.step, job.settings.max_steps)
    batch = job.make_batch(crops, progress.step)
    with torch.autocast(job.device.type, torch.bfloat16, enabled=job.identity.precision == "bf16"):
        outputs: Mapping[str, TaskOutput] = module(batch)
    total = torch.stack([job.weights[name] * output.loss for name, output in outputs.items()]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    if job.settings.gradient_clip is not None:
        nn.utils.clip_grad_norm_(module.parameters(), job.settings.gradient_clip)
    job.optimizer.step()
    job.optimizer.zero_grad()
    progress.step += 1
    progress.count += 1
    for name, value in _named_values(total, outputs).items():
        progress.sums[name] = progress.sums.get(name, torch.zeros_like(value)) + value


def _named_values(total: Tensor, outputs: Mapping[str, TaskOutput]) -> dict[str, Tensor]:
    values = {"loss": total.detach().float()}
    for task, output in outputs.items():
        values[f"loss/{task}"] = output.loss.detach().float()
        values |= {f"{task}/{name}": metric.detach().float() for name, metric in output.metrics.items()}
    return values


def _line(job: Job, progress: Progress, clock: "_Clock") -> dict[str, float]:
    """Return the means since the last line, over steps and ranks, and start new sums.

    Raises:
        InputError: A loss is not finite.
    """
    names = sorted(progress.sums)
    means = (
        distributed.mean_over_ranks(torch.stack([progress.sums[name] for name in names])) / progress.count
    ).tolist()
    values = dict(zip(names, means, strict=True))
    for name, value in values.items():
        if name.startswith("loss") and value - value != 0:
            raise InputError(
                f"{name} is {value} within the steps up to {progress.step}: it diverged. The last good checkpoint "
                f"is in {job.run.checkpoints}. Lower optimizer.lr, set trainer.gradient_clip=1.0, or use "
                "trainer.precision=fp32."
            )
    progress.sums, progress.count = {}, 0
    lr = job.optimizer.param_groups[0]["lr"]
    return {
        "step": progress.step,
        **values,
        "lr": lr,
        "images_per_second": clock.rate(progress.step),
        "seconds": round(progress.seconds, 3),
    }


def _share_sums(progress: Progress) -> None:
    """Give all ranks the mean of their sums: the one checkpoint holds those of rank 0."""
    names = sorted(progress.sums)
    if names:
        means = distributed.mean_over_ranks(torch.stack([progress.sums[name] for name in names]))
        progress.sums = dict(zip(names, means.unbind(), strict=True))


class _Clock:
    """Images a second since the last reading."""

    def __init__(self, images_a_step: int, progress: Progress) -> None:
        self.images_a_step, self.step, self.time = images_a_step, progress.step, time.monotonic()

    def rate(self, step: int) -> float:
        now = time.monotonic()
        rate = (step - self.step) * self.images_a_step / max(now - self.time, 1e-9)
        self.step, self.time = step, now
        return round(rate, 2)


def _stop_now(requested: list[int], job: Job, logged: bool) -> bool:
    """Tell whether to stop; ranks agree on it at log steps only, since asking costs a synchronization."""
    if job.processes.world_size == 1:
        return bool(requested)
    return logged and distributed.any_rank(bool(requested), job.device)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying from them; the list fills as they come. A second SIGINT kills."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
