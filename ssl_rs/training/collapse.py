"""Warn or stop when the features of an encoder have become alike for all images."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ssl_rs.errors import InputError
from ssl_rs.training.state import Progress

COLLAPSED_STD = 0.02
"""Below it, unit-length features lie within about a degree of one another; 1 is spread in all directions."""

COLLAPSED_LINES = 3
"""Lines of metrics.jsonl in a row: a fresh network may begin there."""


def check_collapse(
    progress: Progress, line: Mapping[str, float], metrics: Path, on_collapse: Literal["warn", "stop"], tells: bool
) -> None:
    """Warn or stop when the features have been collapsed for some lines in a row.

    Args:
        progress: Counts those lines.
        line: The newest; without numbers of a collapse nothing is checked.
        metrics: Where the lines are.
        on_collapse: What to do.
        tells: Whether this process warns.

    Raises:
        InputError: `on_collapse` is stop.
    """
    if "collapse/feature_std" not in line:
        return
    progress.collapsed = progress.collapsed + 1 if line["collapse/feature_std"] < COLLAPSED_STD else 0
    if progress.collapsed != COLLAPSED_LINES:
        return
    cosine = line.get("collapse/mean_pair_cosine", math.nan)
    told = (
        f"The features have collapsed at step {progress.step}: for {COLLAPSED_LINES} lines of {metrics} in a "
        f"row their std is below {COLLAPSED_STD} (1: spread in all directions); the mean cosine of two images is "
        f"{cosine:.4f}. Lower optimizer.lr, change the weights of the losses, or choose tasks that keep images apart "
        "(contrastive)."
    )
    if on_collapse == "stop":
        raise InputError(f"{told} trainer.on_collapse=warn goes on all the same.")
    if tells:
        warnings.warn(told, stacklevel=2)
