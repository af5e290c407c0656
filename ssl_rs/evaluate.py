"""`python -m ssl_rs.evaluate`: score a fine-tuned run on whole scenes, or probe a frozen encoder."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def plan(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what prepares the data and tells where the scores live and their place."""
    if settings.values["encoder"] is not None:
        from ssl_rs.stages import probing

        return probing.place(settings)
    from ssl_rs.stages import evaluate_run

    return evaluate_run.place(settings)


if __name__ == "__main__":
    sys.exit(main("evaluate"))
