"""Runs that were not made as most others of their row: which, and what is odd about each."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from ssl_rs.reporting.runs import Run
from ssl_rs.reporting.starts import file_of, starts_of
from ssl_rs.reporting.tables import Comparison, comparison_of, place_of


def odd_runs(runs: Sequence[Run]) -> dict[Path, str]:
    """Return the runs whose settings, or whose pretraining's, are not those of most runs of their row, and why."""
    rows: dict[tuple[Comparison, str], list[Run]] = defaultdict(list)
    for run in runs:
        rows[comparison_of(run), run.label].append(run)
    odd = {}
    for (_, label), row in rows.items():
        alike = _most(row, [run.row_hash for run in row])
        usual = _most(alike, starts_of(alike))
        same_settings, same_start = ({run.directory for run in kept} for kept in (alike, usual))
        for run in row:
            if run.directory in same_start:
                continue
            start = _odd_start(run, usual[0])
            differs = start if run.directory in same_settings else "its settings are not those of"
            odd[run.directory] = (
                f"{differs} most other runs of the row '{label}'; give it a row of its own by initialization.label, or "
                "delete it"
            )
    return odd


def _odd_start(run: Run, usual: Run) -> str:
    """Begin a sentence on how the start of a run differs from that of most others of its row, of which one is given."""
    if run.initialization != usual.initialization:
        return f"its weights start from {run.initialization}, not as those of"
    if file_of(run) != file_of(usual):
        return "it starts from another file of weights, or takes others of it, than"
    return "the settings of its pretraining are not those of the pretrainings of"


def _most(runs: Sequence[Run], keys: Sequence[Hashable]) -> list[Run]:
    """Return the runs with the key that most of them have; of keys that as many have, the first.

    A run and a score of it by `evaluate` are one.
    """
    counted = dict.fromkeys((key, place_of(run)) for run, key in zip(runs, keys, strict=True))
    common = Counter(key for key, _ in counted).most_common(1)
    return [run for run, key in zip(runs, keys, strict=True) if key == common[0][0]]
