"""A user's own folder of images, with or without masks."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from ssl_rs.data.classes_file import read_classes
from ssl_rs.data.dataset import Dataset, Scene, SceneArrays, SceneSource, SegmentationClass, Split
from ssl_rs.data.folder_bands import ALPHA, check_bands, names_by_file
from ssl_rs.data.folder_files import (
    UNLABELED,
    by_stem,
    listed_splits,
    others,
    stem_of,
    unlabeled_files,
    warn_of_unused,
    without_mask,
)
from ssl_rs.data.folder_layout import LAYOUT, without_images
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.paired import in_brackets, read_pair, with_channels
from ssl_rs.data.raster import EXTENSIONS
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.splits import draw_splits
from ssl_rs.data.value_types import as_stored
from ssl_rs.errors import TOLD, InputError


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Images of any number of bands in `images/`; for segmentation `masks/` with the same stems and `classes.yaml`.

    Images in `images/unlabeled` have no masks and serve pretraining alone. The split of the others is, in this order
    of preference:

    1. what `splits.yaml` says: the keys train, val, test, each a list of stems, every image in exactly one of them;
    2. their subfolder, if there are images/train, images/val or images/test (masks lie in subfolders of these names);
    3. drawn: stems ordered by their sha256, the first `test_share` test, the next `val_share` val, the rest train; with
       `scene_group` whole groups of them. Without masks nothing can be tested, so every image is train.

    For the form of `classes.yaml` see `ssl_rs.data.classes_file.read_classes`.

    Args:
        channels: Which channels of the files are read, counted from 1, in this order; null: all.
        bands: Names of these channels; null: red, green, blue for files of three of which all are read, else band_1 and
            so on by their numbers. Those named red, green and blue, with or without capitals, are shown and recolored
            as such. A last one named alpha says where a TIFF has data (not 0) and is none of the network's bands; in a
            PNG alpha means that by itself.
        val_share: Share of the images that are drawn for validation, in [0, 1).
        test_share: Share of the images that are drawn for testing, in [0, 1).
        split_seed: Another seed draws another split.
        without_mask: What an image outside of `images/unlabeled` is that has no mask though others have: an error, or
            unlabeled like those in there; in images/val and images/test it is an error all the same.

    Raises:
        InputError: Shares that leave nothing to train on.
    """

    bands: Sequence[str] | None
    val_share: float
    test_share: float
    split_seed: int
    without_mask: Literal["error", "unlabeled"] = "error"
    channels: Sequence[int] | None = None

    how_to_validate = "prepare the data with such a split: in splits.yaml, in images/val, or by dataset.val_share"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            raise InputError(
                "dataset.val_share and dataset.test_share must be 0 or more and add up to less than 1, "
                f"got {self.val_share} and {self.test_share}."
            )
        check_bands(self.bands, self.channels)

    @property
    def _has_alpha(self) -> bool:
        """Whether the last of the channels that are read tells where data is."""
        return self.bands is not None and self.bands[-1] == ALPHA

    @cached_property
    def path(self) -> Path:
        """The folder."""
        return self.folder(LAYOUT)

    @cached_property
    def mask_format(self) -> MaskFormat | None:
        """What the masks mean; None without masks."""
        masks, classes = self.path / "masks", self.path / "classes.yaml"
        if masks.is_dir() != classes.is_file():
            there, missing, remedy = (
                (
                    masks,
                    classes,
                    "write classes.yaml, which says what their values mean (docs/own-data.md), or move masks",
                )
                if masks.is_dir()
                else (classes, masks, "bring the masks, or move classes.yaml")
            )
            raise InputError(
                f"{there} is there but {missing} is not. Labels need both: {remedy} away, to use the images "
                "without labels."
            )
        return read_classes(classes) if masks.is_dir() else None

    @cached_property
    def classes(self) -> tuple[SegmentationClass, ...]:
        """What classes.yaml lists."""
        return self.mask_format.classes if self.mask_format else ()

    @cached_property
    def band_names(self) -> tuple[str, ...]:
        """What the settings say, else by the number of channels that most images have; without alpha.

        Raises:
            InputError: No image can be read, or it is left open what the last band is.
        """
        if self.bands is not None:
            return tuple(band for band in self.bands if band != ALPHA)
        scenes = self.scenes()
        labeled = [scene.files[0] for scene in scenes if scene.split != UNLABELED]
        unlabeled = [scene.files[0] for scene in scenes if scene.split == UNLABELED]
        return names_by_file(
            [files for files in (labeled, unlabeled) if files], self.channels, self.on_bad_scene == "skip"
        )

    def stored_by(self) -> dict[str, Any]:
        """As of every data set; `without_mask` decides nothing: the list of files shows what came of it."""
        found = super().stored_by()
        del found["without_mask"]
        if self.channels is None:  # the setting came when there were stores already
            del found["channels"]
        # At first all bands of a file said where it holds data.
        return found | ({} if self.channels is None and not self._has_alpha else {"nodata": "of these channels"})

    def undivided(self) -> "Folder":
        """Return this folder with all images that have masks in one split; the others are left out of it."""
        return _Undivided(**{each.name: getattr(self, each.name) for each in fields(self)})

    def scenes(self) -> Sequence[SceneSource]:
        """List the images, ordered by stem."""
        images, problems = self._images()
        masks: dict[str, Path] = {}
        if self.mask_format:
            masks, more = by_stem(self.path / "masks", (".png", ".tif", ".tiff"))
            problems |= more
        alone = self._alone(images, masks)
        splits = {**dict.fromkeys(alone, UNLABELED), **self._splits(images, alone)}
        rest = others(self.path / "masks", images) if self.mask_format and not images.keys() <= masks.keys() else ""
        scenes = []
        for stem, image in images.items():
            files, problem, alike = [image], problems.get(stem), None
            if stem in masks:
                files += [masks[stem], self.path / "classes.yaml"]
            elif self.mask_format and stem not in alone and not problem:
                problem, alike = without_mask(stem, image, self.path / "masks", rest)
            scenes.append(SceneSource(stem, splits[stem], tuple(map(SourceFile, files)), problem, alike))
        unlabeled = list(self._unlabeled({stem: masks[stem] for stem in masks if stem not in images}))
        known = {*images, *(stem_of(scene.files[0]) for scene in unlabeled)}
        warn_of_unused(self.path, [path for stem, path in masks.items() if stem not in known])
        return [*scenes, *unlabeled]

    def _alone(self, images: Mapping[str, Path], masks: Mapping[str, Path]) -> set[str]:
        """Return the stems of the images without masks that are wanted as unlabeled ones."""
        if self.mask_format is None or self.without_mask == "error":
            return set()
        held_out = [self.path / "images" / split for split in ("val", "test")]
        return {stem for stem, image in images.items() if stem not in masks and image.parent not in held_out}

    def _unlabeled(self, masks: Mapping[str, Path]) -> Iterator[SceneSource]:
        """Yield the images that have no masks, ordered; where nothing has any, they are for training like the others.

        Args:
            masks: Those that are of no other image, by their stems.
        """
        split: Split = "unlabeled" if self.mask_format else "train"
        for name, image in unlabeled_files(self.path / "images").items():
            problem, stem = None, stem_of(image)
            if stem in masks:
                problem = (
                    f"{image} lies among the unlabeled, but has a mask, {masks[stem]}. Move the image out of there, or "
                    "take the mask away."
                )
            yield SceneSource(name, split, (SourceFile(image),), problem)

    def read(self, scene: SceneSource) -> Scene:
        """Open an image and its mask; where the image has no data, the mask is ignored."""
        found = read_pair(scene.files[0], scene.files[1] if len(scene.files) > 1 else None, self.mask_format)
        return replace(found, strips=(self._taken(strip, scene.files[0]) for strip in found.strips))

    def _taken(self, strip: SceneArrays, file: SourceFile) -> SceneArrays:
        """Return some rows with the channels that are read, without the band that says where there is data."""
        chosen = self.channels
        if chosen is None and self._has_alpha and len(strip.image) == len(self.bands or ()):
            chosen = range(1, len(strip.image) + 1)
        if chosen is not None:
            numbers, last = (chosen[:-1], chosen[-1]) if self._has_alpha else (chosen, None)
            strip = with_channels(strip, numbers, last, file, f"dataset.channels={in_brackets(chosen)}")
        return replace(strip, image=as_stored(strip.image))

    def _images(self) -> tuple[dict[str, Path], dict[str, str]]:
        """Return the image of each stem, and what is wrong with some stems.

        Raises:
            InputError: There is none.
        """
        folder = self.path / "images"
        images, problems = by_stem(folder, EXTENSIONS, leave_out=UNLABELED) if folder.is_dir() else ({}, {})
        if not images and not unlabeled_files(folder):
            raise without_images(self.path)
        return images, problems

    def _splits(self, images: Mapping[str, Path], alone: Collection[str]) -> Mapping[str, Split]:
        """Return the split of each stem but those of images without masks."""
        images = {stem: image for stem, image in images.items() if stem not in alone}
        if (self.path / "splits.yaml").is_file():
            return listed_splits(self.path / "splits.yaml", images, alone)
        folders = {stem: image.parent.name for stem, image in images.items() if image.parent != self.path / "images"}
        if folders:
            outside = [images[stem] for stem in images if stem not in folders]
            if outside:
                raise InputError(
                    f"{outside[0]} lies beside the folders {sorted(set(folders.values()))}. Move it into one of them."
                )
            return cast(Mapping[str, Split], folders)
        if not self.mask_format:
            return dict.fromkeys(images, "train")
        if self.scene_group is not None and len(set(map(self.group_of, images))) == len(images):
            raise InputError(
                f"dataset.scene_group={self.scene_group} puts no two images together. Expected a regular "
                f"expression that finds how their names begin; the first are {', '.join(list(images)[:TOLD])}."
            )
        shares = (Decimal(str(share)) for share in (self.test_share, self.val_share))  # 0.07 of 100 are 7, and not 8
        num_test, num_val = (math.ceil(share * len(images)) for share in shares)
        return draw_splits(list(images), self.group_of, self.split_seed, {"test": num_test, "val": num_val})


class _Undivided(Folder):
    """The images of a folder that have masks, as one split, whatever splits.yaml and subfolders say."""

    def scenes(self) -> Sequence[SceneSource]:
        """List them, ordered by stem.

        Raises:
            InputError: No image has a mask.
        """
        labeled = [scene for scene in super().scenes() if scene.split != UNLABELED]
        if not labeled:
            rest = others(self.path / "masks", self._images()[0]) if self.mask_format else ""
            raise InputError(
                f"dataset.root={self.root} has no image with a mask in masks/{rest}. To score images, put masks of the "
                "same stems beside them."
            )
        return labeled

    def _splits(self, images: Mapping[str, Path], alone: Collection[str]) -> Mapping[str, Split]:
        return {stem: "train" for stem in images if stem not in alone}

    def _alone(self, images: Mapping[str, Path], masks: Mapping[str, Path]) -> set[str]:
        return {stem for stem in images if stem not in masks}
