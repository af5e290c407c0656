"""Small files on disk: their hashes, and how they get there so that a half-written one is never taken for whole."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ssl_rs.errors import InputError

NUMBERS = re.compile(r"\[\n[-+.,\d\seE]*\]")
"""A list of numbers as json indents it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, an error of the system names the file that is written: a full disk does not say of what.

    Raises:
        OSError: As it came, with the file.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error


@contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write; it takes its name when all of it is on the disk, and vanishes if that fails.

    Raises:
        OSError: It cannot be written; names the file.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            with open(aside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()  # on a full disk it would keep the space that is needed
            raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within it, an error of the system names the file that is read: that of a disk does not say of what.

    Raises:
        OSError: As it came, with the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        OSError: It cannot be made; names it.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_can_be_folder(key: str, path: Path) -> None:
    """Refuse a place where no folder is nor can be made.

    Args:
        key: The setting that names it.
        path: It need not be there yet.

    Raises:
        InputError: It, or what it lies in, is a file.
    """
    existing = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        why = f"{existing} is {'a file' if existing.exists() else 'a link to nothing'}"
        raise InputError(f"{key}={path} is no folder and cannot become one: {why}. Choose another {key}.")


def write_text(path: Path, text: str) -> None:
    """Write a file aside, flush it to the disk, and rename it into place; its folder is made where it lacks."""
    make_folder(path.parent)
    write_beside(path, text)


def write_beside(path: Path, text: str) -> None:
    """Write as `write_text` into a folder that must be there: where it has vanished, the other files have too.

    Raises:
        OSError: It cannot be written; names the file.
    """
    with written_aside(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Return indented JSON; a list of numbers, e.g. a row of a confusion matrix, stays on one line."""
    text = json.dumps(content, indent=1)  # line breaks inside of texts are escaped: those that stand there are ours
    return NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def no_file(path: Path) -> str:
    """Say why a path is none of a file."""
    return "that is a folder; name the file in it" if path.is_dir() else "there is no such file"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content as hex digits."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
