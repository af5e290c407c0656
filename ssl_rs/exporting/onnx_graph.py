"""A network as ONNX, normalization included: from the values as they are stored to features or probabilities.

Whatever reads ONNX runs it without PyTorch: onnxruntime, OpenCV, TensorRT, plugins of QGIS.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs.encoder import Normalization
from ssl_rs.errors import InputError, in_a_line
from ssl_rs.weights_metadata import WeightsMetadata

TOLERANCE = 1e-3
"""By how much values may differ from torch's, as a share of the largest."""


class Normalizing(nn.Module):
    """Images as stored -> as the encoder sees them.

    Args:
        metadata: Value scale and statistics.
    """

    def __init__(self, metadata: WeightsMetadata) -> None:
        super().__init__()
        self.normalization, self.value_scale = Normalization(metadata.statistics), metadata.value_scale

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, C, H, W] to normalized ones; values beyond the scale are clipped, as in training."""
        normalized: Tensor = self.normalization((images / self.value_scale).clamp(0, 1))
        return normalized


class Features(nn.Module):
    """Images as stored -> the encoder's deepest features and their mean.

    Args:
        encoder: What is exported.
        metadata: How its images are normalized.
    """

    outputs = ("features", "embedding")

    def __init__(self, encoder: nn.Module, metadata: WeightsMetadata) -> None:
        super().__init__()
        self.encoder, self.normalizing = encoder, Normalizing(metadata)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [N, C, H, W] to features [N, D, h, w] and embeddings [N, D]."""
        features: Tensor = self.encoder(self.normalizing(images))[-1]
        return features, features.mean(dim=(-2, -1))


class Probabilities(nn.Module):
    """Images as stored -> the probability of each class.

    Args:
        model: Maps normalized images [N, C, H, W] to scores [N, K, H, W].
        metadata: How its images are normalized.
    """

    outputs = ("probabilities",)

    def __init__(self, model: nn.Module, metadata: WeightsMetadata) -> None:
        super().__init__()
        self.model, self.normalizing = model, Normalizing(metadata)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images [N, C, H, W] to probabilities [N, K, H, W]."""
        return (self.model(self.normalizing(images)).softmax(dim=1),)


def as_onnx(network: Features | Probabilities, examples: Sequence[Tensor], about: Mapping[str, object]) -> bytes:
    """Return a network, whose batch, height and width are free, as the content of a file that onnxruntime has run.

    Args:
        network: In evaluation mode, on the CPU.
        examples: Images [N, C, H, W] as they are stored, of several sizes; of the first, no side is 1.
        about: What the file says of itself, as texts of JSON.

    Raises:
        InputError: A package is missing, the network has no form in ONNX, or it gives other values there.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise InputError(f"{error.name or error} is not installed (pip install 'ssl-rs[export]')") from error
    program = _translated(network, examples[0])
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    content: bytes = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would print what the exception says
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        run = [session.run(None, {"images": images.numpy()}) for images in examples]
    except (MemoryError, OSError):
        raise
    except Exception as error:  # onnxruntime has a type an error code
        raise InputError(f"onnxruntime cannot run it: {in_a_line(error)}") from error
    for images, got in zip(examples, run, strict=True):
        with torch.no_grad():
            expected = network(images)
        for name, ours, theirs in zip(network.outputs, expected, got, strict=True):
            if not (ours - torch.from_numpy(theirs)).abs().max() <= TOLERANCE * ours.abs().max():
                raise InputError(f"onnxruntime computes other {name} of images of {tuple(images.shape)}")
    return content


def _translated(network: nn.Module, images: Tensor) -> Any:
    """Return torch's ONNX program of a network.

    Raises:
        InputError: Torch has no way to write it so that batch, height and width are free.
    """
    try:
        with _quiet():
            return torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
                input_names=["images"],
                output_names=list(network.outputs),  # type: ignore[arg-type]
                verbose=False,
            )
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch's tracer and translator fail each in their own way
        raise InputError(f"torch cannot write it as ONNX with sides that are free ({in_a_line(error)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporter says of its own working from whoever waits for a file."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
