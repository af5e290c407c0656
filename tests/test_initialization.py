"""Weights land where they belong, bring their statistics, and are refused where they do not fit."""

import dataclasses
import json
import math
import os
import re
import shutil
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from torchvision import models

from ssl_rs.encoder import Backbone, Statistics
from ssl_rs.errors import InputError, MissingWeightsError
from ssl_rs.files import sha256_of
from ssl_rs.initialization import ImageNet, Pretrained, Provenance, Random, Target
from ssl_rs.run_directory import RunDirectory, save_tensors
from ssl_rs.seen_images import SeenImages, write_seen
from ssl_rs.several_pretrainings import SeveralPretrainingsError
from ssl_rs.weights import is_safetensors, load_strictly, read_weights
from ssl_rs.weights_file import File

OWN = Statistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "the training scenes of x")
CLASSIFIERS = ("fc.", "classifier.")


def target(folder, backbone="resnet18", bands=("red", "green", "blue"), dtype="uint8", own=OWN):
    return Target("x", backbone, bands, dtype, own, 255.0, folder / "pretrain" / "x" / backbone)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def torchvision_file(folder, backbone):
    """A file of torchvision's layout, but with a small classifier; every tensor is random, those of BatchNorm too."""
    with torch.device("meta"):
        network = models.get_model(backbone, weights=None)
    name = "fc" if hasattr(network, "fc") else "classifier"
    setattr(network, name, torch.nn.Linear(2, 2))
    network.to_empty(device="cpu")
    torch.manual_seed(3)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.uniform_(*((0.5, 1.5) if name.endswith(("weight", "var")) else (-0.1, 0.1)))
    torch.save(network.state_dict(), folder / f"{backbone}.pth")
    return network.eval(), folder / f"{backbone}.pth"


# Random


def test_random_leaves_the_weights_and_takes_the_statistics_of_the_data(tmp_path):
    encoder = Backbone("resnet18").build(3)
    before = state(encoder)
    provenance = Random().apply(encoder, target(tmp_path))
    assert equal(state(encoder), before)
    assert provenance.statistics == OWN
    assert (provenance.kind, provenance.label, provenance.source, provenance.sha256) == ("random", "random", None, None)
    assert provenance.loaded_tensors == 0
    assert Random(label="mine").locate(target(tmp_path)).label == "mine"


@pytest.mark.parametrize(
    ("kind", "keys", "said", "reader"),
    [
        (Random, {"run": "RUN"}, "run=RUN", "pretrained or finetuned"),
        (Random, {"weights": "FILE"}, "weights=FILE", "imagenet or file"),
        (ImageNet, {"run": "RUN"}, "run=RUN", "pretrained or finetuned"),
        (Pretrained, {"weights": "FILE"}, "weights=FILE", "imagenet or file"),
        (Random, {"parts": "encoder_and_decoder"}, "parts=encoder_and_decoder", "pretrained or finetuned"),
        (ImageNet, {"parts": "encoder_and_decoder"}, "parts=encoder_and_decoder", "pretrained or finetuned"),
        (ImageNet, {"parts": "encoder"}, "parts=encoder", "pretrained or finetuned"),
    ],
)
def test_keys_without_a_meaning_are_refused_with_the_option_that_reads_them(kind, keys, said, reader):
    option = kind.__name__.lower()
    with pytest.raises(InputError, match=f"initialization.{said} has no meaning with initialization={option}") as error:
        kind(**keys)
    assert str(error.value).endswith(f". Choose initialization={reader}, or leave it out.")


# ImageNet


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16_bn", "mobilenet_v2"])
def test_torchvision_weights_land_exactly_in_the_encoder(tmp_path, backbone):
    network, path = torchvision_file(tmp_path, backbone)
    encoder = Backbone(backbone).build(3)
    provenance = ImageNet(weights=str(path)).apply(encoder, target(tmp_path, backbone))
    trunk = {name: value for name, value in network.state_dict().items() if not name.startswith(CLASSIFIERS)}
    assert equal(state(encoder), trunk)
    assert provenance.loaded_tensors == len(trunk) == len(encoder.state_dict())
    assert provenance.sha256 == sha256_of(path)
    assert provenance.source == f"{backbone}.pth"
    assert provenance.label == "imagenet"
    assert provenance.statistics.mean == (0.485, 0.456, 0.406)
    assert provenance.statistics.std == (0.229, 0.224, 0.225)
    assert "IMAGENET1K_V1" in provenance.statistics.source


@pytest.mark.parametrize("initialization", [ImageNet, File])
def test_the_older_names_of_published_densenets_are_known(tmp_path, initialization):
    network, path = torchvision_file(tmp_path, "densenet121")
    published = {re.sub(r"(\.(?:norm|conv))([12]\.)", r"\1.\2", name): value for name, value in state(network).items()}
    older = [name for name in published if name not in network.state_dict()]
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    torch.save({name: value for name, value in published.items() if not name.endswith(".num_batches_tracked")}, path)
    encoder = Backbone("densenet121").build(3)
    initialization(weights=str(path)).apply(encoder, target(tmp_path, "densenet121"))
    loaded = state(encoder)
    names = [name for name in loaded if not name.endswith(".num_batches_tracked")]
    assert all(torch.equal(loaded[name], network.state_dict()[name]) for name in names)


TRUNKS = {
    "resnet18": lambda network, images: network.layer4(
        network.layer3(
            network.layer2(network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(images))))))
        )
    ),
    "vgg16_bn": lambda network, images: network.features(images),
    "mobilenet_v2": lambda network, images: network.features(images),
}


@pytest.mark.parametrize("backbone", TRUNKS)
def test_features_are_those_of_torchvisions_own_trunk(tmp_path, backbone):
    network, path = torchvision_file(tmp_path, backbone)
    encoder = Backbone(backbone).build(3).eval()
    ImageNet(weights=str(path)).apply(encoder, target(tmp_path, backbone))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, features = TRUNKS[backbone](network, images), encoder(images)
    assert expected.std() > 0
    torch.testing.assert_close(features[-1], expected)


def test_weights_may_be_safetensors(tmp_path):
    _, path = torchvision_file(tmp_path, "resnet18")
    save_tensors(tmp_path / "weights.safetensors", read_weights(path), {"from": "torchvision"})
    one, other = Backbone("resnet18").build(3), Backbone("resnet18").build(3)
    ImageNet(weights=str(path)).apply(one, target(tmp_path))
    ImageNet(weights=str(tmp_path / "weights.safetensors")).apply(other, target(tmp_path))
    assert equal(state(one), state(other))


def test_locating_loads_nothing_and_agrees_with_applying(tmp_path):
    _, path = torchvision_file(tmp_path, "resnet18")
    initialization = ImageNet(weights=str(path), label="mine")
    located = initialization.locate(target(tmp_path))
    applied = initialization.apply(Backbone("resnet18").build(3), target(tmp_path))
    assert dataclasses.replace(applied, loaded_tensors=0) == located
    assert located.label == "mine"
    assert "mine: 120 tensors from resnet18.pth (sha256 " in applied.describe()
    assert json.loads(json.dumps(applied.as_json()))["statistics"]["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("backbone", TRUNKS)
@pytest.mark.parametrize("bands", [("gray",), ("blue", "green", "red", "nir", "swir_1", "swir_2")])
def test_of_other_bands_gray_images_have_the_features_of_torchvisions_trunk(tmp_path, backbone, bands):
    network, path = torchvision_file(tmp_path, backbone)
    encoder = Backbone(backbone).build(len(bands)).eval()
    own = Statistics((0.5,) * len(bands), (0.25,) * len(bands), "the training scenes of x")
    provenance = ImageNet(weights=str(path)).apply(encoder, target(tmp_path, backbone, bands, "uint16", own))
    gray = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = TRUNKS[backbone](network, gray.repeat(1, 3, 1, 1))
        features = encoder(gray.repeat(1, len(bands), 1, 1))
    torch.testing.assert_close(features[-1], expected, atol=1e-3, rtol=1e-3)
    assert provenance.statistics == own
    assert provenance.first_convolution.endswith(f"all multiplied by 3/{len(bands)}")
    assert f"first convolution: {provenance.first_convolution}; images are" in provenance.describe()
    assert json.loads(json.dumps(provenance.as_json()))["first_convolution"] == provenance.first_convolution


def test_bands_in_another_order_have_the_features_of_the_reordered_image(tmp_path):
    network, path = torchvision_file(tmp_path, "resnet18")
    encoder = Backbone("resnet18").build(3).eval()
    provenance = ImageNet(weights=str(path)).apply(encoder, target(tmp_path, bands=("blue", "green", "red")))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = TRUNKS["resnet18"](network, images)
        torch.testing.assert_close(encoder(images.flip(1))[-1], expected, atol=1e-3, rtol=1e-3)
    assert provenance.statistics.mean == (0.406, 0.456, 0.485)


def test_red_green_blue_need_no_change_of_the_first_convolution(tmp_path):
    _, path = torchvision_file(tmp_path, "resnet18")
    found = ImageNet(weights=str(path)).locate(target(tmp_path))
    assert found.first_convolution is None
    assert "first convolution" not in found.describe()


def test_a_file_whose_first_convolution_reads_other_bands_is_no_imagenet(tmp_path):
    _, path = torchvision_file(tmp_path, "resnet18")
    weights = torch.load(path, weights_only=True)
    torch.save({**weights, "conv1.weight": torch.zeros(64, 4, 7, 7)}, path)
    bands = ("blue", "green", "red", "nir")
    own = Statistics((0.5,) * 4, (0.25,) * 4, "x")
    with pytest.raises(InputError, match=r"resnet18\.pth: conv1\.weight is \(64, 4, 7, 7\), expected filters of red"):
        ImageNet(weights=str(path)).apply(Backbone("resnet18").build(4), target(tmp_path, bands=bands, own=own))


@pytest.mark.parametrize("backbone", ["tu-convnext_atto", "mit_b0"])
def test_a_backbone_that_torchvision_does_not_know_is_refused(tmp_path, backbone):
    with pytest.raises(InputError, match=f"torchvision has no ImageNet weights for backbone.name={backbone}"):
        ImageNet().locate(target(tmp_path, backbone))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"initialization\.weights=nowhere\.pth: there is no such file"):
        ImageNet(weights="nowhere.pth").locate(target(tmp_path))


def test_torchvisions_file_is_taken_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *arguments, **_: pytest.fail("it asked the network"))
    _, path = torchvision_file(tmp_path, "resnet18")
    name = f"resnet18-{sha256_of(path)[:8]}.pth"
    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.value, "url", f"https://download.pytorch.org/{name}")
    (tmp_path / "checkpoints").mkdir()
    path.rename(tmp_path / "checkpoints" / name)
    assert ImageNet().apply(Backbone("resnet18").build(3), target(tmp_path)).source == name


def test_the_published_weights_of_mobilenet_v2_fit(tmp_path):
    folder = os.environ.get("SSL_RS_WEIGHTS")
    if not folder:
        pytest.skip("SSL_RS_WEIGHTS does not name a folder with torchvision's mobilenet_v2-b0353104.pth")
    path = Path(folder) / "mobilenet_v2-b0353104.pth"
    encoder = Backbone("mobilenet_v2").build(3).eval()
    provenance = ImageNet(weights=str(path)).apply(encoder, target(tmp_path, "mobilenet_v2"))
    assert provenance.sha256.startswith("b0353104")  # torchvision's names carry it
    network = models.mobilenet_v2()
    network.load_state_dict(torch.load(path, weights_only=True))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[-1], network.eval().features(images))


# Pretrained


def pretraining(path, backbone="resnet18", bands=("red", "green", "blue"), start=None, transductive=False):
    """A finished pretraining with weights of its own, after an earlier provenance; returns them."""
    run = RunDirectory(path)
    path.mkdir(parents=True)
    torch.manual_seed(len(str(path)))
    encoder = Backbone(backbone).build(len(bands))
    metadata = {
        "backbone": backbone,
        "bands": json.dumps(bands),
        "mean": json.dumps([0.5, 0.25, 0.125]),
        "std": json.dumps([0.1, 0.2, 0.3]),
        "statistics_source": "the training scenes of y",
        "value_scale": "255.0",
    }
    save_tensors(run.encoder, encoder.state_dict(), metadata)
    start = start or Provenance("random", "random", None, None, OWN)
    result = {
        "pretext": ["inpainting", "contrastive"], "initialization": start.kind, "provenance": start.as_json(),
        "steps": 10, "images_seen": 320, "seed": 4,
        "transductive": transductive, "splits": ["train", "test"] if transductive else ["train"],
        "dataset": "y", "final_losses": {"inpainting": 0.1}, "collapse": {"feature_std": 1.0}, "backbone": backbone,
        "encoder_sha256": sha256_of(run.encoder),
    }  # fmt: skip
    run.finish(result)
    return run, state(encoder)


def test_a_pretraining_comes_back_bit_for_bit_with_its_statistics(tmp_path):
    run, weights = pretraining(tmp_path / "run")
    encoder = Backbone("resnet18").build(3)
    provenance = Pretrained(run=str(run.path)).apply(encoder, target(tmp_path))
    assert equal(state(encoder), weights)
    assert provenance.loaded_tensors == len(weights)
    assert provenance.statistics == Statistics((0.5, 0.25, 0.125), (0.1, 0.2, 0.3), "the training scenes of y")
    assert provenance.sha256 == sha256_of(run.encoder)
    assert provenance.source == str(run.path)
    assert provenance.label == "inpainting + contrastive"
    assert provenance.pretraining["steps"] == 10
    assert provenance.pretraining["collapse"] == {"feature_std": 1.0}
    assert json.loads(json.dumps(provenance.as_json()))["pretraining"]["seed"] == 4


def test_a_pretraining_on_other_images_of_the_same_name_says_so(tmp_path):
    run, _ = pretraining(tmp_path / "run")
    write_seen(run, SeenImages(frozenset("ab")))
    now = replace(target(tmp_path), dataset="y", training=frozenset("abc"))
    with pytest.warns(UserWarning, match="was pretrained on y, but saw 2 of the 3 training images that are there now"):
        Pretrained(run=str(run.path)).apply(Backbone("resnet18").build(3), now)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fits in (replace(now, training=frozenset("ab")), replace(now, dataset="x")):
            Pretrained(run=str(run.path)).apply(Backbone("resnet18").build(3), fits)


def test_a_pretraining_of_other_data_of_the_same_name_must_be_named(tmp_path):
    run, _ = pretraining(tmp_path / "run")
    write_seen(run, SeenImages(frozenset("ab")))
    others = replace(target(tmp_path), dataset="y", training=frozenset("cd"), pretrainings=tmp_path)
    with pytest.raises(InputError, match=r"the name y, .*run, saw none of the 2 training images.*initialization\.run="):
        Pretrained().locate(others)
    assert Pretrained(run=str(run.path)).locate(others).source == str(run.path)
    assert Pretrained().locate(replace(others, training=frozenset("bc"))).source == str(run.path)


def test_another_value_scale_is_refused_before_data_is_prepared(tmp_path):
    run, _ = pretraining(tmp_path / "run")
    chosen = Pretrained(run=str(run.path))
    for fits in (255.0, None):
        chosen.check("x", "resnet18", tmp_path, fits)
    with pytest.raises(InputError, match="was trained on values divided by 255, this data is divided by 100"):
        chosen.check("x", "resnet18", tmp_path, 100.0)


IMAGENET = Provenance("imagenet", "imagenet", "resnet18.pth", "ab" * 32, OWN)


def test_the_label_says_where_the_pretraining_started(tmp_path):
    run, _ = pretraining(tmp_path / "run", start=IMAGENET)
    first = Pretrained(run=str(run.path)).locate(target(tmp_path))
    assert first.label == "imagenet, then inpainting + contrastive"
    assert Pretrained(run=str(run.path), label="mine").locate(target(tmp_path)).label == "mine"
    again, _ = pretraining(tmp_path / "again", start=first)
    second = Pretrained(run=str(again.path)).locate(target(tmp_path))
    assert second.label == "imagenet, then inpainting + contrastive, then inpainting + contrastive"
    chain = json.loads(json.dumps(second.as_json()))["pretraining"]["provenance"]
    assert chain["source"] == str(run.path)
    assert chain["pretraining"]["provenance"]["sha256"] == "ab" * 32
    assert chain["pretraining"]["provenance"]["pretraining"] is None


def test_a_pretraining_that_saw_test_scenes_says_so_and_so_does_what_starts_from_it(tmp_path):
    run, _ = pretraining(tmp_path / "run", start=IMAGENET, transductive=True)
    found = Pretrained(run=str(run.path)).locate(target(tmp_path))
    assert found.label == "imagenet, then inpainting + contrastive (transductive)"
    assert found.pretraining["transductive"] is True
    assert found.pretraining["splits"] == ["train", "test"]
    assert Pretrained(run=str(run.path), label="mine").locate(target(tmp_path)).label == "mine (transductive)"
    plain, _ = pretraining(tmp_path / "plain")
    assert Pretrained(run=str(plain.path)).locate(target(tmp_path)).pretraining["transductive"] is False
    later, _ = pretraining(tmp_path / "later", start=dataclasses.replace(found, label="mine"))
    label = Pretrained(run=str(later.path)).locate(target(tmp_path)).label
    assert label == "mine, then inpainting + contrastive (transductive)"


def test_a_result_of_another_version_is_refused(tmp_path):
    run, _ = pretraining(tmp_path / "run")
    result = run.read_result()
    del result["transductive"]
    run.result.write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"result\.json lacks \['transductive'\].*Delete .*result\.json: the command"):
        Pretrained(run=str(run.path)).locate(target(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pretext", "inpainting", "pretext='inpainting'"),
        ("pretext", [1], "a task 1"),
        ("provenance", None, "provenance=None"),
        ("provenance", {}, "provenance without label"),
        ("provenance", {"label": "random", "pretraining": [1]}, r"provenance.pretraining=\[1\]"),
        ("seed", "zero", "seed='zero'"),
    ],
)
def test_a_result_edited_by_hand_is_refused(tmp_path, key, value, said):
    run, _ = pretraining(tmp_path / "run")
    run.result.write_text(json.dumps({**run.read_result(), key: value}))
    with pytest.raises(InputError, match=rf"result\.json holds {said}: it is damaged"):
        Pretrained(run=str(run.path)).locate(target(tmp_path))


def test_the_only_pretraining_of_the_data_set_and_backbone_is_found(tmp_path):
    wanted = target(tmp_path)
    with pytest.raises(InputError, match=r"no finished pretraining of resnet18 on x.*ssl_rs\.pretrain"):
        Pretrained().locate(wanted)
    unfinished, _ = pretraining(wanted.pretrainings / "a" / "seed1")
    unfinished.result.unlink()
    one, _ = pretraining(wanted.pretrainings / "a" / "seed0")
    assert Pretrained().locate(wanted).source == str(one.path)
    other, _ = pretraining(wanted.pretrainings / "b" / "seed0")
    with pytest.raises(InputError) as error:
        Pretrained().locate(wanted)
    assert "there are 2 finished pretrainings" in str(error.value)
    assert all(f"initialization.run={run.path}" in str(error.value) for run in (one, other))


def test_a_run_may_be_named_by_what_it_lies_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = target(tmp_path)
    one, _ = pretraining(wanted.pretrainings / "simclr" / "seed0-aa")
    for chosen in (
        "simclr",
        "simclr/seed0-*",
        "s*",
        "pretrain/x/resnet18/simclr",
        "pretrain/**/seed0-a?",
        str(one.path),
    ):
        found = Pretrained(run=chosen).locate(wanted)
        assert Path(found.source).resolve() == one.path.resolve(), chosen
    other, _ = pretraining(wanted.pretrainings / "simclr" / "seed1-bb")
    assert Path(Pretrained(run="simclr/seed0-*").locate(wanted).source) == one.path
    for run, ended in ((other, datetime(2024, 5, 6, 7, 8)), (one, datetime(2024, 5, 6, 9, 10))):
        os.utime(run.result, (ended.timestamp(), ended.timestamp()))
    with pytest.raises(InputError) as error:
        Pretrained(run="simclr").locate(wanted)
    assert str(error.value) == (
        "initialization.run=simclr stands for 2 finished pretrainings; name one:\n"
        f"  initialization.run={other.path}  (ended 2024-05-06 07:08)\n"
        f"  initialization.run={one.path}  (ended 2024-05-06 09:10)\n"
        "A pattern that fits one alone will do, e.g. 'initialization.run=simclr/seed0-*'.\n"
        "In a sweep over initialization.run give all its values again, with this one in its place."
    )
    pretraining(wanted.pretrainings / "simclr" / "seed0-ac0123")
    with pytest.raises(InputError, match=r"e\.g\. 'initialization\.run=simclr/seed0-ac01\*'"):
        Pretrained(run="simclr/seed0-*").locate(wanted)
    shutil.rmtree(wanted.pretrainings / "simclr" / "seed0-ac0123")
    other.encoder.unlink()  # what holds no encoder is no pretraining
    assert Path(Pretrained(run="simclr").locate(wanted).source) == one.path


def test_several_pretrainings_are_told_apart_by_what_differs(tmp_path):
    wanted = target(tmp_path)
    changes = {
        "seed0-aa": {"manifest_sha256": "a" * 64},
        "seed0-bb": {"manifest_sha256": "b" * 64, "steps": 20, "settings": {"optimizer.lr": 0.1, "seed": 4}},
        "seed1-cc": {"manifest_sha256": "b" * 64, "seed": 5, "settings": {"optimizer.lr": 0.2, "seed": 5}},
    }
    for hour, (name, changed) in enumerate(changes.items()):
        run, _ = pretraining(wanted.pretrainings / "simclr" / name)
        run.result.write_text(json.dumps({**run.read_result(), **changed}))
        write_seen(run, SeenImages(frozenset(map(str, range(12 + hour)))))
        os.utime(run.result, 2 * (datetime(2024, 5, 6, hour).timestamp(),))
    (wanted.pretrainings / "simclr/seed0-bb/images_seen.json").write_text("[]")  # damaged: it tells nothing
    with pytest.raises(SeveralPretrainingsError) as error:
        Pretrained().locate(wanted)
    base = f"  initialization.run={wanted.pretrainings}/simclr"
    pattern = "A pattern that fits one alone will do, e.g. 'initialization.run=simclr/seed1-*'."
    assert str(error.value).splitlines()[1:] == [
        f"{base}/seed0-aa  (10 steps, seed 4, made from data aaaaaaaa, 12 images, ended 2024-05-06 00:00)",
        f"{base}/seed0-bb  (20 steps, seed 4, optimizer.lr=0.1, made from data bbbbbbbb, ended 2024-05-06 01:00)",
        f"{base}/seed1-cc  (10 steps, seed 5, optimizer.lr=0.2, made from data bbbbbbbb, 14 images, "
        "ended 2024-05-06 02:00)",
        pattern,
    ]
    (wanted.pretrainings / "simclr/seed0-bb/images_seen.json").unlink()
    assert str(error.value.beside("b" * 64)).splitlines()[1:] == [
        f"{base}/seed0-aa  (10 steps, seed 4, made from other data than the present, 12 images, "
        "ended 2024-05-06 00:00)",
        f"{base}/seed0-bb  (20 steps, seed 4, optimizer.lr=0.1, made from the present data, ended 2024-05-06 01:00)",
        f"{base}/seed1-cc  (10 steps, seed 5, optimizer.lr=0.2, made from the present data, 14 images, "
        "ended 2024-05-06 02:00)",
        pattern,
    ]


def test_a_run_from_here_comes_before_one_among_the_pretrainings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = target(tmp_path)
    pretraining(wanted.pretrainings / "a" / "seed0")
    pretraining(tmp_path / "a" / "[1]")
    assert Pretrained(run="a").locate(wanted).source == "a/[1]"
    assert Pretrained(run="a/[1]").locate(wanted).source == "a/[1]"


@pytest.mark.parametrize("chosen", ["nothing", "nothing/*", "empty"])
def test_a_name_that_no_finished_pretraining_has_is_refused(tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(InputError, match=rf"initialization\.run={re.escape(chosen)} holds no finished pretraining"):
        Pretrained(run=chosen).locate(target(tmp_path))


@pytest.mark.parametrize("chosen", ["simcrl", "pretrain/x/resnet18/simcrl", "simclr/seed0-ab"])
def test_a_misspelt_run_is_told_the_nearest(tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    wanted = replace(target(tmp_path), pretrainings=Path("pretrain/x/resnet18"))
    pretraining(wanted.pretrainings / "simclr" / "seed0-aa")
    with pytest.raises(MissingWeightsError) as error:
        Pretrained(run=chosen).locate(wanted)
    meant = {"simclr/seed0-ab": "simclr/seed0-aa"}.get(chosen, chosen.replace("simcrl", "simclr"))
    assert f" Did you mean '{meant}'?\nThose of resnet18 on x are:\n" in str(error.value)
    with pytest.raises(MissingWeightsError) as error:
        Pretrained(run="nothing").locate(wanted)
    assert "Did you mean" not in str(error.value)


# The decoder


def with_decoder(path, name="unet", decoder=None):
    """A finished pretraining that left a decoder."""
    run, _ = pretraining(path)
    save_tensors(run.decoder, (decoder or torch.nn.Linear(2, 3)).state_dict(), {"decoder": name})
    run.finish({**run.read_result(), "decoder": name, "decoder_sha256": sha256_of(run.decoder)})
    return run


def for_decoder(folder, name="unet"):
    return dataclasses.replace(target(folder), decoder=name)


def test_encoder_and_decoder_come_back_bit_for_bit(tmp_path):
    written = torch.nn.Linear(2, 3)
    run = with_decoder(tmp_path / "run", decoder=written)
    decoder = torch.nn.Linear(2, 3)
    both, alone = Pretrained(run=str(run.path), parts="encoder_and_decoder"), Pretrained(run=str(run.path))
    provenance = both.apply(Backbone("resnet18").build(3), for_decoder(tmp_path), decoder)
    assert equal(state(decoder), state(written))
    assert provenance.loaded_tensors == len(Backbone("resnet18").build(3).state_dict()) + 2
    assert provenance.decoder_sha256 == sha256_of(run.decoder)
    assert provenance.label == "inpainting + contrastive with decoder"
    assert f"and the decoder (sha256 {provenance.decoder_sha256[:12]})" in provenance.describe()
    untouched = torch.nn.Linear(2, 3)
    before = state(untouched)
    provenance = alone.apply(Backbone("resnet18").build(3), for_decoder(tmp_path), untouched)
    assert equal(state(untouched), before)
    assert provenance.decoder_sha256 is None
    assert provenance.label == "inpainting + contrastive"


def test_a_decoder_of_other_channels_is_refused(tmp_path):
    run = with_decoder(tmp_path / "run")
    with pytest.raises(
        InputError, match=r"its decoder does not fit decoder unet: 2 of another shape.*the same settings"
    ):
        Pretrained(run=str(run.path), parts="encoder_and_decoder").apply(
            Backbone("resnet18").build(3), for_decoder(tmp_path), torch.nn.Linear(2, 4)
        )


def test_a_decoder_that_cannot_be_taken_over_is_refused_with_the_reason(tmp_path):
    run, plain = with_decoder(tmp_path / "run"), pretraining(tmp_path / "plain")[0]
    both = Pretrained(run=str(run.path), parts="encoder_and_decoder")
    with pytest.raises(InputError, match=r"has a decoder unet, this run has decoder=fpn\. Choose decoder=unet"):
        both.locate(for_decoder(tmp_path, "fpn"))
    with pytest.raises(InputError, match="a pretraining has heads of its own"):
        both.locate(target(tmp_path))
    with pytest.raises(InputError, match=r"left no decoder.*pretext=\[inpainting_unet"):
        Pretrained(run=str(plain.path), parts="encoder_and_decoder").locate(for_decoder(tmp_path))
    save_tensors(run.decoder, {"weight": torch.zeros(1)}, {"decoder": "unet"})
    with pytest.raises(InputError, match=r"decoder\.safetensors is not the file that its result\.json names"):
        both.locate(for_decoder(tmp_path))
    run.decoder.unlink()
    with pytest.raises(InputError, match=r"decoder\.safetensors is missing"):
        both.locate(for_decoder(tmp_path))


def test_other_bands_in_another_order_are_refused(tmp_path):
    """Where the data's are among them, the message says how to take them."""
    run, _ = pretraining(tmp_path / "run", bands=("blue", "green", "red"))
    with pytest.raises(InputError, match="was trained on the bands") as error:
        Pretrained(run=str(run.path)).locate(target(tmp_path))
    way = rf"initialization=file initialization\.weights=({re.escape(str(run.path))}\S+)\.$"
    weights = re.search(way, str(error.value))[1]
    encoder = Backbone("resnet18").build(3)
    found = File(weights=weights).apply(encoder, target(tmp_path))
    assert "red takes 3" in found.first_convolution
    other = replace(target(tmp_path), bands=("nir", "green", "red"))
    with pytest.raises(InputError, match=r"and dataset\.bands names them\.$"):
        Pretrained(run=str(run.path)).locate(other)


# Files


def test_names_and_shapes_must_be_the_modules_own():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    own = state(module)
    weights = {**own, "0.weight": torch.ones(3, 5), "2.weight": torch.ones(1)}
    del weights["1.bias"]
    with pytest.raises(InputError) as error:
        load_strictly(module, weights, "initialization.weights=FILE", "backbone tiny")
    assert str(error.value) == (
        "initialization.weights=FILE does not fit backbone tiny: 1 missing (e.g. 1.bias); "
        "1 unexpected (e.g. 2.weight); 1 of another shape (e.g. 0.weight is (3, 5), expected (3, 2))."
    )
    assert equal(state(module), own)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own: own.pop("1.bias"), "1 missing (e.g. 1.bias)"),
        (lambda own: own.update({"2.bias": torch.ones(1)}), "1 unexpected (e.g. 2.bias)"),
        (lambda own: own.update({"1.bias": torch.ones(())}), "1 of another shape (e.g. 1.bias is (), expected (1,))"),
    ],
)
def test_each_difference_alone_is_refused(change, said):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    weights = state(module)
    change(weights)
    with pytest.raises(InputError) as error:
        load_strictly(module, weights, "FILE", "backbone tiny")
    assert str(error.value) == f"FILE does not fit backbone tiny: {said}."


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_short_is_named(tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    save_tensors(path, {"a": torch.ones(100)}, {"k": "v"}) if suffix == ".safetensors" else torch.save(
        {"a": torch.ones(100)}, path
    )
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"weights{suffix} cannot be read as weights \(.+\)\."):
        read_weights(path)


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x020.", b"]", b"PK\x05\x06", b"\x00" * 50, b"a text\n" * 50])
def test_bytes_that_are_no_weights_are_named(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth cannot be read as weights \((?!.*False).+\)\."):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}, {"a": 3}])
def test_something_else_than_a_table_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="holds no table of named tensors"):
        read_weights(tmp_path / "weights.pth")


def test_tables_in_one_another_name_what_reads_them(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="which initialization=file reads, and encoder=file of evaluate"):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("safe", [False, True])
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path, safe):
    own = {"a": torch.arange(3.0)}
    path = tmp_path / ("weights.pth" if safe else "weights.safetensors")
    save_tensors(path, own, {"k": "v"}) if safe else torch.save(own, path)
    assert is_safetensors(path) == safe
    assert equal(read_weights(path), own)


def test_a_bit_that_flipped_is_noticed(tmp_path):
    """torch reads the tensor all the same."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["a"].any()
    with pytest.raises(InputError, match=r"weights\.pth is damaged: the checksum of weights/data/0 in it is wrong"):
        read_weights(path)


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(10)}, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_weights(tmp_path / "weights.pth"), {"a": torch.ones(10)})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    own = state(module)
    weights = {**own, "1.running_var": torch.tensor([1.0, value, 1.0])}
    with pytest.raises(InputError, match=r"^FILE: 1\.running_var holds values that are not finite\."):
        load_strictly(module, weights, "FILE", "backbone tiny")
    assert equal(state(module), own)


def test_torchs_warnings_are_none_of_ours(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="cannot be read as weights"):
            read_weights(tmp_path / "weights.pt")


def test_a_file_that_counts_no_batches_is_as_good(tmp_path):
    """torchvision's vgg16_bn of 2017 has no num_batches_tracked."""
    from torchvision.models import mobilenet_v2

    weights = {name: value for name, value in mobilenet_v2().state_dict().items() if "num_batches" not in name}
    torch.save(weights, tmp_path / "old.pth")
    encoder = Backbone("mobilenet_v2").build(3)
    ImageNet(weights=str(tmp_path / "old.pth")).apply(encoder, target(tmp_path, "mobilenet_v2"))
    own = encoder.state_dict()
    assert all(own[name].equal(value) for name, value in weights.items() if name.startswith("features."))
    assert all(int(value) == 0 for name, value in own.items() if "num_batches" in name)
