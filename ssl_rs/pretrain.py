"""`python -m ssl_rs.pretrain`: learn an encoder from unlabeled images."""

import sys
from pathlib import Path
from typing import Any

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    from ssl_rs.stages.pretraining import pretrain  # here, so that --help and mistakes of config need no torch

    return pretrain(settings)


def plan(settings: Settings) -> tuple[Path, dict[str, Any]]:
    """Return where this run would live and the keys by which a report places it."""
    from ssl_rs.stages.pretraining import place

    return place(settings)


if __name__ == "__main__":
    sys.exit(main("pretrain"))
