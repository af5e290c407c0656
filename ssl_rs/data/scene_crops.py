"""Crops of scenes for pretraining, evenly over the pixels with data: which a step reads follows from (seed, step)."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_rs.data.cutting import CropKind, Cutter, MappedScenes, Place
from ssl_rs.data.dataset import Split
from ssl_rs.data.manifest import SceneRecord
from ssl_rs.data.store import Store
from ssl_rs.data.windows import cut
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows, derive_seed

LARGE = 2**62
"""Whole numbers below it, modulo a count, are uniform but for one part in billions."""

CANDIDATES = 8
"""Positions that are drawn for a crop; all but the first count only in scenes with nodata. As many about pixels with
data are drawn where each of these has some without."""

ANCHORS_A_CROP = 4
"""Pixels a side of a crop by whose data places of a scene are found that have some; of large scenes fewer."""

MOST_ANCHORS = 40_000
"""Pixels of a scene that are looked at first, for all that are found there a few hundred KB."""

KNOWN_ANCHORS = 256
"""Scenes whose pixels with data are remembered."""


class Crops(NamedTuple):
    """Stored crops; a tuple, since DataLoader copies tuples into pinned memory and leaves dataclasses where they are.

    Args:
        images: [B, C, S, S], S the crop size, in one of `ssl_rs.data.cutting.CROP_TYPES`.
        valid: bool [B, 1, S, S], false where the image has no data; None: no scene that is drawn from has nodata.
    """

    images: Tensor
    valid: Tensor | None


class SceneCrops:
    """Crops for pretraining, spread evenly over the pixels with data of some splits; no mask is read.

    Where any two crops of one scene would overlap, since all scenes are smaller than two crops (images that were cut
    into tiles before), seeded passes over the scenes take the place of draws: a batch then holds two crops of one scene
    only if it is larger than their number. Else one image would be contrasted with itself.

    Args:
        store: Where the scenes lie.
        splits: The only splits whose scenes are read.
        crop_size: Side of a crop in pixels; scenes that are smaller are continued by mirroring.
        seed: Of the run.

    Raises:
        InputError: The splits have no scenes.
    """

    def __init__(self, store: Store, splits: Sequence[Split], crop_size: int, seed: int) -> None:
        self.store = store
        self.crop_size = crop_size
        self.seed = seed
        self.cutter: Cutter = MappedScenes(store)
        records = store.manifest.scenes
        self.scenes: Sequence[int] = [index for index, record in enumerate(records) if record.split in splits]
        if not self.scenes:
            raise InputError(f"Data set '{store.manifest.dataset}' has no scenes in its {'/'.join(splits)} split.")
        self.pixels_until = list(accumulate(_pixels_with_data(records[index]) for index in self.scenes))
        of_scenes = [records[index] for index in self.scenes]
        self.in_passes = goes_in_passes(of_scenes, crop_size)
        self._pass: tuple[int, list[int]] = (-1, [])
        self._known_anchors: dict[int, NDArray[np.int32]] = {}
        self.has_nodata = any(each.valid_share < 1 for each in of_scenes)
        self.kinds: Sequence[CropKind] = ("image", "valid") if self.has_nodata else ("image",)

    def batch(self, step: int, rows: Rows) -> Crops:
        """Return the crops of these rows.

        A scene is drawn with a probability proportional to its number of pixels with data, or is the next of a pass,
        then a uniform position in it. In a scene with nodata the first of several positions without nodata is taken;
        where each has some, as many more about pixels with data are drawn, and the first without nodata or else the one
        with least of it is taken.
        """
        places = self.places(step, rows)
        images = self.cutter.cut("image", places, self.crop_size)
        valid = self.cutter.cut("valid", places, self.crop_size).unsqueeze(1) if self.has_nodata else None
        return Crops(images, valid)

    def places(self, step: int, rows: Rows) -> list[Place]:
        """Return where the crops of these rows lie."""
        draws = Draws(self.seed, step, "crops", rows)
        first = draws.integers(0, LARGE, 3)  # [B, 3]: pixel, row, column
        others = draws.integers(0, LARGE, 2 * (CANDIDATES - 1))
        numbers = torch.cat([first, others], dim=1)
        if self.has_nodata:  # drawn last: where no scene has nodata, all is as without
            numbers = torch.cat([numbers, draws.integers(0, LARGE, 3 * CANDIDATES)], dim=1)
        pixels, *positions = numbers.T.tolist()
        scenes = self._next(step, rows) if self.in_passes else [self._scene_of(pixel) for pixel in pixels]
        return [self._place(*row) for row in zip(scenes, *positions, strict=True)]

    def _scene_of(self, pixel: int) -> int:
        """Return the scene of a number below LARGE."""
        return self.scenes[bisect_right(self.pixels_until, pixel % self.pixels_until[-1])]

    def _next(self, step: int, rows: Rows) -> list[int]:
        """Return the scenes of these rows in passes of whole batches; of batches larger than a pass, in passes."""
        count = len(self.scenes)
        if rows.total > count:
            first = step * rows.total
            return [
                self._order(place // count)[place % count] for place in range(first + rows.start, first + rows.stop)
            ]
        number, batch = divmod(step, count // rows.total)
        first = batch * rows.total
        return self._order(number)[first + rows.start : first + rows.stop]

    def _order(self, number: int) -> list[int]:
        """Return the scenes in the order of one pass."""
        if self._pass[0] != number:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "pass of scenes", number))
            order = torch.randperm(len(self.scenes), generator=generator)
            self._pass = number, [self.scenes[place] for place in order.tolist()]
        return self._pass[1]

    def _place(self, index: int, *numbers: int) -> Place:
        """Return the best position in a scene.

        Args:
            index: Of the scene.
            numbers: Row, column, row, column, ... of CANDIDATES positions; then anchor, row, column, ... of as many.
        """
        record, valid = self.store.manifest.scenes[index], self.store.valid(index)
        rows, columns = (max(extent - self.crop_size, 0) + 1 for extent in (record.height, record.width))
        uniform, about = numbers[: 2 * CANDIDATES], numbers[2 * CANDIDATES :]
        corners = [(row % rows, column % columns) for row, column in zip(uniform[::2], uniform[1::2], strict=True)]
        if valid is None:
            return Place(index, *corners[0])
        best, share = _clearest(valid, corners, self.crop_size)
        anchors = None if share == 1 else self._anchors(index)
        if anchors is not None and len(anchors):
            chosen = anchors[[number % len(anchors) for number in about[::3]]].tolist()
            near = [
                (self._about(at[0], row, rows), self._about(at[1], column, columns))
                for at, row, column in zip(chosen, about[1::3], about[2::3], strict=True)
            ]
            best, _ = _clearest(valid, [best, *near], self.crop_size)
        return Place(index, *best)

    def _about(self, pixel: int, number: int, starts: int) -> int:
        """Return where along one axis, of so many places, a crop starts that holds a pixel at a place of the number."""
        return min(max(pixel - number % self.crop_size, 0), starts - 1)

    def _anchors(self, index: int) -> NDArray[np.int32]:
        """Return which pixels of a coarse grid over a scene hold data, [N, 2]; some pages of its validity are read."""
        if index not in self._known_anchors:
            if len(self._known_anchors) == KNOWN_ANCHORS:
                del self._known_anchors[next(iter(self._known_anchors))]  # the one that was looked at first
            valid = self.store.valid(index)
            assert valid is not None, "asked of scenes with nodata alone"
            fine = max(1, self.crop_size // ANCHORS_A_CROP)
            coarse = max(fine, math.ceil(math.sqrt(valid.size / MOST_ANCHORS)))
            found = _grid_with_data(valid, coarse)
            self._known_anchors[index] = found if len(found) else _grid_with_data(valid, fine)
        return self._known_anchors[index]


def goes_in_passes(scenes: Iterable[SceneRecord], crop_size: int) -> bool:
    """Tell whether any two crops of any scene overlap, so that `SceneCrops` goes through the scenes in passes."""
    return all(max(scene.height, scene.width) < 2 * crop_size for scene in scenes)


def _grid_with_data(valid: NDArray[np.bool_], step: int) -> NDArray[np.int32]:
    first = [min(step // 2, extent // 2) for extent in valid.shape]  # of a scene thinner than a step its middle
    found = np.argwhere(valid[first[0] :: step, first[1] :: step])  # [N, 2]
    places: NDArray[np.int32] = (found * step + np.array(first)).astype(np.int32)
    return places


def _pixels_with_data(record: SceneRecord) -> int:
    return max(1, round(record.height * record.width * record.valid_share))


def _clearest(valid: NDArray[np.bool_], corners: Sequence[tuple[int, int]], size: int) -> tuple[tuple[int, int], float]:
    """Return the first corner whose window is valid all over, else the first of those with most, and the share."""
    best, most = corners[0], -1
    for corner in corners:
        count = int(np.count_nonzero(cut(valid, *corner, size)))
        if count > most:
            best, most = corner, count
        if count == size * size:
            break
    return best, most / (size * size)
