"""Images that a trained network is to map: no labels, no splits, and none of the settings of training."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from ssl_rs.data.dataset import Dataset, Scene, SceneArrays, SceneSource, SegmentationClass
from ssl_rs.data.finding_files import Unusable, check_link, check_text, files_in_archive, find_files
from ssl_rs.data.matching_files import describe_files
from ssl_rs.data.paired import in_brackets, read_pair, with_channels
from ssl_rs.data.raster import DRIVERS, EXTENSIONS
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.tiff_file import TiffFile
from ssl_rs.data.value_types import as_stored
from ssl_rs.errors import InputError

MARK = "predict.json"
"""Says that a folder is one of maps."""

KNOWN = ", ".join(EXTENSIONS)


def find_images(places: Sequence[str], without: Sequence[Path], problems: list[str]) -> dict[str, SourceFile]:
    """Return the images at these places by the name that their maps get.

    Args:
        places: Files, zip archives, and folders that are searched with all that lies below them, archives included; of
            a folder that has images/ and masks/, the images. Patterns such as scenes/*.tif are files and folders, too.
        without: Folders where maps are written: what lies there is no image to be mapped, nor in other folders of maps.
        problems: Why archives in folders, links to images, or names cannot be used is added to it.

    Returns:
        Files by their name without extension; of those in a folder or an archive, their path in it.

    Raises:
        InputError: There is nothing, something else, or two maps would have one name.
    """
    found: dict[str, SourceFile] = {}
    known = set[SourceFile]()

    def tell(path: Path, error: InputError) -> None:
        if path.suffix.lower() in (*EXTENSIONS, ".zip"):
            problems.append(str(error))

    try:
        for place in places:
            for name, file in _images_at(Path(place), [folder.resolve() for folder in without], tell):
                try:
                    check_text(file)
                except InputError as error:
                    problems.append(str(error))
                    continue
                if file in known:  # several patterns, or one and a folder that it fits, may name an image
                    continue
                known.add(file)
                if name in found:
                    raise InputError(
                        f"images: {found[name]} and {file} would both become {name}.tif. Rename one of them, "
                        "or map them by two commands with another run_dir."
                    )
                found[name] = file
        if not found:  # patterns that fit nothing usable; all else is refused where it is met
            raise InputError(f"images={', '.join(places)}: no image is left. Repair those, or name others.")
    except InputError as error:
        raise InputError("\n".join([*problems, str(error)])) from error
    return found


def _images_at(place: Path, without: Sequence[Path], unusable: Unusable) -> Iterator[tuple[str, SourceFile]]:
    """Yield the images at a place, each with its name.

    Raises:
        InputError: There is none.
    """
    if place.is_dir():
        yield from _images_in(place, without, unusable)
    elif glob.has_magic(str(place)) and not place.exists():
        for path in _fitting(place):
            try:
                check_link(path)
            except InputError as error:  # as in a folder
                unusable(path, error)
                continue
            yield from _images_at(path, without, unusable)
    elif place.suffix.lower() not in (*EXTENSIONS, ".zip"):
        raise InputError(f"images={place} is no folder and no image ({KNOWN}). Name one or the other.")
    elif not place.is_file():
        raise InputError(f"images={place} does not exist. Name an image ({KNOWN}), a folder of them, or a list.")
    elif _below(place, without):
        raise InputError(f"images={place} lies where maps are written. Move it, or choose another run_dir.")
    elif place.suffix.lower() == ".zip":
        yield from _images_of(place, files_in_archive(place))
    else:
        yield place.stem, SourceFile(place)


def _images_in(folder: Path, without: Sequence[Path], unusable: Unusable) -> Iterator[tuple[str, SourceFile]]:
    """Yield all images below a folder.

    Raises:
        InputError: There is none.
    """
    if (folder / "images").is_dir() and (folder / "masks").is_dir():  # a data set with labels, which are no images
        folder = folder / "images"
    files = find_files(folder, unusable)
    maps = [*without, *(file.path.parent.resolve() for file in files if file.name == MARK)]
    found = [file for file in files if file.suffix in EXTENSIONS]
    images = [file for file in found if not _below(file.path, maps)]
    if found and not images:
        raise InputError(
            f"images={folder} holds maps alone: {found[0].path} lies where predict writes them, or wrote them ({MARK} "
            "says so). Name the images that are to be mapped."
        )
    yield from _images_of(folder, images or files)


def _images_of(place: Path, files: Sequence[SourceFile]) -> Iterator[tuple[str, SourceFile]]:
    """Yield the images among the files of a folder or an archive, each with its path in it.

    Raises:
        InputError: There is none.
    """
    images = [file for file in files if file.suffix in EXTENSIONS]
    if not images:
        raise InputError(f"images={place} holds no {KNOWN}. Found: {describe_files(place, files)}.")
    for file in images:
        within = [] if file.path == place else [file.path.relative_to(place).with_suffix("")]
        member = [] if file.member is None else [PurePosixPath(file.member).with_suffix("")]
        yield str(PurePosixPath(*within, *member)), file


def _fitting(pattern: Path) -> list[Path]:
    """Return the images and folders that fit a pattern, ordered.

    Raises:
        InputError: There is none.
    """
    found = [Path(path) for path in sorted(glob.glob(str(pattern), recursive=True))]
    images = [path for path in found if path.suffix.lower() in EXTENSIONS or path.is_dir()]
    if not images:
        raise InputError(f"images={pattern} fits no folder and no image ({KNOWN}). Change it, or name a folder.")
    return images


def _below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


@dataclass(frozen=True, kw_only=True)
class NewScenes(Dataset):
    """Images of any file name; `Dataset` has the other settings, of which none but `downsample` counts.

    Args:
        expected: Names of the bands that the network takes.
        chosen: Which bands of the files these are, counted from 1; None: all, in order.
        told_by: What set these, for messages; empty: the key itself.
        alpha_told_by: Likewise of `alpha`.
        trained_dtype: Type that values must have; None: any.
        trained_scale: What values of that type were divided by.
        alpha: Which band of the files, counted from 1, is not 0 where they have data; None: see `trained_alpha`.
        trained_alpha: The last band is that one where a file has one more than the network takes.
    """

    downsample_key = "downsample"
    may_be_empty = True  # a tile at the rim of a mosaic has its map, too

    root: str | None = None
    crop_size: int = 1
    tile_size: int = 1
    tile_shift: float = 0.0
    protocol: str = ""
    value_scale: float | None = None
    on_bad_scene: Literal["error", "skip"] = "error"
    transductive: bool = False

    expected: tuple[str, ...]
    chosen: tuple[int, ...] | None
    told_by: str = ""
    alpha_told_by: str = ""
    trained_dtype: str | None
    alpha: int | None = None
    trained_alpha: bool = False
    trained_scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the choice of bands."""
        super().__post_init__()
        if self.chosen is not None and (len(self.chosen) != len(self.expected) or min(self.chosen) < 1):
            raise InputError(
                f"bands={list(self.chosen)}{self.told_by}: expected {len(self.expected)} numbers from 1 on, one for "
                f"each of {', '.join(self.expected)}."
            )
        if self.alpha is not None and (self.alpha < 1 or self.alpha in (self.chosen or ())):
            taken = f", {in_brackets(self.chosen)}{self.told_by}" if self.chosen else ""
            raise InputError(
                f"alpha={self.alpha}: expected the number, from 1 on, of a band that is none of `bands`{taken}."
            )

    @property
    def band_names(self) -> tuple[str, ...]:
        """The bands that the network takes."""
        return self.expected

    @property
    def classes(self) -> tuple[SegmentationClass, ...]:
        """None: nothing is labeled."""
        return ()

    def scenes(self) -> Sequence[SceneSource]:
        """Return none: they are named one by one."""
        return ()

    def read(self, scene: SceneSource) -> Scene:
        """Open an image with the chosen bands; its strips tell if it has others, or values of another range.

        Raises:
            InputError: The file is damaged.
        """
        self._refuse_alpha(scene.files[0])
        found = read_pair(scene.files[0])
        return replace(found, strips=(self._chosen(strip, scene.files[0]) for strip in found.strips))

    def _refuse_alpha(self, file: SourceFile) -> None:
        """Refuse a file whose last band would be read as data, though all speaks for alpha, unless `bands` names it.

        Raises:
            InputError: It is such a file.
        """
        if file.suffix not in DRIVERS or (self.chosen is not None and not self.told_by):
            return
        image = TiffFile(file)
        last, wanted = image.num_bands, len(self.expected)
        is_read = last in self.chosen if self.chosen else last == wanted and self.alpha is None
        if is_read and image.calls_last_band_alpha and image.last_band_looks_like_alpha(surely=True):
            taken = in_brackets(self.chosen or range(1, wanted + 1))
            raise InputError(
                f"{file} calls the last of its {last} bands alpha, and that band holds nothing but 0 and the largest "
                f"value; the run would take it for {self.expected[-1] if not self.chosen else 'data'}. If it is data, "
                f"say so: bands={taken}. If it tells where data is, the image lacks a band that the run was trained on "
                f"({', '.join(self.expected)})."
            )

    def _chosen(self, strip: SceneArrays, file: SourceFile) -> SceneArrays:
        """Return some rows with the bands that the network takes."""
        bands, dtype, alpha = len(strip.image), strip.image.dtype, self.alpha
        if self.trained_alpha and alpha is None and self.chosen is None and bands == len(self.expected) + 1:
            alpha = bands
        chosen = self.chosen or tuple(number for number in range(1, bands + 1) if number != alpha)
        if len(chosen) != len(self.expected):
            said = (
                f"{file} has {bands} bands, the run was trained on {len(self.expected)} ({', '.join(self.expected)})."
            )
            if len(chosen) < len(self.expected):
                raise InputError(f"{said} Give it a file that has them all, or train a run on fewer.")
            raise InputError(
                f"{said} Say which they are, e.g. bands={in_brackets(range(1, len(self.expected) + 1))}, and "
                "alpha=NUMBER if one tells where data is."
            )
        asked = f"bands={in_brackets(chosen)}{self.told_by}"
        if max(chosen) <= bands:
            asked = f"alpha={alpha}{self.alpha_told_by}"
        # As in training: a file that is read whole has said already where it holds no data.
        whole = self.chosen is None and alpha is None
        taken = strip if whole else with_channels(strip, chosen, alpha, file, asked)
        if np.iscomplexobj(strip.image):
            raise InputError(f"{file} has complex values ({dtype}), which no run reads. Give it their magnitude.")
        if self.trained_dtype not in (None, as_stored(strip.image[:0]).dtype.name):
            raise InputError(
                f"{file} has values of type {dtype}, the run was trained on {self.trained_dtype}, divided by "
                f"{self.trained_scale:g}. Convert the image, or give the value that is as bright in it as "
                f"{self.trained_scale:g} in the images of the training: value_scale=..."
            )
        return replace(taken, image=as_stored(taken.image))
