"""Tables that read alike and are of other data: what each of them says of its data."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ssl_rs.config_hash import value_text
from ssl_rs.errors import counted
from ssl_rs.reporting.differing_settings import differing_settings
from ssl_rs.reporting.runs import Run
from ssl_rs.reporting.tables import Comparison


def names_of_data(groups: Mapping[Comparison, Sequence[Run]]) -> dict[Comparison, str]:
    """Name the data of each comparison where others of that name and split are of other data.

    Data are named by the settings in which they differ, or else by their manifest, and alike in every comparison: those
    of other steps or networks are no less of other data, e.g. of another resolution.
    """
    names: dict[Comparison, str] = {}
    for data in dict.fromkeys((comparison.dataset, comparison.split) for comparison in groups):
        own = [comparison for comparison in groups if (comparison.dataset, comparison.split) == data]
        runs: dict[str, list[Run]] = defaultdict(list)
        for comparison in own:
            runs[comparison.manifest_sha256] += groups[comparison]
        told = _names(runs) if len(runs) > 1 else {}
        names |= {comparison: told.get(comparison.manifest_sha256, "") for comparison in own}
    return names


def _names(runs: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Name several data, given by manifest with the runs that were scored on them."""
    settings = {manifest: _settings_of_data(own) for manifest, own in runs.items()}
    differing = differing_settings(run for own in runs.values() for run in own)
    clear = [key for key in differing if all(len(settings[other].get(key, ())) <= 1 for other in runs)]
    by_settings = {
        manifest: ", ".join(f"{key}={next(iter(values))}" for key, values in own.items() if key in clear)
        for manifest, own in settings.items()
    }
    by_manifest = _by_manifest(runs)
    told = {manifest: by_settings[manifest] or by_manifest[manifest] for manifest in runs}
    texts = Counter(told.values())
    return {
        manifest: text if texts[text] == 1 else f"{text}, {by_manifest[manifest]}" for manifest, text in told.items()
    }


def _settings_of_data(runs: Sequence[Run]) -> dict[str, set[str]]:
    """Return the values that some runs have of each setting of their data, ordered by its key."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key in sorted(run.settings):
            if key.startswith("dataset."):
                found[key].add(value_text(run.settings[key]))
    return dict(sorted(found.items()))


def _by_manifest(runs: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Name data by their manifests, and by what differs between them."""
    shared = set.intersection(*({run.label_fraction for run in own} for own in runs.values()))
    counts_of = {manifest: _counts_of_data(own, max(shared, default=None)) for manifest, own in runs.items()}
    names = {}
    for manifest, own in counts_of.items():
        said = [text for key, text in own.items() if len({each.get(key) for each in counts_of.values()}) > 1]
        names[manifest] = f"data {manifest[:8]} ({', '.join(said)})" if said else f"data {manifest[:8]}"
    return names


def _counts_of_data(runs: Sequence[Run], fraction: float | None) -> dict[str, str]:
    """Return how many scenes and pixels runs were scored on, and how many units a share of the labels is, in words.

    Args:
        runs: That were scored on these data.
        fraction: The share, in (0, 1]; None: none that others have too.
    """
    split, found = "" if runs[0].split == "all" else f"{runs[0].split} ", {}
    if scored := next((run.scene_confusions["full"] for run in runs if run.scene_confusions.get("full")), None):
        pixels = sum(int(counts.sum()) for counts in scored.values())
        found = {
            "scenes": counted(len(scored), f"{split}scene"),
            "pixels": f"{pixels:,} {split}pixels",
        }
    trained_here = [run for run in runs if run.trained_on == run.manifest_sha256 and run.label_fraction == fraction]
    units = {(run.labeled_units, run.label_unit) for run in trained_here}
    if fraction is not None and len(units) == 1:
        count, unit = units.pop()
        share = "all" if fraction == 1 else f"{100 * fraction:.4g}\N{NO-BREAK SPACE}% of the"
        found["units"] = f"{share} labels: {counted(count, unit)}"
    return found
