"""From a data set's files to a store: checked, built aside, resumed after a kill, and in place only when whole."""

import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_rs.data.bad_scenes import left_out, refuse_listed
from ssl_rs.data.clipping import warn_of_clipping
from ssl_rs.data.dataset import IGNORE, Dataset, SceneSource
from ssl_rs.data.duplicate_images import warn_of_copies
from ssl_rs.data.manifest import FORMAT_VERSION, HASH_FILE, MANIFEST_FILE, Manifest, SkippedScene
from ssl_rs.data.moments import mean_and_std
from ssl_rs.data.overview import SCENES_FILE, SHEET_FILE, write_overview
from ssl_rs.data.pixel_size import warn_of_sizes
from ssl_rs.data.records import to_json
from ssl_rs.data.scene_writer import WrittenScene
from ssl_rs.data.store import Store
from ssl_rs.data.store_location import locate_store, name_of
from ssl_rs.data.tiff_file import small_cache
from ssl_rs.data.value_types import GDAL_NAMES, USUAL_WHITE
from ssl_rs.data.workers import write_scenes
from ssl_rs.errors import FULL, GONE, TOLD, InputError, counted
from ssl_rs.files import write_beside
from ssl_rs.locks import hold
from ssl_rs.machine import usable_cores

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
    path, scenes = locate_store(dataset, store_dir)
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
                f"The store {path} could not be built: {error}. {_remedy(error, path)}; started again, it goes on "
                "where it stopped."
            ) from error
    return Store.open(path)


def _remedy(error: OSError, store: Path) -> str:
    if error.errno in FULL:
        return "Choose another store_dir or make space"
    if error.errno in GONE:
        return "Bring back what was moved or deleted"
    place = Path(error.filename).absolute() if isinstance(error.filename, str) else Path()
    stores = store.parent.absolute()
    if stores.is_relative_to(place) or (place.parent == stores and place.name.startswith(f".{store.name}.")):
        there = next(folder for folder in (place, *place.parents) if folder.is_dir())
        return f"Make {there} writable, or choose another store_dir or output_dir"
    return "Make that file readable, or take it out; where it is the store's, choose another store_dir"


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
        shutil.rmtree(aside, ignore_errors=True)  # files that are mended have another hash: nobody would come back
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
    written, odd = _of_one_type(dataset, written, {scene.id: scene for scene in scenes})
    manifest = _manifest(dataset, written, [*skipped, *odd])
    store = Store(folder, manifest)
    warn_of_copies(store)
    warn_of_sizes(manifest)
    write_overview(store)
    warn_of_clipping(store)
    write_beside(folder / HASH_FILE, f"{manifest.sha256}\n")
    write_beside(folder / MANIFEST_FILE, to_json(manifest))
    kept = {SCENES_FILE, SHEET_FILE, HASH_FILE, MANIFEST_FILE}
    kept |= {array.name for scene in manifest.scenes for array in scene.arrays}
    for path in folder.iterdir():  # last: killed before, the next start finds every record
        if path.name not in kept and not path.is_dir():  # folders are of others, such as a server's index
            path.unlink()
    _flush(folder)


def _of_one_type(
    dataset: Dataset, written: Sequence[WrittenScene], sources: Mapping[str, SceneSource]
) -> tuple[list[WrittenScene], list[SkippedScene]]:
    """Return the scenes of the most frequent type of values among the labeled ones, and the others as left out.

    Raises:
        InputError: Bad scenes are errors, and there are others.
    """
    labeled = [scene for scene in written if scene.record.split != "unlabeled"]
    counts = Counter(scene.dtype for scene in labeled or written)
    kept, odd = [], []
    for scene in written:
        source, usual = sources[scene.record.id], counts.most_common(1)[0][0]
        if scene.dtype == usual:
            kept.append(scene)
            continue
        own, theirs = (USUAL_WHITE[dtype] for dtype in (scene.dtype, usual))
        reason = (
            f"{source.files[0]} has values of type {scene.dtype}, most scenes of {usual}. Convert it: `gdal_translate "
            f"-ot {GDAL_NAMES[usual]} -scale 0 {own} 0 {theirs}`, with the values that are white in it and in those."
        )
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
            f"{name_of(dataset)}: no usable training scene is left. Left out: {counted(len(skipped), 'scene')}; the "
            f"first, '{skipped[0].id}', because: {skipped[0].reason}"
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
