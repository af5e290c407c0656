"""Measure how long `prepare` takes, and how much memory, on made-up scenes with the names and sizes of ISPRS Potsdam.

usage: python scripts/benchmark_prepare.py FOLDER [--scenes 38] [--side 6000]

FOLDER needs 20 GB for the full size. The scenes stay there and are used again; the stores are deleted. The data set is
prepared twice, from the first 10 scenes and from all: memory must not depend on the number of scenes.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

import ssl_rs
from ssl_rs.data.isprs import CLASSES
from ssl_rs.data.potsdam import FOLDERS, TEST, TRAIN

FEW = 10
SAMPLED_EVERY = 0.1  # seconds
BLOCK, NOISE = 40, 512  # pixels


@dataclass(frozen=True)
class Measured:
    """What one preparation took: seconds, and the largest sum over its processes, in bytes.

    `proportional` counts a page that several processes share once, `resident` once for each of them.
    """

    seconds: float
    proportional: int
    resident: int


def main() -> None:
    """Make the scenes, prepare some and all of them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=len(TRAIN + TEST))
    parser.add_argument("--side", type=int, default=6000)
    options = parser.parse_args()
    names = (TRAIN + TEST)[: options.scenes]
    root = options.folder / f"potsdam_{options.side}"
    for number, name in enumerate(names):
        make_scene(root, name, options.side, seed=number)
    print(hardware())
    print(f"scenes of {options.side} x {options.side} x 3 uint8 with masks; eroded masks are computed")
    print(f"{'scenes':>6} {'minutes':>8} {'a minute':>9} {'peak PSS':>10} {'peak RSS':>10}")
    for count in sorted({min(FEW, len(names)), len(names)}):
        part = some(root, options.folder / f"potsdam_{options.side}_first_{count}", names[:count])
        taken = measure(part, options.folder / "output")
        minutes, memory = taken.seconds / 60, (taken.proportional / 1e6, taken.resident / 1e6)
        print(
            f"{count:>6} {minutes:>8.2f} {count / minutes:>9.1f} {memory[0]:>7.0f} MB {memory[1]:>7.0f} MB", flush=True
        )


def hardware() -> str:
    """Name the machine and the versions."""
    cpu = next(
        (line.partition(":")[2].strip() for line in lines("/proc/cpuinfo") if "model name" in line), "unknown CPU"
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, rasterio {rasterio.__version__}"
    return (
        f"{len(os.sched_getaffinity(0))} cores of {cpu}, {memory:.0f} GiB; ssl_rs {ssl_rs.__version__}, {versions} "
        f"with GDAL {rasterio.__gdal_version__}"
    )


def lines(path: str) -> list[str]:
    """Return the lines of a file of /proc; none if its process has ended."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def make_scene(root: Path, name: str, side: int, seed: int) -> None:
    """Write image and label of a tile unless they are there: blocks of classes, in their colors with noise."""
    image = root / FOLDERS["RGB"] / f"top_potsdam_{name}_RGB.tif"
    label = root / "5_Labels_all" / f"top_potsdam_{name}_label.tif"
    if label.is_file():
        return
    generator = np.random.default_rng(seed)
    coarse = generator.random((len(CLASSES), -(-side // BLOCK) + 4, -(-side // BLOCK) + 4))
    smooth = np.sum([np.roll(coarse, shift, axis) for axis in (1, 2) for shift in range(4)], axis=0)
    blocks = smooth.argmax(axis=0).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:side, :side]
    colors = np.array([entry.color for entry in CLASSES], np.uint8)[blocks]  # [H, W, 3]
    noise = generator.integers(0, 64, (NOISE, NOISE, 3), np.uint8)
    tiles = -(-side // NOISE)
    write_tiff(image, colors // 2 + 40 + np.tile(noise, (tiles, tiles, 1))[:side, :side])
    write_tiff(label, colors)  # last: it says that both are whole


def write_tiff(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] without compression, in strips, as published; aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    height, width, bands = picture.shape
    profile = {"height": height, "width": width, "count": bands, "dtype": "uint8", "photometric": "RGB"}
    place = {
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(0.05, 0, 366676, 0, -0.05, 5808651),
        "interleave": "pixel",
    }
    with rasterio.open(aside, "w", driver="GTiff", **profile, **place) as file:
        file.write(picture.transpose(2, 0, 1))
    aside.replace(path)


def some(root: Path, part: Path, names: tuple[str, ...]) -> Path:
    """Link the files of some scenes into a folder of their own."""
    for file in root.rglob("top_potsdam_*.tif"):
        if any(f"_{name}_" in file.name for name in names):
            link = part / file.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    return part


def measure(root: Path, output: Path) -> Measured:
    """Prepare a data set in a process of its own and watch it."""
    shutil.rmtree(output, ignore_errors=True)
    settings = [f"dataset.root={root}", f"output_dir={output}", "dataset.on_bad_scene=skip"]  # not all 38 may be there
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "ssl_rs.prepare", "dataset=potsdam", *settings], stdout=subprocess.DEVNULL
    ) as process:
        proportional, resident = 0, 0
        while process.poll() is None:
            pss, rss = memory_of(process.pid)
            proportional, resident = max(proportional, pss), max(resident, rss)
            time.sleep(SAMPLED_EVERY)
    seconds = time.monotonic() - started
    if process.returncode:
        sys.exit(f"prepare failed with exit code {process.returncode}")
    shutil.rmtree(output)
    return Measured(seconds, proportional, resident)


def memory_of(pid: int) -> tuple[int, int]:
    """Return the proportional and the resident memory of a process and all below it, in bytes."""
    sums = {"Pss:": 0, "Rss:": 0}
    for each in descendants(pid):
        for line in lines(f"/proc/{each}/smaps_rollup"):
            name, *values = line.split()
            if name in sums:
                sums[name] += int(values[0]) * 1024
    return sums["Pss:"], sums["Rss:"]


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in " ".join(lines(str(thread))).split():
            yield from descendants(int(child))


if __name__ == "__main__":
    main()
