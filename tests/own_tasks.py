"""Parts that provoke what must not happen unseen; tests trust this module as a user trusts a package."""

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


class Backwards:
    """A schedule that takes no number of steps."""

    def __call__(self, step: int) -> float:
        return 1.0


class NoLoss:
    """A loss that weighs no classes."""

    def __call__(self, logits: torch.Tensor, masks: torch.Tensor, ignore_index: int, weights: object) -> TaskOutput:
        return TaskOutput(logits.mean())


class Still:
    """An augmentation that asks for no random numbers."""

    def __call__(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, masks
