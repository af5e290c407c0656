"""ISPRS Vaihingen: 33 tiles of 1281 to 3816 pixels of 9 cm a side, with near infrared, red, green and 6 classes.

Source: ISPRS 2D Semantic Labeling Contest, Vaihingen; M. Cramer, "The DGPF-test on digital airborne camera evaluation -
overview and test design", Photogrammetrie Fernerkundung Geoinformation 2010(2). See `ssl_rs.data.isprs` for more.
To be had at https://www.isprs.org/education/benchmarks/UrbanSemLab/, for research; it may not be passed on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_rs.data import isprs
from ssl_rs.data.dataset import Dataset, Scene, SceneSource
from ssl_rs.data.finding_files import find_files
from ssl_rs.data.listing import wrong_layout
from ssl_rs.data.matching_files import match_files
from ssl_rs.data.splits import SET_VAL_SHARE, check_val_share, with_validation

ARCHIVE = "ISPRS_semantic_labeling_Vaihingen"
PLACES = (
    f"{ARCHIVE}/top/top_mosaic_09cm_{{}}.tif",
    f"{ARCHIVE}_ground_truth_COMPLETE/top_mosaic_09cm_{{}}.tif",
)
LAYOUT = (
    f"{PLACES[0].format('area1')}, {PLACES[1].format('area1')} (or another folder whose name has ground_truth or gts "
    f"in it) and so on; {ARCHIVE}_ground_truth_eroded_COMPLETE/top_mosaic_09cm_area1_noBoundary.tif where it is there"
)
# Image and label have one name: the folder tells them apart.
IMAGE = r"/top/top_mosaic_09cm_(area\d+)\.tif"
LABEL = r"/[^/]*(?:ground_truth|gts)[^/]*/(?:(?!top/)[^/]+/)?top_mosaic_09cm_(area\d+)\.tif"
ERODED = r"/top_mosaic_09cm_(area\d+)_noBoundary\.tif"

# No list has area 9.
TRAIN = tuple(f"area{number}" for number in (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37))
TEST = tuple(f"area{number}" for number in (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38))


@dataclass(frozen=True, kw_only=True)
class Vaihingen(Dataset):
    """The official 16 training and 17 test tiles; some training tiles validate instead.

    Args:
        val_share: Share of the training tiles that validate, in [0, 1).
        split_seed: Another seed draws other tiles for validation.
        unknown_colors: A mask color that no class has is an error, or its pixels are ignored.

    Raises:
        InputError: A share that leaves nothing to train on.
    """

    val_share: float
    split_seed: int
    unknown_colors: isprs.Unknown

    band_names = ("nir", "red", "green")
    classes = isprs.CLASSES
    clutter = "clutter"
    erodes = True
    dtype = "uint8"
    how_to_validate = SET_VAL_SHARE

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_val_share(self.val_share)

    def scenes(self) -> Sequence[SceneSource]:
        """List the 33 tiles, named area1 and so on."""
        root = self.folder(LAYOUT)
        files = find_files(root)
        images = match_files(files, root, IMAGE)
        if not images:
            raise wrong_layout(root, "image in a folder top", LAYOUT, files)
        labels, eroded = match_files(files, root, LABEL, prefer="ground_truth"), match_files(files, root, ERODED)
        if not labels:
            raise wrong_layout(root, "label (those without boundaries alone are not enough)", LAYOUT, files)
        splits = with_validation(TRAIN, TEST, self.val_share, self.split_seed, self.group_of)
        return isprs.list_scenes(splits, images, labels, eroded, PLACES)

    def read(self, scene: SceneSource) -> Scene:
        """Open an image and its masks."""
        return isprs.read_scene(scene, self.unknown_colors)
