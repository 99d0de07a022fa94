"""Which clips of a batch each of many processes works on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from maedfer_lab.config import OptimConfig


def own_share(batch_size: int, num_processes: int, process_index: int) -> list[int]:
    """The places of a batch that one of several processes works on, in ascending order.

    A block of the first half and its mirror image in the second: the partner of place i in
    mixup and cutmix, batch_size - 1 - i, is in the same share, at the mirrored place there. If
    the share is odd, pairs cannot stay together, and shares are plain blocks.

    Raises:
        ValueError: batch_size is not a multiple of num_processes, or process_index is none of them.
    """
    if num_processes < 1 or batch_size % num_processes:
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of its {num_processes} parts (processes "
            f"x accumulate); use {math.ceil(batch_size / max(num_processes, 1)) * num_processes}"
        )
    if not 0 <= process_index < num_processes:
        raise ValueError(f"process_index={process_index} must lie in [0, {num_processes})")
    share = batch_size // num_processes
    if share % 2:
        return list(range(process_index * share, (process_index + 1) * share))
    block = range(process_index * share // 2, (process_index + 1) * share // 2)
    return [*block, *(batch_size - 1 - place for place in reversed(block))]


class Parts:
    """The stream's items for one process: a list for each part of each step, from `start` on."""

    def __init__(self, optim: OptimConfig, processes: int, index: int, start: int) -> None:
        numbers = range(index * optim.accumulate, (index + 1) * optim.accumulate)
        total = processes * optim.accumulate
        self.shares = [own_share(optim.batch_size, total, number) for number in numbers]
        self.optim, self.start = optim, start

    def __len__(self) -> int:
        """Count the parts that are left."""
        return (self.optim.last_step - self.start) * len(self.shares)

    def __iter__(self) -> Iterator[list[int]]:
        """Items, part by part."""
        for step in range(self.start, self.optim.last_step):
            for share in self.shares:
                yield [step * self.optim.batch_size + place for place in share]
