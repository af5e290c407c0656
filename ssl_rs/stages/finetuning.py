"""Fine-tune: labeled tiles -> augmentation -> encoder and decoder; then score whole test scenes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ssl_rs import distributed
from ssl_rs.bands import color_bands
from ssl_rs.config import Settings
from ssl_rs.data.label_subset import describe_labels, labeled_in_training, labeled_pixels
from ssl_rs.data.pixel_size import usual_size
from ssl_rs.data.sampling import to_unit
from ssl_rs.data.small_images import warn_of_small_images
from ssl_rs.data.tile_crops import TileCrops
from ssl_rs.encoder import Normalization
from ssl_rs.files import sha256_of
from ssl_rs.initialization import Provenance
from ssl_rs.messages import print_line, say_line
from ssl_rs.randomness import Draws, derive_seed
from ssl_rs.run_directory import save_tensors
from ssl_rs.seen_images import SeenImages, write_seen
from ssl_rs.segmentation.augmentation import in_two_parts
from ssl_rs.segmentation.network import SegmentationBatch, SegmentationNetwork
from ssl_rs.stages.batches import Drawn, completes_with
from ssl_rs.stages.finetuning_plan import Plan, build_model, read_plan
from ssl_rs.stages.held_folder import held
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.placed_network import place_network
from ssl_rs.stages.trained_network import train_network
from ssl_rs.stages.validation import KEY
from ssl_rs.training.job import Job, as_it_is
from ssl_rs.training.tracking import closed_on_error
from ssl_rs.transfer import to_device
from ssl_rs.weights_metadata import WeightsMetadata


def finetune(settings: Settings) -> Path:
    """Train and score the segmentation network, or go on where an earlier start was stopped."""
    plan = read_plan(settings)
    site, directory = plan.site, plan.run.directory
    if plan.run.is_finished("finetune"):
        if plan.validator and site.processes.is_first:
            say_line(f"{KEY} has no effect on a finished run. run_dir=NEW_FOLDER trains again.")
        return directory.path
    torch.manual_seed(derive_seed(site.seed, "weights"))
    manifest = site.store.manifest
    model = build_model(
        plan.decoder, plan.recipe.backbone, len(manifest.bands), len(manifest.classes), site.dataset.crop_size,
        plan.evaluator.settings.window.size,
    )  # fmt: skip
    encoder, decoder = model.get_submodule("encoder"), model.get_submodule("decoder")
    provenance = plan.recipe.initialization.apply(encoder, plan.recipe.target(site), decoder)
    pixels = labeled_pixels(site.store, plan.subset)  # [K]
    network = SegmentationNetwork(
        model, Normalization(provenance.statistics), manifest.ignore_index, plan.loss, plan.loss.class_weights(pixels)
    )  # fmt: skip
    counts = {each.name: int(count) for each, count in zip(manifest.classes, pixels, strict=True)}
    optimizer = place_network(network, encoder, site, plan.recipe)
    make_batch, complete = batch_making(plan)
    with held(directory, site):
        if site.processes.is_first:
            print_line(provenance.describe())
            print_line(describe_labels(plan.subset, counts, labeled_in_training(plan.site.store)))
            warn_of_small_images(site.store.manifest, site.dataset.crop_size, ("train",))
        job = Job(
            network, partial(site.batches, site.bring(_crops(plan))), make_batch, {"segmentation": 1.0}, optimizer,
            plan.recipe.schedule, site.trainer, site.device, directory, plan.run.identity(site), site.processes,
            site.seed, complete=complete,
            validation=plan.validator.of_network(network, site.processes) if plan.validator else None,
        )  # fmt: skip
        write_labels = partial(plan.subset.write, directory.path / "label_subset.json")
        progress, tracker = train_network(job, site, plan.recipe, plan.run, settings.values, write_labels)
        with closed_on_error(tracker):
            result = _result(plan, provenance, network, progress.seconds) | {"labeled_pixels": counts}
            if site.processes.is_first:
                directory.finish(result)
                tell("Fine-tuned", result)
        tracker.finish(result)
        distributed.barrier()
    return directory.path


def _crops(plan: Plan) -> TileCrops:
    site = plan.site
    return TileCrops(site.store, plan.subset, site.dataset.crop_size, site.dataset.tile_shift, site.seed)


def batch_making(plan: Plan) -> tuple[Callable[[tuple[Tensor, ...], int], Any], Callable[[Any], SegmentationBatch]]:
    """Return `make_batch` and `complete` of a `Job`: the latter augments, where that draws in advance."""
    site, augmentation, manifest = plan.site, plan.augmentation, plan.site.store.manifest
    scale, ignored, rgb = manifest.value_scale, manifest.ignore_index, color_bands(manifest.bands)

    def on_device(stored: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(to_device(part, site.device) for part in stored)

    def draws_of(step: int) -> Draws:
        return Draws(site.seed, step, "augmentation", site.rows, site.device)

    def draw(stored: tuple[Tensor, ...], step: int) -> Drawn[tuple[Tensor, ...], tuple[Tensor, ...]]:
        draws = draws_of(step)
        return Drawn(on_device(stored), draws.send(*augmentation.draw(draws)))

    def augment(drawn: Drawn[tuple[Tensor, ...], tuple[Tensor, ...]]) -> SegmentationBatch:
        images, masks, *valid = drawn.crops
        return SegmentationBatch(
            *augmentation.apply(to_unit(images, scale), masks, drawn.numbers, ignored, rgb, *valid)
        )

    def augment_at_once(stored: tuple[Tensor, ...], step: int) -> SegmentationBatch:
        images, masks, *valid = on_device(stored)
        return SegmentationBatch(*augmentation(to_unit(images, scale), masks, draws_of(step), ignored, rgb, *valid))

    if not in_two_parts(augmentation) or not completes_with(site, [augmentation]):
        return augment_at_once, as_it_is
    return draw, augment


def _result(plan: Plan, provenance: Provenance, network: SegmentationNetwork, seconds: float) -> dict[str, Any]:
    """Score the network, write its weights and sample pictures, and return what result.json says."""
    site, directory = plan.site, plan.run.directory
    manifest = site.store.manifest
    scores = plan.evaluator.score(network, site.processes, directory.path / "samples.npz")
    if site.processes.is_first:
        metadata = WeightsMetadata(
            plan.recipe.backbone.name, manifest.bands, manifest.value_scale, provenance.statistics,
            tuple(item.name for item in manifest.classes), manifest.dtype, usual_size(manifest),
            fmean(manifest.mean) or None,
        )  # fmt: skip
        texts = metadata.texts() | {"decoder": plan.decoder_name, "config_hash": plan.run.hash}
        save_tensors(directory.model, network.model.state_dict(), texts)
        scores["model_sha256"] = sha256_of(directory.model)
        own = frozenset(site.store.image_hashes({"train"}))
        write_seen(directory, SeenImages(own, own) | provenance.seen)
    return {
        "command": "finetune",
        **plan.row(provenance.label),
        "initialization": provenance.kind,
        "provenance": provenance.as_json(),
        "global_batch": site.rows.total,
        "wall_seconds": round(seconds, 1),
        **scores,
        "config_hash": plan.run.hash,
        **plan.run.origin(site),
    }
