"""Weights of others: the file of an encoder that timm, torchvision or a paper published, for any bands."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ssl_rs.bands import color_bands
from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError, MissingWeightsError
from ssl_rs.files import no_file, sha256_of
from ssl_rs.imagenet import describe_filters, filters_for_bands, first_convolution
from ssl_rs.initialization import Keys, Provenance, Target
from ssl_rs.run_directory import read_metadata
from ssl_rs.seen_images import compare_with_data, marks, seen_beside, warn_of_seen
from ssl_rs.weights import check_fit, is_safetensors, load_strictly, read_tensors, with_counts
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

SMALLEST = 1e-6
"""Standard deviation of values in [0, 1]."""

DERIVED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")
"""Ends of the names of tensors that are no weights: some versions of a library write them, others do not."""


@dataclass(frozen=True)
class File(Keys):
    """Load an encoder from a file of weights, however the names of its tensors begin.

    The architecture must be that of the backbone, in the names of torchvision, smp or, for backbones `tu-...`, timm.
    What else the file holds, such as a classifier or projection heads, is left out. A safetensors file of ours
    tells its bands and how they were normalized: its channels go to the bands of those names, with its mean and
    deviation.

    Args:
        bands: Which channels of the file, counted from 1, are the bands of the data, in their order. Null: those that
            the file calls so; of a file that tells none all, in order, but of three channels, which are red, green and
            blue: more or fewer bands take them as those of ImageNet's (`ssl_rs.imagenet`).
        mean: What was subtracted from each band in its training, of values divided by dataset.value_scale; null: what
            the file tells, else the mean of the data.
        std: What each band was divided by, likewise.
        prefix: What the names of the encoder's tensors begin with, or go on with behind a point, where the file holds
            more than one encoder.
    """

    bands: Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    prefix: str | None = None

    uses = ("weights",)

    def check(self, dataset: str, backbone: str, pretrainings: Path, value_scale: float | None) -> None:
        """Refuse a file that is not there or cannot be read, and settings that make no sense."""
        if self.weights is None:
            raise InputError("initialization=file needs the file: initialization.weights=encoder.pth")
        if not Path(self.weights).is_file():
            raise MissingWeightsError(f"initialization.weights={self.weights}: {no_file(Path(self.weights))}.")
        read_tensors(Path(self.weights))
        if (self.mean is None) != (self.std is None):
            raise InputError("initialization.mean and initialization.std belong together: set both, or none of them.")
        for key, values, low in (("mean", self.mean, 0.0), ("std", self.std, SMALLEST)):
            if values is not None and not all(low <= value <= 1 for value in values):
                raise InputError(
                    f"initialization.{key}={list(values)}: expected numbers in [{low:g}, 1], one a band, of values "
                    "that were divided by dataset.value_scale; divide those of 8 bits by 255."
                )
        if self.bands is not None and (min(self.bands, default=0) < 1 or len(set(self.bands)) < len(self.bands)):
            raise InputError(
                f"initialization.bands={list(self.bands)}: expected channels of the file, counted from 1, each once."
            )

    def locate(self, target: Target) -> Provenance:
        """Find the file and say how images are normalized.

        Raises:
            InputError: As `check`; or a number of bands that is not that of the data; or a training of ours wrote it
                that had labels of images that are held out here.
        """
        self.check(target.dataset, target.backbone, target.pretrainings, target.value_scale)
        for key in ("bands", "mean", "std"):
            given = getattr(self, key)
            if given is not None and len(given) != len(target.bands):
                raise InputError(
                    f"initialization.{key} has {len(given)} entries, the data has {len(target.bands)} bands: "
                    f"{target.bands!s:.300}. Name one for each."
                )
        path, told = Path(str(self.weights)), self._metadata()
        statistics = target.statistics
        if self.mean is not None and self.std is not None:
            statistics = Statistics(tuple(self.mean), tuple(self.std), "initialization.mean and .std")
        elif told is not None and (channels := self._channels(told, target.bands)) is not None:
            told.check_scale(f"initialization.weights={path}", target.value_scale)
            mean, std = (
                tuple(values[channel - 1] for channel in channels)
                for values in (told.statistics.mean, told.statistics.std)
            )
            statistics = Statistics(mean, std, told.statistics.source)
        source = path.name + (f", {self.prefix}" if self.prefix else "")
        images = seen_beside(path)
        seen = compare_with_data(f"initialization.weights={path}", images, target.held_out, target.training, False)
        label = (self.label or path.stem) + marks(seen, False)
        return Provenance("file", label, source, sha256_of(path), statistics, seen or None, seen=images)

    def apply(self, encoder: nn.Module, target: Target, decoder: nn.Module | None = None) -> Provenance:
        """Load the encoder's tensors strictly: every name and shape must be there, and none of another architecture."""
        found = self.locate(target)
        own, where = encoder.state_dict(), f"initialization.weights={self.weights}"
        warn_of_seen(where, found.pretraining or {}, target.held_out)
        weights = with_counts(encoder_tensors(read_tensors(Path(str(self.weights))), own, self.prefix, where), own)
        first, told = first_convolution(own), None
        backbone = f"backbone {target.backbone}"
        # All but the channels that the first convolution reads: only of a file that fits they are worth a message.
        check_fit({**own, **{first: weights.get(first, own[first])}}, weights, where, backbone)
        reads_bands = own[first].shape[1] == len(target.bands)  # else it is a position embedding, or comes later
        if reads_bands and weights[first].ndim == 4 and weights[first].shape[::2] == own[first].shape[::2]:
            metadata = self._metadata()
            channels = self.bands if metadata is None else self._channels(metadata, target.bands)
            weights[first], told = _filters(weights[first], channels, target.bands, f"{where}: {first}")
        load_strictly(encoder, weights, where, backbone)
        return replace(found, loaded_tensors=len(weights), first_convolution=told)

    def _metadata(self) -> WeightsMetadata | None:
        """Return what the file says of its bands; None of a file that somebody else wrote."""
        path = Path(str(self.weights))
        if not is_safetensors(path) or not read_metadata(path).keys() >= {"bands", "mean", "std", "value_scale"}:
            return None
        return read_weights_metadata(path)

    def _channels(self, told: WeightsMetadata, bands: Sequence[str]) -> Sequence[int] | None:
        """Return which channels of a file that tells its bands are those of the data, counted from 1.

        Returns:
            None where a file of red, green and blue goes to other bands, too, as ImageNet's weights do.

        Raises:
            InputError: The file has no such bands.
        """
        if self.bands is not None:
            if max(self.bands) > len(told.bands):
                raise InputError(
                    f"initialization.bands={list(self.bands)}: {self.weights} has {len(told.bands)} channels."
                )
            return self.bands
        if set(bands) <= set(told.bands):
            return [told.bands.index(band) + 1 for band in bands]
        if color_bands(told.bands) == (0, 1, 2) and len(told.bands) == 3 != len(bands):
            return None
        own, other = (", ".join(each)[:300] for each in (told.bands, bands))
        raise InputError(
            f"initialization.weights={self.weights} was trained on the bands {own}, the data has {other}. Say which of "
            "its channels are these, counted from 1, in the order of the bands: initialization.bands=[...]"
        )


def _filters(
    filters: Tensor, taken: Sequence[int] | None, bands: Sequence[str], where: str
) -> tuple[Tensor, str | None]:
    """Return the filters [O, C, h, w] of the data's bands, and what was done to the file's.

    Args:
        filters: Of the file.
        taken: Which channels of it are the bands, counted from 1; None: that is not said.
        bands: Of the data.
        where: Key, file and tensor, for messages.
    """
    channels = filters.shape[1]
    if taken is not None:
        if max(taken) > channels:
            raise InputError(f"initialization.bands={list(taken)}: {where} has {channels} channels.")
        if list(taken) == list(range(1, channels + 1)):
            return filters, None
        told = ", ".join(f"{band} takes {channel}" for band, channel in zip(bands, taken, strict=True))
        return filters[:, [channel - 1 for channel in taken]], f"of the file's {channels} channels, {told}"
    if channels == len(bands) and (channels != 3 or color_bands(bands) == (0, 1, 2)):
        return filters, None
    if channels != 3 or len(bands) == 3:
        raise InputError(
            f"{where} reads {channels} channels, the data has {len(bands)} bands: {bands!s:.300}. Say which are "
            "these, counted from 1, in the order of the bands: initialization.bands=[...]"
        )
    return filters_for_bands(filters, bands, where), describe_filters(bands)


def encoder_tensors(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str | None, where: str
) -> dict[str, Tensor]:
    """Return an encoder's tensors by its own names, out of a file in which they have others before them.

    Names are the same but for what they begin with, such as "module.encoder_q.", and for the points in them: timm
    calls `stages.0` of a model `stages_0` where it gives a pyramid, as encoders do.

    Args:
        weights: All of the file, by name.
        own: The encoder's, by name.
        prefix: What names must hold, from their beginning or a point on; None: anything.
        where: Key and file, for messages.

    Returns:
        Those that were found; all of them, or as many as the best beginning has.

    Raises:
        InputError: No encoder is there, more than one, or a larger one.
    """
    wanted = {name: _plain(_bare(name)) for name in own}
    anchor = wanted[first_convolution(own)]
    there = {_plain(name): name for name in weights if f".{prefix or ''}" in f".{name}"}
    found: dict[int, list[str]] = defaultdict(list)
    for name in there:
        if name == anchor or name.endswith(f"_{anchor}"):
            beginning = name.removesuffix(anchor)
            found[sum(beginning + each in there for each in wanted.values())].append(beginning)
    if not found:
        begun = f" below {prefix}" if prefix else ""
        of_timm = any(name.endswith("conv_stem.weight") for name in there.values())
        hint = " These are timm's names, which encoders of backbone.name=tu-... have." if of_timm else ""
        raise InputError(
            f"{where} has no tensor{begun} whose name ends with {_bare(first_convolution(own))}, the encoder's first "
            f"convolution; it has {', '.join(list(weights)[:3])}, ...{hint} Choose the backbone that the file is of, "
            "or another initialization.prefix."
        )
    best = found[max(found)]
    if len(best) > 1 and max(found) > len(own) / 2:
        named = sorted(there[beginning + anchor] for beginning in best)
        raise InputError(
            f"{where} holds {len(best)} encoders, whose first convolutions are {', '.join(named)}. Say how the names "
            "of the one that is meant begin: initialization.prefix=..."
        )
    _refuse_more({name.removeprefix(best[0]) for name in there if name.startswith(best[0])}, wanted, where)
    return {name: weights[there[best[0] + each]] for name, each in wanted.items() if best[0] + each in there}


def _refuse_more(there: Set[str], wanted: Mapping[str, str], where: str) -> None:
    """Refuse tensors inside of the encoder's own stages that it does not have: a deeper network begins with it.

    Raises:
        InputError: There are some.
    """
    stages = {_plain(_bare(name).partition(".")[0]) + "_" for name in wanted}
    more = sorted(
        name for name in there - set(wanted.values()) if name.startswith(tuple(stages)) and not name.endswith(DERIVED)
    )
    if more:
        raise InputError(
            f"{where} is of another architecture: it has {len(more)} tensors more within the encoder's stages (e.g. "
            f"{more[0]}). Choose the backbone that the file is of."
        )


def _bare(name: str) -> str:
    """Return the name of an encoder's tensor without what smp puts before a model of timm, once or twice."""
    while name.startswith("model."):
        name = name.removeprefix("model.")
    return name


def _plain(name: str) -> str:
    return name.replace(".", "_")
