"""What ISPRS Potsdam and Vaihingen share: classes, colors, and masks with and without the boundaries of objects.

Source: F. Rottensteiner, G. Sohn, J. Jung, M. Gerke, C. Baillard, S. Benitez & U. Breitkopf, "The ISPRS benchmark on
urban object classification and 3D building reconstruction", ISPRS Annals I-3, 2012; M. Gerke, "Use of the stair vision
library within the ISPRS 2D semantic labeling benchmark (Vaihingen)", ITC, 2014.
"""

from collections.abc import Mapping
from typing import Literal

from ssl_rs.data.dataset import Scene, SceneSource, SegmentationClass, Split
from ssl_rs.data.listing import list_scene
from ssl_rs.data.mask_format import MaskFormat
from ssl_rs.data.paired import read_pair
from ssl_rs.data.source_files import SourceFile

CLASSES = (
    SegmentationClass("impervious_surface", (255, 255, 255)),
    SegmentationClass("building", (0, 0, 255)),
    SegmentationClass("low_vegetation", (0, 255, 255)),
    SegmentationClass("tree", (0, 255, 0)),
    SegmentationClass("car", (255, 255, 0)),
    SegmentationClass("clutter", (255, 0, 0)),
)
BOUNDARY = (0, 0, 0)
REMEDY = "Get the file again, or set dataset.unknown_colors=ignore: pixels of other colors then count nowhere."

Unknown = Literal["error", "ignore"]


def list_scenes(
    splits: Mapping[str, Split],
    images: Mapping[tuple[str, ...], SourceFile],
    labels: Mapping[tuple[str, ...], SourceFile],
    eroded: Mapping[tuple[str, ...], SourceFile],
    places: tuple[str, str],
) -> list[SceneSource]:
    """List the official scenes, whether their files are there or not.

    Args:
        splits: The split of each scene, by the part of its file names that tells it from others.
        images: What `match_files` found.
        labels: Likewise; every pixel has a class.
        eroded: Likewise; the boundaries of objects are black. Where there is none, it will be computed.
        places: Where the publisher has image and label, with {} for the scene.
    """
    scenes = []
    for name, split in splits.items():
        image, label = (place.format(name) for place in places)
        needed = {image: images.get((name,)), label: labels.get((name,))}
        scenes.append(list_scene(name, split, needed, eroded.get((name,))))
    return scenes


def read_scene(scene: SceneSource, unknown: Unknown) -> Scene:
    """Open an image and its masks.

    Args:
        scene: One of `list_scenes`.
        unknown: What becomes of mask colors that no class has; black is one of them but for eroded masks.
    """
    full = MaskFormat.of_colors(CLASSES, (), unknown, REMEDY)
    without_boundary = MaskFormat.of_colors(CLASSES, (BOUNDARY,), unknown, REMEDY)
    image, label, *rest = scene.files
    return read_pair(image, label, full, rest[0] if rest else None, eroded_format=without_boundary)
