"""Views that are smaller than the crops they are cut from."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ssl_rs.config import compose_config, resolve
from ssl_rs.config_hash import config_hash
from ssl_rs.encoder import Backbone
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.run_directory import RunDirectory
from ssl_rs.training.structure import named_parts
from ssl_rs.views.augmented import AugmentedMaker, gaussian_blur
from ssl_rs.views.base import common_side, crop_view, draw_views, make_views, sizes_of, views_as_drawn
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.corrupted import CorruptedMaker
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.resampling import warp_valid

PLAIN = {"color": ColorJitter(), "blur": 0.0}
SMALL = AugmentedMaker("crop", **PLAIN, area=(0.2, 0.9), size=10)
WHOLE = {"area": (1.0, 1.0), "ratio": (1.0, 1.0), "horizontal_flip": 0.0}


def images(batch=6, size=24):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


def draws(count):
    return Draws(3, 0, "view", Rows(0, count, count))


def test_a_smaller_view_shows_the_same_part_of_the_ground():
    crop = images()
    view, large = (AugmentedMaker("crop", **PLAIN, size=size)(crop_view(crop), draws(6)) for size in (10, None))
    assert view.image.shape == (6, 3, 10, 10)
    assert torch.equal(view.geometry, large.geometry)
    grid = F.affine_grid(view.geometry, [6, 3, 10, 10], align_corners=False)
    torch.testing.assert_close(view.image, F.grid_sample(crop, grid, align_corners=False), atol=1e-4, rtol=0)


def test_a_part_of_the_views_size_keeps_its_pixels():
    maker = AugmentedMaker("crop", **PLAIN, area=(0.25, 0.25), ratio=(1.0, 1.0), horizontal_flip=0.0, size=12)
    drawn = maker.draw((24, 24), draws(6))
    matrix = drawn[0].clone()
    matrix[:, :, 2] = torch.tensor([-0.5, 0.5])  # the lower left quarter
    view = maker.make(crop_view(images()), matrix, *drawn[1:])
    torch.testing.assert_close(view.image, images()[:, :, 12:, :12], atol=1e-5, rtol=0)


def test_nodata_is_resampled_with_the_image():
    crop = images()
    valid = torch.ones(6, 1, 24, 24, dtype=torch.bool)
    valid[:, :, :, :9] = False
    view = SMALL(crop_view(crop, None, valid), draws(6))
    assert view.valid.shape == (6, 1, 10, 10)
    assert torch.equal(view.valid, warp_valid(valid, view.geometry, 10))
    assert view.valid.any()
    assert not view.valid.all()


def test_where_a_part_has_no_data_the_whole_is_shown_in_the_size_of_the_view():
    crop, valid = images(), torch.zeros(6, 1, 24, 24, dtype=torch.bool)
    valid[:, :, 20:, 20:] = True
    maker = AugmentedMaker("crop", **PLAIN, area=(0.05, 0.1), size=12)
    part = maker.draw((24, 24), draws(6))
    away = part[0].clone()
    away[:, :, 2] = -0.7  # the upper left, which has none
    view = maker.make(crop_view(crop, None, valid), away, *part[1:])
    assert torch.equal(view.geometry, torch.eye(2, 3).expand(6, 2, 3))
    assert torch.equal(view.valid, valid[:, :, ::2, ::2])
    expected = F.avg_pool2d(crop, 2)[:, :, 10:, 10:]  # twice the side: between four pixels
    torch.testing.assert_close(view.image[:, :, 10:, 10:], expected, atol=1e-5, rtol=0)


def test_the_blur_is_that_of_the_views_own_size():
    maker = AugmentedMaker("crop", ColorJitter(), **WHOLE, blur=1.0, blur_sigma=(14.0, 14.0), size=16)
    sharp = AugmentedMaker("crop", ColorJitter(), **WHOLE, blur=0.0, size=16)
    crop = crop_view(images(size=32))
    expected = gaussian_blur(sharp(crop, draws(6)).image, torch.ones(6))  # 14 pixels of 224 are one of 16
    torch.testing.assert_close(maker(crop, draws(6)).image, expected, atol=1e-4, rtol=0)


def test_what_is_made_from_a_smaller_view_has_its_size():
    makers = {"small": SMALL, "corrupted": CorruptedMaker("small", 2, (0.3, 0.5), ColorJitter()),
              "clean": CleanMaker("crop")}  # fmt: skip
    assert sizes_of(makers, (24, 24)) == {
        "crop": (24, 24), "small": (10, 10), "corrupted": (10, 10), "clean": (24, 24),
    }  # fmt: skip
    crop, rows = crop_view(images()), Rows(0, 6, 6)
    made = make_views(crop, makers, seed=1, step=2, rows=rows)
    drawn = draw_views(makers, (24, 24), seed=1, step=2, rows=rows, device=crop.image.device)
    for (name, one), (other, two) in zip(
        named_parts(views_as_drawn(crop, makers, drawn), ""), named_parts(made, ""), strict=True
    ):
        assert name == other
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_views_that_tasks_read_have_one_side():
    makers = {"small": SMALL, "clean": CleanMaker("crop"), "turned": CleanMaker("small")}
    assert common_side(["small", "turned"], makers, 24) == 10
    assert common_side(["clean"], makers, 24) == 24
    with pytest.raises(InputError, match=r"\(small 10, clean 24 px\), expected one. clean cannot be smaller than the"):
        common_side(["small", "clean"], makers, 24)


def test_a_view_is_not_larger_than_the_crops():
    said = r"View small has 10 pixels a side, .* dataset\.crop_size=9\. Raise that, or lower views\.small\.size"
    with pytest.raises(InputError, match=said):
        common_side(["small"], {"small": SMALL}, 9)


class Own:
    """A maker that is no TwoPartMaker, but tells what it makes."""

    source = "crop"

    def __init__(self, height, width):
        self.made = height, width

    def size_of_view(self, source):
        return self.made


def test_own_makers_tell_what_they_make():
    assert common_side(["own"], {"own": Own(8, 8)}, 24) == 8
    with pytest.raises(InputError, match="View own has 24 x 12 pixels, expected a square"):
        common_side(["own"], {"own": Own(24, 12)}, 24)


def test_a_single_valid_pixel_is_not_lost():
    valid = torch.zeros(6, 1, 24, 24, dtype=torch.bool)
    valid[:, :, 13, 6] = True
    view = SMALL(crop_view(images(), None, valid), draws(6))
    assert view.valid.flatten(1).any(dim=1).all()
    shown = (view.image * view.valid).amax(dim=(2, 3))  # every value of a view is that of the pixel
    torch.testing.assert_close(shown, images()[:, :, 13, 6], atol=1e-5, rtol=0)


def test_a_size_below_one_pixel_is_refused():
    with pytest.raises(InputError, match="size=0: expected at least 1 pixel"):
        AugmentedMaker("crop", ColorJitter(), size=0)


SIZES = ("pretext=[simclr]", "dataset.crop_size=48", "views.simclr_first.size=32", "views.simclr_second.size=32")


def test_the_encoder_sees_the_views_size_alone(command, tiny, monkeypatch):
    """Also when its features are probed at the end: an encoder may take no other."""
    seen, build = set(), Backbone.build

    def watched(backbone, in_channels):
        encoder = build(backbone, in_channels)
        encoder.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[-2:])))
        return encoder

    monkeypatch.setattr(Backbone, "build", watched)
    code, out, err = command("pretrain", *tiny, *SIZES)
    assert code == 0, err
    run = RunDirectory(Path(out.splitlines()[-1]))
    assert seen == {(32, 32)}
    assert json.loads(run.result.read_text())["image_size"] == 32
    code, out, err = command("export", f"run={run.path}", "formats=[timm]")
    assert code == 0, err
    assert seen == {(32, 32)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (SIZES[:3], "(simclr_first 32, simclr_second 48 px), expected one. Give views.*.size of all of them"),
        ((*SIZES, "backbone=vgg16_bn", "views.simclr_first.size=9", "views.simclr_second.size=9"), "views.*.size=9: "),
        (
            (*SIZES[:2], "views.simclr_first.size=64"),
            "View simclr_first has 64 pixels a side, expected at most",
        ),
        ((*SIZES, "views.simclr_second.size=0"), "size=0: expected at least 1 pixel"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(command, tiny, given, said):
    code, _, err = command("pretrain", *tiny, *given)
    assert code == 2
    assert said in err


def test_a_size_is_another_run(tiny):
    settings = [resolve(compose_config("pretrain", [*tiny, "pretext=[simclr]", *more])) for more in ((), SIZES[2:])]
    hashes = [config_hash(values, {}) for values in settings]
    assert hashes[0] != hashes[1]
    del settings[0]["views"]["simclr_first"]["size"], settings[0]["views"]["simclr_second"]["size"]
    assert config_hash(settings[0], {}) == hashes[0]  # results from before stay what they are
