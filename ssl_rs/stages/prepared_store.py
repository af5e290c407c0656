"""What a person sees of scenes that are prepared or checked: how far it is, which are left out, how bright they are."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_rs.data.clipping import RARE, usual_largest
from ssl_rs.data.dataset import Dataset, Split
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.overview import SCENES_FILE
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import Store
from ssl_rs.messages import say_line

SILENCE = 10.0
"""Seconds after which a part of a scene is told too."""

SKIPPED_TOLD = 3
"""Scenes that are left out of which the reason is printed."""

WITHOUT: dict[Split, str] = {
    "val": "evaluation.split=val and evaluation.every_steps have nothing to score",
    "test": "fine-tuning has nothing to score, but for evaluation.split=val",
    "unlabeled": "pretraining sees the training scenes alone",
}
"""What it means that a split has no scene; without training scenes there is no store."""

DIM = 0.005
"""Of a value scale that was given: where all values lie below, it is told."""

DARK = 0.25
"""Share of the largest value: where nearly all values lie below it, that one is likely a saturated pixel."""


def prepare_store(
    dataset: Dataset, store_dir: Path, num_workers: int | None = None, wait: bool = True,
    before: Callable[[], None] | None = None,
) -> Store:  # fmt: skip
    """Prepare a data set, show how far it is, and say which scenes are left out and whether the value scale is odd.

    Args:
        dataset: What to store.
        store_dir: Folder of all stores.
        num_workers: As of `ssl_rs.data.prepare.prepare`.
        wait: As of `ssl_rs.data.prepare.prepare`.
        before: As of `ssl_rs.data.prepare.prepare`.
    """
    with scene_progress("prepared") as report:
        store = prepare(dataset, store_dir, report, num_workers, wait, before)
    skipped = store.manifest.skipped
    if skipped:
        reasons = [f"  {scene.split} '{scene.id}': {scene.reason}" for scene in skipped[:SKIPPED_TOLD]]
        more = f"; {store.path / SCENES_FILE} lists all" if len(skipped) > SKIPPED_TOLD else ""
        lines = [
            f"Left out of {dataset.name}: {len(skipped)} of {len(skipped) + len(store.manifest.scenes)} scenes{more}:",
            *reasons,
        ]
        say_line("\n".join([*lines, *lost_splits(store.manifest)]))
    odd = dim_scale(store) if dataset.value_scale else odd_scale(store)
    if odd:
        say_line(odd)
    return store


def lost_splits(manifest: Manifest) -> list[str]:
    """Return a warning for each split all of whose scenes were left out."""
    lost = Counter(scene.split for scene in manifest.skipped)
    for split in {scene.split for scene in manifest.scenes}:
        del lost[split]
    return [
        f"warning: the split {split} of {manifest.dataset} is empty: "
        f"{f'all of its {count} scenes were' if count > 1 else 'its only scene was'} left out, so {WITHOUT[split]}. "
        "Repair what was left out, or give the split others."
        for split, count in lost.items()
    ]


def dim_scale(store: Store) -> str | None:
    """Say that a given value scale lies far above all values, None where it does not."""
    manifest = store.manifest
    if not store.scenes_of("train"):
        return None
    largest = usual_largest(store, math.inf)
    if largest is None or not 0 < largest < DIM * manifest.value_scale:
        return None
    return (
        f"warning: the values of {manifest.dataset} are divided by dataset.value_scale={manifest.value_scale:.10g}, "
        f"but the largest seen in its training scenes is {largest:.3g}: to a network all images are nearly black. Is "
        "the scale meant for other units?"
    )


def odd_scale(store: Store) -> str | None:
    """Say that the largest value, which became the value scale, lies far above most others; None where it does not."""
    manifest = store.manifest
    if manifest.dtype == "uint8":
        return None
    largest = usual_largest(store, DARK * manifest.value_scale)
    if largest is None or largest <= 0:
        return None
    step = 10.0 ** (math.floor(math.log10(largest)) - 1)
    rounded = math.ceil(largest / step - 1e-6) * step  # up, to two digits
    return (
        f"warning: the values of {manifest.dataset} are divided by the largest of its training scenes, "
        f"{manifest.value_scale:.10g}, but at least {100 * (1 - RARE):g} % of each band's lie below "
        f"{100 * rounded / manifest.value_scale:.2g} % of it. If it is a saturated pixel or stands for no data, set "
        f"dataset.value_scale={rounded:.10g}; dataset.value_scale={manifest.value_scale:.10g} keeps it without this "
        "message."
    )


@contextmanager
def scene_progress(verb: str) -> Iterator[Callable[[float, int, str], None]]:
    """Show how many scenes are done, as told to the report that this gives: a bar on a terminal, lines elsewhere.

    A part of a scene may be told as a fraction.

    Args:
        verb: What is done to them, e.g. "prepared".
    """
    if sys.stderr.isatty():
        with _bar(verb) as progress:
            task = progress.add_task("", total=None)

            def advance(done: float, total: int, scene: str) -> None:
                progress.update(task, completed=done, total=total, description=scene)

            yield advance
    else:
        yield _lines(verb)


def _bar(verb: str) -> Progress:
    """Return a bar that leaves no trace: where the store is there already, it has nothing to show."""
    return Progress(
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("scenes"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=600,  # seconds: a large scene takes a minute
    )


def _lines(verb: str) -> Callable[[float, int, str], None]:
    """Return what prints how far it is: a line a tenth of the scenes, and after a silence one within a scene."""
    last = time.monotonic()

    def say(done: float, total: int, scene: str) -> None:
        nonlocal last
        if done % 1:
            shown, due = f"{done:.2f}", time.monotonic() - last >= SILENCE
        else:
            shown, due = f"{done:.0f}", done == total or done % max(1, total // 10) == 0
        if due:
            of_one = total == 1 and done < 1
            say_line(f"{verb} {100 * done:.0f} % of {scene}" if of_one else f"{verb} {shown}/{total} scenes ({scene})")
            last = time.monotonic()

    return say
