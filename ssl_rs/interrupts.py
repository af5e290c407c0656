"""Requests to stop that end a command: Ctrl-C, SIGTERM and SIGUSR1, and the end of torchrun."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ssl_rs.messages import OutputClosed, say_line

INTERRUPTED = 130
"""Exit code, as a shell tells of SIGINT."""

MESSAGE = "Interrupted. Start the same command again to go on from here."

GRACE = 30.0
"""Seconds for a last step and a checkpoint after torchrun was killed: as many as torchrun itself gives."""


@contextmanager
def signals_end_the_command() -> Iterator[None]:
    """Within it SIGTERM and SIGUSR1 end the command as Ctrl-C does, but for a loop that first saves a checkpoint.

    While something is imported all three end the process at once.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            for each in asked:
                signal.signal(each, signal.SIG_IGN)  # a cluster may send it to the launcher and to us
        if _is_importing(frame):
            _leave()
        raise KeyboardInterrupt

    asked = (signal.SIGTERM, signal.SIGUSR1)
    heard = [*asked]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # `&` in a script has it ignored
        heard.append(signal.SIGINT)
    try:
        before = {each: signal.signal(each, interrupt) for each in heard}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message: str, code: int) -> int:
    """Write a last line to standard error and return the exit code that goes with it."""
    rank = os.environ.get("RANK", "0")
    with suppress(OutputClosed):  # the code tells, too
        say_line(message if rank == "0" else f"[rank {rank}] {message}")
    return code


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _leave() -> None:
    """End at once: an exception would be lost in an import that catches all, or end in a crash of C++ code."""
    with suppress(Exception):  # this may have cut short another write
        say(MESSAGE, INTERRUPTED)
        sys.stdout.flush()
    os._exit(INTERRUPTED)


def _end_with_launcher(launcher: int) -> None:
    """Ask this process to stop when torchrun was killed: nobody waits for it, and it would hold the run and its GPU."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)  # where it waits inside of torch, e.g. for the launcher itself, it hears no signal
    os._exit(INTERRUPTED)
