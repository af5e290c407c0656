"""Export: a finished run's weights in the forms that other programs read, each tried before it is given away."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ssl_rs
from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Backbone, check_image_size
from ssl_rs.errors import InputError
from ssl_rs.exporting.card import write_card
from ssl_rs.exporting.folder import check_place, filled_aside, is_there, write_about
from ssl_rs.exporting.forms import FORMS, Form, FormName, Subject
from ssl_rs.files import make_folder, sha256_of, write_text
from ssl_rs.finetuned import finished_finetuning
from ssl_rs.locks import hold
from ssl_rs.messages import say_line
from ssl_rs.plain_types import fits
from ssl_rs.pretrained import read_pretraining
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages.environment import version_of
from ssl_rs.stages.finished_run import load_network, stored_config, stored_windows
from ssl_rs.weights import load_strictly, read_weights
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "onnx", "onnxscript", "onnxruntime")
"""Libraries whose versions decide what is written."""


def export(settings: Settings) -> Path:
    """Write the weights of a finished run in other forms; return their folder, which is whole or not there.

    Raises:
        InputError: The run is not finished or damaged, or no form is left that could be written.
    """
    chosen, formats = settings.value("run", str | None), settings.value("formats", tuple[FormName, ...] | None)
    run_dir, output_dir = settings.value("run_dir", str | None), Path(settings.value("output_dir", str))
    settings.check_all_read()
    Processes.alone("export")
    if formats is not None and not formats:
        raise InputError(f"formats=[] leaves nothing to write. Choose of {list(FORMS)}, or null for all.")
    wanted = None if formats is None else [name for name in FORMS if name in formats]
    run, result = _finished(chosen)
    weights = run.model if result["command"] == "finetune" else run.encoder
    sha256 = sha256_of(weights)
    versions = {"ssl_rs": ssl_rs.__version__, **{library: version_of(library) for library in LIBRARIES}}
    seen = {"images_seen": sha256_of(run.images_seen)} if run.images_seen.is_file() else {}
    digest = config_hash({"formats": wanted, "versions": versions}, {"weights": sha256, **seen})
    own = output_dir / "export" / str(result["dataset"]) / f"{run.path.resolve().name}-{digest}"
    folder = check_place(run_dir) if run_dir else own
    make_folder(folder.parent)
    with hold(folder.with_name(f".{folder.name}.lock"), str(folder), "choose another run_dir"):
        if is_there(folder, digest):
            return folder
        subject = _read_finetuning(run, settings.trusted) if weights == run.model else _read_pretraining(run, result)
        with filled_aside(folder) as place:
            forms, left_out = _write_forms(subject, place, wanted, run)
            if seen:  # what `initialization=file` must know
                for each in (place, *(path for path in place.iterdir() if path.is_dir())):
                    shutil.copyfile(run.images_seen, each / run.images_seen.name)
            kept = run.images_seen.name if seen else ""
            write_text(place / "README.md", write_card(subject, _training(run, result), forms, left_out, kept))
            about = {
                "command": "export", "run": str(run.path), "weights_sha256": sha256, "config_hash": digest,
                "left_out": left_out, "versions": versions, **_trained_on(subject.metadata),
            }  # fmt: skip
            write_about(place, about)
    return folder


def _trained_on(metadata: WeightsMetadata) -> dict[str, Any]:
    """Return what other code needs to know: the bands, in order, what they are divided by and how normalized."""
    found: dict[str, Any] = {
        "backbone": metadata.backbone, "bands": metadata.bands, "value_scale": metadata.value_scale,
        "mean": metadata.statistics.mean, "std": metadata.statistics.std,
    }  # fmt: skip
    return found | ({"classes": metadata.classes} if metadata.classes else {})


def _finished(chosen: str | None) -> tuple[RunDirectory, Mapping[str, Any]]:
    """Return the run at a path and its result.

    Raises:
        InputError: There is none, it is no finished pretraining or fine-tuning, or it is damaged.
    """
    if chosen is None:
        raise InputError("run is not set. Name the folder of a finished pretraining or fine-tuning: run=outputs/...")
    run = RunDirectory.named(chosen, "run")
    result = run.read_result() or {}
    weights = {"finetune": run.model, "pretrain": run.encoder}.get(str(result.get("command")))
    if weights is None:
        raise InputError(
            f"run={chosen} holds no finished pretraining or fine-tuning (result.json of one of them). Finish it first, "
            "or name the folder that it printed."
        )
    if not weights.is_file():
        raise InputError(f"{weights} is missing, so run={chosen} cannot be exported. {run.anew}")
    dataset = result.get("dataset")
    if not isinstance(dataset, str) or not re.fullmatch(r"\w[\w.-]*", dataset):
        raise InputError(f"{run.result} has dataset={dataset!r:.80}, expected its name: it is damaged. {run.anew}")
    return run, result


def _read_finetuning(run: RunDirectory, trusted: Sequence[str]) -> Subject:
    finished_finetuning(str(run.path))
    stored, metadata = stored_config(run), read_weights_metadata(run.model)
    window = stored_windows(stored)
    model: Any = load_network(run, stored, metadata, window, trusted).model.eval()
    return Subject(metadata, model.encoder, model, window.size)


def _read_pretraining(run: RunDirectory, result: Mapping[str, Any]) -> Subject:
    metadata, file, key = read_pretraining(run).metadata, run.result, "image_size"
    side: Any = result.get(key)
    if side is None:  # older results do not tell it: then views had the size of the crops
        file, key, side = run.config, "dataset.crop_size", _dataset_of(run).get("crop_size")
    if not fits(side, int) or side < 1:
        raise InputError(f"{file} has {key}={side!r:.80}: it is damaged. {run.from_scratch}")
    encoder, bands = Backbone(metadata.backbone).build(len(metadata.bands)), len(metadata.bands)
    load_strictly(encoder, read_weights(run.encoder), str(run.encoder), f"backbone {metadata.backbone}")
    check_image_size(encoder, bands, side, key)
    return Subject(metadata, encoder.eval(), None, side)


def _dataset_of(run: RunDirectory) -> Mapping[str, Any]:
    dataset: Mapping[str, Any] = stored_config(run, ("dataset",))["dataset"]
    return dataset


def _training(run: RunDirectory, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page tells of the training."""
    factor, provenance = _dataset_of(run).get("downsample", 1), result.get("provenance")
    start = provenance.get("label") if isinstance(provenance, dict) else None
    return {**result, **({"downsample": factor} if factor != 1 else {}), **({"start": start} if start else {})}


def _write_forms(
    subject: Subject, folder: Path, wanted: Sequence[FormName] | None, run: RunDirectory
) -> tuple[dict[str, Form], dict[str, str]]:
    """Write the forms that are wanted, or all that there can be; return them, and why others are not among them.

    Raises:
        InputError: One that was named cannot be written.
    """
    forms: dict[str, Form] = {}
    left_out: dict[str, str] = {}
    for name in wanted or tuple(FORMS):
        try:
            forms[name] = FORMS[name](subject, folder)
        except InputError as error:
            if wanted is not None:
                raise InputError(f"formats: {run.path} cannot be exported as {name}: {error}. Leave it out.") from error
            left_out[name] = str(error)
            say_line(f"{name} is left out: {error}")
    return forms, left_out
