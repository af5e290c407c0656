"""A network as ONNX, normalization included: from the values as they are stored to features or probabilities.

Whatever reads ONNX runs it without PyTorch: onnxruntime, OpenCV, TensorRT, plugins of QGIS.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_rs.encoder import Normalization
from ssl_rs.errors import InputError
from ssl_rs.weights_metadata import WeightsMetadata

TOLERANCE = 1e-3
"""By how much values may differ from torch's, as a share of the largest."""


class Features(nn.Module):
    """Images as stored -> the encoder's deepest features and their mean.

    Args:
        encoder: What is exported.
        metadata: How its images are normalized.
    """

    outputs = ("features", "embedding")

    def __init__(self, encoder: nn.Module, metadata: WeightsMetadata) -> None:
        super().__init__()
        self.encoder, self.normalization = encoder, Normalization(metadata.statistics)
        self.value_scale = metadata.value_scale

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [N, C, H, W] to features [N, D, h, w] and embeddings [N, D]."""
        features: Tensor = self.encoder(self.normalization(images / self.value_scale))[-1]
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
        self.model, self.normalization = model, Normalization(metadata.statistics)
        self.value_scale = metadata.value_scale

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images [N, C, H, W] to probabilities [N, K, H, W]."""
        return (self.model(self.normalization(images / self.value_scale)).softmax(dim=1),)


def write_onnx(
    path: Path, network: Features | Probabilities, examples: Sequence[Tensor], about: Mapping[str, object]
) -> None:
    """Write a network whose batch, height and width are free, after running it by onnxruntime.

    Args:
        path: Of the file.
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
        raise InputError(f"{error.name} is not installed (pip install 'ssl-rs[export]')") from error
    free = {0: "batch", 2: "height", 3: "width"}
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (examples[0],),
                dynamo=True,
                dynamic_shapes=(free,),
                input_names=["images"],
                output_names=list(network.outputs),
                verbose=False,
            )
        except Exception as error:  # torch's tracer and translator fail each in their own way
            raise InputError(f"torch cannot write this network as ONNX ({type(error).__name__})") from error
    assert program is not None  # it is where dynamo=True
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    program.save(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would print what the exception says
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for images in examples:
        try:
            got = session.run(None, {"images": images.numpy()})
            with torch.no_grad():
                expected = network(images)
        except Exception as error:  # onnxruntime has a type an error code
            raise InputError(f"the network has no form in ONNX that takes other sizes ({str(error)[:200]})") from error
        for name, ours, theirs in zip(network.outputs, expected, got, strict=True):
            if not (ours - torch.from_numpy(theirs)).abs().max() <= TOLERANCE * ours.abs().max():
                raise InputError(f"onnxruntime computes other {name} of images of {tuple(images.shape)}")


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
