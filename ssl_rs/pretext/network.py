"""The module that pretraining trains: normalization, one encoder, and the heads of every task."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_rs.encoder import Pyramid
from ssl_rs.errors import InputError
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.collapse import collapse_measures
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View, ViewMaker


class PretextNetwork(nn.Module):
    """Encode the views that tasks read and let each task judge them.

    Args:
        encoder: Maps images to a pyramid; its weights lie unchanged under `encoder.` of the state.
        normalization: Maps images in [0, 1] to what the encoder expects.
        tasks: Tasks by name.
        encoder_pass: `joint` encodes all views as one batch, so they share BatchNorm's statistics and one launch;
            `per_view` encodes them one after another, as the authors of the method do.
    """

    def __init__(
        self,
        encoder: nn.Module,
        normalization: nn.Module,
        tasks: Mapping[str, PretextTask],
        encoder_pass: Literal["joint", "per_view"],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalization = normalization
        self.tasks = nn.ModuleDict(tasks)
        self.encoder_pass = encoder_pass
        self.views = tuple(dict.fromkeys(name for task in tasks.values() for name in task.views))  # each once, in order
        self.pooled: Tensor | None = None  # [B, D], the deepest map of the first view of the last batch

    def forward(self, views: Mapping[str, View]) -> dict[str, TaskOutput]:
        """Return each task's output on one batch of views."""
        return self.judge(views, self.encode(views))

    def judge(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> dict[str, TaskOutput]:
        """Return each task's output on the views and their features."""
        return {name: task(views, features) for name, task in self.tasks.items()}

    def probe_collapse(self) -> dict[str, Tensor]:
        """Tell from the last batch how far the encoder's features spread."""
        assert self.pooled is not None, "no batch has been seen yet"
        return collapse_measures(self.pooled)

    def encode(self, views: Mapping[str, View]) -> dict[str, Pyramid]:
        """Return the pyramid of each view that a task reads."""
        images = [views[name].image for name in self.views]
        if self.encoder_pass == "per_view":
            pyramids = [self.encoder(self.normalization(image)) for image in images]
        else:
            levels = self.encoder(self.normalization(torch.cat(images)))  # each [V * B, C_i, H_i, W_i]
            pyramids = list(zip(*(level.split(len(images[0])) for level in levels), strict=True))
        self.pooled = pyramids[0][-1].detach().float().mean(dim=(-2, -1))
        return dict(zip(self.views, pyramids, strict=True))


def build_task(task: Callable[..., PretextTask], *, channels: Sequence[int], bands: int) -> PretextTask:
    """Build a task that the config left open: each gets the pyramid's channels, and the image's bands if it asks.

    Args:
        task: The constructor, with the config's settings bound.
        channels: Channels of each level of the encoder's pyramid.
        bands: Channels of the image; level 0 of a pyramid need not be the image.
    """
    asks_bands = "bands" in inspect.signature(task).parameters
    return task(channels=channels, bands=bands) if asks_bands else task(channels=channels)


def check_views(tasks: Mapping[str, PretextTask | type[PretextTask]], makers: Mapping[str, ViewMaker]) -> None:
    """Refuse tasks that read views which nobody makes.

    Args:
        tasks: Tasks by name, or their classes before anything is built.
        makers: The maker of each view.

    Raises:
        InputError: Names the task, the view, and what to choose.
    """
    for name, task in tasks.items():
        for view in task.views:
            if view not in makers:
                raise InputError(
                    f"Pretext task '{name}' reads the view '{view}', but the views made are {list(makers)}.\n"
                    f"Choose views=[{','.join([*makers, view])}], or leave the task out of pretext=[...]."
                )
