"""The work of `maedfer prepare`: code one clip; do so in many processes, none of which matters."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from maedfer_lab.data.clips import Box
from maedfer_lab.data.folder import cropped_pieces
from maedfer_lab.data.framing import face_square
from maedfer_lab.data.jpegs import encode_jpeg
from maedfer_lab.data.memory import keep_freed_memory
from maedfer_lab.data.shard_format import Jpegs
from maedfer_lab.data.video import VideoError, open_video

AHEAD = 4  # clips handed out for each worker


class Job(NamedTuple):
    """One clip and how to cut it."""

    path: Path
    framing: Literal["face", "whole"]
    side_px: int
    quality: int


def encode(job: Job) -> Jpegs | str:
    """Read, crop, shrink and code all frames of a clip; a sentence why it cannot be read."""
    try:
        # Front to back PyAV needs less time than decord, for the same frames.
        reader = open_video(job.path, "images" if job.path.is_dir() else "pyav")
        box = Box(0, 0, reader.height, reader.width)
        height = width = job.side_px
        if job.framing == "face":
            box = face_square(reader)
            height, width = min(height, box.height), min(width, box.width)
        jpegs = [
            encode_jpeg(frame, job.quality)
            for piece in cropped_pieces(reader, np.arange(len(reader)), box, height, width)
            for frame in piece
        ]
    except VideoError as error:
        return error.reason
    except (OSError, MemoryError, cv2.error) as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        raise RuntimeError(f"{job.path}: {error!r}") from error
    table = np.array([(len(jpeg), zlib.crc32(jpeg)) for jpeg in jpegs], np.uint32)
    return Jpegs(b"".join(jpegs), table, height, width, reader.fps, tuple(box))


@contextmanager
def encode_in_order(jobs: Sequence[Job], workers: int) -> Iterator[Iterator[Jpegs | str]]:
    """A context that gives the results of `encode` in the order of the jobs.

    A process that dies over a clip (a decoder's crash, no memory) costs that clip alone, which is
    named: it is tried once more by itself. With 0 workers all is done in this process.
    """
    results = _pooled(jobs, workers) if workers else map(encode, jobs)
    try:
        yield results
    finally:
        if workers:
            results.close()  # type: ignore[attr-defined]


def _pooled(jobs: Sequence[Job], workers: int) -> Iterator[Jpegs | str]:
    if not jobs:
        return
    pool, waiting = _pool(min(workers, len(jobs))), deque(jobs)
    pending: deque[tuple[Job, Future[Jpegs | str]]] = deque()
    try:
        while waiting or pending:
            while waiting and len(pending) < AHEAD * workers:
                job = waiting.popleft()
                try:
                    pending.append((job, pool.submit(encode, job)))
                except BrokenProcessPool:  # told below, by the result that is waited for
                    waiting.appendleft(job)
                    break
            try:
                job, future = pending.popleft() if pending else (waiting.popleft(), None)
                result = _alone(job) if future is None else future.result()
            except BrokenProcessPool:
                pool.shutdown(cancel_futures=True)
                result = _alone(job)
                waiting.extendleft(job for job, _ in reversed(pending))
                pending.clear()
                pool = _pool(workers)
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(job: Job) -> Jpegs | str:
    with _pool(1) as pool:
        try:
            return pool.submit(encode, job).result()
        except BrokenProcessPool:
            return "the process that read it died: a crash of the decoder, or not enough memory"


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    return ProcessPoolExecutor(workers, context, begin_worker)


def begin_worker() -> None:
    """Start a worker: one thread, and an end when the main process ends, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True)
        watch.start()
