"""From a data set's files to a store: checked, built aside, resumed after a kill, and in place only when whole."""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from ssl_rs.data.dataset import Dataset, SceneSource
from ssl_rs.data.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest
from ssl_rs.data.moments import mean_and_std
from ssl_rs.data.records import read_record, to_json
from ssl_rs.data.scene_writer import WrittenScene, record_file, write_scene
from ssl_rs.data.store import Store, image_file, mask_file
from ssl_rs.errors import InputError
from ssl_rs.run_directory import sha256_of, write_text

Report = Callable[[int, int, str], None]
"""Called after each scene with the number of finished scenes, of all scenes, and the scene's id."""

USED_LATER = ("root", "crop_size", "tile_size", "tile_shift", "protocol")
"""Settings of a data set that change nothing in its store."""


def prepare(dataset: Dataset, store_dir: Path, report: Report | None = None) -> Store:
    """Return the store of a data set; build it if there is none yet.

    A build that was killed goes on where it stopped; two processes that build the same store wait for each other.

    Args:
        dataset: What to store.
        store_dir: Folder of all stores; this one is STORE_DIR/<dataset>-<hash of its settings and files>.
        report: Called after each scene.

    Raises:
        InputError: Something in the data set is missing, unreadable or contradictory, or the folder cannot be written.
    """
    scenes = _checked_scenes(dataset)
    path = store_dir / f"{dataset.name}-{_source_hash(dataset, scenes)}"
    if not path.exists():
        aside = path.with_name(f".{path.name}.partial")
        try:
            with _lock(path.with_name(f".{path.name}.lock")):
                if not path.exists():  # another process may have built it while this one waited
                    _build(dataset, scenes, aside, report)
                    aside.rename(path)
        except InputError:
            shutil.rmtree(aside)  # the repaired files have another hash: nobody would come back for it
            raise
        except OSError as error:
            raise InputError(
                f"The store {path} could not be built: {error}. Choose another store_dir or make space; "
                "started again, it goes on where it stopped."
            ) from error
    return Store.open(path)


def _checked_scenes(dataset: Dataset) -> Sequence[SceneSource]:
    """List the scenes.

    Raises:
        InputError: None, none to train on, an id that comes twice, or a file that is missing.
    """
    scenes = dataset.scenes()
    where = f"Data set '{dataset.name}'" + (f" in dataset.root={dataset.root}" if dataset.root else "")
    if not scenes:
        raise InputError(f"{where} has no scenes.")
    if not any(scene.split == "train" for scene in scenes):
        raise InputError(f"{where} has {len(scenes)} scenes, but none in the training split.")
    twice = [name for name, count in Counter(scene.id for scene in scenes).items() if count > 1]
    if twice:
        raise InputError(f"{where} has more than one scene with the id '{twice[0]}'. Rename one of them.")
    for path in (path for scene in scenes for path in scene.files):
        if not path.is_file():
            raise InputError(f"{where} needs the file {path}, which is missing.")
    return scenes


def _source_hash(dataset: Dataset, scenes: Sequence[SceneSource]) -> str:
    """Return 12 hex digits over the settings and the listing of the files: equal as long as nothing changed."""
    settings = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    settings = {name: value for name, value in settings.items() if name not in USED_LATER}
    listing = [(s.id, s.split, [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in s.files]) for s in scenes]
    classes = [dataclasses.astuple(entry) for entry in dataset.classes]
    content = json.dumps([FORMAT_VERSION, settings, classes, listing], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the system lets go of the lock even after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)  # who waited finds it gone


def _build(dataset: Dataset, scenes: Sequence[SceneSource], folder: Path, report: Report | None) -> None:
    """Write every scene that is not there yet, then the manifest, and remove what only the building needed."""
    folder.mkdir(exist_ok=True)
    hash_file = lru_cache(sha256_of)  # all scenes of a mosaic come from the same files
    written = []
    for index, scene in enumerate(scenes):
        record = folder / record_file(index)
        if record.is_file():
            written.append(read_record(WrittenScene, record))
        else:
            written.append(write_scene(dataset, index, scene, folder, hash_file))
        _check_alike(dataset, written[0], written[-1])
        if report:
            report(index + 1, len(scenes), scene.id)
    manifest = _manifest(dataset, written)
    arrays = [name(index) for index in range(len(scenes)) for name in (image_file, mask_file)]
    for path in folder.iterdir():
        if path.name not in arrays:
            path.unlink()
    write_text(folder / MANIFEST_FILE, to_json(manifest))
    _flush(folder)


def _check_alike(dataset: Dataset, first: WrittenScene, scene: WrittenScene) -> None:
    """Refuse a scene with other bands or another type of values.

    Raises:
        InputError: Names the odd scene.
    """
    expected, found = (len(dataset.bands), first.dtype), (scene.num_bands, scene.dtype)
    if expected != found:
        raise InputError(
            f"{scene.record.sources[0].name} (scene '{scene.record.id}') has {found[0]} bands of {found[1]}, expected "
            f"{expected[0]} bands of {expected[1]} as in scene '{first.record.id}'. Convert it, or take it out."
        )


def _manifest(dataset: Dataset, written: Sequence[WrittenScene]) -> Manifest:
    """Put together what the scenes' records say.

    Raises:
        InputError: The training split holds nothing but zeros or nodata.
    """
    moments = [scene.moments for scene in written if scene.moments is not None]
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
        bands=dataset.bands,
        dtype=dtype,
        value_scale=float(scale),
        mean=mean,
        std=std,
        classes=dataset.classes,
        ignore_index=dataset.ignore_index,
        scenes=tuple(scene.record for scene in written),
    )


def _flush(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
