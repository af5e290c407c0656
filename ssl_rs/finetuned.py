"""Finished fine-tunings on disk, and how another training starts from one: supervised pretraining."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_rs.errors import InputError, MissingWeightsError, some
from ssl_rs.initialization import Keys, Provenance, Target
from ssl_rs.pretrained import chain, check_record, intact
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import compare_with_data, marks, read_seen, warn_of_seen, without_marks
from ssl_rs.weights import load_decoder, load_strictly, read_weights
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

CARRIED: Mapping[str, type | tuple[type, ...]] = {
    "dataset": str, "initialization": str, "provenance": dict, "label_fraction": (int, float), "labeled_units": int,
    "label_unit": str, "label_order": str, "subset_sha256": str, "seed": int, "steps": int,
}  # fmt: skip
"""What a later run records of the fine-tuning that it started from, and of which type it is."""


def finished_finetuning(chosen: str | None, key: str = "run") -> tuple[RunDirectory, Mapping[str, Any]]:
    """Return the folder and the result of the fine-tuning at a path.

    Args:
        chosen: Its folder.
        key: What the user names it by, for messages.

    Raises:
        InputError: It is none, or its model is not the one that it wrote.
        MissingWeightsError: There is none, or it is unfinished.
    """
    if chosen is None:
        raise InputError(f"{key} is not set. Name the folder of a finished fine-tuning: {key}=outputs/finetune/...")
    run = RunDirectory.named(chosen, key)
    if not run.path.is_dir():
        raise MissingWeightsError(f"{key}={chosen}: there is no such folder. Name that of a finished fine-tuning.")
    result = run.read_result()
    if result is not None and result.get("command") == "pretrain":
        raise InputError(
            f"{key}={chosen} is a pretraining. Fine-tune from it first: `python -m ssl_rs.finetune "
            f"initialization=pretrained initialization.run={chosen}`; then name the folder that this prints."
        )
    if result is None or result.get("command") != "finetune":
        models = (path for path in run.path.glob(f"**/{run.model.name}") if RunDirectory(path.parent).result.is_file())
        below = sorted(str(path.parent) for path in models)
        hint = f"Below it lie {some(below)}: name one." if below else "Finish it first."
        raise MissingWeightsError(f"{key}={chosen} holds no finished fine-tuning (result.json of finetune). {hint}")
    lacking = [name for name in ("config_hash", "model_sha256") if name not in result]
    if lacking:
        raise InputError(f"{run.result} lacks {lacking}: it was not written by this version. {run.anew}")
    for path in (run.model, run.config):
        if not path.is_file():
            raise InputError(f"{path} is missing, so {key}={chosen} cannot be used. {run.anew}")
    intact(run.model, result["model_sha256"], run.anew)
    return run, result


@dataclass(frozen=True)
class Finetuned(Keys):
    """Load the encoder of a finished fine-tuning, or its encoder and decoder; the last layer starts anew.

    Its labels count as seen: the row of the report says of which data and how many, and a run whose validation or test
    images are among them is refused.
    """

    uses = ("run", "parts")

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse a run that is not there, or of another backbone or value scale."""
        run, _, metadata = self._find(backbone)
        metadata.check_scale(f"initialization.run={run.path}", value_scale)

    def _find(self, backbone: str) -> tuple[RunDirectory, Mapping[str, Any], WeightsMetadata]:
        run, result = finished_finetuning(self.run, "initialization.run")
        check_record(run, result, {**CARRIED, "settings_hash": str, "manifest_sha256": str, "label": str})
        metadata = read_weights_metadata(run.model)
        metadata.check_backbone(f"initialization.run={run.path}", backbone)
        return run, result, metadata

    def locate(self, target: Target) -> Provenance:
        """Find the run and check that its encoder, and its decoder where `parts` says so, fit.

        Raises:
            InputError: No finished run, a damaged one, another backbone, decoder, bands or value scale; or it was
                trained on images that are held out here.
        """
        run, result, metadata = self._find(target.backbone)
        where, with_decoder = f"initialization.run={run.path}", self.parts == "encoder_and_decoder"
        metadata.check_data(where, target.bands, target.value_scale)
        if with_decoder and result.get("decoder") != target.decoder:
            raise InputError(
                f"initialization.parts=encoder_and_decoder: {where} has a decoder {result.get('decoder')}, this run "
                f"has {target.decoder or 'none'}. Choose initialization.parts=encoder"
                + (f", or decoder={result.get('decoder')}." if target.decoder else ".")
            )
        before = any(each.get("transductive") for each in chain(result))
        images = read_seen(run)
        seen = compare_with_data(where, images, target.held_out, target.training, before)
        sha256 = str(result["model_sha256"])
        carried = (
            {key: result[key] for key in CARRIED} | {"settings_hash": _settings(result), "transductive": before} | seen
        )
        label = (self.label or f"{_label(result)}{' with decoder' if with_decoder else ''}") + marks(seen, before)
        return Provenance(
            "finetuned", label, str(run.path), sha256, metadata.statistics, carried,
            decoder_sha256=sha256 if with_decoder else None, seen=images,
        )  # fmt: skip

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Load the encoder strictly, and the decoder likewise: no key is left out."""
        found = self.locate(target)
        where, run = f"initialization.run={found.source}", RunDirectory(Path(str(found.source)))
        warn_of_seen(where, found.pretraining or {}, target.held_out)
        weights = read_weights(run.model)
        part = _part(weights, "encoder.")
        load_strictly(encoder, part, where, f"backbone {target.backbone}")
        loaded = len(part)
        if found.decoder_sha256 is not None:
            assert decoder is not None, "whoever names a decoder gives it"
            part = _part(weights, "decoder.")
            load_decoder(decoder, part, where, target.decoder)
            loaded += len(part)
        return replace(found, loaded_tensors=loaded)


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _label(result: Mapping[str, Any]) -> str:
    """Return what came first, and the labels: "imagenet, then 100 % of potsdam's labels"."""
    share = f"{100 * result['label_fraction']:g} % of the labels of {result['dataset']}"
    return share if result["initialization"] == "random" else f"{without_marks(result['label'])}, then {share}"


def _settings(result: Mapping[str, Any]) -> str:
    """Return what fine-tunings have in common that may stand for one another: all but the seed."""
    told = ("settings_hash", "manifest_sha256", "label", "label_fraction", "label_unit", "label_order")
    before = (result["provenance"].get("pretraining") or {}).get("settings_hash")
    return json.dumps([*(result[key] for key in told), before])
