"""ISPRS Potsdam: 38 tiles of 6000 x 6000 pixels of 5 cm, with red, green, blue, near infrared and 6 classes.

Source: ISPRS 2D Semantic Labeling Contest, Potsdam; data of BSF Swissphoto. See `ssl_rs.data.isprs` for citations.
To be had at https://www.isprs.org/education/benchmarks/UrbanSemLab/, for research; it may not be passed on.
GeoSeg (UNetFormer) trains without 7_10, whose labels it finds wrong; the official list, and ours, has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ssl_rs.data import isprs
from ssl_rs.data.dataset import Dataset, Scene, SceneSource
from ssl_rs.data.finding_files import find_files
from ssl_rs.data.listing import wrong_layout
from ssl_rs.data.matching_files import match_files
from ssl_rs.data.splits import SET_VAL_SHARE, check_val_share, with_validation

FOLDERS = {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG", "RGBIR": "4_Ortho_RGBIR"}
BAND_NAMES = {
    "RGB": ("red", "green", "blue"),
    "IRRG": ("nir", "red", "green"),
    "RGBIR": ("red", "green", "blue", "nir"),
}

TRAIN = (
    "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12",
    "6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_10", "7_11", "7_12",
)  # fmt: skip
TEST = (
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Potsdam(Dataset):
    """The official 24 training and 14 test tiles; some training tiles validate instead.

    Args:
        bands: Which of the three products is read.
        val_share: Share of the training tiles that validate, in [0, 1).
        split_seed: Another seed draws other tiles for validation.
        unknown_colors: A mask color that no class has is an error, or its pixels are ignored.

    Raises:
        InputError: A share that leaves nothing to train on.
    """

    bands: Literal["RGB", "IRRG", "RGBIR"]
    val_share: float
    split_seed: int
    unknown_colors: isprs.Unknown

    classes = isprs.CLASSES
    clutter = "clutter"
    erodes = True
    dtype = "uint8"
    how_to_validate = SET_VAL_SHARE

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_val_share(self.val_share)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Those of the product."""
        return BAND_NAMES[self.bands]

    def scenes(self) -> Sequence[SceneSource]:
        """List the 38 tiles, named as in their files."""
        folder = FOLDERS[self.bands]
        places = f"{folder}/top_potsdam_{{}}_{self.bands}.tif", "5_Labels_all/top_potsdam_{}_label.tif"
        layout = (
            f"{places[0].format('2_10')}, {places[1].format('2_10')} and so on; "
            "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif where it is there"
        )
        root = self.folder(layout)
        files = find_files(root)
        images = match_files(files, root, rf"/top_potsdam_(\d+_\d+)_{self.bands}\.tif", prefer=f"/{folder}/")
        if not images:
            what = f"image of the bands {self.bands} (dataset.bands)"
            raise wrong_layout(root, what, layout, files)
        labels = match_files(files, root, r"/top_potsdam_(\d+_\d+)_label\.tif", prefer="/5_Labels_all/")
        if not labels:
            raise wrong_layout(root, "label (those without boundaries alone are not enough)", layout, files)
        eroded = match_files(
            files, root, r"/top_potsdam_(\d+_\d+)_label_noBoundary\.tif", prefer="/5_Labels_all_noBoundary/"
        )
        splits = with_validation(TRAIN, TEST, self.val_share, self.split_seed, self.group_of)
        return isprs.list_scenes(splits, images, labels, eroded, places)

    def read(self, scene: SceneSource) -> Scene:
        """Open an image and its masks."""
        return isprs.read_scene(scene, self.unknown_colors)
