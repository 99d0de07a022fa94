"""Fixtures that several test files share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from making_datasets import MAKERS, make_dataset
from making_videos import moving_frames, write_video

# Tiny tensors: a second thread only makes them wait, for minutes on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> Path:
    """Five short videos of moving colours."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(5):
        write_video(folder / f"clip {i}.mp4", moving_frames(40, seed=i))
    return folder


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> dict[str, Path]:
    """The six data sets as their authors ship them, in small; nobody changes them."""
    base = tmp_path_factory.mktemp("sets with a space")
    return {name: make_dataset(name, base / name) for name in MAKERS}


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    """Whoever handles Ctrl-C gives it back; else a later test is deaf to it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    left = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert left == before, "the test has changed what SIGINT does"
