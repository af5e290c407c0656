"""Encoders that others published are found in their files, land bit for bit, and are refused where they do not fit."""

import argparse
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from ssl_rs.encoder import Backbone, Statistics
from ssl_rs.errors import InputError
from ssl_rs.initialization import ImageNet, Target
from ssl_rs.run_directory import RunDirectory, save_tensors
from ssl_rs.weights import read_tensors
from ssl_rs.weights_file import File, encoder_tensors
from ssl_rs.weights_metadata import WeightsMetadata

RGB = ("red", "green", "blue")


def target(bands=RGB, backbone="resnet18"):
    own = Statistics((0.1,) * len(bands), (0.4,) * len(bands), "the training scenes of x")
    return Target("x", backbone, bands, "uint8", own, 255.0, Path("pretrain/x"))


def resnet(channels=3, seed=0):
    """Return the tensors of a resnet18 of torchvision with random weights, its classifier among them."""
    torch.manual_seed(seed)
    network = models.resnet18(num_classes=2)
    network.conv1 = torch.nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return network.state_dict()


def prefixed(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


def saved(folder, content):
    path = folder / "published.pth"
    torch.save(content, path)
    return str(path)


def check_landed(encoder, weights):
    own = encoder.state_dict()
    assert own.keys() == {name for name in weights if not name.startswith("fc.")}
    assert all(torch.equal(own[name], weights[name]) for name in own)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder_q."])
@pytest.mark.parametrize("within", [None, "state_dict"])
def test_an_encoder_is_found_whatever_its_names_begin_with(tmp_path, prefix, within):
    weights = resnet()
    content = {**prefixed(weights, prefix), "queue": torch.zeros(2, 8), "projection.conv1.weight": torch.zeros(1)}
    if within:
        content = {"epoch": 3, within: content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    encoder = Backbone("resnet18").build(3)
    found = File(weights=saved(tmp_path, content)).apply(encoder, target())
    check_landed(encoder, weights)
    assert (found.kind, found.label, found.source) == ("file", "published", "published.pth")
    assert found.loaded_tensors == len(weights) - 2
    assert found.first_convolution is None
    assert found.statistics == target().statistics


def test_safetensors_are_as_good(tmp_path):
    weights = resnet()
    save_file(prefixed(weights, "encoder."), tmp_path / "mine.safetensors")
    encoder = Backbone("resnet18").build(3)
    File(weights=str(tmp_path / "mine.safetensors")).apply(encoder, target())
    check_landed(encoder, weights)


def own_file(folder, bands, scale=255.0):
    """Write a file as a pretraining of ours does, and return it with its tensors."""
    weights = Backbone("resnet18").build(len(bands)).state_dict()
    mean, std = (tuple(index / part for index in range(1, len(bands) + 1)) for part in (10, 20))
    metadata = WeightsMetadata("resnet18", bands, scale, Statistics(mean, std, "scenes of elsewhere"))
    save_tensors(folder / "colleague.safetensors", weights, metadata.texts())
    return str(folder / "colleague.safetensors"), weights


def test_a_file_of_ours_gives_each_band_its_own_filters_and_statistics(tmp_path):
    path, weights = own_file(tmp_path, ("blue", "green", "red", "nir"))
    encoder = Backbone("resnet18").build(3)
    found = File(weights=path).apply(encoder, target(("nir", "red", "blue")))
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"][:, [3, 2, 0]])
    assert found.statistics == Statistics((0.4, 0.3, 0.1), (0.2, 0.15, 0.05), "scenes of elsewhere")
    assert found.first_convolution == "of the file's 4 channels, nir takes 4, red takes 3, blue takes 1"
    encoder = Backbone("resnet18").build(4)
    found = File(weights=path).apply(encoder, target(("blue", "green", "red", "nir")))
    check_landed(encoder, weights)
    assert (found.first_convolution, found.statistics.mean) == (None, (0.1, 0.2, 0.3, 0.4))


def test_what_is_said_of_the_bands_of_a_file_of_ours_counts(tmp_path):
    path, weights = own_file(tmp_path, ("b2", "b3", "b4", "b5"))
    encoder = Backbone("resnet18").build(2)
    with pytest.raises(InputError, match=r"trained on the bands b2, b3, b4, b5, the data has red, nir\. Say which of"):
        File(weights=path).apply(encoder, target(("red", "nir")))
    with pytest.raises(InputError, match=r"initialization\.bands=\[3, 5\]: .* has 4 channels"):
        File(weights=path, bands=[3, 5]).apply(encoder, target(("red", "nir")))
    found = File(weights=path, bands=[3, 1]).apply(encoder, target(("red", "nir")))
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"][:, [2, 0]])
    assert found.statistics.mean == (0.3, 0.1)
    given = File(weights=path, bands=[3, 1], mean=[0.5, 0.6], std=[0.7, 0.8]).locate(target(("red", "nir")))
    assert given.statistics.std == (0.7, 0.8)


def test_a_file_of_ours_for_other_values_is_refused(tmp_path):
    path, _ = own_file(tmp_path, RGB, scale=10000.0)
    with pytest.raises(InputError, match="was trained on values divided by 10000, this data is divided by 255"):
        File(weights=path).locate(target())


def test_a_file_of_ours_of_colors_serves_more_bands_as_imagenets_does(tmp_path):
    path, weights = own_file(tmp_path, RGB)
    encoder = Backbone("resnet18").build(4)
    found = File(weights=path).apply(encoder, target((*RGB, "nir")))
    assert torch.allclose(encoder.conv1.weight[:, :3] * 4 / 3, weights["conv1.weight"])
    assert found.statistics == target((*RGB, "nir")).statistics


def test_a_file_of_ours_of_colors_in_another_order_serves_no_other_bands(tmp_path):
    path, _ = own_file(tmp_path, ("blue", "green", "red"))
    with pytest.raises(InputError, match="was trained on the bands blue, green, red, the data has vv, vh"):
        File(weights=path).locate(target(("vv", "vh")))


def test_some_channels_in_the_order_of_the_file_are_picked_too(tmp_path):
    path, weights = own_file(tmp_path, ("blue", "green", "red", "nir"))
    encoder = Backbone("resnet18").build(2)
    found = File(weights=path).apply(encoder, target(("blue", "red")))
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"][:, [0, 2]])
    assert found.first_convolution == "of the file's 4 channels, blue takes 1, red takes 3"


def test_a_prefix_is_that_of_whole_words(tmp_path):
    query, key = resnet(seed=1), resnet(seed=2)
    path = saved(tmp_path, prefixed(query, "encoder.") | prefixed(key, "momentum_encoder."))
    encoder = Backbone("resnet18").build(3)
    File(weights=path, prefix="encoder.").apply(encoder, target())
    check_landed(encoder, query)


def test_of_several_encoders_one_must_be_named(tmp_path):
    query, key = resnet(seed=1), resnet(seed=2)
    path = saved(tmp_path, {"state_dict": prefixed(query, "module.encoder_q.") | prefixed(key, "module.encoder_k.")})
    encoder = Backbone("resnet18").build(3)
    with pytest.raises(InputError, match=r"holds 2 encoders, .*encoder_k\.conv1\.weight, .*initialization\.prefix"):
        File(weights=path).apply(encoder, target())
    for prefix, weights in (("module.encoder_k.", key), ("state_dict.module.encoder_q.", query)):
        found = File(weights=path, prefix=prefix).apply(encoder, target())
        check_landed(encoder, weights)
        assert found.source == f"published.pth, {prefix}"
    with pytest.raises(InputError, match=r"no tensor below teacher\..* or another initialization\.prefix"):
        File(weights=path, prefix="teacher.").apply(encoder, target())


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_models_of_timm_give_their_own_features(tmp_path, name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    encoder = Backbone(f"tu-{name}").build(3).eval()
    File(weights=saved(tmp_path, model.state_dict())).apply(encoder, target(backbone=f"tu-{name}"))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        # Of a pyramid the last level comes before a model's last norm, if it has one behind its stages.
        expected = timm.create_model(name, pretrained=False, features_only=True)
        expected.load_state_dict({key: value for key, value in encoder.model.state_dict().items()})
        trunk = [value for key, value in model.state_dict().items() if not key.startswith(("head", "fc"))]
        assert len(encoder.state_dict()) <= len(trunk)
        torch.testing.assert_close(encoder(images)[-1], expected.eval()(images)[-1])
    own = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, own[key.removeprefix("model.").replace(".", "_")])


def test_channels_are_picked_in_the_order_of_the_bands(tmp_path):
    weights = resnet(channels=13)
    path = saved(tmp_path, weights)
    encoder = Backbone("resnet18").build(3)
    with pytest.raises(InputError, match=r"reads 13 channels, the data has 3 bands.*initialization\.bands="):
        File(weights=path).apply(encoder, target())
    found = File(weights=path, bands=[4, 3, 2]).apply(encoder, target())
    assert torch.equal(encoder.conv1.weight, weights["conv1.weight"][:, [3, 2, 1]])
    assert found.first_convolution == "of the file's 13 channels, red takes 4, green takes 3, blue takes 2"
    with pytest.raises(InputError, match="has 13 channels"):
        File(weights=path, bands=[4, 3, 14]).apply(encoder, target())


def test_filters_of_red_green_blue_serve_other_bands_as_imagenets_do(tmp_path):
    bands = ("nir", *RGB)
    path = saved(tmp_path, {name: value for name, value in resnet().items()})
    encoders = [Backbone("resnet18").build(4) for _ in range(2)]
    found = File(weights=path).apply(encoders[0], target(bands))
    as_imagenet = ImageNet(weights=path).apply(encoders[1], target(bands))
    assert torch.equal(encoders[0].conv1.weight, encoders[1].conv1.weight)
    assert found.first_convolution == as_imagenet.first_convolution is not None


def test_images_are_normalized_as_said(tmp_path):
    path = saved(tmp_path, resnet())
    found = File(weights=path, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], label="theirs").locate(target())
    assert (found.statistics.mean, found.statistics.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.label == "theirs"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": None}, "needs the file: initialization.weights="),
        ({"weights": "nowhere.pth"}, "there is no such file"),
        ({"run": "RUN"}, "initialization.run=RUN has no meaning with initialization=file"),
        ({"parts": "encoder"}, "initialization.parts=encoder has no meaning"),
        ({"mean": [0.5, 0.5, 0.5]}, "belong together"),
        ({"mean": [0.5], "std": [0.5]}, "initialization.mean has 1 entries, the data has 3 bands"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, "initialization.std=[0.5, 0.0, 0.5]: expected numbers in"),
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "divide those of 8 bits by 255"),
        ({"mean": [float("nan")] * 3, "std": [0.5] * 3}, "initialization.mean=[nan, nan, nan]: expected numbers"),
        ({"mean": [], "std": []}, "initialization.mean has 0 entries"),
        ({"bands": [0, 1, 2]}, "counted from 1"),
        ({"bands": [1, 1, 2]}, "each once"),
        ({"bands": [1, 2]}, "initialization.bands has 2 entries, the data has 3 bands"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, said):
    path = saved(tmp_path, resnet())
    with pytest.raises(InputError, match=re.escape(said)):
        File(**{"weights": path, **settings}).locate(target())


def test_another_architecture_is_refused_with_what_the_file_has(tmp_path):
    path = saved(tmp_path, resnet())
    for name, said in (
        ("resnet50", "does not fit backbone resnet50"),
        ("vgg16_bn", "no tensor whose name ends with features.0.weight|does not fit"),
    ):
        encoder = Backbone(name).build(3)
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        with pytest.raises(InputError, match=said):
            File(weights=path).apply(encoder, target(backbone=name))
        assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet34", "resnet18"),
        ("resnet101", "resnet50"),
        ("seresnet50", "resnet50"),
        ("convnext_tiny", "tu-convnext_atto"),
    ],
)
def test_a_larger_network_is_no_smaller_one(tmp_path, theirs, ours):
    with torch.device("meta"):
        names = {name: value.shape for name, value in timm.create_model(theirs).state_dict().items()}
    own = Backbone(ours).build(3).state_dict()
    weights = {name: torch.zeros(shape) for name, shape in names.items()}
    with pytest.raises(InputError, match=r"is of another architecture: it has .* tensors more within|does not fit"):
        File(weights=saved(tmp_path, weights)).apply(Backbone(ours).build(3), target(backbone=ours))
    assert len(own) < len(names)


def test_tensors_that_are_no_weights_may_be_there(tmp_path):
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, embed_dim=24, num_heads=(1, 2, 4, 8))
    content = model.state_dict() | {"layers.0.blocks.1.attn_mask": torch.zeros(1)}
    own = {
        f"model.{name}": value for name, value in model.state_dict().items() if not name.startswith(("head", "norm."))
    }
    found = encoder_tensors(content, own, None, "here")
    assert found.keys() == own.keys()


def test_a_first_convolution_that_is_none_is_refused(tmp_path):
    for content in ({"conv1.weight": torch.zeros(5)}, {**resnet(), "conv1.weight": torch.zeros(64, 3, 3, 3)}):
        with pytest.raises(InputError, match="does not fit backbone resnet18"):
            File(weights=saved(tmp_path, content)).apply(Backbone("resnet18").build(3), target())


def test_names_that_smp_puts_twice_before_a_model_are_left_out():
    own = {"model.model.stem.conv.weight": torch.zeros(4, 3, 1, 1), "model.model.norm.bias": torch.zeros(4)}
    content = {"stem.conv.weight": torch.ones(4, 3, 1, 1), "norm.bias": torch.ones(4), "head.bias": torch.ones(2)}
    assert encoder_tensors(content, own, None, "here").keys() == own.keys()


def test_three_channels_are_not_taken_for_three_other_bands(tmp_path):
    path, bands = saved(tmp_path, resnet()), ("blue", "green", "red")
    encoder = Backbone("resnet18").build(3)
    for others in (("Red", "Green", "Blue"), ("nir", "red", "green")):  # false color, shown as red, green, blue
        File(weights=path).apply(encoder, target(others))
        assert torch.equal(encoder.conv1.weight, resnet()["conv1.weight"])
    with pytest.raises(InputError, match=r"Say which are these, .* initialization\.bands="):
        File(weights=path).apply(encoder, target(bands))
    File(weights=path, bands=[3, 2, 1]).apply(encoder, target(bands))
    assert torch.equal(encoder.conv1.weight, resnet()["conv1.weight"].flip(1))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"args": argparse.Namespace(lr=1), "state_dict": {}},
            r"cannot be read as weights \([^\x1b]*\)\. .* Save its table of tensors alone",
        ),
        ({"epoch": 1}, "holds no named tensors"),
        ([torch.zeros(1)], "holds no named tensors"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        File(weights=saved(tmp_path, content)).apply(Backbone("resnet18").build(3), target())


def test_a_sweep_compares_published_weights_with_random_ones(command, tiny, tmp_path):
    path = saved(tmp_path, {"state_dict": prefixed(resnet(), "module.")})
    sweep = (
        "-m",
        *tiny,
        "backbone=resnet18",
        "label_fraction=100pct",
        "initialization=random,file",
        f"initialization.weights={path}",
    )
    code, out, err = command("finetune", *sweep, "trainer.max_steps=1")
    assert code == 0, out + err
    results = [RunDirectory(path.parent).read_result() for path in Path("outputs/finetune").glob("**/result.json")]
    assert {result["initialization"]: result["provenance"]["label"] for result in results} == {
        "random": "random",
        "file": "published",
    }
    assert command("report")[0] == 0
    assert "published" in Path("outputs/report/table.md").read_text()


def test_a_pretraining_may_start_from_a_file(command, tiny, tmp_path):
    path = saved(tmp_path, resnet())
    start = ("initialization=file", f"initialization.weights={path}", "initialization.label=theirs")
    short = (*tiny, "backbone=resnet18", "trainer.max_steps=1")
    code, out, err = command("pretrain", *short, *start, "pretext=[contrastive]")
    assert code == 0, err
    code, out, err = command("finetune", *short, "initialization=pretrained")
    assert code == 0, err
    result = RunDirectory(Path(out.splitlines()[-1])).read_result()
    assert result["provenance"]["label"] == "theirs, then contrastive"


def test_a_first_tensor_that_reads_no_bands_is_taken_as_it_is(tmp_path):
    """tresnet begins with space to depth: its first convolution reads 48 channels."""
    encoder = Backbone("tu-tresnet_m").build(3)
    weights = {name.removeprefix("model."): torch.ones_like(value) for name, value in encoder.state_dict().items()}
    File(weights=saved(tmp_path, weights)).apply(encoder, target(backbone="tu-tresnet_m"))
    assert all((value == 1).all() for value in encoder.state_dict().values())


def test_two_files_of_one_name_are_no_seeds_of_one_another(command, tiny, tmp_path):
    short = (*tiny, "backbone=resnet18", "trainer.max_steps=1")
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        path = saved(tmp_path / str(seed), resnet(seed=seed))
        start = ("initialization=file", f"initialization.weights={path}", f"seed={seed}")
        assert command("finetune", *short, *start)[0] == 0
        assert command("pretrain", *short, *start, "pretext=[contrastive]")[0] == 0
        begun = ("initialization=pretrained", f"initialization.run=contrastive/seed{seed}-*", f"seed={seed}")
        assert command("finetune", *short, *begun)[0] == 0
    _, _, err = command("report")
    assert err.count("it starts from another file of weights, or takes others of it, than most other runs") == 2


@pytest.mark.parametrize("levels", [0, 40])
def test_tables_within_themselves_hold_no_weights(tmp_path, levels):
    """What reads them must not go round for ever, nor through every way down: each level names the next one twice."""
    node = lowest = {"weight": torch.zeros(1)}
    for _ in range(levels):
        node = {"a": node, "b": node}
    if not levels:
        lowest["itself"] = lowest
    path = tmp_path / "weights.pth"
    torch.save(node, path)
    with pytest.raises(InputError, match=r"weights\.pth holds tables within tables, 16 deep and more"):
        read_tensors(path)


def test_parts_that_begin_as_an_encoder_are_none(tmp_path):
    first = resnet()["conv1.weight"]
    path = saved(tmp_path, {"a.conv1.weight": first, "b.conv1.weight": first})
    with pytest.raises(InputError, match="does not fit backbone resnet18"):
        File(weights=path).apply(Backbone("resnet18").build(3), target())


def test_a_file_of_colors_is_none_of_three_other_bands(tmp_path):
    path, _ = own_file(tmp_path, RGB)
    with pytest.raises(InputError, match="was trained on the bands red, green, blue, the data has nir, red, green"):
        File(weights=path).locate(target(("nir", "red", "green")))


def test_names_of_timm_are_told(tmp_path):
    path = saved(tmp_path, {"conv_stem.weight": torch.zeros(32, 3, 3, 3)})
    with pytest.raises(InputError, match=r"These are timm's names, which encoders of backbone\.name=tu-\.\.\. have\."):
        File(weights=path).apply(Backbone("mobilenet_v2").build(3), target())
