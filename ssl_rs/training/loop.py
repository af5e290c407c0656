"""The training loop of both stages: batch, forward, backward, step; logs and checkpoints between steps."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs import distributed
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError, Interrupted
from ssl_rs.messages import OutputClosed, say_line
from ssl_rs.randomness import seed_step
from ssl_rs.run_directory import RunDirectory
from ssl_rs.task_output import TaskOutput
from ssl_rs.training.accumulation import in_parts
from ssl_rs.training.collapse import check_collapse
from ssl_rs.training.compiling import compiled_or_eager
from ssl_rs.training.finite import FirstBadSteps, save_crops, without_data
from ssl_rs.training.progress import Clock, Display, open_display
from ssl_rs.training.replay import Work, does_the_same_each_step, replayed_or_not
from ssl_rs.training.schedule import Schedule
from ssl_rs.training.settings import TrainerSettings, exactness
from ssl_rs.training.state import Identity, Progress, check_weights, load_checkpoint, save_checkpoint
from ssl_rs.training.stopping import stop_requests
from ssl_rs.training.tracking import Tracker


def as_it_is(batch: Any) -> Any:
    """Return a batch to which nothing is left to do."""
    return batch


@dataclass(frozen=True)
class Validation:
    """Scores that are told while a network trains; nothing is chosen by them, and no weight depends on them.

    Args:
        every_steps: How often; the last step is scored too.
        score: Called on all ranks at once; may leave the network in evaluation mode.
    """

    every_steps: int
    score: Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Job:
    """All that one training needs.

    Args:
        network: Maps a batch to {task: TaskOutput}; lies on the device; its state is what checkpoints hold.
        crops: Gives the stored crops of each step from a given step on.
        make_batch: Brings the crops of a step to the device, with what is drawn for them; draws only from (seed, step).
        weights: Factor of each task's loss.
        optimizer: Over the network's parameters.
        schedule: Factor of the learning rate by step.
        settings: Length, sizes, device.
        device: Where it trains.
        run: Where logs and checkpoints go.
        identity: What a checkpoint must agree with.
        processes: This process among all.
        seed: Seed of the run.
        probe: Numbers that tell whether the features of the last batch collapsed; None where nothing can.
        after_step: Called with the step and the number of all steps after each step of the optimizer, with the weights
            that it left; None where nothing is to be moved.
        validation: Scores that join the lines; None: no step is scored.
        complete: Makes the network's input from what `make_batch` returned, on the device, by the same operations in
            every step: it is compiled and recorded as the network is.
        after_part: Called with the number of each part of a batch, from 1, after its forward pass; of a step that is
            recorded, when the recording is made alone.
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
    probe: Callable[[], Mapping[str, Tensor]] | None = None
    after_step: Callable[[int, int], None] | None = None
    validation: Validation | None = None
    complete: Callable[[Any], Any] = as_it_is
    after_part: Callable[[int], None] | None = None


def train(job: Job, open_tracker: Callable[[], Tracker]) -> tuple[Progress, Tracker]:
    """Train until `max_steps`, from the newest checkpoint if there is one.

    Args:
        job: What is trained.
        open_tracker: Called once when nothing speaks against the run any more.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; a checkpoint was saved after the step in progress.
        OutputClosed: Nobody reads the lines any more; a checkpoint was saved.
        InputError: A loss or gradient is no longer finite, features collapsed, or the checkpoints are another run's.
    """
    network, settings = job.network, job.settings
    progress = _resume(job)
    if progress.step and job.processes.is_first:
        say_line(f"Going on behind step {progress.step} of {settings.max_steps}.")
    tracker = open_tracker()
    network.train()
    display = open_display(progress.step, settings.max_steps, job.processes.is_first)
    crops = job.crops(progress.step)
    bad_steps, agreement = FirstBadSteps(), distributed.Agreement()
    unheard: OutputClosed | None = None
    clock = Clock(settings.batch_size * job.processes.world_size, progress.step, progress.seconds)
    try:
        with exactness(settings.deterministic), stop_requests() as requested:
            backward = gradients_of(*wrap(job, progress.step), progress.step)
            while progress.step < settings.max_steps:
                take_step(backward, next(crops), job, progress, bad_steps)
                display.step()
                progress.seconds = clock.seconds
                last = progress.step == settings.max_steps
                scored = job.validation is not None and (last or progress.step % job.validation.every_steps == 0)
                if last or scored or progress.step % settings.log_every_steps == 0:
                    _check_finite(job, bad_steps)
                    line = _line(job, progress, clock) | (_scores(job, clock, display) if scored else {})
                    try:
                        display.line(progress.step, line)
                    except OutputClosed as closed:
                        unheard = closed
                    if job.processes.is_first:
                        job.run.append_metrics(line)
                        tracker.log(line)
                    check_collapse(progress, line, job.run.metrics, settings.on_collapse, tells=job.processes.is_first)
                stopping = agreement.any_rank(bool(requested) or unheard is not None)
                if last or stopping or progress.step % settings.checkpoint_every_steps == 0:
                    _check_finite(job, bad_steps)
                    _save(job, progress)
                if stopping:
                    raise unheard or _stopped(progress, settings)
            if agreement.settle():
                raise unheard or _stopped(progress, settings)
    except BaseException:
        tracker.finish(None)
        raise
    finally:
        display.close()
    return progress, tracker


def _stopped(progress: Progress, settings: TrainerSettings) -> Interrupted:
    then = "goes on from there" if progress.step < settings.max_steps else "finishes it"
    return Interrupted(f"Stopped after step {progress.step} of {settings.max_steps}. The same command {then}.")


def wrap(job: Job, step: int) -> tuple[nn.Module, Job]:
    """Return the module whose forward and backward a step runs, and the job: both compiled if asked for.

    The module averages gradients over ranks.

    Args:
        job: Its network is in training mode.
        step: The first step that will be taken.
    """
    module, complete = job.network, job.complete
    if job.settings.compile and step < job.settings.max_steps:  # else there is no batch left to try it with
        module, complete = compiled_or_eager(
            module, complete, lambda: _first_batch(job, step), job.settings.gradient_accumulation, job.device,
            job.identity.precision,
        )  # fmt: skip
    return distributed.average_gradients(module, job.device), replace(job, complete=complete)


def gradients_of(module: nn.Module, job: Job, step: int) -> Work:
    """Return what a step does with a batch: leave its gradient in the parameters, and tell losses and metrics.

    Args:
        module: What `wrap` returned.
        job: What `wrap` returned.
        step: As `wrap` takes it.
    """
    work = partial(_accumulate_gradients, module, job)
    if step < job.settings.max_steps and records(job):
        return replayed_or_not(work, job.network, lambda: _first_batch(job, step))
    return work


def records(job: Job) -> bool:
    """Tell whether augmentation, forward and backward are to be recorded, see `TrainerSettings.cuda_graph`."""
    if job.device.type != "cuda" or job.processes.world_size > 1 or job.settings.cuda_graph == "never":
        return False
    return job.settings.cuda_graph == "always" or does_the_same_each_step(job.network)


def _first_batch(job: Job, step: int) -> Any:
    return job.make_batch(next(job.crops(step)), step)


def take_step(backward: Work, crops: Any, job: Job, progress: Progress, bad_steps: FirstBadSteps) -> None:
    """One optimizer step; its losses and metrics are added to the sums of the next log line.

    Args:
        backward: What `gradients_of` returned.
        crops: Stored crops of the step.
        job: What is trained.
        progress: How far it is; goes on by a step.
        bad_steps: Notes what is not finite.
    """
    settings = job.settings
    seed_step(job.seed, progress.step, job.processes.rank)  # after the loader, which may draw from the global generator
    for group in job.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * job.schedule(progress.step, settings.max_steps)
    batch = job.make_batch(crops, progress.step)
    network = job.network
    buffers = [buffer.clone() for buffer in network.buffers()] if settings.max_skipped_steps else []
    values = backward(batch)
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    losses = {name: value for name, value in values.items() if name.startswith("loss/")}
    progress.step += 1
    if progress.skipped < settings.max_skipped_steps and not norm.isfinite():
        for buffer, value in zip(network.buffers(), buffers, strict=True):  # the running moments have seen the batch
            buffer.copy_(value)
        job.optimizer.zero_grad()
        progress.skipped += 1
        _tell_skipped(job, progress, crops, {**losses, "the norm of the gradient": norm})
        return
    bad_steps.note(progress.step - 1, {**losses, "the norm of the gradient": norm})
    if settings.gradient_clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, settings.gradient_clip, norm)
    job.optimizer.step()
    job.optimizer.zero_grad()
    if job.after_step is not None:
        job.after_step(progress.step - 1, settings.max_steps)
    progress.add({**values, "gradient_norm": norm.float()})


def _tell_skipped(job: Job, progress: Progress, crops: Any, values: Mapping[str, Tensor]) -> None:
    """Warn of a step that was left out, and save the crops that led to it."""
    names = [name for name, value in values.items() if not value.isfinite()]
    path = save_crops(job.run.path, progress.step - 1, job.processes.rank, crops)
    if job.processes.is_first:
        warnings.warn(
            f"Step {progress.step} was left out ({progress.skipped} of at most {job.settings.max_skipped_steps}); not "
            f"finite: {', '.join(names)}. Its crops are in {path}.",
            stacklevel=2,
        )


def _accumulate_gradients(module: nn.Module, job: Job, batch: Any) -> dict[str, Tensor]:
    """Leave the gradient of a batch in the parameters, and return its losses and metrics: the means over its parts."""
    count = job.settings.gradient_accumulation
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(in_parts(job.complete(batch), count), start=1):
        with distributed.gradients_stay(module, here=number < count):
            with torch.autocast(job.device.type, torch.bfloat16, enabled=job.identity.precision == "bf16"):
                outputs: Mapping[str, TaskOutput] = module(part)
            if job.after_part is not None:
                job.after_part(number)
            total = torch.stack([job.weights[name] * output.loss for name, output in outputs.items()]).sum()
            (total / count).backward()  # type: ignore[no-untyped-call]
        for name, value in _named_values(total, outputs).items():
            sums[name] = sums[name] + value if name in sums else value
    return {name: value / count for name, value in sums.items()}


def _named_values(total: Tensor, outputs: Mapping[str, TaskOutput]) -> dict[str, Tensor]:
    values = {"loss": total.detach().float()}
    for task, output in outputs.items():
        values[f"loss/{task}"] = output.loss.detach().float()
        values |= {f"{task}/{name}": metric.detach().float() for name, metric in output.metrics.items()}
    return values


def _check_finite(job: Job, bad_steps: FirstBadSteps) -> None:
    """Stop where a loss or the gradient of an earlier step was not finite, and save the crops that led to it.

    Raises:
        InputError: Names task, step and file.
    """
    found = bad_steps.first()
    if found is None:
        return
    step, names = found
    crops = next(job.crops(step))
    path = save_crops(job.run.path, step, job.processes.rank, crops)
    left_out = f" after {job.settings.max_skipped_steps} steps were left out" if job.settings.max_skipped_steps else ""
    good, goes_on = "", ""
    if any(job.run.checkpoints.glob("*.ckpt")):
        good, goes_on = f", the last good checkpoint in {job.run.checkpoints}", ", which goes on from that checkpoint"
    exact = "" if job.identity.precision == "fp32" else " or trainer.precision=fp32"
    raise InputError(
        f"{' and '.join(names)} stopped being finite at step {step + 1}{left_out}: the run diverged, or its data is "
        f"bad. {without_data(crops)}The crops of that step are in {path}{good}. Let some steps be left out with "
        f"trainer.max_skipped_steps={max(10, 2 * job.settings.max_skipped_steps)}{goes_on}; or start anew with a lower "
        f"optimizer.lr, trainer.gradient_clip=1.0{exact}."
    )


def _line(job: Job, progress: Progress, clock: Clock) -> dict[str, float]:
    """Return the means since the last line, over steps and ranks, and start new sums."""
    probed = {f"collapse/{name}": value.float() for name, value in job.probe().items()} if job.probe else {}
    sums = {name: value / progress.count for name, value in progress.sums.items()} | probed
    names = sorted(sums)
    means = distributed.mean_over_ranks(torch.stack([sums[name] for name in names])).tolist() if names else []
    # Of a step that was left out, the features may be no numbers, for which JSON has none.
    values = {name: mean for name, mean in zip(names, means, strict=True) if name not in probed or math.isfinite(mean)}
    progress.sums, progress.count = {}, 0
    return {
        "step": progress.step,
        **values,
        **({"skipped_steps": progress.skipped} if progress.skipped else {}),
        "lr": job.optimizer.param_groups[0]["lr"],
        "images_per_second": clock.rate(progress.step),
        "seconds": round(progress.seconds, 3),
    }


def _scores(job: Job, clock: Clock, display: Display) -> dict[str, float]:
    """Return the scores of the weights as they are; the time that takes is none of the steps'."""
    assert job.validation is not None
    display.scoring()
    with clock.paused():
        scores = {f"validation/{name}": value for name, value in job.validation.score().items()}
    job.network.train()
    return scores


def _resume(job: Job) -> Progress:
    """Load the newest checkpoint, if there is one, and drop the lines of metrics.jsonl behind it."""
    accept = job.settings.accept_other_versions
    found = load_checkpoint(
        job.run.checkpoints, job.network, job.optimizer, job.identity, job.device, accept, job.processes.is_first
    )
    progress = found or Progress()
    _agree(progress.step, job)
    progress.sums = {name: ranks[job.processes.rank] for name, ranks in progress.sums.items()}
    if job.processes.is_first:
        job.run.keep_metrics_until(progress.step)
    return progress


def _agree(step: int, job: Job) -> None:
    """Refuse to go on where ranks read different checkpoints, as when a node does not see the newest file yet.

    Raises:
        InputError: On every rank.
    """
    least, most = distributed.min_over_ranks(torch.tensor([step, -step], device=job.device)).tolist()
    if least != -most:
        raise InputError(
            f"Ranks would go on from different checkpoints in {job.run.checkpoints}: from step {least} and from step "
            f"{-most}. Not all of them see the newest one: see that every machine does, then start it again."
        )


def _save(job: Job, progress: Progress) -> None:
    """Write a checkpoint with the sums of every rank: metrics must not depend on when a run was stopped.

    Raises:
        InputError: A weight is not finite, on every rank.
    """
    names = sorted(progress.sums)
    ranks = distributed.gather(torch.stack([progress.sums[name] for name in names])[None]) if names else None
    sums = {name: ranks[:, column] for column, name in enumerate(names)} if ranks is not None else {}
    check_weights(job.network, progress.step, job.run.checkpoints)
    if job.processes.is_first:
        folder, whole = job.run.checkpoints, replace(progress, sums=sums)
        save_checkpoint(folder, job.network, job.optimizer, whole, job.identity, job.device)
