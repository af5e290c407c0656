"""Which files of a user's own folder are images and masks, and what its splits.yaml says."""

import os
import unicodedata
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

from ssl_rs.data.classes_file import read_yaml_mapping
from ssl_rs.data.dataset import Split
from ssl_rs.data.finding_files import check_link, check_text, files_below
from ssl_rs.data.raster import EXTENSIONS
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError, nearest, some

UNLABELED: Split = "unlabeled"
"""The folder in images/ of what has no mask."""

SPLITS: tuple[Split, ...] = tuple(split for split in get_args(Split) if split != "unlabeled")
BESIDE = (
    *(".tfw", ".tifw", ".tiffw", ".wld", ".j2w", ".jp2w", ".tab", ".jgw", ".jgwx", ".jpgw", ".jpegw"),
    *(".pgw", ".pgwx", ".pngw", ".gfw", ".bpw", ".sdw", ".prj", ".rpb", ".xmp", ".sld"),
    *(".aux", ".xml", ".ovr", ".msk", ".rrd", ".hdr", ".imd", ".rpc", ".til", ".ige", ".points", ".qml", ".lyr"),
    *(".shp", ".shx", ".dbf", ".cpg", ".sbn", ".sbx", ".geojson", ".gpkg", ".kml", ".kmz", ".qgz", ".qgs"),
    *(".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".html", ".htm", ".pdf", ".doc"),
    *(".docx", ".xls", ".xlsx", ".py", ".sh", ".ipynb", ".log", ".db", ".ini", ".lnk", ".sha256", ".md5", ".met", ""),
)
"""Extensions of what lies beside images without being one."""

PACKED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")

OTHERS_TOLD = 3
"""Files in masks/ that are no image's mask of which a message gives the names."""


def unlabeled_files(images: Path) -> dict[str, Path]:
    """Return the images below images/unlabeled, however deep, by their path from images/ on, ordered."""
    folder = images / UNLABELED
    found = {path.relative_to(images): path for path in files_below(folder) if path.suffix.lower() in EXTENSIONS}
    for path in found.values():
        check_text(path)
    return {name.as_posix(): path for name, path in sorted(found.items())}


def by_stem(
    folder: Path, extensions: tuple[str, ...], leave_out: str | None = None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files of a folder and of its subfolders train, val, test by stem, ordered.

    Args:
        folder: Where they are.
        extensions: Of the files that count.
        leave_out: A subfolder that is somebody else's.

    Returns:
        The first file of each stem; and for stems of which there are more files, a message that says so.

    Raises:
        InputError: A subfolder of another name.
    """
    found: dict[str, Path] = {}
    problems: dict[str, str] = {}
    folders = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    folders = [place for place in folders if place == folder or place.name != leave_out]
    for place in folders[1:]:
        if place.name not in SPLITS:
            known = ", ".join([*SPLITS, leave_out] if leave_out else SPLITS)
            raise InputError(
                f"{place}: subfolders are named {known}. Rename it, or move its files up, each by a name of its own, "
                f"such as {place.name}.tif, which its mask has too."
            )
    for path in sorted(path for place in folders for path in place.iterdir()):
        if path.suffix.lower() not in extensions or path.name.startswith("."):
            continue
        check_link(path)
        if not path.is_file():
            continue
        check_text(path)
        stem = stem_of(path)
        if stem in found:
            problems[stem] = f"{path} and {found[stem]} have the same stem. Rename or remove one of them."
        found.setdefault(stem, path)
    return dict(sorted(found.items())), problems


def stem_of(path: Path | SourceFile) -> str:
    """Return the stem of a file's name as one spelling: a Mac writes accents apart from their letters."""
    return unicodedata.normalize("NFC", path.stem)


def others(folder: Path, stems: Collection[str]) -> str:
    """Return which pictures below a folder of masks are no masks of these stems, and what to do; "" without any."""
    found = files_below(folder) if folder.is_dir() else ()
    pictures = [path for path in found if path.suffix.lower() in EXTENSIONS]
    masks = [path for path in pictures if stem_of(path) in stems]
    if blurred := sorted(path for path in masks if path.suffix.lower() in (".jpg", ".jpeg")):
        return f", which holds {_some(blurred)}: JPEG blurs labels; make PNG files from what these were made from"
    if named := sorted(set(pictures) - set(masks)):
        return f", which holds {_some(named)}: rename masks to the stems of their images"
    return ""


def without_mask(stem: str, image: Path, masks: Path, rest: str) -> tuple[str, str]:
    """Return what is wrong with an image that has no mask, and the same in words for several such images.

    Args:
        stem: Of the image.
        image: Its file.
        masks: Where its mask should be.
        rest: What `others` says of that folder.
    """
    unlabeled = f"images/{UNLABELED}, which only pretraining sees, or take"
    setting = "dataset.without_mask=unlabeled takes all such images as if they lay there."
    one = f"{image} has no mask {stem}.png or .tif in masks/{rest}. Add it, move the image to {unlabeled} it out"
    several = (
        f"no mask of that stem, .png or .tif, in {masks}/{rest}. Add them, move the images to {unlabeled} them out"
    )
    return f"{one}; {setting}", f"{several}; {setting}"


def warn_of_unused(root: Path, masks_without_image: Collection[Path]) -> None:
    """Warn of files that look as if they were meant, and are not used: images of other types, and masks of no image."""
    if os.environ.get("RANK", "0") != "0":  # of all processes, the first speaks
        return
    unread = [path for path in files_below(root / "images") if path.suffix.lower() not in (*EXTENSIONS, *BESIDE)]
    for is_packed, remedy in ((False, "Convert to GeoTIFF"), (True, "Unpack it")):
        images = sorted(path for path in unread if (path.suffix.lower() in PACKED) == is_packed)
        types = ", ".join(sorted({path.suffix.lower() for path in images}))
        if images:
            warnings.warn(f"{_some(images)} in {root / 'images'}: {types} is not read. {remedy}.", stacklevel=2)
    if masks_without_image:
        found = _some(sorted(masks_without_image))
        warnings.warn(f"{found} in {root / 'masks'}: there is no image of that stem, so it is not used.", stacklevel=2)


def _some(paths: Sequence[Path]) -> str:
    return some([path.name for path in paths], OTHERS_TOLD)


def listed_splits(path: Path, images: Mapping[str, Path], without_mask: Collection[str]) -> Mapping[str, Split]:
    """Read splits.yaml.

    Args:
        path: The file.
        images: Those that it has to list, by stem.
        without_mask: Stems of others, which it must not list.

    Raises:
        InputError: A stem without image, an image that is in no list, or in two.
    """
    content = read_yaml_mapping(path, SPLITS)
    splits: dict[str, Split] = {}
    for split in SPLITS:
        stems = content.get(split, [])
        if not isinstance(stems, list) or not all(isinstance(stem, str) for stem in stems):
            raise InputError(
                f"{path}: {split}: expected a list of stems ([] for none; put numbers in quotes), got {stems!r:.80}."
            )
        for stem in (unicodedata.normalize("NFC", stem) for stem in stems):
            if stem not in images:
                masked = " with a mask" if stem in without_mask else ""
                raise InputError(
                    f"{path}: {split}: there is no image '{stem}'{masked} (those in images/{UNLABELED} are in no "
                    "split). " + nearest(stem, images)
                )
            if stem in splits:
                raise InputError(f"{path}: '{stem}' is listed twice, in {splits[stem]} and {split}.")
            splits[stem] = split
    unlisted = [stem for stem in images if stem not in splits]
    if unlisted:
        raise InputError(
            f"{path}: {len(unlisted)} images are in no list, the first is '{unlisted[0]}'. List it or take it away."
        )
    return splits
