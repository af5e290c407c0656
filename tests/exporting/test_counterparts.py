"""Weights under the names of other libraries: which models are the same, and that others are refused."""

import logging
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.errors import InputError
from ssl_rs.exporting.card import normalization, write_card
from ssl_rs.exporting.counterparts import (
    for_timm,
    for_torchvision,
    layer_outputs,
    renamed,
    timm_name,
    torchvision_name,
)
from ssl_rs.exporting.forms import Subject
from ssl_rs.exporting.onnx_graph import Normalizing, _quiet
from ssl_rs.weights_metadata import WeightsMetadata


def trained(backbone, bands=3):
    """Return an encoder whose every tensor differs from what a fresh one has; its moments are those of some images."""
    torch.manual_seed(0)
    encoder = Backbone(backbone).build(bands)
    with torch.no_grad():
        for value in encoder.parameters():
            value.mul_(0.9 + 0.2 * torch.rand_like(value)).add_(0.01 * torch.rand_like(value))
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.7
        for _ in range(3):
            encoder(torch.rand(2, bands, 64, 64))
    return encoder.eval()


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16_bn", "mobilenet_v2", "densenet121", "tu-efficientnet_b0"])
def test_models_of_torchvision_and_timm_compute_the_same_features(backbone):
    encoder = trained(backbone)
    deepest = encoder(IMAGE)[-1]
    found = for_torchvision(encoder, torchvision_name(backbone, 3), IMAGE)
    model = models.get_model(torchvision_name(backbone, 3), weights=None).eval()
    lacking, unexpected = model.load_state_dict(found.weights, strict=False)
    assert unexpected == []
    assert list(found.lacking) == lacking
    features = (
        model.features(IMAGE) if hasattr(model, "features") else nn.Sequential(*list(model.children())[:-2])(IMAGE)
    )
    if not backbone.startswith("tu-"):  # smp takes timm's EfficientNet without its last convolution
        assert all(name.startswith(("fc.", "classifier.")) for name in lacking)
        torch.testing.assert_close(features, deepest, rtol=1e-3, atol=1e-3)

    found = for_timm(encoder, timm_name(backbone), IMAGE)
    model = timm.create_model(timm_name(backbone), pretrained=False, num_classes=0).eval()
    lacking, unexpected = model.load_state_dict(found.weights, strict=False)
    assert unexpected == []
    assert list(found.lacking) == lacking
    if not backbone.startswith("tu-"):  # timm's DenseNet ends with a ReLU, which is the head's elsewhere
        torch.testing.assert_close(model.forward_features(IMAGE).relu(), deepest.relu(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bands", [1, 4])
def test_timm_reads_any_number_of_bands(bands):
    encoder, image = trained("resnet18", bands), torch.rand(1, bands, 64, 64)
    found = for_timm(encoder, "resnet18", image)
    model = timm.create_model("resnet18", pretrained=False, in_chans=bands, num_classes=0).eval()
    assert model.load_state_dict(found.weights, strict=False).missing_keys == []
    torch.testing.assert_close(model.forward_features(image), encoder(image)[-1], rtol=1e-3, atol=1e-3)


def test_what_has_no_counterpart_is_told():
    with pytest.raises(InputError, match="torchvision has no model of the name se_resnet50"):
        torchvision_name("se_resnet50", 3)
    with pytest.raises(InputError, match="read 3 bands, this one reads 4"):
        torchvision_name("resnet18", 4)
    with pytest.raises(InputError, match="timm has no model of the name mit_b0"):
        timm_name("mit_b0")


def test_models_with_other_tensors_are_refused():
    with pytest.raises(InputError, match=r"timm's resnet50 has tensors of other shapes"):
        for_timm(trained("resnet18"), "resnet50", IMAGE)
    with pytest.raises(InputError, match=r"timm's resnet34 computes other values"):
        for_timm(trained("resnet18"), "resnet34", IMAGE)  # it has all of resnet18's tensors, and more


class Two(nn.Module):
    """Two convolutions with the same shapes and names; the second one's step is free."""

    def __init__(self, stride, names=("first", "second")):
        super().__init__()
        self.names = names
        setattr(self, names[0], nn.Conv2d(3, 3, 3, padding=1))
        setattr(self, names[1], nn.Conv2d(3, 3, 3, padding=1, stride=stride))

    def forward(self, image):
        for name in self.names:
            image = getattr(self, name)(image)
        return image


def test_models_that_compute_something_else_from_the_same_tensors_are_refused():
    ours, same, other = Two(1), Two(1, ("a", "b")), Two(2, ("a", "b"))
    found = renamed(ours, same, same, IMAGE, "the same")
    assert found.lacking == ()
    assert list(found.weights) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    torch.testing.assert_close(same(IMAGE), ours(IMAGE))
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, other, other, IMAGE, "the other")


def test_a_model_that_lacks_a_tensor_of_ours_is_refused():
    ours, same = Two(1), Two(1, ("a", "b"))
    ours.third = nn.PReLU()  # behind the layers, which are the same
    with pytest.raises(InputError, match="tensors of other shapes or in another order"):
        renamed(ours, same, same, IMAGE, "the same")


def test_models_without_a_layer_to_compare_are_refused():
    ours, same = nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3).eval()
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, same, same, IMAGE, "the same")


def test_layers_that_run_in_another_order_are_refused():
    ours, swapped = Two(1), Two(1)
    swapped.names = ("second", "first")
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, swapped, swapped, IMAGE, "the swapped one")


def test_values_that_are_not_numbers_are_no_match():
    ours, same = Two(1), Two(1)
    with torch.no_grad():
        ours.first.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, same, same, IMAGE, "the same")


def test_outputs_of_layers_come_in_the_order_in_which_they_ran():
    network = Two(2)
    first, second = layer_outputs(network, network, IMAGE)
    torch.testing.assert_close(first, network.first(IMAGE))
    torch.testing.assert_close(second, network(IMAGE))
    assert not any(module._forward_hooks for module in network.modules())


NORMS = (nn.BatchNorm2d, partial(nn.GroupNorm, 1), lambda bands, eps: nn.LayerNorm([bands, 64, 64], eps=eps))


@pytest.mark.parametrize("norm", NORMS, ids=["batch", "group", "layer"])
def test_norms_with_another_epsilon_are_refused(norm):
    ours, same, other = (nn.Sequential(nn.Conv2d(3, 3, 1), norm(3, eps=eps)).eval() for eps in (1e-5, 1e-5, 0.5))
    renamed(ours, same, same, IMAGE, "the same")
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, other, other, IMAGE, "the other")


def test_values_that_differ_by_a_hundredth_are_others():
    ours, same = Two(1), Two(1)
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, same, lambda image: same(1.01 * image), IMAGE, "the louder one")


def test_the_page_divides_no_band_by_zero():
    statistics = Statistics((0.4, 0.5), (0.2, 0.0), "")
    here = {"images": 300 * torch.rand(1, 2, 4, 4)}
    exec(normalization(WeightsMetadata("resnet18", ("a", "b"), 200.0, statistics)), here)
    expected = Normalization(statistics)((here["images"] / 200).clamp(0, 1))
    torch.testing.assert_close(here["normalized"], expected)


def test_values_beyond_the_scale_are_clipped_and_those_that_forms_are_tried_with_are_beyond():
    metadata = WeightsMetadata("resnet18", tuple("abc"), 200.0, Statistics((0.4,) * 3, (0.2,) * 3, ""))
    images = torch.tensor([-50.0, 0.0, 200.0, 300.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    torch.testing.assert_close(Normalizing(metadata)(images)[0, 0, 0], torch.tensor([-2.0, -2.0, 3.0, 3.0]))
    assert Subject(metadata, nn.Identity(), None, 8).images(1, 8, 8).max() > metadata.value_scale


@pytest.mark.parametrize("turned", [False, True])
def test_the_page_says_by_which_windows_a_score_was_found(turned):
    metadata = WeightsMetadata("resnet18", tuple("abc"), 200.0, Statistics((0.4,) * 3, (0.2,) * 3, ""), ("x", "y"))
    window = {"size": 64, "overlap": 0.25, "test_time_augmentation": turned}
    trained = {"settings": {f"evaluation.window.{key}": value for key, value in window.items()}, "miou": 0.51234}
    page = write_card(Subject(metadata, nn.Identity(), None, 8), trained, {}, {})
    told = "- windows of that score: of 64 px, blended where they overlap by 0.25 of their side"
    assert f"{told}{', each the mean over its eight flips and rotations' if turned else ''}\n" in page
    assert "- mean IoU: `0.5123`\n" in page
    del trained["miou"]
    assert told not in write_card(Subject(metadata, nn.Identity(), None, 8), trained, {}, {})


def test_the_page_tells_what_trained_the_weights():
    statistics = Statistics((0.4,) * 3, (0.2,) * 3, "")
    tuned, bare = (WeightsMetadata("resnet18", tuple("abc"), 200.0, statistics, names) for names in (("x`y", "z"), ()))
    page = write_card(Subject(tuned, nn.Identity(), None, 8), {"dataset": "mine", "downsample": 2}, {}, {})
    assert page.startswith("# resnet18, fine-tuned by ssl_rs\n")
    assert '- classes, in the order of the scores: `["xy", "z"]`\n' in page
    assert '- data set: `"mine"`\n' in page
    assert "- pixels of a side that were averaged to one before the network saw them: `2`\n" in page
    page = write_card(Subject(bare, nn.Identity(), None, 8), {}, {}, {})
    assert page.startswith("# resnet18, pretrained by ssl_rs\n")
    assert "classes" not in page
    assert "images_seen" not in page
    page = write_card(Subject(bare, nn.Identity(), None, 8), {}, {}, {}, "images_seen.json")
    assert "## Images seen\n`images_seen.json` tells which images these weights have seen" in page


def test_a_model_that_leaves_out_the_last_layers_is_refused():
    ours, same = Two(1), Two(1)
    with pytest.raises(InputError, match="computes other values"):
        renamed(ours, same, same.first, IMAGE, "the first half")


def test_what_was_silent_before_an_export_stays_so():
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with _quiet():
            assert logging.root.manager.disable == logging.ERROR
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(before)
