"""Images that are smaller than the crops cut from them: the crops show them mirrored."""

import warnings
from collections.abc import Collection

from ssl_rs.data.manifest import Manifest

STEP = 32
"""Pixels: sides of crops are multiples of it for nearly all encoders."""


def warn_of_small_images(manifest: Manifest, crop_size: int, splits: Collection[str]) -> None:
    """Warn where most images to train on are smaller than the crops: what lies beyond their borders is mirrored.

    Args:
        manifest: Of the data.
        crop_size: Side of the crops, pixels.
        splits: That crops are cut from.
    """
    sides = sorted(min(each.height, each.width) for each in manifest.scenes if each.split in splits)
    small = sum(side < crop_size for side in sides)
    if 2 * small <= len(sides):
        return
    fits = sides[(len(sides) - 1) // 2] // STEP * STEP
    remedy = f"dataset.crop_size={fits} fits most of them." if fits else "Join them to larger images, if they adjoin."
    warnings.warn(
        f"{small} of {len(sides)} images to train on are smaller than dataset.crop_size={crop_size} on a side (the "
        f"smallest has {sides[0]} pixels): crops go on by mirroring, where flips and rotations can hardly be told, and "
        f"repeat what they show. {remedy}",
        stacklevel=2,
    )
