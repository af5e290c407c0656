"""The weights that runs started from: whether those of one row were made alike."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from ssl_rs.reporting.runs import Run


def file_of(run: Run) -> str:
    """Return what a run, or its pretraining, took of a published file: which, what of it, and for which statistics."""
    for kind, provenance in (
        (run.initialization, run.provenance),
        (run.pretraining.get("initialization"), run.pretraining.get("provenance")),
    ):
        if kind == "imagenet" and isinstance(provenance, Mapping):
            return str(provenance.get("sha256"))
        if kind == "file" and isinstance(provenance, Mapping):
            prefix = str(provenance.get("source")).partition(", ")[2]  # the name of the file says nothing
            return str([prefix, *(provenance.get(key) for key in ("sha256", "first_convolution", "statistics"))])
    return ""


def starts_of(runs: Sequence[Run]) -> list[Hashable]:
    """Return of each run what the pretrainings of one row must have in common.

    Those of an earlier version wrote no hash of their settings: they are taken for those that agree in all else.
    """
    told, hashes = [_start_of(run) for run in runs], [_start_hash(run) for run in runs]
    known: dict[Hashable, set[str]] = defaultdict(set)
    for key, found in zip(told, hashes, strict=True):
        known[key] |= {found} - {""}
    return [
        (key, next(iter(known[key])) if not found and len(known[key]) == 1 else found)
        for key, found in zip(told, hashes, strict=True)
    ]


def _start_of(run: Run) -> Hashable:
    """Return what is known of the weights that a run started from, but for the seed that they were trained with."""
    keys = ("dataset", "steps", "images_seen")
    pretrained = (str(run.pretraining.get(key)) for key in keys)
    return run.initialization, file_of(run), *pretrained, run.with_decoder


def _start_hash(run: Run) -> str:
    """Return the hash of the settings of a run's pretraining; empty where an earlier version wrote none."""
    return str(run.pretraining.get("settings_hash") or "")


def starts_differ(one: Run, other: Run) -> bool:
    """Tell whether two runs are known to have started from weights that were made in different ways."""
    hashes = {_start_hash(one), _start_hash(other)} - {""}
    return _start_of(one) != _start_of(other) or len(hashes) > 1
