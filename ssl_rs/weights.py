"""Files of weights: read without running code in them, loaded only where every name and shape fits."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_rs.errors import InputError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors from a .safetensors file, or from a .pth file without running any code in it.

    Raises:
        InputError: The file is damaged or holds something else than tensors.
    """
    try:
        weights = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged pickle or zip raises whatever its bytes lead to
        raise InputError(f"{path} cannot be read as weights: {(str(error) or repr(error)).splitlines()[0]}") from error
    named = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )
    if not named:
        raise InputError(f"{path} holds no table of named tensors.")
    return dict(weights)


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], where: str, what: str) -> None:
    """Load weights of which every name and shape must be the module's own.

    smp's encoders pop keys from the dict they are given and report nothing, so names and shapes are compared here.

    Args:
        module: What they are for.
        weights: Tensors by name.
        where: Key or file they come from, for the message.
        what: The module in words, e.g. "backbone resnet18".

    Raises:
        InputError: A tensor that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
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
    nn.Module.load_state_dict(module, dict(weights), strict=True)
