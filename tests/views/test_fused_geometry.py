import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.transform import homography_warp

from ssl_rs.errors import InputError
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.fused import TRANSFORMS, check_range, compose, crop_matrix, draw_dihedral, transform_matrix, undo_each
from ssl_rs.views.resampling import move, sampling_grid, warp, warp_known, warp_mask, warp_valid

ROT = (-2, -1)
# What each class does, in torch's own words.
REFERENCE = {
    "hflip": lambda image: image.flip(-1),
    "vflip": lambda image: image.flip(-2),
    "rot0": lambda image: image,
    "rot90": lambda image: torch.rot90(image, 1, ROT),
    "rot180": lambda image: torch.rot90(image, 2, ROT),
    "rot270": lambda image: torch.rot90(image, 3, ROT),
}
# Where the mark at row 0, column 1 of 4 x 4 pixels goes; rot90 turns the upper edge to the left.
MARK = {"hflip": (0, 2), "vflip": (3, 1), "rot0": (0, 1), "rot90": (2, 0), "rot180": (3, 2), "rot270": (1, 3)}


def classes(*names):
    return torch.tensor([TRANSFORMS.index(name) for name in names])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_marked_pixel_goes_where_the_class_says(name):
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 1] = 1
    matrix = transform_matrix(classes(name))
    for moved in (move(image, matrix), warp(image, matrix).round()):
        assert moved[0, 0].nonzero().tolist() == [list(MARK[name])]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.bool])
def test_move_is_exact_for_every_type_and_mixed_batches(dtype):
    image = torch.randint(0, 2**8, (6, 2, 5, 5)).to(dtype)
    moved = move(image, transform_matrix(torch.arange(6)))
    assert moved.dtype == dtype
    for index, name in enumerate(TRANSFORMS):
        assert torch.equal(moved[index], REFERENCE[name](image[index]))


def test_move_takes_masks_without_bands():
    masks = torch.arange(16).view(1, 4, 4)
    assert torch.equal(move(masks, transform_matrix(classes("rot90"))), torch.rot90(masks, 1, ROT))


def test_move_refuses_images_that_are_not_square():
    with pytest.raises(AssertionError, match="square"):
        move(torch.zeros(1, 1, 4, 6), transform_matrix(classes("rot90")))


def test_undo_each_has_the_order_of_the_classes():
    maps = torch.rand(1, 3, 4, 4)
    for index in range(len(TRANSFORMS)):
        undone = undo_each(move(maps, transform_matrix(torch.tensor([index]))))
        assert [torch.equal(candidate, maps) for candidate in undone] == [k == index for k in range(len(TRANSFORMS))]


def test_compose_applies_the_inner_map_first():
    outer, inner, point = torch.rand(3, 2, 3), torch.rand(3, 2, 3), torch.rand(3, 2, 1)

    def apply(matrix, value):
        return matrix[:, :, :2] @ value + matrix[:, :, 2:]

    torch.testing.assert_close(apply(compose(outer, inner), point), apply(outer, apply(inner, point)))


def test_composed_matrices_move_as_one_move_after_the_other():
    image = torch.rand(1, 1, 5, 5)
    first, second = transform_matrix(classes("hflip")), transform_matrix(classes("rot90"))
    # The later image's coordinates pass through the later matrix first.
    assert torch.equal(move(move(image, first), second), move(image, compose(first, second)))
    assert not torch.equal(move(image, compose(second, first)), move(image, compose(first, second)))


def test_draw_dihedral_reaches_all_eight_and_keeps_its_probabilities():
    matrix = draw_dihedral(Draws(0, 0, "view", Rows(0, 4000, 4000)), 0.5, 0.5, 0.5)
    _, counts = matrix.view(-1, 6).unique(dim=0, return_counts=True)
    assert len(counts) == 8
    turned = (matrix[:, 0, 0] == 0).float().mean()  # by 90 or 270 degrees: two of three rotations
    assert turned == pytest.approx(0.5 * 2 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("probabilities", "name"), [((0, 0, 0), "rot0"), ((1, 0, 0), "hflip"), ((0, 1, 0), "vflip"), ((1, 1, 0), "rot180")]
)
def test_draw_dihedral_of_certain_draws(probabilities, name):
    matrix = draw_dihedral(Draws(0, 0, "view", Rows(0, 3, 3)), *probabilities)
    assert torch.equal(matrix, transform_matrix(classes(name, name, name)))


def test_crop_matrix_enlarges_the_lower_right_quarter():
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2:, 2:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    matrix = crop_matrix(torch.tensor([0.5]), torch.tensor([[1.0, 1.0]]))
    corners = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]]).T
    torch.testing.assert_close(matrix[0] @ corners, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    enlarged = warp(image, matrix)[0, 0]
    torch.testing.assert_close(enlarged[3, 3], torch.tensor(4.0))
    torch.testing.assert_close(enlarged[1:3, 1:3].mean(), torch.tensor(2.5))


def test_crop_matrix_moves_x_along_columns():
    image = torch.arange(8.0).expand(8, 8)[None, None]  # grows from left to right
    left = warp(image, crop_matrix(torch.tensor([0.5]), torch.tensor([[-1.0, 0.0]])))
    right = warp(image, crop_matrix(torch.tensor([0.5]), torch.tensor([[1.0, 0.0]])))
    assert left.mean() == pytest.approx(1.5, abs=0.05)
    assert right.mean() == pytest.approx(5.5, abs=0.05)


def test_sampling_grid_is_torchs_affine_grid():
    matrix = torch.rand(3, 2, 3)
    torch.testing.assert_close(sampling_grid(matrix, 5, 7), F.affine_grid(matrix, (3, 1, 5, 7), align_corners=False))


def test_warp_agrees_with_kornia():
    image, matrix = torch.rand(3, 2, 9, 9), torch.eye(2, 3) + 0.3 * torch.rand(3, 2, 3)
    square = torch.cat([matrix, torch.tensor([0.0, 0.0, 1.0]).expand(3, 1, 3)], dim=1)
    expected = homography_warp(image, square, (9, 9), padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(warp(image, matrix), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fill", [0, 255, -100])
def test_warp_mask_takes_the_nearest_pixel_and_fills_the_outside(fill):
    mask = torch.randint(1, 200, (1, 4, 4))
    wide = crop_matrix(torch.tensor([2.0]), torch.zeros(1, 2))  # the image shrinks to the middle half
    expected = torch.full((1, 4, 4), fill)
    # The four middle pixels look at x, y = -0.5 and 0.5: the border between two pixels, where either is nearest.
    warped = warp_mask(mask, wide, fill)
    assert torch.equal(warped[0, 0], expected[0, 0])
    assert set(warped[0, 1:3, 1:3].flatten().tolist()) <= set(mask.flatten().tolist())
    near = crop_matrix(torch.tensor([0.9]), torch.zeros(1, 2))
    assert torch.equal(warp_mask(mask, near, fill), mask)


def test_warp_valid_takes_the_nearest_pixel_as_a_loop_does():
    valid = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    matrix = compose(
        transform_matrix(classes("rot90", "hflip")),
        crop_matrix(torch.tensor([0.8, 0.6]), torch.tensor([[0.1, -0.3], [0.9, 0.45]])),
    )
    warped = warp_valid(valid, matrix)
    assert warped.dtype == torch.bool
    for sample in range(2):
        for row, column in itertools.product(range(7), range(7)):
            here = torch.tensor([(2 * column + 1) / 7 - 1, (2 * row + 1) / 7 - 1, 1.0])
            x, y = ((matrix[sample] @ here + 1) * 7 / 2 - 0.5).round().int().clamp(0, 6).tolist()
            assert warped[sample, 0, row, column] == valid[sample, 0, y, x]


def test_warp_valid_mirrors_what_lies_outside():
    valid = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    # Twice the side, moved up and left: each second pixel, from outside of the image to outside of it.
    matrix = crop_matrix(torch.tensor([2.0]), torch.tensor([[0.9, 0.9]]))
    places = ((2 * torch.arange(4) + 1) / 4 - 1) * 2 - 0.9  # normalized
    pixels = ((places + 1) * 4 / 2 - 0.5).round().int().tolist()
    mirrored = [(place if place < 4 else 7 - place) if place >= 0 else -1 - place for place in pixels]
    assert min(pixels) < 0
    assert torch.equal(warp_valid(valid, matrix)[0, 0], valid[0, 0][mirrored][:, mirrored])


def test_pixels_without_data_lend_valid_ones_nothing():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(4, 2, 12, 12, generator=generator)
    valid = torch.rand(4, 1, 12, 12, generator=generator) > 0.3
    matrix = crop_matrix(
        torch.tensor([0.7, 0.9, 0.8, 1.3]), torch.tensor([[0.3, -0.2], [0.9, 0.1], [0.0, 0.5], [0, 0]])
    )
    garbage = torch.where(valid, image, 9.0)
    warped, where = warp_known(garbage, valid, matrix)
    assert torch.equal(where, warp_valid(valid, matrix))
    assert not warped.masked_select(~where).any()
    # Of the four pixels that a bilinear sample is made of, each valid one keeps its weight beside the other valid ones.
    for sample, row, column in itertools.product(range(4), range(12), range(12)):
        if not where[sample, 0, row, column]:
            continue
        here = torch.tensor([(2 * column + 1) / 12 - 1, (2 * row + 1) / 12 - 1, 1.0])
        x, y = ((matrix[sample] @ here + 1) * 12 / 2 - 0.5).tolist()
        total, weights = torch.zeros(2), 0.0
        for left, top in itertools.product((math.floor(x), math.floor(x) + 1), (math.floor(y), math.floor(y) + 1)):
            near = [min(-1 - place if place < 0 else place, 23 - place) for place in (top, left)]  # mirrored
            weight = (1 - abs(x - left)) * (1 - abs(y - top)) * float(valid[sample, 0, near[0], near[1]])
            total, weights = total + weight * image[sample, :, near[0], near[1]], weights + weight
        torch.testing.assert_close(warped[sample, :, row, column], total / weights, atol=1e-4, rtol=0)


def test_without_pixels_that_lack_data_nothing_changes():
    image, matrix = torch.rand(2, 3, 8, 8), crop_matrix(torch.tensor([0.7, 1.2]), torch.zeros(2, 2))
    warped, valid = warp_known(image, None, matrix)
    assert valid is None
    assert torch.equal(warped, warp(image, matrix))


def test_mask_and_image_warp_to_the_same_place():
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    mask[0, 4:10, 5:13] = 1
    matrix = compose(transform_matrix(classes("rot270")), crop_matrix(torch.tensor([0.7]), torch.tensor([[0.2, -0.4]])))
    image = warp(mask[:, None].float(), matrix)[:, 0]
    moved = warp_mask(mask, matrix, fill=255)
    assert torch.equal(moved[image > 0.999].unique(), torch.tensor([1]))
    assert torch.equal(moved[image < 0.001].unique(), torch.tensor([0]))
    assert (image > 0.999).sum() > 20


@pytest.mark.parametrize("values", [(0.5, 0.2), (-0.1, 0.5), (0.5, 1.2), (math.nan, 1.0), (0.5,)])
def test_check_range_names_the_argument(values):
    with pytest.raises(InputError, match=r"^side="):
        check_range("side", values, 0, 1)
