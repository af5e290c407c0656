"""LoveDA: 5,987 RGB images of 1024 x 1024 pixels of 0.3 m, of cities and of the country, with 7 classes.

Source: J. Wang, Z. Zheng, A. Ma, X. Lu & Y. Zhong, "LoveDA: a remote sensing land-cover dataset for domain adaptive
semantic segmentation", NeurIPS Datasets and Benchmarks, 2021.
To be had at https://doi.org/10.5281/zenodo.5706578, CC BY-NC-SA 4.0: not for commerce.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ssl_rs.data.dataset import IGNORE, Dataset, Scene, SceneSource, SegmentationClass
from ssl_rs.data.finding_files import find_files
from ssl_rs.data.listing import list_scene, wrong_layout
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.matching_files import match_files
from ssl_rs.data.paired import read_pair
from ssl_rs.data.splits import SET_VAL_SHARE, check_val_share, with_validation

LAYOUT = "Train/Rural/images_png/0.png with Train/Rural/masks_png/0.png and so on, likewise Train/Urban and Val"
PLACE = r"/(Train|Val)/({areas})/{kind}/(\d+)\.png"

MASKS = MaskFormat(
    classes=(
        SegmentationClass("background", (255, 255, 255)),
        SegmentationClass("building", (255, 0, 0)),
        SegmentationClass("road", (255, 255, 0)),
        SegmentationClass("water", (0, 0, 255)),
        SegmentationClass("barren", (159, 129, 183)),
        SegmentationClass("forest", (0, 255, 0)),
        SegmentationClass("agriculture", (255, 195, 128)),
    ),
    by_color=False,
    indices={0: IGNORE, **{value: value - 1 for value in range(1, 8)}},
)


@dataclass(frozen=True, kw_only=True)
class LoveDA(Dataset):
    """Train trains, but for some images that validate instead; Val is the test split.

    The labels of the publisher's own Test are hidden, so it is not read.

    Args:
        area: Only the country or only the cities; None: both.
        val_share: Share of the images of Train that validate, in [0, 1).
        split_seed: Another seed draws other images for validation.

    Raises:
        InputError: A share that leaves nothing to train on.
    """

    area: Literal["rural", "urban"] | None
    val_share: float
    split_seed: int

    band_names = ("red", "green", "blue")
    classes = MASKS.classes
    dtype = "uint8"
    how_to_validate = SET_VAL_SHARE

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_val_share(self.val_share)

    def scenes(self) -> Sequence[SceneSource]:
        """List the images, named after their folders: train_rural_0, val_urban_3514."""
        root = self.folder(LAYOUT)
        files = find_files(root)
        areas = self.area.capitalize() if self.area else "Rural|Urban"
        images, labels = (
            match_files(files, root, PLACE.format(areas=areas, kind=kind)) for kind in ("images_png", "masks_png")
        )
        if not images:
            raise wrong_layout(root, f"image in Train or Val, {areas}, images_png", LAYOUT, files)
        if not labels:
            raise wrong_layout(root, f"mask in Train or Val, {areas}, masks_png", LAYOUT, files)
        listed = {"_".join(groups).lower(): groups for groups in sorted({*images, *labels})}
        train = [scene for scene, groups in listed.items() if groups[0] == "Train"]
        test = [scene for scene, groups in listed.items() if groups[0] == "Val"]
        splits = with_validation(train, test, self.val_share, self.split_seed, self.group_of)
        scenes = []
        for scene, split in splits.items():
            part, area, number = groups = listed[scene]
            needed = {
                f"{part}/{area}/images_png/{number}.png": images.get(groups),
                f"{part}/{area}/masks_png/{number}.png": labels.get(groups),
            }
            scenes.append(list_scene(scene, split, needed))
        return scenes

    def read(self, scene: SceneSource) -> Scene:
        """Open an image and its mask."""
        image, label = scene.files
        return read_pair(image, label, MASKS)
