"""One process at a time: a file that is locked while somebody works, and that says who."""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO
from weakref import WeakSet

from ssl_rs.errors import InUseError
from ssl_rs.files import writing
from ssl_rs.messages import say_line

LOOK_SECONDS = 0.2
"""Longer than `holder` needs a file to see who holds it."""

_held: "WeakSet[IO[str]]" = WeakSet()


def _let_go_after_fork() -> None:
    """Close the parent's locks: a child that outlives it, e.g. one that reads batches, would go on holding them."""
    for file in list(_held):
        file.close()


os.register_at_fork(after_in_child=_let_go_after_fork)


def hold(path: Path, what: str, remedy: str, wait: bool = False) -> IO[str]:
    """Lock a file until what is returned is closed; the system lets go of it when the process dies, even by a kill.

    Args:
        path: The file; it is made, and its folder must be there.
        what: What is held, for messages.
        remedy: What else can be done than to wait.
        wait: Wait for whoever holds it, after saying who that is; else refuse.

    Raises:
        InUseError: Another process holds it.
        OSError: The file cannot be written.
    """
    with writing(path):
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held open as long as the lock
    if not _lock(file):
        told = f"{what} is in use by {_holder(file)}."
        if not wait:
            file.close()
            raise InUseError(f"{told} Wait for it, or {remedy}.")
        say_line(f"{told} Waiting for it.")
        fcntl.flock(file, fcntl.LOCK_EX)
    with writing(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
    _held.add(file)
    return file


def _lock(file: IO[str]) -> bool:
    """Lock a file, and tell whether nobody held it for longer than `holder` takes to look."""
    until = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS / 10)
        else:
            return True


def holder(path: Path) -> str | None:
    """Tell who holds a file that `hold` locks; None where nobody does.

    It shares the file for a moment, which `hold` waits for.
    """
    if not path.is_file():
        return None
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
    return None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200) or "another process"
