"""Measure what a config describes, and write it down."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from ssl_rs.benchmarks.base import Benchmark, Findings, Workplace, caveat
from ssl_rs.config import Settings
from ssl_rs.errors import InputError
from ssl_rs.files import write_text
from ssl_rs.messages import print_line
from ssl_rs.stages.environment import environment
from ssl_rs.stages.pretraining_plan import read_plan

FILE = "benchmark.json"


def benchmark(settings: Settings) -> Path:
    """Run the chosen benchmark, print its table, and return the path of benchmark.json.

    Raises:
        InputError: What is chosen is no `Benchmark`.
    """
    measure: Benchmark = settings.build("benchmark")
    target = settings.values["benchmark"]["_target_"]
    if not hasattr(measure, "repeats"):
        raise InputError(f"benchmark._target_={target}: expected an object with `repeats`, its number of turns.")
    kind = target.split(".")[-2]
    decoder, window = settings.build("decoder", made_later=True), settings.build("evaluation.window")
    plan = read_plan(settings)
    plan.site.settle_memory()
    found, site = measure(Workplace(plan, decoder, window)), plan.site
    found = replace(found, sentence=found.sentence + caveat(measure.repeats, site.trainer.batch_size))
    name = f"{kind}-{plan.recipe.backbone.name}-{site.device.type}-{_digest(settings, site.processes.world_size)}"
    folder = site.output_dir / "benchmark" / name
    chosen = Path(plan.recipe.run_dir) if plan.recipe.run_dir else folder
    content = {"benchmark": kind, "environment": environment(site), "config": settings.values, **found.figures}
    if site.processes.is_first:
        print_line(as_text(found))
        chosen.mkdir(parents=True, exist_ok=True)
        write_text(chosen / FILE, json.dumps({**content, "sentence": found.sentence}, indent=1) + "\n")
    return chosen / FILE


def _digest(settings: Settings, world_size: int) -> str:
    """Return 12 hex digits over all settings but places: unlike those of a run, any of them may cost time."""
    places = ("run_dir", "output_dir", "store_dir", "logger")
    values = {key: value for key, value in settings.values.items() if key not in places}
    return hashlib.sha256(json.dumps([values, world_size], sort_keys=True).encode()).hexdigest()[:12]


def as_text(found: Findings) -> str:
    """Return the table in columns, and the sentence below it."""
    widths = [max(len(line[column]) for line in found.table) for column in range(len(found.table[0]))]
    lines = []
    for line in found.table:
        first, *others = (text for text in line)
        numbers = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join([*lines, "", found.sentence])
