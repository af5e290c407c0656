"""The study of docs/results.md on one GPU: many cells side by side, since one network of 64 px does not fill it.

usage: python scripts/study_gpu.py DATA WEIGHTS [OUT]

DATA and WEIGHTS are those of scripts/study_mbrsc.sh, OUT is outputs/study_gpu by default. Cells are taken in the order
of `cells`, so that what matters most is there first; a second start skips what is finished. The learning rate of each
initialization is the best of three on validation parts.
"""

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

WORKERS = 12
STEPS = 4000
PRETRAINING = ("trainer.batch_size=128", "trainer.max_steps=3000")
GRID = {
    "random": ("1e-3", "3e-3", "1e-2"),
    "imagenet": ("3e-4", "1e-3", "3e-3"),
    "pretrained": ("3e-4", "1e-3", "3e-3"),
    "imagenet_first": ("3e-4", "1e-3", "3e-3"),
}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    """One run of a command.

    Args:
        start: What it starts from, a key of GRID; of a pretraining random or imagenet.
        seed: Of the run, and of the pretraining that it starts from.
        given: Further overrides; empty: a pretraining.
        rate: The learning rate; None: the best of GRID on validation parts.
    """

    start: str
    seed: int
    given: tuple[str, ...] = ()
    rate: str | None = None


def cells() -> Iterator[Cell]:
    """Give all cells, those that matter most first."""
    whole = f"trainer.max_steps={STEPS}"
    all_tiles, tenth, few = ("label_fraction=100pct",), ("label_fraction=10pct", whole), ("label_fraction=2pct", whole)
    yield from (Cell("random", seed) for seed in SEEDS)
    yield from (*choice("random"), *choice("imagenet"))
    for seed in SEEDS:
        yield Cell("random", seed, (*all_tiles, f"trainer.max_steps={2 * STEPS}"))
        yield Cell("random", seed, (*all_tiles, whole))
    yield from choice("pretrained")
    yield from compared(tenth)
    yield from compared(few)
    yield from (Cell("imagenet", seed) for seed in SEEDS)
    yield from choice("imagenet_first")
    yield from (Cell("imagenet_first", seed, tenth) for seed in SEEDS)
    yield from compared((*tenth, "label_fraction.unit=scene"))


def compared(given: tuple[str, ...]) -> Iterator[Cell]:
    """Give the cells of three initializations that share labels and steps."""
    for seed in SEEDS:
        yield from (Cell(start, seed, given) for start in ("random", "pretrained", "imagenet"))


def choice(start: str) -> Iterator[Cell]:
    """Give the cells by which a learning rate is chosen: half the steps, scored on part 8, which does not train."""
    for rate in GRID[start]:
        given = ("label_fraction=10pct", f"trainer.max_steps={STEPS // 2}", "dataset.val_parts=[8]",
                 "evaluation.split=val", f"initialization.label={start}_{rate}")  # fmt: skip
        yield Cell(start, 0, given, rate)


class Study:
    """Where cells lie and how they are run."""

    def __init__(self, data: str, weights: str, out: Path) -> None:
        self.weights, self.out = weights, out
        self.common = (f"dataset.root={data}", f"output_dir={out}", "logger=none", "trainer.precision=bf16")

    def pretraining(self, start: str, seed: int) -> Path:
        """Return the folder of a pretraining."""
        return self.out / "pretrain" / f"from_{start}" / f"seed{seed}"

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        if not cell.given:
            return self.pretraining(cell.start, cell.seed)
        name = "-".join(each.split("=")[-1].strip("[]") for each in cell.given)
        return self.out / "finetune" / cell.start / f"{name}-seed{cell.seed}"

    def failed(self, run: Path) -> Path:
        """Return the file that tells those who wait for a run that it failed."""
        return self.out / "failed" / "-".join(run.relative_to(self.out).parts)

    def run(self, cell: Cell) -> int:
        """Run a cell, after those that it needs."""
        from ssl_rs.command import main

        from_imagenet = ("initialization=imagenet", f"initialization.weights={self.weights}")
        if not cell.given:
            gentle = (*from_imagenet, "trainer.encoder_lr_factor=0.1") if cell.start == "imagenet" else ()
            given = (*self.common, *PRETRAINING, *gentle)
            return main("pretrain", ("experiment=mbrsc_pretrain", *given, *self.named(cell)))
        if cell.start in ("pretrained", "imagenet_first"):
            run = self.pretraining("random" if cell.start == "pretrained" else "imagenet", cell.seed)
            self.wait_for(run)
            begin: tuple[str, ...] = ("initialization=pretrained", f"initialization.run={run}")
        else:
            begin = from_imagenet if cell.start == "imagenet" else ()
        rate = cell.rate or self.best_rate(cell.start)
        given = (*self.common, "augmentation=none", "optimizer.weight_decay=0.5", f"optimizer.lr={rate}", *begin)
        return main("finetune", ("experiment=mbrsc_finetune", *given, *cell.given, *self.named(cell)))

    def named(self, cell: Cell) -> tuple[str, str]:
        """Return seed and folder as overrides."""
        return f"seed={cell.seed}", f"run_dir={self.folder(cell)}"

    def wait_for(self, run: Path) -> dict[str, float]:
        """Return the result of a run, which another process may be at."""
        while not (run / "result.json").exists():
            if self.failed(run).exists():
                raise RuntimeError(f"{run} failed")
            time.sleep(0.5)
        result: dict[str, float] = json.loads((run / "result.json").read_text())
        return result

    def best_rate(self, start: str) -> str:
        """Return the learning rate of GRID that is best on validation parts."""
        scores = {cell.rate: self.wait_for(self.folder(cell))["miou"] for cell in choice(start)}
        return str(max(scores, key=lambda rate: scores[rate]))


def work(study: Study, queue: "SimpleQueue[Cell | None]") -> None:
    """Run cells until there are none."""
    log = os.open(study.out / "logs" / f"{os.getpid()}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    while (cell := queue.get()) is not None:
        try:
            code = study.run(cell)
        except Exception:  # whatever it is: the cells that need this one must hear of it, the others go on
            traceback.print_exc()
            code = 1
        if code:
            study.failed(study.folder(cell)).touch()


def run_all(study: Study) -> int:
    """Prepare the data once, then share the cells among processes; return an exit code."""
    from ssl_rs.command import main

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    code = main("prepare", ("dataset=mbrsc", *study.common[:2], "dataset.downsample=2", "dataset.crop_size=64"))
    if code:
        return code
    for name in ("logs", "failed"):
        (study.out / name).mkdir(parents=True, exist_ok=True)
    for path in (study.out / "failed").iterdir():  # of an earlier start
        path.unlink()
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[Cell | None] = context.SimpleQueue()
    for cell in (*cells(), *[None] * WORKERS):
        queue.put(cell)
    workers = [context.Process(target=work, args=(study, queue)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = sorted(path.name for path in (study.out / "failed").iterdir())
    print("\n".join([f"{len(failed)} cells failed; {study.out / 'logs'} has what they said.", *failed]))
    return min(1, len(failed))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(run_all(Study(sys.argv[1], sys.argv[2], Path([*sys.argv, "outputs/study_gpu"][3]).absolute())))
