"""Damaged and hostile files of our own: a store, a label subset, results, checkpoints, weights, a run's config."""

import hashlib
import io
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import Fuzz, changed, damaged, damages, dumped, json_files, structure_changes, within
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn

from ssl_rs.config import read_yaml
from ssl_rs.data.dataset import SegmentationClass
from ssl_rs.data.label_subset import LabeledUnit, LabelSubset
from ssl_rs.data.manifest import Manifest, SceneRecord, SkippedScene, SourceRecord
from ssl_rs.data.records import to_json
from ssl_rs.data.store import Store
from ssl_rs.errors import InputError
from ssl_rs.reporting.csv_files import results_csv
from ssl_rs.reporting.results import read_runs
from ssl_rs.run_directory import read_metadata
from ssl_rs.training.state import SEAL, Identity, Progress, load_checkpoint, save_checkpoint
from ssl_rs.weights import load_strictly, read_weights

CPU = torch.device("cpu")
HASH = "ab" * 32


# A store


@cache
def store() -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and the arrays of a store of three scenes of 8 x 9 pixels, two bands and two classes."""
    arrays, scenes = {}, []
    for number, split in enumerate(("train", "val", "test")):
        kinds: dict[str, np.ndarray] = {
            "image": np.full((2, 8, 9), number, np.uint8),
            "mask": np.zeros((8, 9), np.uint8),
            "eroded": np.full((8, 9), 255, np.uint8),
            "valid": np.eye(8, 9) == 0,
        }
        if number:
            del kinds["valid"]
        files = {f"{number:05d}_{kind}.npy": array_bytes(array) for kind, array in kinds.items()}
        arrays |= files
        scenes.append(
            SceneRecord(
                number, f"scene{number}", split, 8, 9, "EPSG:4326", (1.0, 0.0, 2.0, 0.0, -1.0, 3.0),
                (SourceRecord("scene.tif", HASH),), (72, 0), 1.0 if number else 64 / 72,
                tuple(SourceRecord(name, HASH) for name in files),
            )
        )  # fmt: skip
    classes = (SegmentationClass("a", (1, 2, 3)), SegmentationClass("b", (4, 5, 6)))
    skipped = (SkippedScene("bad", "train", "it is damaged"),)
    manifest = Manifest(
        2, "folder", ("red", "green"), "uint8", 255.0, (0.5, 0.5), (0.1, 0.1), classes, 255, True, tuple(scenes), skipped
    )  # fmt: skip
    return manifest, arrays


def array_bytes(array: np.ndarray) -> bytes:
    """Return an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@dataclass(frozen=True)
class Changed:
    """Files that differ from whole ones.

    Args:
        files: New content, by name.
    """

    files: dict[str, bytes]


def manifests() -> st.SearchStrategy[Changed]:
    """Draw manifests that are not as we write them."""
    return json_files(json.loads(to_json(store()[0]))).map(lambda content: Changed({"manifest.json": content}))


@st.composite
def arrays(draw: st.DrawFn) -> Changed:
    """Draw an array with a damaged or hostile header, or that is something else."""
    name = draw(st.sampled_from(sorted(store()[1])))
    content = store()[1][name]
    header = content[10:128]
    near = st.lists(
        st.tuples(st.sampled_from(("flip", "word", "noise")), st.floats(0, 128 / len(content)), st.integers(0, 2**32)),
        min_size=1,
        max_size=3,
    )
    return Changed({name: draw(st.one_of(
        near.map(lambda damage: damaged(content, tuple(damage))),
        damages().map(lambda damage: damaged(content, damage)),
        st.sampled_from(HEADERS).map(lambda text: content[:10] + text.ljust(117)[:117] + b"\n" + content[128:]),
        st.sampled_from(((1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (255, 255))).map(lambda v: content[:6] + bytes(v) + content[8:]),
        st.sampled_from((content[:6] + b"\2\0" + len(header).to_bytes(4, "little") + header + content[128:], b"", content * 2)),
    ))})  # fmt: skip


HEADERS = tuple(
    f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    for descr, order, shape in (
        ("'|u1'", "True", "(2, 8, 9)"), ("'|u1'", "False", "(True, 8, 9)"), ("'|u1'", "False", "(2, 8, -9)"), ("'|O'", "False", "(2, 8, 9)"),
        ("'|u1'", "False", "(2, 8, 9.0)"), ("'|u1'", "0", "(2, 8, 9)"), ("'|u1'", "False", "[2, 8, 9]"), ("'|i1'", "False", "(2, 8, 9)"),
        ("[('a', '|u1')]", "False", "(2, 8, 9)"), ("'|V1'", "False", "(2, 8, 9)"), ("1", "False", "(2, 8, 9)"), ("()", "False", "()"),
        ("'|u1'", "False", f"({10**30}, 8, 9)"), ("'<U0'", "False", "(2, 8, 9)"), ("('|u1', (3,))", "False", "(8, 9)"), ("None", "None", "None"),
    )
) + (b"", b"(" * 117, b"[" * 117, b"-" * 117, b"{" * 117, b"{'descr'", b"1" * 117, b"__import__('os')", b"'\\N{x}'", b"\xff" * 117, b"'''", b"0x")  # fmt: skip
"""Headers of .npy files: Python literals that numpy parses."""


def written(folder: str, case: Changed) -> Path:
    """Write the store with what is changed in it."""
    manifest, whole = store()
    for name, content in ({"manifest.json": to_json(manifest).encode()} | whole | case.files).items():
        Path(folder, name).write_bytes(content)
    return Path(folder)


def check_store(case: Changed) -> None:
    """Open the store; fail where that raises anything but a message, or gives what the manifest does not promise."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, within(20):
        try:
            opened = Store.open(written(folder, case))
        except InputError as error:
            assert len(str(error)) < 20_000, f"a message of {len(str(error))} characters"
            return
        manifest = opened.manifest
        assert Path(folder, manifest.dataset).parent == Path(folder), manifest.dataset
        assert len(manifest.sha256) == 64
        for index, scene in enumerate(manifest.scenes):
            size = (scene.height, scene.width)
            assert opened.image(index).shape == (len(manifest.bands), *size)
            assert opened.image(index).dtype == np.dtype(manifest.dtype)
            valid = opened.valid(index)
            assert valid is None or (valid.shape, valid.dtype) == (size, bool)
            for read, there in ((opened.mask, bool(manifest.classes)), (opened.eroded, manifest.eroded)):
                assert not there or (read(index).shape, read(index).dtype) == (size, np.uint8)
        assert 0 <= manifest.ignore_index <= 255
        assert len(manifest.classes) <= manifest.ignore_index
        assert all(0 <= value <= 255 for entry in manifest.classes for value in entry.color)
        assert all(count >= 0 for scene in manifest.scenes for count in scene.class_pixels)
        assert min(manifest.std) >= 0


def subsets() -> st.SearchStrategy[bytes]:
    """Draw label subsets that are not as we write them."""
    units = tuple(LabeledUnit(f"scene{i}", 0, 8 * i, 8, 8) for i in range(3))
    return json_files(json.loads(to_json(LabelSubset("folder", "tile", 8, 0.5, 0, units, 6))))


def check_subset(content: bytes) -> None:
    """Read the subset; fail where that raises anything but a message."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder, "label_subset.json")
        path.write_bytes(content)
        try:
            subset = LabelSubset.read(path)
        except InputError as error:
            assert str(path) in str(error)
            return
        assert len(subset.sha256) == 64


# Results, and the report over them

SCORE = {"miou": 0.5, "overall_accuracy": 0.8, "mean_f1": 0.7, "kappa": 0.6, "class_iou": {"a": 0.9, "b": None}}
ENVIRONMENT = {"ssl_rs": "1", "git_commit": None, "threads": 1, "command_line": ["finetune"]}


def result(fraction: float = 0.1) -> dict[str, Any]:
    """Return what a fine-tuning writes."""
    return {
        "command": "finetune", "dataset": "folder", "backbone": "resnet18", "decoder": "unet", "initialization": "random",
        "label": "random", "provenance": {"kind": "random", "label": "random", "sha256": None}, "label_fraction": fraction,
        "labeled_units": round(100 * fraction), "label_unit": "tile", "subset_sha256": HASH, "seed": 0, "steps": 20,
        "wall_seconds": 90.0, "protocols": {"all_classes": SCORE, "other": {**SCORE, "labels": "eroded", "excluded": ["b"], "excluded_pixels": "error"}},
        "manifest_sha256": HASH, "classes": [{"name": "a", "color": [0, 0, 255]}, {"name": "b", "color": [0, 128, 0]}],
        "settings_hash": "ab", "split": "test", "protocol": "all_classes", "config_hash": "ab", **SCORE,
        "scene_confusions": {"full": {"x": [[5, 1], [2, 9]], "y": [[7, 0], [3, 4]]}, "eroded": {"x": [[4, 1], [1, 8]]}},
    }  # fmt: skip


@cache
def samples() -> bytes:
    """Return a samples.npz."""
    tiles, buffer = np.zeros((2, 8, 8), np.uint8), io.BytesIO()
    np.savez(
        buffer, images=np.full((2, 8, 8, 3), 9, np.uint8), truth=tiles, prediction=tiles, names=np.array(["x", "y"])
    )
    return buffer.getvalue()


@st.composite
def reports(draw: st.DrawFn) -> Changed:
    """Draw a folder of two runs and a plan of which one or two files are not as we write them."""
    plan = {
        "command": "finetune",
        "cells": [{"overrides": ["seed=0"], "run_dir": "runs/one", "dataset": "folder", "backbone": "resnet18", "decoder": "unet",
                   "label": "random", "label_fraction": 0.5, "seed": 1, "steps": 20, "label_unit": "tile",
                   "label_order": "random", "manifest_sha256": HASH, "split": "test"}],
    }  # fmt: skip
    failure = {"command": "finetune", "overrides": ["seed=1"], "error": "no", "traceback": None}
    drawn = {
        "runs/one/result.json": json_files(result()),
        "runs/one/environment.json": json_files(ENVIRONMENT),
        "runs/one/samples.npz": damages().map(lambda damage: damaged(samples(), damage)),
        "runs/three/failure.json": json_files(failure),
        "sweeps/plan.json": json_files(plan),
    }
    changed_names = draw(
        st.lists(st.sampled_from([*drawn, "runs/one/result.json"]), min_size=1, max_size=2, unique=True)
    )
    return Changed({
        "runs/two/result.json": dumped(result(1.0)),
        "runs/two/samples.npz": samples(),
        "sweeps/plan.json": dumped(plan),
        "runs/one/result.json": dumped(result()),
        "runs/one/samples.npz": samples(),
        **{name: draw(drawn[name]) for name in changed_names},
    })  # fmt: skip


def _write(folder: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def check_results(case: Changed) -> None:
    """Read the runs; fail where that raises, or loses one without a word."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, within(20):
        _write(folder, case.files)
        runs, left_out = read_runs(Path(folder, "runs"))
        results_csv(runs).encode()
        told = {run.directory for run in runs} | {each.path.parent for each in left_out}
        silent = Path(folder, "runs/one") not in told
        assert not silent or b'"pretrain"' in case.files["runs/one/result.json"]
        assert all(each.reason for each in left_out)


def check_report(case: Changed) -> None:
    """Write the report; fail where that raises anything but a message, or lets markup of a file through."""
    from ssl_rs.reporting.page import write_report

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, within(60), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write(folder, case.files)
        page = write_report(Path(folder, "runs"), Path(folder, "sweeps"), Path(folder, "out")).read_text()
        assert "<script>alert" not in page


# Checkpoints and weights


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a small network and its optimizer."""
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    return module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


@cache
def checkpoint() -> bytes:
    """Return a whole checkpoint."""
    module, optimizer = network()
    module(torch.rand(4, 2)).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(3, 1.5, {"loss": torch.tensor(0.5)}, 2)
        return save_checkpoint(Path(folder, "checkpoints"), module, optimizer, progress, IDENTITY, CPU).read_bytes()


IDENTITY = Identity("hash", 1, "fp32")
VALUES = (
    None,
    0,
    -1,
    2**70,
    0.5,
    float("nan"),
    "x",
    [],
    {},
    torch.ones(2),
    torch.ones(2, 3, dtype=torch.complex64),
    {"a": {}},
    [[1]],
    {1: 2},
    b"x",
    True,
)


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """Draw checkpoints with damaged bytes, or, as by another's hand, with a right seal over something else."""
    content = checkpoint()
    kind = draw(st.sampled_from(("bytes", "resealed", "structure", "structure", "structure")))
    if kind == "bytes":
        return draw(st.one_of(damages().map(lambda damage: damaged(content, damage)), st.binary(max_size=100)))
    packed = content.rpartition(SEAL)[0]
    if kind == "resealed":
        return sealed(damaged(packed, draw(damages())))
    whole = torch.load(io.BytesIO(packed), weights_only=True)
    for _ in range(draw(st.integers(1, 2))):
        _change_somewhere(whole, draw)
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return sealed(buffer.getvalue())


def sealed(packed: bytes) -> bytes:
    """Return bytes with the seal of a checkpoint."""
    import hashlib

    return packed + SEAL + hashlib.sha256(packed).hexdigest().encode()


def _change_somewhere(node: Any, draw: st.DrawFn) -> None:
    """Replace or remove something in nested dicts and lists."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 3)):
            node = node[key]
            continue
        if draw(st.integers(0, 3)):
            node[key] = draw(st.sampled_from(VALUES))
        else:
            del node[key]
        return


def check_checkpoint(content: bytes) -> None:
    """Load the checkpoint; fail where that raises anything but a message, or says nothing of what it found."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, within(20), warnings.catch_warnings(record=True):
        Path(folder, "step-00000003.ckpt").write_bytes(content)
        try:
            progress = load_checkpoint(Path(folder), *network(), IDENTITY, CPU)
        except InputError as error:
            assert folder in str(error)
            return
        assert progress is not None
        assert all(
            type(getattr(progress, key)) is int and getattr(progress, key) >= 0
            for key in ("step", "count", "skipped", "collapsed")
        )
        assert all(isinstance(value, torch.Tensor) for value in progress.sums.values())


@cache
def weights() -> dict[str, torch.Tensor]:
    """Return the weights of the small network."""
    return dict(network()[0].state_dict())


@st.composite
def weight_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw files of weights: damaged, of odd tensors and names, or with code in them."""
    suffix = draw(st.sampled_from((".safetensors", ".pth")))
    own = dict(weights())
    kind = draw(st.sampled_from(("bytes", "bytes", "structure", "code", "header")))
    if kind == "code":
        return suffix, draw(
            st.sampled_from(
                (pickle.dumps(Attack()), pickle.dumps({"0.weight": Attack()}), pickled(Attack()), pickled([Attack()]))
            )
        )
    if kind == "header" and suffix == ".safetensors":
        content = save_safetensors(own, {"a": "b"})
        length = int.from_bytes(content[:8], "little")
        header = dumped(changed(json.loads(content[8 : 8 + length]), draw(structure_changes())))
        size = draw(st.sampled_from((len(header), len(header), len(header), 0, 2**63, 2**64 - 1, len(header) + 8)))
        return suffix, size.to_bytes(8, "little") + header + content[8 + length :]
    if kind == "structure":
        name = draw(st.sampled_from(sorted(own)))
        odd = [torch.ones(2), torch.ones(3, 2).to_sparse(), torch.ones(3, 2, dtype=torch.complex64), torch.full((3, 2), torch.nan), torch.ones(3, 2).half(),
               torch.ones(3, 2, device="meta"), torch.empty(0), torch.tensor(1), torch.ones(3, 2, dtype=torch.bool), torch.ones(2, 3).T,
               torch.ones(1).expand(3, 2), torch.nn.Parameter(torch.ones(3, 2)), torch.quantize_per_tensor(torch.ones(3, 2), 1.0, 0, torch.qint8), 1, None, "x", {}]  # fmt: skip
        drawn: Any = {**own, name: odd[draw(st.integers(0, len(odd) - 1))]}
        if draw(st.booleans()):
            drawn = draw(
                st.sampled_from(
                    (
                        {**drawn, 1: own[name]},
                        {**drawn, None: own[name]},
                        [drawn],
                        {"model": drawn},
                        {},
                        None,
                        own[name],
                        {("a",): own[name]},
                    )
                )
            )
        return ".pth", pickled(drawn)
    content = save_safetensors(own) if suffix == ".safetensors" else pickled(own)
    return suffix, draw(st.one_of(damages().map(lambda damage: damaged(content, damage)), st.binary(max_size=100)))


class Attack:
    """What a pickle with code in it would do."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("attacked"),)


def pickled(content: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer)
    return buffer.getvalue()


def check_weights(case: tuple[str, bytes]) -> None:
    """Read and load weights; fail where that raises anything but a message, or runs code."""
    suffix, content = case
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, within(20), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, f"weights{suffix}")
        path.write_bytes(content)
        module = network()[0]
        try:
            load_strictly(module, read_weights(path), str(path), "a test")
        except InputError as error:
            assert str(path) in str(error)
            assert len(str(error)) < 20_000
        assert not Path("attacked").exists()
        assert all(value.is_floating_point() or value.dtype == torch.int64 for value in module.state_dict().values())
        if suffix == ".safetensors":
            try:
                read_metadata(path)
            except InputError as error:
                assert str(path) in str(error)


# A run's own files


def _config() -> bytes:
    from ssl_rs.config import compose_config, resolve, to_yaml

    return to_yaml(resolve(compose_config("finetune", ["dataset=folder", "dataset.root=x", "logger=none"]))).encode()


@st.composite
def finished_runs(draw: st.DrawFn) -> Changed:
    """Draw a finished fine-tuning of which the config, the result or the metadata of the weights are not as we write them."""
    import yaml

    whole = _config_once()
    content = yaml.safe_load(whole)
    config = draw(st.one_of(
        structure_changes().map(lambda changes: json.dumps(changed(content, changes)).encode("utf-8", "surrogatepass")),
        damages().map(lambda damage: damaged(whole, damage)),
        st.just(whole),
    ))  # fmt: skip
    model = save_safetensors(weights(), draw(metadata()))
    written = {**result(), "model_sha256": hashlib.sha256(model).hexdigest()}  # else the metadata is never looked at
    return Changed({
        "config.yaml": config,
        "result.json": draw(st.one_of(st.just(dumped(written)), json_files(written))),
        "model.safetensors": model,
        "metrics.jsonl": draw(st.one_of(st.just(b'{"step": 1}\n'), damages().map(lambda damage: damaged(b'{"step": 1, "loss": 0.5}\n' * 3, damage)))),
    })  # fmt: skip


@cache
def _config_once() -> bytes:
    return _config()


METADATA = {
    "backbone": "resnet18", "decoder": "unet", "bands": '["red", "green"]', "classes": '["a", "b"]', "mean": "[0.5, 0.5]",
    "std": "[0.1, 0.1]", "value_scale": "255.0", "config_hash": "ab", "statistics_source": "a test",
}  # fmt: skip


@st.composite
def metadata(draw: st.DrawFn) -> dict[str, str] | None:
    """Draw the metadata of weights."""
    drawn = dict(METADATA)
    for key in draw(st.lists(st.sampled_from(sorted(METADATA)), max_size=2)):
        drawn[key] = draw(
            st.sampled_from(
                (
                    "",
                    "null",
                    "[]",
                    "{}",
                    "1",
                    "-1",
                    "nan",
                    "[1",
                    '["a"]',
                    "[null]",
                    "x",
                    "[" * 5000,
                    '"x"',
                    "[0.5]",
                    "[NaN, 1]",
                )
            )
        )
        if draw(st.integers(0, 2)) == 0:
            del drawn[key]
    return drawn if draw(st.integers(0, 9)) else None


def check_finished_run(case: Changed) -> None:
    """Evaluate the run; fail where that ends in anything but a message, up to where the data would be read."""
    from contextlib import suppress
    from unittest import mock

    from config_cases import Reached, at_home, ends_well

    from ssl_rs.run_directory import RunDirectory

    with at_home() as folder, within(20):
        _write(folder, {f"run/{name}": content for name, content in case.files.items()})
        with suppress(InputError):
            read_yaml(Path(folder, "run/config.yaml"))
        with suppress(InputError):
            RunDirectory(Path(folder, "run")).keep_metrics_until(1)
        opened = Store(Path(folder), store()[0])
        with (
            mock.patch("ssl_rs.stages.scored_data.open_store", return_value=opened),
            mock.patch("ssl_rs.stages.evaluation.Evaluator.score", side_effect=Reached),
            suppress(Reached),
        ):
            ends_well("evaluate", ("run=run", "dataset.root=.", "trainer.device=cpu", "trainer.precision=fp32"))


def check_encoder(told: dict[str, str] | None) -> None:
    """Probe a file that tells this of itself; fail where that ends in anything but a message."""
    from config_cases import at_home, ends_well, tiny_images

    with at_home() as folder, within(20):
        Path(folder, "e.safetensors").write_bytes(save_safetensors(weights(), told))
        data = ("dataset=folder", f"dataset.root={tiny_images()}", "dataset.crop_size=32")
        ends_well(
            "evaluate", ("encoder=e.safetensors", "probe=linear", *data, "trainer.device=cpu", "trainer.precision=fp32")
        )


FUZZ = {
    "encoders": Fuzz(metadata(), check_encoder, 4),
    "manifest": Fuzz(manifests(), check_store, 150),
    "arrays": Fuzz(arrays(), check_store, 80),
    "subset": Fuzz(subsets(), check_subset, 60),
    "results": Fuzz(reports(), check_results, 100),
    "report": Fuzz(reports(), check_report, 8),
    "checkpoints": Fuzz(checkpoints(), check_checkpoint, 80),
    "weights": Fuzz(weight_files(), check_weights, 80),
    "runs": Fuzz(finished_runs(), check_finished_run, 8),
}
