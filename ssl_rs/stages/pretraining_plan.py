"""A pretraining as its settings have it: read, checked against each other, and told apart by a hash."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from torch import nn

from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.dataset import Split
from ssl_rs.data.scene_crops import goes_in_passes
from ssl_rs.errors import InputError
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.inpainting import Inpainting
from ssl_rs.pretext.network import check_views
from ssl_rs.pretext.queue import KeyQueue
from ssl_rs.stages.identified import Identified, identify
from ssl_rs.stages.pretext_parts import check_parts
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site, SiteSettings, check_once
from ssl_rs.views.augmented import AugmentedMaker
from ssl_rs.views.base import ViewMaker, common_side, views_to_make
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.kornia_chain import KorniaMaker
from ssl_rs.views.transformed import TransformedMaker

EncoderPass = Literal["joint", "per_view"]

LABELS_ONLY = ("dataset.tile_size", "dataset.tile_shift", "dataset.protocol")
"""Settings of a data set that mean nothing where no label is read."""

VARIED = ("seed", "initialization.label")
"""What pretrainings of one row may differ in."""

SMALL = 0.05
"""Standard deviation of images, in [0, 1], below which that is told."""

USUAL_SPREAD = 0.2
"""That of 8-bit images from above, about."""

MOST_LOWERED = 1.5
"""By how much a view may lower all values, as a share of the images' mean, before it is told."""

MEAN_OF_PHOTOS = 0.45
"""Of ImageNet's images, for which BYOL's authors chose their offset."""

USUAL_ORDER = ("inpainting", "transform_prediction", "contrastive")
"""The paper's tasks as kept results have them, others behind them by name: the hash tells no order but other ones."""


@dataclass(frozen=True)
class Plan:
    """A checked pretraining, before the first heavy work.

    Args:
        site: Where it runs.
        recipe: What it shares with fine-tuning.
        makers: The makers of the needed views, sources first.
        tasks: The chosen tasks; each still takes the channels of the encoder.
        weights: Factor of each task's loss.
        encoder_pass: All views in one pass of the encoder, or one pass a view.
        image_size: Side of the images that the encoder sees, pixels.
        settings_hash: Of all settings but the seed and its name: what several pretrainings of one row have in common.
        run: Its folder and hash.
    """

    site: Site
    recipe: Recipe
    makers: Mapping[str, ViewMaker]
    tasks: Mapping[str, "partial[PretextTask]"]
    weights: Mapping[str, float]
    encoder_pass: EncoderPass
    image_size: int
    settings_hash: str
    run: Identified

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits whose images are read, of those that have scenes: where it is transductive, all."""
        return _splits(self.site)


def read_plan(settings: Settings) -> Plan:
    """Read and check every key, and derive where the run lives."""
    return draft(settings)()


def draft(settings: Settings, planned: bool = False) -> Callable[[], Plan]:
    """Read and check every key; what is returned prepares the data and derives where the run lives.

    Args:
        settings: The settings.
        planned: It runs later if at all, e.g. as a cell of a sweep: all that needs no data is checked at once, and what
            it starts from may not be there yet.

    Raises:
        InputError: Names the key that is wrong.
    """
    surroundings, recipe = SiteSettings.read(settings), Recipe.read(settings)
    tasks = {name: settings.build(f"pretext.{name}.task", made_later=True) for name in settings.names("pretext")}
    weights = {name: settings.value(f"pretext.{name}.weight", float) for name in tasks}
    makers = {name: settings.build(f"views.{name}") for name in settings.names("views")}
    bad = [name for name, weight in weights.items() if not 0 <= weight < math.inf]
    if bad:
        raise InputError(f"pretext.{bad[0]}.weight must be finite and at least 0, got {weights[bad[0]]}.")
    if not any(weights.values()):
        raise InputError("Every pretext.*.weight is 0: nothing would be learnt. Give one of the tasks a weight.")
    classes = {name: task.func for name, task in tasks.items()}
    check_views(classes, makers)
    read = [view for task in classes.values() for view in (*task.views, *task.momentum_views)]
    needed = views_to_make(makers, read)
    own_makers = {name: makers[name] for name in needed}
    image_size = common_side(read, own_makers, surroundings.dataset.crop_size)
    unread = [name for name in makers if name not in needed]
    if not planned:
        tell_of_unread(settings, unread)
    settings.drop("views", unread)
    encoder_pass = settings.value("encoder_pass", EncoderPass)
    settings.check_all_read()

    def check_early() -> None:
        recipe.check(surroundings, planned)
        bands = len(surroundings.dataset.band_names)
        chosen = [settings.values[key] for key in ("backbone", "pretext")]
        key = "dataset.crop_size" if image_size == surroundings.dataset.crop_size else "views.*.size"
        given = bands, image_size, key
        check_once(partial(check_parts, recipe.backbone, tasks, *given), "pretrain", chosen, *given)

    def enter() -> Plan:
        site = surroundings.enter(check_early)
        folder = Path("pretrain", site.store.manifest.dataset, recipe.backbone.name, "+".join(tasks))
        other_crops = {**_nodata(site, list(own_makers.values())), **_passes(site)}
        run = identify(settings, site, recipe, folder, _order(tuple(tasks)) | other_crops, LABELS_ONLY)
        shared = {"manifest": site.store.manifest.sha256, "global_batch": str(site.rows.total), **other_crops}
        settings_hash = config_hash(settings.values, shared, (*VARIED, *LABELS_ONLY))
        return Plan(site, recipe, own_makers, tasks, weights, encoder_pass, image_size, settings_hash, run)

    if planned:
        check_early()
    return enter


def tell_of_unread(settings: Settings, views: Sequence[str]) -> None:
    """Say which arguments of the command line change views that no task reads; in a sweep other cells may read them."""
    keys = tuple(f"views.{name}." for name in views)
    for override in settings.overrides:
        if override.lstrip("+").startswith(keys):
            warnings.warn(f"{override} has no effect: no task of pretext=[...] reads that view.", stacklevel=2)


def _order(tasks: Sequence[str]) -> dict[str, str]:
    """Return what the hash of a run says of the order of its tasks, which it does not see: heads are built in it."""
    usual = sorted(tasks, key=lambda name: (USUAL_ORDER.index(name) if name in USUAL_ORDER else len(USUAL_ORDER), name))
    return {} if list(tasks) == usual else {"pretext_order": ",".join(tasks)}


def _nodata(site: Site, makers: Sequence[ViewMaker]) -> dict[str, str]:
    """Return what the hash says of data with nodata: earlier versions made other crops and views of it."""
    if all(scene.valid_share == 1 for scene in site.store.manifest.scenes):
        return {}
    changed = (
        (AugmentedMaker, "parts", "with data"),
        (TransformedMaker, "transformed", "parts with data"),
        (KorniaMaker, "kornia", "without pixels that nodata is mixed into"),
    )
    told = {key: text for kind, key, text in changed if any(isinstance(maker, kind) for maker in makers)}
    return {"nodata": "crops by pixels with data; covers nothing", **told}


def _passes(site: Site) -> dict[str, str]:
    """Return what the hash says of images smaller than two crops: earlier versions drew them, some twice."""
    scenes = [site.store.manifest.scenes[index] for split in _splits(site) for index in site.store.scenes_of(split)]
    return {"crops": "passes over the images"} if goes_in_passes(scenes, site.dataset.crop_size) else {}


def _splits(site: Site) -> tuple[Split, ...]:
    wanted: tuple[Split, ...] = get_args(Split) if site.dataset.transductive else ("train", "unlabeled")
    return tuple(split for split in wanted if site.store.scenes_of(split))


def tell_of_small_values(plan: Plan) -> None:
    """Warn where images use so little of [0, 1] that inpainting, whose error is in these values, hardly counts."""
    spread = fmean(plan.site.store.manifest.std)
    for name, task in plan.tasks.items():
        if issubclass(task.func, Inpainting) and 0 < spread < SMALL and plan.weights[name]:  # type: ignore[arg-type]
            more = f"{plan.weights[name] * USUAL_SPREAD / spread:.2g}"
            warnings.warn(
                f"The images vary by {spread:.2g} of the scale by which their values are divided, others by about "
                f"{USUAL_SPREAD}: the error of {name} counts as much less beside other tasks. "
                f"pretext.{name}.weight={more} makes up for it, or a smaller dataset.value_scale.",
                stacklevel=2,
            )


def tell_of_dark_views(plan: Plan) -> None:
    """Warn where what a view adds to all values is much against the images' mean: dark images become black ones."""
    mean = fmean(plan.site.store.manifest.mean)
    remedies, most = [], 0.0
    for name, maker in plan.makers.items():
        color = getattr(maker, "color", None)
        offset = color.brightness_offset if isinstance(color, ColorJitter) else (0.0, 0.0)
        if -offset[0] > MOST_LOWERED * mean > 0:
            most = max(most, -offset[0])
            low, high = (end * mean / MEAN_OF_PHOTOS for end in offset)
            remedies.append(f"views.{name}.color.brightness_offset=[{low:.2g},{high:.2g}]")
    if remedies:
        warnings.warn(
            f"Views are darkened by up to {most:g}, and the mean of the images is {mean:.2g}: many of these views are "
            f"black. An offset of the size of the data: {' '.join(remedies)}",
            stacklevel=2,
        )


def tell_of_own_keys(plan: Plan, tasks: nn.ModuleDict) -> None:
    """Warn where a queue holds more keys than the images have crops: a query then meets its own ground in it.

    Args:
        plan: The pretraining.
        tasks: As they are built.
    """
    size, store = plan.site.dataset.crop_size, plan.site.store
    scenes = [store.manifest.scenes[index] for split in plan.splits for index in store.scenes_of(split)]
    count = sum(max(1, round(each.height // size * (each.width // size) * each.valid_share)) for each in scenes)
    for name, task in tasks.items():
        keys = max((len(each.keys) for each in task.modules() if isinstance(each, KeyQueue)), default=0)
        if keys > count:
            warnings.warn(
                f"The queue of {name} holds {keys} keys, and the images have about {count} crops that do not overlap: "
                "some negatives of a crop then show the same ground. Take a shorter queue, e.g. "
                f"pretext.{name}.task.queue={max(1, count // 2)}, or more images.",
                stacklevel=2,
            )
