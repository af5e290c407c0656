"""`python -m ssl_rs.finetune`: train a segmentation network on a share of the labels and score it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    from ssl_rs.stages.finetuning import finetune  # here, so that --help and mistakes of config need no torch

    return finetune(settings)


def plan(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what prepares the data and tells where the run lives and how a report places it."""
    from ssl_rs.stages.finetuning_plan import place

    return place(settings)


if __name__ == "__main__":
    sys.exit(main("finetune"))
