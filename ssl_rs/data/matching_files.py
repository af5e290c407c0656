"""Source files by their place below a root: those that match what a data set expects, and what lies there instead."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ssl_rs.data.finding_files import check_text
from ssl_rs.data.source_files import SourceFile

FOLDERS_TOLD = 8
"""Folders that a message names."""


def match_files(
    files: Iterable[SourceFile], root: Path, pattern: str, prefer: str = ""
) -> dict[tuple[str, ...], SourceFile]:
    r"""Return the files whose place below the root matches, by what the groups of the pattern caught.

    An archive counts as a folder of its name without extension. Of several files with the same groups, that in a place
    which matches `prefer` wins, then one that is not in an archive, then the first by name.

    Args:
        files: What `find_files` found.
        root: The folder they lie below.
        pattern: Regular expression for the end of the place, e.g. r"/top/top_mosaic_09cm_area(\d+)\.tif"; .TIF is as
            good as .tif.
        prefer: Regular expression that is looked for in the place.

    Raises:
        InputError: The name of one that matches is no UTF-8.
    """
    pattern = re.sub(r"\\\.(\w+\??)$", r"\\.(?i:\1)", pattern)
    wanted, preferred = re.compile(f"(?:.*){pattern}"), re.compile(prefer)
    found: dict[tuple[str, ...], tuple[tuple[bool, bool, str], SourceFile]] = {}
    for file in files:
        place = _place(file, root)
        match = wanted.fullmatch(place)
        if match:
            check_text(file)
            rank = (preferred.search(place) is None, file.member is not None, place)
            groups = match.groups()
            if groups not in found or rank < found[groups][0]:
                found[groups] = (rank, file)
    return {groups: file for groups, (_, file) in sorted(found.items())}


def _place(file: SourceFile, root: Path) -> str:
    """Return "/folder/archive/folder/name" below the root; the root's own name comes first, as if it were within."""
    inside = file.path.relative_to(root)
    if file.member:
        inside = (inside.with_suffix("") if file.path != root else inside) / file.member
    return f"/{root.resolve().name}/{inside.as_posix()}"


def describe_files(root: Path, files: Iterable[SourceFile]) -> str:
    """Say what lies in a folder, for the message that it is not what was expected: folders, archives, example names."""
    counts: dict[str, list[str]] = {}
    for file in files:
        folder = PurePosixPath(_place(file, root)).parent.relative_to(f"/{root.resolve().name}").as_posix()
        counts.setdefault(folder + (" (zip)" if file.member else ""), []).append(file.name)
    if not counts:
        return "nothing"
    told = [
        f"{folder}: {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for folder, names in counts.items()
    ]
    more = f"; and {len(told) - FOLDERS_TOLD} more folders" if len(told) > FOLDERS_TOLD else ""
    return "; ".join(told[:FOLDERS_TOLD]) + more
