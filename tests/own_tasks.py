"""Pretext tasks that provoke what must not happen unseen; tests trust this module as a user trusts a package."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ssl_rs.encoder import Pyramid
from ssl_rs.pretext.base import PretextTask
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class Pull(PretextTask):
    """Pull the features of all images below what their ReLU lets through, so that all become zero: the collapse."""

    views = ("clean",)

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        return TaskOutput((features["clean"][-1] + 1.0).square().mean(), {})


class Poison(PretextTask):
    """Has no finite loss on about a third of the batches, always the same ones."""

    views = ("clean",)

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels[-1], 4, 1)

    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        loss = self.project(features["clean"][-1]).square().mean()
        marked = int(views["clean"].image.double().sum() * 1e4) % 3 == 0
        return TaskOutput(loss * (torch.nan if marked else 1.0), {})
