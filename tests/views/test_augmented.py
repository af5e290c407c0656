"""The views of published two-crop methods: where pixels come from, and what happens to their values."""

import math

import kornia
import pytest
import torch
import torch.nn.functional as F
import yaml

from ssl_rs.build import build
from ssl_rs.config import compose_config, resolve
from ssl_rs.config_files import conf_dir
from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.augmented import ATTEMPTS, AugmentedMaker, draw_part, gaussian_blur
from ssl_rs.views.base import crop_view
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.fused import ColorJitter, color_matrix
from ssl_rs.views.resampling import warp_valid

JITTER = ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), 0.2, 0.8)
FULL = AugmentedMaker("crop", JITTER, area=(0.2, 1.0), solarization=0.5)
MOVING = AugmentedMaker("crop", ColorJitter(), area=(0.2, 0.9), blur=0.0)
STILL = {"area": (1.0, 1.0), "ratio": (1.0, 1.0), "horizontal_flip": 0.0}
RGB = (0, 1, 2)


def images(batch=8, bands=3, size=16):
    return torch.rand(batch, bands, size, size, generator=torch.Generator().manual_seed(1))


def draws(count, start=0, stop=None, step=0):
    return Draws(3, step, "view", Rows(start, count if stop is None else stop, count))


def half_valid(batch=8, size=16):
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    return torch.stack([rows + columns > 4 + index for index in range(batch)]).unsqueeze(1)


def turned(source, valid=None):
    return CleanMaker("crop", 1.0, 0.0, 1.0)(crop_view(source, RGB, valid), draws(len(source), step=9))


def test_geometry_samples_the_crop_where_the_view_comes_from():
    crop = images()
    view = MOVING(turned(crop), draws(8))
    grid = F.affine_grid(view.geometry, crop.shape, align_corners=False)
    torch.testing.assert_close(view.image, F.grid_sample(crop, grid, align_corners=False), atol=1e-4, rtol=0)


def slow_parts(numbers, count, area, ratio):
    """One sample after the other: the first of ten parts that fits into the image, else the whole."""
    shares = numbers.uniform(*area, ATTEMPTS)
    ratios = numbers.uniform(math.log(ratio[0]), math.log(ratio[1]), ATTEMPTS)
    positions = numbers.uniform(-1, 1, 2)
    matrices = []
    for index in range(count):
        width = height = 1.0
        for share, log_ratio in zip(shares[index].tolist(), ratios[index].tolist(), strict=True):
            wide, high = math.sqrt(share * math.exp(log_ratio)), math.sqrt(share / math.exp(log_ratio))
            if wide <= 1 and high <= 1:
                width, height = wide, high
                break
        x, y = positions[index].tolist()
        matrices.append([[width, 0, x * (1 - width)], [0, height, y * (1 - height)]])
    return torch.tensor(matrices)


@pytest.mark.parametrize(("area", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (2.0, 3.0))])
def test_parts_agree_with_a_loop_over_attempts(area, ratio):
    drawn = draw_part(draws(300), area, ratio)
    torch.testing.assert_close(drawn, slow_parts(draws(300), 300, area, ratio), atol=1e-5, rtol=0)
    width, height = drawn[:, 0, 0], drawn[:, 1, 1]
    assert (drawn[:, :, :2].sum(dim=2) + drawn[:, :, 2].abs() <= 1 + 1e-5).all()  # inside
    if ratio[0] > 1:
        assert (width == 1).all()  # none fits: the whole
        return
    assert width.mul(height).min() < 0.1
    assert (width / height).min() > 0.74
    assert (width / height).max() < 1.34


def slow_blur(image, sigma, valid):
    """A double loop over pixels, in float64; image [C, n, n], valid [n, n]."""
    size = image.shape[-1]
    blurred = image.double().clone()
    for y in range(size):
        for x in range(size):
            if not valid[y, x]:
                continue
            total, weights = torch.zeros(len(image), dtype=torch.float64), 0.0
            for v in range(size):
                for u in range(size):
                    if valid[v, u]:
                        weight = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2))
                        total, weights = total + weight * image[:, v, u].double(), weights + weight
            blurred[:, y, x] = total / weights
    return blurred.float()


@pytest.mark.parametrize("nodata", [False, True])
def test_blur_agrees_with_a_loop_over_pixels(nodata):
    image, sigma = images(3, 2, 9), torch.tensor([0.05, 0.8, 2.5])
    valid = half_valid(3, 9) if nodata else torch.ones(3, 1, 9, 9, dtype=torch.bool)
    expected = torch.stack([slow_blur(image[i], float(sigma[i]), valid[i, 0]) for i in range(3)])
    torch.testing.assert_close(gaussian_blur(image, sigma, valid if nodata else None), expected, atol=1e-5, rtol=0)


def test_blur_is_kornias_away_from_the_border():
    image, sigma = images(2, 3, 40), torch.tensor([0.7, 1.5])
    reference = kornia.filters.gaussian_blur2d(image, (23, 23), torch.stack([sigma, sigma], dim=1))
    inner = (..., slice(11, -11), slice(11, -11))
    torch.testing.assert_close(gaussian_blur(image, sigma)[inner], reference[inner], atol=1e-5, rtol=0)


def test_blur_grows_with_the_image_and_meets_its_share_of_images():
    maker = AugmentedMaker("crop", ColorJitter(), **STILL, blur=0.3, blur_sigma=(7.0, 7.0))
    crop = images(400, 1, 16)
    image = maker(crop_view(crop), draws(400)).image
    changed = (image - crop).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.float().mean() == pytest.approx(0.3, abs=0.07)
    expected = gaussian_blur(crop, torch.full((400,), 0.5))  # 7 pixels of 224 are half a pixel of 16
    torch.testing.assert_close(image[changed], expected[changed], atol=1e-4, rtol=0)


def test_solarization_inverts_bright_values():
    maker = AugmentedMaker("crop", ColorJitter(), **STILL, blur=0.0, solarization=1.0)
    crop = images()
    expected = torch.where(crop >= 0.5, 1 - crop, crop)
    torch.testing.assert_close(maker(crop_view(crop), draws(8)).image, expected, atol=1e-4, rtol=0)
    some = AugmentedMaker("crop", ColorJitter(), **STILL, blur=0.0, solarization=0.2)
    image = some(crop_view(images(500)), draws(500)).image
    assert (image.amax(dim=(1, 2, 3)) < 0.51).float().mean() == pytest.approx(0.2, abs=0.05)


def test_the_flip_meets_its_share_of_images():
    maker = AugmentedMaker("crop", ColorJitter(), **{**STILL, "horizontal_flip": 0.5}, blur=0.0)
    crop = images(400)
    image = maker(crop_view(crop), draws(400)).image
    kept, flipped = ((image - each).abs().amax(dim=(1, 2, 3)) < 1e-3 for each in (crop, crop.flip(-1)))
    assert (kept ^ flipped).all()
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.08)


def test_views_of_images_from_above_may_turn_every_way():
    """Each flip and rotation alike, moved exactly; without them the numbers drawn are those of before."""
    maker = AugmentedMaker("crop", ColorJitter(), **{**STILL, "horizontal_flip": 0.5}, blur=0.0,
                           vertical_flip=0.5, rotation=0.75)  # fmt: skip
    crop = images(4000, 1, 4)
    view = maker(crop_view(crop), draws(4000))
    ways = [crop.rot90(turns, (-2, -1)) for turns in range(4)]
    ways += [way.flip(-1) for way in ways]
    same = torch.stack([(view.image - way).abs().amax((1, 2, 3)) < 1e-5 for way in ways])  # [8, B]
    assert (same.sum(dim=0) == 1).all()
    assert same.float().mean(dim=1).tolist() == pytest.approx([1 / 8] * 8, abs=0.02)


def test_color_changes_its_share_of_images_and_grayscale_its_own():
    mean = images(2000).mean(dim=(-2, -1))
    jitter = ColorJitter((0.5, 0.6), (1.5, 1.6), (0.5, 0.6), (0.2, 0.3), 0.25, 0.6)
    matrices = color_matrix(mean, *jitter.draw(draws(2000)), RGB)
    gray = (matrices[:, :, :3] - matrices[:, :1, :3]).abs().amax(dim=(1, 2)) < 1e-5
    same_brightness = (matrices[:, 1, :3].sum(dim=1) - 1).abs() < 1e-3  # gains of brightness x contrast: 0.75 to 0.96
    assert gray.float().mean() == pytest.approx(0.25, abs=0.04)
    assert same_brightness.float().mean() == pytest.approx(0.4, abs=0.04)
    assert (gray & same_brightness).float().mean() == pytest.approx(0.1, abs=0.03)  # independent
    identity = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)
    untouched = matrices[~gray & same_brightness]
    torch.testing.assert_close(untouched, identity.expand_as(untouched), atol=1e-5, rtol=0)


def test_a_certain_change_of_color_draws_what_it_always_drew():
    numbers = draws(8)
    ColorJitter((0.6, 1.4), grayscale=0.2).draw(numbers)
    expected = draws(8)
    [expected.uniform(0, 1) for _ in range(4)], expected.chance(0.2)
    assert torch.equal(numbers.uniform(0, 1), expected.uniform(0, 1))


def test_half_of_the_rows_are_half_of_the_whole():
    crop, valid = images(), half_valid()
    whole = FULL(crop_view(crop, RGB, valid), draws(8))
    halves = [
        FULL(crop_view(crop[rows], RGB, valid[rows]), draws(8, rows.start, rows.stop))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    for field in ("image", "geometry", "valid"):
        torch.testing.assert_close(getattr(whole, field), torch.cat([getattr(half, field) for half in halves]))
    assert halves[0].rgb == whole.rgb == RGB


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_any_number_of_bands_stays_in_range_and_repeats(bands):
    crop = images(bands=bands)
    first, again, other = (FULL(crop_view(crop), draws(8, step=step)) for step in (0, 0, 1))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert first.image.shape == crop.shape
    assert 0 <= first.image.min() <= first.image.max() <= 1
    assert first.valid is None


def test_of_parts_without_data_the_whole_takes_the_place():
    """All views without data look alike: in contrastive tasks they would be each other's hardest negatives."""
    valid = torch.zeros(64, 1, 16, 16, dtype=torch.bool)
    valid[:60, :, :, 13:] = True  # parts to the left of it have no data; the last four images have none at all
    maker = AugmentedMaker("crop", ColorJitter(), area=(0.1, 0.4), blur=0.0)
    crop = images(64) * valid
    source = crop_view(crop, RGB, valid)
    view, plain = maker(source, draws(64)), maker(crop_view(crop, RGB), draws(64))
    drawn = warp_valid(valid, plain.geometry)
    empty = ~drawn.flatten(1).any(dim=1)
    assert 10 < empty[:60].sum() < 50
    assert torch.equal(view.valid[~empty], drawn[~empty])
    assert torch.equal(view.geometry[~empty], plain.geometry[~empty])
    assert torch.equal(view.valid[empty], valid[empty])
    assert torch.equal(view.geometry[empty], source.geometry[empty])
    torch.testing.assert_close(view.image[empty], crop[empty])
    assert view.valid[:60].flatten(1).any(dim=1).all()


def test_what_is_invalid_moves_along_and_changes_nothing_that_is_valid():
    valid = half_valid()
    maker = AugmentedMaker("crop", JITTER, **STILL, blur=1.0, blur_sigma=(30.0, 30.0))
    crop = images()
    other = torch.where(valid, crop, 1 - crop)
    first, second = (maker(crop_view(image, RGB, valid), draws(8)) for image in (crop, other))
    assert torch.equal(first.valid, valid)
    inner = valid & ~F.max_pool2d((~valid).float(), 3, 1, 1).bool()  # the warp rounds the middles of pixels
    inner = inner.expand_as(crop)
    torch.testing.assert_close(first.image[inner], second.image[inner], atol=1e-3, rtol=0)
    moved = MOVING(turned(valid.float().repeat(1, 3, 1, 1), valid=valid), draws(8))
    assert moved.valid[moved.image[:, :1] > 0.75].all()
    assert not moved.valid[moved.image[:, :1] < 0.25].any()


# What the authors published


PAIRS = ("simclr", "moco_v2", "byol", "vicreg")


def published(name):
    values = resolve(compose_config("pretrain", [f"views=[{name}]", "pretext=[contrastive]"]))["views"]
    return [build(values[f"{name}_{side}"], name) for side in ("first", "second")]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_start_from_the_crop_and_draw_independently(name):
    makers = published(name)
    assert all(maker.source == "crop" for maker in makers)
    assert all(maker.horizontal_flip == 0.5 and maker.color.probability == 0.8 for maker in makers)
    assert all(maker.color.grayscale == 0.2 and maker.blur_sigma == [0.1, 2.0] for maker in makers)
    first, second = (
        maker(crop_view(images()), Draws(0, 0, f"{name}_{side}", Rows(0, 8, 8))).geometry
        for maker, side in zip(makers, ("first", "second"), strict=True)
    )
    assert not torch.equal(first, second)


def test_byol_blurs_one_view_always_and_solarizes_the_other_at_times():
    first, second = published("byol")
    assert (first.blur, second.blur) == (1.0, 0.1)
    assert (first.solarization, second.solarization) == (0.0, 0.2)
    assert first.color == second.color


@pytest.mark.parametrize(("name", "least"), [("simclr", 0.08), ("moco_v2", 0.2), ("vicreg", 0.08)])
def test_the_other_pairs_are_equal(name, least):
    first, second = published(name)
    assert first == second
    assert first.area == [least, 1.0]
    strength = {"simclr": (0.2, 1.8), "moco_v2": (0.6, 1.4), "vicreg": (0.6, 1.4)}[name]
    assert tuple(first.color.brightness) == strength


def test_the_default_list_has_every_pair():
    defaults = yaml.safe_load((conf_dir() / "pretraining.yaml").read_text())["defaults"]
    (usual,) = (entry["views"] for entry in defaults if isinstance(entry, dict) and "views" in entry)
    assert usual == ["clean", "transformed", "corrupted", *PAIRS]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"area": (0.5, 1.5)}, "area"),
        ({"area": (0.0, 1.0)}, "area"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"blur": 1.1}, "blur"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"solarization": -0.1}, "solarization"),
    ],
)
def test_settings_without_a_meaning_are_refused(change, key):
    with pytest.raises(InputError, match=rf"^{key}="):
        AugmentedMaker("crop", ColorJitter(), **change)


def test_a_color_probability_outside_of_its_range_is_refused():
    with pytest.raises(InputError, match=r"^probability=2"):
        ColorJitter(probability=2.0)


def test_what_was_blurred_is_solarized():
    """In the order of the authors: blurring what was inverted would be another image."""
    maker = AugmentedMaker("crop", ColorJitter(), **STILL, blur=1.0, blur_sigma=(14.0, 14.0), solarization=1.0)
    blurred = gaussian_blur(images(), torch.ones(8))  # 14 pixels of 224 are one of 16
    expected = torch.where(blurred >= 0.5, 1 - blurred, blurred)
    torch.testing.assert_close(maker(crop_view(images()), draws(8)).image, expected, atol=1e-3, rtol=0)


def test_what_has_no_data_takes_no_part_in_contrast_and_blur():
    valid = half_valid()
    crop = torch.full((8, 3, 16, 16), 0.6).masked_fill(~valid, 0)
    maker = AugmentedMaker("crop", ColorJitter(contrast=(0.5, 0.5)), **STILL, blur=1.0, blur_sigma=(30.0, 30.0))
    view = maker(crop_view(crop, RGB, valid), draws(8))
    assert torch.equal(view.valid, valid)
    assert (view.image.masked_select(valid) - 0.6).abs().max() < 1e-4


def test_views_may_turn_without_a_flip():
    maker = AugmentedMaker("crop", ColorJitter(), **STILL, blur=0.0, rotation=1.0)
    crop = images(30)
    image = maker(crop_view(crop), draws(30)).image
    ways = torch.stack([(image - crop.rot90(turns, (-2, -1))).abs().amax((1, 2, 3)) < 1e-3 for turns in range(4)])
    assert (ways.sum(dim=0) == 1).all()
    assert ways.any(dim=1).tolist() == [False, True, True, True]
