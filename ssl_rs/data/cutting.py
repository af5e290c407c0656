"""Crops cut from a store's scenes, from memory maps or on a device that holds the scenes: the same pixels."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_rs.data.store import Store
from ssl_rs.data.windows import cut, stack_images
from ssl_rs.transfer import to_device

CropKind = Literal["image", "mask", "valid"]

CROP_TYPES = {"uint8": torch.uint8, "uint16": torch.int32, "int16": torch.int16, "float32": torch.float32}
"""Of crops, by the type of the stored values; of uint16 torch knows few operations."""


class Place(NamedTuple):
    """Where a crop lies: the index of its scene, and its upper left corner, which may lie outside."""

    scene: int
    top: int
    left: int


class Cutter(Protocol):
    """Cuts square crops; where one reaches beyond its scene, the scene is continued by mirroring."""

    def cut(self, kind: CropKind, places: Sequence[Place], size: int) -> Tensor:
        """Return crops of the given side.

        Args:
            kind: Which array of the scenes.
            places: B of them.
            size: Pixels.

        Returns:
            Of images [B, C, S, S] in one of `CROP_TYPES`; of masks [B, S, S] uint8; of validity [B, S, S] bool.
        """
        ...


class MappedScenes:
    """Cuts from memory maps, on the CPU.

    Args:
        store: Where the scenes lie.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def cut(self, kind: CropKind, places: Sequence[Place], size: int) -> Tensor:
        """Return crops; as `Cutter.cut`."""
        for place in places:
            if kind != "valid" or self.store.valid(place.scene) is not None:
                self.store.announce(place.scene, kind, place.top, place.top + size)
        if kind == "image":
            return stack_images([cut(self.store.image(place.scene), *place[1:], size) for place in places])
        if kind == "mask":
            return torch.from_numpy(np.stack([cut(self.store.mask(place.scene), *place[1:], size) for place in places]))
        return torch.from_numpy(np.stack([self._valid(place, size) for place in places]))

    def _valid(self, place: Place, size: int) -> np.ndarray:
        valid = self.store.valid(place.scene)
        return np.ones((size, size), np.bool_) if valid is None else cut(valid, *place[1:], size)


class ResidentScenes:
    """Cuts on a device that holds the scenes: one gather for all crops of a batch.

    Args:
        store: Where the scenes lie; read once.
        scenes: The indices of those that are cut from.
        kinds: Which of their arrays.
        device: Where they are held and cut.
    """

    def __init__(self, store: Store, scenes: Sequence[int], kinds: Sequence[CropKind], device: torch.device) -> None:
        self.device = device
        self.row = {scene: row for row, scene in enumerate(scenes)}
        records = [store.manifest.scenes[scene] for scene in scenes]
        self.bands = len(store.manifest.bands)
        self.sizes = torch.tensor([(record.height, record.width) for record in records]).view(-1, 2)  # [N, 2]
        self.pixels = {kind: _flat(store, scenes, kind, device) for kind in kinds}
        area = self.sizes.prod(dim=1)
        self.starts = torch.cumsum(area, 0) - area  # [N], where a scene of one band begins

    def cut(self, kind: CropKind, places: Sequence[Place], size: int) -> Tensor:
        """Return crops; as `Cutter.cut`, on the device."""
        bands = self.bands if kind == "image" else 1
        scene = torch.tensor([self.row[place.scene] for place in places])
        corner = torch.tensor([(place.top, place.left) for place in places]).view(-1, 2)
        extent, start = self.sizes[scene], self.starts[scene] * bands
        # All that describes a crop goes to the device in one copy, which nobody waits for.
        numbers = to_device(torch.cat([corner, extent, start.unsqueeze(1)], dim=1), self.device)  # [B, 5]
        top, left, height, width, start = (column.view(-1, 1) for column in numbers.unbind(1))
        steps = torch.arange(size, device=self.device)
        rows, columns = _mirrored(top + steps, height), _mirrored(left + steps, width)  # [B, S] each
        inside = rows.unsqueeze(2) * width.unsqueeze(2) + columns.unsqueeze(1)  # [B, S, S]
        band = torch.arange(bands, device=self.device).view(1, -1) * (height * width) + start  # [B, C]
        crops = self.pixels[kind][band[:, :, None, None] + inside.unsqueeze(1)]  # [B, C, S, S]
        return crops if kind == "image" else crops.squeeze(1)


def resident_bytes(store: Store, scenes: Sequence[int], kinds: Sequence[CropKind]) -> int:
    """Return the memory that `ResidentScenes` takes."""
    records = [store.manifest.scenes[scene] for scene in scenes]
    pixels = sum(record.height * record.width for record in records)
    image = len(store.manifest.bands) * CROP_TYPES[store.manifest.dtype].itemsize
    return pixels * sum(image if kind == "image" else 1 for kind in kinds)


def _flat(store: Store, scenes: Sequence[int], kind: CropKind, device: torch.device) -> Tensor:
    """Return all values of one kind, scene after scene, on the device."""
    records = [store.manifest.scenes[scene] for scene in scenes]
    pixels = sum(record.height * record.width for record in records)
    values = len(store.manifest.bands) if kind == "image" else 1
    dtype = CROP_TYPES[store.manifest.dtype] if kind == "image" else {"mask": torch.uint8, "valid": torch.bool}[kind]
    flat, start = torch.empty(pixels * values, dtype=dtype, device=device), 0
    for scene, record in zip(scenes, records, strict=True):
        size = record.height * record.width * values
        flat[start : start + size] = _whole(store, scene, kind).reshape(-1).to(device)
        start += size
    return flat


def _whole(store: Store, scene: int, kind: CropKind) -> Tensor:
    """Return one array of a scene."""
    if kind == "image":
        return stack_images([np.asarray(store.image(scene))])
    if kind == "mask":
        return torch.from_numpy(np.array(store.mask(scene)))
    valid, record = store.valid(scene), store.manifest.scenes[scene]
    whole = np.ones((record.height, record.width), np.bool_) if valid is None else np.array(valid)
    return torch.from_numpy(whole)


def _mirrored(places: Tensor, extent: Tensor) -> Tensor:
    """Return which pixel each place shows, of [0, extent): ... 1 0 | 0 1 2 ... | 2 1 ...; both int64, broadcast."""
    around = places % (2 * extent)
    return torch.minimum(around, 2 * extent - 1 - around)
