"""MBRSC Dubai: 72 very high resolution RGB images with dense masks.

Source: Humans in the Loop and Mohammed Bin Rashid Space Centre, "Semantic segmentation of aerial imagery", Kaggle;
third parties state CC0. 8 Tiles of 9 neighboring parts; not georeferenced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_rs.data.dataset import Dataset, Scene, SceneSource, SegmentationClass, Split
from ssl_rs.data.finding_files import find_files
from ssl_rs.data.listing import list_scene, wrong_layout
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.matching_files import match_files
from ssl_rs.data.paired import read_pair
from ssl_rs.errors import InputError

LAYOUT = "'Tile 1' to 'Tile 8', each with images/image_part_001.jpg to 009.jpg and masks/image_part_001.png to 009.png"
PLACE = r"/Tile (\d)/{}/image_part_(\d+)\.{}"
TILES = range(1, 9)
PARTS = range(1, 10)
TEST_PARTS = (3, 6, 9)

# The masks' own colors: the classes.json beside them lists others, which no mask has.
MASKS = MaskFormat.of_colors(
    classes=(
        SegmentationClass("building", (60, 16, 152)),
        SegmentationClass("land", (132, 41, 246)),
        SegmentationClass("road", (110, 193, 228)),
        SegmentationClass("vegetation", (254, 221, 58)),
        SegmentationClass("water", (226, 169, 41)),
    ),
    ignore=((155, 155, 155), (0, 0, 0)),
)


@dataclass(frozen=True, kw_only=True)
class MbrscDubai(Dataset):
    """In each Tile the parts 3, 6 and 9 are test, the others train, but for those that are named for validation.

    Args:
        val_parts: Numbers of the parts of each Tile that validate, out of 1, 2, 4, 5, 7, 8; they are not trained on.

    Raises:
        InputError: A part that does not exist, or that is test.
    """

    val_parts: Sequence[int]

    band_names = ("red", "green", "blue")
    classes = MASKS.classes
    how_to_validate = "set dataset.val_parts=[8]"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        choices = [part for part in PARTS if part not in TEST_PARTS]
        if not set(self.val_parts) < set(choices):
            raise InputError(
                f"dataset.val_parts must name some, not all, of the parts {choices}, got {list(self.val_parts)}."
            )

    def scenes(self) -> Sequence[SceneSource]:
        """List the 72 parts."""
        root = self.folder(LAYOUT)
        files = find_files(root)
        images, masks = (
            match_files(files, root, PLACE.format("images", "jpg")),
            match_files(files, root, PLACE.format("masks", "png")),
        )
        if not images or not masks:
            raise wrong_layout(root, "mask" if images else "image", LAYOUT, files)
        scenes = []
        for tile in TILES:
            for part in PARTS:
                name = f"Tile {tile}/{{}}/image_part_{part:03d}{{}}"
                key = str(tile), f"{part:03d}"
                needed = {name.format("images", ".jpg"): images.get(key), name.format("masks", ".png"): masks.get(key)}
                scenes.append(list_scene(f"tile{tile}_part{part}", self._split(part), needed))
        return scenes

    def read(self, scene: SceneSource) -> Scene:
        """Read an image and its mask."""
        image, mask = scene.files
        return read_pair(image, mask, MASKS)

    def _split(self, part: int) -> Split:
        if part in TEST_PARTS:
            return "test"
        return "val" if part in self.val_parts else "train"
