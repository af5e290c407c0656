"""What a user looks at after the preparation: the list of the scenes, and a sheet with a picture of each."""

import csv
import io
from collections.abc import Sequence

from ssl_rs.data.manifest import Manifest, SceneRecord
from ssl_rs.data.overview_sheet import draw_sheet
from ssl_rs.data.pixel_size import pixel_size, size_text
from ssl_rs.data.store import Store
from ssl_rs.files import write_beside, written_aside

SCENES_FILE = "scenes.csv"
SHEET_FILE = "overview.png"


def write_overview(store: Store) -> None:
    """Write scenes.csv and overview.png into the folder of a store whose arrays are in place."""
    write_beside(store.path / SCENES_FILE, scene_list(store.manifest))
    with written_aside(store.path / SHEET_FILE) as file:
        draw_sheet(store).save(file, "PNG", compress_level=3)  # 4 % larger than by default, in half the time


def scene_list(manifest: Manifest) -> str:
    """Return the scenes as CSV: shares are in [0, 1]; those of classes are among the labeled pixels.

    Scenes that were left out come last, with the reason in the column left_out.
    """
    names = [f"share_{entry.name}" for entry in manifest.classes]
    labeled = ["labeled_share"] if manifest.classes else []
    columns = ["id", "split", "height", "width", "crs", "pixel_size", "valid_share", *labeled, *names, "left_out"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([*_row(scene), ""] for scene in manifest.scenes)
    blank = [""] * (len(columns) - 3)
    table.writerows([scene.id, scene.split, *blank, scene.reason] for scene in manifest.skipped)
    return text.getvalue().encode(errors="backslashreplace").decode()  # names of files need not be UTF-8


def _row(scene: SceneRecord) -> Sequence[str | int]:
    labeled = sum(scene.class_pixels)
    shares = [f"{pixels / max(labeled, 1):.6f}" for pixels in scene.class_pixels]
    if scene.class_pixels:
        shares.insert(0, f"{labeled / (scene.height * scene.width):.6f}")
    if scene.split == "unlabeled":
        shares = [""] * len(shares)
    size = pixel_size(scene.crs, scene.transform, scene.height, scene.width)
    place = [scene.crs or "", "" if size is None else size_text(size)]
    return [scene.id, scene.split, scene.height, scene.width, *place, f"{scene.valid_share:.6f}", *shares]
