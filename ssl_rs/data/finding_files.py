"""All files below a folder that are not hidden, and those in the zip archives there."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from ssl_rs.data.source_files import SourceFile, open_archive
from ssl_rs.errors import InputError

OF_THE_SYSTEM = ("__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN")
"""Folders that nobody put there; they are left out as hidden ones are."""

LEADS_ELSEWHERE = re.compile(r"^[A-Za-z]:|[\\\0]")
"""A drive, a separator of Windows, or what cuts a name short."""


Unusable = Callable[[Path, InputError], None]
"""Told of an archive, or a link to a file, that cannot be used, and why."""


def _refuse(path: Path, error: InputError) -> None:
    raise error


def find_files(root: Path, unusable: Unusable = _refuse) -> list[SourceFile]:
    """List all files below a folder, and what zip archives below it hold; hidden ones are left out.

    Args:
        root: The folder.
        unusable: What is done with such files; as it is, they are refused.

    Raises:
        InputError: An archive is damaged, or holds archives or names that lead out of it.
    """
    found: list[SourceFile] = []
    for path in sorted(files_below(root, unusable)):
        try:
            found += files_in_archive(path) if path.suffix.lower() == ".zip" else [SourceFile(path)]
        except InputError as error:
            unusable(path, error)
        except OSError as error:
            said = f"{path} cannot be read: {error.strerror or error}. Make it readable, or take it out."
            unusable(path, InputError(said))
    return found


def files_below(root: Path, unusable: Unusable = _refuse) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden; links lead out of it, once a place, never in circles.

    Args:
        root: The folder.
        unusable: As of `find_files`.

    Raises:
        InputError: A folder that cannot be listed, or a link to what is not there.
    """
    base, seen = root.resolve(), set[Path]()
    for name, folders, files in os.walk(root, onerror=_refuse_folder, followlinks=True):
        folder, open_folders = Path(name), []
        for child in sorted(child for child in folders if not _hidden([child])):
            target = (folder / child).resolve()
            if (folder / child).is_symlink():
                if base != target and base.is_relative_to(target):
                    warnings.warn(
                        f"{folder / child} links to {target}, in which {root} itself lies: it is left out. Link to the "
                        "folders there that are meant, one by one.",
                        stacklevel=2,
                    )
                if base.is_relative_to(target) or _is_found_below(base, target):
                    continue
            if target in seen:
                continue
            seen.add(target)
            open_folders.append(child)
        folders[:] = open_folders
        for file in (folder / each for each in files if not _hidden([each])):
            try:
                check_link(file)
            except InputError as error:
                unusable(file, error)
            if file.is_file():
                yield file


def _is_found_below(base: Path, target: Path) -> bool:
    """Tell whether a folder is listed without the link to it: it is below the same one, and not hidden there."""
    return target.is_relative_to(base) and not _hidden(target.relative_to(base).parts)


def check_link(path: Path) -> None:
    """Refuse a link to what is not there: its images would be missing without a word.

    Raises:
        InputError: Names both.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path} links to {os.readlink(path)}, which is not there. Mount that drive, or remove the link."
        )


def check_text(file: Path | SourceFile) -> None:
    """Refuse a name that is no UTF-8, as of an old archive: GDAL needs it, and so do the files that name a scene.

    Raises:
        InputError: Names it.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise InputError(f"The name {str(file)!a} is no UTF-8, which GDAL needs. Rename it.") from None


def _refuse_folder(error: OSError) -> None:
    """Refuse a folder that cannot be listed; one that is not there holds nothing."""
    if not isinstance(error, FileNotFoundError):
        raise InputError(
            f"{error.filename} cannot be listed ({error.strerror}). Make it readable, or take it out."
        ) from error


def files_in_archive(path: Path) -> list[SourceFile]:
    """List the files in a zip archive that are not hidden.

    Raises:
        InputError: It is damaged, holds archives, or names that lead out of it.
    """
    listed = open_archive(path).infolist()
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
