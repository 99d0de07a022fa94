"""Test views of a video: windows of its frames and crops, each distinct one made once.

The published protocol tests 2 windows x 2 crops of frames resized to the crop's own size, so its
two crops are the same picture (and so are the windows of a short video), and it reads the whole
video for every view. Here a video is read once, only the frames that are shown, and a view that
occurs several times carries their weight: the weighted mean is the published mean.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from maedfer_lab.config.finetuning import Framing
from maedfer_lab.config.model import check_choices
from maedfer_lab.data.clips import Box, crop_and_resize
from maedfer_lab.data.framing import face_square
from maedfer_lab.data.video_reader import VideoReader


@dataclass(frozen=True)
class Views:
    """Which views of a video are tested.

    num_frames: frames of a view.
    size_px: side of a view.
    stride: frames of the video per frame of a view (published: 4, for FERV39k 1).
    segments: windows in time, spread from the first frame to the last; one is the middle.
    crops: places of the crop, along the diagonal from the top left; one is the middle.
    short_px: the side to which frames are resized, whatever their shape; None is `size_px`, as
        published, which makes all crops the same.
    framing: what of the picture is resized: the "whole" (published), or a square around the "face".
    """

    num_frames: int = 16
    size_px: int = 160
    stride: int = 4
    segments: int = 2
    crops: int = 2
    short_px: int | None = None
    framing: Framing = "whole"

    def __post_init__(self) -> None:
        check_choices(self, framing=Framing)
        for name in ("num_frames", "size_px", "stride", "segments", "crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.side_px < self.size_px:
            raise ValueError(
                f"short_px={self.short_px} must be at least size_px={self.size_px}, such as "
                f"{self.size_px}"
            )

    @property
    def side_px(self) -> int:
        """Side of the resized frames."""
        return self.size_px if self.short_px is None else self.short_px

    def windows(self, num_video_frames: int) -> Counter[int]:
        """First frame of each window, counted in strides, with how often it occurs."""
        strided = -(-num_video_frames // self.stride)
        return _places(max(strided - self.num_frames, 0), self.segments)

    def corners(self) -> Counter[int]:
        """Top and left of each crop in pixels, with how often it occurs."""
        return _places(self.side_px - self.size_px, self.crops)

    def frames(self, start: int, num_video_frames: int) -> Int[np.ndarray, " T"]:
        """Frames of the window at `start`; beyond the last strided frame that one is repeated."""
        last = (num_video_frames - 1) // self.stride
        return self.stride * np.minimum(start + np.arange(self.num_frames), last)

    def read(
        self, reader: VideoReader, box: Box | None = None
    ) -> tuple[UInt8[np.ndarray, "v T H W 3"], Float[np.ndarray, " v"], Box]:
        """The distinct views of a video, their weights, which sum to 1, and what was cut out.

        box: as an earlier reading of the same video gave it, which saves looking for the face.
        """
        windows, corners = self.windows(len(reader)), self.corners()
        chosen = [self.frames(start, len(reader)) for start in windows]
        needed = np.unique(np.concatenate(chosen))
        if self.framing == "whole":
            box = Box(0, 0, reader.height, reader.width)
        box = face_square(reader) if box is None else box
        side = self.side_px
        frames = crop_and_resize(reader.read(needed), box, side, side, exact=True)
        squares = [slice(at, at + self.size_px) for at in corners]
        views = [
            frames[np.searchsorted(needed, indices)][:, square, square]
            for indices in chosen
            for square in squares
        ]
        weights = np.outer(list(windows.values()), list(corners.values())).ravel()
        return np.stack(views), weights / weights.sum(), box


def _places(room: int, num: int) -> Counter[int]:
    """`num` starts from 0 to `room`, rounded down; a single one in the middle."""
    if num == 1:
        return Counter([room // 2])
    # parity: a step in floating point, times k, cut off, as in the official code
    return Counter(int(k * (room / (num - 1))) for k in range(num))
