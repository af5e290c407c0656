from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation import RandomHorizontalFlip

from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.training.structure import named_parts
from ssl_rs.views.augmented import AugmentedMaker
from ssl_rs.views.base import (
    CorruptedView,
    TwoPartMaker,
    View,
    all_in_two_parts,
    crop_view,
    draw_views,
    kind_made_by,
    make_views,
    views_as_drawn,
    views_to_make,
)
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.corrupted import CorruptedMaker, _changed, _plain_kernels
from ssl_rs.views.fused import TRANSFORMS, ColorJitter, transform_matrix
from ssl_rs.views.kornia_chain import KorniaMaker
from ssl_rs.views.masked import MaskedMaker
from ssl_rs.views.resampling import move
from ssl_rs.views.transformed import TransformedMaker

JITTER = ColorJitter((0.7, 1.3), (0.5, 1.5), (0.5, 1.5), (-0.3, 0.3), 0.5)
MAKERS = {
    "clean": CleanMaker("crop"),
    "transformed": TransformedMaker("clean", (0.7, 0.95), JITTER),
    "corrupted": CorruptedMaker("clean", 3, (0.2, 0.34), JITTER),
    "masked": MaskedMaker("clean", 4, 0.6),
}
PLAIN = {
    "clean": CleanMaker("crop"),
    "transformed": TransformedMaker("clean", (0.7, 0.95), ColorJitter()),
}


def images(batch=8, bands=3, height=16, width=16):
    return torch.rand(batch, bands, height, width, generator=torch.Generator().manual_seed(1))


def draws(count, start=0, stop=None, step=0):
    return Draws(3, step, "view", Rows(start, count if stop is None else stop, count))


RGB = (0, 1, 2)


def turned(source, rgb=RGB, valid=None):
    """A view that is not the crop itself, so that geometries have to be composed."""
    return CleanMaker("crop", 1.0, 0.0, 1.0)(crop_view(source, rgb, valid), draws(len(source), step=9))


def half_valid(batch=8, height=16, width=16):
    """A corner without data that differs from sample to sample."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return torch.stack([rows + columns > 4 + index for index in range(batch)]).unsqueeze(1)


def sample(image, geometry):
    grid = F.affine_grid(geometry, image.shape, align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


class Doubled(CleanMaker):
    def __call__(self, source, draws):
        view = super().__call__(source, draws)
        return replace(view, image=2 * view.image)


def test_views_drawn_in_advance_are_those_that_are_made_at_once():
    makers = MAKERS | {"augmented": AugmentedMaker("crop", JITTER, solarization=0.3, rotation=0.5)}
    assert all_in_two_parts(makers)
    for valid in (None, half_valid()):
        crop = crop_view(images(), RGB, valid)
        made = make_views(crop, makers, seed=1, step=2, rows=Rows(0, 8, 8))
        drawn = draw_views(makers, (16, 16), seed=1, step=2, rows=Rows(0, 8, 8), device=crop.image.device)
        computed = views_as_drawn(crop, makers, drawn)
        assert list(computed) == list(made)
        for one, other in zip(named_parts(computed, "views"), named_parts(made, "views"), strict=True):
            assert one[0] == other[0]
            assert torch.equal(one[1], other[1]) if isinstance(one[1], torch.Tensor) else one[1] == other[1]


@pytest.mark.parametrize("maker", [Doubled("crop"), KorniaMaker("crop", [RandomHorizontalFlip()])])
def test_makers_that_do_more_than_draw_and_compute_are_called_as_they_are(maker):
    assert not all_in_two_parts(MAKERS | {"own": maker})
    assert kind_made_by(KorniaMaker("crop", [])) is View
    assert kind_made_by(MAKERS["masked"]) is CorruptedView


class Giving(TwoPartMaker):
    """Gives what it is told to make of its source."""

    source = "crop"

    def __init__(self, make, drawn=()):
        self.given, self.drawn = make, drawn

    def draw(self, size, draws):
        return self.drawn

    def make(self, source, *drawn):
        return self.given(source)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda source: source.image, "its maker returns a Tensor, expected an ssl_rs View"),
        (
            lambda source: replace(source, image=source.image[:2]),
            r"the image .* \[2, 3, 16, 16\], expected .* \[8, 3, ",
        ),
        (lambda source: replace(source, image=source.image[:, :2]), r"the image .* \[8, 2, 16, 16\], expected"),
        (lambda source: replace(source, image=source.image[..., :8]), r"the image .* \[8, 3, 16, 8\], expected"),
        (
            lambda source: replace(source, image=source.image.byte()),
            r"the image .* torch\.uint8 .*, expected torch\.float32",
        ),
        (lambda source: replace(source, image=source.image.double()), r"the image .* torch\.float64 .*, expected"),
        (
            lambda source: replace(source, geometry=None),
            r"the geometry .* is None, expected torch\.float32 \[8, 2, 3\]",
        ),
        (lambda source: replace(source, valid=torch.ones(8, 1, 16, 16)), r"the valid .* torch\.float32 .* torch\.bool"),
        (lambda source: replace(source, valid=torch.ones(8, 16, 16).bool()), r"the valid .* \[8, 16, 16\], expected"),
    ],
)
def test_what_is_no_view_of_the_source_is_refused_with_the_name_of_the_view(make, said):
    makers, rows = {"own": Giving(make)}, Rows(0, 8, 8)
    with pytest.raises(InputError, match=rf"^views\.own: {said}"):
        make_views(crop_view(images()), makers, seed=0, step=0, rows=rows)
    with pytest.raises(InputError, match=rf"^views\.own: {said}"):
        views_as_drawn(crop_view(images()), makers, {"own": ()})


@pytest.mark.parametrize("drawn", [None, torch.zeros(8), (torch.zeros(8), 0.5)])
def test_what_is_drawn_is_a_tuple_of_tensors(drawn):
    makers, rows = {"own": Giving(lambda source: source, drawn)}, Rows(0, 8, 8)
    for make in (
        lambda: make_views(crop_view(images()), makers, seed=0, step=0, rows=rows),
        lambda: draw_views(makers, (16, 16), seed=0, step=0, rows=rows, device=torch.device("cpu")),
    ):
        with pytest.raises(InputError, match=r"^Giving\.draw returns .*, expected a tuple of tensors"):
            make()


def test_a_maker_without_a_source_is_told():
    maker = Giving(lambda source: source)
    maker.source = None
    with pytest.raises(InputError, match=r"^views\.own: Giving has no source: "):
        views_to_make({"own": maker}, ["own"])


def test_annotations_of_names_that_only_type_checkers_know_say_nothing():
    class Own:
        def __call__(self, source: "Somewhere", draws) -> View:  # noqa: F821
            return source

    assert kind_made_by(Own()) is None


@pytest.mark.parametrize("name", PLAIN)
def test_geometry_samples_the_crop_where_the_view_comes_from(name):
    crop = images()
    view = PLAIN[name](turned(crop), draws(8))
    torch.testing.assert_close(view.image, sample(crop, view.geometry), atol=1e-4, rtol=0)


def test_geometry_of_the_corrupted_view_is_that_of_its_clean_pixels():
    crop = images()
    view = MAKERS["corrupted"](turned(crop), draws(8))
    torch.testing.assert_close(view.clean, sample(crop, view.geometry), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_half_of_the_rows_are_half_of_the_whole(name):
    crop, valid = images(), half_valid()
    whole = MAKERS[name](crop_view(crop, RGB, valid), draws(8))
    halves = [
        MAKERS[name](crop_view(crop[rows], RGB, valid[rows]), draws(8, rows.start, rows.stop))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    assert all(half.rgb == whole.rgb == RGB for half in halves)
    for field in vars(whole).keys() - {"rgb"}:
        joined = torch.cat([getattr(half, field) for half in halves])
        torch.testing.assert_close(getattr(whole, field), joined)


@pytest.mark.parametrize("name", MAKERS)
def test_a_view_repeats_with_its_step_and_changes_with_the_next(name):
    first, again, other = (MAKERS[name](crop_view(images()), draws(8, step=step)) for step in (0, 0, 1))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)


def test_views_carry_no_gradient():
    crop = crop_view(images().requires_grad_(), RGB)
    made = make_views(crop, MAKERS, seed=0, step=0, rows=Rows(0, 8, 8))
    for view in made.values():
        assert not any(value.requires_grad for value in vars(view).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("bands", [1, 4])
def test_views_take_any_number_of_bands_and_stay_in_range(name, bands):
    crop = images(bands=bands)
    view = MAKERS[name](crop_view(crop), draws(8))
    assert view.image.shape == crop.shape
    assert view.image.min() >= 0
    assert view.image.max() <= 1


def test_what_has_no_data_is_black_in_every_view():
    valid = half_valid()
    crop = crop_view(images().masked_fill(~valid, 0), RGB, valid)
    makers = MAKERS | {"augmented": AugmentedMaker("clean", ColorJitter(contrast=(0.1, 0.2)), solarization=1.0)}
    made = make_views(crop, makers, seed=0, step=0, rows=Rows(0, 8, 8))
    for name, view in made.items():
        alone = makers[name](crop if name == "clean" else made["clean"], Draws(0, 0, name, Rows(0, 8, 8)))
        assert not view.image.masked_select(~view.valid).any(), name
        assert torch.equal(view.image.masked_select(view.valid), alone.image.masked_select(view.valid)), name
        assert view.valid.any(), name


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("valid", [None, half_valid()])
def test_every_maker_passes_on_the_colors_and_that_nothing_is_invalid(name, valid):
    view = MAKERS[name](crop_view(images(bands=4), (2, 1, 0), valid), draws(8))
    assert view.rgb == (2, 1, 0)
    assert (view.valid is None) == (valid is None)


def test_valid_moves_with_the_pixels_of_the_clean_view_and_stays_in_the_corrupted():
    valid = half_valid()
    clean = turned(valid.float().repeat(1, 3, 1, 1), valid=valid)
    assert torch.equal(clean.valid, clean.image[:, :1] == 1)
    assert not torch.equal(clean.valid, valid)
    assert torch.equal(MAKERS["corrupted"](clean, draws(8)).valid, clean.valid)


@pytest.mark.parametrize("name", ["transformed", "augmented"])
def test_a_view_of_one_value_keeps_it_beside_what_has_no_data(name):
    makers = PLAIN | {"augmented": AugmentedMaker("clean", ColorJitter(), blur=1.0)}
    valid = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.2
    crop = torch.full((8, 3, 16, 16), 0.8).masked_fill(~valid, 0)
    view = makers[name](crop_view(crop, RGB, valid), draws(8))
    assert (view.image.masked_select(view.valid) - 0.8).abs().max() < 1e-5


def test_valid_moves_exactly_where_the_transformed_view_resamples_nothing():
    valid = half_valid()
    view = TransformedMaker("clean", (1.0, 1.0), ColorJitter())(
        turned(valid.float().repeat(1, 3, 1, 1), valid=valid), draws(8)
    )
    assert torch.equal(view.valid, view.image[:, :1] == 1)


def test_valid_of_the_transformed_view_is_that_of_the_nearest_pixel():
    valid = half_valid()
    view = PLAIN["transformed"](turned(valid.float().repeat(1, 3, 1, 1), valid=valid), draws(8))
    marked = view.image[:, :1]
    assert view.valid[marked > 0.75].all()  # a bilinear sample has at least a quarter of its nearest pixel
    assert not view.valid[marked < 0.25].any()
    assert (marked > 0.75).any()
    assert (marked < 0.25).any()
    grid = F.affine_grid(view.geometry, valid.shape, align_corners=False)
    nearest = F.grid_sample(valid.float(), grid, mode="nearest", padding_mode="reflection", align_corners=False)
    assert (view.valid != (nearest > 0.5)).float().mean() < 0.01  # two warps and one round ties differently


@pytest.mark.parametrize("name", ["transformed", "corrupted"])
def test_what_is_invalid_does_not_change_the_colors_of_what_is_valid(name):
    contrast = ColorJitter(contrast=(0.5, 0.6))
    makers = {
        "transformed": TransformedMaker("clean", (1.0, 1.0), contrast),
        "corrupted": CorruptedMaker("clean", 1, (1.0, 1.0), contrast),  # one block: the whole image
    }
    crop, valid = images(), half_valid()
    other = torch.where(valid, crop, 1 - crop)
    first, second, mixed = (
        makers[name](crop_view(image, RGB, mask), draws(8))
        for image, mask in ((crop, valid), (other, valid), (other, None))
    )
    kept = (first.image == second.image).all(dim=1)
    assert kept[first.valid[:, 0]].all()
    assert not kept.all()
    assert (first.image != mixed.image).all(dim=1).flatten(1).float().mean() > 0.99


@pytest.mark.parametrize("name", ["transformed", "corrupted"])
def test_colors_in_another_order_change_alike_and_a_fourth_band_keeps_its_color(name):
    color = ColorJitter(saturation=(0.2, 0.4), hue=(0.2, 0.3))
    maker = {
        "transformed": TransformedMaker("clean", (1.0, 1.0), color),
        "corrupted": CorruptedMaker("clean", 2, (0.5, 0.7), color),
    }[name]
    crop = images(bands=4)
    straight, swapped, gray = (
        maker(crop_view(image, rgb), draws(8)).image
        for image, rgb in ((crop, (0, 1, 2)), (crop[:, [2, 1, 0, 3]], (2, 1, 0)), (crop, None))
    )
    torch.testing.assert_close(swapped[:, [2, 1, 0, 3]], straight)
    torch.testing.assert_close(straight[:, 3], gray[:, 3])
    assert (straight[:, :3] - gray[:, :3]).abs().max() > 0.1


def test_clean_view_keeps_every_value():
    crop = images()
    view = MAKERS["clean"](crop_view(crop), draws(8))
    assert torch.equal(view.image.flatten(2).sort().values, crop.flatten(2).sort().values)


def test_the_class_names_the_transform_against_the_source():
    source = turned(images(64))
    view = TransformedMaker("clean", (1.0, 1.0), ColorJitter())(source, draws(64))
    reference = [
        lambda image: image.flip(-1),
        lambda image: image.flip(-2),
        *(lambda image, turns=turns: torch.rot90(image, turns, (-2, -1)) for turns in range(4)),
    ]
    for index, transform in enumerate(view.transform.tolist()):
        torch.testing.assert_close(view.image[index], reference[transform](source.image[index]))


def test_all_classes_are_equally_likely():
    view = MAKERS["transformed"](crop_view(images(3000, 1, 4, 4)), draws(3000))
    share = view.transform.bincount(minlength=len(TRANSFORMS)) / 3000
    assert len(share) == 6
    torch.testing.assert_close(share, torch.full((6,), 1 / 6), atol=0.025, rtol=0)


def test_the_crop_has_the_sides_it_was_asked_for_and_stays_inside():
    view = PLAIN["transformed"](crop_view(images(500, 1, 4, 4)), draws(500))
    linear, offset = view.geometry[:, :, :2], view.geometry[:, :, 2]
    side = linear.abs().sum(dim=2)  # of a flip or rotation times a scale
    assert 0.7 <= side.min() < 0.71
    assert 0.94 < side.max() <= 0.9501
    assert (side + offset.abs()).max() <= 1 + 1e-6
    assert (side + offset.abs()).max() > 0.99  # and reaches the edges


def slow_corruption(maker, clean, valid, numbers):
    """One sample after the other, one block after the other, by slices; draws in the order of the maker."""
    batch, _, height, width = clean.shape
    corrupted = clean.clone()
    for _ in range(maker.num_blocks):
        side, top, left = numbers.uniform(*maker.side), numbers.uniform(0, 1), numbers.uniform(0, 1)
        kind = numbers.integers(0, 5)
        gain, contrast = numbers.uniform(*maker.color.brightness), numbers.uniform(*maker.color.contrast)
        numbers.uniform(1, 1), numbers.uniform(0, 0), numbers.chance(0)  # neutral saturation and hue
        for b in range(batch):
            n = int(side[b] * min(height, width))
            y, x = int(top[b] * (height - n + 1)), int(left[b] * (width - n + 1))
            block, here = clean[b, :, y : y + n, x : x + n], valid[b, 0, y : y + n, x : x + n]
            gray = (block[:, here].sum(dim=1) / max(int(here.sum()), 1) * torch.tensor([0.299, 0.587, 0.114])).sum()
            block, here = (
                [each.flip(-1), each.flip(-2), *(each.rot90(k, (-2, -1)) for k in (1, 2, 3))][kind[b]]
                for each in (block, here)
            )
            shown = (gain[b] * (gray + contrast[b] * (block - gray))).clamp(0, 1)
            corrupted[b, :, y : y + n, x : x + n][:, here] = shown[:, here]
    return corrupted


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 31)])
@pytest.mark.parametrize("nodata", [False, True])
def test_corruption_agrees_with_a_loop_over_samples(height, width, nodata):
    maker = CorruptedMaker("clean", 4, (0.2, 0.5), ColorJitter(brightness=(0.7, 1.3), contrast=(0.5, 1.5)))
    clean = images(6, 3, height, width)
    valid = half_valid(6, height, width) if nodata else torch.ones(6, 1, height, width, dtype=torch.bool)
    view = maker(crop_view(clean, RGB, valid if nodata else None), draws(6))
    torch.testing.assert_close(view.image, slow_corruption(maker, clean, valid, draws(6)), atol=1e-5, rtol=0)
    assert torch.equal(view.clean, clean)
    assert torch.equal(view.weight, (clean - view.image).abs())


def test_what_has_no_data_covers_nothing():
    """Else repairing where it was pasted would be much of the task: its difference is the largest there is."""
    valid = half_valid(6, 24, 24)
    clean = torch.where(valid, 0.5, 0.0).repeat(1, 3, 1, 1)
    view = CorruptedMaker("clean", 6, (0.3, 0.6), ColorJitter())(crop_view(clean, RGB, valid), draws(6))
    assert not view.weight[valid.expand_as(view.weight)].any()


def test_one_block_changes_no_more_than_its_square():
    maker = CorruptedMaker("clean", 1, (0.2, 1 / 3), JITTER)
    view = maker(crop_view(images(200, 3, 30, 30)), draws(200))
    changed = view.weight.amax(dim=1) > 0  # [B, H, W]
    sides = torch.stack([changed.any(dim=axis).sum(dim=1) for axis in (1, 2)])
    assert 5 <= sides.min() <= 6
    assert sides.max() == 9  # int(30 / 3) would be reached only by a draw of exactly 1 / 3
    assert changed.any(dim=1).any(dim=0).all()  # blocks reach every column
    assert changed.any(dim=2).any(dim=0).all()  # and every row


def test_a_block_is_never_left_as_it_was():
    maker = CorruptedMaker("clean", 1, (0.3, 0.3), ColorJitter())
    view = maker(crop_view(images(100)), draws(100))
    assert (view.weight.sum(dim=(1, 2, 3)) > 0).all()


def test_corruption_leaves_the_clean_image_alone():
    source = View(images(), crop_view(images()).geometry)
    before = source.image.clone()
    MAKERS["corrupted"](source, draws(8))
    assert torch.equal(source.image, before)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 13)])
def test_masking_agrees_with_a_loop_over_cells(height, width):
    clean, valid = images(5, 4, height, width), half_valid(5, height, width)
    maker = MaskedMaker("crop", 4, 0.6)
    view = maker(crop_view(clean, RGB, valid), draws(5))
    chosen = draws(5).uniform(0, 1, 16)
    for sample in range(5):
        hidden = chosen[sample].sort().indices[:10].tolist()
        mean = clean[sample][:, valid[sample, 0]].double().mean(dim=1).float()
        for row in range(height):
            for column in range(width):
                is_hidden = (row * 4 // height) * 4 + column * 4 // width in hidden
                expected = mean if is_hidden else clean[sample, :, row, column]
                torch.testing.assert_close(view.image[sample, :, row, column], expected)
                assert view.weight[sample, :, row, column].tolist() == [float(is_hidden)] * 4
    assert view.clean is clean
    assert torch.equal(view.valid, valid)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: CorruptedMaker("clean", 0, (0.2, 0.3), JITTER), "^num_blocks="),
        (lambda: CorruptedMaker("clean", 1, (0.3, 1.3), JITTER), "^side="),
        (lambda: TransformedMaker("clean", (0.9, 0.7), JITTER), "^side="),
        (lambda: TransformedMaker("clean", (0.0, 0.0), JITTER), "^side="),
        (lambda: ColorJitter(brightness=(0.6, float("inf"))), "^brightness=.* 0 <= low <= high, finite"),
        (lambda: MaskedMaker("clean", 1, 0.5), "^cells="),
        (lambda: MaskedMaker("clean", 4, 1.0), "^share="),
        (lambda: MaskedMaker("clean", 4, 0.0), "^share="),
    ],
)
def test_settings_without_a_meaning_are_refused(make, key):
    with pytest.raises(InputError, match=key):
        make()


@pytest.mark.parametrize("nodata", [False, True])
def test_blocks_that_are_cut_at_once_as_on_a_gpu_are_those_cut_one_by_one(nodata):
    source = crop_view(images(batch=4, height=20, width=24), RGB, half_valid(4, 20, 24) if nodata else None)
    maker = CorruptedMaker("crop", 5, (0.2, 0.5), JITTER)
    numbers = draws(4)
    drawn = [maker._draw(numbers, 10, 20, 24) for _ in range(5)]
    at_once = _changed(source, 10, *(torch.cat(each) for each in zip(*drawn, strict=True)))
    for number, blocks in enumerate(drawn):
        for whole, one in zip(at_once, _changed(source, 10, *blocks), strict=True):
            torch.testing.assert_close(whole[4 * number : 4 * number + 4], one)


def test_a_part_without_data_gives_way_to_the_whole():
    """Else the view would be empty, and a positive of its crop all the same."""
    image, valid = images(64), torch.zeros(64, 1, 16, 16, dtype=torch.bool)
    valid[:, :, :2, :2] = True
    maker = TransformedMaker("clean", (0.5, 0.6), ColorJitter())
    view = maker(crop_view(image, RGB, valid), draws(64))
    assert view.valid.flatten(1).any(dim=1).all()
    whole = view.valid.flatten(1).sum(dim=1) == 4
    assert 0 < whole.sum() < 64  # some parts hold the corner, enlarged
    turned = transform_matrix(view.transform)
    assert torch.equal(view.geometry[whole], turned[whole])
    torch.testing.assert_close(view.image[whole], move(image * valid, turned)[whole])
    assert not torch.equal(view.geometry[~whole], turned[~whole])


@pytest.mark.parametrize("warn_only", [False, True])
def test_the_mode_is_what_it_was_behind_plain_kernels(warn_only):
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        with _plain_kernels():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_smallest_block_is_a_pixel():
    maker = CorruptedMaker("crop", 1, (0.0, 0.01), ColorJitter(brightness=(0.5, 0.5)))
    changed = maker(crop_view(images()), draws(8)).weight.amax(dim=1) > 0
    assert changed.sum(dim=(1, 2)).tolist() == [1] * 8
