"""Files of weights: read without running code in them, loaded only where every name and shape fits."""

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_rs.errors import InputError

COUNT = ".num_batches_tracked"

ARCHIVE = b"PK\x03\x04"
"""How a zip archive begins, which is what torch writes."""

DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""How torchvision's published files of DenseNets name what its own class and smp's call denselayer1.norm1."""

DEEPEST = 16
"""Tables within each other in which weights are looked for."""

ADVICE = re.compile("This file can still be loaded|Re-running `torch.load`|In PyTorch 2.6")
"""Where torch's message about a file that it refuses begins to tell how to run code in it all the same."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors from a .safetensors file, or from a .pth file without running any code in it.

    Raises:
        InputError: The file is damaged or holds something else than tensors.
    """
    weights = _read(path)
    named = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )
    if not named:
        nested = isinstance(weights, dict) and any(isinstance(value, dict) for value in weights.values())
        remedy = " It holds tables in one another, which initialization=file reads, and encoder=file of evaluate."
        raise InputError(f"{path} holds no table of named tensors." + remedy * nested)
    return {_current(name): value for name, value in weights.items()}


def _current(name: str) -> str:
    """Return what a tensor of an older file is called today."""
    return DENSE_LAYER.sub(r"\1\2", name)


def is_safetensors(path: Path) -> bool:
    """Tell whether a file is one of safetensors: by how it begins, or by its name where that says nothing."""
    begin = _beginning(path)
    if begin.startswith(ARCHIVE):
        return False
    header = int.from_bytes(begin[:8], "little")  # bytes of the JSON that follows
    return (begin[8:] == b"{" and header < path.stat().st_size) or path.suffix == ".safetensors"


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(9)


def _read(path: Path) -> Any:
    try:
        if is_safetensors(path):
            return load_file(path)
        damaged = _damaged_member(path)
        with open(path, "rb") as file, warnings.catch_warnings():  # of a path, torch goes by its ending
            warnings.simplefilter("ignore")  # of kinds of files that are refused, and of old ones that are read
            content = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle or zip raises whatever its bytes lead to
        first = ADVICE.split((str(error) or repr(error)).splitlines()[0])[0]
        said = f"{type(error).__name__} {first}".strip(" .")
        raise InputError(
            f"{path} cannot be read as weights ({said}). It is damaged, or it holds more than tensors and plain data: "
            "reading that would run code. Save its table of tensors alone, if you trust it: "
            "docs/own-data.md shows how."
        ) from error
    if damaged:
        raise InputError(f"{path} is damaged: the checksum of {damaged} in it is wrong. Get it again.")
    return content


def _damaged_member(path: Path) -> str | None:
    """Return the first member of torch's archive that has not the checksum that stands in it: torch does not look."""
    if not _beginning(path).startswith(ARCHIVE):
        return None  # of before 2020
    with zipfile.ZipFile(path) as archive:
        has_checksums = any(member.CRC for member in archive.infolist())  # torch.serialization.set_crc32_options
        return archive.testzip() if has_checksums else None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, also of a checkpoint that holds tables of them within others, by dotted names.

    Raises:
        InputError: The file is damaged, holds no tensor, or more than plain data, which may be code.
    """
    content = _read(path)
    try:
        tensors = {_current(name): value for name, value in _tensors(content, DEEPEST)}
    except RecursionError:
        raise InputError(f"{path} holds tables within tables, {DEEPEST} deep and more: no weights lie there.") from None
    if not tensors:
        raise InputError(f"{path} holds no named tensors.")
    return tensors


def _tensors(node: Any, depth: int, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of tables within tables.

    Raises:
        RecursionError: They lie deeper than that, or a table within itself.
    """
    if depth < 0:
        raise RecursionError
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, depth - 1, f"{prefix}{name}.")


def with_counts(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with a zero for each count of batches that the file lacks though it has the variance beside it.

    Files of before 2018, such as torchvision's vgg16_bn, do not count batches; nothing reads the count.

    Args:
        weights: Of the file.
        own: Of the module.
    """
    counts = {name: torch.zeros_like(value) for name, value in own.items() if name.endswith(COUNT)}
    lacking = {name: zero for name, zero in counts.items() if name.removesuffix(COUNT) + ".running_var" in weights}
    return {**lacking, **weights}


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], where: str, what: str) -> None:
    """Load weights of which every name and shape must be the module's own.

    smp's encoders pop keys from the dict they are given and report nothing, so names and shapes are compared here.

    Args:
        module: What they are for.
        weights: Tensors by name.
        where: Key or file they come from, for the message.
        what: The module in words, e.g. "backbone resnet18".

    Raises:
        InputError: A tensor that is missing, unexpected or of another shape, or holds NaN or an infinite value.
    """
    check_fit(module.state_dict(), weights, where, what)
    if odd := next((name for name, value in weights.items() if not value.isfinite().all()), None):
        raise InputError(
            f"{where}: {odd} holds values that are not finite. The file is damaged, or its training diverged: choose "
            "other weights."
        )
    nn.Module.load_state_dict(module, dict(weights), strict=True)


def load_decoder(decoder: nn.Module, weights: Mapping[str, Tensor], where: str, name: str | None) -> None:
    """Load the weights of a run's decoder; otherwise as `load_strictly`.

    Args:
        decoder: What they are for.
        weights: Tensors by name.
        where: Key and run that they are of, for the message.
        name: Of the decoder.

    Raises:
        InputError: It was made with other settings.
    """
    try:
        load_strictly(decoder, weights, f"{where}: its decoder", f"decoder {name}")
    except InputError as error:
        raise InputError(
            f"{error} The config.yaml of that run says how its decoder is made: give this one the same settings, e.g. "
            "decoder.decoder_channels=[...]."
        ) from error


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str, what: str) -> None:
    """Refuse weights that are not of the same names and shapes; as `load_strictly`.

    Args:
        own: Tensors of the names and shapes that are expected.
        weights: As in `load_strictly`; likewise the others.
        where: For the message.
        what: For the message.

    Raises:
        InputError: Says how many are missing, unexpected, or of another shape.
    """
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        told = "; ".join(f"{len(names)} {problem} (e.g. {names[0]})" for problem, names in problems.items() if names)
        raise InputError(f"{where} does not fit {what}: {told}.")
