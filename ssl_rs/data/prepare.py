"""From a data set's files to a store: checked, built aside, resumed after a kill, and in place only when whole."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_rs.cores import usable_cores
from ssl_rs.data.bad_scenes import left_out, refuse_listed
from ssl_rs.data.clipping import warn_of_clipping
from ssl_rs.data.copies import warn_of_copies
from ssl_rs.data.dataset import IGNORE, Dataset, SceneSource
from ssl_rs.data.manifest import FORMAT_VERSION, HASH_FILE, MANIFEST_FILE, Manifest, SkippedScene
from ssl_rs.data.moments import mean_and_std
from ssl_rs.data.overview import SCENES_FILE, SHEET_FILE, write_overview
from ssl_rs.data.records import to_json
from ssl_rs.data.scene_writer import WrittenScene
from ssl_rs.data.splits import CUT_IT, FEWEST
from ssl_rs.data.store import Store
from ssl_rs.data.tiff_file import small_cache
from ssl_rs.data.workers import write_scenes
from ssl_rs.errors import GONE, TOLD, InputError
from ssl_rs.files import write_beside
from ssl_rs.locks import hold

Report = Callable[[int, int, str], None]
"""Called after each scene with the number of finished scenes, of all scenes, and the scene's id."""

WORTH_WORKERS = 2**28
"""Bytes of source files from which on other processes help: each takes a second to start."""


def prepare(
    dataset: Dataset,
    store_dir: Path,
    report: Report | None = None,
    num_workers: int | None = None,
    wait: bool = True,
    before: Callable[[], None] | None = None,
) -> Store:
    """Return the store of a data set; build it if there is none yet.

    A build that was killed goes on where it stopped; one process at a time builds a store.

    Args:
        dataset: What to store.
        store_dir: Folder of all stores; this one is STORE_DIR/<dataset>-<hash of its settings and files>.
        report: Called after each scene.
        num_workers: Processes that read scenes, each with at most a few hundred MB; 0: this one; None: one a core where
            the sources are large.
        wait: Where another process builds the same store, say who, and wait for it; else refuse.
        before: Called where there is no store yet, before the first scene is read.

    Raises:
        InputError: Something in the data set is missing, unreadable or contradictory, or the folder cannot be written.
    """
    path, scenes = locate(dataset, store_dir)
    if not path.exists():
        refuse_listed(dataset, scenes)
        if before is not None:
            before()
        try:
            with _held(path, wait), small_cache():
                if not path.exists():  # another process may have built it while this one waited
                    _build_aside(dataset, scenes, path, report, num_workers)
        except ChildProcessError as error:
            raise InputError(
                f"The store {path} could not be built: {error}. Start the command again: it goes on where it stopped; "
                "`python -m ssl_rs.prepare num_workers=0` needs the least memory."
            ) from error
        except OSError as error:
            raise InputError(
                f"The store {path} could not be built: {error}. {_remedy(error)}; started again, it goes on where it "
                "stopped."
            ) from error
    return Store.open(path)


def _remedy(error: OSError) -> str:
    return "Bring back what was moved or deleted" if error.errno in GONE else "Choose another store_dir or make space"


@contextmanager
def _held(path: Path, wait: bool) -> Iterator[None]:
    """Let one process at a time build a store.

    Raises:
        InputError: Another one does, and nobody wants to wait.
    """
    lock = path.with_name(f".{path.name}.lock")  # it stays: who waits for it must hold the file that others find
    lock.parent.mkdir(parents=True, exist_ok=True)
    with hold(lock, f"The store {path}", "prepare it into another store_dir", wait):
        yield


def _build_aside(
    dataset: Dataset, scenes: Sequence[SceneSource], path: Path, report: Report | None, num_workers: int | None
) -> None:
    """Build a store in a hidden folder, and rename it when it is whole."""
    aside = path.with_name(f".{path.name}.partial")
    if not aside.exists():
        _tell_of_others(dataset, aside)
    try:
        _build(dataset, scenes, aside, report, num_workers)
    except InputError:
        shutil.rmtree(aside, ignore_errors=True)  # the repaired files have another hash: nobody would come back for it
        raise
    aside.rename(path)


def _tell_of_others(dataset: Dataset, aside: Path) -> None:
    """Warn of stores of this data set that a stopped preparation left half built, and that no start goes on with."""
    for other in sorted(aside.parent.glob(f".{dataset.name}-*.partial")):
        if not re.fullmatch(rf"\.{re.escape(dataset.name)}-[0-9a-f]{{12}}\.partial", other.name):
            continue
        with suppress(InputError), hold(other.with_suffix(".lock"), str(other), "", wait=False):  # nobody builds it
            size = sum(path.stat().st_size for path in other.iterdir() if path.is_file())
            warnings.warn(
                f"{other} ({size / 1e6:,.0f} MB) is of a preparation that was stopped before files or settings changed."
                " This one does not go on with it: delete it, unless you go back to those.",
                stacklevel=2,
            )


def locate(dataset: Dataset, store_dir: Path) -> tuple[Path, Sequence[SceneSource]]:
    """Return where the store of a data set lies, or would lie, and the scenes it is made of; none is read.

    Raises:
        InputError: There are no scenes, or none to train on.
    """
    scenes = _checked_scenes(dataset)
    return store_dir / f"{dataset.name}-{_source_hash(dataset, scenes)}", scenes


def _checked_scenes(dataset: Dataset) -> Sequence[SceneSource]:
    """List the scenes; those with a problem have it noted.

    Raises:
        InputError: None, or none to train on.
    """
    scenes = dataset.scenes()
    if not scenes:
        raise InputError(f"{_name(dataset)} has no scenes.")
    if not any(scene.split == "train" for scene in scenes):
        labeled = sum(scene.split != "unlabeled" for scene in scenes)
        beside = f" beside {len(scenes) - labeled} unlabeled" if labeled < len(scenes) else ""
        raise InputError(
            f"{_name(dataset)} has {labeled} scene{'s' * (labeled != 1)}{beside}, but none in the training split. "
            + (_training_remedy(dataset, scenes) if labeled else "Only to pretrain, take masks/ and classes.yaml away.")
        )
    seen: dict[str, SceneSource] = {}
    checked = []
    for scene in scenes:
        problem = scene.problem
        missing = [file for file in scene.files if not file.exists()]
        if scene.id in seen:
            both = " and ".join(str(each.files[0]) for each in (seen[scene.id], scene) if each.files)
            problem = f"{_name(dataset)} has more than one scene with the id '{scene.id}': {both}. Remove one of them."
        elif missing and not problem:
            problem = f"{_name(dataset)} needs the file {missing[0]}, which is missing."
        alike = scene.alike if problem == scene.problem else None
        checked.append(dataclasses.replace(scene, problem=problem, alike=alike))
        seen.setdefault(scene.id, scene)
    return checked


def _training_remedy(dataset: Dataset, scenes: Sequence[SceneSource]) -> str:
    """Return what to do where no scene is for training; all for training would leave nothing to score."""
    labeled = [scene.id for scene in scenes if scene.split != "unlabeled"]
    groups = set(map(dataset.group_of, labeled))
    if len(groups) < len(labeled):
        return (
            f"By dataset.scene_group={dataset.scene_group} they lie together in groups, {len(groups)} in all, of which "
            "each split gets whole ones: name smaller groups, or list the splits in splits.yaml."
        )
    if len(labeled) < FEWEST:
        return f"{CUT_IT} Only to pretrain, dataset.val_share=0 and dataset.test_share=0 do for a folder of your own."
    return (
        "Give it some; a folder of your own takes splits.yaml, or a smaller dataset.val_share and dataset.test_share."
    )


def _name(dataset: Dataset) -> str:
    return f"Data set '{dataset.name}'" + (f" in dataset.root={dataset.root}" if dataset.root else "")


def _source_hash(dataset: Dataset, scenes: Sequence[SceneSource]) -> str:
    """Return 12 hex digits over the settings and the listing of the files: equal as long as nothing changed."""
    listing = [(s.id, s.split, [file.identity() for file in s.files if file.exists()]) for s in scenes]
    classes = [dataclasses.astuple(entry) for entry in dataset.classes]
    content = json.dumps([FORMAT_VERSION, dataset.stored_by(), classes, dataset.band_names, listing], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _build(
    dataset: Dataset, scenes: Sequence[SceneSource], folder: Path, report: Report | None, num_workers: int | None
) -> None:
    """Write every scene that is not there yet, then the manifest, and remove what only the building needed."""
    folder.mkdir(exist_ok=True)
    if num_workers is None:
        size = sum(file.size for file in {file for scene in scenes for file in scene.files if file.exists()})
        num_workers = usable_cores() if size > WORTH_WORKERS else 0
    written: list[WrittenScene] = []
    bad: list[tuple[SceneSource, str]] = []
    for number, outcome in enumerate(write_scenes(dataset, scenes, folder, num_workers)):
        scene = scenes[number]
        if isinstance(outcome, WrittenScene):
            written.append(outcome)
        else:
            bad.append((scene, str(outcome)))
        if report:
            report(number + 1, len(scenes), scene.id)
        if dataset.on_bad_scene == "error" and len(bad) == TOLD:  # enough to see what is wrong
            break
    skipped = left_out(dataset, bad, number + 1, len(scenes))
    written, odd = _of_one_type(dataset, written)
    manifest = _manifest(dataset, written, [*skipped, *odd])
    warn_of_copies(manifest)
    write_overview(Store(folder, manifest))
    warn_of_clipping(Store(folder, manifest))
    write_beside(folder / HASH_FILE, f"{manifest.sha256}\n")
    write_beside(folder / MANIFEST_FILE, to_json(manifest))
    kept = {SCENES_FILE, SHEET_FILE, HASH_FILE, MANIFEST_FILE}
    kept |= {array.name for scene in manifest.scenes for array in scene.arrays}
    for path in folder.iterdir():  # last: killed before, the next start finds every record
        if path.name not in kept:
            path.unlink()
    _flush(folder)


def _of_one_type(dataset: Dataset, written: Sequence[WrittenScene]) -> tuple[list[WrittenScene], list[SkippedScene]]:
    """Return the scenes of the most frequent type of values among the labeled ones, and the others as left out.

    Raises:
        InputError: Bad scenes are errors, and there are others.
    """
    labeled = [scene for scene in written if scene.record.split != "unlabeled"]
    counts = Counter(scene.dtype for scene in labeled or written)
    kept, odd = [], []
    for scene in written:
        record, usual = scene.record, counts.most_common(1)[0][0]
        if scene.dtype == usual:
            kept.append(scene)
            continue
        source = SceneSource(record.id, record.split, ())
        reason = f"{record.sources[0].name} has values of type {scene.dtype}, most scenes of {usual}. Convert it."
        odd.append((source, reason))
    return kept, left_out(dataset, odd, len(written), len(written))


def _manifest(dataset: Dataset, written: Sequence[WrittenScene], skipped: Sequence[SkippedScene]) -> Manifest:
    """Put together what the scenes' records say.

    Raises:
        InputError: The training split holds nothing but zeros or nodata, or only bad scenes.
    """
    moments = [scene.moments for scene in written if scene.moments is not None]
    if not moments:
        raise InputError(
            f"{_name(dataset)}: no usable training scene is left; {len(skipped)} scenes are left out, the first, "
            f"'{skipped[0].id}', because: {skipped[0].reason}"
        )
    maximum = max(scene.maximum for scene in moments)
    if maximum <= 0:
        raise InputError(
            f"Data set '{dataset.name}': no training image has a value above 0. Check the files and their nodata."
        )
    dtype = written[0].dtype
    scale = dataset.value_scale or (255.0 if dtype == "uint8" else maximum)
    mean, std = mean_and_std(moments, scale)
    return Manifest(
        format_version=FORMAT_VERSION,
        dataset=dataset.name,
        bands=dataset.band_names,
        dtype=dtype,
        value_scale=float(scale),
        mean=mean,
        std=std,
        classes=dataset.classes,
        ignore_index=IGNORE,
        eroded=dataset.erodes,
        scenes=tuple(scene.record for scene in written),
        skipped=tuple(skipped),
    )


def _flush(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the file system can."""
    with suppress(OSError):  # shared folders of virtual machines and some network drives cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
