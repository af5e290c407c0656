"""`python -m ssl_rs.evaluate`: score a fine-tuned run on whole scenes."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    from ssl_rs.stages.evaluation import evaluate  # here, so that --help and mistakes of config need no torch

    return evaluate(settings)


if __name__ == "__main__":
    sys.exit(main("evaluate"))
