"""Is a store still what was written, and are the files it was made from still the same? Every byte is read again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_rs.data.dataset import Dataset
from ssl_rs.data.manifest import HASH_FILE, MANIFEST_FILE, Manifest, SceneRecord, SourceRecord
from ssl_rs.data.prepare import Report
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store import Store
from ssl_rs.data.store_location import locate_store
from ssl_rs.errors import TOLD, InputError, first_of


@dataclass(frozen=True)
class Verified:
    """A store that is as its manifest says, to the last bit.

    Args:
        store: The store.
        num_arrays: Files in it that were read.
        num_sources: Files it was made from that were read; members of archives count as files.
        size: Bytes of all of them.
    """

    store: Store
    num_arrays: int
    num_sources: int
    size: int


def verify(dataset: Dataset, store_dir: Path, report: Report | None = None) -> Verified:
    """Compare the arrays of a data set's store, and the files it was made from, with the hashes in its manifest.

    Args:
        dataset: What was stored.
        store_dir: Folder of all stores.
        report: Called after each scene.

    Raises:
        InputError: There is no such store, it is damaged, or a file differs.
    """
    path, scenes = locate_store(dataset, store_dir)
    if not path.is_dir():
        raise InputError(_nothing_to_check(dataset, path))
    manifest = _manifest(path)
    files = {scene.id: scene.files for scene in scenes if not scene.problem}
    arrays, sources = _Comparison(), _Comparison()
    for done, record in enumerate(manifest.scenes, start=1):
        for array in record.arrays:
            arrays.compare(SourceFile(path / array.name), array)
        for source, file in zip(record.sources, _files(record, files, path), strict=True):
            sources.compare(file, source)
        if report:
            report(done, len(manifest.scenes), record.id)
    again = f"delete the folder {path} and run prepare again."
    said = [
        *arrays.say("arrays of the store are damaged", f"To make them anew, {again}"),
        *sources.say("files are not those that the store was made from", f"Bring them back, or {again}"),
    ]
    if said:
        raise InputError("\n".join(said))
    return Verified(Store.open(path), len(arrays.seen), len(sources.seen), arrays.size + sources.size)


def _manifest(path: Path) -> Manifest:
    """Read the manifest of a store that is about to be read as a whole.

    Raises:
        InputError: It is missing or makes no sense.
    """
    try:
        manifest = Manifest.read(path)
        if (path / HASH_FILE).read_text(errors="replace").strip() != manifest.sha256:
            raise InputError(f"{path / MANIFEST_FILE} is not what {HASH_FILE} beside it says: it was changed.")
    except (InputError, OSError) as error:
        raise InputError(f"The store is damaged: {error} Delete the folder {path} and run prepare again.") from error
    return manifest


def _files(record: SceneRecord, files: Mapping[str, Sequence[SourceFile]], path: Path) -> Sequence[SourceFile]:
    """Return the files that a scene was made from.

    Raises:
        InputError: The data set, of the same files, has them otherwise: somebody changed the manifest.
    """
    expected, found = [source.name for source in record.sources], files.get(record.id, ())
    if expected != [file.name for file in found]:
        raise InputError(
            f"The store is damaged: its manifest says that scene '{record.id}' was made from {expected}, the data set "
            f"says {[file.name for file in found]}. Delete the folder {path} and run prepare again."
        )
    return found


def _nothing_to_check(dataset: Dataset, path: Path) -> str:
    others = sorted(each.name for each in path.parent.glob(f"{dataset.name}-*") if each.is_dir())
    told = (
        f" There is {', '.join(others[:TOLD])}: made with other settings, or before a file changed." if others else ""
    )
    return f"There is nothing to check: {path} does not exist.{told} Run prepare without check=true to make it."


class _Comparison:
    """Files that were compared with their hashes, and what was wrong with some."""

    def __init__(self) -> None:
        self.seen: set[tuple[SourceFile, str]] = set()
        self.problems: list[str] = []
        self.size = 0

    def compare(self, file: SourceFile, expected: SourceRecord) -> None:
        """Read a file, unless another scene needed it too."""
        if (file, expected.sha256) in self.seen:
            return
        self.seen.add((file, expected.sha256))
        try:
            found = file.sha256()
            self.size += file.size
        except (InputError, OSError) as error:
            self.problems.append(f"{file}: expected sha256 {expected.sha256[:12]}, but it cannot be read: {error}")
            return
        if found != expected.sha256:
            self.problems.append(f"{file}: expected sha256 {expected.sha256[:12]}, got {found[:12]}")

    def say(self, what: str, remedy: str) -> list[str]:
        """Return the lines of a message; none where nothing is wrong."""
        if not self.problems:
            return []
        return [f"{len(self.problems)} of {len(self.seen)} {what}:", *first_of(self.problems), remedy]
