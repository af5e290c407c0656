"""Where the store of a data set lies, and which scenes it is made of: listed and checked, none is read."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ssl_rs.data.dataset import Dataset, SceneSource, Split
from ssl_rs.data.given_scenes import check_listed
from ssl_rs.data.manifest import FORMAT_VERSION
from ssl_rs.data.splits import CUT_IT, FEWEST
from ssl_rs.errors import InputError, counted
from ssl_rs.own_code import hash_of_own


def locate_store(dataset: Dataset, store_dir: Path) -> tuple[Path, Sequence[SceneSource]]:
    """Return where the store of a data set lies, or would lie, and the scenes it is made of; none is read.

    Raises:
        InputError: There are no scenes, or none to train on.
    """
    scenes = _checked_scenes(dataset)
    return store_dir / f"{dataset.name}-{_source_hash(dataset, scenes)}", scenes


def _checked_scenes(dataset: Dataset) -> Sequence[SceneSource]:
    """List the scenes; those with a problem have it noted.

    Raises:
        InputError: None, or none to train on.
    """
    scenes = dataset.scenes()
    check_listed(dataset, scenes or ())
    if not scenes:
        raise InputError(f"{name_of(dataset)} has no scenes.")
    known = get_args(Split)
    if strange := next((scene for scene in scenes if scene.split not in known), None):
        raise InputError(
            f"{name_of(dataset)}: scene '{strange.id}' has the split {strange.split!r:.80}, expected one of "
            f"{', '.join(known)}: what its scenes() gives."
        )
    if not any(scene.split == "train" for scene in scenes):
        labeled = sum(scene.split != "unlabeled" for scene in scenes)
        beside = f" beside {len(scenes) - labeled} unlabeled" if labeled < len(scenes) else ""
        raise InputError(
            f"{name_of(dataset)} has {counted(labeled, 'scene')}{beside}, but none in the training split. "
            + (_training_remedy(dataset, scenes) if labeled else "Only to pretrain, take masks/ and classes.yaml away.")
        )
    seen: dict[str, SceneSource] = {}
    checked = []
    for scene in scenes:
        problem = scene.problem
        missing = [file for file in scene.files if not file.exists()]
        if scene.id in seen:
            both = " and ".join(str(each.files[0]) for each in (seen[scene.id], scene) if each.files)
            problem = (
                f"{name_of(dataset)} has more than one scene with the id '{scene.id}': {both}. Remove one of them."
            )
        elif missing and not problem:
            problem = f"{name_of(dataset)} needs the file {missing[0]}, which is missing."
        alike = scene.alike if problem == scene.problem else None
        checked.append(dataclasses.replace(scene, problem=problem, alike=alike))
        seen.setdefault(scene.id, scene)
    return checked


def _training_remedy(dataset: Dataset, scenes: Sequence[SceneSource]) -> str:
    """Return what to do where no scene is for training; all for training would leave nothing to score."""
    labeled = [scene.id for scene in scenes if scene.split != "unlabeled"]
    groups = set(map(dataset.group_of, labeled))
    if len(groups) < len(labeled):
        return (
            f"By dataset.scene_group={dataset.scene_group} they lie together in groups, {len(groups)} in all, of which "
            "each split gets whole ones: name smaller groups, or list the splits in splits.yaml."
        )
    if len(labeled) < FEWEST:
        return f"{CUT_IT} Only to pretrain, dataset.val_share=0 and dataset.test_share=0 do for a folder of your own."
    return (
        "Give it some; a folder of your own takes splits.yaml, or a smaller dataset.val_share and dataset.test_share."
    )


def name_of(dataset: Dataset) -> str:
    """Return a data set's name and folder, as messages begin."""
    return f"Data set '{dataset.name}'" + (f" in dataset.root={dataset.root}" if dataset.root else "")


def _source_hash(dataset: Dataset, scenes: Sequence[SceneSource]) -> str:
    """Return 12 hex digits over the settings and the listing of the files: equal as long as nothing changed.

    What was wrong with a scene may have been another file, which is none of its own.
    """
    listing = [
        (s.id, s.split, [file.identity() for file in s.files if file.exists()], *(["problem"] if s.problem else []))
        for s in scenes
    ]
    classes = [dataclasses.astuple(entry) for entry in dataset.classes]
    own = [] if (digest := hash_of_own(type(dataset))) is None else [digest]
    content = json.dumps(
        [FORMAT_VERSION, dataset.stored_by(), classes, dataset.band_names, listing, *own], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()[:12]
