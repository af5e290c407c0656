"""Whole commands on a tiny labeled data set: what they leave behind, and what they say of mistakes."""

import csv
import errno
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import wandb
import yaml
from PIL import Image
from safetensors import safe_open

from ssl_rs import sweep_plan
from ssl_rs.command import COMMANDS
from ssl_rs.config_files import conf_dir
from ssl_rs.data.label_subset import LabelSubset
from ssl_rs.files import sha256_of
from ssl_rs.reporting.cells_file import COLUMNS
from ssl_rs.reporting.page import _is_of_report
from ssl_rs.run_directory import RunDirectory, save_tensors
from ssl_rs.segmentation.loss import SegmentationLoss
from ssl_rs.stages import site
from ssl_rs.training import settings
from ssl_rs.weights_metadata import read_weights_metadata

pytestmark = pytest.mark.slow

TURNS = "evaluation.window.test_time_augmentation"


@pytest.fixture
def pretrained(command, tiny):
    code, out, err = command("pretrain", *tiny)
    assert code == 0, err
    return RunDirectory(Path(out.strip().splitlines()[-1]))


def test_pretraining_leaves_the_files_of_a_run(pretrained):
    result = pretrained.read_result()
    assert result["command"] == "pretrain"
    assert result["pretext"] == ["inpainting", "transform_prediction", "contrastive"]
    assert result["images_seen"] == 16
    assert set(result["final_losses"]) == set(result["pretext"])
    assert result["collapse"]["dimensions"] == 1280
    assert [line["step"] for line in pretrained.read_metrics()] == [2, 4]
    assert not pretrained.checkpoints.exists()
    with safe_open(pretrained.encoder, framework="pt") as file:
        assert file.metadata()["backbone"] == "mobilenet_v2"
        assert "features.0.0.weight" in file.keys()  # the encoder's own names  # noqa: SIM118 - no mapping
    environment = json.loads((pretrained.path / "environment.json").read_text())
    assert environment["precision"] in ("fp32", "bf16")
    assert {"timm", "kornia", "torchvision"} <= environment["libraries"].keys()
    assert None not in environment["libraries"].values()


def test_pretraining_reads_no_mask_and_no_test_scene(command, tiny, monkeypatch):
    from ssl_rs.data.store import Store

    read = []
    image = Store.image
    monkeypatch.setattr(
        Store, "image", lambda store, index: (read.append(store.manifest.scenes[index].split), image(store, index))[1]
    )
    monkeypatch.setattr(Store, "mask", lambda store, index: pytest.fail("a mask was read"))
    code, _, err = command("pretrain", *tiny)
    assert code == 0, err
    assert set(read) == {"train"}


def test_the_same_command_again_returns_the_finished_run(command, tiny, pretrained):
    before = pretrained.encoder.stat().st_mtime_ns
    code, out, err = command("pretrain", *tiny)
    assert code == 0
    assert Path(out.strip()) == pretrained.path
    assert f"{pretrained.path} was finished before: contrastive loss" in err
    assert pretrained.encoder.stat().st_mtime_ns == before


def test_a_finished_run_whose_weights_are_damaged_is_trained_anew_as_its_messages_say(command, tiny, pretrained):
    whole = pretrained.encoder.read_bytes()
    pretrained.encoder.unlink()
    code, _, err = command("pretrain", *tiny)
    assert code == 0
    anew = f"Delete {pretrained.result}: the command that made the run then trains anew."
    assert f"{pretrained.encoder} is missing. If it is wanted: {anew}" in err
    pretrained.encoder.write_bytes(whole[:-100])
    code, _, err = command("pretrain", *tiny)
    assert code == 2
    assert f"{pretrained.encoder} is not the file that its result.json names" in err
    assert anew in err
    pretrained.result.unlink()
    assert command("pretrain", *tiny)[0] == 0
    assert pretrained.encoder.read_bytes() == whole


def test_fine_tuning_weighs_classes_by_the_labels_of_its_own_subset(command, tiny, folder_dataset, monkeypatch):
    given = []
    plain = SegmentationLoss.__call__

    def spy(loss, logits, masks, ignore_index, class_weights):
        given.append(class_weights)
        return plain(loss, logits, masks, ignore_index, class_weights)

    monkeypatch.setattr(SegmentationLoss, "__call__", spy)
    few = ("label_fraction.fraction=0.3", "dataset.tile_size=16")
    code, out, _ = command("finetune", *tiny, *few, "loss=balanced", "loss.balance=1", "loss.dice=0.5")
    assert code == 0
    run = Path(out.splitlines()[-1])
    subset = LabelSubset.read(run / "label_subset.json")
    masks = {path.stem: np.array(Image.open(path)) for path in folder_dataset.glob("masks/train/*.png")}
    tiles = [masks[u.scene][u.row : u.row + u.height, u.column : u.column + u.width].ravel() for u in subset.units]
    pixels = np.bincount(np.concatenate(tiles), minlength=3)
    assert given[0].tolist() == pytest.approx(pixels.sum() / 3 / pixels, rel=1e-5)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"segmentation/dice", "segmentation/cross_entropy"} <= lines[-1].keys()
    _, out, _ = command("finetune", *tiny, *few)
    assert Path(out.splitlines()[-1]) != run


def test_transform_prediction_is_learnt(command, tiny):
    """Crop, colors and all, from random weights: chance is one in six, where a head that pools stays for good."""
    sizes = ("dataset.crop_size=64", "trainer.batch_size=16", "trainer.max_steps=40", "trainer.log_every_steps=20")
    code, out, _ = command("pretrain", *tiny, *sizes, "backbone=resnet18", "pretext=[transform_prediction]")
    assert code == 0
    accuracies = [
        line["transform_prediction/accuracy"]
        for line in RunDirectory(Path(out.strip().splitlines()[-1])).read_metrics()
    ]
    assert accuracies[-1] > 0.5  # of the last 20 steps


def test_finetuning_evaluation_and_report_follow(command, tiny, pretrained):
    small = (*tiny, "label_fraction=50pct", "dataset.tile_size=32")
    runs = []
    for initialization in ("random", "pretrained"):
        code, out, err = command("finetune", *small, f"initialization={initialization}")
        assert code == 0, err
        runs.append(RunDirectory(Path(out.strip().splitlines()[-1])))
        assert f"mIoU {100 * runs[-1].read_result()['miou']:.1f} % on the test scenes of folder" in err
    random, transferred = (run.read_result() for run in runs)
    assert random["subset_sha256"] == transferred["subset_sha256"]
    assert random["labeled_units"] == 18  # half of 4 scenes x 9 tiles
    assert transferred["provenance"]["sha256"] == pretrained.read_result()["encoder_sha256"]
    assert transferred["provenance"]["loaded_tensors"] == 312
    assert transferred["label"] == "inpainting + transform_prediction + contrastive"
    assert np.array(random["confusion"]).sum() == 96 * 96  # every pixel of the one test scene, once
    assert set(random["class_iou"]) == {"a", "b", "c"}

    code, out, err = command("evaluate", f"run={runs[0].path}")
    assert code == 0, err
    assert f"Scored: mIoU {100 * random['miou']:.1f} % on the test scenes of folder" in err
    again = json.loads((Path(out.strip()) / "result.json").read_text())
    assert (
        f"  overall accuracy {100 * again['overall_accuracy']:.1f} %, mean F1 {100 * again['mean_f1']:.1f} %, " in err
    )
    assert all(f"{name} {100 * iou:.1f} %" in err for name, iou in again["class_iou"].items() if iou is not None)
    assert again["confusion"] == random["confusion"]
    assert again["protocols"] == random["protocols"]

    assert command("evaluate", f"run={runs[0].path}")[1] == out
    grouped = command("evaluate", f"run={runs[0].path}", r"dataset.scene_group=\w")[1]
    elsewhere = command("evaluate", f"run={_trained_elsewhere(runs[0].path)}")[1]
    assert len({out, grouped, elsewhere}) == 3
    turned = command("evaluate", f"run={runs[0].path}", "evaluation.split=val", f"{TURNS}=true")[1]
    told, before = (json.loads((Path(path.strip()) / "result.json").read_text()) for path in (turned, out))
    assert [each["settings"][key] for each in (told, before) for key in ("evaluation.split", TURNS)] == [
        "val", True, "test", False
    ]  # fmt: skip
    assert told["settings_hash"] != before["settings_hash"] == random["settings_hash"]
    assert json.loads((Path(elsewhere.strip()) / "result.json").read_text())["confusion"] != random["confusion"]

    code, out, err = command("report")
    assert code == 0, err
    page = Path(out.strip()).read_text()
    assert "random" in page
    assert transferred["label"] in page
    assert len(Path("outputs/report/results.csv").read_text().splitlines()) == 3


def _trained_elsewhere(run):
    """Return a copy of a run with other weights, as another machine would have given the same command."""
    copied = RunDirectory(shutil.copytree(run, Path("elsewhere", run.name)))
    with safe_open(copied.model, framework="pt") as file:
        metadata = file.metadata()
        weights = {key: -file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    save_tensors(copied.model, weights, metadata)
    result = copied.read_result() | {"model_sha256": sha256_of(copied.model)}
    copied.result.write_text(json.dumps(result))
    return copied.path


def test_labels_without_some_class_are_told(command, tiny, folder_dataset, tmp_path):
    root = shutil.copytree(folder_dataset, tmp_path / "without")
    for path in root.glob("masks/train/*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 2, 0, mask).astype(np.uint8)).save(path)
    with pytest.warns(UserWarning, match=r"^The training split's masks contain no pixel of c, .* Add masks that"):
        code, out, _ = command("finetune", *tiny, f"dataset.root={root}", "trainer.max_steps=2")
    assert code == 0
    told = next(line for line in out.splitlines() if line.startswith("Labels: "))
    assert told.endswith("c 0")
    pixels = RunDirectory(Path(out.splitlines()[-1])).read_result()["labeled_pixels"]
    assert sum(pixels.values()) == 4 * 96 * 96


def test_one_process_reads_ahead_where_memory_cannot_hold_the_scenes(command, tiny, monkeypatch):
    asked, batches = [], site.batches

    def read(source, start, stop, rows, num_workers, pinned):
        asked.append(num_workers)
        assert not pinned  # it would open a GPU that is not asked for
        return batches(source, start, stop, rows, 0)

    monkeypatch.setattr(site, "batches", read)
    overrides = (*tiny, "pretext=[contrastive]", "trainer.device=cpu", "trainer.max_steps=1")
    for memory, seed in ((10**12, 0), (1000, 1)):
        monkeypatch.setattr(settings, "memory_of_machine", lambda memory=memory: memory)
        assert command("pretrain", *overrides, f"seed={seed}")[0] == 0
    assert asked == [0, 1]


def trained_scale(run):
    return read_weights_metadata(run.model).value_scale


def test_evaluations_by_other_windows_are_rows_of_their_own(command, tiny):
    runs = []
    for seed in (0, 1):
        code, out, err = command("finetune", *tiny, f"seed={seed}", "trainer.max_steps=1")
        assert code == 0, err
        runs.append(out.splitlines()[-1])
    for run in runs:
        for window in ("evaluation.window.size=32", "evaluation.window.size=64"):
            assert command("evaluate", f"run={run}", window)[0] == 0
    assert command("report", "runs=outputs/evaluate", "run_dir=seen")[0] == 0
    with open("seen/summary.csv") as file:
        rows = {(row["label"], row["seeds"]) for row in csv.DictReader(file) if row["protocol"] == "all_classes"}
    assert rows == {("random", "2"), ("random, evaluation.window.size=64", "2")}


def test_an_evaluation_of_values_of_another_type_is_refused(command, tiny, tmp_path, draw_scene):
    """Bytes that are divided by the scale of 16 bits would be black."""
    root, other = tmp_path / "one", tmp_path / "other"
    for folder in (root, other):
        for index, split in enumerate(("train", "train", "test")):
            draw_scene(folder, split, f"s{index}", index)
        (folder / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: 1}, {name: c, index: 2}]")
    for path in root.glob("images/*/*.png"):
        values = np.array(Image.open(path)).astype(np.uint16) * 40
        with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", width=96, height=96, count=3,
                           dtype="uint16") as file:  # fmt: skip
            file.write(values.transpose(2, 0, 1))
        path.unlink()
    code, out, err = command("finetune", *tiny, f"dataset.root={root}", "trainer.max_steps=1")
    assert code == 0, err
    code, _, err = command("evaluate", f"run={out.splitlines()[-1]}", f"dataset.root={other}")
    assert code == 2
    assert "was trained on values of type uint16, the data has uint8" in err


def test_an_evaluation_of_other_classes_is_refused_before_they_are_prepared(command, tiny, tmp_path, draw_scene):
    for root, name in ((tmp_path / "one", "a"), (tmp_path / "other", "x")):
        for index, split in enumerate(("train", "train", "test")):
            draw_scene(root, split, f"s{index}", index)
        text = "classes: [{name: %s, index: 0}, {name: b, index: 1}, {name: c, index: 2}]"
        (root / "classes.yaml").write_text(text % name)
    code, out, err = command("finetune", *tiny, f"dataset.root={tmp_path / 'one'}", "trainer.max_steps=1")
    assert code == 0, err
    given = (f"run={out.splitlines()[-1]}", f"dataset.root={tmp_path / 'other'}")
    stores = set(Path("outputs/stores").iterdir())
    code, _, err = command("evaluate", *given)
    assert code == 2
    assert "was trained on the classes ('a', 'b', 'c'), the data has ('x', 'b', 'c')" in err
    assert set(Path("outputs/stores").iterdir()) == stores
    (tmp_path / "other/classes.yaml").write_text(text % "a")
    Image.new("RGB", (40, 50)).save(tmp_path / "other/images/train/s0.png")  # its mask has another size
    code, _, err = command("evaluate", *given)
    assert code == 2
    assert "(dataset.on_bad_scene=skip leaves such scenes out.)" in err
    code, _, err = command("evaluate", *given, "dataset.on_bad_scene=skip")
    assert code == 0, err


def test_an_evaluation_on_other_data_says_so_and_is_named_by_them(command, unprepared, tmp_path, draw_scene):
    """16 bits, without a scale of their own: other images have another largest value, and the network knows one."""
    roots = [tmp_path / name for name in ("one", "other")]
    for root, factor in zip(roots, (40, 50), strict=True):
        for index, split in enumerate(("train", "train", "test")):
            draw_scene(root, split, f"s{index}", index)
        for path in root.glob("images/*/*.png"):
            values = np.array(Image.open(path)).astype(np.uint16) * factor
            with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", width=96, height=96, count=3,
                               dtype="uint16") as file:  # fmt: skip
                file.write(values.transpose(2, 0, 1))
            path.unlink()
        (root / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: 1}, {name: c, index: 2}]")
    code, out, err = command("finetune", *unprepared, f"dataset.root={roots[0]}")
    assert code == 0, err
    run = RunDirectory(Path(out.splitlines()[-1]))
    trained = run.read_result()
    code, out, err = command("evaluate", f"run={run.path}", f"dataset.root={roots[1]}")
    assert code == 0, err
    assert "This is not the data that the run was trained on (folder)" in err
    assert "(folder); the report gives it a table of its own, under the name other." in err
    assert "on the test scenes of other, protocol" in err
    assert Path(out.splitlines()[-1]).parent == Path("outputs/evaluate/other")
    scored = RunDirectory(Path(out.splitlines()[-1])).read_result()
    config = yaml.safe_load((Path(out.splitlines()[-1]) / "config.yaml").read_text())
    assert config["dataset"]["root"] == str(roots[1])
    assert config["dataset"]["value_scale"] == trained_scale(run)
    assert config["evaluation"]["window"]["size"] == 32
    assert None not in config["evaluation"]["window"].values()
    assert config["decoder"]["_target_"] == "segmentation_models_pytorch.Unet"
    assert scored["trained_on_manifest_sha256"] == trained["manifest_sha256"] != scored["manifest_sha256"]
    stores = [json.loads(path.read_text()) for path in Path("outputs/stores").glob("*/manifest.json")]
    assert len(stores) == 2  # the other data once, by the run's scale and not by their own
    assert len({store["value_scale"] for store in stores}) == 1
    folders = []
    shutil.copytree(roots[0], tmp_path / "moved")
    for root, precision in ((roots[0], "fp32"), (tmp_path / "moved", "fp32"), (roots[0], "bf16")):
        # Of these precisions each rounds otherwise; data that moved are no others.
        code, out, err = command(
            "evaluate", f"run={run.path}", f"dataset.root={root}", f"trainer.precision={precision}"
        )
        assert "other data" not in err
        scored = RunDirectory(Path(out.splitlines()[-1])).read_result()
        assert scored["manifest_sha256"] == trained["manifest_sha256"]
        assert scored["made_with"]["precision"] == precision
        assert scored["trained_with"] == trained["made_with"]
        assert scored["dataset"] == "folder"
        folders.append(scored["config_hash"])
    assert len(set(folders)) == 2
    shutil.move("outputs/stores", tmp_path / "stores")
    code, out, err = command("evaluate", f"run={run.path}", f"dataset.root={tmp_path / 'moved'}")
    assert (code, "other data" in err) == (0, False)  # prepared anew, by the scale of the run
    assert Path(out.splitlines()[-1]).parent == Path("outputs/evaluate/folder")
    shutil.move(roots[0], tmp_path / "elsewhere")
    code, _, err = command("evaluate", f"run={run.path}", "evaluation.split=val")
    assert code == 2
    assert f"The data of {run.path} lay in {roots[0]}, as its config.yaml says" in err
    assert "Say where they lie now: dataset.root=FOLDER" in err
    assert command("evaluate", f"run={run.path}", f"dataset.root={tmp_path / 'elsewhere'}")[0] == 0


def test_every_labeled_scene_of_other_data_can_be_scored(command, tiny, tmp_path, draw_scene):
    own, other, single = (tmp_path / name for name in ("own", "other", "single"))
    for root in (own, other):
        for index, split in enumerate(("train", "train", "test")):
            draw_scene(root, split, f"s{index}", index + 10 * (root == other))
        (root / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: 1}, {name: c, index: 2}]")
    (other / "images/unlabeled").mkdir()
    for more in ("unlabeled/more", "test/without_mask"):
        shutil.copy(other / "images/test/s2.png", other / f"images/{more}.png")
    for name in ("images", "masks"):  # one image, of which no split could be drawn
        (single / name).mkdir(parents=True)
        shutil.copy(other / name / "test/s2.png", single / name)
    shutil.copy(other / "classes.yaml", single)
    code, out, err = command("finetune", *tiny, f"dataset.root={own}", "dataset.scene_group=s")
    assert code == 0, err
    run = out.splitlines()[-1]
    assert RunDirectory(Path(run)).read_result()["scene_groups"] == {"s2": "s"}
    scored = {}
    for root, split in ((other, "all"), (single, "all"), (other, "test")):
        if split == "test":
            (other / "images/test/without_mask.png").unlink()
        code, out, err = command(
            "evaluate", f"run={run}", f"dataset.root={root}", f"evaluation.split={split}", f"dataset.name={root.name}"
        )
        assert code == 0, err
        assert f"{'all' if split == 'all' else 'the test'} scenes of {root.name}" in err
        scored[root.name, split] = RunDirectory(Path(out.splitlines()[-1])).read_result()
        assert scored[root.name, split]["dataset"] == root.name
    code, _, err = command("evaluate", f"run={run}", f"dataset.root={single}")
    assert code == 2
    assert "too few labeled images for splits of its own. evaluation.split=all scores every one" in err
    scenes = {name: result["scene_confusions"]["full"] for name, result in scored.items()}
    assert scenes["other", "all"].keys() == {"s0", "s1", "s2"}
    assert scored["other", "all"]["scene_groups"] == {}  # the run says nothing of other data
    code, out, err = command(
        "evaluate", f"run={run}", f"dataset.root={other}", "evaluation.split=all", "run_dir=grouped",
        "dataset.scene_group=s",
    )  # fmt: skip
    assert code == 0, err
    assert RunDirectory(Path("grouped")).read_result()["scene_groups"] == dict.fromkeys(("s0", "s1", "s2"), "s")
    code, out, err = command("report", "runs=outputs/evaluate", "scene_group=s")
    assert code == 0, err
    code, out, err = command("report", "runs=outputs/evaluate", "scene_group=x")
    assert code == 2
    assert "scene_group puts no two test scenes of any run together" in err
    assert "the first are s0, s1, s2." in err
    assert scenes["other", "all"]["s2"] == scenes["other", "test"]["s2"] == scenes["single", "all"]["s2"]
    assert scored["other", "all"]["split"] == "all"
    assert scored["other", "all"]["config_hash"] != scored["other", "test"]["config_hash"]
    (single / "images" / "test").mkdir()  # alone, and said to be for testing
    (single / "masks" / "test").mkdir()
    for name in ("images", "masks"):
        (single / name / "s2.png").rename(single / name / "test" / "s2.png")
    code, out, err = command("evaluate", f"run={run}", f"dataset.root={single}", "evaluation.split=all")
    assert code == 0, err
    assert "on all scenes of single" in err
    assert Path(out.splitlines()[-1]).parent == Path("outputs/evaluate/single")
    shutil.copytree(own, tmp_path / "copy")
    same, copied = "was trained on some of these", "Images whose labels this run has seen are among these"
    roots = [([], same), ([f"dataset.root={own}/../own"], same), ([f"dataset.root={tmp_path / 'copy'}"], copied)]
    for there, reason in roots:
        code, out, err = command("evaluate", f"run={run}", "evaluation.split=all", *there)
        assert code == 2
        assert reason in err
    assert "s0, s1 (2 in all)" in err  # of the copy: the third was for testing
    code, out, err = command("evaluate", f"run={run}", "dataset.name=elsewhere")
    assert code == 2
    assert "dataset.name=elsewhere names other data: say where they lie" in err
    shutil.rmtree(single / "masks")
    (single / "classes.yaml").unlink()
    code, out, err = command("evaluate", f"run={run}", f"dataset.root={single}", "evaluation.split=all")
    assert code == 2
    assert "has no image with a mask in masks/" in err


def test_other_data_of_another_type_are_scored_by_what_is_as_bright(command, tiny, folder_dataset, tmp_path):
    code, out, err = command("finetune", *tiny)
    assert code == 0, err
    run = out.splitlines()[-1]
    wide, located = tmp_path / "wide", (0.5, 0.0, 4e5, 0.0, -0.5, 5.8e6)
    shutil.copytree(folder_dataset, wide)
    for path in wide.glob("images/*/*.png"):
        values = np.array(Image.open(path)).transpose(2, 0, 1).astype(np.uint16) * 100
        with rasterio.open(
            path.with_suffix(".tif"), "w", driver="GTiff", count=3, height=96, width=96, dtype="uint16",
            crs="EPSG:32633", transform=rasterio.Affine(*located),
        ) as file:  # fmt: skip
            file.write(values)
        path.unlink()
    given = (f"run={run}", f"dataset.root={wide}")
    code, _, err = command("evaluate", *given)
    assert code == 2
    assert "Say which value is as bright here, dataset.root=... value_scale=..., or" in err
    code, out, err = command("evaluate", *given, "value_scale=25500")
    assert code == 0, err
    scored = RunDirectory(Path(out.splitlines()[-1])).read_result()
    assert scored["scene_confusions"] == RunDirectory(Path(run)).read_result()["scene_confusions"]
    for wrong in ((*given, "value_scale=0"), (f"run={run}", "value_scale=25500")):
        code, _, err = command("evaluate", *wrong)
        assert code == 2
        assert "expected a number above 0, by which the values of the data at dataset.root=... are divided" in err


def test_scored_scenes_of_pixels_of_another_size_than_in_training_are_told(command, tiny, tmp_path, draw_scene):
    """Those that train there, and are not scored, have its size."""
    own, other = tmp_path / "own", tmp_path / "other"
    for root, first, tested in ((own, 0, 0.5), (other, 10, 2.0)):
        for index, split in enumerate(("train", "train", "test")):
            draw_scene(root, split, f"s{index}", first + index)
            path = root / f"images/{split}/s{index}.png"
            side = tested if split == "test" else 0.5
            with rasterio.open(
                path.with_suffix(".tif"), "w", driver="GTiff", count=3, height=96, width=96, dtype="uint8",
                crs="EPSG:32633", transform=rasterio.Affine(side, 0.0, 4e5, 0.0, -side, 5.8e6),
            ) as file:  # fmt: skip
                file.write(np.array(Image.open(path)).transpose(2, 0, 1))
            path.unlink()
        (root / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: 1}, {name: c, index: 2}]")
    code, out, err = command("finetune", *tiny, f"dataset.root={own}", "trainer.max_steps=1")
    assert code == 0, err
    run = out.splitlines()[-1]
    code, _, err = command("evaluate", f"run={run}", f"dataset.root={other}")
    assert code == 0, err
    assert "other: pixels are of 2 m on the ground, those of the training were of 0.5 m" in err


def test_a_sweep_fills_every_cell_and_names_what_failed(command, tiny):
    overrides = ("-m", *tiny, "label_fraction=10pct,100pct", "initialization=random,pretrained", "decoder=fpn")
    code, out, err = command("finetune", *overrides)
    assert code == 2, err  # there is no pretraining yet
    assert "2 of 4 runs are finished" in out
    assert "2 of them start from weights that are not there yet and will fail, the others run. The first: " in err
    assert "there is no finished pretraining" in err
    plan = json.loads(next(Path("outputs/sweeps").glob("finetune-*.json")).read_text())
    assert len(plan["cells"]) == 4
    assert {cell["label"] for cell in plan["cells"]} == {"random", "pretrained"}
    results = {path: path.stat().st_mtime_ns for path in Path("outputs/finetune").rglob("result.json")}
    assert len(results) == 2
    assert len(list(Path("outputs/finetune").rglob("failure.json"))) == 2

    assert command("pretrain", *tiny)[0] == 0
    code, out, err = command("finetune", *overrides)
    assert code == 0, err
    assert "4 runs, 2 finished before" in out
    assert len(json.loads(Path(out.splitlines()[-1]).read_text())["cells"]) == 4
    assert all(path.stat().st_mtime_ns == before for path, before in results.items())
    assert not list(Path().glob(".hydra")) + list(Path().glob("multirun*")) + list(Path().glob("*.log"))
    assert Path("outputs/sweeps/multirun.yaml").is_file()


def test_a_sweep_whose_pretraining_is_not_clear_stops_before_its_first_run(command, tiny):
    for seed in (0, 1):
        assert command("pretrain", *tiny, "pretext=[contrastive]", f"seed={seed}", "trainer.max_steps=1")[0] == 0
    overrides = ("-m", *tiny, "initialization=random,pretrained")
    code, _, err = command("finetune", *overrides)
    assert code == 2
    assert "initialization=pretrained: there are 2 finished pretrainings; name one:" in err
    assert "  (seed 1, ended " in err
    assert "e.g. 'initialization.run=contrastive/seed1-*'." in err
    assert not list(Path("outputs").rglob("finetune*"))
    code, _, err = command("finetune", *overrides, "initialization.run=contrastive/seed1-*", "trainer.max_steps=1")
    assert code == 0, err


@pytest.mark.parametrize(
    ("name", "varied", "said"),
    [
        ("finetune", "label_fraction=10pct,0p5", "label_fraction=0p5: there is no such option"),
        ("finetune", "trainer.max_steps=3,0", "trainer.max_steps must be at least 1"),
        ("finetune", "optimizer.lr=1e-3,-1", "Invalid learning rate: -1"),
        ("finetune", "decoder=unet,fpn evaluation.window.size=50", "evaluation.window.size=50"),
        ("pretrain", "pretext=[inpainting],[inpainting_fpn] dataset.crop_size=40", "dataset.crop_size=40"),
        ("evaluate", "encoder=random,nowhere backbone=resnet18 probe=knn", "nowhere"),
    ],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_a_mistake_in_any_cell_stops_a_sweep_before_data_is_prepared_or_a_cell_runs(
    command, unprepared, name, varied, said, prepared
):
    if prepared:
        assert command("prepare", *unprepared[:2])[0] == 0
    given = (*unprepared[:2], "dataset.crop_size=32") if name == "evaluate" else unprepared
    code, _, err = command(name, "-m", *given, *varied.split())
    assert code == 2
    assert said in err
    assert [path.name for path in Path().glob("outputs/*")] == ["stores"] * prepared


def test_jobs_that_differ_in_nothing_that_counts_are_one_run(command, tiny):
    runs = []
    for seed in (0, 1):
        _, out, _ = command("pretrain", *tiny, "pretext=[contrastive]", f"seed={seed}", "trainer.max_steps=1")
        runs.append(out.splitlines()[-1])
    given = ("-m", *tiny, "trainer.max_steps=1", "initialization=random,pretrained")
    code, out, err = command("finetune", *given, f"initialization.run={','.join(runs)}")
    assert code == 0, err
    assert "3 of 3 runs are finished." in out
    assert out.count("\n-- ") == 3
    plan = json.loads(Path(out.splitlines()[-1]).read_text())["cells"]
    assert [cell["label"] for cell in plan] == ["random", "contrastive", "contrastive"]


def test_runs_in_folders_of_ones_own_may_wait_for_weights(command, tiny):
    start = ("seed=0,1", "initialization=random,pretrained", "run_dir='runs/${seed}/${initialization._target_}'")
    code, out, err = command("finetune", "-m", *tiny, "trainer.max_steps=1", *start)
    assert code == 2
    assert "2 of 4 runs are finished." in out
    assert "there is no finished pretraining" in err


def test_a_pretraining_must_not_find_itself(command, tiny):
    given = (*tiny, "pretext=[contrastive]", "trainer.max_steps=1")
    _, out, _ = command("pretrain", *given)
    first = out.splitlines()[-1]
    for named in ((), ("initialization.run=contrastive",)):
        code, _, err = command("pretrain", "-m", *given, "seed=1,2", "initialization=pretrained", *named)
        assert code == 2
        assert "would stand for this pretraining too, once it is finished. Name the folder of the run that it " in err
        assert f"initialization.run={first}" in err
    assert command("preview", *given[:-1], "initialization=pretrained", "crops=1")[0] == 0  # it writes no pretraining
    for _ in range(2):
        assert command("pretrain", *given, "initialization=pretrained", f"initialization.run={first}")[0] == 0


def test_what_the_command_line_says_of_a_key_goes_before_what_the_sweep_varies(command, tiny, monkeypatch):
    monkeypatch.setattr(sweep_plan, "MOST_CELLS", 12)
    given = ("sweep=label_fraction", *tiny, "initialization=random", "label_fraction=100pct", "seed=0,1,2,3,4")
    assert len(sweep_plan.plan_cells("finetune", given)[0]) == 5


def test_a_sweep_in_another_order_at_every_start_is_refused(command, tiny):
    code, _, err = command("pretrain", "-m", *tiny, "seed=shuffle(range(1,4))")
    assert code == 2
    assert "seed=shuffle(range(1,4)): the order of a sweep's runs does not count" in err


def test_a_label_may_name_what_a_sweep_varies(command, tiny):
    label = "initialization.label='lr ${optimizer.lr}'"
    code, _, err = command("finetune", "-m", *tiny, "trainer.max_steps=1", "optimizer.lr=1e-3,1e-4", label)
    assert code == 0, err
    runs = [json.loads(path.read_text()) for path in Path("outputs/finetune").rglob("result.json")]
    assert {(run["label"], run["settings"]["optimizer.lr"]) for run in runs} == {
        ("lr 0.001", 1e-3),
        ("lr 0.0001", 1e-4),
    }


def test_a_sweep_that_cannot_start_leaves_no_plan(command, tiny):
    code, _, err = command("finetune", "-m", *tiny, "optimizer.lr=1e-3,1e-4", "hydra.sweep.subdir='${nowhere}'")
    assert code == 2
    assert "Hydra's sweeper or launcher failed" in err
    assert not list(Path("outputs/sweeps").glob("finetune-*.json"))


def test_the_reports_command_fills_a_cell_that_was_planned_before_its_pretraining(command, tiny):
    overrides = ("-m", *tiny, "seed=0,1", "initialization=pretrained", "initialization.run=contrastive", "decoder=fpn")
    assert command("finetune", *overrides)[0] == 2
    code, _, err = command("report")
    assert code == 2
    assert "Cells: 0 done, 2 failed, 0 missing, 0 stale" in err
    assert command("pretrain", *tiny, "pretext=[contrastive]")[0] == 0
    for rest in (1, 0):
        told = next(line for line in err.splitlines() if "python -m ssl_rs.finetune" in line)
        assert command("finetune", *shlex.split(told)[3:])[0] == 0
        code, _, err = command("report")
        assert code == 0, err
        assert f"Cells: {2 - rest} done, {rest} failed, 0 missing, 0 stale" in err


@pytest.mark.parametrize("backbone", ["resnet50", "vgg16_bn", "mobilenet_v2", "convnext_tiny"])
def test_every_backbone_pretrains(command, tiny, backbone):
    encoder_pass = "per_view" if backbone == "resnet50" else "joint"
    short = ("trainer.max_steps=2", "trainer.batch_size=2", f"encoder_pass={encoder_pass}")
    code, _, err = command("pretrain", *tiny, f"backbone={backbone}", *short)
    assert code == 0, err


def test_the_papers_recipe_runs(command, tiny):
    short = ("dataset.crop_size=32", "trainer.max_steps=1", "trainer.batch_size=2", "trainer.checkpoint_every_steps=9")
    code, out, err = command("pretrain", *tiny, "experiment=paper_vgg16_bn", "backbone=vgg16_bn", *short)
    assert code == 0, err
    config = (Path(out.strip().splitlines()[-1]) / "config.yaml").read_text()
    assert "name: vgg16_bn" in config
    assert "num_blocks: 1" in config
    assert "temperature: 1.0" in config
    assert "encoder_pass: per_view" in config


def test_views_that_no_task_reads_do_not_count(command, tiny):
    code, out, err = command("pretrain", *tiny, "pretext=[contrastive]", "trainer.max_steps=2")
    assert code == 0, err
    config = (Path(out.strip().splitlines()[-1]) / "config.yaml").read_text()
    assert "transformed" in config
    assert "corrupted" not in config


def test_wandb_mirrors_offline_without_a_key(command, tiny, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    code, out, err = command("pretrain", *tiny, "logger=wandb", "logger.mode=offline", "pretext=[contrastive]")
    assert code == 0, err
    assert list(Path(out.strip().splitlines()[-1]).glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.parametrize(
    ("name", "stage"), [("pretrain", "pretraining.write_result"), ("finetune", "finetuning._result")]
)
def test_a_run_that_fails_behind_its_last_step_leaves_its_mirror_closed(command, tiny, monkeypatch, name, stage):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "model")

    monkeypatch.setattr(f"ssl_rs.stages.{stage}", full)
    code, _, err = command(name, *tiny, "logger=wandb", "logger.mode=offline")
    assert code == 2
    assert "No space left on device" in err
    assert wandb.run is None  # else the next run of a sweep would be logged into it


def test_help_names_the_groups_in_under_five_seconds():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ssl_rs.pretrain", "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - started < 5
    assert "--multirun" in done.stdout
    # A sentence that goes over two lines of its file:
    assert "MBRSC Dubai's training scenes at half their resolution, without labels." in done.stdout
    for group in ("backbone=", "pretext=", "dataset=", "views=", "initialization="):
        assert group in done.stdout
    assert "resnet50" in done.stdout


def test_help_names_the_experiments_and_sweeps_of_the_command_alone(command):
    _, pretraining, _ = command("pretrain", "--help")
    _, finetuning, _ = command("finetune", "--help")
    for of_both in ("methods ", "pretext_ablation ", "none "):
        assert of_both in pretraining
        assert of_both in finetuning
    for of_finetuning in ("label_fraction  ", "learning_rate  "):
        assert f"\n  {of_finetuning}" in finetuning
        assert f"\n  {of_finetuning}" not in pretraining
    assert "paper_resnet50 " in pretraining
    assert "paper_resnet50 " not in finetuning


def test_help_has_a_column_as_wide_as_the_longest_name(command):
    _, said, _ = command("pretrain", "--help")
    tasks = said.partition("pretext=\n")[2].partition("\n\n")[0].splitlines()
    width = max(len(line.split()[0]) for line in tasks)
    assert width > 24
    assert all(line[: width + 3].rstrip() == f"  {line.split()[0]}" for line in tasks)


def test_a_sweep_gives_weights_to_the_cells_that_read_them(command, tiny, tmp_path):
    from torchvision.models import mobilenet_v2

    path = tmp_path / "mobilenet_v2.pth"
    torch.save(mobilenet_v2().state_dict(), path)
    overrides = (
        "-m",
        *tiny,
        "label_fraction=10pct",
        "initialization=random,imagenet",
        f"initialization.weights={path}",
    )
    code, out, err = command("finetune", *overrides, "trainer.max_steps=1")
    assert code == 0, err
    assert "2 of 2 runs are finished" in out
    alike, weights = (*tiny, "trainer.max_steps=1"), f"initialization.weights={path}"
    _assert_that_kept_results_tell_how_to_fill_their_table(command, out, alike, weights)


def _assert_that_kept_results_tell_how_to_fill_their_table(command, out, alike, weights):
    """Of a sweep's random and ImageNet's, of which nothing but result.json is kept."""
    assert command("finetune", *alike, "label_fraction=50pct", "initialization=imagenet", weights)[0] == 0
    Path(out.splitlines()[-1]).unlink()
    for told in Path("outputs/finetune").rglob("environment.json"):
        told.unlink()
    code, _, err = command("report")
    assert code == 0, err
    assert "Cells: 3 done, 0 failed, 1 missing, 0 stale" in err
    rows = csv.DictReader(next(Path("outputs").rglob("cells.csv")).read_text().splitlines())
    row = next(each for each in rows if each["state"] == "missing")
    assert command("finetune", *shlex.split(row["command"])[3:])[0] == 0
    assert "Cells: 4 done, 0 failed, 0 missing, 0 stale" in command("report")[2]


def test_data_that_were_moved_are_not_split_anew(command, tiny, tmp_path, draw_scene):
    own, moved = tmp_path / "own", tmp_path / "moved"
    for index in range(8):
        draw_scene(own, ".", f"site{index // 2}_{index}", index)
    (own / "classes.yaml").write_text("classes: [{name: a, index: 0}, {name: b, index: 1}, {name: c, index: 2}]")
    grouped = r"dataset.scene_group=site\d+"
    code, out, err = command("finetune", *tiny, f"dataset.root={own}", grouped)
    assert code == 0, err
    run = out.splitlines()[-1]
    trained = RunDirectory(Path(run)).read_result()
    code, out, err = command("evaluate", f"run={run}", f"dataset.root={own}/../own")  # spelled otherwise
    assert code == 0, err
    assert RunDirectory(Path(out.splitlines()[-1])).read_result()["scene_groups"] == trained["scene_groups"]
    own.rename(moved)
    code, _, err = command("evaluate", f"run={run}", f"dataset.root={moved}")
    assert code == 2
    assert r"whose splits were drawn by dataset.scene_group=site\d+. Set it again" in err
    code, out, err = command("evaluate", f"run={run}", f"dataset.root={moved}", grouped)
    assert code == 0, err
    again = RunDirectory(Path(out.splitlines()[-1])).read_result()
    assert again["scene_confusions"] == trained["scene_confusions"]


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_folder_that_no_run_wrote_is_left_alone(command, tiny, name):
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("my own\n")
    code, _, err = command(name, *tiny, "run_dir=mine")
    assert code == 2
    assert "run_dir=mine holds config.yaml and no environment.json: it is no run" in err
    assert [path.name for path in Path("mine").iterdir()] == ["config.yaml"]
    assert Path("mine/config.yaml").read_text() == "my own\n"


def test_a_report_does_not_overwrite_a_page_of_somebody_elses(command, tiny):
    Path("mine").mkdir()
    Path("mine/index.html").write_text("my own\n")
    code, _, err = command("report", "run_dir=mine")
    assert code == 2
    assert "run_dir=mine holds index.html, and no cells.csv of a report" in err
    assert Path("mine/index.html").read_text() == "my own\n"


@pytest.mark.parametrize("name", ["differences.csv", "confusions.csv", "curve_7.svg", "cells.csv"])
def test_a_report_leaves_every_file_of_somebody_elses_alone(command, tiny, name):
    Path("mine").mkdir()
    Path("mine", name).write_text("place,state\nhere,done\n")
    code, _, err = command("report", "run_dir=mine")
    assert code == 2
    assert f"run_dir=mine holds {name}, and no cells.csv of a report" in err
    assert [path.name for path in Path("mine").iterdir()] == [name]
    assert Path("mine", name).read_text() == "place,state\nhere,done\n"


@pytest.mark.parametrize(("mark", "between", "quote"), [("", ",", ""), ("\ufeff", ";", ""), ("", "\t", '"')])
def test_a_table_that_a_spreadsheet_saved_again_is_still_of_the_report(tmp_path, mark, between, quote):
    cells = tmp_path / "cells.csv"
    cells.write_text(mark + between.join(f"{quote}{name}{quote}" for name in COLUMNS) + "\n", encoding="utf-8")
    assert _is_of_report(cells)
    cells.write_text("state,of,affairs\n")
    assert not _is_of_report(cells)


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["pretrain"], 2)])
def test_without_a_command_all_of_them_are_told(arguments, code):
    done = subprocess.run([sys.executable, "-m", "ssl_rs", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    named = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert named == list(COMMANDS)
    assert {path.stem for path in conf_dir().glob("*.yaml")} - {"common", "pretraining"} == set(COMMANDS)
    assert all(line.endswith(".") for line in done.stdout.splitlines() if line.startswith("  "))
