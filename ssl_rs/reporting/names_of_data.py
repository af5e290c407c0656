"""Tables that read alike and are of other data: what each of them says of its data."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ssl_rs.reporting.differing_settings import differing_settings
from ssl_rs.reporting.runs import Run
from ssl_rs.reporting.tables import Comparison


def names_of_data(groups: Mapping[Comparison, Sequence[Run]]) -> dict[Comparison, str]:
    """Name what differs between comparisons that read alike: settings of their data, or else its manifest."""
    alike: dict[Comparison, list[Comparison]] = defaultdict(list)
    for comparison in groups:
        alike[comparison._replace(manifest_sha256="")].append(comparison)
    settings = {comparison: _settings_of_data(runs) for comparison, runs in groups.items()}
    told, data = {}, {}
    for comparison in groups:
        others = alike[comparison._replace(manifest_sha256="")]
        differing = differing_settings(run for other in others for run in groups[other])
        named = ", ".join(
            f"{key}={next(iter(values))}"
            for key, values in settings[comparison].items()
            if key in differing and all(len(settings[other].get(key, ())) <= 1 for other in others)
        )
        data[comparison] = _data(comparison, groups, others)
        told[comparison] = "" if len(others) == 1 else named or data[comparison]
    texts = Counter((comparison._replace(manifest_sha256=""), text) for comparison, text in told.items())
    return {
        comparison: text
        if not text or texts[comparison._replace(manifest_sha256=""), text] == 1
        else f"{text}, {data[comparison]}"
        for comparison, text in told.items()
    }


def _settings_of_data(runs: Sequence[Run]) -> dict[str, set[str]]:
    """Return the values that some runs have of each setting of their data, ordered by its key."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key in sorted(run.settings):
            if key.startswith("dataset."):
                found[key].add(str(run.settings[key]))
    return dict(sorted(found.items()))


def _data(
    comparison: Comparison, groups: Mapping[Comparison, Sequence[Run]], others: Sequence[Comparison]
) -> str:  # fmt: skip
    """Name the data of a comparison: by their manifest, and by what differs between them and those of others."""
    manifest = f"data {comparison.manifest_sha256[:8]}"
    if len(others) == 1:
        return manifest
    shared = set.intersection(*({run.label_fraction for run in groups[each]} for each in others))
    counted = [_counts_of_data(groups[each], max(shared, default=None)) for each in others]
    own = counted[others.index(comparison)]
    said = [text for key, text in own.items() if len({each.get(key) for each in counted}) > 1]
    return f"{manifest} ({', '.join(said)})" if said else manifest


def _counts_of_data(runs: Sequence[Run], fraction: float | None) -> dict[str, str]:
    """Return how many scenes and pixels runs were scored on, and how many units a share of the labels is, in words.

    Args:
        runs: Of one comparison.
        fraction: The share, in (0, 1]; None: none that others have too.
    """
    split, found = "" if runs[0].split == "all" else f"{runs[0].split} ", {}
    if scored := next((run.scene_confusions["full"] for run in runs if run.scene_confusions.get("full")), None):
        pixels = sum(int(counts.sum()) for counts in scored.values())
        found = {
            "scenes": f"{len(scored)} {split}scene{'s' * (len(scored) != 1)}",
            "pixels": f"{pixels:,} {split}pixels",
        }
    trained_here = [run for run in runs if run.trained_on == run.manifest_sha256 and run.label_fraction == fraction]
    units = {run.labeled_units for run in trained_here}
    if fraction is not None and len(units) == 1:
        count, unit = units.pop(), runs[0].label_unit
        share = "all" if fraction == 1 else f"{100 * fraction:.4g}\N{NO-BREAK SPACE}% of the"
        found["units"] = f"{share} labels: {count:,} {unit}{'s' * (count != 1)}"
    return found
