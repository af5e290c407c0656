"""What `encoder=...` of evaluate names: a pretraining, a file of ours or of others, random or ImageNet weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ssl_rs.encoder import Backbone
from ssl_rs.errors import InputError, LabelsSeenError
from ssl_rs.files import no_file, sha256_of
from ssl_rs.initialization import ImageNet, Initialization, Pretrained, Provenance, Random, Target
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import compare_with_data, marks, seen_beside, warn_of_seen
from ssl_rs.stages.finished_run import stored_config
from ssl_rs.weights import load_strictly, read_weights
from ssl_rs.weights_file import File
from ssl_rs.weights_metadata import read_weights_metadata

OF_NO_RUN = ("random", "imagenet", "file")
"""Encoders that say nothing of their architecture."""


@dataclass(frozen=True)
class EncoderFile:
    """The weights of an encoder.safetensors without the run that wrote it.

    Args:
        path: The file.
        label: Row of the report; None: the name of the file.
    """

    path: Path
    label: str | None = None

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse a file of another backbone or value scale."""
        metadata = read_weights_metadata(self.path)
        metadata.check_backbone(f"encoder={self.path}", backbone)
        metadata.check_scale(f"encoder={self.path}", value_scale)

    def locate(self, target: Target) -> Provenance:
        """Read what the file says of itself and check that it fits.

        Raises:
            InputError: It tells nothing or nonsense, or is of another backbone, other bands or another value scale; or
                its training had labels of images that are held out here.
        """
        metadata = read_weights_metadata(self.path)
        metadata.check_backbone(f"encoder={self.path}", target.backbone)
        metadata.check_data(f"encoder={self.path}", target.bands, target.value_scale)
        images = seen_beside(self.path)
        seen = compare_with_data(f"encoder={self.path}", images, target.held_out, target.training, False)
        label, sha256 = (self.label or self.path.stem) + marks(seen, False), sha256_of(self.path)
        return Provenance("pretrained", label, str(self.path), sha256, metadata.statistics, seen or None, seen=images)

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Load the file strictly into the encoder; it holds no decoder."""
        found = self.locate(target)
        warn_of_seen(f"encoder={self.path}", found.pretraining or {}, target.held_out)
        weights = read_weights(self.path)
        load_strictly(encoder, weights, f"encoder={self.path}", f"backbone {target.backbone}")
        return replace(found, loaded_tensors=len(weights))


def initialization_of(chosen: str, weights: str | None, label: str | None) -> Initialization:
    """Return what gives the encoder its weights.

    Args:
        chosen: "random", "imagenet", "file", the folder of a pretraining, or an encoder.safetensors; one that lies in
            the folder of its pretraining stands for that.
        weights: For "imagenet" and "file": a file.
        label: Row of the report.

    Raises:
        InputError: Weights are named that nothing reads.
    """
    if weights is not None and chosen not in ("imagenet", "file"):
        raise InputError(
            f"encoder_weights={weights} has no meaning with encoder={chosen}. Choose encoder=imagenet or encoder=file, "
            "or leave it out."
        )
    if weights is None and chosen == "file":
        raise InputError("encoder=file needs the file that somebody published: encoder_weights=published.pth")
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"encoder_weights={weights}: {no_file(Path(weights))}.")
    if chosen == "random":
        return Random(label=label)
    if chosen == "imagenet":
        return ImageNet(weights=weights, label=label)
    if chosen == "file":
        return File(weights=weights, label=label)
    run = _run_of(chosen)
    return EncoderFile(Path(chosen), label) if run is None else Pretrained(run=str(run.path), label=label)


def load_encoder(initialization: Initialization, encoder: nn.Module, target: Target) -> Provenance:
    """Give the encoder its weights.

    Args:
        initialization: What `initialization_of` returned.
        encoder: What is probed.
        target: What the weights must fit.

    Raises:
        InputError: They do not; of a file that somebody published a probe has no keys to say more.
    """
    try:
        return initialization.apply(encoder, target)
    except InputError as error:
        if not isinstance(initialization, File) or isinstance(error, LabelsSeenError):
            raise
        raise InputError(
            f"encoder_weights={initialization.weights} cannot be probed as it is: {error} evaluate itself has no keys "
            "of initialization: save the tensors of that encoder alone, for the bands of the data, and probe these."
        ) from error


def stored_run(chosen: str) -> Mapping[str, Any]:
    """Return the config of the pretraining that is probed, as plain data; empty where none is.

    Raises:
        InputError: There is nothing of that name, or its config is damaged.
    """
    if chosen in OF_NO_RUN:
        return {}
    run = _run_of(chosen)
    if run is None:
        return {}
    result = run.read_result()
    if result is None or result.get("command") != "pretrain":
        hint = "Finish it first." if result is None else f"It is a finished {result.get('command')}."
        raise InputError(f"encoder={chosen} holds no finished pretraining (result.json of pretrain). {hint}")
    return stored_config(run, ("dataset", "backbone"))


def stored_backbone(chosen: str, stored: Mapping[str, Any]) -> Backbone:
    """Return the backbone that the pretraining or the file names.

    Raises:
        InputError: Neither names one.
    """
    if stored:
        return Backbone(str(stored["backbone"].get("name")))
    if chosen in OF_NO_RUN:
        raise InputError(
            f"encoder={chosen} says nothing of its architecture. Choose backbone=..., e.g. backbone=resnet18."
        )
    return Backbone(read_weights_metadata(Path(chosen)).backbone)


def _run_of(chosen: str) -> RunDirectory | None:
    """Return the pretraining's folder; None for a file that lies elsewhere."""
    path = Path(chosen)
    if path.is_dir():
        return RunDirectory(path)
    if not path.is_file():
        raise InputError(
            f"encoder={chosen}: there is no such folder or file. Name a finished pretraining, an encoder.safetensors, "
            "random, imagenet or file."
        )
    beside = RunDirectory(path.parent)
    return beside if path == beside.encoder and beside.result.is_file() else None
