"""`python -m ssl_rs.benchmark`: where the time of a step goes, and the limit."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    from ssl_rs.benchmarks.benchmarking import benchmark  # here, so that --help and mistakes of config need no torch

    return benchmark(settings)


if __name__ == "__main__":
    sys.exit(main("benchmark"))
