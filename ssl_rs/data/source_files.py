"""The files that a data set is read from: in folders, or in zip archives that stay zipped."""

import hashlib
import os
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from ssl_rs.errors import InputError, is_of_system
from ssl_rs.files import reading, sha256_of

WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".wld", ".j2w", ".jp2w", ".tab")
"""Endings of the files beside an image in which GDAL finds where it lies, in any case."""

LARGEST_MEMBER = 2**31
"""Bytes of the largest file that is read out of an archive: it is held in memory as a whole."""

SETTLED = 2 * 10**9
"""Nanoseconds after which a further change of a folder has another time, however coarse the file system's are."""


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
        return (
            self.path.stat().st_size if self.member is None else open_archive(self.path).getinfo(self.member).file_size
        )

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
            with reading(self.path):
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
        OSError: The system refuses to read the archive.
    """
    assert file.member is not None
    try:
        with reading(file.path), open_archive(file.path).open(file.member) as content:
            yield content
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises whatever its bytes lead to: zlib, struct, OS errors
        if is_of_system(error):
            raise
        raise InputError(f"{file} cannot be unpacked: {error}. Get the archive again, or unzip it.") from error


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive.

    Raises:
        InputError: It is damaged.
        OSError: The system refuses to read it.
    """
    try:
        return _opened(path, path.stat().st_mtime_ns)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        if is_of_system(error):
            raise
        raise InputError(
            f"{path} cannot be read as a zip archive: {error}. Get it again, unzip it, or move it out of here if it is "
            "not needed."
        ) from error


@lru_cache(maxsize=8)  # the table of contents of a large archive takes a while to read
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
