"""What every pretext task is: a head and a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar, cast

from torch import nn

from ssl_rs.encoder import Pyramid
from ssl_rs.errors import InputError
from ssl_rs.pretext.momentum import MomentumRule
from ssl_rs.task_output import TaskOutput
from ssl_rs.views.base import View


class PretextTask(nn.Module, ABC):
    """A head and a loss over named views and their features; it never augments, encodes, steps or logs.

    `views` names the views whose features it reads; the network encodes just those. `momentum_views` names those whose
    features by a momentum encoder it reads; `momentum` is the rule by which that encoder moves. `view_kinds` names the
    views of which it reads more than image and geometry, and the kind that each must be.
    """

    views: tuple[str, ...]
    momentum_views: tuple[str, ...] = ()
    view_kinds: Mapping[str, type[View]] = MappingProxyType({})
    momentum: MomentumRule | None = None

    def check_side(self, pixels: int, maps: Sequence[int]) -> None:
        """Refuse views of a side that it cannot take, before data is prepared.

        Args:
            pixels: Side of the views: dataset.crop_size, or a smaller one that they are given.
            maps: Side of the map that the encoder makes of them, of each level of the pyramid.

        Raises:
            InputError: It cannot; says which sides it takes.
        """

    @abstractmethod
    def forward(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> TaskOutput:
        """Return the loss of one batch.

        Args:
            views: The views of the step, by name.
            features: The pyramid of each view that the task names; those of the momentum encoder, which have no
                gradient, under `momentum_of(name)`.
        """

    def after_step(self, step: int, max_steps: int) -> None:
        """Move what no optimizer moves, such as a momentum head; called after each optimizer step.

        Args:
            step: The step that was taken, from 0.
            max_steps: Steps of the run.
        """


def momentum_of(view: str) -> str:
    """Return the name under which a task finds a view's features by the momentum encoder."""
    return f"{view} by the momentum encoder"


V = TypeVar("V", bound=View)


def view_of_kind(views: Mapping[str, View], name: str, kind: type[V]) -> V:
    """Return the named view, of which a task reads more than image and geometry.

    Raises:
        InputError: Its maker gives another kind.
    """
    view = views[name]
    check_kind(name, type(view), kind)
    return cast(V, view)


def check_kind(name: str, made: type[View], kind: type[View]) -> None:
    """Refuse a view of another kind than a task reads.

    Args:
        name: Of the view.
        made: What its maker gives.
        kind: What the task reads.

    Raises:
        InputError: Names both.
    """
    if not issubclass(made, kind):
        raise InputError(
            f"views.{name} makes a {made.__name__}, but a task of pretext=[...] reads a {kind.__name__}. "
            f"Choose an option of views=[...] that makes one, or leave the task out."
        )
