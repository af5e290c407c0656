"""What a view is, what makes one, and the order in which a step's views are made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeGuard, TypeVar, get_type_hints

import torch
from torch import Tensor

from ssl_rs.errors import InputError, nearest
from ssl_rs.randomness import Draws, Rows

CROP = "crop"
"""The name by which a maker asks for the stored crop itself."""


@dataclass(frozen=True)
class View:
    """One version of each crop of a batch.

    Args:
        image: [B, C, H, W] in [0, 1] of the data's value scale.
        geometry: [B, 2, 3], from the view's normalized coordinates (x, y in [-1, 1], align_corners=False) to those of
            the stored crop: `affine_grid(geometry)` samples the crop where the view's pixels come from.
        rgb: Which channels are red, green and blue; None: none of them.
        valid: bool [B, 1, H, W], false where the stored image has no data; None: true everywhere.
    """

    image: Tensor
    geometry: Tensor
    rgb: tuple[int, int, int] | None = field(default=None, kw_only=True)
    valid: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class TransformedView(View):
    """A view that is one of K flips and rotations away from its source.

    Args:
        transform: int64 [B], the class of the transform against its source view.
    """

    transform: Tensor


@dataclass(frozen=True)
class CorruptedView(View):
    """A view of which parts were destroyed.

    Args:
        clean: [B, C, H, W], what it was before.
        weight: [B, C, H, W], how much each value counts for the repair, >= 0.
    """

    clean: Tensor
    weight: Tensor


class ViewMaker(Protocol):
    """Makes one view from another, on its device, without gradient and without a loop over samples.

    What `draws` gives lies on the CPU: matrices of a few numbers are computed there, and `draws.send(a, b)` brings them
    to the device in one copy.
    """

    source: str

    def __call__(self, source: View, draws: Draws) -> View:
        """Return the view; every random number comes from `draws`."""
        ...


class TwoPartMaker(ABC):
    """A view maker that first draws, on the CPU, and then computes, on the device.

    What it computes depends on nothing but the source and what was drawn, and changes nothing, so that it can be
    compiled, and recorded with the network as one CUDA graph.
    """

    source: str

    @abstractmethod
    def draw(self, size: tuple[int, int], draws: Draws) -> tuple[Tensor, ...]:
        """Return all that is random in the views of a batch, on the CPU, rows [B, ...] each.

        Args:
            size: Height and width of the source's images.
            draws: A row a sample.
        """

    @abstractmethod
    def make(self, source: View, *drawn: Tensor) -> View:
        """Return the view.

        Args:
            source: Images [B, C, H, W].
            drawn: What `draw` returned, on the device of the images.
        """

    def size_of_view(self, source: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the view of a source, pixels: by default the source's."""
        return source

    def __call__(self, source: View, draws: Draws) -> View:
        """Return the view; every random number comes from `draws`."""
        return self.make(source, *draws.send(*_checked_draw(self, size_of(source), draws)))


Maker = TypeVar("Maker", bound=ViewMaker)


def crop_view(image: Tensor, rgb: tuple[int, int, int] | None = None, valid: Tensor | None = None) -> View:
    """Return the stored crop as the view that all others start from; arguments as those of `View`."""
    identity = torch.eye(2, 3, device=image.device).expand(image.shape[0], 2, 3)
    return View(image, identity, rgb=rgb, valid=valid)


def kind_made_by(maker: ViewMaker) -> type[View] | None:
    """Return the class of a maker's views by its annotations; None where they say nothing."""
    function = type(maker).make if _is_in_two_parts(maker) else type(maker).__call__
    try:
        return get_type_hints(function).get("return")
    except NameError:  # annotations of another package that it imports for type checkers only
        return None


def all_in_two_parts(makers: Mapping[str, ViewMaker]) -> TypeGuard[Mapping[str, TwoPartMaker]]:
    """Tell whether all of them draw first and compute then."""
    return all(_is_in_two_parts(maker) for maker in makers.values())


def _is_in_two_parts(maker: ViewMaker) -> TypeGuard[TwoPartMaker]:
    return isinstance(maker, TwoPartMaker) and type(maker).__call__ is TwoPartMaker.__call__  # else it does more


def size_of(view: View) -> tuple[int, int]:
    """Return height and width of a view's images, pixels."""
    height, width = view.image.shape[-2:]
    return height, width


def views_to_make(makers: Mapping[str, ViewMaker], wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the wanted views and the views they start from, sources first.

    Raises:
        InputError: A view or its source that nobody makes, or views that start from each other.
    """
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name == CROP or name in order:
            return
        if name in path:
            raise InputError(f"Views start from each other: {' <- '.join((*path, name))}. Change views.{name}.source.")
        if name not in makers:
            asked = f"views.{path[-1]}.source={name}" if path else f"View '{name}'"
            raise InputError(f"{asked}: nobody makes that view. {nearest(name, makers)}")
        source: Any = getattr(makers[name], "source", None)
        if not isinstance(source, str):
            raise InputError(f"views.{name}: {type(makers[name]).__name__} has no source: the view it starts from.")
        visit(source, (*path, name))
        order.append(name)

    for name in wanted:
        visit(name, ())
    return tuple(order)


def sizes_of(makers: Mapping[str, ViewMaker], size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Return height and width of the crop and of each view, pixels.

    Args:
        makers: The maker of each view; sources come first, as `views_to_make` orders them.
        size: Of the stored crops.
    """
    sizes = {CROP: size}
    for name, maker in makers.items():
        size_of_view = getattr(maker, "size_of_view", None)
        sizes[name] = sizes[maker.source] if size_of_view is None else size_of_view(sizes[maker.source])
    return sizes


def common_side(names: Iterable[str], makers: Mapping[str, ViewMaker], crop_size: int) -> int:
    """Return the side that all of some views have, which the encoder sees, pixels.

    Args:
        names: The views; of none it is that of the crops.
        makers: As of `sizes_of`.
        crop_size: Side of the stored crops.

    Raises:
        InputError: They have several, or a view is no square or larger than the crops.
    """
    sizes = sizes_of(makers, (crop_size, crop_size))
    for name, (height, width) in sizes.items():
        if height != width:
            raise InputError(f"View {name} has {height} x {width} pixels, expected a square. Change views.{name}.")
        if height > crop_size:
            raise InputError(
                f"View {name} has {height} pixels a side, expected at most those of the crops that it is cut from, "
                f"dataset.crop_size={crop_size}. Raise that, or lower views.{name}.size."
            )
    sides = {name: sizes[name][0] for name in names}
    if len(set(sides.values())) > 1:
        told = ", ".join(f"{name} {side}" for name, side in sides.items())
        without = [name for name in sides if not hasattr(makers[name], "size")]
        remedy = "Give views.*.size of all of them, or of none."
        if without:
            remedy = f"{', '.join(without)} cannot be smaller than the source: leave out views.*.size, or their tasks."
        raise InputError(f"The views that tasks read differ in their side ({told} px), expected one. {remedy}")
    return next(iter(sides.values()), crop_size)


@torch.no_grad()
def make_views(crop: View, makers: Mapping[str, ViewMaker], *, seed: int, step: int, rows: Rows) -> dict[str, View]:
    """Make the views of one batch; where a view has no data its image is 0.

    Args:
        crop: The stored crops of this process's rows.
        makers: The maker of each view; sources come first, as `views_to_make` orders them.
        seed: Seed of the run.
        step: Step of the run.
        rows: This process's rows of the global batch.
    """
    device = crop.image.device
    return _one_after_another(
        crop, makers, lambda name, maker, source: maker(source, Draws(seed, step, name, rows, device))
    )


def draw_views(
    makers: Mapping[str, TwoPartMaker],
    size: tuple[int, int],
    *,
    seed: int,
    step: int,
    rows: Rows,
    device: torch.device,
) -> dict[str, tuple[Tensor, ...]]:
    """Draw all that is random in the views of one batch, and bring it to the device; arguments as of `make_views`."""
    drawn, sizes = {}, sizes_of(makers, size)
    for name, maker in makers.items():
        draws = Draws(seed, step, name, rows, device)
        drawn[name] = draws.send(*_checked_draw(maker, sizes[maker.source], draws))
    return drawn


@torch.no_grad()
def views_as_drawn(
    crop: View, makers: Mapping[str, TwoPartMaker], drawn: Mapping[str, tuple[Tensor, ...]]
) -> dict[str, View]:
    """Compute the views of one batch from what `draw_views` returned: those that `make_views` makes."""
    return _one_after_another(crop, makers, lambda name, maker, source: maker.make(source, *drawn[name]))


def _one_after_another(
    crop: View, makers: Mapping[str, Maker], make: Callable[[str, Maker, View], View]
) -> dict[str, View]:
    """Make each view from its source.

    Where a view has no data its image is 0, as a store has it and as fine-tuning sees it: no change of colors shows.
    """
    views, sizes = {CROP: crop}, sizes_of(makers, size_of(crop))
    for name, maker in makers.items():
        view = _checked_view(name, make(name, maker, views[maker.source]), views[maker.source], sizes[name])
        views[name] = view if view.valid is None else replace(view, image=view.image.masked_fill(~view.valid, 0))
    del views[CROP]
    return views


def _checked_draw(maker: TwoPartMaker, size: tuple[int, int], draws: Draws) -> tuple[Tensor, ...]:
    drawn: Any = maker.draw(size, draws)
    if not isinstance(drawn, (tuple, list)) or not all(isinstance(each, Tensor) for each in drawn):
        raise InputError(f"{type(maker).__name__}.draw returns {drawn!r:.60}, expected a tuple of tensors.")
    return tuple(drawn)


def _checked_view(name: str, view: Any, source: View, size: tuple[int, int]) -> View:
    """Refuse what is no view of a source, by types and shapes alone: no step waits for the device.

    Raises:
        InputError: Names the view.
    """
    if not isinstance(view, View):
        raise InputError(f"views.{name}: its maker returns a {type(view).__name__}, expected an ssl_rs View.")
    expected = {
        "image": (source.image.dtype, (*source.image.shape[:2], *size)),
        "geometry": (source.geometry.dtype, (len(source.image), 2, 3)),
        "valid": (torch.bool, (len(source.image), 1, *size)),
    }
    for part, (dtype, shape) in expected.items():
        value: Any = getattr(view, part)
        if part == "valid" and value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype != dtype or tuple(value.shape) != shape:
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
            told, other = f"views.{name}: the {part} that its maker gives is {got}", "size_of_view tells another size."
            raise InputError(f"{told}, expected {dtype} {list(shape)}; {other}")
    return view
