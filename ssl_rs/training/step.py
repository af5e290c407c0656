"""One step of training: forward, backward, and what moves the weights; compiled or recorded where that pays."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs import distributed
from ssl_rs.precision import autocast
from ssl_rs.randomness import seed_step
from ssl_rs.task_output import TaskOutput, check_same_metrics
from ssl_rs.training.accumulation import in_parts
from ssl_rs.training.compiling import compiled_or_eager
from ssl_rs.training.cuda_graph import Work, does_the_same_each_step, replayed_or_not
from ssl_rs.training.divergence import FirstBadSteps, save_crops
from ssl_rs.training.job import Job
from ssl_rs.training.state import Progress


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
    norm = gradient_norm(network)
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
    update(job, progress.step - 1, norm)
    progress.add({**values, "gradient_norm": norm.float()})


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the 2-norm of all gradients together."""
    return nn.utils.get_total_norm([each.grad for each in network.parameters() if each.grad is not None])


def update(job: Job, step: int, norm: Tensor) -> None:
    """Clip the gradients, move all that learns by them, and forget them.

    Args:
        job: What is trained; its gradients are complete.
        step: How many steps were taken before.
        norm: Of the gradients, as `gradient_norm` returns it.
    """
    if job.settings.gradient_clip is not None:
        nn.utils.clip_grads_with_norm_(job.network.parameters(), job.settings.gradient_clip, norm)
    job.optimizer.step()
    job.optimizer.zero_grad()
    if job.after_step is not None:
        job.after_step(step, job.settings.max_steps)


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
            with autocast(job.device, job.identity.precision):
                outputs: Mapping[str, TaskOutput] = module(part)
            if job.after_part is not None:
                job.after_part(number)
            total = torch.stack([job.weights[name] * output.loss for name, output in outputs.items()]).sum()
            (total / count).backward()  # type: ignore[no-untyped-call]
        values = _named_values(total, outputs)
        check_same_metrics(values, sums or values, f"Part {number} of a batch", "part")
        sums = {name: sums[name] + value for name, value in values.items()} if sums else values
    return {name: value / count for name, value in sums.items()}


def _named_values(total: Tensor, outputs: Mapping[str, TaskOutput]) -> dict[str, Tensor]:
    values = {"loss": total.detach().float()}
    for task, output in outputs.items():
        values[f"loss/{task}"] = output.loss.detach().float()
        values |= {f"{task}/{name}": metric.detach().float() for name, metric in output.metrics.items()}
    return values
