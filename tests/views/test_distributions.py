"""The fused views are as random as the chains that they replace: the same moments, from thousands of draws of both."""

import itertools

import kornia.augmentation as K
import pytest
import torch

from ssl_rs.benchmarks.augmentation import COLOR, SIDE, fused, kornia_chain
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.base import crop_view
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.corrupted import CorruptedMaker
from ssl_rs.views.fused import TRANSFORMS, ColorJitter, color_matrix
from ssl_rs.views.transformed import TransformedMaker

RGB = (0, 1, 2)
COUNT = 16_384
ERRORS = 4.5  # standard errors that a true distribution exceeds once in 150,000 comparisons


def draws(count=COUNT):
    return Draws(5, 0, "view", Rows(0, count, count))


def crops(count=COUNT, size=2):
    return crop_view(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)), RGB)


def assert_same_moments(ours, theirs):
    """Mean, variance and third central moment of two samples [n], [m] agree within their standard errors."""
    ours, theirs = ours.double(), theirs.double()
    for power in (1, 2, 3):
        left, right = (values if power == 1 else (values - values.mean()) ** power for values in (ours, theirs))
        error = (left.var() / len(left) + right.var() / len(right)).sqrt()
        assert abs(left.mean() - right.mean()) < ERRORS * error, power


def assert_share(hits, probability):
    error = (probability * (1 - probability) / len(hits)) ** 0.5
    assert abs(hits.double().mean() - probability) < ERRORS * error


@pytest.mark.parametrize("factor", ["brightness", "contrast", "saturation", "hue"])
def test_color_factors_are_drawn_as_kornias(factor):
    jitter = ColorJitter(**{factor: getattr(COLOR, factor)})
    matrix = color_matrix(torch.full((COUNT, 3), 0.5), *jitter.draw(draws()), RGB)[:, :, :3]  # [B, 3, 3]
    trace = torch.diagonal(matrix, dim1=1, dim2=2).sum(dim=1)
    ours = {
        "brightness": trace / 3,
        "contrast": matrix.sum(dim=2)[:, 0],  # of a gray pixel; what it moves about is in the last column
        "saturation": (trace - 1) / 2,  # gray stays, the plane of colors is scaled
        "hue": (trace - 1) / 2,  # gray stays, the plane of colors turns: the cosine of the angle
    }[factor]
    # kornia takes probabilities from torch's global generator.
    torch.manual_seed(0)
    theirs = K.ColorJitter(**{factor: getattr(COLOR, factor)}, p=1.0).generate_parameters(torch.Size((COUNT, 3, 2, 2)))
    expected = theirs[f"{factor}_factor"]
    assert_same_moments(ours, torch.cos(2 * torch.pi * expected) if factor == "hue" else expected)


def test_the_factors_are_independent():
    jitter = ColorJitter(brightness=COLOR.brightness, saturation=COLOR.saturation, hue=COLOR.hue)
    matrix = color_matrix(torch.full((COUNT, 3), 0.5), *jitter.draw(draws()), RGB)[:, :, :3]
    brightness = matrix[:, 0].sum(dim=1)  # of a gray pixel
    colors = matrix / brightness.view(-1, 1, 1)
    saturation = torch.linalg.det(colors).sqrt()
    cosine = (torch.diagonal(colors, dim1=1, dim2=2).sum(dim=1) - 1) / 2 / saturation
    together = torch.corrcoef(torch.stack([brightness, saturation, cosine]))
    assert (together - torch.eye(3)).abs().max() < ERRORS / COUNT**0.5


def test_grayscale_comes_as_often_as_asked():
    matrix = color_matrix(torch.full((COUNT, 3), 0.5), *ColorJitter(grayscale=0.3).draw(draws()), RGB)
    assert_share((matrix[:, 0] - matrix[:, 1]).abs().amax(dim=1) < 1e-5, 0.3)


def test_flips_and_turns_of_the_clean_view_come_as_often_as_asked():
    crop = crops()
    made = CleanMaker("crop", 0.5, 0.2, 0.6)(crop, draws()).image
    shares = dict.fromkeys(itertools.product(range(4), (False, True)), 0.0)  # turns after a horizontal flip or none
    for horizontal, vertical, turns in itertools.product((False, True), (False, True), range(4)):
        probability = 0.5 * (0.2 if vertical else 0.8) * (0.4 if turns == 0 else 0.6 / 3)
        # A vertical flip is a horizontal one and half a turn.
        shares[(turns + 2 * vertical) % 4, horizontal != vertical] += probability
    for (turns, flipped), share in shares.items():
        wanted = torch.rot90(crop.image.flip(-1) if flipped else crop.image, turns, (-2, -1))
        assert_share((made == wanted).flatten(1).all(dim=1), share)


def test_transforms_and_parts_of_the_transformed_view_are_uniform():
    view = TransformedMaker("crop", SIDE, ColorJitter())(crops(), draws())
    for transform in range(len(TRANSFORMS)):
        assert_share(view.transform == transform, 1 / len(TRANSFORMS))
    linear, offset = view.geometry[:, :, :2], view.geometry[:, :, 2]
    side = torch.linalg.det(linear).abs().sqrt()
    uniform = torch.rand(COUNT, generator=torch.Generator().manual_seed(1))
    assert_same_moments(side, SIDE[0] + (SIDE[1] - SIDE[0]) * uniform)
    for axis in (0, 1):
        assert_same_moments(offset[:, axis] / (1 - side), 2 * uniform - 1)


def test_blocks_of_the_corrupted_view_are_uniform():
    blocks = CorruptedMaker("crop", 1, (0.2, 0.34), ColorJitter())._draw_blocks(draws(), 340, 1000, 1000)
    uniform = torch.rand(COUNT, generator=torch.Generator().manual_seed(1))
    assert_same_moments(blocks.side, (1000 * (0.2 + 0.14 * uniform)).long())
    for start in (blocks.top, blocks.left):
        assert_same_moments((start + 0.5) / (1001 - blocks.side), uniform)


def test_pixels_of_the_transformed_view_have_the_moments_of_kornias_chain():
    # kornia draws the order of its four changes and the part by area, and turns hue in HSV: hence a tolerance.
    images = 0.3 + 0.4 * torch.rand(2048, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    ours, theirs = fused(images)(), kornia_chain(images)()
    for moment in (lambda view: view.mean(), lambda view: view.mean(dim=(1, 2, 3)).std(), lambda view: view.std()):
        assert float(moment(ours)) == pytest.approx(float(moment(theirs)), rel=0.06)
