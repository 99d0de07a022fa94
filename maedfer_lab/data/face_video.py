"""The crops of one tracked face, read like a video of its own."""

from __future__ import annotations

import numpy as np
from PIL import Image

from maedfer_lab.data.framing import FRAMINGS, Framing, frame_square
from maedfer_lab.data.tracks import CHUNK_BYTES, FaceTrack, FaceTracks
from maedfer_lab.data.video import VideoReader


class FaceVideo(VideoReader):
    """The crops of one track as a video: `size_px` square, resized once with antialiasing.

    Frames are cut when they are asked for, so that a film of hours needs no more memory than the
    frames of one clip. `first` is the number of its frame 0 in the whole video.
    """

    backend = "face"

    def __init__(
        self,
        tracks: FaceTracks,
        track: FaceTrack,
        size_px: int,
        framing: Framing = FRAMINGS["wide"],
    ) -> None:
        video = tracks.video
        self.video, self.first = video, track.first
        self.path, self.fps = video.path, tracks.fps
        self.height = self.width = size_px
        self._length = len(track)
        self.squares = np.stack(
            [
                frame_square(box, video.height, video.width, framing)
                for box in track.smooth_boxes(tracks.fps)
            ]
        )

    def _read(self, indices: list[int]) -> np.ndarray:
        crops = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        step = max(1, CHUNK_BYTES // (self.video.height * self.video.width * 3))
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            frames = self.video.read([self.first + i for i in part])
            for crop, frame, square in zip(
                crops[start : start + step], frames, self.squares[part], strict=True
            ):
                top, left, side = square
                # Pillow takes parts of pixels, so that a slow drift of the square does not tremble.
                crop[:] = np.asarray(
                    Image.fromarray(frame).resize(
                        (self.width, self.height),
                        Image.Resampling.BILINEAR,
                        box=(left, top, left + side, top + side),
                    )
                )
        return crops
