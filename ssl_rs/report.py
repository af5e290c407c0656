"""`python -m ssl_rs.report`: put all finished runs into one page."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    from ssl_rs.stages.report import report  # here, so that --help and mistakes of config need no torch

    return report(settings)


if __name__ == "__main__":
    sys.exit(main("report"))
