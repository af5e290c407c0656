"""ImageNet's weights: where torchvision's lie, and how they, which read red, green and blue, serve any bands.

Bands that stand for red, green, blue (`color_bands`) take the filters of their color, every other band the mean of the
three, and all are multiplied by 3 / C. So a gray image, of equal normalized values in all bands, gives the response
that it gave before; of red, green, blue in this order nothing changes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_rs.bands import RGB, color_bands
from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError, MissingWeightsError
from ssl_rs.files import no_file
from ssl_rs.seen_images import refuse_seen_beside


def first_convolution(state: Mapping[str, Tensor]) -> str:
    """Return the name of an encoder's first convolution: of its state's tensors, the first of four dimensions."""
    return next(name for name, value in state.items() if value.ndim == 4)


def filters_for_bands(filters: Tensor, bands: Sequence[str], where: str) -> Tensor:
    """Return the filters [O, C, h, w] of a first convolution that reads these bands.

    Args:
        filters: [O, 3, h, w], of red, green and blue.
        bands: Names of the C bands.
        where: Key, file and tensor, for the message.

    Raises:
        InputError: The filters are not of three bands.
    """
    if filters.ndim != 4 or filters.shape[1] != 3:
        raise InputError(
            f"{where} is {tuple(filters.shape)}, expected filters of red, green and blue, [O, 3, h, w]. "
            "Name a file of torchvision's layout that was trained on ImageNet."
        )
    adapted = filters.mean(dim=1, keepdim=True).repeat(1, len(bands), 1, 1)
    rgb = color_bands(bands)
    if rgb is not None:
        adapted[:, list(rgb)] = filters
    return adapted * (3 / len(bands))


def describe_filters(bands: Sequence[str]) -> str | None:
    """Say which filters each band takes; None where each takes its own, unchanged."""
    rgb, count = color_bands(bands), len(bands)
    if tuple(bands) == RGB:
        return None
    named = [f"{', '.join(bands[band] for band in rgb)} take those of red, green, blue"] if rgb else []
    others = [name for band, name in enumerate(bands) if band not in (rgb or ())]
    mean = [f"{', '.join(others)}: the mean of red, green and blue"] if others else []
    return "; ".join([*named, *mean]) + (f"; all multiplied by 3/{count}" if count != 3 else "")


def statistics_for_bands(
    imagenet: Statistics, own: Statistics, bands: Sequence[str], dtype: str, value_scale: float
) -> Statistics:
    """Return what images are normalized with: the filters expect zero mean and unit variance of each band.

    Of uint8 data that is divided by 255, red, green and blue take ImageNet's mean and standard deviation. Other bands,
    and other data, whose values ImageNet's say nothing about, take the data's own.

    Args:
        imagenet: Of red, green and blue.
        own: Of the data's C bands.
        bands: Names of the C bands.
        dtype: Type of the stored values.
        value_scale: The stored value that becomes 1.
    """
    rgb = color_bands(bands) if dtype == "uint8" and value_scale == 255 else None
    if rgb is None:
        return own
    mean, std = list(own.mean), list(own.std)
    for color, band in enumerate(rgb):
        mean[band], std[band] = imagenet.mean[color], imagenet.std[color]
    others = [name for band, name in enumerate(bands) if band not in rgb]
    source = f"{imagenet.source}, {', '.join(others)}: {own.source}" if others else imagenet.source
    return Statistics(tuple(mean), tuple(std), source)


def torchvision_weights(backbone: str) -> Any:
    """Return torchvision's record of the ImageNet weights of an architecture.

    Raises:
        InputError: It has none.
    """
    from torchvision import models

    try:
        return models.get_model_weights(backbone).IMAGENET1K_V1  # type: ignore[attr-defined]
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"initialization=imagenet: torchvision has no ImageNet weights for backbone.name={backbone}. "
            "Use one of torchvision's architectures, e.g. backbone=resnet50."
        ) from error


def weights_file(weights: str | None, backbone: str) -> Path:
    """Return the file of an architecture's weights: the user's, or torchvision's, downloaded where it is not there.

    Raises:
        InputError: torchvision does not know the architecture, or the file is not there or of another training.
    """
    recorded = torchvision_weights(backbone)
    if not weights:
        return download(recorded, backbone)
    path = Path(weights)
    if not path.is_file():
        raise MissingWeightsError(f"initialization.weights={weights}: {no_file(path)}.")
    refuse_seen_beside(path)
    return path


def check_published(recorded: Any, path: Path, sha256: str) -> None:
    """Refuse a file that has the name of torchvision's, which ends with how its sha256 begins, and other content.

    Raises:
        InputError: It is damaged, or was changed.
    """
    published = Path(recorded.url)
    if path.name == published.name and not sha256.startswith(published.stem.rpartition("-")[2]):
        raise InputError(
            f"{path} is not the file that torchvision publishes under this name: its sha256 begins with {sha256[:8]}. "
            "Get it again, or rename it if it was changed on purpose."
        )


def download(recorded: Any, backbone: str) -> Path:
    """Return torchvision's file from its cache, downloading it first where there is a network.

    Raises:
        MissingWeightsError: It is neither in the cache nor can it be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(recorded.url).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                recorded.url, str(path), hash_prefix=path.stem.split("-")[-1], progress=False
            )
        except (OSError, RuntimeError) as error:
            raise MissingWeightsError(
                f"initialization=imagenet: the weights of {backbone} are neither in {path.parent} nor can they be "
                f"downloaded ({error}). Get {path.name} from torchvision on a connected machine and name it: "
                f"initialization.weights=PATH/{path.name}"
            ) from error
    return path
