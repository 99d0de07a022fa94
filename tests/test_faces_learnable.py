"""A small convolutional control learns the synthetic faces: they are readable, on unseen people."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from maedfer_lab.drawn.expressions import EXPRESSIONS
from maedfer_lab.drawn.faces import SyntheticFaces


class Control(nn.Module):
    """Four convolutions on each frame, then the mean and the maximum over time."""

    def __init__(self, size_px: int, width: int = 96):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, 24, 48, 64, width)):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.frames = nn.Sequential(*layers)
        self.places = nn.Linear(width * (size_px // 16) ** 2, width)
        self.classes = nn.Linear(2 * width, len(EXPRESSIONS))

    def forward(self, clips: Tensor) -> Tensor:
        features = self.frames(clips.flatten(0, 1)).flatten(1)
        features = self.places(features).unflatten(0, clips.shape[:2])
        return self.classes(torch.cat([features.mean(1), features.amax(1)], dim=1))


def drawn(faces: SyntheticFaces, every: int) -> tuple[Tensor, Tensor]:
    """Every so many frames of all clips (n T c H W), bytes; and the classes."""
    frames, labels = zip(*((clip.frames[1::every], clip.label) for clip in faces), strict=True)
    return torch.from_numpy(np.stack(frames)).movedim(-1, 2), torch.tensor(labels)


def standardised(clips: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(clips.float(), dim=(1, 2, 3, 4), keepdim=True)
    return (clips.float() - mean) / deviation


def accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_steps: int) -> float:
    clips, labels = train
    model = Control(size_px=clips.shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=num_steps)
    for _ in range(num_steps):
        chosen = torch.randint(len(clips), (16,))
        batch = standardised(clips[chosen])
        if torch.rand(()) < 0.5:
            batch = batch.flip(-1)
        batch = batch.roll(torch.randint(-3, 4, (2,)).tolist(), dims=(-2, -1))
        loss = functional.cross_entropy(model(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(standardised(part)).argmax(1) for part in test[0].split(50)])
    return (guesses == test[1]).float().mean().item()


EASY = {"num_frames": 8, "size_px": 64, "difficulty": 0.1}


@pytest.mark.parametrize(
    ("num_train", "num_test", "num_steps", "settings", "least"),
    [(700, 140, 400, EASY, 0.3), pytest.param(1400, 350, 500, {}, 0.6, marks=pytest.mark.slow)],
)
def test_a_small_control_is_above_chance_on_unseen_people(
    num_train, num_test, num_steps, settings, least
):
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            train = drawn(SyntheticFaces(num_train, "train", **settings), 2)
            test = drawn(SyntheticFaces(num_test, "test", **settings), 2)
            right = accuracy(train, test, num_steps)
    finally:
        cv2.setNumThreads(threads)
    assert right > least, f"{right:.1%} of unseen people's clips are right; chance is 14.3 %"
