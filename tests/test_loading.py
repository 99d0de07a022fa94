"""Clips read by processes of their own: errors by name, deaths by name, no hang after decord."""

import os
import signal

import pytest
import torch
from making_videos import moving_frames, write_video
from torch.utils.data import Dataset

from maedfer_lab.config import FinetuneConfig, OptimConfig, tiny
from maedfer_lab.data.readers import open_video
from maedfer_lab.training.finetune import finetune
from maedfer_lab.training.stream import read_batches


class Squares(Dataset):
    """Squares of numbers; from `dies` on the process that reads is killed, `broken` is refused."""

    def __init__(self, dies=99, broken=99):
        self.dies, self.broken = dies, broken

    def __getitem__(self, index):
        if index == self.broken:
            raise ValueError(f"number {index} is broken")
        if index == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index**2)


def read(numbers, workers):
    batches = [[i, i + 1] for i in range(0, 8, 2)]
    return list(read_batches(numbers, batches, workers, lambda index: f"number {index}"))


class Frames(Dataset):
    """Frames that are all of their number, and a label."""

    def __getitem__(self, index):
        return torch.full((2, 3), index, dtype=torch.uint8), index % 2


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_batches_for_a_gpu_come_in_memory_that_is_used_again():
    """Each of the two workers has three places; a batch is whole until the next is asked for."""
    batches, places = [[4 * n, 4 * n + 1, 4 * n + 2][: 3 - n // 11] for n in range(12)], set()
    read = read_batches(Frames(), iter(batches), 2, str, pin_memory=True)
    for wanted, (frames, labels) in zip(batches, read, strict=True):
        assert frames.tolist() == [[[number] * 3] * 2 for number in wanted]
        assert labels.tolist() == [number % 2 for number in wanted]
        places.add(frames.data_ptr())
    assert len(places) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_raised_as_it_was_without_a_traceback_in_its_text(workers):
    with pytest.raises(ValueError, match=r"^number 5 is broken$"):
        read(Squares(broken=5), workers)


def test_a_process_that_is_killed_names_what_it_read():
    with pytest.raises(ChildProcessError, match=r"died .*number 3"):
        read(Squares(dies=3), 2)


def test_training_goes_on_with_workers_after_videos_were_decoded_here(tmp_path):
    """A forked worker would wait for ever for decord's threads, which stay with the parent."""
    for i in range(6):
        path = tmp_path / "clips" / ("calm", "wild")[i % 2] / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_frames(24, seed=i))
        open_video(path).read([0, 3])
    config = FinetuneConfig(
        name="own", model=tiny().model, optim=OptimConfig(2, 2, warmup_steps=0),
        data=tmp_path / "clips", framing="whole",
    )  # fmt: skip
    alone = finetune(config, output=tmp_path)
    helped = finetune(config, output=tmp_path / "again", workers=2)
    assert helped.result["loss"] == alone.result["loss"]
    assert helped.result["confusion"] == alone.result["confusion"]
