"""Training that starts from a finished fine-tuning: supervised pretraining, and what may not be compared with it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_rs.command import main
from ssl_rs.encoder import Statistics
from ssl_rs.finetuned import Finetuned
from ssl_rs.initialization import Target
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import TRANSDUCTIVE, read_seen

STILL = ("optimizer.lr=0.0", "trainer.max_steps=1", "trainer.log_every_steps=1")  # weights stay as they began
MOMENTS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def others(tmp_path_factory, folder_dataset, draw_scene):
    """A fine-tuning with half of the labels of other scenes, and their folder."""
    folder = tmp_path_factory.mktemp("others")
    for index, split in enumerate(("train", "train", "val", "test")):
        draw_scene(folder / "city", split, f"other{index}", 100 + index)
    shutil.copy(folder_dataset / "classes.yaml", folder / "city")
    given = ("dataset=folder", "dataset.name=city", f"dataset.root='{folder / 'city'}'", "label_fraction=50pct")
    small = (
        "backbone=mobilenet_v2",
        "dataset.crop_size=32",
        "trainer.batch_size=4",
        "trainer.max_steps=4",
        "logger=none",
    )
    threads, before = torch.get_num_threads(), Path.cwd()
    os.chdir(folder)
    assert main("finetune", [*given, *small, f"run_dir={folder / 'run'}"]) == 0
    os.chdir(before)
    torch.set_num_threads(threads)
    return folder / "run", folder / "city"


def finished(command, name, *arguments):
    code, out, err = command(name, *arguments)
    assert code == 0, err
    path = Path(out.strip().splitlines()[-1])
    return path, json.loads((path / "result.json").read_text())


def refused(command, name, *arguments):
    code, _, err = command(name, *arguments)
    assert code == 2
    return err


def unmoved(tensors, prefix):
    """The tensors below a prefix that one step at rate 0 leaves: no statistics of BatchNorm."""
    return {name: each for name, each in tensors.items() if name.startswith(prefix) and not name.endswith(MOMENTS)}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("parts", ["encoder", "encoder_and_decoder"])
def test_the_encoder_and_maybe_the_decoder_are_taken_over(command, tiny, others, parts):
    start = ("initialization=finetuned", f"initialization.run={others[0]}", f"initialization.parts={parts}")
    path, result = finished(command, "finetune", *tiny, *STILL, *start)
    before, after = load_file(others[0] / "model.safetensors"), load_file(path / "model.safetensors")
    assert equal(unmoved(before, "encoder."), unmoved(after, "encoder."))
    assert equal(unmoved(before, "decoder."), unmoved(after, "decoder.")) == (parts == "encoder_and_decoder")
    assert not equal(unmoved(before, "segmentation_head."), unmoved(after, "segmentation_head."))
    told = result["provenance"]
    assert (result["initialization"], told["kind"], told["source"]) == ("finetuned", "finetuned", str(others[0]))
    with_decoder = parts == "encoder_and_decoder"
    assert result["label"] == "50 % of the labels of city" + (" with decoder" if with_decoder else "")
    trained = RunDirectory(others[0]).read_result()
    assert told["sha256"] == trained["model_sha256"]
    assert told["decoder_sha256"] == (trained["model_sha256"] if with_decoder else None)
    assert told["statistics"]["mean"] == trained["provenance"]["statistics"]["mean"]
    for key in ("dataset", "label_fraction", "labeled_units", "subset_sha256", "seed", "steps"):
        assert told["pretraining"][key] == trained[key]
    prefixes = ("encoder.", "decoder.") if with_decoder else ("encoder.",)
    assert told["loaded_tensors"] == sum(name.startswith(prefixes) for name in before)


@pytest.mark.slow
def test_it_may_be_one_of_several_steps_and_all_of_them_are_told(command, tiny, others):
    path, result = finished(
        command, "pretrain", *tiny, *STILL, "pretext=[contrastive]", "initialization=finetuned",
        f"initialization.run={others[0]}",
    )  # fmt: skip
    assert result["provenance"]["label"] == "50 % of the labels of city"
    before, after = read_seen(RunDirectory(others[0])), read_seen(RunDirectory(path))
    assert before.images < after.images
    assert before.labeled == after.labeled == before.images
    path, result = finished(
        command, "finetune", *tiny, *STILL, "initialization=pretrained", f"initialization.run={path}"
    )
    assert result["label"] == "50 % of the labels of city, then contrastive"
    path, result = finished(
        command, "finetune", *tiny, *STILL, "initialization=finetuned", f"initialization.run={path}", "seed=1"
    )
    assert (
        result["label"]
        == "50 % of the labels of city, then contrastive, then 100 % of the labels of folder (labels seen before)"
    )
    assert result["provenance"]["pretraining"]["provenance"]["pretraining"]["provenance"]["source"] == str(others[0])
    code, out, err = command("report")
    assert code == 0, err
    table = (Path(out.strip().splitlines()[-1]).parent / "results.csv").read_text()
    assert "50 % of the labels of city, then contrastive, then 100 % of the labels of folder" in table


@pytest.fixture
def mixed(tiny, others, folder_dataset, tmp_path):
    """Overrides for the tiny data set with an image among its test images that the other fine-tuning trained on."""
    root = tmp_path / "mixed"
    shutil.copytree(folder_dataset, root)
    for kind in ("images", "masks"):
        shutil.copy(others[1] / kind / "train/other0.png", root / kind / "test")
    return [*(each for each in tiny if not each.startswith("dataset.root")), f"dataset.root={root}"]


def test_labels_of_what_is_scored_are_refused(command, others, mixed, tmp_path):
    start = ("initialization=finetuned", f"initialization.run={others[0]}")
    for name in ("finetune", "pretrain"):
        said = refused(command, name, *mixed, *start)
        assert "had labels of 1 of the 3 images that validate and test here in its training" in said
    assert not list((tmp_path / "outputs").glob("*/**/checkpoints"))


@pytest.mark.slow
def test_files_of_runs_and_exports_tell_what_they_have_seen(command, tiny, others, mixed):
    code, out, err = command("export", f"run={others[0]}", "formats=[torchvision,timm,smp]")
    assert code == 0, err
    folder = Path(out.strip().splitlines()[-1])
    for file in (others[0] / "model.safetensors", folder / "timm.safetensors", folder / "smp/model.safetensors"):
        start = ("initialization=file", f"initialization.weights={file}")
        assert "had labels of 1 of the 3 images that validate" in refused(command, "finetune", *mixed, *start)
        assert (file.parent / "images_seen.json").is_file()
    start = ("initialization=imagenet", f"initialization.weights={folder / 'torchvision.pth'}")
    assert "holds no ImageNet weights" in refused(command, "finetune", *mixed, *start)
    probe = ("encoder=file", f"encoder_weights={others[0] / 'model.safetensors'}", "probe=knn", "backbone=mobilenet_v2")
    data = [each for each in mixed if each.startswith("dataset.")]
    said = refused(command, "evaluate", "dataset=folder", *data, *probe)
    assert "had labels of 1 of the 3 images" in said
    assert "save the tensors" not in said  # which would only hide it
    own = (f"encoder={others[0] / 'model.safetensors'}", "probe=knn")
    assert "had labels of 1 of the 3 images" in refused(command, "evaluate", "dataset=folder", *data, *own)
    link = folder.parent / "link.safetensors"
    link.symlink_to((others[0] / "model.safetensors").resolve())
    start = ("initialization=file", f"initialization.weights={link}")
    assert "had labels of 1 of the 3 images" in refused(command, "finetune", *mixed, *start)
    alone = folder.parent / "alone.safetensors"
    shutil.copy(others[0] / "model.safetensors", alone)  # nobody knows any more
    finished(command, "finetune", *mixed, *STILL, "initialization=file", f"initialization.weights={alone}")


@pytest.mark.slow
def test_what_a_file_has_seen_is_told_and_handed_on(command, tiny):
    first, _ = finished(command, "finetune", *tiny, "seed=7")
    start = ("initialization=file", f"initialization.weights={first / 'model.safetensors'}")
    with pytest.warns(UserWarning, match="has seen labels of 4 of the training images before"):
        path, result = finished(command, "pretrain", *tiny, *STILL, *start, "pretext=[contrastive]")
    assert result["provenance"]["label"] == "model (labels seen before)"
    assert "seen" not in result["provenance"]
    assert read_seen(RunDirectory(path)).labeled == read_seen(RunDirectory(first)).labeled
    code, _, err = command("report", f"runs={path.parent}")
    assert code == 0, err
    with pytest.warns(UserWarning, match="has seen labels of 4 of the training images before"):
        _, result = finished(command, "finetune", *tiny, *STILL, *start)
    assert result["label"] == "model (labels seen before)"


@pytest.mark.slow
@pytest.mark.parametrize("between", ["finetune", "pretrain"])
def test_labels_are_remembered_over_further_trainings(command, tiny, others, mixed, between):
    start = ("initialization=finetuned", f"initialization.run={others[0]}")
    tasks = ("pretext=[contrastive]",) if between == "pretrain" else ()
    path, _ = finished(command, between, *tiny, *STILL, *start, *tasks)
    kind = "pretrained" if between == "pretrain" else "finetuned"
    again = (f"initialization={kind}", f"initialization.run={path}")
    said = refused(command, "finetune", *mixed, *again)
    assert "had labels of 1 of the 3 images that validate and test here in its training" in said
    if between == "finetune":
        root = next(each for each in mixed if each.startswith("dataset.root"))
        for other in (("evaluation.split=all", f"dataset.root={others[1]}"), (root,)):
            said = refused(command, "evaluate", f"run={path}", *other)
            assert "other0" in said
            assert "Images whose labels this run has seen are among these, pixel for pixel" in said


@pytest.mark.slow
def test_labels_of_the_same_images_are_told_and_save_none(command, tiny, others):
    """All labels, then some of them: a row of its own, of which no labels saved are told."""
    first, _ = finished(command, "finetune", *tiny, "seed=7", "label_fraction=100pct")
    start = ("initialization=finetuned", f"initialization.run={first}")
    for fraction in ("50pct", "100pct"):
        with pytest.warns(UserWarning, match="has seen labels of 4 of the training images before: label_fraction does"):
            _, result = finished(
                command, "finetune", *tiny, *start, f"label_fraction={fraction}", "initialization.label=mine"
            )
        finished(command, "finetune", *tiny, f"label_fraction={fraction}")
    assert result["label"] == "mine (labels seen before)"
    assert result["provenance"]["pretraining"]["training_labels_seen"] == 4
    code, out, _ = command("report")
    assert code == 0
    saved = (Path(out.strip().splitlines()[-1]).parent / "labels_saved.csv").read_text()
    assert ",random," in saved
    assert "mine" not in saved


def test_a_run_that_does_not_tell_what_it_saw_is_warned_of(command, tiny, others, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(others[0], older)
    (older / "images_seen.json").unlink()
    start = ("initialization=finetuned", f"initialization.run={older}")
    with pytest.warns(UserWarning, match="does not say of which images it had labels"):
        finished(command, "finetune", *tiny, *STILL, *start)
    between, _ = finished(command, "pretrain", *tiny, *STILL, *start, "pretext=[contrastive]")
    assert read_seen(RunDirectory(between)).unknown
    with pytest.warns(UserWarning, match="or what it started from, does not say of which images it had labels"):
        finished(command, "finetune", *tiny, *STILL, "initialization=pretrained", f"initialization.run={between}")
    seen = json.loads((others[0] / "images_seen.json").read_text())
    (older / "images_seen.json").write_text(json.dumps({"sha256": seen["sha256"]}))  # of an earlier version, too
    assert read_seen(RunDirectory(older)).labeled == frozenset(seen["sha256"])


@pytest.mark.slow
def test_marks_are_those_of_the_last_data(command, tiny, others):
    """Labels of these images seen again and again are told once, and not at all where other images are scored."""
    path = others[0]
    city = (*(each for each in tiny if not each.startswith("dataset.root")), f"dataset.root={others[1]}")
    for _ in range(2):
        given = ("dataset.name=city", "initialization=finetuned", f"initialization.run={path}")
        path, result = finished(command, "finetune", *city, *STILL, *given)
    share = "100 % of the labels of city"
    assert result["label"] == f"50 % of the labels of city, then {share} (labels seen before)"
    _, result = finished(command, "finetune", *tiny, *STILL, "initialization=finetuned", f"initialization.run={path}")
    assert result["label"] == f"50 % of the labels of city, then {share}, then {share}"


def test_two_sources_of_one_name_are_not_one_row(others, tmp_path):
    """Fine-tunings on folders of the same name are told apart by what they hold."""
    from ssl_rs.finetuned import _settings

    result = json.loads((others[0] / "result.json").read_text())
    assert _settings(result) == _settings(result | {"seed": 5})
    before = {**result["provenance"], "pretraining": {"settings_hash": "0"}}
    for change in (
        {"manifest_sha256": "0"}, {"label_fraction": 0.1}, {"settings_hash": "0"}, {"provenance": before},
        {"label": "imagenet"}, {"label_unit": "scene"}, {"label_order": "stratified"},
    ):  # fmt: skip
        assert _settings(result) != _settings(result | change), change


def test_what_does_not_fit_is_refused_with_what_would(command, tiny, others, tmp_path):
    start = ("initialization=finetuned", f"initialization.run={others[0]}")
    assert "Choose backbone=mobilenet_v2" in refused(command, "finetune", *tiny, *start, "backbone=resnet34")
    said = refused(command, "finetune", *tiny, *start, "initialization.parts=encoder_and_decoder", "decoder=fpn")
    assert "has a decoder unet, this run has fpn. Choose initialization.parts=encoder, or decoder=unet." in said
    said = refused(command, "pretrain", *tiny, *start, "initialization.parts=encoder_and_decoder")
    assert "this run has none. Choose initialization.parts=encoder." in said
    assert "Set dataset.value_scale=255" in refused(command, "finetune", *tiny, *start, "dataset.value_scale=200")
    said = refused(command, "finetune", *tiny, *start, "dataset.bands=[nir,red,green]")
    assert "was trained on the bands red, green, blue, the data has nir, red, green. Choose weights of these" in said
    said = refused(command, "finetune", *tiny, start[0])
    assert "initialization.run is not set. Name the folder of a finished fine-tuning" in said
    said = refused(command, "finetune", *tiny, start[0], f"initialization.run={tmp_path / 'none'}")
    assert "there is no such folder" in said
    damaged = tmp_path / "damaged"
    shutil.copytree(others[0], damaged)
    with (damaged / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    said = refused(command, "finetune", *tiny, start[0], f"initialization.run={damaged}")
    assert "is not the file that its result.json names" in said
    result = json.loads((others[0] / "result.json").read_text())
    shutil.copy(others[0] / "model.safetensors", damaged)
    (damaged / "result.json").write_text(json.dumps({key: result[key] for key in result if key != "subset_sha256"}))
    said = refused(command, "finetune", *tiny, start[0], f"initialization.run={damaged}")
    assert "lacks ['subset_sha256']" in said
    before = {**result["provenance"], "pretraining": [1]}
    for key, value, odd in (("label_fraction", "a", "label_fraction='a'"), ("provenance", before, "pretraining=[1]")):
        (damaged / "result.json").write_text(json.dumps({**result, key: value}))
        said = refused(command, "finetune", *tiny, start[0], f"initialization.run={damaged}")
        assert "result.json holds " in said
        assert f"{odd}: it is damaged" in said


def test_a_pretraining_is_no_fine_tuning(command, tiny):
    path, _ = finished(command, "pretrain", *tiny, *STILL, "pretext=[contrastive]")
    said = refused(command, "finetune", *tiny, "initialization=finetuned", f"initialization.run={path}")
    assert f"initialization.run={path} is a pretraining" in said


def test_a_fine_tuning_is_no_pretraining(command, tiny, others):
    said = refused(command, "finetune", *tiny, "initialization=pretrained", f"initialization.run={others[0]}")
    assert "It is a fine-tuning: choose initialization=finetuned." in said


def test_runs_from_replaced_weights_are_stale(command, tiny, others, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(others[0], source)
    finished(command, "finetune", *tiny, *STILL, "initialization=finetuned", f"initialization.run={source}")
    code, _, err = command("report")
    assert code == 0
    assert "0 stale" in err
    result = json.loads((source / "result.json").read_text())
    (source / "result.json").write_text(json.dumps(result | {"model_sha256": "0" * 64}))
    code, _, err = command("report")
    assert code == 0
    assert "has other weights now than those it was made from" in err


def test_a_transductive_pretraining_is_told_behind_the_fine_tuning_that_started_from_it(others, tmp_path):
    run = Path(shutil.copytree(others[0], tmp_path / "run"))
    result = json.loads((run / "result.json").read_text())
    target = Target(
        "folder", "mobilenet_v2", ("red", "green", "blue"), "uint8", Statistics((0.5,) * 3, (0.5,) * 3, "a test"),
        255.0, tmp_path,
    )  # fmt: skip
    for before, mark in (({"transductive": True}, TRANSDUCTIVE), ({"transductive": False}, "")):
        provenance = {**result["provenance"], "pretraining": before}
        (run / "result.json").write_text(json.dumps(result | {"provenance": provenance}))
        found = Finetuned(run=str(run)).locate(target)
        assert found.label == f"50 % of the labels of city{mark}"
        assert found.pretraining["transductive"] == before["transductive"]
