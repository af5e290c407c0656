"""LEVIR_CS: 4,168 Gaofen-1 WFV scenes of 160 m a pixel, 4 bands of uint16, with clouds and snow.

Source: X. Wu, Z. Shi & Z. Zou, "A geographic information-driven method and a new large scale dataset for remote sensing
cloud/snow detection", ISPRS Journal of Photogrammetry and Remote Sensing 174, 2021.
To be had through https://github.com/permanentCH5/GeoInfoNet; no licence is known to us, so ask before you pass it on.
The order of the mask values, 1 cloud and 2 snow, is inferred from their files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_rs.data.dataset import Dataset, Scene, SceneSource, SegmentationClass
from ssl_rs.data.finding_files import find_files
from ssl_rs.data.listing import list_scene, wrong_layout
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.matching_files import match_files
from ssl_rs.data.paired import read_pair
from ssl_rs.data.splits import SET_VAL_SHARE, check_val_share, with_validation

LAYOUT = "train/mss/NAME_mss.tiff with train/label_0_1_2/NAME_roiMap.tif and so on, and test/ likewise"
IMAGE = r"/(train|test)/mss/(.+)_mss\.tiff?"
LABEL = r"/(train|test)/label_0_1_2/(.+)_roiMap\.tiff?"

MASKS = MaskFormat(
    classes=(
        SegmentationClass("background", (60, 110, 60)),
        SegmentationClass("cloud", (255, 255, 255)),
        SegmentationClass("snow", (90, 200, 255)),
    ),
    by_color=False,
    indices={0: 0, 1: 1, 2: 2},
)


@dataclass(frozen=True, kw_only=True)
class LevirCs(Dataset):
    """The published 3,068 training and 1,100 test scenes; some training scenes validate instead.

    The digital elevation models in train/dem and test/dem are not read.

    Args:
        val_share: Share of the training scenes that validate, in [0, 1).
        split_seed: Another seed draws other scenes for validation.

    Raises:
        InputError: A share that leaves nothing to train on.
    """

    val_share: float
    split_seed: int

    band_names = ("blue", "green", "red", "nir")
    classes = MASKS.classes
    dtype = "uint16"
    how_to_validate = SET_VAL_SHARE

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        check_val_share(self.val_share)

    def scenes(self) -> Sequence[SceneSource]:
        """List the scenes, named as their files without _mss."""
        root = self.folder(LAYOUT)
        files = find_files(root)
        images, labels = match_files(files, root, IMAGE), match_files(files, root, LABEL)
        if not images:
            raise wrong_layout(root, "image NAME_mss.tiff in train/mss or test/mss", LAYOUT, files)
        if not labels:
            raise wrong_layout(root, "label NAME_roiMap.tif in train/label_0_1_2 or test/label_0_1_2", LAYOUT, files)
        listed = sorted({*images, *labels})
        train = [name for split, name in listed if split == "train"]
        splits = with_validation(train, (), self.val_share, self.split_seed, self.group_of)
        scenes = []
        for folder, name in listed:
            needed = {
                f"{folder}/mss/{name}_mss.tiff": images.get((folder, name)),
                f"{folder}/label_0_1_2/{name}_roiMap.tif": labels.get((folder, name)),
            }
            scenes.append(list_scene(name, "test" if folder == "test" else splits[name], needed))
        return scenes

    def read(self, scene: SceneSource) -> Scene:
        """Open an image and its mask."""
        image, label = scene.files
        return read_pair(image, label, MASKS)
