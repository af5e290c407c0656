import functools
import math
import warnings

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from torch import nn

from ssl_rs import distributed
from ssl_rs.build import build
from ssl_rs.config_files import conf_dir
from ssl_rs.encoder import Backbone, Normalization, Statistics, check_side, input_divisor
from ssl_rs.errors import InputError
from ssl_rs.segmentation import network as network_module
from ssl_rs.segmentation.network import SegmentationBatch, SegmentationNetwork, build_segmentation_model
from ssl_rs.task_output import TaskOutput

BACKBONES = ["resnet18", "resnet34", "resnet50", "vgg16_bn", "mobilenet_v2", "tu-convnext_tiny"]
DECODERS = ["unet", "fpn", "deeplabv3plus"]
IGNORE = 255


def decoder_of_yaml(name):
    with open(conf_dir() / "decoder" / f"{name}.yaml") as file:
        return build(yaml.safe_load(file), "decoder")


class Fixed(nn.Module):
    """A model whose scores are a parameter, whatever the images."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.seen = None

    def forward(self, images):
        self.seen = images
        return self.scores + 0 * images.sum()


def network_with(scores, mean=0.0, std=1.0):
    channels = 2
    statistics = Statistics((mean,) * channels, (std,) * channels, "test")
    return SegmentationNetwork(Fixed(scores), Normalization(statistics), IGNORE)


def batch_of(masks):
    masks = torch.tensor(masks)
    return SegmentationBatch(torch.full((masks.shape[0], 2, *masks.shape[1:]), 0.75), masks)


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda scores: scores.mean(), "it returns a Tensor, expected an ssl_rs TaskOutput"),
        (lambda scores: TaskOutput(0.5), "its loss is float, expected a tensor without dimensions"),
        (lambda scores: TaskOutput(scores.mean(dim=(0, 2, 3))), r"its loss is \[2\], expected a tensor"),
        (lambda scores: TaskOutput(scores.mean().detach()), "its loss has no gradient"),
        (lambda scores: TaskOutput(scores.mean(), {"share": 0.5}), "its metric 'share' is 0.5, expected a detached"),
    ],
)
def test_a_loss_of_ones_own_is_held_to_what_a_task_is_held_to(give, said):
    network = network_with(torch.zeros(1, 2, 1, 2))
    network.loss = lambda scores, *_: give(scores)
    with pytest.raises(InputError, match=f"^loss: {said}"):
        network(batch_of([[[1, 1]]]))


def test_loss_and_accuracy_of_a_hand_computed_batch():
    scores = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)  # pixel 0: (0, 0), pixel 1: (2, 0)
    output = network_with(scores)(batch_of([[[1, 1]]]))["segmentation"]
    assert output.loss.item() == pytest.approx((math.log(2) + math.log1p(math.exp(2))) / 2)
    assert output.metrics["pixel_accuracy"].item() == pytest.approx(0.0)  # a tie goes to the first class
    assert not output.metrics["pixel_accuracy"].requires_grad


def test_ignored_pixels_count_neither_in_loss_nor_in_accuracy():
    scores = torch.zeros(1, 3, 1, 4)
    scores[0, :, 0, 2:] = torch.tensor([[9.0], [0.0], [-9.0]])
    network = network_with(scores)
    output = network(batch_of([[[0, 1, IGNORE, IGNORE]]]))["segmentation"]
    assert output.loss.item() == pytest.approx(math.log(3))
    assert output.metrics["pixel_accuracy"].item() == pytest.approx(0.5)
    output.loss.backward()
    assert network.model.scores.grad[..., 2:].abs().max() == 0
    assert network.model.scores.grad[..., :2].abs().min() > 0


def test_a_batch_without_valid_pixels_has_loss_zero_and_a_finite_gradient():
    network = network_with(torch.randn(1, 3, 2, 2))
    output = network(batch_of([[[IGNORE] * 2] * 2]))["segmentation"]
    output.loss.backward()
    assert output.loss.item() == 0
    assert output.metrics["pixel_accuracy"].item() == 0
    assert network.model.scores.grad.abs().max() == 0


def test_average_of_ranks_with_unequal_numbers_of_valid_pixels_is_the_mean_over_all_pixels(monkeypatch):
    scores = torch.randn(2, 3, 4, 4)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[1, :3] = IGNORE  # 16 valid pixels in the first half of the batch, 4 in the second
    whole = network_with(scores)(batch_of(masks.tolist()))["segmentation"]
    monkeypatch.setattr("ssl_rs.segmentation.loss.mean_over_ranks", lambda count: torch.tensor((16 + 4) / 2))
    halves = [network_with(scores[i : i + 1])(batch_of(masks[i : i + 1].tolist()))["segmentation"] for i in range(2)]
    assert (halves[0].loss + halves[1].loss).item() / 2 == pytest.approx(whole.loss.item())
    accuracies = [half.metrics["pixel_accuracy"].item() for half in halves]
    assert sum(accuracies) / 2 == pytest.approx(whole.metrics["pixel_accuracy"].item())
    assert distributed.mean_over_ranks(torch.tensor(7)) == 7


def test_a_fraction_of_a_valid_pixel_a_rank_still_divides(monkeypatch):
    monkeypatch.setattr("ssl_rs.segmentation.loss.mean_over_ranks", lambda count: torch.tensor(0.5))
    output = network_with(torch.zeros(1, 2, 1, 1))(batch_of([[[0]]]))["segmentation"]
    assert output.loss.item() == pytest.approx(2 * math.log(2))


def test_images_are_normalized_before_the_model():
    network = network_with(torch.zeros(1, 2, 1, 1), mean=0.5, std=0.125)
    network.logits(torch.full((1, 2, 1, 1), 0.75))
    assert torch.allclose(network.model.seen, torch.tensor(2.0))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_pair_is_built_or_refused_and_has_the_keys_of_the_bare_encoder(decoder, backbone):
    if (decoder, backbone) == ("deeplabv3plus", "vgg16_bn"):
        with pytest.raises(
            InputError, match=r"decoder=deeplabv3plus.*backbone\.name=vgg16_bn.*decoder=unet or decoder=fpn"
        ):
            build_segmentation_model(decoder_of_yaml(decoder), backbone, in_channels=4, num_classes=3)
        return
    model = build_segmentation_model(decoder_of_yaml(decoder), backbone, in_channels=4, num_classes=3).eval()
    assert input_divisor(model) == {"unet": 1, "fpn": 32, "deeplabv3plus": 16}[decoder]
    with torch.no_grad():
        assert model(torch.rand(1, 4, 32, 64)).shape == (1, 3, 32, 64)
    with torch.device("meta"):
        bare = Backbone(backbone).build(in_channels=4).state_dict()
    own = model.encoder.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in bare.items()}


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_reach_every_parameter(decoder):
    model = build_segmentation_model(decoder_of_yaml(decoder), "resnet18", in_channels=2, num_classes=3)
    network = SegmentationNetwork(model, Normalization(Statistics((0.5,) * 2, (0.2,) * 2, "test")), IGNORE)
    masks = torch.randint(0, 3, (2, 64, 64))
    network(SegmentationBatch(torch.rand(2, 2, 64, 64), masks))["segmentation"].loss.backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or value.grad.abs().max() == 0]
    assert without == []


def test_settings_that_do_not_fit_the_backbone_are_refused_with_the_reason():
    decoder = functools.partial(smp.Unet, decoder_channels=[8, 8])
    with pytest.raises(InputError, match=r"decoder=unet.*resnet18.*decoder_channels"):
        build_segmentation_model(decoder, "resnet18", in_channels=3, num_classes=2)


def test_a_backbone_that_no_decoder_serves_says_so():
    with pytest.raises(InputError, match="no decoder serves it"):
        build_segmentation_model(smp.Unet, "tu-vit_tiny_patch16_224", in_channels=3, num_classes=2)


def test_a_bare_assertion_of_timm_is_told_in_words():
    def undilatable(encoder_name, encoder_weights, in_channels, classes):
        raise AssertionError

    with pytest.raises(InputError, match=r"decoder=undilatable.*resnet18.*cannot be dilated.*decoder=deeplabv3plus"):
        build_segmentation_model(undilatable, "resnet18", in_channels=3, num_classes=2)


def test_a_side_that_does_not_divide_names_the_key_and_the_nearest_sides():
    check_side(128, 32, "dataset.crop_size")
    check_side(77, 1, "dataset.crop_size")
    with pytest.raises(InputError, match=r"dataset\.crop_size=100.*dataset\.crop_size=96 or dataset\.crop_size=128"):
        check_side(100, 32, "dataset.crop_size")
    with pytest.raises(InputError, match=r"Choose dataset\.crop_size=16, or decoder=unet\."):
        check_side(7, 16, "dataset.crop_size", "decoder=unet")
    with pytest.raises(InputError, match=r"Choose window=16\."):
        check_side(7, 16, "window")


class OwnModel(torch.nn.Module):
    def __init__(self, encoder_name, encoder_weights, in_channels, classes):
        super().__init__()
        self.encoder = torch.nn.Conv2d(in_channels, classes, 1)


def test_models_that_lack_what_smp_models_have_are_refused():
    with pytest.raises(InputError, match="decoder=OwnModel has no decoder and no requires_divisible_input_shape"):
        build_segmentation_model(OwnModel, "resnet18", in_channels=3, num_classes=2)


def test_building_downloads_and_warns_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_segmentation_model(smp.Unet, "resnet18", in_channels=3, num_classes=2)


def test_no_checkpoint_holds_the_weights_of_the_classes():
    model = build_segmentation_model(smp.Unet, "resnet18", in_channels=3, num_classes=2)
    normalization = Normalization(Statistics((0.5,) * 3, (0.2,) * 3, ""))
    network = SegmentationNetwork(model, normalization, 255, class_weights=torch.tensor([1.0, 2.0]))
    assert "class_weights" not in network.state_dict()


def test_a_decoder_that_looks_at_values_while_it_is_built_is_offered_too(monkeypatch):
    """Whether a decoder serves is tried without memory for its weights, where no tensor has values."""

    def refusing(**_):
        raise ValueError("too deep")

    def looking(**_):
        assert torch.linspace(0, 1, 3)[1].item() == 0.5
        return nn.Identity()

    monkeypatch.setattr(network_module, "DECODERS", {"refusing": refusing, "looking": looking})
    with pytest.raises(InputError, match=r"decoder=refusing cannot be built .* too deep\. Choose decoder=looking\.$"):
        build_segmentation_model(refusing, "resnet18", in_channels=3, num_classes=2)
