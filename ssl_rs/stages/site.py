"""Where a run happens: processes, device, precision, and the prepared data."""

import json
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from ssl_rs import distributed
from ssl_rs.config import Settings
from ssl_rs.data.cutting import ResidentScenes, resident_bytes
from ssl_rs.data.dataset import Dataset
from ssl_rs.data.gpu_prefetch import copied_ahead
from ssl_rs.data.prepare import prepare
from ssl_rs.data.sampling import BatchSource, batches
from ssl_rs.data.store import Store
from ssl_rs.data.store_location import locate_store
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Backbone, Statistics
from ssl_rs.errors import InputError
from ssl_rs.initialization import Target
from ssl_rs.randomness import Rows
from ssl_rs.segmentation.protocols import find_protocol, protocols_of
from ssl_rs.stages.prepared_store import prepare_store
from ssl_rs.training.host_memory import keep_freed_memory
from ssl_rs.training.settings import TrainerSettings

T = TypeVar("T", bound=tuple[Any, ...])
S = TypeVar("S", bound=BatchSource[Any])


@dataclass(frozen=True)
class Site:
    """The surroundings of one training run.

    Args:
        trainer: Settings of the loop.
        processes: This process among all.
        device: Where this process computes.
        precision: Of the forward pass.
        dataset: The data set as configured.
        store: The data set as prepared.
        seed: Seed of the run.
        output_dir: All runs lie below it.
    """

    trainer: TrainerSettings
    processes: Processes
    device: torch.device
    precision: Literal["bf16", "fp32"]
    dataset: Dataset
    store: Store
    seed: int
    output_dir: Path

    @property
    def rows(self) -> Rows:
        """This process's rows of the global batch."""
        return Rows.of_rank(self.processes.rank, self.processes.world_size, self.trainer.batch_size)

    @property
    def statistics(self) -> Statistics:
        """Mean and standard deviation of the data's bands over its training scenes."""
        manifest = self.store.manifest
        return Statistics(manifest.mean, manifest.std, f"the training scenes of {manifest.dataset}")

    def settle_memory(self) -> None:
        """Keep freed memory where a CPU computes, unless the settings say otherwise."""
        if self.trainer.keep_memory and self.device.type == "cpu":
            keep_freed_memory()

    def bring(self, source: S) -> S:
        """Return a source of batches with its scenes on the device, where they fit there."""
        if self.trainer.holds_scenes(self.device, resident_bytes(self.store, source.scenes, source.kinds)):
            source.cutter = ResidentScenes(self.store, source.scenes, source.kinds, self.device)
        return source

    def readers(self, source: BatchSource[Any]) -> int:
        """Return how many processes read batches ahead for this one."""
        if isinstance(source.cutter, ResidentScenes):
            return 0
        size = resident_bytes(self.store, source.scenes, source.kinds)
        return self.trainer.resolve_workers(self.device, self.processes.on_this_machine, size)

    def batches(self, source: BatchSource[T], start: int) -> Generator[T, None, None]:
        """Yield this process's share of the batch of each step from one on."""
        resident = isinstance(source.cutter, ResidentScenes)
        on_gpu = self.device.type == "cuda"
        found = batches(source, start, self.trainer.max_steps, self.rows, self.readers(source), pinned=on_gpu)
        return copied_ahead(found, self.device) if on_gpu and not resident else found

    def target(self, backbone: Backbone) -> Target:
        """What an initialization must fit."""
        manifest = self.store.manifest
        pretrainings = _pretrainings(self.output_dir, self.dataset, backbone.name)
        return Target(
            manifest.dataset,
            backbone.name,
            manifest.bands,
            manifest.dtype,
            self.statistics,
            manifest.value_scale,
            pretrainings,
            held_out=frozenset(self.store.image_hashes(("val", "test"))),
            training=frozenset(self.store.image_hashes({"train"})),
        )


@dataclass(frozen=True)
class SiteSettings:
    """What a config says of the surroundings of a run; reading it does nothing yet.

    Args:
        trainer: Settings of the loop.
        dataset: The data set as configured.
        seed: Seed of the run.
        output_dir: All runs lie below it.
        store_dir: Prepared data sets lie in it.

    Raises:
        InputError: `dataset.protocol` is none that the data set is scored by.
    """

    trainer: TrainerSettings
    dataset: Dataset
    seed: int
    output_dir: Path
    store_dir: Path

    def __post_init__(self) -> None:
        find_protocol(self.dataset.protocol, protocols_of(self.dataset.clutter, self.dataset.erodes))

    @classmethod
    def read(cls, settings: Settings) -> "SiteSettings":
        """Read the keys that both training stages have."""
        output_dir, store_dir = Path(settings.value("output_dir", str)), Path(settings.value("store_dir", str))
        return cls(
            settings.build("trainer"), settings.build("dataset"), settings.value("seed", int), output_dir, store_dir
        )

    def pretrainings(self, backbone: str) -> Path:
        """The folder under which the pretrainings of this data set and backbone lie."""
        return _pretrainings(self.output_dir, self.dataset, backbone)

    def prepared_manifest(self) -> str | None:
        """Return the manifest's hash of the data as they lie there now; None where they are not prepared."""
        with suppress(InputError):
            path, _ = locate_store(self.dataset, self.store_dir)
            return Store.open(path).manifest.sha256 if path.exists() else None
        return None

    def enter(self, before_preparing: Callable[[], None] | None = None) -> Site:
        """Join the other processes, and prepare the data if nobody has.

        Args:
            before_preparing: Refuses what can be refused before data is prepared, which may take hours.
        """
        processes = Processes.from_environment()
        device = self.trainer.resolve_device(processes.local_rank, processes.on_this_machine)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # else threads of torch's own open a context on the first GPU, too
        distributed.start(processes, device)
        store = open_store(self.dataset, self.store_dir, processes, before_preparing)
        precision = self.trainer.resolve_precision(device)
        return Site(self.trainer, processes, device, precision, self.dataset, store, self.seed, self.output_dir)


_PASSED: set[str] = set()
"""Checks that this process has seen pass."""


def check_once(check: Callable[[], Any], *key: Any) -> None:
    """Run a check unless it passed for an equal key: the cells of a sweep differ in little, and networks take a while.

    Args:
        check: Raises InputError, or passes.
        key: All that it depends on, as plain data.
    """
    text = json.dumps(key, sort_keys=True)
    if text not in _PASSED:
        check()
        _PASSED.add(text)


def _pretrainings(output_dir: Path, dataset: Dataset, backbone: str) -> Path:
    return output_dir / "pretrain" / dataset.name / backbone


def open_store(
    dataset: Dataset, store_dir: Path, processes: Processes, before_preparing: Callable[[], None] | None = None
) -> Store:
    """Return the prepared data set; the first process checks, and prepares it where nobody has."""
    with distributed.others_wait(processes):
        if processes.is_first:
            check = None if before_preparing is None else cache(before_preparing)
            store = prepare_store(dataset, store_dir, before=check)
            if check is not None:
                check()  # not again where it preceded the preparation
    return store if processes.is_first else prepare(dataset, store_dir)
