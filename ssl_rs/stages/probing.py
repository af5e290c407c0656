"""Probe a frozen encoder: labeled pixels -> features -> a simple classifier -> the scores of whole scenes."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_rs.build import build
from ssl_rs.config import Settings
from ssl_rs.config_hash import config_hash, leaves
from ssl_rs.data.label_subset import LabelFraction, LabelSubset, choose_labels
from ssl_rs.data.labeled_pixels import WindowPixels, by_window, draw_pixels
from ssl_rs.data.store import Store
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Backbone, Normalization, check_side
from ssl_rs.errors import InputError
from ssl_rs.initialization import Initialization
from ssl_rs.messages import print_line
from ssl_rs.precision import autocast
from ssl_rs.randomness import derive_seed
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.dense_features import DenseFeatures, ProbeNetwork, Standardization
from ssl_rs.segmentation.probes import Probe
from ssl_rs.segmentation.sliding_window import WindowSettings, read_windows
from ssl_rs.stages.evaluation import EvaluationSettings, Evaluator, check_classes
from ssl_rs.stages.finished_run import changed_windows, data_like, read_computer
from ssl_rs.stages.held_folder import opened
from ssl_rs.stages.identified import Identified
from ssl_rs.stages.measured_batch_norm import how_measured, measure_batch_norm
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.probed_encoder import initialization_of, load_encoder, stored_backbone, stored_run
from ssl_rs.stages.site import Site, SiteSettings, check_once
from ssl_rs.stages.table_row import table_row

DIVISOR = 32
"""Windows are a multiple of the deepest level's stride, so that every level lies on one grid."""


@dataclass(frozen=True)
class Plan:
    """A checked probe, before the first heavy work.

    Args:
        site: Where it runs.
        initialization: Gives the encoder its weights.
        backbone: Which encoder.
        probe: What is fitted.
        subset: The labels it is fitted to.
        evaluator: How it is scored.
        settings_hash: Of all settings but those by which the report's table varies.
        run: Its folder and hash.
    """

    site: Site
    initialization: Initialization
    backbone: Backbone
    probe: Probe
    subset: LabelSubset
    evaluator: Evaluator
    settings_hash: str
    run: Identified

    def row(self, label: str) -> dict[str, Any]:
        """Return its place in the report's table, under the label of its initialization; no network is trained."""
        return table_row(self.site, self.backbone, self.probe.name, label, self.subset, 0, self.settings_hash)


def read_plan(settings: Settings) -> Plan:
    """Read and check every key, choose the labels, and derive where the scores live."""
    return draft(settings)()


def draft(settings: Settings, planned: bool = False) -> Callable[[], Plan]:
    """Read and check every key; what is returned prepares the data and derives where the scores live.

    Args:
        settings: The settings.
        planned: It runs later if at all, as a cell of a sweep: all that needs no data is checked at once.

    Raises:
        InputError: Names the key that is wrong.
    """
    chosen = settings.value("encoder", str)
    if "probe" not in settings.values:
        raise InputError(f"encoder={chosen} is probed: choose probe=linear or probe=knn.")
    stored = stored_run(chosen)
    surroundings = _surroundings(settings, stored)
    backbone = settings.build("backbone") if "backbone" in settings.values else stored_backbone(chosen, stored)
    probe: Probe = settings.build("probe")
    fraction = settings.build("label_fraction") if "label_fraction" in settings.values else LabelFraction(1.0, "tile")
    weights, label = (settings.value(key, str | None) for key in ("encoder_weights", "label"))
    run, run_dir = settings.value("run", str | None), settings.value("run_dir", str | None)
    if run is not None:
        raise InputError(f"run={run} is scored as it is, encoder={chosen} is probed. Give one of the two.")
    if (bands := settings.value("bands", tuple[int, ...] | None)) is not None:
        raise InputError(f"bands={list(bands)} only applies to run=... ; for dataset=folder set dataset.channels=... .")
    if (scale := settings.value("value_scale", float | None)) is not None:
        raise InputError(f"value_scale={scale:g} only applies to run=... ; set dataset.value_scale=... .")
    split: Literal["val", "test"] = settings.value("evaluation.split", Literal["val", "test"])
    window = changed_windows(settings, WindowSettings(surroundings.dataset.crop_size))
    evaluation = EvaluationSettings(split, window, surroundings.dataset)
    settings.check_all_read()
    check_classes(surroundings.dataset, "a probe")
    check_side(evaluation.window.size, DIVISOR, "evaluation.window.size")
    initialization = initialization_of(chosen, weights, label)
    Processes.alone("evaluate")

    def check_early() -> None:
        dataset, pretrainings = surroundings.dataset, surroundings.pretrainings(backbone.name)
        initialization.check(dataset.name, backbone.name, pretrainings, dataset.value_scale)
        bands = len(surroundings.dataset.band_names)
        check_once(partial(backbone.build, bands), "probe", asdict(backbone), bands)

    def enter() -> Plan:
        site = surroundings.enter(check_early)
        return _place(site, initialization, backbone, probe, fraction, evaluation, run_dir, settings.overrides)

    if planned:
        check_early()
    return enter


def _place(
    site: Site, initialization: Initialization, backbone: Backbone, probe: Probe, fraction: LabelFraction,
    evaluation: EvaluationSettings, run_dir: str | None, overrides: Sequence[str],
) -> Plan:  # fmt: skip
    """Choose the labels, and derive where the scores live from all that can change them."""
    evaluator = Evaluator(site.store, evaluation, site.device, site.precision)
    subset = choose_labels(site.store, site.dataset.tile_size, fraction, site.seed)
    found = initialization.locate(site.target(backbone))
    how = {
        "probe": {"kind": probe.name, **asdict(probe)},  # type: ignore[call-overload]
        "window": evaluation.window.identity,
        "split": evaluation.split,
        "backbone": backbone.name,
    }
    inputs = {"manifest": site.store.manifest.sha256}
    own: dict[str, Any] = {
        "encoder": found.sha256, "label": found.label, "subset": subset.sha256, "protocol": site.dataset.protocol,
        "precision": site.precision,
    }  # fmt: skip
    own |= how_measured(found.kind, site, evaluation.window.size)
    digest = config_hash({**how, "seed": site.seed}, {**inputs, **own})
    folder = Path(site.dataset.name, f"{backbone.name}-{probe.name}", found.kind, f"{fraction.fraction * 100:g}pct")
    path = Path(run_dir or site.output_dir / "evaluate" / folder / f"seed{site.seed}-{digest}")
    run = Identified(RunDirectory(path), digest, leaves(how), overrides)
    return Plan(site, initialization, backbone, probe, subset, evaluator, config_hash(how, inputs), run)


def _surroundings(settings: Settings, stored: Mapping[str, Any]) -> SiteSettings:
    """Read where it runs; the data is that of the pretraining where no other is chosen."""
    trusted = settings.trusted
    if "_target_" in settings.values["dataset"]:
        dataset = settings.build("dataset")
    elif not stored:
        raise InputError(
            "Only a finished pretraining names its data. Choose one: dataset=..., e.g. dataset=blue_marble."
        )
    else:
        dataset = build(data_like(settings, stored["dataset"]), "dataset", trusted)
    seed, folders = settings.value("seed", int), [settings.value(key, str) for key in ("output_dir", "store_dir")]
    return SiteSettings(read_computer(settings), dataset, seed, Path(folders[0]), Path(folders[1]))


def place(settings: Settings) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Check the settings; return what tells where the scores would live and their place in the report's table."""
    enter = draft(settings, planned=True)
    return lambda: _placed(enter())


def _placed(plan: Plan) -> tuple[Path, dict[str, Any]]:
    found = plan.initialization.locate(plan.site.target(plan.backbone))
    return plan.run.directory.path, plan.row(found.label) | {"split": plan.evaluator.settings.split}


def probe_encoder(settings: Settings) -> Path:
    """Fit a probe to frozen features and score it on whole scenes; return the folder of the scores."""
    plan = read_plan(settings)
    site, directory = plan.site, plan.run.directory
    if plan.run.is_finished("evaluate"):
        return directory.path
    with opened(directory, settings.values, site):
        result = _fit_and_score(plan)
        directory.finish(result)
    tell("Probed", result)
    return directory.path


def _fit_and_score(plan: Plan) -> dict[str, Any]:
    """Return what result.json says of a probe."""
    site, folder = plan.site, plan.run.directory.path
    started = time.monotonic()
    torch.manual_seed(derive_seed(site.seed, "weights"))  # as in fine-tuning: random weights are the same
    site.settle_memory()
    encoder = plan.backbone.build(len(site.store.manifest.bands))
    provenance = load_encoder(plan.initialization, encoder, site.target(plan.backbone))
    print_line(provenance.describe())
    features = DenseFeatures(encoder, Normalization(provenance.statistics), plan.probe.stride).to(site.device)  # type: ignore[arg-type]
    if provenance.kind == "random":
        measure_batch_norm(site, plan.evaluator.settings.window.size, features)
    measured = how_measured(provenance.kind, site, plan.evaluator.settings.window.size)
    plan.subset.write(folder / "label_subset.json")
    network, fitted = fit_probe(plan, features)
    seconds = time.monotonic() - started
    scores = plan.evaluator.score(network, site.processes, folder / "samples.npz")
    return {
        "command": "evaluate",
        **plan.row(provenance.label),
        "initialization": provenance.kind,
        "provenance": provenance.as_json(),
        "probe": {**asdict(plan.probe), **fitted, **measured},  # type: ignore[call-overload]
        "wall_seconds": round(seconds, 1),
        **scores,
        "config_hash": plan.run.hash,
        **plan.run.origin(site),
    }


def fit_probe(plan: Plan, features: DenseFeatures) -> tuple[ProbeNetwork, dict[str, Any]]:
    """Fit the probe; return the network that it makes, and what the result says of the fit."""
    rows, labels = labeled_features(plan, features)
    standardization = Standardization(rows, features.channels)
    rows = standardization(rows)
    num_classes = len(plan.site.store.manifest.classes)
    classifier: nn.Module = plan.probe.fit(rows, labels, num_classes)
    with torch.no_grad():
        right = (classifier(rows).argmax(dim=1) == labels).float().mean()
    network = ProbeNetwork(features, standardization, classifier).to(plan.site.device)
    return network, {"pixels": len(labels), "dimensions": rows.shape[1], "accuracy_on_these": float(right)}


@torch.no_grad()
def labeled_features(plan: Plan, features: DenseFeatures) -> tuple[Tensor, Tensor]:
    """Return the features float32 [N, D] of the cells in which drawn labeled pixels lie, and their labels int64 [N]."""
    site, window = plan.site, plan.evaluator.settings.window
    store: Store = site.store
    drawn = draw_pixels(store, plan.subset, plan.probe.samples, plan.probe.sampling, site.seed)
    found, labels = [], []
    for batch in _batches(by_window(drawn, store, window.size), window.batch_size):
        corners, scale = [(top, left) for _, top, left, _ in batch], store.manifest.value_scale
        images = read_windows(store.image(batch[0][0]), corners, window.size, scale, site.device)  # [B, C, S, S]
        with autocast(site.device, site.precision):
            maps = features(images)  # [B, D, h, w]
        for cells, (*_, pixels) in zip(maps, batch, strict=True):
            rows, columns = (
                torch.from_numpy(each // plan.probe.stride).to(site.device) for each in (pixels.rows, pixels.columns)
            )
            found.append(cells[:, rows, columns].T)
            labels.append(torch.from_numpy(pixels.labels).to(site.device, torch.int64))
    return torch.cat(found), torch.cat(labels)


def _batches(windows: Iterable[WindowPixels], size: int) -> Iterator[list[WindowPixels]]:
    """Return windows by the scene, at most so many at a time."""
    for _, of_scene in itertools.groupby(windows, key=lambda window: window[0]):
        while batch := list(itertools.islice(of_scene, size)):
            yield batch
