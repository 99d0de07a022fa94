"""What every reader of frames promises, whatever the frames come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8


class VideoError(ValueError):
    """A video that cannot be read: its path and the reason in plain words."""

    def __init__(self, path: Path, reason: str) -> None:
        """Keep both parts, so that lists of skipped files can show them in two columns."""
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        """Let the error cross from a data-loading process to the main one."""
        return type(self), (self.path, self.reason)


class VideoReader(ABC):
    """Frames of one video by number; nothing is decoded that was not asked for or lies between.

    ``fps`` is None where the source has no clock (images). ``height`` and ``width`` are those of
    the picture as it is seen, that is after the rotation a phone wrote into the file.
    ``times``: second at which each frame is shown, the first at 0, where the file tells; with a
    variable frame rate that is not the frame's number over ``fps``, which is a mean.
    ``is_framed``: the picture was cut out of the original's already, as prepared clips are.
    """

    path: Path
    fps: float | None
    height: int
    width: int
    backend: str
    is_framed: bool = False
    times: Float[np.ndarray, " N"] | None = None
    _length: int

    def __len__(self) -> int:
        """Count the frames that can be asked for."""
        return self._length

    def read(self, indices: Iterable[int] | Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Return the frames at ``indices`` (any order, repeats allowed) as RGB in [0, 255].

        Memory is that of the frames asked for, so read a long video in pieces.

        Raises:
            IndexError: an index is negative or not below ``len(self)``.
            VideoError: a frame cannot be decoded; the message names it.
        """
        asked = np.asarray(list(indices), dtype=np.int64)
        outside = asked[(asked < 0) | (asked >= len(self))]
        if outside.size:
            raise IndexError(
                f"frame {outside[0]} of {self.path}: it has {len(self)} frames, "
                f"so indices run from 0 to {len(self) - 1}"
            )
        unique, place = np.unique(asked, return_inverse=True)
        frames = self._read(unique.tolist())
        return frames if np.array_equal(unique, asked) else frames[place]

    @abstractmethod
    def _read(self, indices: list[int]) -> np.ndarray:
        """Return frames at sorted, unique, valid indices."""
