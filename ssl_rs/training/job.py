"""What one training needs: the network, its data, what moves it, and where it runs."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs.distributed import Processes
from ssl_rs.run_directory import RunDirectory
from ssl_rs.training.schedule import Schedule
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.training.state import Identity


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
    crops: Callable[[int], Generator[Any, None, None]]
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
