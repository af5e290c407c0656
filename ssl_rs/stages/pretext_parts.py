"""The parts of a pretraining's network, built as the settings name them: the encoder, and the tasks on it."""

from collections.abc import Mapping
from functools import partial

from torch import nn

from ssl_rs.build import explained, refuse_bound
from ssl_rs.encoder import Backbone, check_image_size, map_sides
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.network import build_task


def build_encoder(backbone: Backbone, bands: int, crop_size: int) -> nn.Module:
    """Return the encoder, which takes crops of this size."""
    encoder = backbone.build(bands)
    check_image_size(encoder, bands, crop_size, "dataset.crop_size")
    return encoder


def check_tasks(backbone: Backbone, tasks: Mapping[str, "partial[PretextTask]"], bands: int, crop_size: int) -> None:
    """Refuse tasks that cannot be built on the encoder, or that do not take these crops."""
    encoder = build_encoder(backbone, bands, crop_size)
    maps = map_sides(encoder, bands, crop_size)
    for name, task in build_tasks(tasks, encoder, bands).items():
        with explained(f"pretext.{name}.task"):
            task.check_side(crop_size, maps)


def build_tasks(tasks: Mapping[str, "partial[PretextTask]"], encoder: nn.Module, bands: int) -> dict[str, PretextTask]:
    """Build the tasks by what the encoder gives them."""
    built = {}
    for name, task in tasks.items():
        refuse_bound(task, ("channels", "bands"), f"pretext.{name}.task")
        with explained(f"pretext.{name}.task"):
            built[name] = build_task(task, channels=tuple(encoder.out_channels), bands=bands)  # type: ignore[arg-type]
    return built
