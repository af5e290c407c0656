"""Whether a finished run may be scored on data: bands, classes, values and splits as it had, nothing it learnt from."""

from typing import Literal, get_args

from ssl_rs.data.dataset import Dataset, Split
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.store import Store
from ssl_rs.errors import InputError
from ssl_rs.messages import say_line
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import SeenImages, read_seen
from ssl_rs.stages.finished_run import same_folder
from ssl_rs.weights_metadata import WeightsMetadata

OF_TRAINING = (
    "evaluation.split=all scores the scenes of every split, and this run was trained on some of these. It is for other "
    "data: name them by dataset.root=..., or choose evaluation.split=test or val."
)


def check_kinds(run: RunDirectory, metadata: WeightsMetadata, bands: tuple[str, ...], data: Dataset | Manifest) -> None:
    """Refuse data of other bands or classes than the run was trained on.

    Raises:
        InputError: Names both.
    """
    remedies = {
        "bands": "Where other channels of its files are these, bands=[3,2,1] says which, counted from 1",
        "classes": "Its classes.yaml must name the same, in the same order",
    }
    for key, own in (("bands", bands), ("classes", tuple(item.name for item in data.classes))):
        trained = getattr(metadata, key)
        if trained != own:
            raise InputError(
                f"{run.model} was trained on the {key} {trained!s:.300}, the data has {own}. Check dataset.root. "
                f"{remedies[key]}."
            )


def check_data(run: RunDirectory, metadata: WeightsMetadata, manifest: Manifest) -> None:
    """Refuse data of other values than the run was trained on.

    Raises:
        InputError: Values of another type, or another value scale.
    """
    if metadata.dtype not in (None, manifest.dtype):
        raise InputError(
            f"{run.model} was trained on values of type {metadata.dtype}, the data has {manifest.dtype}: divided by "
            f"{metadata.value_scale:g}, these would mean something else. Say which value is as bright here, "
            "dataset.root=... value_scale=..., or convert the images."
        )
    if metadata.value_scale != manifest.value_scale:
        raise InputError(
            f"{run.model} was trained on values divided by {metadata.value_scale:g}, the data at dataset.root is "
            f"divided by {manifest.value_scale:g}, as the run's config.yaml says. Fine-tune again, or take other data."
        )


def refuse_other_splits(trained: str | None, now: str | None, seen: SeenImages, store: Store) -> None:
    """Refuse the run's own data, moved, whose splits would be drawn without the groups they were drawn with.

    Raises:
        InputError: It is such data.
    """
    if trained is not None and now is None and seen.labeled and seen.labeled <= store.image_hashes(get_args(Split)):
        raise InputError(
            f"These are the images of the run's own data, whose splits were drawn by dataset.scene_group={trained}. "
            f"Set it again, 'dataset.scene_group=\"{trained}\"': without it other images would be scored."
        )


def compare_with_training(run: RunDirectory, store: Store, split: Literal["val", "test", "all"]) -> None:
    """Refuse to score images of which a run had labels; tell of those that it saw without.

    Raises:
        InputError: Names some.
    """
    seen, records = read_seen(run), store.manifest.scenes
    if seen.unknown:
        say_line(f"{run.path} does not say which images it had labels of. Make sure that none of these is among them.")
    scored = store.scenes_of(split)
    found = [records[index].id for index in scored if store.image_hash(index) in seen.labeled]
    if found:
        named = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise InputError(
            f"Images whose labels this run has seen are among these, pixel for pixel: {named} ({len(found)} in all). "
            "Take them out: scores on them would say nothing."
        )
    if count := sum(store.image_hash(index) in seen.images for index in scored):
        say_line(
            f"Pretraining saw {count} of the {len(scored)} images, without labels: scores on new images may be lower."
        )


def refuse_training_scenes(root: str | None, of_training: str | None) -> None:
    """Refuse to score every split of the data that a run was trained on.

    Raises:
        InputError: `root` names no other folder than the one of the training.
    """
    if root is None or same_folder(root, of_training):
        raise InputError(OF_TRAINING)
