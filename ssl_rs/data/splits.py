"""Splits that are drawn: by hashes of names, so that they are equal on every machine and for every order of files."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from ssl_rs.data.dataset import Split
from ssl_rs.errors import InputError
from ssl_rs.scene_groups import members

FEWEST = 3
"""Scenes below which one of train, val and test has none."""

CUT_IT = (
    "Scenes are split whole: cut one large image, and its mask alike, into several files first, e.g. with GDAL: "
    "`gdal_retile.py -ps 2048 2048 -targetDir tiles/images images/big.tif` and "
    "`gdal_retile.py -ps 2048 2048 -targetDir tiles/masks masks/big.tif` (make both folders before, and copy "
    "classes.yaml to tiles/); then dataset.root=tiles. Keep pieces that touch in one split (splits.yaml), or the "
    "scores are those of places beside the training's; dataset.scene_group draws such groups whole."
)
"""What to do about a folder of fewer scenes."""


SET_VAL_SHARE = "set dataset.val_share=0.1"
"""What to do where `with_validation` drew no scene."""


def seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """Return names in the order of the sha256 of "seed/name"."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())


def check_val_share(val_share: float) -> None:
    """Check the setting that `with_validation` takes.

    Raises:
        InputError: It leaves nothing to train on, or is negative.
    """
    if not 0 <= val_share < 1:
        raise InputError(f"dataset.val_share must be 0 or more and less than 1, got {val_share}.")


def draw_splits(
    scenes: Sequence[str], group: Callable[[str], str], seed: int, wanted: Mapping[Split, int]
) -> dict[str, Split]:
    """Return the split of each scene: whole groups, drawn until each split has as many scenes as wanted, or train.

    Args:
        scenes: Ids.
        group: Maps an id to its group, which may bring a split more scenes than wanted.
        seed: Another one draws other groups.
        wanted: Number of scenes, of each split in the order in which they draw.
    """
    groups = members(scenes, group)
    order = iter(seeded_order(groups, seed))
    drawn: dict[str, Split] = {}
    for split, number in wanted.items():
        taken = 0
        while taken < number and (name := next(order, None)) is not None:
            taken += len(groups[name])
            drawn[name] = split
    return {scene: drawn.get(group(scene), "train") for scene in scenes}


def with_validation(
    train: Sequence[str], test: Sequence[str], val_share: float, seed: int, group: Callable[[str], str]
) -> dict[str, Split]:
    """Return the split of each scene of a data set whose publisher names no validation scenes.

    Args:
        train: Ids of the scenes that the publisher trains on; some of them validate instead.
        test: Ids of the scenes that the publisher tests on.
        val_share: Share of the training scenes that validate, rounded, at least one; 0: none do.
        seed: Another one draws other scenes.
        group: As in `draw_splits`.
    """
    number = max(1, round(val_share * len(train))) if val_share > 0 else 0
    return draw_splits(train, group, seed, {"val": number}) | dict.fromkeys(test, "test")
