"""What a user's own folder should hold, and, where it has no images/, what it holds instead and the likely remedy."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

from ssl_rs.data.dataset import Split
from ssl_rs.data.raster import EXTENSIONS
from ssl_rs.errors import InputError, some

NOT_READ = (
    *(".bil", ".bmp", ".bsq", ".dng", ".ecw", ".gif", ".h5", ".hdf"),
    *(".img", ".j2k", ".nc", ".npy", ".npz", ".sid", ".vrt", ".webp"),
)
"""Extensions of images that no reader here knows."""

LAYOUT = (
    "images/ (jpg, png, tif or jp2) and, for segmentation, masks/ (png or tif, same stems) and classes.yaml; images "
    "without masks in images/unlabeled/"
)

OF_SPLITS: tuple[str, ...] = get_args(Split)
"""How folders in images/ are named."""

PLACES_TOLD = 3
"""Folders, or other entries, that a message lists."""

OF_LABELS = ("mask", "label", "annotation", "ground_truth")
"""How names of folders begin that rather hold masks."""


def without_images(root: Path) -> InputError:
    """Return the error that a folder has no images where they are looked for.

    Of what it holds only three levels are looked at, `root/FOLDER/images`: it may be a whole disk.
    """
    found = {place: pictures for place in _places(root) if (pictures := _pictures(place))}
    told = [_told(root, place, pictures) for place, pictures in found.items()]
    names = [f"{path.name}{'/' * path.is_dir()}" for path in _entries(root)]
    holds = some(told, PLACES_TOLD) if told else f"{some(names, PLACES_TOLD)}, but no image" if names else "nothing"
    said = (
        f"dataset.root={root} has no images in images/. It should hold {LAYOUT}. Found: {holds}. {_remedy(root, found)}"
    )
    return InputError(said.rstrip())


def _places(root: Path) -> Iterator[Path]:
    """Yield the folders in which images may lie: the root, those in it, and `images` in each of them."""
    yield root
    for folder in (path for path in _entries(root) if path.is_dir()):
        yield folder
        yield folder / "images"


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder and is not hidden; nothing of one that cannot be listed."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return []


def _pictures(folder: Path) -> Counter[str]:
    """Return how many files in a folder are images, or archives of some perhaps, by their extension."""
    suffixes = (path.suffix.lower() for path in _entries(folder) if not path.is_dir())
    return Counter(suffix for suffix in suffixes if suffix in (*EXTENSIONS, *NOT_READ, ".zip"))


def _told(root: Path, place: Path, pictures: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count} {suffix}" for suffix, count in pictures.items())
    return counts if place == root else f"{place.relative_to(root).as_posix()}/ ({counts})"


def _remedy(root: Path, found: Mapping[Path, Counter[str]]) -> str:
    """Return what to do, or "" where nothing looks like images that were meant."""
    around = _folder_around(root, found)
    if around is not None:
        return f"It is within {around.name}/ already: set dataset.root={around.parent}."
    readable = [place for place, pictures in found.items() if any(suffix in EXTENSIONS for suffix in pictures)]
    places = [place for place in readable if place != root and not place.name.lower().startswith(OF_LABELS)]
    if below := [place.parent for place in places if place.parent != root]:
        return _of_folders_below(below)
    if places:
        return _of_folders(places)
    if root in readable:
        return "Move the images into images/."
    suffixes = sorted({suffix for pictures in found.values() for suffix in pictures if suffix not in EXTENSIONS})
    if suffixes == [".zip"]:
        return "Unzip it: archives are not read here."
    return f"{', '.join(suffixes)} is not read: convert to GeoTIFF." if suffixes else ""


def _folder_around(root: Path, found: Iterable[Path]) -> Path | None:
    """Return images/ or masks/ where that, or a folder of a split in it, was named instead of what holds it."""
    named = root if root.name else root.absolute()  # "." has no name
    if named.name in ("images", "masks") and any(place == root or place.name in OF_SPLITS for place in found):
        return named
    return named.parent if named.name in OF_SPLITS and named.parent.name in ("images", "masks") else None


def _of_folders_below(below: Sequence[Path]) -> str:
    """Return what to do where not the folder but some in it have images/."""
    if (name := below[0].name) in OF_SPLITS:
        return f"Move the images of {name}/images/ to images/{name}/ (masks to masks/{name}/), others alike."
    return f"Set dataset.root={below[0]}{', or another of them' if below[1:] else ''}."


def _of_folders(places: Sequence[Path]) -> str:
    """Return what to do where images lie in folders of other names."""
    if all(place.name in OF_SPLITS for place in places):
        return f"Move {some([f'{place.name}/' for place in places], PLACES_TOLD)} into images/, those of masks/ alike."
    likely = [place for place in places if place.name.lower().startswith("im")] or places
    return "Put the images of one of them into images/." if likely[1:] else f"Rename {likely[0].name}/ to images/."
