"""What is left of a pretraining: its encoder and decoder as files, and what result.json says of it."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ssl_rs.data.scene_crops import SceneCrops
from ssl_rs.files import sha256_of
from ssl_rs.initialization import Provenance
from ssl_rs.messages import say_line
from ssl_rs.pretext.collapse import collapse_measures
from ssl_rs.pretext.network import PretextNetwork
from ssl_rs.pretext.pooling import pool
from ssl_rs.pretext.segmentation_decoder import SegmentationDecoder
from ssl_rs.randomness import Rows, derive_seed
from ssl_rs.run_directory import save_tensors
from ssl_rs.seen_images import SeenImages, write_seen
from ssl_rs.stages.pretraining_batches import crop_on_device
from ssl_rs.stages.pretraining_plan import Plan
from ssl_rs.training.collapse import COLLAPSED_STD
from ssl_rs.weights_metadata import WeightsMetadata

SETTLED = 50
"""Steps behind which BatchNorm's running statistics, which move by a tenth each, are those of the data."""

PROBED = 128
"""Training crops whose features tell at the end whether the encoder collapsed."""


def write_result(plan: Plan, provenance: Provenance, network: PretextNetwork, seconds: float) -> dict[str, Any]:
    """Write the encoder and return what result.json says of it."""
    site, directory = plan.site, plan.run.directory
    lines = directory.read_metrics()
    # Steps of the last line may be left out; and no weight depends on lines, should they be gone.
    last = next((line for line in reversed(lines) if "loss" in line), lines[-1] if lines else {})
    collapse = _probe_collapse(plan, network)
    write_seen(directory, SeenImages(frozenset(site.store.image_hashes(plan.splits))) | provenance.seen)
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
        "image_size": plan.image_size,
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
    source = SceneCrops(site.store, plan.splits, plan.image_size, derive_seed(site.seed, "collapse probe"))
    crop = crop_on_device(plan, source.batch(0, Rows(0, PROBED, PROBED)))
    network.eval()
    maps = torch.cat([network.encoder(part)[-1].float() for part in network.normalization(crop.image).split(32)])
    features = pool(crop, maps)  # [N, D]
    return {name: float(value) for name, value in collapse_measures(features).items()} | {
        "dimensions": features.shape[1]
    }


def warn_of_collapse(result: Mapping[str, Any]) -> None:
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
