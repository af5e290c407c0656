"""One process at a time: a file that is locked while somebody works, and that says who."""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO

from ssl_rs.errors import InputError


def hold(path: Path, what: str, remedy: str, wait: bool = False) -> IO[str]:
    """Lock a file until what is returned is closed; the system lets go of it when the process dies, even by a kill.

    Args:
        path: The file; it is made, and its folder must be there.
        what: What is held, for messages.
        remedy: What else can be done than to wait.
        wait: Wait for whoever holds it, after saying who that is; else refuse.

    Raises:
        InputError: Another process holds it.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held open as long as the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        told = f"{what} is in use by {_holder(file)}."
        if not wait:
            file.close()
            raise InputError(f"{told} Wait for it, or {remedy}.") from error
        print(f"{told} Waiting for it.", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
    return file


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200) or "another process"
