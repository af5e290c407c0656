"""The parts of a pretraining's network, built as the settings name them: the encoder, and the tasks on it."""

from collections.abc import Mapping
from functools import partial

from torch import nn

from ssl_rs.build import explained, refuse_bound
from ssl_rs.encoder import Backbone, check_image_size, map_sides
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.network import build_task, momentum_of_tasks


def check_parts(
    backbone: Backbone, tasks: Mapping[str, "partial[PretextTask]"], bands: int, side: int, key: str
) -> None:
    """Refuse an encoder or tasks that do not take views of a side, and tasks that cannot be built on it or together.

    Args:
        backbone: The encoder.
        tasks: Tasks by name.
        bands: Channels of the images.
        side: Of the views, pixels.
        key: The setting that chose it.

    Raises:
        InputError: Names what does not fit.
    """
    encoder = backbone.build(bands)
    check_image_size(encoder, bands, side, key)
    maps = map_sides(encoder, bands, side)
    built = build_tasks(tasks, encoder, bands)
    momentum_of_tasks(built)
    for name, task in built.items():
        with explained(f"pretext.{name}.task"):
            task.check_side(side, maps)


def build_tasks(tasks: Mapping[str, "partial[PretextTask]"], encoder: nn.Module, bands: int) -> dict[str, PretextTask]:
    """Build the tasks by what the encoder gives them."""
    built = {}
    for name, task in tasks.items():
        refuse_bound(task, ("channels", "bands"), f"pretext.{name}.task")
        with explained(f"pretext.{name}.task"):
            built[name] = build_task(task, channels=tuple(encoder.out_channels), bands=bands)  # type: ignore[arg-type]
    return built
