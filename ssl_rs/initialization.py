"""How the weights of an encoder start: random, ImageNet's, or those of a finished pretraining.

A file that somebody published is another way (`ssl_rs.weights_file`), and so is a finished fine-tuning
(`ssl_rs.finetuned`). All name the statistics that images must be
normalized with: weights bring their own, random ones the data's.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from torch import nn

from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.imagenet import (
    check_published,
    describe_filters,
    filters_for_bands,
    first_convolution,
    statistics_for_bands,
    torchvision_weights,
    weights_file,
)
from ssl_rs.pretrained import Pretraining, check_decoder, find_pretraining, read_pretraining
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import SeenImages, compare_with_data, marks, read_seen, warn_of_other_images, warn_of_seen
from ssl_rs.weights import load_decoder, load_strictly, read_weights, with_counts

CHOICES = {"run": "pretrained or finetuned", "weights": "imagenet or file", "parts": "pretrained or finetuned"}
"""Keys that mean something for some initializations only, and for which; null where they mean nothing."""


@dataclass(frozen=True)
class Target:
    """What is to be initialized.

    Args:
        dataset: Name of the data set.
        backbone: Name of the encoder.
        bands: Names of the bands, in the order of the channels.
        dtype: Type of the stored values.
        statistics: The data's own, of the training scenes.
        value_scale: The stored value that becomes 1.
        pretrainings: Folder under which the pretrainings of this data set and backbone lie.
        decoder: Name of the decoder, None where there is none to be initialized.
        held_out: sha256 of the stored images of validation and test scenes.
        training: Likewise of training scenes.
    """

    dataset: str
    backbone: str
    bands: tuple[str, ...]
    dtype: str
    statistics: Statistics
    value_scale: float
    pretrainings: Path
    decoder: str | None = None
    held_out: frozenset[str] = frozenset()
    training: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Provenance:
    """Where the weights of an encoder come from.

    Args:
        kind: "random", "imagenet", "file", "pretrained" or "finetuned".
        label: The row of the report.
        source: File or run the weights were read from, None for random.
        sha256: Of the file of weights.
        statistics: What images are normalized with.
        pretraining: For pretrained: its tasks, steps, images seen, seed, which splits it saw, and what it started from;
            for finetuned: its data set, labels, steps and seed, and what it started from; for a file: what it has seen
            of the data, where it tells.
        loaded_tensors: How many tensors were loaded, each with its own name and shape.
        first_convolution: How the first convolution was made to read these bands; None: it did so in the file.
        decoder_sha256: Of the file of the decoder's weights, None where they were not taken over.
        seen: Images that the weights have seen, as far as they tell.
    """

    kind: str
    label: str
    source: str | None
    sha256: str | None
    statistics: Statistics
    pretraining: Mapping[str, Any] | None = None
    loaded_tensors: int = 0
    first_convolution: str | None = None
    decoder_sha256: str | None = None
    seen: SeenImages = field(default_factory=SeenImages)

    def as_json(self) -> dict[str, Any]:
        """Return plain data for result.json; images_seen.json has what was seen."""
        return {key: value for key, value in asdict(self).items() if key != "seen"}

    def describe(self) -> str:
        """Say in one line what was loaded and how images are normalized."""
        loaded = (
            f"{self.loaded_tensors} tensors from {self.source} (sha256 {self.sha256[:12]})"
            if self.sha256
            else "no file"
        )
        loaded += f" and the decoder (sha256 {self.decoder_sha256[:12]})" if self.decoder_sha256 else ""
        read = f"; filters of the first convolution: {self.first_convolution}" if self.first_convolution else ""
        return (
            f"Encoder: {self.label}: {loaded}{read}; "
            f"images are normalized with the statistics of {self.statistics.source}"
        )


class Initialization(Protocol):
    """Gives an encoder its first weights."""

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse what is wrong whatever the data holds, before it is prepared.

        Args:
            dataset: As in `Target`.
            backbone: As in `Target`.
            pretrainings: As in `Target`.
            value_scale: As in `Target`; None where only the data tells it.
        """
        ...

    def locate(self, target: Target) -> Provenance:
        """Find the weights and say what they are, without loading them."""
        ...

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Load the weights strictly into the encoder, and into the decoder where `parts` says so."""
        ...


@dataclass(frozen=True)
class Keys:
    """The keys that every option of `initialization` has, so that a sweep can vary them; null where they mean nothing.

    Args:
        run: Pretrained: folder of the pretraining, or a folder or pattern below which one lies, such as `simclr` or
            `simclr/seed0-*` among the pretrainings of this data set and backbone; null: the only one there. Finetuned:
            folder of the fine-tuning.
        weights: ImageNet: a .pth or .safetensors file of torchvision's layout; null: torchvision's own, from cache or
            network. File: any encoder's.
        parts: Pretrained and finetuned: what is initialized, null: the encoder; a pretraining has a decoder if
            inpainting used the one of fine-tuning.
        label: Row of the report; null: "random", "imagenet", what a pretraining started from and its tasks, or the
            labels of a fine-tuning.
    """

    run: str | None = None
    weights: str | None = None
    parts: Literal["encoder", "encoder_and_decoder"] | None = None
    label: str | None = None

    uses: ClassVar[tuple[str, ...]] = ()
    """Which of `run`, `weights` and `parts` mean something."""

    def __post_init__(self) -> None:
        for key in CHOICES:
            value = getattr(self, key)
            if value is not None and key not in self.uses:
                raise InputError(
                    f"initialization.{key}={value} has no meaning with initialization={type(self).__name__.lower()}. "
                    f"Choose initialization={CHOICES[key]}, or leave it out."
                )

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse nothing more: the keys were checked when they were read."""


@dataclass(frozen=True)
class Random(Keys):
    """Leave the weights as the encoder was built, from the seed of the run."""

    def locate(self, target: Target) -> Provenance:
        """Name the data's statistics: nothing else belongs to random weights."""
        return Provenance("random", self.label or "random", None, None, target.statistics)

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Leave the encoder as it is."""
        return self.locate(target)


@dataclass(frozen=True)
class ImageNet(Keys):
    """Load ImageNet weights, torchvision's or those of a file; `ssl_rs.imagenet` says how they read other bands."""

    uses = ("weights",)

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse an architecture that torchvision does not know, missing weights, and a named file that is damaged."""
        path = weights_file(self.weights, backbone)
        if self.weights is not None:
            read_weights(path)

    def locate(self, target: Target) -> Provenance:
        """Find the file; torchvision's record of the architecture tells the statistics.

        Raises:
            InputError: No such file, or torchvision does not know the architecture.
        """
        recorded = torchvision_weights(target.backbone)
        path = weights_file(self.weights, target.backbone)
        transforms = recorded.transforms()
        imagenet = Statistics(tuple(transforms.mean), tuple(transforms.std), f"ImageNet ({recorded})")
        statistics = statistics_for_bands(imagenet, target.statistics, target.bands, target.dtype, target.value_scale)
        filters = describe_filters(target.bands)
        label, sha256 = self.label or "imagenet", sha256_of(path)
        check_published(recorded, path, sha256)
        return Provenance("imagenet", label, path.name, sha256, statistics, first_convolution=filters)

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Load the file strictly; only the classifier, which no encoder has, is left out."""
        found = self.locate(target)
        path = weights_file(self.weights, target.backbone)
        weights = read_weights(path)
        kept = {
            name: value for name, value in weights.items() if name.split(".")[0] not in ("fc", "classifier", "head")
        }
        kept = with_counts(kept, encoder.state_dict())
        first = first_convolution(encoder.state_dict())
        if first in kept:  # else the file is of another backbone, which loading it says
            kept[first] = filters_for_bands(kept[first], target.bands, f"initialization.weights={path}: {first}")
        load_strictly(encoder, kept, f"initialization.weights={path}", f"backbone {target.backbone}")
        return replace(found, loaded_tensors=len(kept))


@dataclass(frozen=True)
class Pretrained(Keys):
    """Load the encoder of a finished pretraining."""

    uses = ("run", "parts")

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse a run that is not there, or of another backbone or value scale."""
        found = self._find(dataset, backbone, pretrainings)
        found.metadata.check_scale(f"initialization.run={found.run.path}", value_scale)

    def _find(self, dataset: str, backbone: str, pretrainings: Path) -> Pretraining:
        found = read_pretraining(find_pretraining(self.run, pretrainings, f"{backbone} on {dataset}"))
        found.metadata.check_backbone(f"initialization.run={found.run.path}", backbone)
        return found

    def locate(self, target: Target) -> Provenance:
        """Find the run and check that its encoder fits.

        Raises:
            InputError: No finished run, several, a damaged file or metadata, another backbone or other bands.
        """
        found = self._find(target.dataset, target.backbone, target.pretrainings)
        run, metadata = found.run, found.metadata
        as_file = f"initialization=file initialization.weights={run.encoder}"
        of_some = f" Or take the channels of the data's bands from its encoder: {as_file}."
        metadata.check_data(f"initialization.run={run.path}", target.bands, target.value_scale, of_some)
        decoder = check_decoder(found, target.decoder) if self.parts == "encoder_and_decoder" else None
        label = self.label or f"{found.label}{' with decoder' if decoder else ''}"
        before = read_seen(run)
        if self.run is None and before.images and target.training.isdisjoint(before.images):
            raise InputError(
                f"initialization=pretrained: the only finished pretraining on a data set of the name {target.dataset}, "
                f"{run.path}, saw none of the {len(target.training)} training images. Pretrain on these data; or name "
                f"it, initialization.run={run.path}, if it is meant. (dataset.name tells data sets apart.)"
            )
        seen = compare_with_data(
            f"initialization.run={run.path}", before, target.held_out, target.training, found.transductive
        )
        label, carried = label + marks(seen, found.transductive), found.carried | seen
        return Provenance(
            "pretrained", label, str(run.path), found.sha256, metadata.statistics, carried, decoder_sha256=decoder,
            seen=before,
        )  # fmt: skip

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Load the bare encoder strictly, and the decoder likewise: no key is renamed or left out."""
        found = self.locate(target)
        where, run = f"initialization.run={found.source}", RunDirectory(Path(str(found.source)))
        warn_of_seen(where, found.pretraining or {}, target.held_out)
        if (found.pretraining or {}).get("dataset") == target.dataset:
            warn_of_other_images(where, target.dataset, found.seen, target.training)
        weights = read_weights(run.encoder)
        load_strictly(encoder, weights, where, f"backbone {target.backbone}")
        loaded = len(weights)
        if found.decoder_sha256 is not None:
            assert decoder is not None, "whoever names a decoder gives it"
            weights = read_weights(run.decoder)
            load_decoder(decoder, weights, where, target.decoder)
            loaded += len(weights)
        return replace(found, loaded_tensors=loaded)
