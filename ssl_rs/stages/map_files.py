"""The files of a map: their names, whether they are whole, and whose they are."""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rasterio
from PIL import Image

from ssl_rs.data.map_writer import Grid
from ssl_rs.data.source_files import SourceFile
from ssl_rs.errors import InputError

ENDS = (".tif", ".probabilities.tif", ".png", ".overview.png", ".json")
"""How the names of a map's files end, in the order of `Target`."""

LONGEST_NAME = 255 - len(f"..{2**22}.partial")
"""Bytes of a file's name that file systems take, without what it has more while it is written."""

OWNER = "image_sha256"
"""What each file of a map tells: TIFF in its tags, PNG in a text, JSON at this key."""


@dataclass(frozen=True)
class Target:
    """The files of one map.

    Args:
        map: GeoTIFF, uint8: the index of each pixel's class, 255 where the image has no data; of a coarser run, where
            more than half of what became one pixel has none.
        probabilities: GeoTIFF, float32, a band a class; NaN where the image has no data.
        picture: PNG, the map in the colors of its classes.
        sheet: PNG, the image, the map beside it, and its classes.
        about: JSON, written last: its presence means that the map is whole.
    """

    map: Path
    probabilities: Path
    picture: Path
    sheet: Path
    about: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "Target":
        """Return the files of the map of this name."""
        return cls(*(folder / f"{name}{end}" for end in ENDS))

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them; where they are removed in this order, one that is left tells whose they were."""
        return self.about, self.sheet, self.picture, self.probabilities, self.map

    def read_about(self) -> dict[str, Any]:
        """Return what the map says of itself; empty where it is not there, or damaged."""
        try:
            found = json.loads(self.about.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) and OWNER in found else {}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of those that are there, by name, but for the JSON, which tells them."""
        return {path.name: path.stat().st_size for path in self.files if path != self.about and path.is_file()}

    def _written(self) -> dict[str, Any]:
        """Return the bytes of its files as the JSON tells them; empty where it tells none."""
        told = self.read_about().get("bytes")
        return told if isinstance(told, dict) else {}

    def is_whole(self, sha256: str, digest: str, grid: Grid, probabilities: bool) -> bool:
        """Tell whether the map of this very image, in this very place, is whole; files beside an image may place it.

        Args:
            sha256: Of the image.
            digest: Over the weights and all settings that can change a map.
            grid: The image's pixels.
            probabilities: Whether these are wanted too.
        """
        wanted = [self.map, self.picture, self.sheet, self.about, *([self.probabilities] if probabilities else [])]
        if not all(path.is_file() for path in wanted):
            return False
        found, written, sizes = self.read_about(), self._written(), self.sizes()
        if any(written.get(path.name) != sizes[path.name] for path in wanted if path != self.about):  # cut short
            return False
        transform = found.get("transform")
        place = found.get("crs"), tuple(transform) if isinstance(transform, list) else transform
        placed = [*place, found.get("ground_control")] == [grid.crs, grid.transform, grid.control.plain()]
        return placed and [found.get(OWNER), found.get("config_hash")] == [sha256, digest]

    def check_free(self, file: SourceFile, sha256: str) -> None:
        """Refuse to write over what is not ours, or over the map of another image of the same name.

        Args:
            file: The image.
            sha256: Of the image.

        Raises:
            InputError: Names what lies there.
        """
        if too_long := [path.name for path in self.files if len(path.name.encode()) > LONGEST_NAME]:
            raise InputError(f"{file} has too long a name: {too_long[0]} could not be written. Rename it.")
        if foreign := self._foreign():
            raise InputError(
                f"{file}: its map would be written over {foreign[0]}, which predict did not write. Move that, or "
                "choose another run_dir."
            )
        if another := self._of_another():
            raise InputError(
                f"{file}: its map would be written over {another[0]}, which belongs to the map {another[1]}. Rename "
                "the image, or choose another run_dir."
            )
        found, image = self.read_about(), place_of(file)
        if found and found.get("image_path") != image and found[OWNER] != sha256:
            raise InputError(
                f"{self.map} is the map of {found.get('image_path', 'an image it does not tell')}, another image of "
                f"this name than {image}. Choose another run_dir, or delete {self.about.name} there if that map is "
                "not wanted any more."
            )

    def _foreign(self) -> list[Path]:
        """Return those that are there and not ours; pictures of earlier versions, and damaged files, tell nothing."""
        written = self._written()
        owners = {path: _is_ours(path) for path in self.files if path.exists()}
        unmarked = [path for path, ours in owners.items() if not ours and not (ours is None and path.name in written)]
        map_is_ours = any(path.exists() and path not in unmarked for path in (self.map, self.about))
        return [path for path in unmarked if path.suffix == ".tif" or not map_is_ours]

    def _of_another(self) -> tuple[Path, Path] | None:
        """Return a file that is there and belongs to a map of another name, and that map."""
        for path in self.files:
            names = [path.name.removesuffix(end) for end in ENDS if path.name.endswith(end)]
            for other in (Target.of(path.parent, name) for name in names):
                if other.map != self.map and path.exists() and _is_ours(other.about):
                    return path, other.map
        return None


def place_of(file: SourceFile) -> str:
    """Return where an image lies, whatever the working folder is."""
    return str(replace(file, path=file.path.absolute()))


def _is_ours(path: Path) -> bool | None:
    """Tell whether a file says that it belongs to a map; None: it cannot be read."""
    try:
        if path.suffix == ".json":
            return OWNER in json.loads(path.read_text(encoding="utf-8"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of places that a file does not tell, and of its size
            if path.suffix == ".png":
                with Image.open(path, formats=("PNG",)) as picture:
                    return OWNER in picture.info
            with rasterio.open(path, driver="GTiff") as tiff:
                return OWNER in tiff.tags()
    except Exception:  # whatever it is, and in whichever way it is damaged
        return None
