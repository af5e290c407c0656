"""What a file of weights says of itself: the backbone, the bands it was trained on, and how images are normalized."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError
from ssl_rs.plain_types import describe, fits
from ssl_rs.run_directory import read_metadata

LONGEST_TEXT = 200
"""Characters of a name in the metadata: messages repeat it."""


@dataclass(frozen=True)
class WeightsMetadata:
    """The checked metadata of an encoder.safetensors or model.safetensors.

    Args:
        backbone: Name of the encoder.
        bands: Names of the bands, in the order of the channels; at least one.
        value_scale: The stored value that becomes 1; positive and finite.
        statistics: One finite value a band; no std is negative.
        classes: Names of the classes; empty where an encoder alone is stored.
        dtype: Type of the values it was trained on; None where an encoder alone is stored, or by earlier versions.
        pixel_size: Usual side on the ground of the pixels it was trained on, m; None where an encoder alone is stored,
            where nobody knows, or by earlier versions.
        data_mean: Mean over the bands of the values it was trained on, in [0, 1], which `statistics` need not be of;
            None where an encoder alone is stored, where all is black, or by earlier versions.
    """

    backbone: str
    bands: tuple[str, ...]
    value_scale: float
    statistics: Statistics
    classes: tuple[str, ...] = ()
    dtype: str | None = None
    pixel_size: float | None = None
    data_mean: float | None = None

    def texts(self) -> dict[str, str]:
        """Return what a file of weights stores: texts, of which `read_weights_metadata` makes this again."""
        found = {
            "backbone": self.backbone,
            "bands": json.dumps(self.bands),
            "mean": json.dumps(self.statistics.mean),
            "std": json.dumps(self.statistics.std),
            "statistics_source": self.statistics.source,
            "value_scale": json.dumps(self.value_scale),
        }
        found |= {"classes": json.dumps(self.classes)} if self.classes else {}
        found |= {} if self.dtype is None else {"dtype": self.dtype}
        found |= {} if self.pixel_size is None else {"pixel_size_m": json.dumps(self.pixel_size)}
        return found | ({} if self.data_mean is None else {"data_mean": json.dumps(self.data_mean)})

    def check_backbone(self, where: str, backbone: str) -> None:
        """Refuse another encoder than the run has.

        Args:
            where: Key and run that the weights are of, for the message.
            backbone: Of the run.

        Raises:
            InputError: It is another.
        """
        if self.backbone != backbone:
            raise InputError(
                f"{where} is an encoder {self.backbone}, this run has backbone.name={backbone}. "
                f"Choose backbone={self.backbone}, or other weights."
            )

    def check_data(self, where: str, bands: Sequence[str], value_scale: float, of_some: str = "") -> None:
        """Refuse data of other bands, or whose values are divided by something else.

        Args:
            where: Key and run that the weights are of, for the message.
            bands: Of the data.
            value_scale: Of the data.
            of_some: What else to do where all bands of the data are among those of the weights.

        Raises:
            InputError: It is such data.
        """
        if self.bands != tuple(bands):
            own, other = (", ".join(each)[:300] for each in (self.bands, bands))
            raise InputError(
                f"{where} was trained on the bands {own}, the data has {other}. Choose weights of these bands, or "
                "data of those; of a folder dataset.channels chooses bands, and dataset.bands names them."
                + of_some
                * (set(bands) <= set(self.bands))
            )
        self.check_scale(where, value_scale)

    def check_scale(self, where: str, value_scale: float | None) -> None:
        """Refuse data whose values are divided by something else; None: that is not known yet.

        Raises:
            InputError: Names both.
        """
        if value_scale is not None and self.value_scale != value_scale:
            raise InputError(
                f"{where} was trained on values divided by {self.value_scale:g}, this data is divided by "
                f"{value_scale:g}. Set dataset.value_scale={self.value_scale:g} if it has such values, else convert it."
            )


def read_weights_metadata(path: Path) -> WeightsMetadata:
    """Read and check what a file of weights says of itself.

    Raises:
        InputError: The file is damaged, or a value is missing, of another type, or not one for each band; names file
            and key.
    """
    texts = read_metadata(path)
    bands = tuple(_value(path, texts, "bands", tuple[str, ...]))
    if not bands:
        raise _refused(path, "bands", texts["bands"], "one name or more")
    return WeightsMetadata(
        backbone=_short(path, "backbone", _text(path, texts, "backbone")),
        bands=tuple(_short(path, "bands", band) for band in bands),
        value_scale=_positive(path, texts, "value_scale"),
        statistics=Statistics(
            _one_a_band(path, texts, "mean", len(bands), -math.inf),
            _one_a_band(path, texts, "std", len(bands), 0.0),
            _short(path, "statistics_source", texts.get("statistics_source", str(path)), 10 * LONGEST_TEXT),
        ),
        classes=tuple(_value(path, texts, "classes", tuple[str, ...])) if "classes" in texts else (),
        dtype=_short(path, "dtype", texts["dtype"]) if "dtype" in texts else None,
        pixel_size=_positive(path, texts, "pixel_size_m") if "pixel_size_m" in texts else None,
        data_mean=_positive(path, texts, "data_mean") if "data_mean" in texts else None,
    )


def _text(path: Path, texts: Mapping[str, str], key: str) -> str:
    if key not in texts:
        raise InputError(
            f"{path} does not tell its {key}: it was not written by ssl_rs.pretrain or ssl_rs.finetune. "
            "Choose weights that one of them wrote."
        )
    return texts[key]


def _short(path: Path, key: str, text: str, longest: int = LONGEST_TEXT) -> str:
    if len(text) > longest:
        raise _refused(path, key, text, f"a text of at most {longest} characters")
    return text


def _value(path: Path, texts: Mapping[str, str], key: str, hint: Any) -> Any:
    """Return the JSON value of a key, which fits a type annotation."""
    text = _text(path, texts, key)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(path, key, text, describe(hint)) from None
    if not fits(value, hint):
        raise _refused(path, key, text, describe(hint))
    return value


def _positive(path: Path, texts: Mapping[str, str], key: str) -> float:
    value = float(_value(path, texts, key, float))
    if not 0 < value < math.inf:
        raise _refused(path, key, texts[key], "a positive number")
    return value


def _one_a_band(path: Path, texts: Mapping[str, str], key: str, bands: int, least: float) -> tuple[float, ...]:
    values = tuple(map(float, _value(path, texts, key, tuple[float, ...])))
    if len(values) != bands or not all(math.isfinite(value) and value >= least for value in values):
        positive = "" if least < 0 else ", none of them negative"
        raise _refused(path, key, texts[key], f"{bands} finite numbers, one for each band{positive}")
    return values


def _refused(path: Path, key: str, text: str, expected: str) -> InputError:
    return InputError(
        f"{path}: its metadata has {key}={text!r:.80}, expected {expected}. The file is damaged or was written by "
        "something else: choose weights that ssl_rs.pretrain or ssl_rs.finetune wrote."
    )
