"""Images that are in two splits: scores on them say little."""

import warnings

from ssl_rs.data.manifest import SceneRecord
from ssl_rs.data.store import Store
from ssl_rs.errors import some

SCORING = ("val", "test")
"""Splits whose images must be new to whoever is scored on them."""


def warn_of_copies(store: Store) -> None:
    """Warn of images that are the same, pixel for pixel, one of which scores and the other lies in another split."""
    scoring: dict[str, SceneRecord] = {}
    pairs = []
    hashed = [(scene, store.image_hash(index)) for index, scene in enumerate(store.manifest.scenes)]
    for scene, image in sorted(hashed, key=lambda each: each[0].split not in SCORING):  # those that score first
        other = scoring.setdefault(image, scene) if scene.split in SCORING else scoring.get(image, scene)
        if other.split != scene.split:
            pairs.append(f"{other.split} '{other.id}' and {scene.split} '{scene.id}'")
    if pairs:
        warnings.warn(
            f"{store.manifest.dataset}: images are the same, pixel for pixel, {some(pairs)}: scores are partly of "
            "what was trained on. Take the copies away, or put them into one split.",
            stacklevel=2,
        )
