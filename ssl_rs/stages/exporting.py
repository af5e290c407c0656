"""Export: a finished run's weights in the forms that other programs read, each tried before it is given away."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssl_rs.build import build
from ssl_rs.config import Settings, read_yaml
from ssl_rs.config_hash import config_hash
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Backbone
from ssl_rs.errors import InputError
from ssl_rs.exporting.card import write_card
from ssl_rs.exporting.forms import FORMS, Form, FormName, Subject
from ssl_rs.files import make_folder, sha256_of, write_json, write_text
from ssl_rs.locks import hold
from ssl_rs.pretrained import read_pretraining
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.sliding_window import WindowSettings
from ssl_rs.stages.finished_run import finished_finetuning, load_network, stored_config
from ssl_rs.weights import load_strictly, read_weights
from ssl_rs.weights_metadata import read_weights_metadata

ABOUT = "export.json"
"""Says what lies in the folder of an export."""

LIBRARIES = ("torch", "torchvision", "timm", "segmentation-models-pytorch")


def export(settings: Settings) -> Path:
    """Write the weights of a finished run in other forms; return their folder, which is whole or not there."""
    chosen, formats = settings.value("run", str | None), settings.value("formats", tuple[FormName, ...] | None)
    run_dir, output_dir = settings.value("run_dir", str | None), Path(settings.value("output_dir", str))
    trusted = settings.value("trusted_packages", list)
    for key, kind in (("seed", int), ("store_dir", str)):
        settings.value(key, kind)
    settings.check_all_read()
    if Processes.from_environment().world_size > 1:
        raise InputError("export is one process. Start it without torchrun.")
    if formats is not None and not formats:
        raise InputError(f"formats=[] leaves nothing to write. Choose of {list(FORMS)}, or null for all.")
    run, result = _finished(chosen)
    weights = run.model if result["command"] == "finetune" else run.encoder
    sha256 = sha256_of(weights)
    digest = config_hash({"formats": list(formats or FORMS)}, {"weights": sha256})
    name = f"{run.path.resolve().name}-{digest}"
    folder = Path(run_dir) if run_dir else output_dir / "export" / str(result.get("dataset")) / name
    make_folder(folder.parent)
    with hold(folder.with_name(f".{folder.name}.lock"), str(folder), "choose another run_dir"):
        if _is_there(folder, digest):
            return folder
        subject = _read_finetuning(run, trusted) if weights == run.model else _read_pretraining(run)
        with _aside(folder) as place:
            forms, left_out = _write_forms(subject, place, formats, run)
            write_text(
                place / "README.md", write_card(subject.metadata, {**result, **_resolution(run)}, forms, left_out)
            )
            about = {
                "command": "export", "run": str(run.path), "weights_sha256": sha256, "left_out": left_out,
                "versions": {library: version(library) for library in LIBRARIES},
                "files": _hashes(place), "config_hash": digest,
            }  # fmt: skip
            write_json(place / ABOUT, about)
    return folder


def _is_there(folder: Path, digest: str) -> bool:
    """Tell whether a folder holds this very export, whole.

    Raises:
        InputError: It holds what no export wrote, which would be lost.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        known = dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError):
        about, known = {}, {}
    found = _hashes(folder)
    others = sorted(found.keys() - known.keys() - ({ABOUT} if known else set()))
    if others:
        raise InputError(
            f"run_dir={folder} holds {others[0]}, which no export wrote: it is not overwritten. Choose an empty or "
            "new folder."
        )
    return about.get("config_hash") == digest and known.items() <= found.items()


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its name when it is whole, and vanishes if that fails."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside)
    try:
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _finished(chosen: str | None) -> tuple[RunDirectory, Mapping[str, Any]]:
    """Return the run at a path and its result.

    Raises:
        InputError: There is none, or it is no finished pretraining or fine-tuning.
    """
    if chosen is None:
        raise InputError("run is not set. Name the folder of a finished pretraining or fine-tuning: run=outputs/...")
    run = RunDirectory(Path(chosen))
    result = run.read_result() or {}
    weights = {"finetune": run.model, "pretrain": run.encoder}.get(str(result.get("command")))
    if weights is None:
        raise InputError(
            f"run={chosen} holds no finished pretraining or fine-tuning (result.json of one of them). Finish it first, "
            "or name the folder that it printed."
        )
    if not weights.is_file():
        raise InputError(f"{weights} is missing, so run={chosen} cannot be exported. Run it again.")
    return run, result


def _resolution(run: RunDirectory) -> dict[str, int]:
    """Return how much coarser than its files a run read its data, if it did."""
    factor = (read_yaml(run.config).get("dataset") or {}).get("downsample", 1)
    return {"downsample": factor} if factor != 1 else {}


def _read_finetuning(run: RunDirectory, trusted: list[str]) -> Subject:
    finished_finetuning(str(run.path))
    stored, metadata = stored_config(run), read_weights_metadata(run.model)
    window: WindowSettings = build(stored["evaluation"].get("window"), "evaluation.window")
    model = load_network(run, stored, metadata, window, trusted).model.eval()
    return Subject(metadata, model.encoder, model, window.size)  # type: ignore[arg-type]


def _read_pretraining(run: RunDirectory) -> Subject:
    metadata = read_pretraining(run).metadata
    encoder = Backbone(metadata.backbone).build(len(metadata.bands))
    load_strictly(encoder, read_weights(run.encoder), str(run.encoder), f"backbone {metadata.backbone}")
    side = (read_yaml(run.config).get("dataset") or {}).get("crop_size")
    if not isinstance(side, int):
        raise InputError(f"{run.config} lacks dataset.crop_size: it is damaged. Pretrain again.")
    return Subject(metadata, encoder.eval(), None, side)


def _write_forms(
    subject: Subject, folder: Path, formats: tuple[FormName, ...] | None, run: RunDirectory
) -> tuple[dict[str, Form], dict[str, str]]:
    """Write the forms that are wanted, or all that there can be; return them, and why others are not among them.

    Raises:
        InputError: One that was named cannot be written, or none can.
    """
    forms: dict[str, Form] = {}
    left_out: dict[str, str] = {}
    for name in formats or tuple(FORMS):
        try:
            forms[name] = FORMS[name](subject, folder)
        except InputError as error:
            if formats is not None:
                raise InputError(f"formats: {run.path} cannot be exported as {name}: {error}. Leave it out.") from error
            left_out[name] = str(error)
    return forms, left_out


def _hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}
