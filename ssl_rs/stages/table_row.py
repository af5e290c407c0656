"""Where a run that had labels stands in the report's table: its result says it, and before there is one its plan."""

from typing import Any

from ssl_rs.data.label_subset import LabelSubset
from ssl_rs.encoder import Backbone
from ssl_rs.stages.site import Site


def table_row(
    site: Site, backbone: Backbone, decoder: str, label: str, subset: LabelSubset, steps: int, settings_hash: str
) -> dict[str, Any]:
    """Return what tells the table, the row, the column and the seed of a run.

    Args:
        site: Where it runs, on which data.
        backbone: Its encoder.
        decoder: Name of its decoder, or of its probe.
        label: Of its initialization.
        subset: The labels that it sees.
        steps: Of training.
        settings_hash: Of all settings but those by which the table varies.
    """
    manifest = site.store.manifest
    return {
        "dataset": manifest.dataset,
        "backbone": backbone.name,
        "decoder": decoder,
        "label": label,
        **subset.told(),
        "seed": site.seed,
        "steps": steps,
        "manifest_sha256": manifest.sha256,
        "settings_hash": settings_hash,
    }
