"""Pretrain an encoder: crops -> views -> tasks. No label is read; test scenes are only where the user asks for it."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ssl_rs import distributed
from ssl_rs.bands import color_bands
from ssl_rs.build import explained, refuse_bound
from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.dataset import Split
from ssl_rs.data.sampling import Crops, SceneCrops, to_unit
from ssl_rs.encoder import Backbone, Normalization, check_image_size
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.initialization import Pretrained, Provenance, seen_before
from ssl_rs.messages import print_line, say_line
from ssl_rs.pretext.base import PretextTask
from ssl_rs.pretext.collapse import collapse_measures
from ssl_rs.pretext.network import PretextNetwork, build_task, check_views
from ssl_rs.pretext.pooling import pool
from ssl_rs.pretext.segmentation_decoder import SegmentationDecoder
from ssl_rs.pretrained import check_apart
from ssl_rs.randomness import Rows, derive_seed
from ssl_rs.run_directory import save_tensors
from ssl_rs.seen_images import SeenImages, label_of, write_seen
from ssl_rs.stages.batches import Drawn, completes_with
from ssl_rs.stages.held_folder import held
from ssl_rs.stages.identified import Identified, identify
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.placed_network import place_network
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site, SiteSettings, check_once
from ssl_rs.stages.trained_network import train_network
from ssl_rs.training.collapse import COLLAPSED_STD
from ssl_rs.training.loop import as_it_is
from ssl_rs.training.tracking import closed_on_error
from ssl_rs.transfer import to_device
from ssl_rs.views.base import (
    View,
    ViewMaker,
    all_in_two_parts,
    crop_view,
    draw_views,
    make_views,
    views_as_drawn,
    views_to_make,
)
from ssl_rs.weights_metadata import WeightsMetadata

EncoderPass = Literal["joint", "per_view"]

LABELS_ONLY = ("dataset.tile_size", "dataset.tile_shift", "dataset.protocol")
"""Settings of a data set that mean nothing where no label is read."""

VARIED = ("seed", "initialization.label")
"""What pretrainings of one row may differ in."""

USUAL_ORDER = ("inpainting", "transform_prediction", "contrastive")
"""The paper's tasks as kept results have them, others behind them by name: the hash tells no order but other ones."""

SETTLED = 50
"""Steps behind which BatchNorm's running statistics, which move by a tenth each, are those of the data."""

PROBED = 128
"""Training crops whose features tell at the end whether the encoder collapsed."""


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
        settings_hash: Of all settings but the seed and its name: what several pretrainings of one row have in common.
        run: Its folder and hash.
    """

    site: Site
    recipe: Recipe
    makers: Mapping[str, ViewMaker]
    tasks: Mapping[str, "partial[PretextTask]"]
    weights: Mapping[str, float]
    encoder_pass: EncoderPass
    settings_hash: str
    run: Identified

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits whose images are read, of those that have scenes: where it is transductive, all."""
        wanted: tuple[Split, ...] = get_args(Split) if self.site.dataset.transductive else ("train", "unlabeled")
        return tuple(split for split in wanted if self.site.store.scenes_of(split))


def read_plan(settings: Settings) -> Plan:
    """Read and check every key, and derive where the run lives."""
    return draft(settings)()


def draft(settings: Settings, planned: bool = False) -> Callable[[], Plan]:
    """Read and check every key; what is returned prepares the data and derives where the run lives.

    Args:
        settings: The settings.
        planned: It runs later if at all, e.g. as a cell of a sweep: all that needs no data is checked at once, and what
            it starts from may not be there yet.
    """
    surroundings, recipe = SiteSettings.read(settings), Recipe.read(settings)
    tasks = {name: settings.build(f"pretext.{name}.task") for name in settings.names("pretext")}
    weights = {name: settings.value(f"pretext.{name}.weight", float) for name in tasks}
    makers = {name: settings.build(f"views.{name}") for name in settings.names("views")}
    bad = [name for name, weight in weights.items() if not 0 <= weight < math.inf]
    if bad:
        raise InputError(f"pretext.{bad[0]}.weight must be finite and at least 0, got {weights[bad[0]]}.")
    if not any(weights.values()):
        raise InputError("Every pretext.*.weight is 0: nothing would be learnt. Give one of the tasks a weight.")
    classes = {name: task.func for name, task in tasks.items()}
    check_views(classes, makers)
    needed = views_to_make(makers, [view for task in classes.values() for view in (*task.views, *task.momentum_views)])
    unread = [name for name in makers if name not in needed]
    if not planned:
        _tell_of_unread(settings, unread)
    settings.drop("views", unread)
    encoder_pass = settings.value("encoder_pass", EncoderPass)
    settings.check_all_read()

    def check_early() -> None:
        recipe.check(surroundings, planned)
        bands, side = len(surroundings.dataset.band_names), surroundings.dataset.crop_size
        chosen = [settings.values[key] for key in ("backbone", "pretext")]
        check_once(partial(_check_tasks, recipe.backbone, tasks, bands, side), "pretrain", chosen, bands, side)

    def enter() -> Plan:
        site = surroundings.enter(check_early)
        folder = Path("pretrain", site.store.manifest.dataset, recipe.backbone.name, "+".join(tasks))
        nodata = _nodata(site)
        run = identify(settings, site, recipe, folder, _order(tuple(tasks)) | nodata, LABELS_ONLY)
        shared = {"manifest": site.store.manifest.sha256, "global_batch": str(site.rows.total), **nodata}
        settings_hash = config_hash(settings.values, shared, (*VARIED, *LABELS_ONLY))
        own_makers = {name: makers[name] for name in needed}
        return Plan(site, recipe, own_makers, tasks, weights, encoder_pass, settings_hash, run)

    if planned:
        check_early()
    return enter


def _tell_of_unread(settings: Settings, views: Sequence[str]) -> None:
    """Say which arguments of the command line change views that no task reads; in a sweep other cells may read them."""
    keys = tuple(f"views.{name}." for name in views)
    for override in settings.overrides:
        if override.lstrip("+").startswith(keys):
            warnings.warn(f"{override} has no effect: no task of pretext=[...] reads that view.", stacklevel=2)


def _order(tasks: Sequence[str]) -> dict[str, str]:
    """Return what the hash of a run says of the order of its tasks, which it does not see: heads are built in it."""
    usual = sorted(tasks, key=lambda name: (USUAL_ORDER.index(name) if name in USUAL_ORDER else len(USUAL_ORDER), name))
    return {} if list(tasks) == usual else {"pretext_order": ",".join(tasks)}


def _nodata(site: Site) -> dict[str, str]:
    """Return what the hash says of data with nodata: earlier versions cut and corrupted other crops of it."""
    partial = any(scene.valid_share < 1 for scene in site.store.manifest.scenes)
    return {"nodata": "crops by pixels with data; covers nothing"} if partial else {}


def place(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what tells where the run would live and what a report calls it."""
    enter = draft(settings, planned=True)
    return lambda: _placed(enter())


def _placed(plan: Plan) -> tuple[Path, dict[str, Any]]:
    _check_apart(plan)
    found = plan.recipe.locate(plan.site)
    label = label_of("random" if found is None else found.kind, "" if found is None else found.label, plan.tasks)
    return plan.run.directory.path, {"label": label, "seed": plan.site.seed}


def _check_apart(plan: Plan) -> None:
    """Refuse a start that will stand for this run, too; where nothing is written, as by preview, it does not matter."""
    start = plan.recipe.initialization
    if isinstance(start, Pretrained) and (found := plan.recipe.locate(plan.site)) is not None:
        pretrainings = plan.recipe.target(plan.site).pretrainings
        check_apart(start.run, pretrainings, str(found.source), plan.run.directory.path)


def pretrain(settings: Settings) -> Path:
    """Train the encoder, or go on where an earlier start was stopped; return the folder of the run."""
    plan = read_plan(settings)
    _check_apart(plan)
    site, directory = plan.site, plan.run.directory
    if plan.run.is_finished("pretrain"):
        return directory.path
    network, provenance = initial_network(plan)
    optimizer = place_network(network, network.encoder, site, plan.recipe)
    make_batch, complete = batch_making(plan)
    with held(directory, site):
        if site.processes.is_first:
            print_line(provenance.describe())
        progress, tracker = train_network(
            network,
            optimizer,
            site,
            plan.recipe,
            plan.run,
            plan.weights,
            partial(site.batches, site.bring(scene_crops(plan, site.seed))),
            make_batch,
            settings.values,
            network.probe_collapse,
            network.after_step,
            complete=complete,
            after_part=network.after_part,
        )
        with closed_on_error(tracker):
            result = _result(plan, provenance, network, progress.seconds) if site.processes.is_first else None
            if result is not None:
                directory.finish(result)
                tell("Pretrained", result)
                _warn_of_collapse(result)
        tracker.finish(result)
        distributed.barrier()
    return directory.path


def initial_network(plan: Plan) -> tuple[PretextNetwork, Provenance]:
    """Return the network as it is before the first step, and what its encoder starts from."""
    site = plan.site
    torch.manual_seed(derive_seed(site.seed, "weights"))
    bands = len(site.store.manifest.bands)
    encoder = _encoder(plan.recipe.backbone, bands, site.dataset.crop_size)
    provenance = plan.recipe.initialization.apply(encoder, plan.recipe.target(site))
    return build_network(plan, encoder, provenance), provenance


def build_network(plan: Plan, encoder: nn.Module, provenance: Provenance) -> PretextNetwork:
    """Put encoder and tasks together; their weights follow from the seed alone."""
    tasks = _build_tasks(plan.tasks, encoder, len(plan.site.store.manifest.bands))
    return PretextNetwork(encoder, Normalization(provenance.statistics), tasks, plan.encoder_pass)


def _encoder(backbone: Backbone, bands: int, crop_size: int) -> nn.Module:
    encoder = backbone.build(bands)
    check_image_size(encoder, bands, crop_size, "dataset.crop_size")
    return encoder


def _check_tasks(backbone: Backbone, tasks: Mapping[str, "partial[PretextTask]"], bands: int, crop_size: int) -> None:
    """Refuse tasks that cannot be built on the encoder, or that do not take these crops."""
    for task in _build_tasks(tasks, _encoder(backbone, bands, crop_size), bands).values():
        task.check_side(crop_size)


def _build_tasks(tasks: Mapping[str, "partial[PretextTask]"], encoder: nn.Module, bands: int) -> dict[str, PretextTask]:
    built = {}
    for name, task in tasks.items():
        refuse_bound(task, ("channels", "bands"), f"pretext.{name}.task")
        with explained(f"pretext.{name}.task"):
            built[name] = build_task(task, channels=tuple(encoder.out_channels), bands=bands)  # type: ignore[arg-type]
    return built


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


def _result(plan: Plan, provenance: Provenance, network: PretextNetwork, seconds: float) -> dict[str, Any]:
    """Write the encoder and return what result.json says of it."""
    site, directory = plan.site, plan.run.directory
    lines = directory.read_metrics()
    last = next((line for line in reversed(lines) if "loss" in line), lines[-1])  # steps of the last may be left out
    collapse = _probe_collapse(plan, network)
    write_seen(directory, SeenImages(frozenset(site.store.image_hashes(plan.splits))) | seen_before(provenance))
    return {
        "command": "pretrain",
        "dataset": site.store.manifest.dataset,
        "backbone": plan.recipe.backbone.name,
        "transductive": site.dataset.transductive,
        "splits": list(plan.splits),
        "pretext": list(plan.tasks),
        "initialization": provenance.kind,
        "provenance": provenance.as_json(),
        "seed": site.seed,
        "steps": site.trainer.max_steps,
        "images_seen": site.trainer.max_steps * site.rows.total,
        "wall_seconds": round(seconds, 1),
        "final_losses": {name.removeprefix("loss/"): value for name, value in last.items() if name.startswith("loss/")},
        "final_metrics": {name: value for name, value in last.items() if "/" in name and not name.startswith("loss/")},
        "encoder_sha256": _save_encoder(plan, network, provenance),
        **_save_decoder(plan, network),
        "collapse": collapse,
        "manifest_sha256": site.store.manifest.sha256,
        "settings_hash": plan.settings_hash,
        "config_hash": plan.run.hash,
        **plan.run.origin(site),
    }


@torch.no_grad()
def _probe_collapse(plan: Plan, network: PretextNetwork) -> dict[str, float]:
    """Measure how the pooled deepest features of some training crops spread."""
    site = plan.site
    source = scene_crops(plan, derive_seed(site.seed, "collapse probe"))
    crop = crop_on_device(plan, source.batch(0, Rows(0, PROBED, PROBED)))
    network.eval()
    maps = torch.cat([network.encoder(part)[-1].float() for part in network.normalization(crop.image).split(32)])
    features = pool(crop, maps)  # [N, D]
    return {name: float(value) for name, value in collapse_measures(features).items()} | {
        "dimensions": features.shape[1]
    }


def _warn_of_collapse(result: Mapping[str, Any]) -> None:
    """Say that the features which others will use are alike for all images, whatever they were while training."""
    std = result["collapse"]["feature_std"]
    if std >= COLLAPSED_STD:
        return
    if result["steps"] < SETTLED and result["final_metrics"].get("collapse/feature_std", 0.0) >= COLLAPSED_STD:
        say_line(f"{result['steps']} steps do not settle BatchNorm's statistics: with them features hardly differ.")
        return
    warnings.warn(
        f"The deepest features of {PROBED} training crops are nearly equal (std {std:.2g}, 1 is spread in all "
        "directions). Here BatchNorm uses its running statistics, which few steps do not settle: if "
        "collapse/feature_std in metrics.jsonl is larger, train for more steps; else lower optimizer.lr.",
        stacklevel=2,
    )


def _save_encoder(plan: Plan, network: PretextNetwork, provenance: Provenance) -> str:
    """Write the bare encoder aside, rename it, and return its sha256."""
    manifest, directory = plan.site.store.manifest, plan.run.directory
    metadata = WeightsMetadata(plan.recipe.backbone.name, manifest.bands, manifest.value_scale, provenance.statistics)
    texts = metadata.texts() | {"config_hash": plan.run.hash}
    save_tensors(directory.encoder, network.encoder.state_dict(), texts)
    return sha256_of(directory.encoder)


def _save_decoder(plan: Plan, network: PretextNetwork) -> dict[str, str]:
    """Write the decoder that fine-tuning can take over, if a task has one; return what result.json says of it."""
    found = [module for module in network.tasks.modules() if isinstance(module, SegmentationDecoder)]
    if not found:
        return {}
    (painter,), directory = found, plan.run.directory
    metadata = {"backbone": plan.recipe.backbone.name, "decoder": painter.name, "config_hash": plan.run.hash}
    save_tensors(directory.decoder, painter.decoder.state_dict(), metadata)
    return {"decoder": painter.name, "decoder_sha256": sha256_of(directory.decoder)}
