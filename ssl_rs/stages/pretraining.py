"""Pretrain an encoder: crops -> views -> tasks. No label is read; test scenes are only where the user asks for it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssl_rs import distributed
from ssl_rs.config import Settings
from ssl_rs.data.small_images import warn_of_small_images
from ssl_rs.encoder import Normalization
from ssl_rs.initialization import Pretrained, Provenance
from ssl_rs.messages import print_line
from ssl_rs.pretext.network import PretextNetwork
from ssl_rs.pretrained import check_apart
from ssl_rs.randomness import derive_seed
from ssl_rs.seen_images import label_of
from ssl_rs.stages.held_folder import held
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.placed_network import place_network
from ssl_rs.stages.pretext_parts import build_tasks
from ssl_rs.stages.pretraining_batches import batch_making, scene_crops
from ssl_rs.stages.pretraining_plan import (
    Plan,
    draft,
    read_plan,
    tell_of_dark_views,
    tell_of_own_keys,
    tell_of_small_values,
)
from ssl_rs.stages.pretraining_result import warn_of_collapse, write_result
from ssl_rs.stages.trained_network import train_network
from ssl_rs.training.job import Job
from ssl_rs.training.tracking import closed_on_error


def place(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what tells where the run would live and what a report calls it."""
    enter = draft(settings, planned=True)
    return lambda: _placed(enter())


def _placed(plan: Plan) -> tuple[Path, dict[str, Any]]:
    _check_apart(plan)
    found = plan.recipe.starts_from(plan.site)
    label = label_of("random" if found is None else found.kind, "" if found is None else found.label, plan.tasks)
    return plan.run.directory.path, {"label": label, "seed": plan.site.seed}


def _check_apart(plan: Plan) -> None:
    """Refuse a start that will stand for this run, too; where nothing is written, as by preview, it does not matter."""
    start = plan.recipe.initialization
    if isinstance(start, Pretrained) and (found := plan.recipe.starts_from(plan.site)) is not None:
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
            tell_of_small_values(plan)
            tell_of_dark_views(plan)
            tell_of_own_keys(plan, network.tasks)
            warn_of_small_images(site.store.manifest, site.dataset.crop_size, plan.splits)
        job = Job(
            network, partial(site.batches, site.bring(scene_crops(plan, site.seed))), make_batch, plan.weights,
            optimizer, plan.recipe.schedule, site.trainer, site.device, directory, plan.run.identity(site),
            site.processes, site.seed, probe=network.probe_collapse, after_step=network.after_step, complete=complete,
            after_part=network.after_part,
        )  # fmt: skip
        progress, tracker = train_network(job, site, plan.recipe, plan.run, settings.values)
        with closed_on_error(tracker):
            result = write_result(plan, provenance, network, progress.seconds) if site.processes.is_first else None
            if result is not None:
                directory.finish(result)
                tell("Pretrained", result)
                warn_of_collapse(result)
        tracker.finish(result)
        distributed.barrier()
    return directory.path


def initial_network(plan: Plan) -> tuple[PretextNetwork, Provenance]:
    """Return the network as it is before the first step, by the seed alone, and what its encoder starts from."""
    site = plan.site
    torch.manual_seed(derive_seed(site.seed, "weights"))
    bands = len(site.store.manifest.bands)
    encoder = plan.recipe.backbone.build(bands)
    provenance = plan.recipe.initialization.apply(encoder, plan.recipe.target(site))
    tasks = build_tasks(plan.tasks, encoder, bands)
    network = PretextNetwork(encoder, Normalization(provenance.statistics), tasks, plan.encoder_pass)
    return network, provenance
