"""What readers of published data sets share: scenes made of the files that were found, and words for missing ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ssl_rs.data.dataset import SceneSource, Split
from ssl_rs.data.matching_files import describe_files
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError


def list_scene(
    scene_id: str, split: Split, needed: Mapping[str, SourceFile | None], extra: SourceFile | None = None
) -> SceneSource:
    """Return a scene; one that lacks a file has a problem.

    Args:
        scene_id: Its id.
        split: Its split.
        needed: The files it is read from, in this order, by the place where the publisher has them; None: not found.
        extra: A file that comes last, where there is one.
    """
    missing = [place for place, file in needed.items() if file is None]
    told = f"Scene '{scene_id}': {' and '.join(missing)} not found below dataset.root."
    problem = f"{told} Add what is missing, or correct dataset.root."
    files = tuple(file for file in (*needed.values(), extra) if file is not None)
    return SceneSource(scene_id, split, files, problem if missing else None)


def wrong_layout(root: Path, what: str, layout: str, files: Iterable[SourceFile]) -> InputError:
    """Return the error that a folder holds something else.

    Args:
        root: The folder.
        what: What was looked for in vain.
        layout: What the folder should hold.
        files: All that it holds.
    """
    return InputError(
        f"dataset.root={root} holds no {what}. It, or zip archives in it, should hold {layout}. "
        f"Found: {describe_files(root, files)}."
    )
