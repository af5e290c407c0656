"""Scenes that cannot be used: all that are known at once, as one message, or left out and noted."""

from collections.abc import Sequence
from pathlib import Path

from ssl_rs.data.dataset import Dataset, SceneSource
from ssl_rs.data.manifest import SkippedScene
from ssl_rs.errors import InputError, first_of, some

LEAVE_OUT = "(dataset.on_bad_scene=skip leaves such scenes out.)"


def refuse_listed(dataset: Dataset, scenes: Sequence[SceneSource]) -> None:
    """Tell all problems that the listing of the files shows, before the first scene is read.

    Raises:
        InputError: There are some, and bad scenes are errors.
    """
    bad = [scene for scene in scenes if scene.problem]
    if bad and dataset.on_bad_scene == "error":
        said = f"{len(bad)} of {len(scenes)} scenes cannot be used, as their files show before they are read:"
        raise InputError(_told(said if len(bad) > 1 else "", _problems(bad)))


def _problems(bad: Sequence[SceneSource]) -> list[str]:
    """Return what is wrong with scenes, in their order; what several have alike is said once, after their names."""
    names: dict[str, list[str]] = {}
    for scene in bad:
        if scene.alike:
            names.setdefault(scene.alike, []).append(scene.files[0].name)
    told: dict[str, None] = {}  # an ordered set
    for scene in bad:
        shared = names.get(scene.alike or "", [])
        problem = f"{some(shared)}: {scene.alike}" if len(shared) > 1 else scene.problem
        told[problem or ""] = None
    return list(told)


def left_out(
    dataset: Dataset, bad: Sequence[tuple[SceneSource, str]], num_read: int, num_scenes: int
) -> list[SkippedScene]:
    """Note why scenes are left out.

    Args:
        dataset: Says what is done with them.
        bad: Each with the reason.
        num_read: How many scenes were read until then.
        num_scenes: How many there are.

    Raises:
        InputError: There are some, and bad scenes are errors.
    """
    reasons = [reason for _, reason in bad]
    if reasons and dataset.on_bad_scene == "error":
        among = f"{num_scenes}" if num_read == num_scenes else f"the first {num_read} of {num_scenes}"
        alike = {reason.partition(": ")[2] for reason in reasons}
        if len(reasons) == num_read > 1 and len(alike) == 1 and alike != {""}:
            raise InputError(f"{reasons[0]}\nThat is so of {among} scenes, all that were read: a setting may be wrong.")
        said = f"{len(reasons)} of {among} scenes cannot be used:"
        raise InputError(_told(said if len(reasons) > 1 else "", reasons))
    within = f"{Path(dataset.root)}/" if dataset.root else None
    return [
        SkippedScene(scene.id, scene.split, reason.replace(within, "") if within else reason) for scene, reason in bad
    ]


def _told(said: str, problems: Sequence[str]) -> str:
    """Return a message that lists problems after a first line; without one, a message of the only problem."""
    return "\n".join([said, *first_of(problems), LEAVE_OUT]) if said else f"{problems[0]} {LEAVE_OUT}"
