"""The settings that differ between runs, though runs that are compared should have them in common."""

from collections import defaultdict
from collections.abc import Iterable

from ssl_rs.config_hash import value_text
from ssl_rs.reporting.runs import Run

MEANT = ("seed", "label_fraction.fraction", "dataset.protocol")
"""Settings by which runs of one comparison differ on purpose, beside those of initialization."""


def is_compared(key: str) -> bool:
    """Tell whether runs of one comparison should have a setting in common."""
    return key not in MEANT and not key.startswith("initialization.")


def differing_settings(runs: Iterable[Run]) -> dict[str, dict[str, list[str]]]:
    """Return the settings that are not those of all rows, though a table compares them: by key, each value's rows.

    What a comparison is meant to vary is not among them, nor what some row does not tell.
    """
    values: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        for key, value in run.settings.items():
            if is_compared(key):
                values[key][value_text(value)][run.label] = None
    return {
        key: {value: list(labels) for value, labels in found.items()}
        for key, found in sorted(values.items())
        if len(found) > 1
    }
