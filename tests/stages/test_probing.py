"""`evaluate encoder=... probe=...`: frozen encoders, scored as fine-tuned networks are."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torchvision import models

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from killed_runs import COLORS, write_dataset

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.data.label_subset import LabelSubset
from ssl_rs.data.labeled_pixels import by_window, draw_pixels
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.reporting.results import read_runs
from ssl_rs.run_directory import RunDirectory, save_tensors
from ssl_rs.segmentation.dense_features import FIRST_LEVEL, DenseFeatures
from ssl_rs.segmentation.sliding_window import read_windows
from ssl_rs.stages import measured_batch_norm, probing
from ssl_rs.stages.probing import fit_probe, read_plan

SMALL = ("probe.samples=300", "evaluation.window.size=32", "trainer.device=cpu", "trainer.precision=fp32")


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """Overrides for a data set whose classes are colors, in blocks of 16 px, with noise."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", size=64)
    return ("dataset=folder", f"dataset.root={tmp_path / 'data'}", "dataset.crop_size=32", "dataset.tile_size=32")


@pytest.fixture
def pretrained(blocks, command):
    code, out, err = command(
        "pretrain", *blocks, "trainer.max_steps=2", "trainer.batch_size=4", "logger=none", "pretext=[contrastive]"
    )
    assert code == 0, err
    return RunDirectory(Path(out.strip().splitlines()[-1]))


def result_of(command, *overrides):
    code, out, err = command("evaluate", *overrides)
    assert code == 0, err
    return json.loads((Path(out.strip().splitlines()[-1]) / "result.json").read_text())


class Colors(nn.Module):
    """An encoder whose only level from stride 4 on is the averaged image itself, which tells the classes."""

    out_channels = (3, 0, 3)

    def forward(self, images):
        return [images, images[:, :0], nn.functional.avg_pool2d(images, 4)]


def write_stripes(root):
    """Classes side by side in stripes of 16 px, in each scene elsewhere.

    They have no corners, which interpolated probabilities would round.
    """
    paths = sorted(root.glob("*/*/*.png"))
    scenes = sorted({path.stem for path in paths})
    for path in paths:
        order = np.roll(np.array([0, 1, 2, 1], np.uint8), scenes.index(path.stem))
        stripes = np.tile(order.repeat(16), (64, 1))
        Image.fromarray(np.array(COLORS, np.uint8)[stripes] if "images" in str(path) else stripes).save(path)


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_features_that_tell_the_classes_score_one(blocks, tmp_path, monkeypatch, probe):
    write_stripes(tmp_path / "data")
    chosen = ("encoder=random", "backbone=resnet18", f"probe={probe}", *blocks, *SMALL)
    plan = read_plan(Settings("evaluate", resolve(compose_config("evaluate", chosen))))
    normalization = Normalization(Statistics((0.5,) * 3, (0.5,) * 3, "a test"))
    features = DenseFeatures(Colors(), normalization, plan.probe.stride)
    given, fit = [], type(plan.probe).fit
    monkeypatch.setattr(type(plan.probe), "fit", lambda self, rows, *more: given.append(rows) or fit(self, rows, *more))
    network, fitted = fit_probe(plan, features)
    torch.testing.assert_close(given[0].mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)  # the scenes are standardized
    torch.testing.assert_close(given[0].square().mean(dim=0), torch.full((3,), 1 / 3), atol=1e-4, rtol=0)
    assert fitted == {"pixels": 300, "dimensions": 3, "accuracy_on_these": 1.0}
    assert plan.evaluator.score(network, Processes(), tmp_path / "samples.npz")["miou"] == 1.0


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_a_pretraining_is_probed_with_its_own_data_and_the_report_shows_it(command, pretrained, probe):
    chosen = (f"encoder={pretrained.path}", f"probe={probe}", "label_fraction=50pct", *SMALL)
    result = result_of(command, *chosen)
    assert (result["command"], result["dataset"], result["backbone"]) == ("evaluate", "folder", "resnet18")
    assert (result["decoder"], result["label"], result["steps"]) == (f"{probe}_probe", "contrastive", 0)
    assert (result["label_fraction"], result["labeled_units"], result["label_order"]) == (0.5, 8, "random")
    assert result["provenance"]["sha256"] == pretrained.read_result()["encoder_sha256"]
    assert result["probe"]["dimensions"] == 64 + 128 + 256 + 512
    assert result["probe"]["pixels"] == 300
    subset = LabelSubset.read(next(Path("outputs/evaluate").rglob("label_subset.json")))
    assert subset.sha256 == result["subset_sha256"]
    assert sum(map(sum, result["confusion"])) == 64 * 64  # every pixel of the one test scene, once
    assert result["protocols"]["all_classes"]["miou"] == result["miou"] > 0.4
    (run,), left_out = read_runs(Path("outputs/evaluate"))
    assert left_out == []
    assert run.decoder == f"{probe}_probe"
    assert result_of(command, *chosen) == result  # finished: told again
    shutil.rmtree("outputs/evaluate")
    again = result_of(command, *chosen)
    assert {**again, "wall_seconds": 0} == {**result, "wall_seconds": 0}
    code, out, err = command("report", "runs=outputs/evaluate")
    assert code == 0, err
    assert "frozen encoder" in Path(out.strip()).read_text()


def test_initializations_share_labels_and_are_compared_in_one_table(command, blocks, pretrained):
    random = result_of(command, "encoder=random", "backbone=resnet18", "probe=linear", *blocks, *SMALL)
    own = result_of(command, f"encoder={pretrained.path}", "probe=linear", *SMALL)
    coarse = result_of(command, f"encoder={pretrained.path}", "probe=linear", *SMALL, "trainer.precision=bf16")
    assert coarse["made_with"]["precision"] == "bf16"
    assert (coarse["config_hash"] != own["config_hash"], coarse["settings_hash"]) == (True, own["settings_hash"])
    assert random["subset_sha256"] == own["subset_sha256"]
    assert random["settings_hash"] == own["settings_hash"]
    assert (random["label"], random["initialization"], random["provenance"]["sha256"]) == ("random", "random", None)
    assert random["probe"]["batch_norm"] == "measured on 16 x 16 windows"
    assert "batch_norm" not in own["probe"]
    assert random["miou"] != own["miou"]


@pytest.mark.parametrize(
    ("share", "side", "told"),
    [
        (1.0, 32, ""),
        (0.9, 32, ", drawn by their pixels with data"),
        (1.0, 33, ", in passes over the images"),
        (0.9, 33, ", drawn by their pixels with data, in passes over the images"),
    ],
)
def test_what_is_told_of_measured_statistics(share, side, told):
    """Where there is something to tell, earlier versions measured on other windows: those probes are other ones."""
    scenes = [SimpleNamespace(valid_share=each, height=64, width=10) for each in (0.5, share)]
    store = SimpleNamespace(manifest=SimpleNamespace(scenes=scenes), scenes_of=lambda split: (1,))
    expected = {"batch_norm": f"measured on 16 x 16 windows{told}"}
    assert measured_batch_norm.how_measured("random", SimpleNamespace(store=store), side) == expected
    assert measured_batch_norm.how_measured("imagenet", SimpleNamespace(store=store), side) == {}


def test_random_weights_have_statistics_of_training_images_as_trained_ones_do(blocks, monkeypatch):
    """Against every activation of all windows at once, in float64."""
    monkeypatch.setattr(measured_batch_norm, "MEASURED_BATCHES", 3)
    chosen = ("encoder=random", "backbone=resnet18", "probe=knn", *blocks, *SMALL)
    plan = read_plan(Settings("evaluate", resolve(compose_config("evaluate", chosen))))
    encoder = plan.backbone.build(3)
    normalization = Normalization(Statistics((0.3,) * 3, (0.2,) * 3, "a test"))
    features = DenseFeatures(encoder, normalization, plan.probe.stride)
    first = next(each for each in encoder.modules() if isinstance(each, nn.BatchNorm2d))
    inputs = []
    first.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().double()))
    measured_batch_norm.measure_batch_norm(plan.site, plan.evaluator.settings.window.size, features)
    assert (len(inputs), len(inputs[0])) == (3, measured_batch_norm.MEASURED_SIZE)
    pixels = [each.movedim(1, 0).flatten(1) for each in inputs]  # [C, N] a batch
    torch.testing.assert_close(first.running_mean.double(), torch.cat(pixels, 1).mean(1), rtol=1e-4, atol=1e-6)
    variance = torch.stack([each.var(1) for each in pixels]).mean(0)
    torch.testing.assert_close(first.running_var.double(), variance, rtol=1e-4, atol=1e-6)
    assert not any(each.training for each in features.modules())
    assert first.momentum == 0.1


def test_a_file_of_weights_is_probed_where_its_run_is_gone(command, blocks, pretrained, tmp_path):
    beside = result_of(command, f"encoder={pretrained.encoder}", "probe=linear", *SMALL)
    alone = tmp_path / "mine.safetensors"
    shutil.copy(pretrained.encoder, alone)
    found = result_of(command, f"encoder={alone}", "probe=linear", *blocks, *SMALL)
    assert (beside["label"], found["label"]) == ("contrastive", "mine")
    assert found["confusion"] == beside["confusion"]
    assert found["provenance"]["loaded_tensors"] == 120


def test_a_file_whose_training_saw_the_test_images_says_so(blocks, command, tmp_path):
    seen = ("dataset.transductive=true", "trainer.max_steps=2", "trainer.batch_size=4", "logger=none")
    code, out, err = command("pretrain", *blocks, *seen, "pretext=[contrastive]")
    assert code == 0, err
    run, folder = RunDirectory(Path(out.strip().splitlines()[-1])), tmp_path / "elsewhere"
    folder.mkdir()
    for file in (run.encoder, run.images_seen):
        shutil.copy(file, folder)
    with pytest.warns(UserWarning, match="not their labels: reports call it transductive"):
        found = result_of(command, f"encoder={folder / run.encoder.name}", "probe=knn", *blocks, *SMALL)
    assert found["provenance"]["label"] == "encoder (transductive)"


BARE = ("encoder=random", "backbone=resnet18", "probe=linear", "dataset=blue_marble")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("encoder=nowhere", "probe=linear"), "encoder=nowhere: there is no such folder or file"),
        (("encoder=random", "probe=linear"), "names its data"),
        (("encoder=random",), "choose probe=linear or probe=knn"),
        (("encoder=random", "probe=linear", "dataset=blue_marble"), "backbone=resnet18"),
        (("encoder=random", "probe=linear", "encoder_weights=x.pth"), "names its data"),
        (("probe=linear",), "probe=... probes a frozen encoder"),
        (("label=x",), "label=x only applies to encoder=..."),
        (("run=x", "dataset=blue_marble"), "run=x"),
        (("run=x", "encoder_weights=y"), "encoder_weights=y only applies to encoder=..."),
        (
            (*BARE, "bands=[1,2,3]"),
            "bands=[1, 2, 3] only applies to run=... ; for dataset=folder set dataset.channels=...",
        ),
        ((*BARE, "value_scale=100"), "value_scale=100 only applies to run=... ; set dataset.value_scale=..."),
    ],
)
def test_mistakes_are_named(command, tmp_path, monkeypatch, overrides, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("evaluate", *overrides)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_more_mistakes_with_data_at_hand_are_named(command, blocks, pretrained):
    def fails(*overrides):
        code, _, err = command("evaluate", "probe=linear", *SMALL, *overrides)
        assert code == 2
        return err

    random = ("encoder=random", "backbone=resnet18", *blocks)
    err = fails(*random, "encoder_weights=x")
    assert "encoder_weights=x has no meaning with encoder=random. Choose encoder=imagenet or encoder=file, or" in err
    theirs = ("encoder=file", "backbone=resnet18", *blocks)
    assert "encoder=file needs the file" in fails(*theirs)
    assert "encoder_weights=gone.pth: there is no such file" in fails(*theirs, "encoder_weights=gone.pth")
    assert "evaluation.window.size=40" in fails(*random, "evaluation.window.size=40")
    assert "batch_size must be at least 1, got 32 and 0" in fails(*random, "evaluation.window.batch_size=0")
    assert "Give one of the two" in fails(*random, "run=x")
    assert "is an encoder resnet18, this run has backbone.name=resnet34" in fails(
        f"encoder={pretrained.path}", "backbone=resnet34"
    )
    other = Path("bare.safetensors")
    shutil.copy(pretrained.encoder, other)
    assert "is an encoder resnet18, this run has" in fails(f"encoder={other}", "backbone=resnet34", *blocks)
    pretrained.result.write_text('{"command": "finetune"}')
    assert "It is a finished finetune." in fails(f"encoder={pretrained.path}")
    pretrained.result.write_text("{}")
    assert "holds no finished pretraining" in fails(f"encoder={pretrained.path}")


def test_weights_of_others_are_probed_like_ours(command, blocks, pretrained):
    weights = load_file(pretrained.encoder)
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, "theirs.pth")
    chosen = ("probe=knn", *SMALL, "backbone=resnet18", *blocks)
    theirs = result_of(command, "encoder=file", "encoder_weights=theirs.pth", *chosen)
    assert (theirs["initialization"], theirs["label"]) == ("file", "theirs")
    torch.save(torch.load("theirs.pth")["state_dict"] | weights, "two.pth")
    code, _, err = command("evaluate", "encoder=file", "encoder_weights=two.pth", *chosen)
    assert code == 2
    assert "encoder_weights=two.pth cannot be probed as it is: " in err
    # Ours brings its own statistics, which are the data's: it was trained on them.
    ours = result_of(command, f"encoder={pretrained.path}", "probe=knn", *SMALL)
    assert theirs["confusion"] == ours["confusion"]


def test_probing_draws_nothing_from_the_global_generator(command, blocks):
    torch.manual_seed(1)
    chosen = ("encoder=random", "backbone=resnet18", "probe=knn", *blocks, *SMALL)
    first = result_of(command, *chosen)
    shutil.rmtree("outputs/evaluate")
    torch.manual_seed(2)
    assert result_of(command, *chosen)["confusion"] == first["confusion"]


@pytest.mark.parametrize(
    "odd",
    [
        {"bands": "[1"}, {"bands": "[1, 2, 3]"}, {"mean": "null"}, {"std": "[" * 5000}, {"mean": "[0.5]"},
        {"std": '["1", "1", "1"]'}, {"value_scale": '"255"'}, {"backbone": "x" * 5000}, {"backbone": ""},
    ],
)  # fmt: skip
def test_a_file_that_tells_nonsense_is_refused(command, blocks, odd):
    path, (key,) = Path("odd.safetensors"), odd
    whole = {
        "backbone": "resnet18", "bands": '["red", "green", "blue"]', "mean": "[0.5, 0.5, 0.5]", "std": "[1, 1, 1]",
        "value_scale": "255.0",
    }  # fmt: skip
    save_tensors(path, {"a": torch.zeros(1)}, {**whole, **odd})
    code, _, err = command("evaluate", f"encoder={path}", "probe=linear", *blocks, *SMALL)
    assert code == 2
    assert key in err
    assert "Traceback" not in err
    save_tensors(path, {"a": torch.zeros(1)}, whole)
    code, _, err = command("evaluate", f"encoder={path}", "probe=linear", *blocks, *SMALL)
    assert (code, "encoder=odd.safetensors does not fit backbone resnet18: " in err) == (2, True)


@pytest.mark.slow
def test_probes_are_swept_and_fill_one_table(blocks, pretrained, command, tmp_path):
    weights = tmp_path / "resnet18.pth"
    torch.save(models.resnet18().state_dict(), weights)
    varied = (f"encoder={pretrained.path},imagenet", "probe=knn,linear", f"encoder_weights={weights}")
    # Keys of a probe cannot be set where probes are swept: Hydra knows none before it chooses one.
    fixed = ("backbone=resnet18", "evaluation.window.size=32", "trainer.device=cpu", "label_fraction=50pct", *blocks)
    code, out, err = command("evaluate", "-m", *varied, *fixed)
    assert code == 0, err
    assert "4 of 4 runs are finished." in out
    before = {path: path.read_bytes() for path in sorted(Path("outputs/evaluate").rglob("result.json"))}
    runs, left_out = read_runs(Path("outputs/evaluate"))
    assert not left_out
    assert sorted((run.decoder, run.label) for run in runs) == [
        (probe, label) for probe in ("knn_probe", "linear_probe") for label in ("contrastive", "imagenet")
    ]
    code, out, err = command("evaluate", "-m", *varied, *fixed)
    assert code == 0, err
    assert out.startswith("4 runs, 4 finished before")
    assert before == {path: path.read_bytes() for path in sorted(Path("outputs/evaluate").rglob("result.json"))}
    shutil.rmtree(next(iter(before)).parent)
    code, _, err = command("report", "runs=outputs/evaluate", "run_dir=outputs/probes")
    assert code == 0, err
    assert "Cells: 3 done, 0 failed, 1 missing, 0 stale" in err
    assert "python -m ssl_rs.evaluate encoder=" in err


@pytest.mark.slow
def test_runs_are_scored_again_by_a_sweep(blocks, command):
    tuned = []
    for seed in (0, 1):
        given = ("trainer.max_steps=2", "trainer.batch_size=4", "logger=none", f"seed={seed}")
        code, out, err = command("finetune", *blocks, *given)
        assert code == 0, err
        tuned.append(out.strip().splitlines()[-1])
    code, out, err = command("evaluate", "-m", f"run={','.join(tuned)}", "evaluation.split=val,test")
    assert code == 0, err
    assert "4 of 4 runs are finished." in out
    runs, _ = read_runs(Path("outputs/evaluate"))
    assert sorted((run.split, run.seed) for run in runs) == [("test", 0), ("test", 1), ("val", 0), ("val", 1)]


def settings(*overrides):
    return Settings("evaluate", resolve(compose_config("evaluate", overrides)))


def test_probes_of_other_labels_have_folders_of_their_own(blocks):
    chosen = ("encoder=random", "backbone=resnet18", "probe=knn", *blocks, *SMALL, "label_fraction=50pct")
    plans = [read_plan(settings(*chosen, f"label_fraction.order={order}")) for order in ("random", "stratified")]
    assert plans[0].subset.units != plans[1].subset.units
    assert plans[0].run.hash != plans[1].run.hash


def test_a_probe_is_fitted_to_values_that_are_clipped_as_those_it_is_scored_on(blocks):
    chosen = ("encoder=random", "backbone=resnet18", "probe=knn", *blocks, *SMALL, "dataset.value_scale=100")
    plan = read_plan(settings(*chosen))
    plain = Normalization(Statistics((0.0,) * 3, (1.0,) * 3, "a test"))
    features, _ = probing.labeled_features(plan, DenseFeatures(Colors(), plain, plan.probe.stride))
    assert features.max() == 1  # the colors of its classes have values of up to 200 and more


@pytest.mark.parametrize("stride", [4, 8])
def test_windows_read_together_have_the_features_of_each_alone(blocks, stride):
    """Against levels that are resampled plane by plane, a window at a time."""
    chosen = ("encoder=random", "backbone=resnet18", "probe=knn", *blocks, *SMALL, f"probe.stride={stride}")
    plan = read_plan(settings(*chosen))
    encoder = Backbone("resnet18").build(3)
    normalization = Normalization(Statistics((0.5,) * 3, (0.25,) * 3, "a test"))
    dense = DenseFeatures(encoder, normalization, stride)
    found, labels = probing.labeled_features(plan, dense)
    store, size = plan.site.store, plan.evaluator.settings.window.size
    drawn = draw_pixels(store, plan.subset, plan.probe.samples, plan.probe.sampling, plan.site.seed)
    rows, truth = [], []
    for scene, top, left, pixels in by_window(drawn, store, size):
        image = read_windows(store.image(scene), [(top, left)], size, store.manifest.value_scale, torch.device("cpu"))
        with torch.no_grad():
            levels = encoder(normalization(image))[FIRST_LEVEL:]
        side = size // stride
        grid = [
            F.adaptive_avg_pool2d(level, side)
            if level.shape[-1] > side
            else F.interpolate(level, size=(side, side), mode="bilinear", align_corners=False)
            for level in levels
        ]
        cells = torch.cat(grid, dim=1)[0].permute(1, 2, 0)
        rows += [
            cells[row // stride, column // stride] for row, column in zip(pixels.rows, pixels.columns, strict=True)
        ]
        truth += pixels.labels.tolist()
    assert len({scene for scene, *_ in by_window(drawn, store, size)}) > 1
    torch.testing.assert_close(found, torch.stack(rows))
    assert labels.tolist() == truth
