"""Crops of labeled tiles for fine-tuning: which ones a step reads follows from (seed, step)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_rs.data.cutting import CropKind, Cutter, MappedScenes, Place
from ssl_rs.data.label_subset import LabeledUnit, LabelSubset
from ssl_rs.data.store import Store
from ssl_rs.randomness import Draws, Rows, derive_seed
from ssl_rs.transfer import to_device


class TileCrops:
    """Crops for fine-tuning: seeded passes over the labeled units; pixels outside all of them are ignored.

    Args:
        store: Where the scenes lie.
        subset: The labeled units.
        crop_size: Side of a crop in pixels; one that is smaller than a tile lies anywhere in it.
        tile_shift: How far a crop may reach beyond its tile on each side, as a share of the tile size; at most by half
            of the crop, so that every crop sees its tile.
        seed: Of the run.
    """

    def __init__(self, store: Store, subset: LabelSubset, crop_size: int, tile_shift: float, seed: int) -> None:
        self.store = store
        self.subset = subset
        self.crop_size = crop_size
        self.tile_shift = tile_shift
        self.seed = seed
        self.cutter: Cutter = MappedScenes(store)
        self.index_of = {scene.id: index for index, scene in enumerate(store.manifest.scenes)}
        self.labeled = self._labeled_tiles()
        self.scenes: Sequence[int] = tuple(self.labeled)
        self.has_nodata = any(store.manifest.scenes[index].valid_share < 1 for index in self.scenes)
        self.kinds: Sequence[CropKind] = ("image", "mask", "valid") if self.has_nodata else ("image", "mask")

    def batch(self, step: int, rows: Rows) -> tuple[Tensor, ...]:
        """Return images [B, C, S, S] (of a type of `CROP_TYPES`) and masks int64 [B, S, S], S the crop size.

        Where a labeled scene has pixels without data, also bool [B, 1, S, S], which are valid.

        Pass p goes through the units in a permutation drawn from (seed, p). The global batch of a step is the next
        `rows.total` units of the endless sequence of passes, so it may hold a unit more than once.
        """
        first = step * rows.total
        units = self._units(first + rows.start, first + rows.stop)
        places = Draws(self.seed, step, "tiles", rows).uniform(0, 1, 2)
        corners = [self._place(unit, *place) for unit, place in zip(units, places.tolist(), strict=True)]
        images, masks, *valid = (self.cutter.cut(kind, corners, self.crop_size) for kind in self.kinds)
        labeled = torch.from_numpy(np.stack([self._labeled(*place) for place in corners]))
        labeled = to_device(labeled, masks.device)
        masks = masks.long().masked_fill_(~labeled, self.store.manifest.ignore_index)
        return images, masks, *(each.unsqueeze(1) for each in valid)

    def _units(self, start: int, stop: int) -> list[LabeledUnit]:
        """Return the units at [start, stop) of the endless sequence."""
        count = len(self.subset.units)
        first_pass = start // count
        passes = [self._order(number) for number in range(first_pass, (stop - 1) // count + 1)]
        return [self.subset.units[passes[place // count - first_pass][place % count]] for place in range(start, stop)]

    def _order(self, number: int) -> list[int]:
        """Return the permutation of one pass."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "pass", number))
        return torch.randperm(len(self.subset.units), generator=generator).tolist()  # type: ignore[no-any-return]

    def _place(self, unit: LabeledUnit, vertical: float, horizontal: float) -> Place:
        """Return where the crop of a unit lies, placed by two numbers in [0, 1)."""
        top = self._start(unit.row, unit.height, vertical)
        return Place(self.index_of[unit.scene], top, self._start(unit.column, unit.width, horizontal))

    def _start(self, start: int, size: int, number: float) -> int:
        """Return where a crop starts along one axis: about the middle of a tile, anywhere in a scene."""
        if self.subset.unit == "scene":
            return start + int(number * (max(size - self.crop_size, 0) + 1))
        rim = max(size - self.crop_size, 0) / 2  # where a crop is smaller than its tile, it may lie anywhere in it
        beyond = min(self.tile_shift * self.subset.tile_size, self.crop_size / 2)
        shift = (2 * number - 1) * (rim + beyond)
        return round(start + (size - self.crop_size) / 2 + shift)

    def _labeled_tiles(self) -> dict[int, NDArray[np.bool_]]:
        """Return for each labeled scene which cells of the tiles' grid are labeled, [rows, columns]."""
        size = self.subset.tile_size
        labeled: dict[int, NDArray[np.bool_]] = {}
        for unit in self.subset.units:
            index = self.index_of[unit.scene]
            scene = self.store.manifest.scenes[index]
            grid = labeled.setdefault(index, np.zeros((-(-scene.height // size), -(-scene.width // size)), np.bool_))
            bottom, right = unit.row + unit.height, unit.column + unit.width
            grid[unit.row // size : -(-bottom // size), unit.column // size : -(-right // size)] = True
        return labeled

    def _labeled(self, index: int, top: int, left: int) -> NDArray[np.bool_]:
        """Tell for each pixel of a crop whether it lies in the scene and in a labeled tile, [S, S]."""
        scene = self.store.manifest.scenes[index]
        rows, columns = (np.arange(start, start + self.crop_size) for start in (top, left))
        inside = ((rows >= 0) & (rows < scene.height))[:, None] & ((columns >= 0) & (columns < scene.width))
        grid, size = self.labeled[index], self.subset.tile_size
        tile_rows, tile_columns = (
            np.clip(places // size, 0, cells - 1) for places, cells in zip((rows, columns), grid.shape, strict=True)
        )
        return inside & grid.take(tile_rows, axis=0).take(tile_columns, axis=1)  # type: ignore[no-any-return]
