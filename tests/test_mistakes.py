"""Mistakes of config and files: exit code 2, one message that names the remedy, nothing left half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_rs.command import main


def fails(capsys, name, *arguments):
    """Run a command that must exit with 2 and return its message, which is no traceback."""
    code = main(name, list(arguments))
    err = capsys.readouterr().err
    assert code == 2, err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("pretrain", "trainer.max_step=5", "Did you mean 'trainer.max_steps'?"),
        ("pretrain", "backbone=resnt50", "Did you mean 'resnet50'?"),
        ("pretrain", "pretext=[inpaintin]", "Did you mean 'inpainting'?"),
        (
            "pretrain",
            "pretext=[inpainting,inpainting_unet]",
            "inpainting and inpainting_unet are two options for pretext.inpainting",
        ),
        (
            "pretrain",
            "views=[clean,transformed,corrupted,masked]",
            "corrupted and masked are two options for views.corrupted",
        ),
        ("pretrain", "pretext=[inpainting] pretext.inpainting.weight=0", "Give one of the tasks a weight"),
        ("pretrain", "pretext=[inpainting,inpainting]", "inpainting comes twice. Name it once."),
        (
            "pretrain",
            "pretext.contrastive.task.temperature=nan",
            "pretext.contrastive.task.temperature must be a number above 0",
        ),
        ("pretrain", "pretext.contrastive.task.dimensions=0", "pretext.contrastive.task.dimensions=[0]"),
        ("pretrain", "pretext.contrastive.task.hidden=0", "pretext.contrastive.task.hidden=[0]"),
        (
            "pretrain",
            "pretext.transform_prediction.task.dimensions=0",
            "pretext.transform_prediction.task.dimensions=[0]",
        ),
        ("pretrain", "pretext=[moco_v2] pretext.moco_v2.task.temperature=nan", "temperature must be a number above 0"),
        ("pretrain", "trainer.gradient_clip=nan", "trainer.gradient_clip must be above 0"),
        ("finetune", "label_fraction=10", "10pct"),
        ("predict", "run=", "run= has no value"),
        ("finetune", "decoder._partial_=false", "decoder._partial_=false: that is no setting"),
        ("pretrain", "output_dir=", "output_dir= has no value"),
        ("pretrain", "++initialization.run=", "++initialization.run= has no value"),
        ("pretrain", "+nothing=1", "nothing: pretrain has no such key"),
        ("pretrain", "+trainer.epochs=1", "trainer.epochs: TrainerSettings has no such argument"),
        ("pretrain", "trainer.max_steps=many", "trainer.max_steps must be a whole number, got 'many'"),
        ("pretrain", "trainer.max_steps=0", "trainer.max_steps must be at least 1"),
        ("pretrain", "trainer.precision=fp8", "trainer.precision must be one of auto, bf16, fp32"),
        ("pretrain", "trainer.device=cuda:99", "trainer.device=cuda:99 cannot be used here"),
        ("pretrain", "optimizer.lr=fast", "optimizer.lr must be"),
        ("pretrain", "pretext.inpainting.weight=much", "pretext.inpainting.weight must be a number"),
        ("pretrain", "views=[clean,transformed]", "reads the view 'corrupted'"),
        ("pretrain", "backbone.name=resnet19", "backbone.name=resnet19"),
        ("pretrain", "initialization.run=somewhere", "initialization.run=somewhere has no meaning"),
        ("pretrain", "optimizer._target_=os.system", "not admitted"),
        ("pretrain", "optimizer._target_=ssl_rs.run_directory.os.system", "cannot be found"),
        ("pretrain", "optimizer._target_=ssl_rs.files.hashlib", "not admitted"),
        ("finetune", "label_fraction.fraction=0", "label_fraction.fraction"),
        ("finetune", "evaluation.split=train", "evaluation.split must be one of val, test"),
        ("finetune", "initialization=pretrained", "there is no finished pretraining"),
        (
            "finetune",
            "initialization=pretrained initialization.run=nowhere",
            "initialization.run=nowhere holds no finished pretraining",
        ),
        ("finetune", "decoder=deeplabv3plus backbone=vgg16_bn", "decoder=unet"),
        ("finetune", "decoder.decoder_channels=[1,2]", "look at the keys decoder.*"),
        ("finetune", "+decoder.encoder_weights=imagenet", "decoder.encoder_weights cannot be set: backbone and data"),
        ("finetune", "+decoder.classes=7", "decoder.classes cannot be set"),
        ("finetune", "+decoder.aux_params={classes:2}", "decoder.aux_params cannot be set: the loss takes the scores"),
        ("pretrain", "+pretext.inpainting.task.channels=[3,8]", "pretext.inpainting.task.channels cannot be set"),
        ("finetune", "backbone.name=tu-nothing", "backbone.name=tu-nothing with 3 bands cannot be built"),
        ("finetune", "initialization=file initialization.weights=.", "that is a folder; name the file in it"),
        ("pretrain", "sweep=label_fraction", "label_fraction, which pretrain does not have: it is for another command"),
        ("pretrain", "views=[clean,kornia] pretext=[transform_prediction]", "views.transformed makes a View"),
        ("finetune", "decoder=fpn evaluation.window.size=50", "evaluation.window.size"),
        ("pretrain", "views.transformed.color.hue=[-2,2]", "views.transformed.color.hue=[-2, 2]: expected [low, high]"),
        (
            "pretrain",
            "pretext=[simclr] views.simclr_second.blur=2",
            "views.simclr_second.blur=2: expected a probability",
        ),
        (
            "pretrain",
            "pretext=[byol] pretext.byol.task.momentum.start=2",
            "pretext.byol.task.momentum.start=2: expected",
        ),
        (
            "pretrain",
            "pretext=[moco_v2] pretext.moco_v2.task.queue=0",
            "pretext.moco_v2.task.queue=0: expected at least",
        ),
        (
            "pretrain",
            "pretext.inpainting.task.decoder.reduction=0",
            "pretext.inpainting.task.decoder.reduction=0: expected",
        ),
        ("finetune", "augmentation.scale=[2,1]", "augmentation.scale=[2, 1]: expected [low, high]"),
        ("pretrain", "dataset.protocol=mine", "dataset.protocol=mine: this data set is not scored by it"),
        ("finetune", "optimizer.lr=-1", "optimizer"),
        ("pretrain", "optimizer.lr=-1", "optimizer"),
        (
            "pretrain",
            "pretext=[inpainting_fpn] dataset.crop_size=100",
            "dataset.crop_size=96 or dataset.crop_size=128, or pr",
        ),
        ("pretrain", "initialization=imagenet initialization.weights=gone.pth", "gone.pth: there is no such file"),
        ("pretrain", "pretext.transform_prediction.task.level=9", "level"),
        ("pretrain", "logger=wandb logger.mode=online", "logger.mode=online needs a key"),
        ("pretrain", "logger=wandb logger.project=team/mine", "A team is named by logger.entity."),
        ("finetune", "dataset.value_scale=inf", "dataset.value_scale must be a number above 0, or null"),
        ("pretrain", "trainer={", "trainer={"),
        ("evaluate", "run=nowhere", "run=nowhere: there is no such folder"),
        (
            "evaluate",
            "dataset=folder",
            "data of the same bands and classes, set dataset.root=... alone",
        ),
        ("report", "runs=nowhere", "runs"),
        ("prepare", "seed=x", "seed must be a whole number"),
        (
            "pretrain",
            "pretext=[moco_v2,byol]",
            "different rules: 'moco_v2' from 0.99 to 0.99, 'byol' from 0.97 to 1",
        ),
        (
            "pretrain",
            "optimizer._target_=builtins.dict trusted_packages=[builtins]",
            "optimizer._target_: dict does not tell which arguments it takes",
        ),
        (
            "pretrain",
            "~schedule +schedule._target_=own_tasks.Backwards trusted_packages=[own_tasks]",
            "schedule: Backwards cannot be called as schedule(step, max_steps): too many positional arguments",
        ),
        (
            "finetune",
            "~loss +loss._target_=own_tasks.NoLoss trusted_packages=[own_tasks]",
            "loss: NoLoss has no class_weights(pixels)",
        ),
        (
            "finetune",
            "~augmentation +augmentation._target_=own_tasks.Still trusted_packages=[own_tasks]",
            "augmentation: Still cannot be called as augmentation(images, masks, draws, ignore_index, rgb, valid)",
        ),
        ("pretrain", "+optimizer._args_=[1]", "optimizer._args_: AdamW has no such argument"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_heavy(capsys, unprepared, monkeypatch, name, override, said):
    for key in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NETRC", "none")
    usual = unprepared if name in ("pretrain", "finetune") else ()
    err = fails(capsys, name, *usual, *override.split(" "))
    assert said in err
    assert not list(Path("outputs").glob(f"{name}/**/config.yaml"))
    assert not list(Path("outputs/stores").glob("*"))


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_folder_of_somebody_elses_is_refused_before_data_is_prepared(capsys, unprepared, name):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("my own\n")
    for given in ((), ("-m",), ()):  # what a sweep says of its failed run must not make the folder ours
        assert "run_dir=mine holds notes.txt and no environment.json" in fails(
            capsys, name, *unprepared, "run_dir=mine", *given
        )
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]
    assert not list(Path("outputs/stores").glob("*"))
    Path("mine/failure.json").write_text("{}")
    assert "run_dir=mine holds failure.json and no env" in fails(capsys, name, *unprepared, "run_dir=mine")


def test_weights_that_cannot_be_read_are_refused_before_data_is_prepared(capsys, unprepared):
    Path("bad.pth").write_text("no weights")
    given = ("initialization=imagenet", "initialization.weights=bad.pth")
    assert "bad.pth cannot be read as weights" in fails(capsys, "finetune", *unprepared, *given)
    assert "bad.pth cannot be read as weights" in fails(capsys, "finetune", *unprepared, *given, "-m", "seed=0,1")
    assert not list(Path("outputs/stores").glob("*"))
    assert not list(Path("outputs").glob("finetune/**/failure.json"))


@pytest.mark.parametrize("given", ["backbone=resnet18 encoder_weights=gone.pth", "backbone.name=resnet19"])
def test_a_probe_of_what_is_not_there_prepares_nothing(capsys, unprepared, given):
    chosen = (*unprepared[:3], "encoder=imagenet", "probe=knn", "evaluation.window.size=32", *given.split(" "))
    if "backbone=resnet18" not in given:
        chosen = (*chosen, "backbone=resnet50")
    assert given.split("=")[-1] in fails(capsys, "evaluate", *chosen)
    assert not list(Path("outputs/stores").glob("*"))


def test_a_missing_data_set_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "dataset.root=gone" in fails(capsys, "pretrain", "dataset=folder", "dataset.root=gone")
    assert "dataset.root" in fails(capsys, "pretrain", "dataset=mbrsc")
    assert not Path("outputs").exists()


@pytest.fixture
def own_dataset(folder_dataset, unprepared, tmp_path):
    """A copy of the data set that a test may damage."""
    root = tmp_path / "data"
    shutil.copytree(folder_dataset, root)
    return root, ("dataset=folder", f"dataset.root={root}", *unprepared[2:])


def test_a_mask_of_the_wrong_size_is_named(capsys, own_dataset):
    root, overrides = own_dataset
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "masks/train/scene1.png")
    err = fails(capsys, "prepare", *overrides[:2])
    assert "scene1.png" in err
    assert not list(Path("outputs/stores").glob("[!.]*"))


def test_a_damaged_store_is_named(capsys, own_dataset):
    _, overrides = own_dataset
    assert main("prepare", list(overrides[:2])) == 0
    store = Path(capsys.readouterr().out.strip())
    array = store / "00001_image.npy"
    array.write_bytes(array.read_bytes()[:-1])
    err = fails(capsys, "pretrain", *overrides)
    assert "00001_image.npy" in err
    assert "prepare" in err


def test_a_half_written_store_is_not_taken_for_whole(capsys, own_dataset):
    _, overrides = own_dataset
    assert main("prepare", list(overrides[:2])) == 0
    store = Path(capsys.readouterr().out.strip())
    (store / "manifest.json").unlink()
    err = fails(capsys, "pretrain", *overrides)
    assert "manifest.json" in err


def probe_of(overrides):
    return *overrides[:3], "encoder=random", "backbone=resnet18", "probe=linear", "evaluation.window.size=32"


def test_unlabeled_images_cannot_be_fine_tuned_on(capsys, own_dataset):
    root, overrides = own_dataset
    shutil.rmtree(root / "masks")
    (root / "classes.yaml").unlink()
    assert "has no masks" in fails(capsys, "finetune", *overrides)
    assert "there is nothing for a probe to learn" in fails(capsys, "evaluate", *probe_of(overrides))
    assert not list(Path("outputs").glob("*"))


def test_one_class_cannot_be_fine_tuned_on(capsys, own_dataset):
    root, overrides = own_dataset
    (root / "classes.yaml").write_text("classes: [{name: building, index: 1}]\nignore: [0, 2]\n")
    err = fails(capsys, "finetune", *overrides)
    assert "at least 2 classes, got 1, 'building'" in err
    assert "Make the background a class of its own: list its color or index below classes:" in err
    assert "a probe needs at least 2 classes, got 1" in fails(capsys, "evaluate", *probe_of(overrides))
    assert not list(Path("outputs").glob("*"))


@pytest.mark.parametrize("num_scenes", [1, 2])
def test_too_few_scenes_to_split_are_to_be_cut(capsys, own_dataset, num_scenes):
    root, overrides = own_dataset
    for kind in ("images", "masks"):
        for place in range(num_scenes):
            (root / kind / f"train/scene{place}.png").rename(root / kind / f"scene{place}.png")
        for split in ("train", "val", "test"):
            shutil.rmtree(root / kind / split)
    cut = "Scenes are split whole: cut one large image, and its mask alike, into several files first"
    err = fails(capsys, "finetune", *overrides)
    assert f"has {num_scenes} scene{'s' * (num_scenes - 1)}, but none in the training split. {cut}" in err
    assert "gdal_retile.py -ps 2048 2048 -targetDir tiles/masks masks/big.tif" in err
    err = fails(capsys, "finetune", *overrides, "dataset.val_share=0", "dataset.test_share=0")
    assert f"folder has no such scenes. Prepare the data with such a split. {cut}" in err


def test_the_split_that_has_scenes_is_named(capsys, own_dataset):
    root, overrides = own_dataset
    for kind in ("images", "masks"):
        (root / kind / "test/scene5.png").rename(root / kind / "train/scene5.png")
    err = fails(capsys, "finetune", *overrides)
    assert "Choose evaluation.split=val, or prepare the data with such a split." in err
    assert "gdal_retile" not in err


def test_zero_labeled_tiles_are_refused(capsys, own_dataset):
    root, overrides = own_dataset
    for path in (root / "masks").rglob("*.png"):
        Image.fromarray(np.full((96, 96), 255, np.uint8)).save(path)
    (root / "classes.yaml").write_text((root / "classes.yaml").read_text() + "ignore: [255]\n")
    assert "label" in fails(capsys, "finetune", *overrides)


def test_imagenet_weights_that_cannot_be_had_name_the_key(capsys, unprepared, tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    err = fails(capsys, "finetune", *unprepared, "initialization=imagenet")
    assert "initialization.weights=PATH/mobilenet_v2-" in err
    assert not list(Path("outputs").glob("finetune/**/config.yaml"))


def test_weights_of_another_encoder_are_refused(capsys, unprepared, tmp_path):
    from torchvision.models import resnet34

    path = tmp_path / "weights.pth"
    torch.save(resnet34().state_dict(), path)
    err = fails(capsys, "finetune", *unprepared, "initialization=imagenet", f"initialization.weights={path}")
    assert "does not fit backbone mobilenet_v2" in err
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be read as weights" in fails(
        capsys, "finetune", *unprepared, "initialization=imagenet", f"initialization.weights={path}"
    )


def test_a_pickle_with_code_in_it_is_refused(capsys, unprepared, tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "attacked",))

    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Attack()}, path)
    fails(capsys, "finetune", *unprepared, "initialization=imagenet", f"initialization.weights={path}")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.slow
def test_a_pretraining_that_does_not_fit_is_refused(capsys, unprepared):
    short = (*unprepared, "trainer.max_steps=1", "trainer.batch_size=2", "pretext=[contrastive]")
    runs = []
    for seed in (0, 1):
        assert main("pretrain", [*short, f"seed={seed}"]) == 0
        runs.append(Path(capsys.readouterr().out.strip().splitlines()[-1]))
    err = fails(capsys, "finetune", *unprepared, "initialization=pretrained")
    assert all(f"initialization.run={run}" in err for run in runs)
    err = fails(
        capsys,
        "finetune",
        *unprepared,
        "initialization=pretrained",
        f"initialization.run={runs[0]}",
        "backbone=resnet34",
    )
    assert "is an encoder mobilenet_v2, this run has backbone.name=resnet34" in err
    encoder = runs[0] / "encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:-8])
    err = fails(capsys, "finetune", *unprepared, "initialization=pretrained", f"initialization.run={runs[0]}")
    assert "is damaged or was replaced" in err


@pytest.mark.parametrize(
    "command", ["preview", "evaluate encoder=random probe=knn dataset=blue_marble backbone=resnet18"]
)
def test_commands_of_one_process_refuse_torchrun(capsys, unprepared, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    name, *given = command.split()
    assert f"{name} is one process. Start it without torchrun." in fails(capsys, name, *given)


@pytest.mark.parametrize(("key", "value"), [("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "alone")])
def test_a_sweep_under_torchrun_is_refused(capsys, unprepared, monkeypatch, key, value):
    monkeypatch.setenv(key, value)
    assert "A sweep under torchrun" in fails(capsys, "finetune", "sweep=label_fraction")


def test_a_run_held_by_another_process_is_left_alone(capsys, unprepared, tmp_path):
    from ssl_rs.run_directory import RunDirectory

    lock = RunDirectory(tmp_path / "mine").lock()
    assert "is in use by process" in fails(capsys, "pretrain", *unprepared, f"run_dir={tmp_path / 'mine'}")
    lock.close()


def test_a_result_that_is_no_json_is_named(capsys, unprepared, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text(json.dumps({"command": "pretrain"})[:-3])
    assert "result.json cannot be read" in fails(capsys, "pretrain", *unprepared, f"run_dir={run}")


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("finetune", "sweep=label_fractoin", "Did you mean 'label_fraction'?"),
        ("pretrain", "experiment=paper_resnet5", "Did you mean 'paper_resnet50'?"),
        ("pretrain", "pretext=[]", "pretext=[...] must name at least one of"),
        ("finetune", "~decoder", "decoder is not set"),
        ("pretrain", "decoder=fpn", "decoder: pretrain has no such key. decoder is for finetune. `python"),
        ("finetune", "pretext=[simclr]", "pretext is for pretrain."),
        (
            "finetune",
            "~trainer.max_steps",
            "The command line takes trainer.max_steps out of the config: leave ~trainer.max",
        ),
        ("finetune", "~logger.api_key=123", "takes logger.api_key out of the config: leave ~logger.api_key out if"),
        ("finetune", "+decoder=unet", "+decoder=unet: finetune has decoder already. Write decoder=unet, without"),
        (
            "finetune",
            "+optimizer=sgd",
            "+optimizer=sgd: finetune has optimizer already. Write optimizer=sgd, without",
        ),
        ("pretrain", "optimizer.lr=-1", "optimizer.lr=-1.0: Invalid learning rate"),
        ("pretrain", "pretext.inpainting.weight=-1", "pretext.inpainting.weight must be finite and at least 0"),
        ("pretrain", "pretext.contrastive.task.temperature=0", "temperature must be a number above 0"),
        ("pretrain", "views.clean.rotation=7", "expected a probability in [0, 1]"),
        ("finetune", "dataset.protocol=mine", "dataset.protocol=mine"),
        ("pretrain", "trainer.batch_size=1", "trainer.batch_size must be at least 2"),
    ],
)
def test_a_senseless_setting_is_named_before_the_run_has_a_folder(capsys, unprepared, name, override, said):
    assert said in fails(capsys, name, *unprepared, override)
    assert not list(Path("outputs").glob(f"{name}/**/config.yaml"))


def test_an_optimizer_that_wants_a_closure_is_refused_before_the_run_has_a_folder(capsys, unprepared):
    given = ("optimizer._target_=torch.optim.LBFGS", "~optimizer.fused", "~optimizer.weight_decay")
    assert "optimizer: a step of LBFGS needs a closure" in fails(capsys, "pretrain", *unprepared, *given)
    assert not list(Path("outputs").glob("pretrain/**/config.yaml"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("optimizer._target_=torch.optim.SparseAdam", "~optimizer.weight_decay"), "SparseAdam does not support dense"),
        (("+optimizer.differentiable=true",), "optimizer: a leaf Variable that requires grad"),
        (("+optimizer.capturable=true", "+optimizer.foreach=false"), "optimizer: If capturable=True"),
    ],
)
def test_an_optimizer_that_fails_at_its_first_step_is_refused_before_data_is_prepared(capsys, unprepared, given, said):
    assert said in fails(capsys, "pretrain", *unprepared, "~optimizer.fused", "trainer.device=cpu", *given)
    assert not list(Path("outputs").glob("stores/*"))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("finetune", ["+mine=1", "+optimizer=sgd"], "+optimizer=sgd: finetune has optimizer already."),
        ("finetune", ["loss=[balanced,dice]"], "one option of loss is expected, and only the last would count"),
        ("finetune", ["label_fraction=[10pct,50pct]"], "one option of label_fraction is expected"),
        ("pretrain", ["optimizer=[adam,sgd]"], "one option of optimizer is expected"),
        ("finetune", ["-m", "sweep=label_fraction,learning_rate"], "one sweep is expected"),
        ("pretrain", ["-m", "seed=0,1", "hydra.job.chdir=true"], "hydra.job.chdir=true has no use here: run_dir and"),
        ("pretrain", ["hydra.run.dir=x"], "hydra.run.dir=x has no use here"),
        (
            "pretrain",
            ["+hydra.launcher.n_jobs=2"],
            "hydra.launcher.n_jobs=2 is for the runs of a sweep, and this is one",
        ),
        ("pretrain", ["hydra.sweeper.max_batch_size=2"], "is for the runs of a sweep, and this is one run: add -m"),
    ],
)
def test_what_would_count_in_part_or_not_at_all_is_refused(capsys, unprepared, name, given, said):
    assert said in fails(capsys, name, *unprepared, *given)
    assert not list(Path("outputs").glob("*"))


@pytest.mark.parametrize(("name", "experiment"), [("finetune", "paper_resnet50"), ("pretrain", "mbrsc_finetune")])
def test_an_experiment_of_another_command_is_told_as_such(capsys, unprepared, name, experiment):
    said = fails(capsys, name, *unprepared, f"experiment={experiment}")
    assert f"experiment={experiment} sets it: that is an experiment of another command." in said


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("finetune", ("experiment=mbrsc_finetune", "trainer.max_stepz=5"), "Did you mean 'trainer.max_steps'?"),
        ("pretrain", ("experiment=demo_pretrain", "dataset.crop_sise=64"), "Did you mean 'dataset.crop_size'?"),
        ("pretrain", ("experiment=paper_resnet50", "pretext.simclr.weight=2"), "simclr is not among pretext=["),
    ],
)
def test_a_misspelt_key_beside_an_experiment_is_told_as_such(capsys, unprepared, name, given, said):
    told = fails(capsys, name, *unprepared, *given)
    assert said in told
    assert "of another command" not in told


def test_a_key_of_a_part_that_the_command_has_is_no_key_of_another(capsys):
    assert "Did you mean 'trainer.device'?" in fails(capsys, "predict", "trainer.devise=cpu")
    assert "decoder is for finetune." in fails(capsys, "predict", "decoder.name=unet")


def test_an_own_option_with_the_name_of_ours_is_refused(capsys, unprepared, tmp_path):
    (tmp_path / "mine/backbone").mkdir(parents=True)
    (tmp_path / "mine/backbone/resnet18.yaml").write_text("name: resnet34\n")
    said = fails(capsys, "pretrain", *unprepared, "--config-dir", str(tmp_path / "mine"), "backbone=resnet18")
    assert "backbone/resnet18.yaml has the name of an option of ours, which would count in its place. Rename" in said


def test_crops_too_small_for_a_task_are_refused_before_data_is_prepared(capsys, unprepared):
    given = ("pretext=[transform_prediction]", "dataset.crop_size=16")
    said = fails(capsys, "pretrain", *unprepared, *given)
    assert "pretext.transform_prediction.task.level=-2: of crops of dataset.crop_size=16 that map has one" in said
    assert not list(Path("outputs").glob("stores/*"))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("pretrain", ("pretext=[transform_prediction]", "dataset.crop_size=16"), "that map has one"),
        ("pretrain", ("pretext=[inpainting_fpn]", "dataset.crop_size=72"), "dataset.crop_size=72"),
        ("pretrain", ("+optimizer.differentiable=true", "~optimizer.fused"), "optimizer: a leaf Variable"),
        ("finetune", ("+optimizer.differentiable=true", "~optimizer.fused"), "optimizer: a leaf Variable"),
    ],
)
def test_what_needs_no_data_is_refused_too_where_the_data_is_prepared(capsys, unprepared, name, given, said):
    assert main("prepare", [each for each in unprepared if each.startswith("dataset")]) == 0
    assert said in fails(capsys, name, *unprepared, "trainer.device=cpu", *given)
    assert not list(Path("outputs").glob(f"{name}/**/config.yaml"))


@pytest.mark.slow
def test_a_folder_with_another_finished_run_is_not_taken_for_this_one(capsys, unprepared, tmp_path):
    short = (
        *unprepared,
        "trainer.max_steps=1",
        "trainer.batch_size=2",
        "pretext=[contrastive]",
        f"run_dir={tmp_path / 'mine'}",
    )
    assert main("pretrain", list(short)) == 0
    assert main("pretrain", list(short)) == 0
    capsys.readouterr()
    said = fails(capsys, "pretrain", *short, "seed=5", "optimizer.lr=0.5")
    assert "with other settings" in said
    assert "Settings that differ: optimizer.lr was 0.001, is 0.5; seed was 0, is 5." in said
    said = fails(capsys, "finetune", *unprepared, f"run_dir={tmp_path / 'mine'}")
    assert "a finished pretrain with other settings" in said
    assert "Settings that differ" not in said
    both = (*short[:-2], f"run_dir={tmp_path / 'both'}")
    assert main("pretrain", [*both, "pretext=[inpainting,contrastive]"]) == 0
    # Heads start with other weights in another order.
    assert "with other settings" in fails(capsys, "pretrain", *both, "pretext=[contrastive,inpainting]")
    assert "share one folder" in fails(capsys, "pretrain", "-m", *short, "seed=7,8")
    err = fails(
        capsys,
        "finetune",
        *unprepared,
        "initialization=pretrained",
        f"initialization.run={tmp_path / 'mine'}",
        "dataset.value_scale=100",
    )
    assert "Set dataset.value_scale=255" in err


def test_a_pretraining_is_no_run_to_map_by(capsys, unprepared, tmp_path):
    run = tmp_path / "outputs/pretrain/run"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"command": "pretrain"}))
    err = fails(capsys, "predict", f"run={run}", "images=x.tif")
    assert f"run={run} is a pretraining. Fine-tune from it first" in err
    assert "holds no finished fine-tuning (result.json of finetune). Finish it first." in fails(
        capsys, "predict", f"run={run.parent}", "images=x.tif"
    )
    (run / "model.safetensors").touch()
    assert f"Below it lie {run}: name one." in fails(capsys, "predict", f"run={run.parent}", "images=x.tif")
