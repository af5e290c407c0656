import kornia.augmentation as K
import pytest
import torch
import torch.nn.functional as F
import yaml
from kornia.augmentation.auto import RandAugment

from ssl_rs.build import build
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.base import crop_view
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.kornia_chain import KorniaMaker
from ssl_rs.views.resampling import sampling_grid, warp

ROWS = Rows(0, 4, 4)
AUGMENTATIONS = {
    "flip": [K.RandomHorizontalFlip(p=1.0)],
    "affine": [K.RandomAffine(30.0, translate=(0.1, 0.1), scale=(1.2, 1.5), p=1.0)],
    "chain": [
        K.RandomVerticalFlip(p=0.5),
        K.RandomAffine(90.0, p=1.0),
        K.RandomGaussianBlur((3, 3), (0.01, 0.01), p=1.0),
    ],
    "drawn": [
        K.AugmentationSequential(
            K.RandomHorizontalFlip(p=1.0), K.RandomVerticalFlip(p=1.0), random_apply=1, data_keys=["input"]
        ),
    ],
}


def smooth_crops():
    """Smooth, so that interpolating twice changes little."""
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_geometry_is_that_of_the_augmentations(name):
    torch.manual_seed(0)
    crops = smooth_crops()
    source = CleanMaker("crop", 1.0, 0.0, 1.0)(crop_view(crops), Draws(0, 0, "clean", ROWS))
    view = KorniaMaker("clean", AUGMENTATIONS[name])(source, Draws(0, 0, "view", ROWS))
    grid = sampling_grid(view.geometry, 32, 32)
    inside = F.grid_sample(torch.ones_like(crops), grid, padding_mode="zeros", align_corners=False) > 0.999
    assert inside.float().mean() > 0.5
    assert (view.image - crops)[inside].abs().max() > 0.3  # something moved
    torch.testing.assert_close(view.image[inside], warp(crops, view.geometry)[inside], atol=0.03, rtol=0)


def test_a_chain_within_a_chain_can_be_named_in_yaml():
    named = yaml.safe_load(
        """
        _target_: ssl_rs.views.kornia_chain.KorniaMaker
        source: clean
        augmentations:
          - _target_: kornia.augmentation.AugmentationSequential
            _args_:
              - {_target_: kornia.augmentation.RandomHorizontalFlip, p: 1.0}
              - {_target_: kornia.augmentation.RandomVerticalFlip, p: 1.0}
            random_apply: 1
            data_keys: [input]
        """
    )
    made = []
    for maker in (build(named, "views.mine"), KorniaMaker("clean", AUGMENTATIONS["drawn"])):
        torch.manual_seed(0)
        made.append(maker(crop_view(smooth_crops()), Draws(0, 0, "view", ROWS)))
    assert torch.equal(made[0].image, made[1].image)
    assert torch.equal(made[0].geometry, made[1].geometry)
    assert not torch.equal(made[0].image, smooth_crops())


def test_draws_follow_the_global_generator():
    maker = KorniaMaker("clean", [K.RandomAffine(30.0, p=1.0)])
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(maker(crop_view(smooth_crops()), Draws(0, 0, "view", ROWS)).image)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (K.CenterCrop(16), "keep their source's size. Set the augmentation's size to 32"),
        (K.RandomPerspective(0.5, p=1.0), "RandomPerspective bends"),
        (K.RandomJigsaw(p=1.0), "RandomJigsaw mixes"),
        (K.RandomMosaic(p=1.0), "RandomMosaic mixes"),
        (K.ImageSequential(K.RandomHorizontalFlip(p=1.0)), "ImageSequential does not tell.*AugmentationSequential"),
        (K.PatchSequential(K.RandomHorizontalFlip(p=1.0), patchwise_apply=False), "PatchSequential does not tell"),
        (RandAugment(n=1, m=10), "RandAugment does not tell"),
        (
            K.AugmentationSequential(K.ImageSequential(K.RandomHorizontalFlip(p=1.0)), data_keys=["input"]),
            "ImageSequential does not tell",
        ),
    ],
)
def test_what_a_view_cannot_carry_is_refused(augmentation, message):
    with pytest.raises(InputError, match=message):
        KorniaMaker("clean", [augmentation])(crop_view(smooth_crops()), Draws(0, 0, "view", ROWS))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_valid_moves_with_the_pixels_and_nothing_outside_or_mixed_with_nodata_is_valid(name):
    torch.manual_seed(0)
    valid = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    valid[:, :, 6:28, 3:20] = True
    crops = valid.float().repeat(1, 3, 1, 1)
    view = KorniaMaker("clean", AUGMENTATIONS[name])(crop_view(crops, (0, 1, 2), valid), Draws(0, 0, "view", ROWS))
    shown = view.image[:, :1]
    assert (shown[view.valid] > 0.99).all()
    assert view.valid.sum() > 0.8 * (shown > 0.99).sum()
    assert (view.valid != valid).any()
    assert view.rgb == (0, 1, 2)
    everywhere = torch.ones_like(valid)
    torch.manual_seed(0)
    shrunk = KorniaMaker("clean", [K.RandomAffine(0.0, scale=(0.5, 0.5), p=1.0)])(
        crop_view(crops, valid=everywhere), Draws(0, 0, "view", ROWS)
    )
    assert shrunk.valid.float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("augmentation", "bands"),
    [
        *((K.ColorJiggle(0.3, 0.5, 0.5, 0.3, p=1.0), bands) for bands in (1, 4, 6)),
        *((K.RandomRain(p=1.0), bands) for bands in (4, 6)),
    ],
)
def test_bands_that_kornias_colors_refuse_are_named(augmentation, bands):
    maker = KorniaMaker("clean", [augmentation])
    with pytest.raises(InputError, match=rf"augmentations refuse images of {bands} bands: .*leave them out"):
        maker(crop_view(torch.rand(4, bands, 8, 8)), Draws(0, 0, "view", ROWS))
    flip = KorniaMaker("clean", AUGMENTATIONS["flip"])
    assert flip(crop_view(torch.rand(4, bands, 8, 8)), Draws(0, 0, "view", ROWS)).image.shape[1] == bands


@pytest.mark.parametrize(
    "augmentation",
    [
        K.RandomElasticTransform(p=1.0),
        K.RandomGaussianNoise(std=1.0, p=1.0),
        K.AugmentationSequential(K.RandomBrightness((0.5, 2.0), p=1.0), data_keys=["input"]),
    ],
)
def test_augmentations_without_a_matrix_leave_the_geometry_and_values_in_range(augmentation):
    source = crop_view(smooth_crops())
    view = KorniaMaker("crop", [augmentation])(source, Draws(0, 0, "view", ROWS))
    torch.testing.assert_close(view.geometry, source.geometry)
    assert not torch.equal(view.image, source.image)
    assert view.image.min() >= 0
    assert view.image.max() <= 1
