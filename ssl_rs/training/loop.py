"""The training loop of both stages: batch, forward, backward, step; logs and checkpoints between steps."""

import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from ssl_rs import distributed
from ssl_rs.agreement import Agreement
from ssl_rs.errors import InputError, Interrupted
from ssl_rs.messages import OutputClosed, say_line
from ssl_rs.training.checkpoint_times import Saving
from ssl_rs.training.collapse import check_collapse
from ssl_rs.training.divergence import FirstBadSteps, check_weights, save_crops, without_data
from ssl_rs.training.job import Job
from ssl_rs.training.progress import Clock, Display, open_display
from ssl_rs.training.settings import TrainerSettings, exactness
from ssl_rs.training.state import Progress, load_checkpoint, save_checkpoint
from ssl_rs.training.step import gradients_of, take_step, wrap
from ssl_rs.training.stopping import stop_requests
from ssl_rs.training.tracking import Tracker, closed_on_error


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
    tracker = open_tracker()
    network.train()
    display = open_display(progress.step, settings.max_steps, job.processes.is_first)
    bad_steps, agreement, saving = FirstBadSteps(), Agreement(), Saving(settings.checkpoint_every_steps)
    unheard: OutputClosed | None = None
    clock = Clock(settings.batch_size * job.processes.world_size, progress.step, progress.seconds)
    with (
        closing(display),
        closed_on_error(tracker),
        exactness(settings.deterministic),
        stop_requests() as requested,
        closing(job.crops(progress.step)) as crops,
    ):
        backward = gradients_of(*wrap(job, progress.step), progress.step)
        while progress.step < settings.max_steps:
            take_step(backward, next(crops), job, progress, bad_steps)
            display.step()
            progress.seconds = clock.seconds
            last = progress.step == settings.max_steps
            scored = job.validation is not None and (last or progress.step % job.validation.every_steps == 0)
            if last or scored or progress.step % settings.log_every_steps == 0:
                _check_finite(job, bad_steps)
                unheard = _log(job, progress, clock, display, tracker, scored) or unheard
            is_late = job.processes.is_first and saving.asks()
            stopping, due = agreement.any_rank(bool(requested) or unheard is not None, is_late)
            if last or stopping or due or saving.is_due_after(progress.step):
                _check_finite(job, bad_steps)
                with saving.timed():
                    _save(job, progress)
            if stopping:
                raise unheard or _stopped(progress, settings)
        if any(agreement.settle()[:1]):
            raise unheard or _stopped(progress, settings)
    return progress, tracker


def _stopped(progress: Progress, settings: TrainerSettings) -> Interrupted:
    then = "goes on from there" if progress.step < settings.max_steps else "finishes it"
    return Interrupted(f"Stopped after step {progress.step} of {settings.max_steps}. The same command {then}.")


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


def _log(
    job: Job, progress: Progress, clock: Clock, display: Display, tracker: Tracker, scored: bool
) -> OutputClosed | None:
    """Show a line of metrics and write it down, with scores if it is time for them; tell if nobody reads the lines.

    Raises:
        InputError: Features collapsed.
    """
    line = _line(job, progress, clock) | (_scores(job, clock, display) if scored else {})
    unheard: OutputClosed | None = None
    try:
        display.line(progress.step, line)
    except OutputClosed as closed:
        unheard = closed
    if job.processes.is_first:
        job.run.append_metrics(line)
        tracker.log(line)
    check_collapse(progress, line, job.run.metrics, job.settings.on_collapse, tells=job.processes.is_first)
    return unheard


def _line(job: Job, progress: Progress, clock: Clock) -> dict[str, float]:
    """Return the means since the last line, over steps and ranks, and start new sums."""
    probed = {f"collapse/{name}": value.float() for name, value in job.probe().items()} if job.probe else {}
    sums = {name: value / progress.count for name, value in progress.sums.items()} | probed
    names = _same_names(sums, job)
    means = distributed.mean_over_ranks(torch.stack([sums[name] for name in names])).tolist() if names else []
    # The features of a step that was left out, or a metric of a task, may be no numbers, for which JSON has no word.
    values = {name: mean for name, mean in zip(names, means, strict=True) if math.isfinite(mean)}
    progress.sums, progress.count = {}, 0
    return {
        "step": progress.step,
        **values,
        **({"skipped_steps": progress.skipped} if progress.skipped else {}),
        "lr": job.optimizer.param_groups[0]["lr"],
        "images_per_second": clock.rate(progress.step),
        "seconds": round(progress.seconds, 3),
    }


def _same_names(values: Mapping[str, Tensor], job: Job) -> list[str]:
    """Return the names of what is to be averaged over ranks, in order; without this check ranks would wait in vain.

    Raises:
        InputError: Ranks have other names; on every rank.
    """
    names = sorted(values)
    number = zlib.crc32("\n".join(names).encode())
    least, most = distributed.min_over_ranks(torch.tensor([number, -number], device=job.device)).tolist()
    if least != -most:
        raise InputError(
            f"Ranks have different metrics, of which no mean can be taken; rank {job.processes.rank} has "
            f"{', '.join(names)}. A task has to return the same metrics on every rank."
        )
    return names


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
        if progress.step:
            say_line(f"Going on after step {progress.step} of {job.settings.max_steps}.")
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
    names = _same_names(progress.sums, job)
    ranks = distributed.gather(torch.stack([progress.sums[name] for name in names])[None]) if names else None
    sums = {name: ranks[:, column] for column, name in enumerate(names)} if ranks is not None else {}
    check_weights(job.network, progress.step, job.run.checkpoints)
    if job.processes.is_first:
        folder, whole = job.run.checkpoints, replace(progress, sums=sums)
        save_checkpoint(folder, job.network, job.optimizer, whole, job.identity, job.device)
