"""Nested values of results and environments as the short texts that the page shows."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_VALUES = 3  # a setting of the environment that differs between more runs than this is only counted


def flat_texts(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return values as text by name, one level of nesting joined to the name; what is empty is left out."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = prefix + str(key).replace("_", " ")
        if isinstance(value, Mapping) and not prefix:
            flat |= flat_texts(value, f"{name} ")
        elif value not in (None, "", [], {}) and name != "label":  # the label heads the row
            flat[name] = str(value)[:12] if name.endswith("sha256") else _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        said = {str(key).replace("_", " "): each for key, each in value.items() if each not in (None, "", [], {})}
        return " · ".join(f"{key} {_text(each)}" for key, each in said.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def distinct_texts(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the values of each setting over all runs; those that differ too often are counted."""
    merged: dict[str, str] = {}
    for key in dict.fromkeys(key for environment in environments for key in environment):
        values = list(dict.fromkeys(environment[key] for environment in environments if key in environment))
        merged[key] = "; ".join(values) if len(values) <= MOST_VALUES else f"{len(values)} different values"
    return merged
