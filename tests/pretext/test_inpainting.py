import dataclasses
import functools

import pytest
import torch
from torch import nn

from ssl_rs.errors import InputError
from ssl_rs.pretext import inpainting
from ssl_rs.pretext.decoder import AdditiveDecoder
from ssl_rs.pretext.inpainting import Inpainting, weighted_error
from ssl_rs.views.base import CorruptedView, crop_view


class Painter(nn.Module):
    """Paints one value everywhere."""

    def __init__(self, channels, out_channels, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.out_channels = out_channels

    def forward(self, pyramid):
        return self.value.expand(len(pyramid[0]), self.out_channels, *pyramid[0].shape[-2:])


def corrupted_view(clean, image):
    return CorruptedView(image, crop_view(image).geometry, clean, (clean - image).abs())


def test_error_by_hand():
    # Weights 0.5 and 0.1; painting 0.4 misses 0.4 and 0: (0.5 * 0.4 + 0.1 * 0) / 0.6. Unrepaired: (0.25 + 0.01) / 0.6.
    clean = torch.tensor([0.0, 0.4, 0.7, 0.2]).view(1, 1, 2, 2)
    image = torch.tensor([0.5, 0.5, 0.7, 0.2]).view(1, 1, 2, 2)
    task = Inpainting(channels=[1], bands=1, decoder=functools.partial(Painter, value=0.4))
    output = task({"corrupted": corrupted_view(clean, image)}, {"corrupted": [image]})
    assert output.loss.item() == pytest.approx(0.2 / 0.6)
    assert output.metrics["error"].item() == pytest.approx(0.2 / 0.6)
    assert output.metrics["unrepaired_error"].item() == pytest.approx(0.26 / 0.6)
    output.loss.backward()
    assert task.decoder.value.grad.item() == pytest.approx(0.5 / 0.6)  # of the tie at 0.4, torch takes the slope 0


def test_a_perfect_repair_costs_nothing_and_an_untouched_image_is_no_division_by_zero():
    clean = torch.full((2, 3, 4, 4), 0.4)
    task = Inpainting(channels=[3], bands=3, decoder=functools.partial(Painter, value=0.4))
    for image in (torch.rand(2, 3, 4, 4), clean):
        assert task({"corrupted": corrupted_view(clean, image)}, {"corrupted": [image]}).loss == 0


def test_the_mean_of_ranks_is_the_error_of_the_whole_batch(monkeypatch):
    image, target, weight = (torch.rand(4, 3, 5, 5) for _ in range(3))
    weight[2:] *= 10  # the ranks have unequal sums
    whole = weighted_error(image, target, weight)
    monkeypatch.setattr(inpainting, "mean_over_ranks", lambda count: weight.sum() / 2)
    halves = [weighted_error(image[rows], target[rows], weight[rows]) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_a_view_without_corruption_is_refused():
    task = Inpainting(channels=[3, 8], bands=3, decoder=functools.partial(AdditiveDecoder, widths=[4]))
    with pytest.raises(InputError, match=r"views\.corrupted makes a View.*CorruptedView"):
        task(
            {"corrupted": crop_view(torch.rand(1, 3, 4, 4))},
            {"corrupted": [torch.rand(1, 3, 4, 4), torch.rand(1, 8, 2, 2)]},
        )


def pyramid(channels, size=32):
    return [torch.rand(2, count, size // 2**level, size // 2**level) for level, count in enumerate(channels)]


@pytest.mark.parametrize("channels", [(3, 8, 16, 24, 32, 40), (8, 16, 24, 32, 40, 40), (3, 0, 16, 24, 32, 40)])
@pytest.mark.parametrize("widths", [(32, 24, 16, 8, 8), (12, 8), (4, 4, 4, 4)])
@pytest.mark.parametrize("reduction", [None, 6])
def test_decoder_climbs_any_pyramid(channels, widths, reduction):
    decoder = AdditiveDecoder(channels, 5, widths, reduction)
    features = pyramid(channels)
    assert decoder(features).shape == (2, 5, 32, 32)
    decoder(features).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in decoder.named_parameters())


def test_decoder_adds_the_encoders_maps():
    features = pyramid((3, 8, 16, 24))
    decoder = AdditiveDecoder((3, 8, 16, 24), 1, (16, 8)).eval()
    before = decoder(features)
    for level, reads in ((0, False), (1, True), (2, True), (3, True)):
        changed = [feature + (index == level) for index, feature in enumerate(features)]
        assert torch.equal(decoder(changed), before) != reads


def test_decoder_of_the_encoders_widths_adds_without_a_convolution():
    decoder = AdditiveDecoder((3, 8, 16, 24), 1, (16, 8, 4))
    assert not any("lateral" in name for name, _ in decoder.named_parameters())


def test_decoder_reads_sizes_that_do_not_halve():
    features = [torch.rand(2, count, size, size) for count, size in ((3, 21), (8, 11), (16, 6), (24, 3))]
    assert AdditiveDecoder((3, 8, 16, 24), 3, (8, 8, 8))(features).shape == (2, 3, 21, 21)


@pytest.mark.parametrize("widths", [(), (8, 8, 8, 8)])
def test_decoder_refuses_more_stages_than_levels(widths):
    with pytest.raises(InputError, match=r"decoder\.widths"):
        AdditiveDecoder((3, 8, 16, 24), 3, widths)


class FreePainter(nn.Module):
    """Paints what it holds."""

    def __init__(self, channels, out_channels):
        super().__init__()
        self.canvas = nn.Parameter(torch.rand(2, out_channels, 4, 4))

    def forward(self, pyramid):
        return self.canvas


def test_pixels_without_data_have_no_gradient_and_do_not_count():
    clean, image = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    valid = torch.rand(2, 1, 4, 4) > 0.4
    task = Inpainting(channels=[3], bands=3, decoder=FreePainter)
    masked = dataclasses.replace(corrupted_view(clean, image), valid=valid)
    output = task({"corrupted": masked}, {"corrupted": [image]})
    output.loss.backward()
    assert torch.equal(task.decoder.canvas.grad.abs().sum(dim=1, keepdim=True) > 0, valid)
    everywhere = valid.expand(2, 3, 4, 4)
    weight = (clean - image).abs()[everywhere]
    expected = (weight * (task.decoder.canvas - clean).abs()[everywhere]).sum() / weight.sum()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.metrics["unrepaired_error"], weight.square().sum() / weight.sum())


def test_where_nothing_is_valid_nothing_is_lost():
    clean, image = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    task = Inpainting(channels=[3], bands=3, decoder=FreePainter)
    masked = dataclasses.replace(corrupted_view(clean, image), valid=torch.zeros(2, 1, 4, 4, dtype=torch.bool))
    loss = task({"corrupted": masked}, {"corrupted": [image]}).loss
    assert loss == 0
    (1000 * loss).backward()  # a weight of the task: beyond 4, divided by the least number, it would be infinite
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in task.parameters())


def test_a_decoder_reduced_to_nothing_is_refused():
    with pytest.raises(InputError, match=r"decoder\.reduction=0: expected at least 1 channel"):
        AdditiveDecoder((3, 8, 16), 5, (4,), 0)
