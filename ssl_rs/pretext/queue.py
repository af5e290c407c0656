"""The queue of momentum contrast: keys of earlier batches that serve as negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_rs.distributed import gather
from ssl_rs.errors import ArgumentError


class KeyQueue(nn.Module):
    """The newest `size` keys of unit length; it begins with random ones, as the authors' does.

    Source: He et al., Momentum Contrast (MoCo), CVPR 2020, algorithm 1.

    Args:
        size: Keys it holds.
        dimensions: Width of a key.
        name: Of the argument that holds the size, for the message.

    Raises:
        ArgumentError: It would hold nothing.
    """

    keys: Tensor
    newest: Tensor

    def __init__(self, size: int, dimensions: int, name: str) -> None:
        super().__init__()
        if size < 1:
            raise ArgumentError(f"{name}={size}: expected at least 1 key.")
        self.register_buffer("keys", F.normalize(torch.randn(size, dimensions), dim=1))
        self.register_buffer("newest", torch.zeros((), dtype=torch.int64))  # row that the next key takes

    def logits(self, queries: Tensor, positives: Tensor, temperature: float) -> Tensor:
        """Return the scaled cosine of each query to its positive, then to every key of the queue.

        Args:
            queries: [N, D], with gradient.
            positives: [N, D].
            temperature: Above 0.

        Returns:
            float32 [N, 1 + size].
        """
        with torch.autocast(queries.device.type, enabled=False):  # as in contrastive.pair_logits
            queries, positives = F.normalize(queries.float(), dim=1), F.normalize(positives.float(), dim=1)
            positive = (queries * positives).sum(dim=1, keepdim=True)
            negative = queries @ self.keys.to(queries, copy=True).T  # backward reads it after `push` has written
        return torch.cat([positive, negative], dim=1) / temperature

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by those of all ranks, in rank order.

        Args:
            keys: [B, D] of this rank.
        """
        keys, size = gather(F.normalize(keys.float(), dim=1)), len(self.keys)
        taken = (self.newest + torch.arange(len(keys), device=keys.device)) % size
        self.newest.add_(len(keys)).remainder_(size)
        self.keys[taken[-size:]] = keys[-size:].to(self.keys)
