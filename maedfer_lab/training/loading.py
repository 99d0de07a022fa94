"""Reading clips beside the training: in processes (never a hang, never a death without a name),
or in threads, which shards allow: what decodes and augments them runs without Python's lock.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from maedfer_lab.data.memory import keep_freed_memory
from maedfer_lab.data.prepare import begin_worker

SHARDS_IN_THREADS = False  # whether "workers" of prepared shards are threads, not processes
BATCHES_AHEAD = 2  # as torch reads ahead for each of its workers
GRACE_S = 60.0  # after SIGTERM, in which the main process may end its step
# Imported once, by the server that forks the workers: a new worker starts at once.
PRELOADED = ["maedfer_lab.training.labelled", "maedfer_lab.training.clips"]


@dataclass(frozen=True)
class _Failure:
    """An error that crosses from a worker as a value: without torch's traceback in its text."""

    error: Exception


class _Told(Dataset):
    """A data set that notes, for each worker, its process and the item that it reads."""

    def __init__(self, dataset: Dataset, workers: int) -> None:
        self.dataset = dataset
        self.notes = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_()

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        self.notes[info.id] = torch.tensor([os.getpid(), index])
        try:
            return self.dataset[index]
        except (ValueError, OSError) as error:
            return _Failure(error)


class _Collate:
    """Makes a batch of its items, unless one of them failed."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        failed = next((item for item in items if isinstance(item, _Failure)), None)
        return failed or self.collate(items)


def read_batches(
    dataset: Dataset,
    batches: Iterable[Sequence[int]],
    workers: int,
    name: Callable[[int], str],
    *,
    collate: Callable[[list[Any]], Any] = default_collate,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """The batches of items, in order, read by `workers` processes, or by this one without any.

    A data set that says `reads_shards` may be read by as many threads of this process instead.

    Workers come from a clean process (a fork of one in which a video was decoded, or torch has
    computed, waits for threads that it does not have), so `dataset` is pickled, and a script
    needs `if __name__ == "__main__":`.

    name: what an item was made from, for messages.

    Raises:
        ChildProcessError: a worker died (a decoder's crash, no memory); names what it read.
        ValueError, OSError: as reading an item raised it.
    """
    if workers and SHARDS_IN_THREADS and getattr(dataset, "reads_shards", False):
        yield from read_in_threads(
            dataset, batches, workers, collate=collate, pin_memory=pin_memory
        )
        return
    options: dict[str, Any] = {}
    told = _Told(dataset, workers) if workers else None
    if told is not None:
        options = {"multiprocessing_context": _context(), "worker_init_fn": _begin}
    loader = DataLoader(
        told or dataset,
        batch_sampler=batches,  # type: ignore
        num_workers=workers,
        collate_fn=_Collate(collate) if told is not None else collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, so that the loader leaves torch's state alone
        **options,
    )
    iterator = iter(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if told is None or "DataLoader worker" not in str(error):
                raise
            raise ChildProcessError(_obituary(str(error), told.notes.tolist(), name)) from error
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch


def read_in_threads(
    dataset: Dataset,
    batches: Iterable[Sequence[int]],
    threads: int,
    *,
    collate: Callable[[list[Any]], Any] = default_collate,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """The batches of items, in order, read ahead by `threads` threads of this process.

    For shards, whose decoding leaves Python's lock alone: no process to start, nothing to pickle,
    and no batch passes from one process to another. Items are those that `read_batches` reads.

    Raises:
        ValueError, OSError: as reading an item raised it.
    """
    keep_freed_memory()
    pool = ThreadPoolExecutor(threads, "clips", torch.set_num_threads, (1,))
    pending: deque[Future[Any]] = deque()

    def join(items: list[Future[Any]]) -> Any:
        batch = collate([item.result() for item in items])
        return _pinned(batch) if pin_memory else batch

    try:
        for batch in batches:
            items = [pool.submit(dataset.__getitem__, item) for item in batch]
            pending.append(pool.submit(join, items))  # begun last, so it waits for work begun
            if len(pending) > BATCHES_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pinned(batch: Any) -> Any:
    """The same in memory from which a device copies while the host goes on."""
    if isinstance(batch, torch.Tensor):
        return batch.pin_memory()
    return [_pinned(part) for part in batch] if isinstance(batch, list) else batch


def _obituary(reason: str, notes: list[list[int]], name: Callable[[int], str]) -> str:
    """Which worker died over what; `notes` holds process and item of each."""
    dead = {int(number) for number in re.findall(r"\d+", reason)}
    items = [item for pid, item in notes if pid in dead]
    advice = "Leave the file out if it dies again, or use fewer workers if memory ran out"
    if not items:
        return (
            "a process that reads clips died before it read one. A script that starts workers "
            'needs `if __name__ == "__main__":` around its calls; else try workers=0'
        )
    names = ", ".join(dict.fromkeys(name(item) for item in items))
    return f"a process that reads clips died over (or just after) {names}. {advice}"


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _begin(_: int) -> None:
    """Start a worker. A launcher's or Slurm's SIGTERM reaches it too, but the step needs it."""
    begin_worker()
    end = threading.Timer(GRACE_S, os._exit, (1,))
    end.daemon = True
    signal.signal(signal.SIGTERM, lambda *_: None if end.is_alive() else end.start())
