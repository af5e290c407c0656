"""Class maps of whole scenes by overlapping windows whose probabilities are blended."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_rs.errors import InputError
from ssl_rs.transfer import to_device

KEPT_TYPES = (np.uint8, np.int16, np.int32, np.float32)
"""Types of scenes that reach the device as they are."""

LARGEST_SIDE = 2**14
"""Pixels of a window's side: no device holds what a network makes of a larger one."""


@dataclass(frozen=True)
class WindowSettings:
    """How a scene is cut.

    Args:
        size: Side of the square windows, pixels; a multiple of what the network needs.
        overlap: Share of its side that a window shares at least with the next, in [0, 1).
        batch_size: Windows that are predicted at once.
        test_time_augmentation: Whether the probabilities of a window are the mean over its eight flips and rotations:
            images from above have no upper side. Takes eight times as long.
    """

    size: int
    overlap: float = 0.5
    batch_size: int = 16
    test_time_augmentation: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.batch_size < 1:
            raise InputError(
                f"evaluation.window: size and batch_size must be at least 1, got {self.size} and {self.batch_size}."
            )
        if self.size > LARGEST_SIDE:
            raise InputError(f"evaluation.window.size={self.size} must be at most {LARGEST_SIDE} pixels.")
        if not 0 <= self.overlap < 1:
            raise InputError(f"evaluation.window.overlap={self.overlap} must lie in [0, 1), e.g. 0.5.")

    @property
    def identity(self) -> dict[str, float]:
        """What of it can change a result, for a hash; nothing is said of a setting that came later and is off."""
        later = {"test_time_augmentation": True} if self.test_time_augmentation else {}
        return {"size": self.size, "overlap": self.overlap, **later}


@torch.no_grad()
def predict_scene(
    predict: Callable[[Tensor], Tensor],
    scene: np.ndarray,
    value_scale: float,
    settings: WindowSettings,
    device: torch.device,
) -> np.ndarray:
    """Give every pixel of a scene its most probable class.

    Args:
        predict: Maps images [B, C, S, S] in [0, 1] on the device to logits [B, K, S, S], K <= 256.
        scene: [C, H, W] of any real dtype, e.g. memory-mapped; read window by window.
        value_scale: What the scene's values are divided by to lie in [0, 1]; brighter ones are clipped, as in training.
        settings: How the scene is cut.
        device: Where windows are predicted and blended.

    Returns:
        uint8 [H, W].
    """
    classes = np.empty(scene.shape[1:], dtype=np.uint8)
    for rows, probabilities in blended_strips(predict, scene, value_scale, settings, device):
        classes[rows] = most_probable(probabilities)
    return classes


def most_probable(probabilities: Tensor) -> np.ndarray:
    """Return the class, uint8 [h, W], of the greatest of probabilities [K, h, W]; the first of equal ones."""
    # On a CPU, max takes a tenth of argmax's time over a dimension that is not the innermost.
    return probabilities.max(dim=0).indices.to(torch.uint8).cpu().numpy()


@torch.no_grad()
def blended_strips(
    predict: Callable[[Tensor], Tensor],
    scene: np.ndarray,
    value_scale: float,
    settings: WindowSettings,
    device: torch.device,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield strips of rows from top to bottom, which together cover the scene once.

    Each pixel's probabilities are the mean over the windows that see it, weighted by a Hann window: borders, where a
    network sees half the context, count least. Probabilities, not logits, so that no window outvotes the others by its
    scale. Batches go on from one row of windows to the next. Memory is that of a batch of windows, and of the rows that
    it touches, [K, S, W] each, whatever the height of the scene.
    Source: Pielawski & Wählby, "Introducing Hann windows for reducing edge-effects in patch-based image segmentation",
    PLoS ONE 15(3), 2020. Theirs sum to 1 at 50 % overlap; here the sum is divided out, for any overlap.

    Args:
        predict: As in `predict_scene`.
        scene: As in `predict_scene`.
        value_scale: As in `predict_scene`.
        settings: As in `predict_scene`.
        device: As in `predict_scene`.

    Yields:
        The rows, and their probabilities float32 [K, h, W].
    """
    _, height, width = scene.shape
    size = settings.size
    weight = _hann(size).to(device)  # [S, S]
    tops, lefts = window_starts(height, settings), window_starts(width, settings)
    windows = _predicted(predict, scene, value_scale, [(top, left) for top in tops for left in lefts], settings, device)
    total: Tensor | None = None  # [K, S, W or S]: weighted probabilities of the rows from `top` on
    across = torch.zeros(size, max(width, size), device=device)  # the weights of one row of windows
    for left in lefts:
        across[:, left : left + size] += weight
    weights = torch.zeros_like(across)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left, one in zip(lefts, windows, strict=False):  # the next row of windows goes on where this one ends
            if total is None:
                total = torch.zeros(len(one), *weights.shape, device=device)
            total[:, :, left : left + size].addcmul_(weight, one)
        weights += across
        done = following - top
        assert total is not None
        yield slice(top, following), total[:, :done, :width] / weights[:done, :width]
        total, weights = (F.pad(values[..., done:, :], (0, 0, 0, done)) for values in (total, weights))


def _predicted(
    predict: Callable[[Tensor], Tensor], scene: np.ndarray, value_scale: float, corners: Sequence[tuple[int, int]],
    settings: WindowSettings, device: torch.device,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the probabilities [K, S, S] of the windows with these upper left corners, predicted in whole batches."""
    for first in range(0, len(corners), settings.batch_size):
        batch = corners[first : first + settings.batch_size]
        images = read_windows(scene, batch, settings.size, value_scale, device)
        if settings.test_time_augmentation:
            yield from mean_over_turns(predict, images)
        else:
            yield from predict(images).float().softmax(dim=1)


def mean_over_turns(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the mean probabilities [B, K, S, S] over the eight flips and rotations of images [B, C, S, S].

    Args:
        predict: Maps images to logits [B, K, S, S].
        images: In [0, 1].
    """
    total: Tensor | float = 0.0
    for flipped in (False, True):
        for turns in range(4):
            turned = images.rot90(turns, (-2, -1))
            found = predict(turned.flip(-1) if flipped else turned).float().softmax(dim=1)
            total = total + (found.flip(-1) if flipped else found).rot90(-turns, (-2, -1))
    return total / 8  # type: ignore[return-value]


def window_starts(length: int, settings: WindowSettings) -> list[int]:
    """Return where windows start along one side of a scene; the last is shifted in to end at the border.

    Args:
        length: Pixels of the side; where it is at most the window's, one window starts at 0.
        settings: How the scene is cut.
    """
    stride = max(1, math.floor(settings.size * (1 - settings.overlap)))
    last = max(0, length - settings.size)
    return [*range(0, last, stride), last]


def _hann(size: int) -> Tensor:
    """Return the separable weight [S, S] of a window, in (0, 1]: positive up to the border pixels."""
    positions = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    side = torch.sin(math.pi * positions).square()
    return torch.outer(side, side).float()


def read_windows(
    scene: np.ndarray, corners: Sequence[tuple[int, int]], size: int, value_scale: float, device: torch.device
) -> Tensor:
    """Read windows as float32 [b, C, S, S] in [0, 1]; what lies beyond a scene smaller than one is its mirror image.

    Args:
        scene: [C, H, W].
        corners: The first row and column of each.
        size: Their side.
        value_scale: The value that becomes 1; brighter ones are clipped.
        device: Where they are to lie; they go there as they are stored, where torch has their type.
    """
    windows = np.stack([scene[:, top : top + size, left : left + size] for top, left in corners])
    missing = [(0, size - side) for side in windows.shape[2:]]
    if any(side for _, side in missing):
        windows = np.pad(windows, [(0, 0), (0, 0), *missing], mode="symmetric")
    stored = torch.from_numpy(windows if windows.dtype in KEPT_TYPES else windows.astype(np.float32))
    return to_device(stored, device).float().div_(value_scale).clamp_(0, 1)
