"""One image -> a class map that lies where the image lies, its picture, and what is in it."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ssl_rs.bands import RGB, shown_bands, told_bands
from ssl_rs.data.clipping import WORTH_TELLING, values_outside
from ssl_rs.data.dataset import IGNORE, SceneSource
from ssl_rs.data.ground_area import square_meters
from ssl_rs.data.ground_control import NO_CONTROL
from ssl_rs.data.map_writer import Grid, MapWriter, enlarged
from ssl_rs.data.new_scenes import NewScenes
from ssl_rs.data.pixel_size import pixel_size, told_unlike
from ssl_rs.data.raster import DRIVERS
from ssl_rs.data.scene_writer import write_scene
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store import array_file
from ssl_rs.data.tiff_file import TiffFile, small_cache
from ssl_rs.errors import InputError
from ssl_rs.files import make_folder, write_json, written_aside
from ssl_rs.pictures import palette
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.network import Segments, scores_of
from ssl_rs.segmentation.sliding_window import WindowSettings, blended_strips, most_probable
from ssl_rs.stages.map_files import OWNER, Target, place_of
from ssl_rs.stages.map_sheet import Thinned, draw_map_sheet
from ssl_rs.stages.samples import rgb_picture

DARK = 0.1
"""Of the mean of the training: an image of which nearly all values lie below is told."""

PICTURE = 1024
"""Pixels of the longer side that a map's picture has at most."""


@dataclass(frozen=True)
class Job:
    """How images are mapped.

    Args:
        run: The fine-tuning.
        model_sha256: Of its weights.
        network: On the device.
        device: Where it computes.
        precision: Of the forward pass.
        window: How images are cut.
        scenes: How they are read.
        value_scale: The value that becomes 1.
        colors: Of each class, by its name, in order.
        probabilities: Whether they are written too.
        folder: Where the maps go.
        hash: Over the weights and all settings that can change a map.
        mean: Of the values that the network learnt from, in [0, 1]; None where nobody knows.
        pixel_size: Of the images that the network learnt from, m; None where nobody knows.
    """

    run: RunDirectory
    model_sha256: str
    network: Segments
    device: torch.device
    precision: str
    window: WindowSettings
    scenes: NewScenes
    value_scale: float
    colors: Mapping[str, tuple[int, int, int]]
    probabilities: bool
    folder: Path
    hash: str
    mean: float | None
    pixel_size: float | None


def map_image(job: Job, file: SourceFile, target: Target, report: Callable[[float], None]) -> bool:
    """Map one image, unless its map is there; tell whether it was mapped now.

    Args:
        job: How.
        file: The image.
        target: Its map.
        report: Told which share of it is mapped.

    Raises:
        InputError: It cannot be read, does not fit the run, or what lies there is not ours, or another image's.
    """
    with _about(file):
        sha256, started = file.sha256(), time.monotonic()
        source = SceneSource(target.map.stem, "test", (file,))
        grid = _grid(job.scenes, source)
    if target.is_whole(sha256, job.hash, grid, job.probabilities):
        return False
    target.check_free(file, sha256)
    make_folder(target.map.parent)
    size = pixel_size(grid.crs, grid.transform, grid.height, grid.width)
    if told := told_unlike(job.pixel_size, size and size * job.scenes.downsample):
        warnings.warn(f"{file}: {told}", stacklevel=2)
    for left in target.map.parent.glob(".*.partial"):  # by a kill
        if left.is_file():
            left.unlink()
    with _scratch(job.folder) as scratch:
        with small_cache(), _about(file):
            write_scene(job.scenes, 0, source, scratch)
        clipped = _share_clipped(job, scratch, file)
        pixels = _write_map(job, scratch, grid, target, {"image": str(file), "image_sha256": sha256}, report)
    about = {
        "image": str(file), "image_path": place_of(file), "image_sha256": sha256,
        "run": str(job.run.path), "model_sha256": job.model_sha256,
        "config_hash": job.hash, "height": grid.height, "width": grid.width, "crs": grid.crs,
        "transform": grid.transform, "ground_control": grid.control.plain(), "classes": _classes(job, grid, pixels),
        "pixels_without_data": pixels[-1], "share_clipped": clipped,
        "bands": job.scenes.chosen, "alpha": job.scenes.alpha,
        "bytes": target.sizes(), "wall_seconds": round(time.monotonic() - started, 3),
    }  # fmt: skip
    write_json(target.about, about)
    return True


def _classes(job: Job, grid: Grid, pixels: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is told of each class of a map.

    Args:
        job: Names the classes.
        grid: Where the map lies.
        pixels: Of each class, and last those without data.
    """
    valid, area = sum(pixels[:-1]), square_meters(grid)
    return [
        {
            "name": name, "value": value, "color": list(color), "pixels": count, "share": count / max(valid, 1),
            **({} if area is None else {"square_meters": count * area}),
        }
        for value, ((name, color), count) in enumerate(zip(job.colors.items(), pixels, strict=False))
    ]  # fmt: skip


@contextmanager
def _about(file: SourceFile) -> Iterator[None]:
    """Within it, what the system refuses of an image is about that image, and others may be mapped.

    Raises:
        InputError: The image cannot be read.
    """
    try:
        yield
    except OSError as error:
        if error.filename != str(file.path):
            raise
        raise InputError(
            f"{file} cannot be read: {error.strerror or error}. Make it readable, or take it out."
        ) from error


def _grid(scenes: NewScenes, source: SceneSource) -> Grid:
    scene, file = scenes.read(source), source.files[0]
    control = TiffFile(file).ground_control if file.suffix in DRIVERS else NO_CONTROL
    return Grid(scene.height, scene.width, scene.crs, scene.transform, control)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give an empty folder for an image on its way through; whoever holds the folder above holds it too."""
    scratch = folder / ".image.partial"
    shutil.rmtree(scratch, ignore_errors=True)  # a kill may have left one
    make_folder(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _load(scratch: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the image on its way through, [C, h, w], coarser by the factor, and where it holds data; None: all."""
    valid = scratch / array_file(0, "valid")
    image = np.load(scratch / array_file(0, "image"), mmap_mode="r")
    return image, np.load(valid, mmap_mode="r") if valid.is_file() else None


def _share_clipped(job: Job, scratch: Path, file: SourceFile) -> float:
    """Return which share of the values counts as black or white, since it lies outside of the scale; warn of many."""
    outside, scale = values_outside(*_load(scratch), job.value_scale), f"value_scale={job.value_scale:g}"
    if outside.above > WORTH_TELLING:
        warnings.warn(
            f"{file}: {100 * outside.above:.0f} % of its values lie above {scale}, by which the run divides, and count "
            f"as white; the largest seen is {outside.largest:g}. Are its values of the same kind?",
            stacklevel=2,
        )
    mean = (job.mean or 0.0) * job.value_scale
    if 0 < outside.usual < DARK * mean:
        warnings.warn(
            f"{file}: nearly all of its values lie below {outside.usual:.3g}, the mean of the training is {mean:.3g}: "
            f"it is nearly black to the network. Are its values of the same kind? value_scale=... says which of them "
            f"is as bright as {job.scenes.trained_scale:g} in the images of the training.",
            stacklevel=2,
        )
    if outside.below > WORTH_TELLING:
        warnings.warn(
            f"{file}: {100 * outside.below:.0f} % of its values lie below 0, down to {outside.least:g}: these count as "
            f"black. {outside.remedy}",
            stacklevel=2,
        )
    return round(outside.below + outside.above, 4)


def _write_map(
    job: Job, scratch: Path, grid: Grid, target: Target, tags: Mapping[str, str], report: Callable[[float], None]
) -> list[int]:
    """Write a map, its probabilities and its picture; return the pixels of each class, and last those without data."""
    image, valid = _load(scratch)
    factor, counts = job.scenes.downsample, np.zeros(256, np.int64)
    thinned = Thinned(-(-max(grid.height, grid.width) // PICTURE), factor, shown_bands(job.scenes.expected))
    scores = scores_of(job.network, job.device, job.precision)
    told = {**tags, "run": str(job.run.path), "model_sha256": job.model_sha256, "classes": ", ".join(job.colors)}
    with ExitStack() as stack:
        colors = list(job.colors.values())
        maps = stack.enter_context(MapWriter(target.map, grid, ["class"], "uint8", IGNORE, colors, told))
        likely = None
        if job.probabilities:
            writer = MapWriter(target.probabilities, grid, list(job.colors), "float32", float("nan"), tags=told)
            likely = stack.enter_context(writer)
        for rows, probabilities in blended_strips(scores, image, job.value_scale, job.window, job.device):
            holds = np.ones((rows.stop - rows.start, image.shape[2]), np.bool_) if valid is None else valid[rows]
            classes = np.where(holds, most_probable(probabilities), np.uint8(IGNORE))
            top = rows.start * factor
            height = (grid.height if rows.stop == image.shape[1] else rows.stop * factor) - top
            whole = enlarged(classes, factor, height, grid.width)
            maps.write(top, whole[None])
            counts += np.bincount(whole.ravel(), minlength=256)
            thinned.add(top, whole, image)
            if likely is not None:
                values = np.where(holds, probabilities.cpu().numpy(), np.float32("nan"))
                likely.write(top, enlarged(values, factor, height, grid.width))
            if rows.stop < image.shape[1]:
                report(rows.stop / image.shape[1])
        pixels, missing = dict(zip(job.colors, counts.tolist(), strict=False)), int(counts[IGNORE])
        pictures = _draw(job, target, thinned, pixels, missing)
        _put_in_place(target, [each for each in (maps, likely) if each is not None], *pictures, tags[OWNER])
    return [*pixels.values(), missing]


def _draw(
    job: Job, target: Target, thinned: Thinned, pixels: Mapping[str, int], missing: int
) -> tuple[Image.Image, Image.Image]:
    """Return a map's picture, in the colors of its classes, and its sheet."""
    classes, image = thinned.map(), thinned.image()
    picture = Image.fromarray(classes, "P")
    picture.putpalette(palette(list(job.colors.values())).tobytes())
    seen = rgb_picture(image, RGB, job.value_scale, classes != IGNORE)
    shown = told_bands(job.scenes.expected) + ("" if image.dtype == np.uint8 else ", stretched")
    return picture, draw_map_sheet(target.map.stem, seen, classes, job.colors, pixels, missing, shown)


def _put_in_place(
    target: Target, writers: Sequence[MapWriter], picture: Image.Image, sheet: Image.Image, owner: str
) -> None:
    """Put a map's files in place of an earlier one's, which stay until all that takes long, or room, is done.

    Args:
        target: The files.
        writers: Of the map, and of its probabilities.
        picture: The map, transparent where there is no data.
        sheet: Of the map.
        owner: What the pictures tell of whose they are.
    """
    marks = PngInfo()
    marks.add_text(OWNER, owner)
    for writer in writers:
        writer.complete()
    with written_aside(target.picture) as picture_file, written_aside(target.sheet) as sheet_file:
        picture.save(picture_file, "PNG", transparency=IGNORE, pnginfo=marks)
        sheet.save(sheet_file, "PNG", pnginfo=marks)
        for file in (picture_file, sheet_file):
            file.flush()
        for stale in target.files:
            stale.unlink(missing_ok=True)
        for writer in writers:
            writer.finish()
