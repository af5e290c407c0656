"""Inpainting paints with fine-tuning's decoder: its keys, its shapes, any backbone that it serves."""

import functools

import pytest
import segmentation_models_pytorch as smp
import torch

from ssl_rs.encoder import Backbone
from ssl_rs.errors import InputError
from ssl_rs.pretext.inpainting import Inpainting
from ssl_rs.pretext.segmentation_decoder import SegmentationDecoder
from ssl_rs.segmentation.network import build_segmentation_model
from ssl_rs.views.base import CorruptedView, crop_view

UNET = functools.partial(smp.Unet, decoder_channels=[16, 16, 8, 8, 8])
FPN = functools.partial(smp.FPN, decoder_pyramid_channels=16, decoder_segmentation_channels=32)


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16_bn", "mobilenet_v2", "tu-convnext_atto"])
@pytest.mark.parametrize("model", [UNET, FPN], ids=["unet", "fpn"])
def test_it_has_the_keys_of_fine_tuning_and_paints_every_band(backbone, model):
    encoder = Backbone(backbone).build(4)
    decoder = functools.partial(SegmentationDecoder, backbone=backbone, model=model)
    task = Inpainting(encoder.out_channels, 4, decoder)
    tuned = build_segmentation_model(model, backbone, 4, 7).decoder.state_dict()
    own = task.decoder.decoder.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in tuned.items()}
    images = torch.rand(2, 4, 64, 64)
    assert task.decoder(encoder(images)).shape == images.shape
    crop = crop_view(images)
    view = CorruptedView(images, crop.geometry, 1 - images, torch.ones_like(images))
    task({"corrupted": view}, {"corrupted": encoder(images)}).loss.backward()
    assert [name for name, value in task.named_parameters() if value.grad is None] == []
    assert next(encoder.parameters()).grad.abs().sum() > 0


def test_it_is_named_as_fine_tuning_names_it():
    channels = Backbone("resnet18").build(3).out_channels
    assert SegmentationDecoder(channels, 3, "resnet18", UNET).name == "unet"
    assert SegmentationDecoder(channels, 3, "resnet18", FPN).name == "fpn"


@pytest.mark.parametrize(
    ("backbone", "model", "said"),
    [
        ("resnet50", UNET, r"unet reads levels of \[3, 64, 256, 512, 1024, 2048\] channels down to stride 32"),
        ("resnet18", functools.partial(smp.DeepLabV3Plus), "deeplabv3plus reads levels of .* down to stride 16"),
    ],
)
def test_another_pyramid_is_refused(backbone, model, said):
    channels = Backbone("resnet18").build(3).out_channels
    with pytest.raises(InputError, match=said):
        SegmentationDecoder(channels, 3, backbone, model)
