"""A video of a drawn person, for pictures that may be shown to everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from maedfer_lab.data.video_writing import write_video
from maedfer_lab.drawn.faces import SyntheticFaces

FPS = 25
BORDER = 0.25  # of the picture's height, added at the left and right


def drawn_video(path: Path, *, person: int = 0, seconds: float = 2.0, height_px: int = 240) -> Path:
    """Write an MP4 of one drawn person, alone before a wall, showing several expressions.

    person: number of a synthetic identity; none of them is used in any training here.
    """
    if seconds <= 0:
        raise ValueError(f"seconds={seconds} must be positive; use 2.0")
    frames = max(1, round(seconds * FPS))
    faces = SyntheticFaces(
        person + 1, "test", num_frames=frames, size_px=height_px, difficulty=0.2, seed=11
    )
    border = round(BORDER * height_px)

    def widened() -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for frame in faces[person].frames:
            yield np.pad(frame, ((0, 0), (border, border), (0, 0)), mode="edge")

    write_video(path, widened(), FPS)
    return path
