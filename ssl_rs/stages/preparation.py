"""Prepare a data set, or check the store of one."""

from collections import Counter
from pathlib import Path
from typing import get_args

from ssl_rs.config import Settings
from ssl_rs.data.dataset import Dataset, Split
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.overview import SCENES_FILE, SHEET_FILE
from ssl_rs.data.store import Store
from ssl_rs.data.verify import verify
from ssl_rs.errors import InputError, counted, some
from ssl_rs.messages import say_line
from ssl_rs.stages.prepared_store import prepare_store, scene_progress


def prepare(settings: Settings) -> Path:
    """Write the store of a data set, unless it is there, or only check it; return its path.

    Raises:
        InputError: Data that cannot be used; nothing is written then.
    """
    dataset: Dataset = settings.build("dataset")
    store_dir, run_dir = settings.value("store_dir", str), settings.value("run_dir", str | None)
    check, num_workers = settings.value("check", bool), settings.value("num_workers", int | None)
    settings.check_all_read()
    if num_workers is not None and num_workers < 0:
        raise InputError(f"num_workers must be 0 (no other process) or more, or null, got {num_workers}.")
    folder = Path(run_dir or store_dir)
    if check:
        return _check(dataset, folder)
    store = prepare_store(dataset, folder, num_workers, wait=False)
    say_line(summary(store))
    if blank := unlabeled_text(store.manifest):
        say_line(blank)
    _tell_groups(dataset, store)
    return store.path


def _check(dataset: Dataset, folder: Path) -> Path:
    """Read everything again and say what was found.

    Raises:
        InputError: Something differs from the manifest.
    """
    with scene_progress("checked") as report:
        found = verify(dataset, folder, report)
    say_line(
        f"{found.num_arrays} arrays of the store and {found.num_sources} files it was made from "
        f"({found.size / 1e9:.3f} GB) are what its manifest says, to the last bit."
    )
    _tell_groups(dataset, found.store)
    return found.store.path


def _tell_groups(dataset: Dataset, store: Store) -> None:
    """Say in how many groups the scenes lie, and of how many some train and others score."""
    if dataset.scene_group is None:
        return
    splits: dict[str, set[str]] = {}
    for scene in (scene for scene in store.manifest.scenes if scene.split != "unlabeled"):
        splits.setdefault(dataset.group_of(scene.id), set()).add(scene.split)
    divided = [name for name, found in splits.items() if "train" in found and found & {"val", "test"}]
    more = f"; {len(divided)} of them both train and score, so scores say little about new places" if divided else ""
    say_line(f"By dataset.scene_group={dataset.scene_group} the scenes lie in {counted(len(splits), 'group')}{more}.")


def unlabeled_text(manifest: Manifest) -> str:
    """Warn of scenes of a split whose masks hold no label: nobody learns from them, or is scored on them."""
    labeled = (scene for scene in manifest.scenes if scene.split != "unlabeled")
    blank = [f"{scene.split} '{scene.id}'" for scene in labeled if not any(scene.class_pixels)]
    if not manifest.classes or not blank:
        return ""
    return (
        f"warning: no pixel is labeled in the masks of {some(blank)}: these scenes count for nothing. Is that intended?"
    )


def summary(store: Store) -> str:
    """Say what a store holds and where to look at it."""
    manifest = store.manifest
    splits = Counter(scene.split for scene in manifest.scenes)
    counts = ", ".join(f"{splits[split]} {split}" for split in get_args(Split) if splits[split])
    asked = "Are labels and colors right?" if manifest.classes else "Are colors right?"
    return (
        f"{manifest.dataset}: {counted(len(manifest.scenes), 'scene')} ({counts}); bands {', '.join(manifest.bands)} "
        f"({manifest.dtype}); {len(manifest.classes)} classes\n"
        f"{asked} Look at {store.path / SHEET_FILE}; {SCENES_FILE} beside it lists the scenes."
    )
