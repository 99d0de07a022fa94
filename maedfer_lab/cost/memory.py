"""Measuring work: peak memory (on a GPU the allocator's), time in turn with other work, threads."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maedfer_lab.config import choose

Work = Callable[[], object]
Name = TypeVar("Name")

METHODS = {  # by type of device: how `peak_bytes` gets its number
    "cuda": "peak of PyTorch's allocator",
    "cpu": "largest sum of tensors alive at once; scratch space inside kernels is not seen",
}


class LiveBytes(TorchDispatchMode):
    """Memory of tensors that operators make while it is active, and its peak.

    Tensors from before (parameters, inputs) and scratch space inside operators are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}
        self._from_before: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then note the memory of its results, unless it is an argument's."""
        self._from_before |= {x._cdata for x in _storages((args, kwargs))} - self._alive.keys()
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage._cdata not in self._alive and storage._cdata not in self._from_before:
                self._alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata)
        return out

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_bytes(step: Work, device: torch.device) -> int:
    """Most bytes that `step` holds at once, beyond what is held before it; see METHODS."""
    if choose("device", device.type, tuple(METHODS)) == "cpu":
        with LiveBytes() as memory:
            step()
        return memory.peak
    step()  # libraries take their workspace at the first call
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let PyTorch work on so many CPU threads inside, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def alternate(
    works: Mapping[Name, Work], seconds: float, least: int, most: int,
    clock: Callable[[], float],
) -> dict[Name, list[float]]:  # fmt: skip
    """Time works in turn, A B C A B C ..., so that what else slows the machine slows all alike.

    Until `seconds` are spent, within `least` and `most` rounds; clock: in seconds.
    """
    taken: dict[Name, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - start > seconds:
            break
        for name, work in works.items():
            began = clock()
            work()
            taken[name].append(clock() - began)
    return taken
