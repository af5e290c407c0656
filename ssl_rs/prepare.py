"""`python -m ssl_rs.prepare`: check a data set once and write it as a memory-mapped store."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    from ssl_rs.stages.preparation import prepare  # here, so that --help need not wait for it

    return prepare(settings)


if __name__ == "__main__":
    sys.exit(main("prepare"))
