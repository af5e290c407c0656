"""One image -> a class map that lies where the image lies, its picture, and what is in it."""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_rs.bands import RGB, shown_bands, told_bands
from ssl_rs.data.clipping import WORTH_TELLING, values_outside
from ssl_rs.data.dataset import IGNORE, SceneSource
from ssl_rs.data.ground_area import square_meters
from ssl_rs.data.map_writer import Grid, MapWriter, enlarged
from ssl_rs.data.new_scenes import NewScenes
from ssl_rs.data.scene_writer import write_scene
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store import array_file
from ssl_rs.data.tiff_file import small_cache
from ssl_rs.errors import InputError
from ssl_rs.files import make_folder, write_json, written_aside
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.network import Segments, scores_of
from ssl_rs.segmentation.sliding_window import WindowSettings, blended_strips, most_probable
from ssl_rs.stages.map_sheet import Thinned, draw_map_sheet
from ssl_rs.stages.samples import rgb_picture

ENDS = (".tif", ".probabilities.tif", ".png", ".overview.png", ".json")
"""How the names of a map's files end, in the order of `Target`."""

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
        mean: Of the values that the network learnt from, in [0, 1].
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
    mean: float


@dataclass(frozen=True)
class Target:
    """The files of one map.

    Args:
        map: GeoTIFF, uint8: the index of each pixel's class, 255 where the image has no data; of a coarser run, where
            more than half of what became one pixel has none.
        probabilities: GeoTIFF, float32, a band a class; NaN where the image has no data.
        picture: PNG, the map in the colors of its classes.
        sheet: PNG, the image, the map beside it, and its classes.
        about: JSON, written last: its presence means that the map is whole.
    """

    map: Path
    probabilities: Path
    picture: Path
    sheet: Path
    about: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "Target":
        """Return the files of the map of this name."""
        return cls(*(folder / f"{name}{end}" for end in ENDS))


def map_image(job: Job, file: SourceFile, target: Target, report: Callable[[float], None]) -> bool:
    """Map one image, unless its map is there; tell whether it was mapped now.

    Args:
        job: How.
        file: The image.
        target: Its map.
        report: Told which share of it is mapped.

    Raises:
        InputError: It cannot be read, does not fit the run, or another image of this name has its map there.
    """
    sha256, started = file.sha256(), time.monotonic()
    source = SceneSource(target.map.stem, "test", (file,))
    grid = _grid(job.scenes, source)
    if _is_mapped(job, sha256, grid, target):
        return False
    _check_owner(file, sha256, target)
    make_folder(target.map.parent)
    for left in target.map.parent.glob(".*.partial"):  # by a kill
        if left.is_file():
            left.unlink()
    for stale in (target.about, target.map, target.probabilities, target.picture, target.sheet):
        stale.unlink(missing_ok=True)
    with _scratch(job.folder) as scratch:
        with small_cache():
            write_scene(job.scenes, 0, source, scratch)
        clipped = _share_clipped(job, scratch, file)
        pixels = _write_map(job, scratch, grid, target, {"image": str(file), "image_sha256": sha256}, report)
    valid, area = sum(pixels[:-1]), square_meters(grid)
    classes = [
        {
            "name": name, "value": value, "color": list(color), "pixels": count, "share": count / max(valid, 1),
            **({} if area is None else {"square_meters": count * area}),
        }
        for value, ((name, color), count) in enumerate(zip(job.colors.items(), pixels, strict=False))
    ]  # fmt: skip
    about = {
        "image": str(file), "image_path": _place(file), "image_sha256": sha256,
        "run": str(job.run.path), "model_sha256": job.model_sha256,
        "config_hash": job.hash, "height": grid.height, "width": grid.width, "crs": grid.crs,
        "transform": grid.transform, "classes": classes, "pixels_without_data": pixels[-1], "share_clipped": clipped,
        "bands": job.scenes.chosen, "alpha": job.scenes.alpha,
        "wall_seconds": round(time.monotonic() - started, 3),
    }  # fmt: skip
    write_json(target.about, about)
    return True


def _grid(scenes: NewScenes, source: SceneSource) -> Grid:
    scene = scenes.read(source)
    return Grid(scene.height, scene.width, scene.crs, scene.transform)


def _is_mapped(job: Job, sha256: str, grid: Grid, target: Target) -> bool:
    """Tell whether the map of this very image, in this very place, is whole; files beside an image may place it."""
    wanted = [target.map, target.picture, target.sheet, *([target.probabilities] if job.probabilities else [])]
    if not all(path.is_file() for path in (*wanted, target.about)):
        return False
    try:
        found = json.loads(target.about.read_text(encoding="utf-8"))
        place = [found["crs"], found["transform"] and tuple(found["transform"])]
        return [found["image_sha256"], found["config_hash"], *place] == [sha256, job.hash, grid.crs, grid.transform]
    except (ValueError, RecursionError, KeyError, TypeError):  # damaged: it is written again, with its map
        return False


def _place(file: SourceFile) -> str:
    """Return where an image lies, whatever the working folder is."""
    return str(replace(file, path=file.path.absolute()))


def _check_owner(file: SourceFile, sha256: str, target: Target) -> None:
    """Refuse to write over the map of another image that has the same name, which lies elsewhere.

    Raises:
        InputError: Names both images.
    """
    try:
        found = json.loads(target.about.read_text(encoding="utf-8"))
        key = "image_path" if "image_path" in found else "image"  # earlier versions wrote it as it was given
        owner, mapped = str(found[key]), found["image_sha256"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):  # none, or damaged
        return
    image = _place(file) if key == "image_path" else str(file)
    if owner != image and mapped != sha256:
        raise InputError(
            f"{target.map} is the map of {owner}, another image of this name than {image}. Choose another run_dir, or "
            f"delete {target.about.name} there if that map is not wanted any more."
        )


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
    mean = job.mean * job.value_scale
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
        for each in (maps, likely):
            if each is not None:
                each.finish()
    pixels, missing = dict(zip(job.colors, counts.tolist(), strict=False)), int(counts[IGNORE])
    picture = thinned.map()
    _write_picture(target.picture, picture, colors)
    seen = rgb_picture(thinned.image(), RGB, job.value_scale, picture != IGNORE)
    with written_aside(target.sheet) as file:
        shown = told_bands(job.scenes.expected) + ("" if image.dtype == np.uint8 else ", stretched")
        draw_map_sheet(target.map.stem, seen, picture, job.colors, pixels, missing, shown).save(file, "PNG")
    return [*pixels.values(), missing]


def _write_picture(path: Path, classes: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> None:
    """Write a class map [H, W] as a PNG in the colors of its classes, transparent where there is no data."""
    image = Image.fromarray(classes, "P")
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    image.putpalette(palette.tobytes())
    with written_aside(path) as file:
        image.save(file, "PNG", transparency=IGNORE)
