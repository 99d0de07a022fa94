"""Turn, shear or shift all frames of a clip alike: Pillow's bicubic, its weights had once.

Each pixel of the result is a weighted sum over at most 4 x 4 pixels, the same places and weights in
all frames. With the frames side by side in memory that is torch's `embedding_bag`: ten times as
fast as Pillow frame after frame (16 frames of 160 x 160, one core: 1.6 against 15 ms; OpenCV's
bicubic takes 5.3 ms, and sharpens less).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional

from maedfer_lab.data.clips import Box

OUTSIDE = 128  # the grey of what lies outside the picture
REACH = 2.5  # pixels that the filter looks around itself, with half of one to be safe
NUDGE = 5e-4  # levels: sums that are whole up to float32's rounding are not rounded down


def source_box(matrix: Sequence[float], want: Box, height: int, width: int) -> Box:
    """The part of a picture of height x width from which `move` takes the part `want`."""
    a, b, c, d, e, f = matrix
    xs = [x + side for x in (want.left,) for side in (0, want.width)]
    ys = [y + side for y in (want.top,) for side in (0, want.height)]
    across = [a * x + b * y + c for x in xs for y in ys]
    down = [d * x + e * y + f for x in xs for y in ys]
    left, right = _range(across, width)
    top, bottom = _range(down, height)
    return Box(top, left, bottom - top, right - left)


def _range(places: Sequence[float], size: int) -> tuple[int, int]:
    first = min(max(math.floor(min(places) - REACH), 0), size - 1)
    return first, max(min(math.ceil(max(places) + REACH), size), first + 1)


def move(
    clip: UInt8[np.ndarray, "T h w 3"],
    matrix: Sequence[float],
    have: Box,
    want: Box,
    whole: Box,
) -> UInt8[np.ndarray, "T H W 3"]:
    """The part `want` of moved pictures, from their part `have`, which must hold `source_box`.

    matrix: (a, b, c, d, e, f); the pixel whose middle is (x, y) shows (ax + by + c, dx + ey + f).
    whole: the picture's own box; what lies outside is grey 128, its edge is repeated for the
    filter.
    """
    a, b, c, d, e, f = matrix
    x = np.arange(want.left, want.left + want.width) + 0.5
    y = np.arange(want.top, want.top + want.height)[:, None] + 0.5
    across, down = a * x + b * y + c, d * x + e * y + f
    outside = (across < 0) | (across >= whole.width) | (down < 0) | (down >= whole.height)
    columns, of_columns = _taps(across - 0.5, whole.width, have.left, have.width)
    rows, of_rows = _taps(down - 0.5, whole.height, have.top, have.height)
    places = rows[:, None] * np.int32(have.width) + columns[None]
    weights = of_rows[:, None] * of_columns[None]
    sums = functional.embedding_bag(
        torch.from_numpy(_taps_last(places)),
        _side_by_side(clip),
        mode="sum",
        per_sample_weights=torch.from_numpy(_taps_last(weights)),
    )
    # OpenCV rounds to the nearest level, Pillow down.
    moved = cv2.add(sums.numpy(), NUDGE - 0.5, dtype=cv2.CV_8U)  # type: ignore[call-overload]
    moved[outside.ravel()] = OUTSIDE
    return _one_after_the_other(moved, want)


def _taps(places: np.ndarray, size: int, first: int, held: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (4 H W) around `places`, counted from `first`, and weights; one where all are whole.

    Pillow's cubic: its slope in a pixel is the difference of the pixel's two neighbours.
    """
    low = np.floor(places)
    t = (places - low).astype(np.float32)
    if not t.any():
        around, weights = low[None], np.ones((1, *places.shape), np.float32)
    else:
        around = low + np.arange(-1.0, 3.0)[:, None, None]
        square, cube = t * t, t * t * t
        parts = (2 * square - t - cube, 1 - 2 * square + cube, t + square - cube, cube - square)
        weights = np.stack(parts)
    inside = np.clip(around, 0, size - 1) - first
    return np.clip(inside, 0, held - 1).astype(np.int32), weights


def _taps_last(taps: np.ndarray) -> np.ndarray:
    """From (t t H W) to (H * W, t * t)."""
    return cv2.transpose(taps.reshape(taps.shape[0] * taps.shape[1], -1))


def _side_by_side(clip: np.ndarray) -> torch.Tensor:
    """A row of floats for every place of the picture: four for each frame, the last unused."""
    frames, height, width, _ = clip.shape
    words = cv2.cvtColor(clip.reshape(-1, width, 3), cv2.COLOR_RGB2RGBA).view(np.int32)
    rows = cv2.transpose(words.reshape(frames, height * width))
    return torch.from_numpy(rows.reshape(height * width, frames).view(np.uint8)).float()


def _one_after_the_other(rows: np.ndarray, box: Box) -> np.ndarray:
    words = cv2.transpose(rows.view(np.int32))
    pictures = np.ascontiguousarray(words).view(np.uint8).reshape(-1, box.width, 4)
    return cv2.cvtColor(pictures, cv2.COLOR_RGBA2RGB).reshape(-1, box.height, box.width, 3)
