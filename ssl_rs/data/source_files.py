"""The files that a data set is read from: in folders, or in zip archives that stay zipped."""

import hashlib
import os
import re
import time
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of

WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".wld", ".j2w", ".jp2w", ".tab")
"""Endings of the files beside an image in which GDAL finds where it lies, in any case."""

LARGEST_MEMBER = 2**31
"""Bytes of the largest file that is read out of an archive: it is held in memory as a whole."""

OF_THE_SYSTEM = ("__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN")
"""Folders that nobody put there; they are left out as hidden ones are."""

SETTLED = 2 * 10**9
"""Nanoseconds after which a further change of a folder has another time, however coarse the file system's are."""

LEADS_ELSEWHERE = re.compile(r"^[A-Za-z]:|[\\\0]")
"""A drive, a separator of Windows, or what cuts a name short."""


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file of its own, or one in a zip archive.

    Args:
        path: The file, or the archive.
        member: Name within the archive; None for a file of its own.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def name(self) -> str:
        """Name without folder."""
        return PurePosixPath(self.member).name if self.member else self.path.name

    @property
    def stem(self) -> str:
        """Name without folder and extension."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Extension with its dot, lower case."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def size(self) -> int:
        """Bytes, of a member when it is unpacked."""
        return self.path.stat().st_size if self.member is None else _archive(self.path).getinfo(self.member).file_size

    def exists(self) -> bool:
        """Tell whether the file is there; a member is, as long as its archive is."""
        return self.path.is_file()

    def identity(self) -> tuple[str, int, int]:
        """Return name, size and time of change in ns (of several files a hash): what tells changes without reading.

        GDAL reads a mask beside a file, `NAME.msk`, and where it lies, `STEM.tfw`, as part of it, and so it is here.
        """
        own, beside = self.path.stat(), [(path.name, path.stat()) for path in self._beside()]
        if not beside:
            return self.name, self.size, own.st_mtime_ns
        parts = [(name, part.st_size, part.st_mtime_ns) for name, part in (("", own), *beside)]
        digest = hashlib.sha256(repr(parts).encode()).digest()  # the newest time would miss an older file in its place
        return self.name, sum(size for _, size, _ in parts), int.from_bytes(digest[:8])

    def sha256(self) -> str:
        """Return the hash of the content as hex digits; a member is unpacked piece by piece.

        With files beside it that are read as part of it, it is the hash of all their hashes.

        Raises:
            InputError: A member that is damaged.
        """
        if self.member is None:
            own, beside = sha256_of(self.path), self._beside()
            return hashlib.sha256((own + "".join(map(sha256_of, beside))).encode()).hexdigest() if beside else own
        with _unpacking(self) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]

    def _beside(self) -> list[Path]:
        """Return the files beside a TIFF or JPEG 2000 file that are read as part of it."""
        if self.member is not None or self.suffix not in (".tif", ".tiff", ".jp2"):
            return []
        folder = self.path.parent
        there = _files_in(folder)
        names = [f"{self.path.name}.msk", *(f"{self.path.stem}{suffix}" for suffix in WORLD_FILES)]
        found = (folder / each for name in names for each in there.get(name.lower(), ()))
        return [path for path in found if path.is_file()]

    def read(self) -> bytes:
        """Return the content; that of a member is checked against the archive's checksum.

        Raises:
            InputError: A member that is damaged, or too large to be held in memory.
        """
        if self.member is None:
            return self.path.read_bytes()
        if self.size > LARGEST_MEMBER:
            raise InputError(
                f"{self} is {self.size / 2**30:.1f} GiB large. Unzip {self.path.name} and remove the archive."
            )
        with _unpacking(self) as content:
            return bytes(content.read())


def _files_in(folder: Path) -> dict[str, list[str]]:
    """Return the names in a folder by their lower case, as GDAL looks for them."""
    changed = folder.stat().st_mtime_ns
    is_settled = time.time_ns() - changed > SETTLED
    return _known_files(folder, changed) if is_settled else _known_files.__wrapped__(folder, changed)


@lru_cache(maxsize=8)  # of thousands of images in a folder each asks for what lies beside it
def _known_files(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the same; known anew when the folder has another time of change."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        found.setdefault(name.lower(), []).append(name)
    return found


@contextmanager
def _unpacking(file: SourceFile) -> Iterator[IO[bytes]]:
    """Open a member of an archive.

    Raises:
        InputError: It is damaged; its checksum is compared when its end is reached.
    """
    assert file.member is not None
    try:
        with _archive(file.path).open(file.member) as content:
            yield content
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises whatever its bytes lead to: zlib, struct, OS errors
        raise InputError(f"{file} cannot be unpacked: {error}. Get the archive again, or unzip it.") from error


def _archive(path: Path) -> zipfile.ZipFile:
    """Open an archive.

    Raises:
        InputError: It is damaged.
    """
    try:
        return _opened(path, path.stat().st_mtime_ns)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a zip archive: {error}. Get it again, or unzip it.") from error


@lru_cache(maxsize=8)  # the table of contents of a large archive takes a while to read
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def find_files(root: Path) -> list[SourceFile]:
    """List all files below a folder, and what zip archives below it hold; hidden ones are left out.

    Raises:
        InputError: An archive is damaged, or holds archives or names that lead out of it.
    """
    found: list[SourceFile] = []
    for path in sorted(files_below(root)):
        found += _members(path) if path.suffix.lower() == ".zip" else [SourceFile(path)]
    return found


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden; links lead out of it, once a place, never in circles.

    Raises:
        InputError: A folder that cannot be listed, or a link to what is not there.
    """
    base, followed = root.resolve(), set[Path]()
    for name, folders, files in os.walk(root, onerror=_refuse_folder, followlinks=True):
        folder, open_folders = Path(name), []
        for child in sorted(child for child in folders if not _hidden([child])):
            if (folder / child).is_symlink():
                target = (folder / child).resolve()
                if base != target and base.is_relative_to(target):
                    warnings.warn(
                        f"{folder / child} links to {target}, in which {root} itself lies: it is left out. Link to the "
                        "folders there that are meant, one by one.",
                        stacklevel=2,
                    )
                if target in followed or target.is_relative_to(base) or base.is_relative_to(target):
                    continue
                followed.add(target)
            open_folders.append(child)
        folders[:] = open_folders
        for file in (folder / each for each in files if not _hidden([each])):
            check_link(file)
            if file.is_file():
                yield file


def check_link(path: Path) -> None:
    """Refuse a link to what is not there: its images would be missing without a word.

    Raises:
        InputError: Names both.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path} links to {os.readlink(path)}, which is not there. Mount that drive, or remove the link."
        )


def _refuse_folder(error: OSError) -> None:
    """Refuse a folder that cannot be listed; one that is not there holds nothing."""
    if not isinstance(error, FileNotFoundError):
        raise InputError(
            f"{error.filename} cannot be listed ({error.strerror}). Make it readable, or take it out."
        ) from error


def _members(path: Path) -> list[SourceFile]:
    """List the files in an archive.

    Raises:
        InputError: It is damaged, holds archives, or names that lead out of it.
    """
    listed = _archive(path).infolist()
    for info in listed:
        _check_name(path, info.orig_filename)  # as it stands in the archive: zipfile cuts names at a zero byte
    names = [info.filename for info in listed if not info.is_dir()]
    names = [name for name in names if not _hidden(PurePosixPath(name).parts)]
    inner = [name for name in names if name.lower().endswith(".zip")]
    if inner:
        raise InputError(
            f"{path} holds archives itself ({inner[0]}). "
            "Unzip this outer one and remove it; those in it may stay zipped."
        )
    return [SourceFile(path, name) for name in sorted(names)]


def _check_name(path: Path, name: str) -> None:
    r"""Refuse a member that would lie elsewhere once unpacked, here or on Windows: absolute, a drive, "..", "\".

    Raises:
        InputError: Names the member and the archive.
    """
    if name.startswith("/") or LEADS_ELSEWHERE.search(name) or ".." in name.split("/"):
        raise InputError(
            f"{path} holds {name!r:.200}: names in an archive must be relative, with / between folders and without "
            "`..`, drives, backslashes or zero bytes. Nothing of it was read. Get the archive from a source you trust, "
            "or pack its files again."
        )


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part in OF_THE_SYSTEM for part in parts)


def match_files(
    files: Iterable[SourceFile], root: Path, pattern: str, prefer: str = ""
) -> dict[tuple[str, ...], SourceFile]:
    r"""Return the files whose place below the root matches, by what the groups of the pattern caught.

    An archive counts as a folder of its name without extension. Of several files with the same groups, that in a place
    which matches `prefer` wins, then one that is not in an archive, then the first by name.

    Args:
        files: What `find_files` found.
        root: The folder they lie below.
        pattern: Regular expression for the end of the place, e.g. r"/top/top_mosaic_09cm_area(\d+)\.tif".
        prefer: Regular expression that is looked for in the place.
    """
    wanted, preferred = re.compile(f"(?:.*){pattern}"), re.compile(prefer)
    found: dict[tuple[str, ...], tuple[tuple[bool, bool, str], SourceFile]] = {}
    for file in files:
        place = _place(file, root)
        match = wanted.fullmatch(place)
        if match:
            rank = (preferred.search(place) is None, file.member is not None, place)
            groups = match.groups()
            if groups not in found or rank < found[groups][0]:
                found[groups] = (rank, file)
    return {groups: file for groups, (_, file) in sorted(found.items())}


def _place(file: SourceFile, root: Path) -> str:
    """Return "/folder/archive/folder/name" below the root; the root's own name comes first, as if it were within."""
    inside = file.path.relative_to(root)
    folder = inside.with_suffix("") / file.member if file.member else inside
    return f"/{root.resolve().name}/{folder.as_posix()}"


def describe_files(root: Path, files: Iterable[SourceFile], most: int = 8) -> str:
    """Say what lies in a folder, for the message that it is not what was expected: folders, archives, example names."""
    counts: dict[str, list[str]] = {}
    for file in files:
        folder = PurePosixPath(_place(file, root)).parent.relative_to(f"/{root.resolve().name}").as_posix()
        counts.setdefault(folder + (" (zip)" if file.member else ""), []).append(file.name)
    if not counts:
        return "nothing"
    told = [
        f"{folder}: {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for folder, names in counts.items()
    ]
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more folders" if len(told) > most else "")
