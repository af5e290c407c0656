"""Scenes that lie together, e.g. pieces of one large image: told by how their ids begin."""

import re
from collections.abc import Callable, Iterable

from ssl_rs.errors import InputError


def grouping(pattern: str | None, key: str) -> Callable[[str], str]:
    r"""Return what maps a scene's id to its group: how it begins, by a regular expression; else the id itself.

    A scene of which it finds nothing is a group of its own.

    Args:
        pattern: E.g. r"tile\d+", by which tile1_part2 and tile1_part3 are both of the group tile1; where it has
            parentheses, what the first of them found counts. None: each scene is a group of its own.
        key: The setting that holds it, for the message.

    Raises:
        InputError: No regular expression.
    """
    if pattern is None:
        return str
    try:
        beginning = re.compile(pattern)
    except re.error as error:
        raise InputError(
            rf"{key}={pattern}: expected a regular expression, e.g. '{key}=tile\d+', or null ({error})."
        ) from error

    def group(scene: str) -> str:
        found = beginning.match(scene)
        if found is None:
            return scene
        return next((each for each in found.groups() if each is not None), found.group()) or scene

    return group


def members(scenes: Iterable[str], group: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the scenes of each group, in their order."""
    found: dict[str, list[str]] = {}
    for scene in scenes:
        found.setdefault(group(scene), []).append(scene)
    return found
