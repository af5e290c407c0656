"""What a command tells: its results on standard output, all else in lines on standard error."""

import os
import sys
from typing import TextIO


class OutputClosed(KeyboardInterrupt):
    """Nobody reads the output any more, as behind `| head`: it ends the command as Ctrl-C does, without a word."""


def print_line(text: str) -> None:
    """Write a line, or several, to standard output at once.

    Raises:
        OutputClosed: It is a pipe, and its reader has closed it. What is written later goes nowhere, or Python would
            tell of the pipe when it ends.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        _leave_unread(sys.stdout)
        raise OutputClosed from error


def say_line(text: str) -> None:
    """Write a line, or several, to standard error in one write.

    torchrun starts its processes without a buffer: what one of them writes in two goes, as print() writes a text and
    the end of its line, another can come between.

    Raises:
        OutputClosed: As `print_line`.
    """
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except BrokenPipeError as error:
        _leave_unread(sys.stderr)
        raise OutputClosed from error


def _leave_unread(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
