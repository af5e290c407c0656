"""`python -m ssl_rs.preview`: a picture of every view that a pretraining would see."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    # Imported here, so that --help and mistakes of config need no torch.
    from ssl_rs.stages.previewing import preview

    return preview(settings)


if __name__ == "__main__":
    sys.exit(main("preview"))
