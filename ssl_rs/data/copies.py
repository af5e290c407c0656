"""Images that are in two splits: scores on them say little."""

import warnings

from ssl_rs.data.manifest import Manifest, SceneRecord
from ssl_rs.data.store import array_file
from ssl_rs.errors import TOLD

SCORING = ("val", "test")
"""Splits whose images must be new to whoever is scored on them."""


def warn_of_copies(manifest: Manifest) -> None:
    """Warn of images that are the same to the last pixel, one of which scores and the other lies in another split."""
    scoring: dict[str, SceneRecord] = {}
    pairs = []
    for scene in sorted(manifest.scenes, key=lambda scene: scene.split not in SCORING):  # those that score first
        image = next(each.sha256 for each in scene.arrays if each.name == array_file(scene.number, "image"))
        other = scoring.setdefault(image, scene) if scene.split in SCORING else scoring.get(image, scene)
        if other.split != scene.split:
            pairs.append(f"{other.split} '{other.id}' and {scene.split} '{scene.id}'")
    if pairs:
        more = f" and {len(pairs) - TOLD} more" if len(pairs) > TOLD else ""
        warnings.warn(
            f"{manifest.dataset}: images are the same to the last pixel, {', '.join(pairs[:TOLD])}{more}: scores are "
            "partly of what was trained on. Take the copies away, or put them into one split.",
            stacklevel=2,
        )
