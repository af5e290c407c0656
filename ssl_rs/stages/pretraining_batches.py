"""What a step of pretraining reads: crops of its scenes, and the views that are made of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssl_rs.bands import color_bands
from ssl_rs.data.sampling import to_unit
from ssl_rs.data.scene_crops import Crops, SceneCrops
from ssl_rs.randomness import Rows
from ssl_rs.stages.batches import Drawn, completes_with
from ssl_rs.stages.pretraining_plan import Plan
from ssl_rs.training.job import as_it_is
from ssl_rs.transfer import to_device
from ssl_rs.views.base import (
    View,
    all_in_two_parts,
    crop_view,
    draw_views,
    make_views,
    views_as_drawn,
)


def scene_crops(plan: Plan, seed: int) -> SceneCrops:
    """Return where crops come from."""
    site = plan.site
    return SceneCrops(site.store, plan.splits, site.dataset.crop_size, seed)


def views_of(plan: Plan, stored: Crops, step: int, rows: Rows) -> dict[str, View]:
    """Make the run's views of stored crops, on its device."""
    crop = crop_on_device(plan, stored)
    return make_views(crop, plan.makers, seed=plan.site.seed, step=step, rows=rows)


def batch_making(plan: Plan) -> tuple[Callable[[Crops, int], Any], Callable[[Any], dict[str, View]]]:
    """Return `make_batch` and `complete` of a `Job`: the latter makes the views, where all makers draw in advance."""
    site, makers = plan.site, plan.makers
    if not all_in_two_parts(makers) or not completes_with(site, makers.values()):
        return partial(views_of, plan, rows=site.rows), as_it_is
    size, manifest = (site.dataset.crop_size, site.dataset.crop_size), site.store.manifest
    unit_crop = partial(_unit_crop, value_scale=manifest.value_scale, rgb=color_bands(manifest.bands))

    def draw(stored: Crops, step: int) -> Drawn[Crops, dict[str, tuple[Tensor, ...]]]:
        numbers = draw_views(makers, size, seed=site.seed, step=step, rows=site.rows, device=site.device)
        return Drawn(_on_device(stored, site.device), numbers)

    def compute(drawn: Drawn[Crops, dict[str, tuple[Tensor, ...]]]) -> dict[str, View]:
        return views_as_drawn(unit_crop(drawn.crops), makers, drawn.numbers)

    return draw, compute


def crop_on_device(plan: Plan, stored: Crops) -> View:
    """Bring stored crops to the run's device, as values in [0, 1]."""
    manifest = plan.site.store.manifest
    return _unit_crop(_on_device(stored, plan.site.device), manifest.value_scale, color_bands(manifest.bands))


def _on_device(stored: Crops, device: torch.device) -> Crops:
    valid = None if stored.valid is None else to_device(stored.valid, device)
    return Crops(to_device(stored.images, device), valid)


def _unit_crop(stored: Crops, value_scale: float, rgb: tuple[int, int, int] | None) -> View:
    return crop_view(to_unit(stored.images, value_scale), rgb, stored.valid)
