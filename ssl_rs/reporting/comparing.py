"""Runs sorted into tables; those that would spoil one are left out and named."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ssl_rs.reporting.names_of_data import names_of_data
from ssl_rs.reporting.odd_runs import odd_runs
from ssl_rs.reporting.protocols import Protocol
from ssl_rs.reporting.runs import LeftOut, Run
from ssl_rs.reporting.tables import Comparison, Place, Table, comparison_of, place_of

KINDS = ("random", "imagenet", "file", "finetuned", "pretrained")
"""The order of rows; rows of one kind follow by their label."""


def compare(runs: Iterable[Run]) -> tuple[list[Table], list[LeftOut]]:
    """Sort runs into tables.

    Returns:
        A table a comparison and protocol, fine-tuning before probes, test scenes before validation scenes, then the
        comparison of most runs, in it the data set's own protocol first; and the runs whose settings differ from those
        of their row, or that would fill a place a second time (same label, fraction, seed and weights): a mean over
        them would mean nothing. An `evaluate` of a run gives way to the run's own scores without a word.
    """
    groups: dict[tuple[Comparison, Protocol], dict[Place, Run]] = defaultdict(dict)
    ordered = sorted(runs, key=lambda run: (run.command == "evaluate", str(run.directory)))
    left_out = odd_runs(ordered)
    for run in ordered:
        if run.directory in left_out:
            continue
        place = place_of(run)
        scores = sorted(run.scores.values(), key=lambda score: score.protocol.name != run.protocol)
        own = [(comparison_of(run), score.protocol) for score in scores]
        there = [groups[key][place] for key in own if key in groups and place in groups[key]]
        if first := next((each for each in there if each.command == run.command), None):
            left_out[run.directory] = _why_twice(run, first)
            continue
        for key in own:
            groups[key].setdefault(place, run)
    in_tables: dict[Comparison, dict[Path, Run]] = defaultdict(dict)  # protocols may know different runs
    for (comparison, _), places in groups.items():
        in_tables[comparison] |= {run.directory: run for run in places.values()}
    apart = names_of_data({comparison: list(own.values()) for comparison, own in in_tables.items()})
    tables = [
        _table(*key, list(places.values()), apart[key[0]])
        for key, places in sorted(groups.items(), key=lambda item: _order(item[0][0], len(in_tables[item[0][0]])))
    ]
    return tables, [LeftOut(directory, reason) for directory, reason in left_out.items()]


def _why_twice(run: Run, first: Run) -> str:
    """Say what is to be done about a run whose place another one has."""
    if run.config_hash and run.config_hash == first.config_hash:
        return f"a second copy of the run {first.directory}"
    remedy = "" if run.command == "evaluate" else "give it a row of its own by initialization.label, or "
    return (
        f"same label '{run.label}', label fraction and seed as {first.directory}, but other settings; "
        f"{remedy}delete one of the two"
    )


def _table(comparison: Comparison, protocol: Protocol, runs: Sequence[Run], apart: str) -> Table:
    kinds: Mapping[str, str] = {run.label: run.initialization for run in runs}
    labels = sorted(kinds, key=lambda label: (*_kind_order(kinds[label]), label))
    ordered = sorted(runs, key=lambda run: (labels.index(run.label), run.label_fraction, run.seed, run.weights_sha256))
    return Table(comparison, protocol, ordered, labels, sorted({run.label_fraction for run in runs}), apart)


def _order(comparison: Comparison, num_runs: int) -> tuple[object, ...]:
    """Sort by the name of the data set, fine-tuning before probes, test scenes before others, most runs first."""
    return (comparison.dataset, comparison.steps == 0, comparison.split != "test", -num_runs, comparison)


def _kind_order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)
