"""Write frames as a video, with PyAV; among them one of a drawn person."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from maedfer_lab.drawn.faces import SyntheticFaces
from maedfer_lab.files import check_writable, write_aside

CLOCK = Fraction(1, 90_000)  # second
MOST_THREADS = 12  # x264's own choice at eight cores; each costs memory
# A quarter of the time of x264's own preset, smaller files, half a decibel less.
QUALITY = {"crf": "18", "preset": "veryfast"}
FPS, HEIGHT_PX = 25, 240  # of drawn videos
BORDER = 0.25  # of their height, added at the left and right


def encode_video(frames: UInt8[np.ndarray, "T H W 3"], fps: float | int = 25) -> bytes:
    """An MP4 (H.264, 4:2:0) of frames whose sides are even; plays in any browser."""
    _, height, width, _ = frames.shape
    if not len(frames) or height % 2 or width % 2:
        raise ValueError(
            f"frames of shape {frames.shape} must be at least one, with even sides, as in "
            f"({max(1, len(frames))}, {max(2, height // 2 * 2)}, {max(2, width // 2 * 2)}, 3)"
        )
    file = io.BytesIO()
    _encode(file, frames, fps)
    return file.getvalue()


def write_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    fps: float | int,
    times: Float[np.ndarray, " T"] | None = None,
) -> None:
    """Write frames to an MP4 one by one, aside and then renamed; odd sides lose a pixel.

    times: second at which each frame is shown; without them `fps` of them a second.
    """

    def encode(part: Path) -> None:
        with part.open("wb") as file:
            _encode(file, frames, fps, times)

    check_writable(path)
    write_aside(path, encode)


def _encode(
    file: Any, frames: Iterable[np.ndarray], fps: float | int, times: np.ndarray | None = None
) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream: Any = container.add_stream("libx264", rate=rate, options=QUALITY)
        stream.pix_fmt = "yuv420p"
        stream.thread_count = min(3 * (os.cpu_count() or 1) // 2, MOST_THREADS)
        if times is not None:
            stream.codec_context.time_base = CLOCK
        i = -1
        for i, frame in enumerate(frames):
            if i == 0:
                stream.height, stream.width = (side // 2 * 2 for side in frame.shape[:2])
            frame = np.ascontiguousarray(frame[: stream.height, : stream.width])
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = round(times[i] / CLOCK), CLOCK
            container.mux(stream.encode(picture))
        if i < 0:
            raise ValueError("frames is empty; a video needs at least one")
        container.mux(stream.encode(None))


def drawn_video(path: Path, *, person: int = 0) -> Path:
    """Write an MP4 (two seconds) of one drawn person, alone before a wall.

    person: number of a synthetic identity; none of them is used in any training here.
    """
    faces = SyntheticFaces(person + 1, "test", 2 * FPS, HEIGHT_PX, difficulty=0.2, seed=11)
    border = round(BORDER * HEIGHT_PX)
    around = ((0, 0), (0, 0), (border, border), (0, 0))
    write_video(path, np.pad(faces[person].frames, around, mode="edge"), FPS)
    return path
