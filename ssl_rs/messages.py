"""What a command tells beside its output: lines on standard error."""

import sys


def say_line(text: str) -> None:
    """Write a line, or several, to standard error in one write.

    torchrun starts its processes without a buffer: what one of them writes in two goes, as print() writes a text and
    the end of its line, another can come between.
    """
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
