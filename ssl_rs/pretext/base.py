"""What every pretext task is: a head and a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import nn

from ssl_rs.encoder import Pyramid
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class PretextTask(nn.Module, ABC):
    """A head and a loss over named views and their features; it never augments, encodes, steps or logs.

    `views` names the views whose features it reads; the network encodes just those.
    """

    views: tuple[str, ...]

    @abstractmethod
    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the loss of one batch.

        Args:
            views: The views of the step, by name.
            features: The pyramid of each view that the task names.
        """
