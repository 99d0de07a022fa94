"""A video as its frames: what every reader promises, whatever they come from, and their order."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

STARVED = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
MOST_PIXELS = 2**26  # of a picture: what claims more is not decoded
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .flv .wmv .3gp .ts .mts .ogv".split()
)
CLEAR = "clips with an alpha channel (left out: what is transparent is read as it is stored)"
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png".split())
# 1.5 is one number where a name holds no longer chain of numbers and dots.
NUMBERS = re.compile(r"(?<![\d.])(\d+\.\d+)(?!\w|\.\d)|(\d+)|(\D+)")


def natural_key(path: Path, dotted: bool = False) -> list[tuple[int, Any, str]]:
    """Sort key under which 9.jpg comes before 10.jpg, and that before 10.5.jpg.

    Folders are compared before names. 1.10 is a decimal number and comes before 1.9; `dotted` reads
    it as the number 10 of 1, after 1.9.
    """
    key: list[tuple[int, Any, str]] = []
    for broken, digits, text in NUMBERS.findall(path.as_posix().replace("/", "\0")):
        number = broken or digits
        if text:
            key.append((1, 0, text.lower()))
        else:
            key.append((0, [*map(int, number.split("."))] if dotted else Decimal(number), ""))
    return [*key, (2, 0, path.as_posix())]  # names that differ in case or leading zeros only


def find_images(folder: Path) -> list[Path]:
    """List the jpg and png files directly in ``folder``, naturally sorted, hidden ones left out."""
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((p for p in images if not p.name.startswith(".")), key=natural_key)


def is_starved(error: BaseException | None) -> bool:
    """Whether an error is the machine's, not the clip's: memory, files or threads have run out."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in STARVED:
            try:  # damaged files ask for wild amounts and fail alike: is there any left?
                threading.Thread(target=np.ones, args=(1,)).start()
                np.ones(2**27, np.uint8)
                with contextlib.ExitStack() as files:
                    for _ in range(16):
                        files.enter_context(open(os.devnull))  # noqa: PTH123
            except (OSError, MemoryError, RuntimeError):
                return True
        error = error.__cause__
    return False


class VideoError(ValueError):
    """A video that cannot be read: its path and the reason in plain words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class VideoReader:
    """Frames of one video by number; decodes only the requested frames and those between.

    ``fps`` (of a variable rate the mean) is None where the source has no clock. ``height`` and
    ``width`` are those of the picture as it is seen, after the rotation that a phone asks for.
    ``times``: second at which each frame is shown, the first at 0, where the file tells.
    ``remarks``: oddities that are read correctly, in a few fixed wordings.
    ``damage``: which frames are known to be damaged or missing; None where none is known.
    ``is_framed``: the picture was cut out of the original's already, as prepared clips are.
    """

    path: Path
    fps: float | None
    height: int
    width: int
    is_framed: bool = False
    remarks: tuple[str, ...] = ()
    damage: str | None = None
    times: Float[np.ndarray, " N"] | None = None
    _length: int

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Iterable[int] | Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Return the frames at ``indices`` (any order, repeats allowed) as RGB in [0, 255].

        Raises IndexError for what is not in [0, len(self)), VideoError naming a damaged frame.
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

    def in_pieces(
        self, indices: Sequence[int], most_bytes: int = 2**26
    ) -> Iterator[tuple[slice, UInt8[np.ndarray, "t H W 3"]]]:
        """Places among `indices`, and their frames, so that few of a long video are in memory."""
        step = max(1, most_bytes // (self.height * self.width * 3))
        for start in range(0, len(indices), step):
            piece = slice(start, start + step)
            yield piece, self.read(indices[piece])

    def _read(self, indices: list[int]) -> np.ndarray:
        """Return frames at sorted, unique, valid indices."""
        frames = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        for row, index in enumerate(indices):
            frame = self._frame(index)
            if frame.shape != frames.shape[1:]:
                raise self.unequal(index, *frame.shape[:2])
            frames[row] = frame
        return frames

    def _frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        raise NotImplementedError

    def named(self, index: int) -> str:
        """What a frame is called in messages."""
        return f"frame {index}"

    def unequal(self, index: int, height: int, width: int) -> VideoError:
        """An error for a frame of another size."""
        reason = f"is {width} x {height} pixels, the first is {self.width} x {self.height}: the "
        return VideoError(self.path, f"{self.named(index)} {reason}size changes within the video")
