"""What any rank of a run asks for, told to all of them without waiting."""

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_rs.distributed import is_distributed


class Agreement:
    """Tells all ranks of a request that any of them had, a call later, so that none waits for the others or its device.

    The flags of one call travel between the CPUs, in a process group of their own, until the next call.
    """

    def __init__(self) -> None:
        group = dist.new_group(backend="gloo") if is_distributed() else None
        assert not isinstance(group, int), "this rank is in no group of all ranks"
        self._group = group
        self._sent: tuple[Tensor, dist.Work] | None = None

    def any_rank(self, ends: bool, *flags: bool) -> tuple[bool, ...]:
        """Tell of each flag of the call before whether any rank had set it; all ranks must call, and get one answer.

        On one process these are the flags of this call.

        Args:
            ends: The first flag: where it was set, there is no further call.
            flags: Others.
        """
        if self._group is None:
            return ends, *flags
        found = self.settle() or (False,) * (1 + len(flags))
        if not found[0]:
            sent = torch.tensor([ends, *flags], dtype=torch.int64)
            work = dist.all_reduce(sent, group=self._group, async_op=True)
            assert work is not None
            self._sent = sent, work
        return found

    def settle(self) -> tuple[bool, ...]:
        """Wait for the flags that still travel, and tell of each whether it was set; empty where none travel."""
        if self._sent is None:
            return ()
        flags, work = self._sent
        work.wait()
        self._sent = None
        return tuple(map(bool, flags.tolist()))
