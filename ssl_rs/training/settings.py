"""The settings of the loop, and what `auto` means on this machine."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from ssl_rs.errors import InputError
from ssl_rs.machine import memory_of_machine, usable_cores

MOST_READERS = 4
"""Processes that read crops for one GPU unless the settings say otherwise."""

LARGEST_BATCH = 2**16
"""Crops a step and process: drawing more takes minutes, and no device holds them."""

MOST_STEPS = 10**9
"""Optimizer steps: more than any run takes, and counters of every kind hold them."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long, how large, where and how exactly a run trains.

    Args:
        max_steps: Optimizer steps.
        batch_size: Crops a step and process.
        device: "auto" takes a GPU where there is one; else any name of torch, e.g. "cpu", "cuda", "mps".
        precision: "auto" takes bf16 where the device computes in it, else fp32.
        num_workers: Processes that read crops ahead, for each process of the run; 0 reads them in the loop. None: for a
            GPU its share of the cores, at most MOST_READERS; on a CPU, where they take cores from the step, 0, or 1
            where half of the memory does not hold the scenes, so that most crops come from the disk.
        resident: Whether the scenes lie on the device, where crops are cut at once: "auto" where a GPU has four times
            their size free; the crops are the same.
        keep_memory: On a CPU, keep memory that is freed for the next step: faster, but more is held.
        checkpoint_every_steps: Steps between checkpoints; null: half a minute or more, so that they take at most 2 % of
            the time.
        log_every_steps: Steps between lines of metrics.jsonl.
        cuda_graph: Whether a GPU gets augmentation, forward and backward of a step as one recording instead of
            operation by operation, which a host cannot send as quickly as a fast GPU computes them; the numbers are the
            same.
            "auto": where all modules are known to do the same work in every step, see `replay.PLAIN`; "always": of
            others, too. Runs of several processes record nothing. The recording keeps the memory of a step.
        compile: Run network and augmentation through torch.compile; where that fails, a warning says why and both run
            as they are.
        decay_norms_and_biases: Whether the optimizer's weight decay acts on all parameters; false: on those of two and
            more dimensions, so not on biases, the scales of norms and temperatures.
        deterministic: Refuse operations whose result may differ from run to run.
        encoder_lr_factor: The encoder's learning rate over that of all else, heads or decoder: below 1 is gentler to
            weights that are worth keeping; 0 keeps them, but not the running statistics of BatchNorm.
        gradient_clip: Largest norm of all gradients together; null: no limit.
        gradient_accumulation: Equal parts in which the crops of a step go through the network, to spare memory. Each
            part is a batch of its own for BatchNorm, for the candidates of contrastive losses and for weighted means;
            the gradient is the mean of the parts'.
        max_skipped_steps: Steps that may be left out because their gradient was not finite; above 0 each step waits
            for the device.
        on_collapse: What to do when the features of a pretraining have collapsed.
        accept_other_versions: Go on from checkpoints of other versions of torch or ssl_rs, though not bit for bit.
    """

    max_steps: int
    batch_size: int
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    num_workers: int | None = None
    resident: Literal["auto", "always", "never"] = "auto"
    keep_memory: bool = True
    checkpoint_every_steps: int | None = None
    log_every_steps: int = 10
    cuda_graph: Literal["auto", "always", "never"] = "auto"
    compile: bool = False
    decay_norms_and_biases: bool = True
    deterministic: bool = False
    encoder_lr_factor: float = 1.0
    gradient_clip: float | None = None
    gradient_accumulation: int = 1
    max_skipped_steps: int = 0
    on_collapse: Literal["warn", "stop"] = "warn"
    accept_other_versions: bool = False

    def __post_init__(self) -> None:
        for key, most in (("batch_size", LARGEST_BATCH), ("max_steps", MOST_STEPS)):
            if getattr(self, key) > most:
                raise InputError(f"trainer.{key} must be at most {most}, got {getattr(self, key)}.")
        if self.batch_size < 2:
            raise InputError(
                f"trainer.batch_size must be at least 2: one image has no batch statistics; got {self.batch_size}."
            )
        at_least_one = ("max_steps", "checkpoint_every_steps", "log_every_steps", "gradient_accumulation")
        for key, least in {**dict.fromkeys(at_least_one, 1), "num_workers": 0, "max_skipped_steps": 0}.items():
            if getattr(self, key) is not None and getattr(self, key) < least:
                raise InputError(f"trainer.{key} must be at least {least}, got {getattr(self, key)}.")
        size, parts = self.batch_size, self.gradient_accumulation
        if size % parts or size // parts < 2:
            raise InputError(
                f"trainer.gradient_accumulation={parts} must divide trainer.batch_size={size} into parts of at least 2 "
                f"images, e.g. trainer.batch_size={2 * parts}."
            )
        if not 0 <= self.encoder_lr_factor < math.inf:
            raise InputError(f"trainer.encoder_lr_factor must be a number from 0 on, got {self.encoder_lr_factor}.")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise InputError(f"trainer.gradient_clip must be above 0, or null for no limit; got {self.gradient_clip}.")

    @property
    def computes_on_cpu(self) -> bool:
        """Whether the device is a CPU, told without opening another."""
        return self.device.partition(":")[0] == "cpu" or (self.device == "auto" and not torch.cuda.is_available())

    def resolve_device(self, local_rank: int, on_this_machine: int = 1) -> torch.device:
        """Return the device of this process.

        Args:
            local_rank: Of this process among those of the run on this machine.
            on_this_machine: How many these are.

        Raises:
            InputError: No such device on this machine, or one that several processes would share.
        """
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            device = torch.device(name)
            if device.type == "cuda" and device.index is None:
                device = torch.device("cuda", local_rank)
            elif device.type == "cuda" and on_this_machine > 1:
                raise InputError(
                    f"trainer.device={self.device} puts all {on_this_machine} processes of this machine on one GPU. "
                    "Say trainer.device=cuda: each then takes its own; CUDA_VISIBLE_DEVICES says of which."
                )
            if device.type == "meta":
                raise RuntimeError("it holds no values")
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            of_rank = f", {name}:{local_rank} for local rank {local_rank}," if local_rank and name == "cuda" else ""
            raise InputError(
                f"trainer.device={self.device}{of_rank} cannot be used here: {str(error).splitlines()[0]}"
            ) from error
        return device

    def holds_scenes(self, device: torch.device, size: int) -> bool:
        """Tell whether scenes of so many bytes are to lie on the device."""
        if self.resident != "auto":
            return self.resident == "always"
        return device.type == "cuda" and 4 * size <= torch.cuda.mem_get_info(device)[0]

    def resolve_workers(self, device: torch.device, processes: int, size: int) -> int:
        """Return how many processes read crops ahead.

        Args:
            device: Of this process of the run.
            processes: Of the run, on this machine.
            size: Bytes of the scenes.
        """
        if self.num_workers is not None:
            if self.num_workers * processes > usable_cores():
                warnings.warn(
                    f"trainer.num_workers={self.num_workers}: these processes share {usable_cores()} cores, so more of "
                    "them read no faster. Leave it out for as many as help.",
                    stacklevel=2,
                )
            return self.num_workers
        if device.type == "cuda":
            return max(0, min(MOST_READERS, usable_cores() // processes - 1))
        return int(2 * size > memory_of_machine())

    def resolve_precision(self, device: torch.device) -> Literal["bf16", "fp32"]:
        """Return the precision of the forward pass."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies bf16 in hardware, so that it is faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


@contextmanager
def exactness(deterministic: bool) -> Iterator[None]:
    """Within it torch refuses operations that may differ from run to run; afterwards everything is as before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=only_warned)
        torch.backends.cudnn.benchmark = before[1]
