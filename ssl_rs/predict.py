"""`python -m ssl_rs.predict`: map new images by a fine-tuned run."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    # Imported here, so that --help and mistakes of config need no torch.
    from ssl_rs.stages.prediction import predict

    return predict(settings)


if __name__ == "__main__":
    sys.exit(main("predict"))
