"""Crops of a store's scenes: which ones a step reads follows from (seed, step), on any number of processes."""

import math
import signal
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data as torch_data

from ssl_rs.data.cutting import CropKind, Cutter, MappedScenes, Place
from ssl_rs.data.dataset import Split
from ssl_rs.data.label_subset import LabeledUnit, LabelSubset
from ssl_rs.data.manifest import SceneRecord
from ssl_rs.data.store import Store
from ssl_rs.data.windows import cut
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows, derive_seed
from ssl_rs.transfer import to_device

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

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


class BatchSource(Protocol[T_co]):
    """Gives the rows of any step's batch: crops of some scenes.

    Args:
        cutter: Cuts them; from memory maps, unless somebody puts another one there.
        scenes: The indices of the scenes.
        kinds: Which of their arrays are cut.
    """

    cutter: Cutter
    scenes: Sequence[int]
    kinds: Sequence[CropKind]

    def batch(self, step: int, rows: Rows) -> T_co:
        """Return the samples of these rows."""
        ...


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
        self._known_anchors: dict[int, NDArray[np.int32]] = {}
        self.has_nodata = any(records[index].valid_share < 1 for index in self.scenes)
        self.kinds: Sequence[CropKind] = ("image", "valid") if self.has_nodata else ("image",)

    def batch(self, step: int, rows: Rows) -> Crops:
        """Return the crops of these rows.

        A scene is drawn with a probability proportional to its number of pixels with data, then a uniform position in
        it. In a scene with nodata the first of several positions without nodata is taken; where each has some, as many
        more about pixels with data are drawn, and the first without nodata or else the one with least of it is taken.
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
        return [self._place(*row) for row in numbers.tolist()]

    def _place(self, pixel: int, *numbers: int) -> Place:
        """Return the best position in the scene of a pixel.

        Args:
            pixel: Decides over the scene.
            numbers: Row, column, row, column, ... of CANDIDATES positions; then anchor, row, column, ... of as many.
        """
        index = self.scenes[bisect_right(self.pixels_until, pixel % self.pixels_until[-1])]
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


def _grid_with_data(valid: NDArray[np.bool_], step: int) -> NDArray[np.int32]:
    return (np.argwhere(valid[step // 2 :: step, step // 2 :: step]) * step + step // 2).astype(np.int32)


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


def to_unit(images: Tensor, value_scale: float) -> Tensor:
    """Return stored values as float32 in [0, 1]; brighter values, e.g. of other scenes, are clipped."""
    return (images.to(torch.float32) / value_scale).clamp_(0, 1)


READ_AHEAD = 2
"""Batches that each process reads ahead."""


class _Steps(torch_data.Dataset[T | InputError], Generic[T]):
    """The batches of a source, by step; an error is handed over: raised in a worker, it would come as a traceback."""

    def __init__(self, source: BatchSource[T], rows: Rows) -> None:
        self.source = source
        self.rows = rows

    def __getitem__(self, step: int) -> T | InputError:
        try:
            return self.source.batch(step, self.rows)
        except InputError as error:
            return error


def batches(source: BatchSource[T], start_step: int, stop_step: int, rows: Rows, num_workers: int) -> Iterator[T]:
    """Yield the batch of each step, in order; the same ones for any number of workers.

    Args:
        source: Gives the batch of a step.
        start_step: The first step.
        stop_step: The first step that is not wanted any more.
        rows: This process's rows of each global batch.
        num_workers: Processes that read ahead; 0 reads in this one.

    Raises:
        InputError: A file of the store is damaged or gone.
    """
    steps = range(start_step, stop_step)
    if num_workers == 0:
        yield from (source.batch(step, rows) for step in steps)
        return
    loader = torch_data.DataLoader(
        _Steps(source, rows),
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        prefetch_factor=READ_AHEAD,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: else it would draw from the global one
        worker_init_fn=_leave_signals_to_the_parent,
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Outlive a request to stop that all processes get: the loop still finishes its step, and then ends us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
