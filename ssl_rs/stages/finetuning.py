"""Fine-tune: labeled tiles -> augmentation -> encoder and decoder; then score whole test scenes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs import distributed
from ssl_rs.bands import color_bands
from ssl_rs.build import refuse_bound
from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.label_subset import (
    LabelFraction,
    LabelSubset,
    choose_labels,
    describe_labels,
    labeled_in_training,
    labeled_pixels,
)
from ssl_rs.data.sampling import TileCrops, to_unit
from ssl_rs.encoder import Backbone, Normalization, check_image_size, check_side, input_divisor
from ssl_rs.files import sha256_of
from ssl_rs.initialization import Provenance, seen_before
from ssl_rs.messages import print_line, say_line
from ssl_rs.randomness import Draws, derive_seed
from ssl_rs.run_directory import save_tensors
from ssl_rs.seen_images import SeenImages, write_seen
from ssl_rs.segmentation.augmentation import SegmentationAugmentation, in_two_parts
from ssl_rs.segmentation.loss import SegmentationLoss
from ssl_rs.segmentation.network import GIVEN, SegmentationBatch, SegmentationNetwork, build_segmentation_model
from ssl_rs.stages.batches import Drawn, completes_with
from ssl_rs.stages.evaluation import Evaluator, check_classes, read_evaluation
from ssl_rs.stages.held_folder import held
from ssl_rs.stages.identified import Identified, identify
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.placed_network import place_network
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site, SiteSettings, check_once
from ssl_rs.stages.trained_network import train_network
from ssl_rs.stages.validation import KEY, Validator, read_every_steps
from ssl_rs.training.loop import as_it_is
from ssl_rs.training.tracking import closed_on_error
from ssl_rs.transfer import to_device
from ssl_rs.weights_metadata import WeightsMetadata

VARIED = ("seed", "label_fraction.fraction", "initialization", "dataset.protocol")
"""What a comparison varies: runs that differ in other settings are not put into one table."""

PRETRAINING_ONLY = ("dataset.transductive",)
"""Settings of a data set that mean nothing where no pretraining is: what it saw is told by the encoder's file."""


@dataclass(frozen=True)
class Plan:
    """A checked fine-tuning, before the first heavy work.

    Args:
        site: Where it runs.
        recipe: What it shares with pretraining.
        decoder: A model class of segmentation-models-pytorch with its settings bound.
        decoder_name: Its name in folders and tables.
        augmentation: Of image and mask together.
        loss: What is minimized.
        subset: The labeled tiles or scenes.
        evaluator: How the result is scored.
        validator: Scores validation scenes on the way; None: nothing does.
        settings_hash: Of all settings but those by which the report's table varies.
        run: Its folder and hash.
    """

    site: Site
    recipe: Recipe
    decoder: "partial[nn.Module]"
    decoder_name: str
    augmentation: SegmentationAugmentation
    loss: SegmentationLoss
    subset: LabelSubset
    evaluator: Evaluator
    validator: Validator | None
    settings_hash: str
    run: Identified


def read_plan(settings: Settings) -> Plan:
    """Read and check every key, choose the labels, and derive where the run lives."""
    return draft(settings)()


def draft(settings: Settings, planned: bool = False) -> Callable[[], Plan]:
    """Read and check every key; what is returned prepares the data, chooses labels, and derives where the run lives.

    Args:
        settings: The settings.
        planned: It runs later if at all, e.g. as a cell of a sweep: all that needs no data is checked at once, and what
            it starts from may not be there yet.
    """
    surroundings, recipe = SiteSettings.read(settings), Recipe.read(settings)
    decoder, augmentation, loss = (settings.build(name) for name in ("decoder", "augmentation", "loss"))
    fraction: LabelFraction = settings.build("label_fraction")
    evaluation = read_evaluation(settings)
    every_steps = read_every_steps(settings)
    settings.check_all_read()
    dataset = surroundings.dataset
    check_classes(dataset, "fine-tuning")

    def check_early() -> None:
        recipe.check(surroundings, planned)
        bands, classes = len(dataset.band_names), len(dataset.classes)
        sides = dataset.crop_size, evaluation.window.size
        chosen = [settings.values[key] for key in ("backbone", "decoder")]
        build = partial(_build_model, decoder, recipe.backbone, bands, classes, *sides)
        check_once(build, "finetune", chosen, bands, classes, sides)

    def enter() -> Plan:
        site = surroundings.enter(check_early)
        manifest = site.store.manifest
        evaluator = Evaluator(site.store, evaluation, site.device, site.precision, site.dataset.protocol)
        validator = None if every_steps is None else Validator.of(evaluator, every_steps)
        subset = choose_labels(site.store, site.dataset.tile_size, fraction, site.seed)
        kind = settings.values["initialization"]["_target_"].rpartition(".")[2].lower()
        decoder_name, share = decoder.func.__name__.lower(), f"{fraction.fraction * 100:g}pct"
        own = replace(recipe, decoder=decoder_name)
        folder = Path("finetune", manifest.dataset, f"{own.backbone.name}-{decoder_name}", kind, share)
        run = identify(settings, site, own, folder, {"subset": subset.sha256}, PRETRAINING_ONLY)
        batch = {"global_batch": str(site.rows.total)}
        settings_hash = config_hash(settings.values, batch, (*VARIED, *PRETRAINING_ONLY))
        return Plan(
            site, own, decoder, decoder_name, augmentation, loss, subset, evaluator, validator, settings_hash, run
        )  # fmt: skip

    if planned:
        check_early()
    return enter


def place(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what tells where the run would live and its place in the report's table."""
    enter = draft(settings, planned=True)
    return lambda: _placed(settings, enter())


def _placed(settings: Settings, plan: Plan) -> tuple[Path, dict[str, Any]]:
    found = plan.recipe.locate(plan.site)
    node = settings.values["initialization"]
    label = found.label if found else node["label"] or node["run"] or type(plan.recipe.initialization).__name__.lower()
    row = {
        "dataset": plan.site.store.manifest.dataset,
        "backbone": plan.recipe.backbone.name,
        "decoder": plan.decoder_name,
        "label": label,
        "label_fraction": plan.subset.fraction,
        "label_unit": plan.subset.unit,
        "label_order": plan.subset.order,
        "seed": plan.site.seed,
        "steps": plan.site.trainer.max_steps,
        "split": plan.evaluator.settings.split,
        "manifest_sha256": plan.site.store.manifest.sha256,
        "settings_hash": plan.settings_hash,
        "waits_for_weights": found is None,
        **({} if found else {"lacks": plan.recipe.lacks(plan.site)}),
        "pretraining_settings_hash": found and (found.pretraining or {}).get("settings_hash"),
    }
    return plan.run.directory.path, row


def finetune(settings: Settings) -> Path:
    """Train and score the segmentation network, or go on where an earlier start was stopped."""
    plan = read_plan(settings)
    site, directory = plan.site, plan.run.directory
    if plan.run.is_finished("finetune"):
        if plan.validator and site.processes.is_first:
            say_line(f"{KEY} scores nothing of it: run_dir=NEW_FOLDER trains once more.")
        return directory.path
    torch.manual_seed(derive_seed(site.seed, "weights"))
    manifest = site.store.manifest
    model = _build_model(
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
        progress, tracker = train_network(
            network,
            optimizer,
            site,
            plan.recipe,
            plan.run,
            {"segmentation": 1.0},
            partial(site.batches, site.bring(_crops(plan))),
            make_batch,
            settings.values,
            begin=partial(plan.subset.write, directory.path / "label_subset.json"),
            validation=plan.validator.of_network(network, site.processes) if plan.validator else None,
            complete=complete,
        )
        with closed_on_error(tracker):
            result = _result(plan, provenance, network, progress.seconds) | {"labeled_pixels": counts}
            if site.processes.is_first:
                directory.finish(result)
                tell("Fine-tuned", result)
        tracker.finish(result)
        distributed.barrier()
    return directory.path


def _build_model(
    decoder: "partial[nn.Module]", backbone: Backbone, bands: int, classes: int, crop_size: int, window: int
) -> nn.Module:
    """Build the network, and refuse sides of crops and windows that it cannot take.

    Raises:
        InputError: One of them, or an encoder and a decoder that do not go together.
    """
    refuse_bound(decoder, GIVEN, "decoder")
    refuse_bound(decoder, ("aux_params", "activation"), "decoder", "the loss takes the scores of the classes alone")
    model = build_segmentation_model(decoder, backbone.name, bands, classes)
    for key, side in {"dataset.crop_size": crop_size, "evaluation.window.size": window}.items():
        check_side(side, input_divisor(model), key, "decoder=unet")
        check_image_size(model.get_submodule("encoder"), bands, side, key)
    return model


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
            tuple(item.name for item in manifest.classes), manifest.dtype,
        )  # fmt: skip
        texts = metadata.texts() | {"decoder": plan.decoder_name, "config_hash": plan.run.hash}
        save_tensors(directory.model, network.model.state_dict(), texts)
        scores["model_sha256"] = sha256_of(directory.model)
        own = frozenset(site.store.image_hashes({"train"}))
        write_seen(directory, SeenImages(own, own) | seen_before(provenance))
    return {
        "command": "finetune",
        "dataset": manifest.dataset,
        "backbone": plan.recipe.backbone.name,
        "decoder": plan.decoder_name,
        "initialization": provenance.kind,
        "label": provenance.label,
        "provenance": provenance.as_json(),
        "label_fraction": plan.subset.fraction,
        "labeled_units": len(plan.subset.units),
        "label_unit": plan.subset.unit,
        "label_order": plan.subset.order,
        "subset_sha256": plan.subset.sha256,
        "seed": site.seed,
        "steps": site.trainer.max_steps,
        "global_batch": site.rows.total,
        "wall_seconds": round(seconds, 1),
        **scores,
        "manifest_sha256": manifest.sha256,
        "settings_hash": plan.settings_hash,
        "config_hash": plan.run.hash,
        **plan.run.origin(site),
    }
