import itertools
import math

import kornia
import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.fused import ColorJitter, band_means, color_matrix, compose, recolor

RGB = (0, 1, 2)
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "brightness_offset": 0.0}


def matrix_of(mean, rgb=RGB, **settings):
    values = {name: torch.full((len(mean),), float(settings.get(name, value))) for name, value in NEUTRAL.items()}
    return color_matrix(mean, **values, rgb=rgb)


def changed(image, rgb=RGB, **settings):
    return recolor(image, matrix_of(image.mean(dim=(-2, -1)), rgb, **settings))


@pytest.fixture
def image():
    # Far from 0 and 1, so that nothing is clamped.
    return 0.4 + 0.2 * torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def test_neutral_settings_change_nothing(image):
    torch.testing.assert_close(changed(image), image)


@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_brightness_agrees_with_kornia(image, factor):
    torch.testing.assert_close(
        changed(image, brightness=factor), kornia.enhance.adjust_brightness_accumulative(image, factor)
    )


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4])
def test_contrast_is_about_the_mean_gray_as_in_kornia(image, factor):
    expected = kornia.enhance.adjust_contrast_with_mean_subtraction(image, factor)
    torch.testing.assert_close(changed(image, contrast=factor), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4])
def test_saturation_is_about_the_pixels_gray_as_in_kornia(image, factor):
    expected = kornia.enhance.adjust_saturation_with_gray_subtraction(image, factor)
    torch.testing.assert_close(changed(image, saturation=factor), expected, atol=1e-4, rtol=0)


def test_saturation_zero_is_kornias_grayscale(image):
    gray = kornia.color.rgb_to_grayscale(image).expand_as(image)
    torch.testing.assert_close(changed(image, saturation=0.0), gray, atol=1e-5, rtol=0)


def test_hue_agrees_with_a_loop_over_pixels_in_yiq(image):
    # The NTSC matrix to three digits: (I, Q) is the plane (U, V) turned and mirrored, so the angle changes its sign.
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
    angle = -2 * math.pi * 0.2
    turn = torch.tensor([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    turn = turn.double()
    expected = torch.empty_like(image)
    for sample, row, column in itertools.product(range(2), range(6), range(5)):
        color = to_yiq @ image[sample, :, row, column].double()
        expected[sample, :, row, column] = torch.linalg.solve(to_yiq, turn @ color).float()
    torch.testing.assert_close(changed(image, hue=0.2), expected, atol=2e-3, rtol=0)


def test_all_changes_together_agree_with_a_loop_over_samples_and_pixels():
    image = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(1))  # to 0 and 1: some results are clamped
    brightness, contrast, saturation, hue = [0.8, 1.3, 1.1], [1.4, 0.6, 1.2], [0.0, 1.4, 0.7], [0.3, -0.2, 0.05]
    offset = [0.0, -0.3, 0.2]
    factors = {
        "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
        "brightness_offset": offset,
    }  # fmt: skip
    matrix = color_matrix(
        image.mean(dim=(-2, -1)), **{name: torch.tensor(values) for name, values in factors.items()}, rgb=RGB
    )
    luminance = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    expected = torch.empty(image.shape, dtype=torch.float64)
    for sample in range(3):
        mean = luminance @ image[sample].double().mean(dim=(1, 2))
        for row, column in itertools.product(range(6), range(5)):
            luma, u, v = kornia.color.rgb_to_yuv(image[sample, :, row, column].double().view(3, 1, 1)).flatten()
            angle = 2 * math.pi * hue[sample]
            turned = torch.stack([u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle)])
            chrominance = saturation[sample] * contrast[sample] * brightness[sample] * turned
            luma = brightness[sample] * (mean + contrast[sample] * (luma - mean)) + offset[sample]
            color = torch.linalg.solve(
                kornia.color.rgb_to_yuv(torch.eye(3, dtype=torch.float64).view(3, 3, 1)).squeeze(-1),
                torch.cat([luma.view(1), chrominance]),
            )
            expected[sample, :, row, column] = color.clamp(0, 1)
    assert ((expected == 0) | (expected == 1)).any()
    torch.testing.assert_close(recolor(image, matrix).double(), expected, atol=1e-5, rtol=0)


def test_hue_keeps_luminance_and_a_whole_turn_changes_nothing(image):
    gray = kornia.color.rgb_to_grayscale
    torch.testing.assert_close(gray(changed(image, hue=0.37)), gray(image), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed(image, hue=1.0), image, atol=1e-4, rtol=0)


def test_positive_hue_goes_from_red_to_green_to_blue():
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1)
    assert changed(red, hue=1 / 3).argmax() == 1
    assert changed(red, hue=2 / 3).argmax() == 2


def test_jitters_commute_and_compose_to_the_one_matrix(image):
    settings = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.1}
    joint = matrix_of(image.mean(dim=(-2, -1)), **settings)
    for order in itertools.permutations(settings):
        mean, total = image.mean(dim=(-2, -1)), torch.eye(3, 4).expand(2, 3, 4)
        for name in order:
            step = matrix_of(mean, **{name: settings[name]})
            total = compose(step, total)
            mean = (step[..., :3] @ mean.unsqueeze(-1) + step[..., 3:]).squeeze(-1)  # what the next one sees
        torch.testing.assert_close(total, joint, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bands", [1, 2, 4, 6])
def test_brightness_and_contrast_of_any_number_of_bands(bands):
    image = 0.4 + 0.2 * torch.rand(2, bands, 4, 4)
    mean = image.mean(dim=(2, 3), keepdim=True)  # each band's own
    result = changed(image, rgb=None, brightness=1.1, contrast=0.5, saturation=0.0, hue=0.3)
    torch.testing.assert_close(result, 1.1 * (mean + 0.5 * (image - mean)))


def test_contrast_leaves_the_mean_of_each_band_that_is_no_color():
    image = torch.rand(3, 6, 8, 8) * torch.tensor([0.1, 0.2, 0.1, 0.8, 0.5, 0.3]).view(1, -1, 1, 1)
    result = changed(image, rgb=(2, 1, 0), contrast=0.6)
    torch.testing.assert_close(result[:, 3:].mean(dim=(2, 3)), image[:, 3:].mean(dim=(2, 3)))
    torch.testing.assert_close(result[:, :3], changed(image[:, :3], rgb=(2, 1, 0), contrast=0.6))


def test_named_bands_are_recolored_and_others_are_left():
    image = 0.4 + 0.2 * torch.rand(2, 4, 5, 5)  # blue, green, red, near infrared
    result = changed(image, rgb=(2, 1, 0), saturation=0.3, hue=0.2)
    expected = changed(image[:, [2, 1, 0]], saturation=0.3, hue=0.2)
    torch.testing.assert_close(result[:, [2, 1, 0]], expected)
    torch.testing.assert_close(result[:, 3], image[:, 3])


def slow_change(pixel, gray, rgb, brightness, contrast, saturation, hue):
    """One pixel [C] of float64, step after step; `gray` is what contrast scales about, [C]."""
    pixel = pixel.clone()
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
    y, i, q = to_yiq @ torch.stack([pixel[band] for band in rgb])
    angle = -2 * math.pi * hue
    i, q = i * math.cos(angle) - q * math.sin(angle), i * math.sin(angle) + q * math.cos(angle)
    color = torch.linalg.solve(to_yiq, torch.stack([y, saturation * i, saturation * q]))
    for band, value in zip(rgb, color, strict=True):
        pixel[band] = value
    return brightness * (gray + contrast * (pixel - gray))


@pytest.mark.parametrize("rgb", [(3, 1, 5), (0, 1, 2), (2, 1, 0)])
def test_six_bands_agree_with_a_loop_over_pixels(rgb):
    image = 0.4 + 0.2 * torch.rand(2, 6, 3, 4, generator=torch.Generator().manual_seed(2))
    settings = {"brightness": 1.1, "contrast": 0.8, "saturation": 1.4, "hue": 0.15}
    expected = torch.empty_like(image)
    for sample in range(2):
        gray = image[sample].double().mean(dim=(1, 2))
        gray[list(rgb)] = sum(weight * gray[band] for weight, band in zip((0.299, 0.587, 0.114), rgb, strict=True))
        for row, column in itertools.product(range(3), range(4)):
            pixel = image[sample, :, row, column].double()
            expected[sample, :, row, column] = slow_change(pixel, gray, rgb, **settings).float()
    torch.testing.assert_close(changed(image, rgb, **settings), expected, atol=2e-3, rtol=0)
    others = [band for band in range(6) if band not in rgb]
    turned = changed(image, rgb, saturation=0.2, hue=0.4)
    torch.testing.assert_close(turned[:, others], image[:, others])
    assert (turned[:, list(rgb)] - image[:, list(rgb)]).abs().max() > 0.02


def test_band_means_leave_out_what_is_not_valid():
    image, valid = torch.rand(3, 2, 4, 5), torch.rand(3, 1, 4, 5) > 0.4
    valid[2] = False
    expected = torch.zeros(3, 2)
    for sample, band in itertools.product(range(2), range(2)):
        values = [
            float(image[sample, band, row, column])
            for row, column in itertools.product(range(4), range(5))
            if valid[sample, 0, row, column]
        ]
        expected[sample, band] = sum(values) / len(values)
    torch.testing.assert_close(band_means(image, valid), expected)
    assert torch.equal(band_means(image, None), image.mean(dim=(-2, -1)))


def test_colors_are_clamped():
    image = torch.tensor([0.9, 0.5, 0.05]).view(1, 3, 1, 1)
    result = changed(image, brightness=1.5, saturation=3.0)
    assert result.min() == 0
    assert result.max() == 1


def jitter(**settings):
    change = ColorJitter(**settings).draw(Draws(0, 0, "view", Rows(0, 2000, 2000)))
    return color_matrix(torch.full((2000, 3), 0.5), *change, RGB)


def test_jitter_draws_brightness_over_its_range():
    gain = jitter(brightness=(0.7, 1.3))[:, 0, 0]
    assert 0.7 <= gain.min() < 0.71
    assert 1.29 < gain.max() <= 1.3
    assert gain.mean() == pytest.approx(1.0, abs=0.01)


def test_jitter_adds_its_offset_to_every_band_where_it_changes_anything():
    added = jitter(brightness_offset=(-0.4, 0.4), probability=0.75)[:, :, 3]
    assert (added == added[:, :1]).all()
    changed = added[:, 0] != 0
    assert changed.float().mean() == pytest.approx(0.75, abs=0.03)
    assert -0.4 <= added.min() < -0.39
    assert 0.39 < added.max() <= 0.4
    assert added[changed].mean() == pytest.approx(0, abs=0.02)
    still = jitter(brightness=(0.7, 1.3), brightness_offset=(0.0, 0.0))
    torch.testing.assert_close(still, jitter(brightness=(0.7, 1.3)), rtol=0, atol=0)


def test_jitter_draws_grayscale_with_its_probability():
    matrix = jitter(grayscale=0.3)
    is_gray = (matrix[:, 0] - matrix[:, 1]).abs().amax(dim=1) < 1e-5
    assert is_gray.float().mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_jitter_of_bands_without_color_leaves_color_alone(bands):
    jitter = ColorJitter(saturation=(0.0, 0.0), hue=(0.3, 0.3), grayscale=1.0)
    change = jitter.draw(Draws(0, 0, "view", Rows(0, 2, 2)))
    matrix = color_matrix(torch.full((2, bands), 0.5), *change, None)
    torch.testing.assert_close(matrix, torch.eye(bands, bands + 1).expand(2, bands, bands + 1))


def test_jitter_of_grayscale_makes_the_color_bands_alike_and_leaves_the_others():
    change = ColorJitter(grayscale=1.0).draw(Draws(0, 0, "view", Rows(0, 2, 2)))
    matrix = color_matrix(torch.full((2, 5), 0.5), *change, (4, 0, 2))
    changed = recolor(image := torch.rand(2, 5, 3, 3), matrix)
    gray = kornia.color.rgb_to_grayscale(image[:, [4, 0, 2]])
    torch.testing.assert_close(changed[:, [4, 0, 2]], gray.expand(2, 3, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(changed[:, [1, 3]], image[:, [1, 3]])


@pytest.mark.parametrize(
    "settings",
    [
        {"hue": (-0.6, 0.1)},
        {"contrast": (1.5, 0.5)},
        {"brightness": (-0.1, 1)},
        {"saturation": (2, 1)},
        {"brightness_offset": (-1.1, 0)},
    ],
)
def test_jitter_refuses_ranges_without_a_meaning(settings):
    with pytest.raises(InputError, match=rf"^{next(iter(settings))}"):
        ColorJitter(**settings)
