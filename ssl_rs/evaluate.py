"""`python -m ssl_rs.evaluate`: score a fine-tuned run on whole scenes, or probe a frozen encoder."""

import sys
from pathlib import Path

from ssl_rs.command import main
from ssl_rs.config import Settings


def run(settings: Settings) -> Path:
    """Do what the command is for and return the path of what it made."""
    # Imported here, so that --help and mistakes of config need no torch.
    if settings.values["encoder"] is not None:
        from ssl_rs.stages.probing import probe_encoder

        return probe_encoder(settings)
    from ssl_rs.stages.evaluate_run import evaluate

    return evaluate(settings)


if __name__ == "__main__":
    sys.exit(main("evaluate"))
