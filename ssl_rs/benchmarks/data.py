"""What reading crops costs: every reader, and stores of growing size."""

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ssl_rs.benchmarks.base import Findings, Workplace, alternate, check_repeats, milliseconds, most_resident
from ssl_rs.data.cutting import ResidentScenes
from ssl_rs.data.manifest import FORMAT_VERSION, SceneRecord, SourceRecord
from ssl_rs.data.sampling import READ_AHEAD, batches
from ssl_rs.data.scene_crops import Crops, SceneCrops
from ssl_rs.data.store import Store, array_file
from ssl_rs.errors import InputError
from ssl_rs.stages.pretraining_batches import scene_crops
from ssl_rs.stages.site import Site
from ssl_rs.transfer import to_device

SIDE = 2000
"""Pixels of a made-up scene's side."""


REREAD = 8
"""Batches that are read again."""


@dataclass(frozen=True)
class DataBenchmark:
    """Times a batch of `trainer.batch_size` crops of `dataset.crop_size` from each reader and from growing stores.

    Args:
        repeats: Turns, of which the median counts.
        calls: Batches a turn.
        scenes: Sizes of the made-up stores. Their scenes are sparse files of 2,000 x 2,000 x 3 bytes. Crops are read
            from places that nobody has read yet, and again: the one is what the system does for a new page, the other
            what we do for a crop.
    """

    repeats: int = 5
    calls: int = 10
    scenes: Sequence[int] = (10, 100, 1000, 10000)

    def __post_init__(self) -> None:
        check_repeats(self.repeats, self.calls)
        if not self.scenes or min(self.scenes) < 1:
            raise InputError(f"benchmark.scenes={list(self.scenes)}: expected numbers of scenes, at least 1 each.")

    def __call__(self, workplace: Workplace) -> Findings:
        """Measure on the data set of the config, then on made-up stores."""
        site = workplace.plan.site
        source, resident = (scene_crops(workplace.plan, site.seed) for _ in range(2))
        resident.cutter = ResidentScenes(site.store, resident.scenes, resident.kinds, site.device)
        workers = {"memory maps": 0, "1 worker": 1, "2 workers": 2}
        readers = {
            **{name: _reader(source, site, count) for name, count in workers.items()},
            f"resident on {site.device.type}": _reader(resident, site, 0),
        }
        before = {name: partial(_use_up, readers[name], READ_AHEAD * count) for name, count in workers.items()}
        by_reader = alternate(readers, self.repeats, self.calls, site.device, before)
        with tempfile.TemporaryDirectory() as folder:
            sizes = sorted(set(self.scenes))
            sources = {str(count): sparse_crops(Path(folder), count, site) for count in sizes}
            grown = {name: _reader(source, site, 0) for name, source in sources.items()}
            by_size = alternate(grown, self.repeats, self.calls, site.device)
            known = {name: _rereader(source, site) for name, source in sources.items()}
            again = alternate(known, self.repeats, self.calls, site.device)
            memory = {name: _resident_growth(reader) for name, reader in grown.items()}
        return _findings(by_reader, by_size, again, memory, site)


def _use_up(read: Callable[[], Crops], count: int) -> None:
    """Take the batches that processes have read ahead."""
    for _ in range(count):
        read()


def _reader(source: SceneCrops, site: Site, num_workers: int) -> Callable[[], Crops]:
    """Return what takes the next batch and brings it to the device."""
    on_gpu = site.device.type == "cuda"
    endless: Iterator[Crops] = batches(source, 0, 2**40, site.rows, num_workers, pinned=on_gpu)

    def read() -> Crops:
        crops = next(endless)
        return crops._replace(images=to_device(crops.images, site.device))

    return read


def _rereader(source: SceneCrops, site: Site) -> Callable[[], Crops]:
    """Return what takes the crops of the first REREAD steps over and over; it has read them once."""
    rounds = (batches(source, 0, REREAD, site.rows, 0) for _ in itertools.count())
    endless: Iterator[Crops] = itertools.chain.from_iterable(rounds)
    for _ in range(REREAD):
        next(endless)
    return lambda: next(endless)


def sparse_crops(folder: Path, count: int, site: Site) -> SceneCrops:
    """Return crops of a store of `count` scenes, written to the folder as files that hold nothing but their size."""
    path = folder / str(count)
    path.mkdir()
    bands, records = len(site.store.manifest.bands), []
    dtype = np.dtype(site.store.manifest.dtype)
    for number in range(count):
        with open(path / array_file(number, "image"), "wb") as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (bands, SIDE, SIDE)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + bands * SIDE * SIDE * dtype.itemsize)
        source = SourceRecord(array_file(number, "image"), "0" * 64)
        records.append(SceneRecord(number, f"{number}", "train", SIDE, SIDE, None, None, (source,), (), 1.0, (source,)))
    manifest = replace(
        site.store.manifest, format_version=FORMAT_VERSION, classes=(), eroded=False, scenes=tuple(records), skipped=()
    )
    return SceneCrops(Store(path, manifest), ("train",), site.dataset.crop_size, site.seed)


def _resident_growth(read: Callable[[], Crops]) -> float:
    """Return by how much 50 further batches let the memory of this process grow, MB."""
    before = _held()
    for _ in range(50):
        read()
    return _held() - before


def _held() -> float:
    """Return the memory of this process that no file backs, MB: pages of memory maps are the system's to take back."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1e3
    return most_resident()


def _findings(
    by_reader: Mapping[str, float],
    by_size: Mapping[str, float],
    again: Mapping[str, float],
    memory: Mapping[str, float],
    site: Site,
) -> Findings:
    count = site.trainer.batch_size
    figures = {
        "crops": count,
        "pixels": site.dataset.crop_size,
        "milliseconds": {name: round(value * 1000, 3) for name, value in by_reader.items()},
        "by_scenes": {
            name: {
                "milliseconds": round(value * 1000, 3),
                "milliseconds_again": round(again[name] * 1000, 3),
                "memory_growth_mb": round(memory[name], 2),
            }
            for name, value in by_size.items()
        },
    }
    table = [(f"{count} crops of {site.dataset.crop_size} px", "ms", "crops/s", "MB more")]
    table += [(name, milliseconds(value), f"{count / value:.0f}", "") for name, value in by_reader.items()]
    table += [("made-up scenes, new crops", "", "", "")]
    table += [
        (name, milliseconds(value), f"{count / value:.0f}", f"{memory[name]:.1f}") for name, value in by_size.items()
    ]
    table += [("made-up scenes, the same crops again", "", "", "")]
    table += [(name, milliseconds(value), f"{count / value:.0f}", "") for name, value in again.items()]
    fastest = min(by_reader, key=lambda name: by_reader[name])
    first, *_, last = [*by_size, *by_size]
    new, known = (seconds[last] / seconds[first] for seconds in (by_size, again))
    sentence = (
        f"Fastest here: {fastest}. A batch of {last} scenes takes {known:.2f} times as long as one of {first}, and "
        f"{new:.2f} times as long where nobody has read those places yet."
    )
    return Findings(figures, table, sentence)
