"""What fine-tuning minimizes: the cross entropy of the labeled pixels, and the usual answers to rare classes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_rs.distributed import gather, mean_over_ranks
from ssl_rs.errors import InputError
from ssl_rs.task_output import TaskOutput

FEW_CLASSES = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
"""How many float32 a vector of the CPU holds, see `log_probabilities`."""


@dataclass(frozen=True)
class SegmentationLoss:
    """Cross entropy of the labeled pixels, where asked weighted by class and focused, and the Dice loss beside it.

    Args:
        balance: A class weighs 1 / pixels ** balance, counted in the labels that the run sees: 0 weighs all pixels
            alike, 1 all classes. Labeled pixels weigh 1 on average, so that losses and learning rates stay comparable.
        focusing: Exponent gamma of the focal loss: a pixel counts (1 - p) ** gamma, p the probability of its class.
            Source: Lin, Goyal, Girshick, He & Dollár, "Focal Loss for Dense Object Detection", ICCV 2017.
        dice: Weight of the Dice loss, which compares the regions of a class and not its pixels.
            Source: Milletari, Navab & Ahmadi, "V-Net", 3DV 2016, whose sums in the divisor are of squares; ours, like
            most, are not.

    Raises:
        InputError: A value that means nothing.
    """

    balance: float = 0.0
    focusing: float = 0.0
    dice: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise InputError(
                f"loss.balance={self.balance}: expected 0 (pixels weigh alike) to 1 (classes weigh alike)."
            )
        for name in ("focusing", "dice"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"loss.{name}={value}: expected 0 (without it) or more.")

    def class_weights(self, pixels: NDArray[np.int64]) -> Tensor | None:
        """Return the weights [K] of the classes, float32; None: all weigh alike.

        Args:
            pixels: int64 [K], labeled pixels of each class; one without any gets weight 0.
        """
        if not self.balance:
            return None
        weights = np.where(pixels > 0, np.maximum(pixels, 1.0) ** -self.balance, 0.0)
        return torch.from_numpy(weights * pixels.sum() / (weights @ pixels)).float()

    def __call__(self, logits: Tensor, masks: Tensor, ignore_index: int, class_weights: Tensor | None) -> TaskOutput:
        """Return the loss over the valid pixels of all ranks, and the share of them that is right.

        A batch without a valid pixel has loss 0, with a gradient of 0. The mean of the ranks' gradients is that of one
        process with the whole batch.

        Args:
            logits: [B, K, H, W], unnormalized scores.
            masks: int64 [B, H, W], the class of each pixel or the ignore index.
            ignore_index: Pixels of this value count for nothing.
            class_weights: What `class_weights` gave, on the device.
        """
        logits = logits.float()
        valid = masks != ignore_index  # [B, H, W]
        count = mean_over_ranks(valid.sum())
        count = torch.where(count > 0, count, torch.ones_like(count))  # scalar
        classes = masks.flatten()  # [B * H * W]
        total = self._cross_entropy(log_probabilities(logits), classes, ignore_index, class_weights)
        # Not argmax: see most_probable.
        right = ((logits.detach().max(dim=1).indices == masks) & valid).sum()
        metrics = {"pixel_accuracy": right / count}
        if not self.dice:
            return TaskOutput(total / count, metrics)
        dice = dice_loss(_rows(logits), classes, ignore_index)
        metrics |= {"cross_entropy": (total / count).detach(), "dice": dice.detach()}
        return TaskOutput(total / count + self.dice * dice, metrics)

    def _cross_entropy(self, rows: Tensor, classes: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
        """Return the sum over pixels of logarithms of probabilities [N, K]."""
        if not self.focusing:
            return F.nll_loss(rows, classes, class_weights, ignore_index=ignore_index, reduction="sum")
        each = F.nll_loss(rows, classes, ignore_index=ignore_index, reduction="none")  # [N], -log p
        # A power below 1 has no finite slope at 0.
        focus = (-torch.expm1(-each)).clamp_min(1e-7) ** self.focusing
        if class_weights is not None:
            focus = focus * class_weights[classes.where(classes != ignore_index, 0)]
        return (focus * each).sum()


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the logarithms of the probabilities of pixels [B * H * W, K] that scores [B, K, H, W] stand for.

    On a CPU torch takes a softmax of rows number by number where they are shorter than its vectors: 32 maps of 64 px
    and 6 classes took 19 ms on one thread, forward and backward of the loss, and take 4 ms as maps. The values are the
    same to the last bit where H * W is a multiple of a vector, as for sides of a multiple of 4.
    """
    if logits.device.type == "cpu" and logits.shape[1] < FEW_CLASSES:
        return _rows(logits.log_softmax(dim=1))
    return _rows(logits).log_softmax(dim=1)


def _rows(maps: Tensor) -> Tensor:
    """Return [B, K, H, W] as a row a pixel, [B * H * W, K]."""
    # The cross entropy of maps has no deterministic kernel on CUDA.
    return maps.movedim(1, -1).flatten(0, 2)


def dice_loss(rows: Tensor, classes: Tensor, ignore_index: int) -> Tensor:
    """Return 1 minus the mean Dice coefficient of the classes that the batch of all ranks has; 0 where it has none.

    Coefficient of a class: twice the probability that lies on its pixels, over all its probability and its pixels.
    With `trainer.gradient_accumulation` each part is a batch of its own.

    Args:
        rows: [N, K], unnormalized scores of pixels.
        classes: int64 [N], the class of each or the ignore index.
        ignore_index: Pixels of this value count for nothing.
    """
    valid = (classes != ignore_index).unsqueeze(1)  # [N, 1]
    truth = classes.unsqueeze(1) == torch.arange(rows.shape[1], device=rows.device)  # [N, K]
    probabilities = rows.softmax(dim=1) * valid  # [N, K]
    sums = torch.stack([(probabilities * truth).sum(dim=0), probabilities.sum(dim=0), truth.sum(dim=0)])  # [3, K]
    shared, predicted, labeled = gather(sums.unsqueeze(0)).sum(dim=0)  # each [K], over all ranks
    present = labeled > 0
    coefficient = 2 * shared / torch.where(present, predicted + labeled, 1.0)
    loss: Tensor = torch.where(present, 1 - coefficient, 0.0).sum() / present.sum().clamp_min(1)
    return loss
