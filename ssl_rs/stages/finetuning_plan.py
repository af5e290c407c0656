"""The plan of a fine-tuning: its settings read and checked, its labels chosen, and where the run lives."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ssl_rs.build import check_call, refuse_bound
from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.data.label_subset import LabelFraction, LabelSubset, choose_labels
from ssl_rs.encoder import Backbone, check_image_size, check_side, input_divisor
from ssl_rs.errors import InputError, MissingWeightsError
from ssl_rs.segmentation.augmentation import SegmentationAugmentation
from ssl_rs.segmentation.loss import SegmentationLoss
from ssl_rs.segmentation.network import GIVEN, build_segmentation_model
from ssl_rs.stages.evaluation import EvaluationSettings, Evaluator, check_classes
from ssl_rs.stages.identified import Identified, identify
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site, SiteSettings, check_once
from ssl_rs.stages.table_row import table_row
from ssl_rs.stages.validation import Validator, read_every_steps

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

    def row(self, label: str) -> dict[str, Any]:
        """Return its place in the report's table, under the label of its initialization."""
        site = self.site
        return table_row(
            site, self.recipe.backbone, self.decoder_name, label, self.subset, site.trainer.max_steps,
            self.settings_hash,
        )  # fmt: skip


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
    decoder = settings.build("decoder", made_later=True)
    augmentation, loss = settings.build("augmentation"), settings.build("loss")
    _check_calls(augmentation, loss)
    fraction: LabelFraction = settings.build("label_fraction")
    split, window = settings.value("evaluation.split", Literal["val", "test"]), settings.build("evaluation.window")
    every_steps = read_every_steps(settings)
    settings.check_all_read()
    dataset = surroundings.dataset
    evaluation = EvaluationSettings(split, window, dataset)
    check_classes(dataset, "fine-tuning")

    def check_early() -> None:
        recipe.check(surroundings, planned)
        bands, classes = len(dataset.band_names), len(dataset.classes)
        sides = dataset.crop_size, window.size
        chosen = [settings.values[key] for key in ("backbone", "decoder")]
        build = partial(build_model, decoder, recipe.backbone, bands, classes, *sides)
        check_once(build, "finetune", chosen, bands, classes, sides)

    def enter() -> Plan:
        site = surroundings.enter(check_early)
        manifest = site.store.manifest
        evaluator = Evaluator(site.store, evaluation, site.device, site.precision)
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


def _check_calls(augmentation: Any, loss: Any) -> None:
    """Refuse parts that cannot be called as a step calls them; a user may have written them.

    Raises:
        InputError: Names the key.
    """
    check_call(augmentation, "augmentation", ("images", "masks", "draws", "ignore_index", "rgb", "valid"))
    check_call(loss, "loss", ("logits", "masks", "ignore_index", "class_weights"))
    if not hasattr(loss, "class_weights"):
        raise InputError(
            f"loss: {type(loss).__name__} has no class_weights(pixels), which returns the weights of the classes, or "
            "None. Derive it from ssl_rs.segmentation.loss.SegmentationLoss."
        )


def place(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what tells where the run would live and its place in the report's table."""
    enter = draft(settings, planned=True)
    return lambda: _placed(settings, enter())


def _placed(settings: Settings, plan: Plan) -> tuple[Path, dict[str, Any]]:
    found, lacks = None, {}
    try:
        found = plan.recipe.initialization.locate(plan.recipe.target(plan.site))
    except MissingWeightsError as error:
        lacks = {"lacks": str(error)}
    node = settings.values["initialization"]
    named = node.get("label") or node.get("run") or type(plan.recipe.initialization).__name__.lower()
    row = plan.row(found.label if found else named) | {
        "split": plan.evaluator.settings.split,
        "waits_for_weights": found is None,
        **lacks,
        "pretraining_settings_hash": found and (found.pretraining or {}).get("settings_hash"),
    }
    return plan.run.directory.path, row


def build_model(
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
