"""The contract of encoders, and normalization."""

from functools import partial

import pytest
import segmentation_models_pytorch as smp
import torch

from ssl_rs.build import build
from ssl_rs.encoder import Backbone, Normalization, Statistics, check_image_size
from ssl_rs.errors import InputError
from ssl_rs.segmentation.network import build_segmentation_model


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn", "tu-convnext_atto"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_channels_are_those_of_the_features(name, bands):
    encoder = Backbone(name).build(bands).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, bands, 64, 64))
    assert [level.shape[1] for level in features] == list(encoder.out_channels)
    assert features[-1].shape[-1] == 2  # stride 32
    assert features[-2].shape[-1] == 4  # stride 16: what transform prediction reads


def test_weights_follow_from_the_global_seed_alone():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(Backbone("resnet18").build(3).state_dict()["conv1.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet19", "Did you mean 'resnet1"),
        ("convnext_tiny", "take the prefix 'tu-'"),
        ("tu-nothing", "Unknown model"),
        ("tu-vit_tiny_patch16_224", "cannot be built"),
    ],
)
def test_an_unknown_backbone_is_refused(name, said):
    with pytest.raises(InputError, match=f"backbone.name={name}.*{said}"):
        Backbone(name).build(3)


def test_a_size_that_a_backbone_does_not_take_is_refused_and_leaves_no_trace():
    encoder = Backbone("tu-swin_tiny_patch4_window7_224").build(3)
    with pytest.raises(InputError, match=r"dataset\.crop_size=65: the backbone takes no images of 65 x 65 pixels \(.+"):
        check_image_size(encoder, 3, 65, "dataset.crop_size")
    assert encoder.training
    check_image_size(encoder, 3, 224, "dataset.crop_size")


def test_the_check_of_a_size_changes_no_weight_and_draws_nothing():
    encoder = Backbone("mobilenet_v2").build(3)
    before, random = {name: value.clone() for name, value in encoder.state_dict().items()}, torch.get_rng_state()
    check_image_size(encoder, 3, 64, "dataset.crop_size")
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_normalization_gives_zero_mean_and_unit_variance():
    mean, std = (0.2, 0.7), (0.1, 0.4)
    images = torch.randn(8, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    images = images * torch.tensor(std).view(1, 2, 1, 1) + torch.tensor(mean).view(1, 2, 1, 1)
    normalized = Normalization(Statistics(mean, std, "a test"))(images)
    assert normalized.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=0.03)
    assert normalized.std(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.03)
    exact = Normalization(Statistics((0.5,), (0.25,), "a test"))(torch.tensor([[[[0.5, 1.0]]]]))
    assert exact.flatten().tolist() == [0.0, 2.0]


def test_a_band_that_never_varies_stays_finite():
    normalization = Normalization(Statistics((0.5, 0.5), (0.0, 0.5), "a test"))
    assert normalization(torch.full((1, 2, 1, 1), 0.75)).flatten().tolist() == [0.25, 0.5]


def test_normalization_has_nothing_to_train_but_moves_with_the_network():
    normalization = Normalization(Statistics((0.5,), (0.25,), "a test"))
    assert not list(normalization.parameters())
    assert set(normalization.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize("name", ["tu-hf-hub:stranger/model", "tu-hf_hub:a/b", "tu-local-dir:/tmp/x", "tu-a/b", "tu-"])
def test_no_name_makes_an_encoder_come_from_elsewhere(name, monkeypatch):
    def asked(*arguments, **more):
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr("socket.getaddrinfo", asked)
    with pytest.raises(InputError, match=r"no place|cannot be built|no encoder"):
        Backbone(name).build(3)


def test_no_backbone_of_weights_makes_a_decoder_ask_the_network(monkeypatch):
    def asked(*arguments, **more):
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr("socket.getaddrinfo", asked)
    with pytest.raises(InputError, match="no place"):
        build_segmentation_model(partial(smp.Unet), "tu-hf-hub:stranger/model", 3, 2)
    with pytest.raises(
        InputError, match=r"decoder: Unet can only be made once bands and classes are known\. Add _partial_"
    ):
        build({"_target_": "segmentation_models_pytorch.Unet"}, "decoder")
    with pytest.raises(
        InputError, match=r"is not admitted\. Targets are classes of .*segmentation_models_pytorch\.dec"
    ):
        build({"_target_": "segmentation_models_pytorch.losses.DiceLoss", "mode": "binary"}, "loss")
