"""Kill pretraining and fine-tuning at random moments, start them again, and compare with runs that were left alone.

usage: python scripts/kill_test.py FOLDER [--kills 50] [--seed 0] [--stages pretrain,finetune] [--processes 1,2]

Every trial prepares its store anew, is killed some times, and then runs to its end. The moments follow from the seed:
any time from the start on, or while the store, a checkpoint or the result is being written. Of two processes under
torchrun all are killed, or torchrun alone, or one rank alone. Exits with 1 if anything but times differs.
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from killed_runs import SETTINGS, VICTIMS, Moment, Trial, differences, kill_at, write_dataset

KILLS_A_TRIAL = 5


def moments(generator: random.Random, length: float, processes: int) -> Iterator[Moment]:
    """Draw the kills of a trial; each store is built but once, so only the first kill is aimed at it.

    Args:
        generator: Draws.
        length: Seconds that a run takes.
        processes: Of the run.
    """
    for number in range(KILLS_A_TRIAL):
        later = generator.choice([None, None, "checkpoint", "checkpoint", "weights", "result"])
        aim = generator.choice([None, "store"]) if number == 0 else later
        victim = generator.choice(VICTIMS) if processes > 1 else "all"
        yield Moment(aim, generator.uniform(0, 0.05 if aim else length), victim)


def try_stage(stage: str, processes: int, kills: int, seed: int, folder: Path) -> tuple[Counter[str], int]:
    """Kill one command so many times; return the phases that were hit, and how many trials ended differently."""
    whole = Trial(stage, processes, folder / "data", folder / f"{stage}{processes}-unbroken")
    begun = time.monotonic()
    whole.finish()
    length = time.monotonic() - begun
    print(f"{stage}, {processes} processes: left alone it takes {length:.0f} s", flush=True)
    hit: Counter[str] = Counter()
    bad = number = 0
    while hit.total() < kills:
        trial = Trial(
            stage,
            processes,
            folder / "data",
            folder / f"{stage}{processes}-{number}",
            (*SETTINGS, "trainer.num_workers=1"),
        )
        for moment in moments(random.Random(f"{seed} {stage} {processes} {number}"), length, processes):
            doing = kill_at(trial, moment) if hit.total() < kills else None
            if doing is None:
                break
            hit[doing.partition(" of ")[0]] += 1
            aim = f"aimed at its {moment.aim}" if moment.aim else f"after {moment.delay:.2f} s"
            print(f"  trial {number}: killed {moment.victim} {aim}: {doing}", flush=True)
        trial.finish()
        found = differences(whole, trial)
        print(f"  trial {number}: {'DIFFERENT: ' + ', '.join(found) if found else 'equal'}", flush=True)
        bad += bool(found)
        if not found:
            shutil.rmtree(trial.folder)
        number += 1
    return hit, bad


def main() -> int:
    """Try every stage with every number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).absolute())
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", type=lambda text: text.split(","), default=["pretrain", "finetune"])
    parser.add_argument("--processes", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2])
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty.")
    write_dataset(options.folder / "data")
    kinds = [(stage, processes) for stage in options.stages for processes in options.processes]
    hit: Counter[str] = Counter()
    bad = 0
    for place, (stage, processes) in enumerate(kinds):
        share = options.kills // len(kinds) + (place < options.kills % len(kinds))
        phases, different = try_stage(stage, processes, share, options.seed, options.folder)
        hit, bad = hit + phases, bad + different
    told = ", ".join(f"{count} {name}" for name, count in hit.most_common())
    print(f"{hit.total()} kills ({told}); {bad} trials ended unlike the run that was left alone.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
