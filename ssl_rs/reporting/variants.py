"""Runs of one label whose settings differ: each setting gets a row of its own, named by what differs."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ssl_rs.config_hash import setting_text
from ssl_rs.errors import counted
from ssl_rs.reporting.differing_settings import differing_settings, is_compared
from ssl_rs.reporting.runs import Run
from ssl_rs.reporting.tables import Comparison, comparison_of, place_of

MOST_NAMED = 3
"""Settings that a row is named by; a name of more could not be read."""

SCORING = ("evaluation.split", "evaluation.precision")
"""What may differ between runs of one row: a table is of one split, and says of a row if it was scored otherwise."""


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, with labels that tell what differs where runs of one label differ in settings or training data.

    The label stays with the settings that most runs of other labels in the table share, then with those that most of
    its own runs have, then with the values that come first. What an earlier version wrote without its settings keeps
    it, too.
    """
    by_settings = _renamed(_with_one_hash(runs), lambda run: run.row_hash, _named_by_settings)
    by_pretraining = _renamed(by_settings, lambda run: str(run.pretraining.get("steps")), _named_by_pretraining)
    by_parts = _renamed(by_pretraining, lambda run: run.with_decoder, _named_by_parts)
    return _with_other_data(_with_tied_pretrainings(by_parts))


def _with_tied_pretrainings(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; where as many of a row start from pretrainings of one setting as of another, each has its row.

    Of what most runs of a row start from, others are left out of it (`odd_runs`): without a majority there is no such.
    """
    rows: dict[tuple[Comparison, str], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if found := str(run.pretraining.get("settings_hash") or ""):
            rows[comparison_of(run), run.label][found].append(run)
    labels: dict[Path, str] = {}
    for (_, label), variants in rows.items():
        counts = sorted(len(set(map(place_of, own))) for own in variants.values())
        if len(counts) > 1 and counts[-1] == counts[-2]:
            for found, own in variants.items():
                labels |= {run.directory: f"{label}, pretraining of settings {found[:8]}" for run in own}
    return [replace(run, label=labels.get(run.directory, run.label)) for run in runs]


def _with_one_hash(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; hashes of settings that mean the same give way to the first of them.

    The hash is over settings as they were given: `auto` and the precision that it meant there, one process with batches
    of 16 and two with 8, the split that a run scored at its end though a table is of one split, windows given to the
    run or to `evaluate`, and, in runs of earlier versions, 1 and 1.0. A hash that meant several things, such as `auto`
    on different computers, stays apart; so does a run that does not tell all of its training.
    """
    meanings: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        if run.settings and (run.tells_training or run.command == "finetune"):
            meanings[run.settings_hash].add(_meaning(run) if run.tells_training else run.settings_hash)
    first: dict[str, str] = {}
    one = {
        each: first.setdefault(next(iter(meant)), each) for each, meant in sorted(meanings.items()) if len(meant) == 1
    }
    return [replace(run, row_hash=one.get(run.settings_hash, run.settings_hash)) for run in runs]


def _meaning(run: Run) -> str:
    """Return what the hash of a run's settings stands for, as text; whole numbers are one whether 1 or 1.0.

    Neither the split nor the precision of the scoring is in it: how a network was trained does not hang on them.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    counted = {key: plain(value) for key, value in run.settings.items() if is_compared(key) and key not in SCORING}
    return json.dumps(counted, sort_keys=True)


def _renamed(
    runs: Sequence[Run], key: Callable[[Run], Hashable], name: Callable[[Run, Run, Sequence[Run]], str]
) -> list[Run]:
    """Return the runs; those of a label that have another key than the usual ones get a longer label."""
    rows: dict[tuple[Comparison, str], dict[Hashable, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        rows[comparison_of(run), run.label][key(run)].append(run)
    labels: dict[Path, str] = {}
    everywhere = Counter((comparison_of(run), run.row_hash) for run in runs)
    for (comparison, label), variants in rows.items():
        row = [run for variant in variants.values() for run in variant]
        own = Counter(run.row_hash for run in row)
        elsewhere = {settings: everywhere[comparison, settings] - count for settings, count in own.items()}
        usual = min(variants.values(), key=partial(_rank, row=row, elsewhere=elsewhere))
        for variant in variants.values():
            told = "" if variant is usual else name(variant[0], usual[0], row)
            labels |= {run.directory: ", ".join(filter(None, (label, told))) for run in variant}
    return [replace(run, label=labels[run.directory]) for run in runs]


def _rank(variant: Sequence[Run], row: Sequence[Run], elsewhere: Mapping[str, int]) -> tuple[int, int, list[str]]:
    """Return what is smallest for the runs that keep the label, see `told_apart`.

    Args:
        variant: Runs of one setting.
        row: All runs of their label.
        elsewhere: How many runs of other labels have some settings, by their hash.
    """
    first = variant[0]
    values = [str(first.settings.get(key)) for key in differing_settings(row)]
    return -elsewhere[first.row_hash], -len(variant), values


def _named_by_settings(run: Run, usual: Run, row: Sequence[Run]) -> str:
    keys = [key for key in differing_settings(row) if key in run.settings and key in usual.settings]
    other = [key for key in keys if run.settings[key] != usual.settings[key]]
    # First what no other setting of the row has: of many, those that are not named would be what tells two rows apart.
    other.sort(key=lambda key: len({each.row_hash for each in row if each.settings.get(key) == run.settings[key]}))
    named = [setting_text(key, run.settings[key]) for key in other]
    others = len(named) - MOST_NAMED
    more = [f"and {counted(others, 'more setting')}"] if others > 0 else []
    return ", ".join([*named[:MOST_NAMED], *more])


def _named_by_pretraining(run: Run, usual: Run, row: Sequence[Run]) -> str:
    steps = run.pretraining.get("steps")
    before = "fine-tuning" if run.initialization == "finetuned" else "pretraining"
    return f"{steps:,} steps of {before}" if isinstance(steps, int) else ""


def _named_by_parts(run: Run, usual: Run, row: Sequence[Run]) -> str:
    return "encoder and decoder" if run.with_decoder else "encoder alone"


def _with_other_data(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; those that were trained on other data than the others of their table get a longer label.

    The others are those trained on the data that the table is of, or else, where it has none, most of them.
    """
    trained_on: dict[Comparison, Counter[str]] = defaultdict(Counter)
    for run in runs:
        trained_on[comparison_of(run)][run.trained_on] += 1
    usual = {
        comparison: comparison.manifest_sha256 if comparison.manifest_sha256 in found else found.most_common(1)[0][0]
        for comparison, found in trained_on.items()
    }
    namesakes = {run.trained_on_name: set[str]() for run in runs}
    for run in runs:
        namesakes[run.trained_on_name].add(run.trained_on)
    return [
        run
        if run.trained_on == usual[comparison_of(run)]
        else replace(run, label=f"{run.label}, trained on {_told_data(run, namesakes[run.trained_on_name])}")
        for run in runs
    ]


def _told_data(run: Run, namesakes: Collection[str]) -> str:
    """Return the data that a run was trained on: by name, and by their manifest where others have that name too."""
    named = [run.trained_on_name] if run.trained_on_name else []
    return ", ".join(named if named and len(namesakes) == 1 else [*named, f"data {run.trained_on[:8]}"])
