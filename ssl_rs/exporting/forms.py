"""The forms in which weights leave: files that another library reads, and the lines of Python that read them."""

import io
import shutil
import textwrap
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_rs.errors import InputError
from ssl_rs.exporting.counterparts import Renamed, for_timm, for_torchvision, timm_name, torchvision_name
from ssl_rs.exporting.onnx_graph import Features, Normalizing, Probabilities, as_onnx
from ssl_rs.files import written_aside
from ssl_rs.run_directory import save_tensors
from ssl_rs.weights_metadata import WeightsMetadata

FormName = Literal["torchvision", "timm", "smp", "onnx"]


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Args:
        metadata: What its file of weights says of itself.
        encoder: In evaluation mode, on the CPU.
        model: The segmentation model that the encoder is a part of; None: it was pretrained alone.
        side: Pixels a side of images that it takes.
    """

    metadata: WeightsMetadata
    encoder: nn.Module
    model: nn.Module | None
    side: int

    @property
    def divisor(self) -> int:
        """The number of pixels that sides of images are a multiple of: the encoder's stride, 1 where it tells none."""
        return int(getattr(self.encoder, "output_stride", 1))

    def images(self, count: int, height: int, width: int) -> Tensor:
        """Return made-up images [N, C, H, W] as they would be stored, always the same; some values are too bright."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, len(self.metadata.bands), height, width)
        return torch.rand(shape, generator=generator) * self.metadata.value_scale * 1.2

    def normalized(self) -> Tensor:
        """Return a made-up image [1, C, H, W] as the encoder sees it."""
        image: Tensor = Normalizing(self.metadata)(self.images(1, self.side, self.side))
        return image


@dataclass(frozen=True)
class Form:
    """How one of them is read; its files are written.

    Args:
        title: Its heading on the page.
        code: Python that loads it from the folder of the export.
        lacking: Names of the tensors of the library's model that are not in the file.
    """

    title: str
    code: str
    lacking: tuple[str, ...] = ()


def write_torchvision(subject: Subject, folder: Path) -> Form:
    """Write the encoder for torchvision's model of the same architecture.

    Raises:
        InputError: There is none.
    """
    name = torchvision_name(subject.metadata.backbone, len(subject.metadata.bands))
    found = for_torchvision(subject.encoder, name, subject.normalized())
    content = io.BytesIO()
    torch.save({key: value.contiguous() for key, value in found.weights.items()}, content)
    with written_aside(folder / "torchvision.pth") as file:
        file.write(content.getbuffer())
    return Form(f"The encoder in torchvision, `{name}`", _code(f"""
        import torch, torchvision
        model = torchvision.models.get_model({name!r}, weights=None)
        model.load_state_dict(torch.load("torchvision.pth", weights_only=True){_lenient(found)})
    """), found.lacking)  # fmt: skip


def write_timm(subject: Subject, folder: Path) -> Form:
    """Write the encoder for timm's model of the same architecture.

    Raises:
        InputError: There is none.
    """
    name, bands = timm_name(subject.metadata.backbone), len(subject.metadata.bands)
    found = for_timm(subject.encoder, name, subject.normalized())
    save_tensors(folder / "timm.safetensors", found.weights, {"format": "pt", **subject.metadata.texts()})
    return Form(f"The encoder in timm, `{name}`", _code(f"""
        import timm
        from safetensors.torch import load_file
        model = timm.create_model({name!r}, in_chans={bands}, num_classes=0)
        model.load_state_dict(load_file("timm.safetensors"){_lenient(found)})
    """), found.lacking)  # fmt: skip


def write_smp(subject: Subject, folder: Path) -> Form:
    """Write the model as segmentation-models-pytorch does, or the encoder alone as its encoders take it.

    Raises:
        InputError: The model is not one of that library, or has parts that its settings do not tell.
    """
    if subject.model is None:
        save_tensors(
            folder / "smp_encoder.safetensors",
            subject.encoder.state_dict(),
            {"format": "pt", **subject.metadata.texts()},
        )
        backbone, bands = subject.metadata.backbone, len(subject.metadata.bands)
        return Form("The encoder in segmentation-models-pytorch", _code(f"""
            import segmentation_models_pytorch as smp
            from safetensors.torch import load_file
            model = smp.Unet({backbone!r}, encoder_weights=None, in_channels={bands}, classes=2)  # or as many as yours
            model.encoder.load_state_dict(load_file("smp_encoder.safetensors"))
        """))  # fmt: skip
    if not type(subject.model).__module__.startswith("segmentation_models_pytorch."):
        raise InputError(f"{type(subject.model).__name__} is no model of segmentation-models-pytorch")
    try:
        subject.model.save_pretrained(folder / "smp")  # type: ignore[operator]
    except SafetensorError as error:  # of the system, e.g. a full disk, it tells the words alone
        raise OSError(f"{folder / 'smp'} cannot be written: {error}") from error
    (folder / "smp/README.md").unlink(missing_ok=True)  # it names a license, which is not ours to choose
    if not _comes_back(subject.model, folder / "smp", subject.normalized()):
        shutil.rmtree(folder / "smp")
        raise InputError("segmentation-models-pytorch makes another network of its settings")
    file = folder / "smp/model.safetensors"
    save_tensors(file, load_file(file), {"format": "pt", **subject.metadata.texts()})
    return Form("The model in segmentation-models-pytorch", _code("""
        import segmentation_models_pytorch as smp
        model = smp.from_pretrained("smp").eval()  # normalized images -> a score for each class
    """))  # fmt: skip


def write_as_onnx(subject: Subject, folder: Path) -> Form:
    """Write encoder or model as ONNX, normalization included.

    Raises:
        InputError: It has no form in ONNX, or a package that writes it is missing.
    """
    about = {key: getattr(subject.metadata, key) for key in ("backbone", "bands", "value_scale", "classes")}
    about["side_multiple_of"] = subject.divisor
    side, metadata = subject.side, subject.metadata
    sizes = ((2, side, 2 * side), (1, side, side), (3, 2 * side, side))
    network = Features(subject.encoder, metadata) if subject.model is None else Probabilities(subject.model, metadata)
    name = "encoder.onnx" if subject.model is None else "model.onnx"
    content = as_onnx(network.eval(), [subject.images(*size) for size in sizes], about)
    with written_aside(folder / name) as file:
        file.write(content)
    size = "" if subject.model is None else f"; of {side} x {side} px as in its scores: others score otherwise"
    return Form("ONNX, without PyTorch; normalization is inside", _code(f"""
        import onnxruntime
        session = onnxruntime.InferenceSession("{name}")
        # images: a float32 array [N, C, H, W] of the values as they are stored{size}
        {", ".join(network.outputs)}, = session.run(None, {{"images": images}})
    """))  # fmt: skip


FORMS: Mapping[FormName, Callable[[Subject, Path], Form]] = {
    "torchvision": write_torchvision,
    "timm": write_timm,
    "smp": write_smp,
    "onnx": write_as_onnx,
}


@torch.no_grad()
def _comes_back(model: nn.Module, folder: Path, image: Tensor) -> bool:
    """Tell whether what was written gives the scores of the model on an image [1, C, H, W]."""
    try:
        with redirect_stdout(io.StringIO()):  # it says where it reads from
            again = smp.from_pretrained(folder).eval()
        return bool(torch.allclose(again(image), model(image), rtol=1e-4, atol=1e-5))
    except (RuntimeError, TypeError, ValueError, AttributeError):  # its settings do not make it, or not these tensors
        return False


def _lenient(found: Renamed) -> str:
    """Return the argument that loading takes where tensors of the library's model are not in the file."""
    return ", strict=False" if found.lacking else ""


def _code(text: str) -> str:
    return textwrap.dedent(text).strip()
