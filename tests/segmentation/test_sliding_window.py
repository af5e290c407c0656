import math

import numpy as np
import pytest
import torch

from ssl_rs.errors import InputError
from ssl_rs.segmentation.sliding_window import (
    LARGEST_SIDE,
    WindowSettings,
    blended_strips,
    most_probable,
    predict_scene,
    read_windows,
    window_starts,
)

CPU = torch.device("cpu")
SHAPES = [(1, 1), (1, 9), (3, 5), (8, 8), (13, 8), (17, 31), (40, 23)]
OVERLAPS = [0.0, 0.3, 0.5, 0.9]


def positional(images):
    """Logits of 3 classes that depend on the content and on the place within the window."""
    size = images.shape[-1]
    ramp = torch.linspace(-2, 2, size) if size > 1 else torch.zeros(1)
    values = images.sum(dim=1)
    return torch.stack([values * 3 + ramp, values * 5 + ramp[:, None], 4 - values * 2 + ramp * ramp[:, None]], dim=1)


def pixelwise(images):
    """Logits that depend on the pixel alone: blending changes nothing."""
    values = images.sum(dim=1)
    return torch.stack([values, 2 * values - 1, 3 - values], dim=1)


def blended(predict, scene, scale, settings):
    result, next_row = [], 0
    for rows, probabilities in blended_strips(predict, scene, scale, settings, CPU):
        assert rows.start == next_row
        next_row = rows.stop
        result.append(probabilities)
    assert next_row == scene.shape[1]
    return torch.cat(result, dim=1).numpy()


def slow_blend(predict, scene, scale, settings):
    """One window at a time, one pixel at a time, in float64."""
    _, height, width = scene.shape
    size, stride = settings.size, max(1, int(settings.size * (1 - settings.overlap)))

    def starts(length):
        found = [0]
        while found[-1] + size < length:
            found.append(min(found[-1] + stride, length - size))
        return found

    def mirror(index, length):
        period = index % (2 * length)
        return period if period < length else 2 * length - 1 - period

    total, weights = np.zeros((3, height, width)), np.zeros((height, width))
    for top in starts(height):
        for left in starts(width):
            rows = [mirror(top + i, height) for i in range(size)]
            columns = [mirror(left + j, width) for j in range(size)]
            window = scene[:, rows][:, :, columns].astype(np.float32) / np.float32(scale)
            scores = predict(torch.from_numpy(window)[None])[0].double().numpy()
            for i in range(min(size, height - top)):
                for j in range(min(size, width - left)):
                    likely = np.exp(scores[:, i, j]) / np.exp(scores[:, i, j]).sum()
                    weight = math.sin(math.pi * (i + 0.5) / size) ** 2 * math.sin(math.pi * (j + 0.5) / size) ** 2
                    total[:, top + i, left + j] += weight * likely
                    weights[top + i, left + j] += weight
    assert weights.min() > 0
    return total / weights


def scene_of(shape, dtype=np.uint8, scale=255):
    return np.random.default_rng(0).integers(0, scale + 1, size=(2, *shape)).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_blending_equals_a_slow_loop_in_float64(shape, overlap):
    scene, settings = scene_of(shape), WindowSettings(8, overlap, batch_size=3)
    fast = blended(positional, scene, 255.0, settings)
    assert np.abs(fast - slow_blend(positional, scene, 255.0, settings)).max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_every_pixel_gets_the_class_of_its_own_content(shape, overlap):
    scene = scene_of(shape)
    truth = pixelwise(torch.from_numpy(scene)[None].float() / 255).argmax(dim=1)[0]
    classes = predict_scene(pixelwise, scene, 255.0, WindowSettings(8, overlap, 4), CPU)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, truth.numpy())


@pytest.mark.parametrize("shape", [(8, 8), (13, 8), (17, 31)])
def test_test_time_augmentation_equals_a_loop_over_flips_and_rotations(shape):
    scene, settings = scene_of(shape), WindowSettings(8, 0.5, 3, test_time_augmentation=True)

    def slow(images):
        """Logits of the mean probabilities, by numpy's flips and rotations."""
        found = []
        for turns in range(4):
            for flip in (lambda array: array, np.flipud):
                window = flip(np.rot90(images[0].numpy().transpose(1, 2, 0), turns)).copy()  # [S, S, C]
                scores = positional(torch.from_numpy(window.transpose(2, 0, 1))[None])[0].double().softmax(dim=0)
                found.append(np.rot90(flip(scores.numpy().transpose(1, 2, 0)), -turns))
        return torch.from_numpy(np.mean(found, axis=0).transpose(2, 0, 1).copy()).log()[None]

    expected = slow_blend(slow, scene, 255.0, settings)
    assert np.abs(blended(positional, scene, 255.0, settings) - expected).max() < 1e-5
    plain = blended(positional, scene, 255.0, WindowSettings(8, 0.5, 3))
    assert np.abs(plain - expected).max() > 0.01
    assert WindowSettings(8).identity == {"size": 8, "overlap": 0.5}
    assert WindowSettings(8, test_time_augmentation=True).identity["test_time_augmentation"] is True


def test_one_window_over_the_whole_scene_is_the_bare_network():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 5, padding=2).eval()
    scene = scene_of((16, 16))
    images = torch.from_numpy(scene)[None].float() / 255
    bare = network(images).softmax(dim=1)[0].detach().numpy()
    assert np.allclose(blended(network, scene, 255.0, WindowSettings(16, 0.5)), bare, atol=1e-6)


def test_windows_of_one_pixel_are_the_network_pixel_by_pixel():
    scene = scene_of((3, 4))
    settings = WindowSettings(1, 0.5, 2)
    assert (
        np.abs(blended(positional, scene, 255.0, settings) - slow_blend(positional, scene, 255.0, settings)).max()
        < 1e-6
    )


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 255), (np.uint16, 1023), (np.int16, 1023), (np.float32, 1)])
def test_memory_mapped_scenes_of_every_dtype_are_scaled(tmp_path, dtype, scale):
    scene = scene_of((9, 11), dtype, scale)
    np.save(tmp_path / "scene.npy", scene)
    mapped = np.load(tmp_path / "scene.npy", mmap_mode="r")
    seen = []

    def record(images):
        seen.append(images)
        return pixelwise(images)

    classes = predict_scene(record, mapped, float(scale), WindowSettings(8), CPU)
    assert all(images.dtype == torch.float32 and images.max() <= 1 for images in seen)
    assert np.array_equal(seen[0][0].numpy(), scene[:, :8, :8].astype(np.float32) / np.float32(scale))
    assert np.array_equal(
        classes, pixelwise(torch.from_numpy(scene.astype(np.float32) / scale)[None]).argmax(1)[0].numpy()
    )


def test_values_beyond_the_scale_are_clipped_as_in_training():
    seen = []

    def record(images):
        seen.append(images)
        return pixelwise(images)

    predict_scene(record, np.array([[[-5, 0, 50, 100, 300]]], dtype=np.float32), 100.0, WindowSettings(5), CPU)
    assert seen[0][0, 0, 0].tolist() == [0, 0, 0.5, 1, 1]


def test_batches_hold_at_most_batch_size_windows():
    sizes = []

    def record(images):
        sizes.append(len(images))
        return pixelwise(images)

    predict_scene(record, scene_of((8, 40)), 255.0, WindowSettings(8, 0.5, batch_size=4), CPU)
    assert sizes == [4, 4, 1]


def test_an_overconfident_window_does_not_outvote_the_others():
    """Probabilities are blended: a window whose logits are a thousand times larger weighs as much as any other."""
    scene = np.zeros((1, 4, 6), dtype=np.float32)
    scene[:, :, 5] = 1  # only the second window sees it

    def predict(images):
        sure = torch.tensor([0.0, 1e4]) if images.max() > 0 else torch.tensor([1.0, 0.0])
        return sure.view(1, 2, 1, 1).expand(len(images), 2, 4, 4)

    row = blended(predict, scene, 1.0, WindowSettings(4, 0.5, batch_size=1))[0, 0]  # class 0 along [6]
    alone = 1 / (1 + math.exp(-1))
    near, far = (
        math.sin(math.pi * 2.5 / 4) ** 2,
        math.sin(math.pi * 0.5 / 4) ** 2,
    )  # column 2 in the first and second window
    assert row[:2] == pytest.approx([alone] * 2)
    assert row[2] == pytest.approx(alone * near / (near + far))
    assert row[4:] == pytest.approx([0, 0])


def test_the_last_window_is_shifted_in_to_the_border():
    assert window_starts(20, WindowSettings(8, 0.0)) == [0, 8, 12]
    assert window_starts(16, WindowSettings(8, 0.0)) == [0, 8]
    assert window_starts(16, WindowSettings(8, 0.5)) == [0, 4, 8]
    assert window_starts(5, WindowSettings(8, 0.5)) == [0]


@pytest.mark.parametrize("arguments", [(0, 0.5, 1), (8, 1.0, 1), (8, -0.1, 1), (8, 0.5, 0)])
def test_settings_that_make_no_sense_are_refused(arguments):
    with pytest.raises(InputError, match=r"evaluation\.window"):
        WindowSettings(*arguments)


def test_a_window_may_be_as_large_as_the_limit_says():
    assert WindowSettings(LARGEST_SIDE).size == LARGEST_SIDE
    with pytest.raises(InputError, match=f"must be at most {LARGEST_SIDE} pixels"):
        WindowSettings(LARGEST_SIDE + 1)


def test_batches_are_full_but_for_the_last():
    seen = []

    def predict(images):
        seen.append(len(images))
        return pixelwise(images)

    scene = np.random.default_rng(0).random((1, 40, 40))
    settings = WindowSettings(16, 0.5, 7)
    list(blended_strips(predict, scene, 1.0, settings, CPU))
    assert seen == [7, 7, 2]  # 4 x 4 windows


def test_of_equally_probable_classes_the_first_is_taken():
    probabilities = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (6, 40, 50))).float()
    classes = most_probable(probabilities)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, probabilities.numpy().argmax(axis=0))


def test_what_a_small_scene_lacks_of_a_window_is_its_mirror_image():
    scene = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    (window,) = read_windows(scene, [(0, 0)], 5, 10.0, CPU)
    rows, columns = [0, 1, 1, 0, 0], [0, 1, 2, 2, 1]
    assert np.allclose(window.numpy(), scene[:, rows][:, :, columns] / 10)
