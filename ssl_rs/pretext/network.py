"""The module that pretraining trains: normalization, one encoder, and the heads of every task."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssl_rs import distributed
from ssl_rs.encoder import Pyramid
from ssl_rs.errors import InputError
from ssl_rs.pretext.base import PretextTask, check_kind, momentum_of
from ssl_rs.pretext.collapse import collapse_measures
from ssl_rs.pretext.momentum import MomentumRule, common_rule, follow, momentum_copy
from ssl_rs.pretext.pooling import pool
from ssl_rs.task_output import TaskOutput, checked_output
from ssl_rs.views.base import TransformedView, View, ViewMaker, kind_made_by

TAKEN = ("loss", "collapse", "validation")
"""What names of logged values begin with: those of a task of that name would overwrite them."""


class PretextNetwork(nn.Module):
    """Encode the views that tasks read and let each task judge them.

    Where a task reads features of a momentum encoder, there is one for all tasks: a copy of the encoder, in the same
    mode, whose weights lie under `momentum_encoder.` of the state.

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
        # Each once, in order.
        self.views = tuple(dict.fromkeys(name for task in tasks.values() for name in task.views))
        self.momentum_views = tuple(dict.fromkeys(name for task in tasks.values() for name in task.momentum_views))
        self.momentum = momentum_of_tasks(tasks)
        self.momentum_encoder = None if self.momentum is None else momentum_copy(encoder)
        self.pooled: Tensor | None = None  # [B, D], the deepest map of the first view of the last part of a batch
        self.noted: Tensor | None = None  # the same of all its parts

    def forward(self, views: Mapping[str, View]) -> dict[str, TaskOutput]:
        """Return each task's output on one batch of views."""
        return self.judge(views, self.encode(views))

    def judge(self, views: Mapping[str, View], features: Mapping[str, Pyramid]) -> dict[str, TaskOutput]:
        """Return each task's output on the views and their features."""
        found = {name: task(views, features) for name, task in self.tasks.items()}
        return {name: checked_output(f"pretext.{name}.task", output) for name, output in found.items()}

    def probe_collapse(self) -> dict[str, Tensor]:
        """Tell from the last batch, all its parts and of all ranks, how far the encoder's features spread."""
        assert self.noted is not None, "no part of a batch has been noted yet"
        return collapse_measures(distributed.gather(self.noted))

    def after_part(self, number: int) -> None:
        """Note the features of a part of a batch, counted from 1, for `probe_collapse`."""
        assert self.pooled is not None, "no batch has been seen yet"
        before = [self.noted] if number > 1 and self.noted is not None else []
        self.noted = torch.cat([*before, self.pooled])

    def after_step(self, step: int, max_steps: int) -> None:
        """Move the momentum encoder and what tasks own of that kind; called after each optimizer step.

        Args:
            step: The step that was taken, from 0.
            max_steps: Steps of the run.
        """
        if self.momentum is not None and self.momentum_encoder is not None:
            follow(self.momentum_encoder, self.encoder, self.momentum(step, max_steps))
        for task in self.tasks.values():
            cast(PretextTask, task).after_step(step, max_steps)

    def encode(self, views: Mapping[str, View]) -> dict[str, Pyramid]:
        """Return the pyramid of each view that a task reads, of the momentum encoder under `momentum_of(name)`."""
        features = self._encode(self.encoder, {name: views[name].image for name in self.views})
        first = self.views[0]
        self.pooled = pool(views[first], features[first][-1].detach().float())
        if self.momentum_encoder is not None:
            images = {momentum_of(name): views[name].image for name in self.momentum_views}
            with torch.no_grad():
                features |= self._encode(self.momentum_encoder, images)
        return features

    def _encode(self, encoder: nn.Module, images: Mapping[str, Tensor]) -> dict[str, Pyramid]:
        batch = len(next(iter(images.values())))
        if self.encoder_pass == "per_view":
            return {name: encoder(self.normalization(image)) for name, image in images.items()}
        levels = encoder(self.normalization(torch.cat(list(images.values()))))  # each [V * B, C_i, H_i, W_i]
        views = (split_views(level, batch) for level in levels)
        return dict(zip(images, zip(*views, strict=True), strict=True))


def split_views(whole: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Split [V * B, ...] into V of [B, ...], as torch.split, with a gradient in the layout of the whole.

    That of torch.split is contiguous: in an encoder whose maps are channels_last it makes all that follows it slow.
    """
    parts: tuple[Tensor, ...] = _SplitViews.apply(whole, batch)  # type: ignore[no-untyped-call]
    return parts


class _SplitViews(torch.autograd.Function):
    """What `split_views` does, and its gradient."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, batch: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.batch = batch
        ctx.make_like = partial(
            torch.empty_strided, whole.shape, whole.stride(), dtype=whole.dtype, device=whole.device
        )
        return torch.split(whole, batch)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        if all(gradient is None for gradient in gradients):
            return None, None
        whole: Tensor = ctx.make_like()
        for part, gradient in zip(torch.split(whole, ctx.batch), gradients, strict=True):
            part.zero_() if gradient is None else part.copy_(gradient)
        return whole, None


def build_task(task: Callable[..., PretextTask], *, channels: Sequence[int], bands: int) -> PretextTask:
    """Build a task that the config left open: each gets the pyramid's channels, and the image's bands if it asks.

    Args:
        task: The constructor, with the config's settings bound.
        channels: Channels of each level of the encoder's pyramid.
        bands: Channels of the image; level 0 of a pyramid need not be the image.

    Raises:
        TypeError: It takes no channels.
    """
    asked = inspect.signature(task).parameters
    asks_bands, kind = "bands" in asked, getattr(task, "func", task)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in asked.values())
    if "channels" not in asked and (not takes_any or getattr(kind, "__init__", None) is nn.Module.__init__):
        raise TypeError(
            f"{kind.__name__}.__init__ does not take channels. Every task is given channels, those of each level of "
            "the encoder's pyramid, and bands, those of the image, if it takes them. Add `channels: Sequence[int]`."
        )
    return task(channels=channels, bands=bands) if asks_bands else task(channels=channels)


def momentum_of_tasks(tasks: Mapping[str, PretextTask]) -> MomentumRule | None:
    """Return the rule by which the momentum encoder of these tasks moves; None where none reads its features.

    Raises:
        InputError: They disagree, or one names a rule without views, or views without a rule.
    """
    for name, task in tasks.items():
        if (task.momentum is None) != (not task.momentum_views):
            lacks = "momentum" if task.momentum is None else "momentum_views"
            raise InputError(
                f"pretext.{name}.task: {type(task).__name__} has no {lacks}: a task that reads features of the "
                "momentum encoder needs both momentum_views and momentum."
            )
    return common_rule({name: task.momentum for name, task in tasks.items() if task.momentum is not None})


def check_views(tasks: Mapping[str, PretextTask | type[PretextTask]], makers: Mapping[str, ViewMaker]) -> None:
    """Refuse tasks that read views which nobody makes, or of another kind, as far as their makers tell what they make.

    Args:
        tasks: Tasks by name, or their classes before anything is built.
        makers: The maker of each view.

    Raises:
        InputError: Names the task, the view, and what to choose.
    """
    for name, task in tasks.items():
        _check_declared(name, task)
        for view in (*task.views, *task.momentum_views):
            if view not in makers:
                raise InputError(
                    f"Pretext task '{name}' reads the view '{view}', but the views made are {list(makers)}.\n"
                    f"Add {_option(view)} to views=[...], or leave the task out of pretext=[...]."
                )
        for view, kind in task.view_kinds.items():
            if view not in (*task.views, *task.momentum_views):
                raise InputError(
                    f"pretext.{name}.task: view_kinds of {_class_of(task).__name__} names the view '{view}', which it "
                    "does not read. Add it to views, or leave it out."
                )
            made = kind_made_by(makers[view])
            if isinstance(made, type):
                check_kind(view, made, kind)
            source = getattr(makers[view], "source", None)
            others = [each for each in (*task.views, *task.momentum_views) if each != view]
            if issubclass(kind, TransformedView) and source is not None and others and source not in others:
                known = " or ".join(others)
                raise InputError(
                    f"views.{view}.source={source}: pretext task '{name}' compares the view with {known}, so that is "
                    f"what it must be made from. Set views.{view}.source={known}."
                )


def _check_declared(name: str, task: PretextTask | type[PretextTask]) -> None:
    """Refuse a class that is no task, or does not say as a task has to what it reads.

    Raises:
        InputError: Names the task, and what to declare.
    """
    _check_name(name)
    kind_of_task = _class_of(task)
    if not issubclass(kind_of_task, PretextTask):
        raise InputError(
            f"pretext.{name}.task is a {getattr(task, '__name__', kind_of_task.__name__)}, expected a class "
            "derived from ssl_rs.pretext.base.PretextTask."
        )
    if not isinstance(getattr(task, "views", None), tuple) or not task.views:
        raise InputError(
            f'pretext.{name}.task: {kind_of_task.__name__} has to say which views it reads: views = ("clean",).'
        )
    if not isinstance(task.view_kinds, Mapping) or not all(isinstance(kind, type) for kind in task.view_kinds.values()):
        raise InputError(
            f"pretext.{name}.task: view_kinds of {kind_of_task.__name__} is {task.view_kinds!r:.80}, expected the "
            'class of each view that has to be of one: {"transformed": TransformedView}.'
        )


def _class_of(task: PretextTask | type[PretextTask]) -> type:
    return task if isinstance(task, type) else type(task)


def _check_name(name: str) -> None:
    """Refuse a task's name that means something else in the logs, or as an attribute of torch's modules.

    Raises:
        InputError: Names the key.
    """
    taken = "the logs" if name in TAKEN else "torch.nn.ModuleDict" if hasattr(nn.ModuleDict(), name) else None
    if taken is not None:
        raise InputError(
            f"pretext.{name}: no task can have that name, which means something else in {taken}. Choose another one in "
            "the first line of its YAML file: # @package pretext.NAME."
        )


def _option(view: str) -> str:
    """Return the option of views=[...] that makes a view: a pair such as byol_first, byol_second comes from byol."""
    return view.removesuffix("_first").removesuffix("_second")
