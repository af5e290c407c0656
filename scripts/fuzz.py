"""Fuzz for minutes with fresh seeds: command lines, data files, stores; print the cases tried and the faults found.

    python scripts/fuzz.py --minutes 10 --seed 1 --what readers

The cases and what must hold for each lie in tests/fuzz/*_cases.py; the test suite tries a few of them. A fault is
printed with the smallest case that shows it, and counted once a place in the code. Exit code 1: there were faults.
"""

import argparse
import importlib
import random
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

TESTS = Path(__file__).resolve().parent.parent / "tests"
KINDS = ("config", "readers", "store")
ROUND = 50
"""Cases a round: then the next kind has its turn."""


def main() -> int:
    """Fuzz until the time is up; return the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz ssl_rs.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="another one tries other cases; default: a random one")
    parser.add_argument("--what", choices=[*KINDS, "all"], default="all", help="or one strategy, e.g. store.manifest")
    arguments = parser.parse_args()
    start = random.randrange(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {start}", flush=True)
    found = fuzz([arguments.what] if arguments.what != "all" else list(KINDS), arguments.minutes * 60, start)
    return 1 if found else 0


def fuzz(kinds: list[str], seconds: float, start: int) -> int:
    """Try cases of these kinds in turn; return the number of faults."""
    sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS)]
    modules = {kind: importlib.import_module(f"{kind.removesuffix('s')}_cases").FUZZ for kind in kinds}
    tried: Counter[str] = Counter()
    faults: dict[str, str] = {}
    began, number = time.monotonic(), start
    while time.monotonic() - began < seconds:
        for kind, strategies in modules.items():
            for name, one in strategies.items():
                number += 1
                left = began + seconds - time.monotonic()
                if left > 0:
                    tried_now, fault = one_round(one, number, ROUND if kind != "config" else 10)
                    tried[f"{kind}.{name}"] += tried_now
                    if fault and fault[0] not in faults:
                        faults[fault[0]] = fault[1]
                        print(f"FAULT in {kind}.{name}, seed {number}:\n{fault[1]}", flush=True)
    took = time.monotonic() - began
    for name, count in tried.items():
        print(f"{name}: {count} cases")
    print(f"{tried.total()} cases in {took / 60:.1f} minutes, {len(faults)} faults")
    return len(faults)


def one_round(one: Any, number: int, cases: int) -> tuple[int, tuple[str, str] | None]:
    """Try some cases; return how many, and the place and the story of a fault."""
    tried = 0

    @seed(number)
    @settings(
        max_examples=cases, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(one.cases)
    def check(case: Any) -> None:
        nonlocal tried
        tried += 1
        one.check(case)

    try:
        check()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return tried, (_place(error), "".join(traceback.format_exception(error))[-4000:])
    return tried, None


def _place(error: BaseException) -> str:
    """Return where a fault lies: its kind, and the last line of ours it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/ssl_rs/" in frame.filename] or list(frames)
    last = ours[-1]
    return f"{type(error).__name__} {last.filename}:{last.lineno} {str(error)[:100] if not frames else ''}"


if __name__ == "__main__":
    sys.exit(main())
