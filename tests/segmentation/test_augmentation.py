import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.segmentation.augmentation import SegmentationAugmentation
from ssl_rs.views.fused import ColorJitter

IGNORE = 255
JITTER = ColorJitter((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), (-0.1, 0.1))


def draws(count, start=0, stop=None, step=0):
    return Draws(5, step, "augmentation", Rows(start, count if stop is None else stop, count))


def marked(batch, size=16):
    """Masks of big squares with classes 0 to 3; the image shows the class as its value."""
    coarse = torch.randint(0, 4, (batch, size // 4, size // 4), generator=torch.Generator().manual_seed(0))
    masks = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return (masks.float() / 4).unsqueeze(1).repeat(1, 3, 1, 1), masks


def test_flips_and_rotations_move_image_and_mask_exactly_and_together():
    images, masks = marked(64)
    masks[0, 0, 0] = IGNORE
    images[0, :, 0, 0] = 0.9
    augment = SegmentationAugmentation(0.5, 0.5, 0.5, (1.0, 1.0), ColorJitter())
    moved, moved_masks = augment(images, masks, draws(64), IGNORE)
    labeled = moved_masks != IGNORE
    torch.testing.assert_close(moved[:, 0][labeled] * 4, moved_masks[labeled].float())
    assert moved[0, 0][~labeled[0]].tolist() == pytest.approx([0.9])
    assert torch.equal(moved_masks.flatten(1).sort().values, masks.flatten(1).sort().values)
    assert not torch.equal(moved_masks, masks)


def test_certain_flip_by_hand():
    images, masks = marked(2)
    augment = SegmentationAugmentation(1.0, 0.0, 0.0, (1.0, 1.0), ColorJitter())
    moved, moved_masks = augment(images, masks, draws(2), IGNORE)
    torch.testing.assert_close(moved, images.flip(-1))
    assert torch.equal(moved_masks, masks.flip(-1))


def test_scaling_keeps_image_and_mask_together():
    images, masks = marked(64)
    augment = SegmentationAugmentation(0.5, 0.5, 0.5, (0.7, 1.4), ColorJitter())
    moved, moved_masks = augment(images, masks, draws(64), IGNORE)
    inside = moved_masks != IGNORE
    error = (moved[:, 0] * 4 - moved_masks)[inside].abs()
    assert (error < 0.01).float().mean() > 0.5  # elsewhere bilinear meets a border of classes
    assert moved_masks.unique().tolist() == [0, 1, 2, 3, IGNORE]


def test_shrinking_by_two_shows_the_image_in_the_middle_and_ignores_the_rest():
    images, masks = marked(1, size=8)
    augment = SegmentationAugmentation(0.0, 0.0, 0.0, (0.5, 0.5), ColorJitter())
    moved, moved_masks = augment(images, masks, draws(1), ignore_index=9)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    assert torch.equal(moved_masks[0] != 9, inside)
    assert torch.equal(moved_masks[0, 2:6, 2:6], masks[0, ::2, ::2])
    torch.testing.assert_close(moved[0, :, 2:6, 2:6], images[0, :, ::2, ::2])


def test_magnifying_shows_the_center_and_ignores_nothing():
    images, masks = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)
    masks[0, 3:5, 3:5] = 1
    augment = SegmentationAugmentation(0.0, 0.0, 0.0, (2.0, 2.0), ColorJitter())
    moved_masks = augment(images, masks, draws(1), IGNORE)[1]
    assert moved_masks[0].nonzero().aminmax().max == 5
    assert moved_masks.sum() == 16


def test_colors_change_only_the_image():
    images, masks = marked(8)
    augment = SegmentationAugmentation(0.0, 0.0, 0.0, (1.0, 1.0), JITTER)
    moved, moved_masks = augment(images, masks, draws(8), IGNORE)
    assert torch.equal(moved_masks, masks)
    assert (moved != images).flatten(1).any(dim=1).all()
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.75, 1.25)])
def test_pixels_without_data_are_black_and_have_no_part_in_others(scale):
    images = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(8, 12, 12, dtype=torch.int64)
    valid = torch.ones(8, 1, 12, 12, dtype=torch.bool)
    valid[:, :, :, :5] = False
    augment = SegmentationAugmentation(0.5, 0.5, 0.5, scale, JITTER)
    still = SegmentationAugmentation(0.5, 0.5, 0.5, scale, ColorJitter())
    found = []
    for hidden in (0.0, 1.0):  # whatever stands where no data is
        given = torch.where(valid, images, hidden)
        moved, _ = augment(given, masks, draws(8), IGNORE, valid=valid)
        found.append(moved)
    plain, _ = still(images, masks, draws(8), IGNORE, valid=valid)
    assert torch.equal(*found)
    black = (plain == 0).all(dim=1, keepdim=True)
    assert 0.2 < black.float().mean() < 0.6
    assert not moved.masked_select(black).any()
    assert (moved != plain).masked_select(~black).float().mean() > 0.9


def test_half_of_the_rows_are_half_of_the_whole():
    images, masks = marked(8)
    augment = SegmentationAugmentation(0.5, 0.5, 0.5, (0.75, 1.25), JITTER)
    whole = augment(images, masks, draws(8), IGNORE)
    first = augment(images[:4], masks[:4], draws(8, 0, 4), IGNORE)
    second = augment(images[4:], masks[4:], draws(8, 4, 8), IGNORE)
    for all_rows, *halves in zip(whole, first, second, strict=True):
        torch.testing.assert_close(all_rows, torch.cat(halves))


def test_a_scale_without_a_meaning_is_refused():
    with pytest.raises(InputError, match=r"^scale="):
        SegmentationAugmentation(0.5, 0.5, 0.5, (0.0, 1.0), JITTER)


def test_saturation_and_hue_change_the_colors_alone():
    augment = SegmentationAugmentation(0.0, 0.0, 0.0, (1.0, 1.0), ColorJitter(saturation=(0.2, 0.4), hue=(0.2, 0.3)))
    images = 0.4 + 0.2 * torch.rand(4, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(4, 8, 8, dtype=torch.int64)
    colored = augment(images, masks, draws(4), IGNORE, (4, 0, 2))[0]
    torch.testing.assert_close(colored[:, [1, 3]], images[:, [1, 3]])
    assert (colored[:, [4, 0, 2]] - images[:, [4, 0, 2]]).abs().amax(dim=(0, 2, 3)).min() > 0.01
    torch.testing.assert_close(augment(images, masks, draws(4), IGNORE)[0], images)
