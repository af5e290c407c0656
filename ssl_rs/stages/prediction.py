"""Predict: the images that are wanted, and the finished fine-tuning that maps them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.dataset import LARGEST_BLOCK
from ssl_rs.data.folder_bands import ALPHA
from ssl_rs.data.new_scenes import MARK, NewScenes, find_images
from ssl_rs.data.source_files import SourceFile
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.files import write_json
from ssl_rs.finetuned import finished_finetuning
from ssl_rs.messages import say_line
from ssl_rs.plain_types import fits
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages.finished_run import load_network, read_computer, stored_config, windows_like
from ssl_rs.stages.map_files import Target
from ssl_rs.stages.mapping import Job, map_image
from ssl_rs.stages.prepared_store import scene_progress
from ssl_rs.training.host_memory import keep_freed_memory
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

MOST_TOLD = 10
"""Images that were not mapped, of which each is told with its reason."""


def predict(settings: Settings) -> Path:
    """Map images that are not mapped yet; return the map of one image, or the folder of the maps of several.

    Raises:
        InputError: There is nothing to map, or some images could not be mapped; the others then are.
    """
    run, result = finished_finetuning(settings.value("run", str | None))
    places, run_dir = settings.value("images", str | tuple[str, ...] | None), settings.value("run_dir", str | None)
    output_dir = Path(settings.value("output_dir", str))
    if not places:
        raise InputError("images is not set. Name an image, a folder of images, or a list: images=SCENE.tif")
    Processes.alone("predict")
    job = _read_job(settings, run, result, output_dir, run_dir)
    without, unusable = [job.folder, output_dir / "predict"], list[str]()
    images = find_images([places] if isinstance(places, str) else places, without, unusable)
    targets = {name: Target.of(job.folder, name) for name in images}
    _check_targets(targets)
    settings.check_all_read()
    if job.device.type == "cpu":
        keep_freed_memory()
    _check_folder(job.folder)
    with RunDirectory(job.folder).lock():
        write_json(job.folder / MARK, {"command": "predict", "run": str(run.path), "model_sha256": job.model_sha256})
        failed = _map_all(job, images, targets)
    if problems := [*unusable, *failed]:
        more = f"\n... and so on, {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
        told = f"{more}\n{len(failed)} of {len(images)} images were not mapped."
        if not failed:
            told = f"{more}\nAll others were mapped: {job.folder}"
        elif len(images) == len(problems) == 1:
            told = ""
        raise InputError("\n".join(problems[:MOST_TOLD]) + told)
    return targets[next(iter(images))].map if len(images) == 1 else job.folder


def _map_all(job: Job, images: Mapping[str, SourceFile], targets: Mapping[str, Target]) -> list[str]:
    """Map every image that can be mapped, and return what is wrong with the others."""
    problems, before = [], 0
    with scene_progress("mapped") as report:
        for number, (name, file) in enumerate(images.items()):

            def tell(share: float, number: int = number, name: str = name) -> None:
                report(number + share, len(images), name)

            try:
                if map_image(job, file, targets[name], tell):
                    tell(1)
                else:
                    before += 1
            except InputError as error:  # the others are mapped all the same
                problems.append(str(error))
    if before:
        say_line(f"Mapped before, and left as they were: {before} of {len(images)} maps.")
    return problems


def _check_targets(targets: Mapping[str, Target]) -> None:
    """Refuse images of which two would write the same file, e.g. a.tif and a.probabilities.tif.

    Raises:
        InputError: Names both.
    """
    owners: dict[Path, str] = {}
    for name, target in targets.items():
        for path in reversed(target.files):
            if path in owners or path.name == MARK:
                raise InputError(
                    f"images: the maps of {owners.get(path, MARK)} and {name} would both write {path.name}. Rename one "
                    "of them, or map them by two commands with another run_dir."
                )
            owners[path] = name


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds what predict did not write: a map may have the name of an image in it.

    Raises:
        InputError: Names something that lies there.
    """
    others = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if others and not (folder / MARK).is_file():
        raise InputError(
            f"run_dir={folder} holds {others[0]}, and no {MARK}: it is no folder of maps, and nothing there is "
            "overwritten. Choose an empty or new folder."
        )


def _read_job(
    settings: Settings, run: RunDirectory, result: Mapping[str, Any], output_dir: Path, run_dir: str | None
) -> Job:
    stored, metadata = stored_config(run), read_weights_metadata(run.model)
    window = windows_like(settings, stored)
    scenes, scale = _read_scenes(settings, run, stored, metadata), settings.value("value_scale", float | None)
    trainer = read_computer(settings)
    here = trainer.resolve_device(0)
    network = load_network(run, stored, metadata, window, settings.trusted)
    network.to(here).to(memory_format=torch.channels_last)  # as it was trained
    value_scale = scale or metadata.value_scale
    how = {**window.identity, "bands": scenes.chosen, "value_scale": value_scale}
    how |= {"downsample": scenes.downsample, "precision": trainer.resolve_precision(here)}
    how |= {} if scenes.alpha is None else {"alpha": scenes.alpha}
    how["nodata"] = "of these bands"  # an earlier version asked all bands of the file
    digest = config_hash(how, {"model": result["model_sha256"]})
    own = output_dir / "predict" / scenes.name / f"{run.path.resolve().name}-{digest}"
    return Job(
        run, result["model_sha256"], network, here, trainer.resolve_precision(here), window, scenes, value_scale,
        _colors(run, result, metadata.classes), settings.value("probabilities", bool),
        Path(run_dir or own), digest, metadata.data_mean,
        metadata.pixel_size,
    )  # fmt: skip


def _read_scenes(
    settings: Settings, run: RunDirectory, stored: Mapping[str, Any], metadata: WeightsMetadata
) -> NewScenes:
    """Return how images are read: as in training, but for what the settings say.

    Raises:
        InputError: A number out of its range, or a run that does not tell what is needed.
    """
    bands, scale = settings.value("bands", tuple[int, ...] | None), settings.value("value_scale", float | None)
    if scale is not None and not 0 < scale < math.inf:
        raise InputError(f"value_scale must be a number above 0, or null for that of the run; got {scale:g}.")
    factor = settings.value("downsample", int | None)
    if factor is not None and not 1 <= factor <= LARGEST_BLOCK:
        raise InputError(f"downsample must be 1 to {LARGEST_BLOCK} pixels, or null for that of the run; got {factor}.")
    if factor is None:
        factor = stored["dataset"].get("downsample", 1)
    if not fits(factor, int):
        raise InputError(f"{run.config} has dataset.downsample={factor!r:.80}: it is damaged. {run.from_scratch}")
    if scale is None and metadata.dtype is None:
        raise InputError(
            f"{run.model} does not tell the type of the values it was trained on: an earlier version wrote it. Say "
            f"what the images' values are divided by; in training it was value_scale={metadata.value_scale:g}."
        )
    dtype = metadata.dtype if scale is None else None
    alpha, trained_bands = settings.value("alpha", int | None), stored["dataset"].get("bands")
    trained_alpha = isinstance(trained_bands, list) and ALPHA in trained_bands
    told_by, alpha_told_by, channels = "", "", stored["dataset"].get("channels")
    if bands is None and fits(channels, tuple[int, ...]):  # as in training
        told_by, bands = " (dataset.channels of the run)", tuple(channels)
        if trained_alpha:
            alpha_told_by = told_by if alpha is None else ""
            bands, alpha = bands[:-1], bands[-1] if alpha is None else alpha
    elif bands is not None and trained_alpha and alpha is None:
        say_line("In training an alpha band said where data is. With bands=[...] none does: alpha=NUMBER names it.")
    name = str(stored["dataset"].get("name"))
    return NewScenes(
        name=name, downsample=factor, expected=metadata.bands, chosen=bands, told_by=told_by, alpha=alpha,
        alpha_told_by=alpha_told_by, trained_alpha=trained_alpha, trained_dtype=dtype,
        trained_scale=metadata.value_scale,
    )  # fmt: skip


def _colors(run: RunDirectory, result: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return the color of each class of a run.

    Raises:
        InputError: Its result does not tell them.
    """
    told = result.get("classes")
    rows = [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []
    colors = [tuple(each["color"]) for each in rows if fits(each.get("color"), tuple[int, int, int])]
    good = all(0 <= value <= 255 for color in colors for value in color)
    if not names or [each.get("name") for each in rows] != list(names) or len(colors) != len(names) or not good:
        raise InputError(
            f"{run.result} does not tell name and color of each of the classes {list(names)!s:.300} in `classes`. "
            f"{run.anew}"
        )
    return dict(zip(names, colors, strict=True))
