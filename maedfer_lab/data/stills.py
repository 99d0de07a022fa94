"""Portraits as clips: thousands of people where videos show dozens.

A set of stills is a zip file of JPEG or PNG pictures, each of one face, with a CSV file of the same
name beside it: column `file`, and where known `identity`, `label` and `split` (then the rows of its
"train" are used, and no other).
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from maedfer_lab.data.folder import FramesReader
from maedfer_lab.data.lists import Clip, ListRow, Reading, read_rows, side_of
from maedfer_lab.data.readers import opened_picture, pixels_of
from maedfer_lab.data.table import Annotations
from maedfer_lab.data.transforms import mirror, tilt_clip, to_bytes
from maedfer_lab.data.video import VideoError, VideoReader
from maedfer_lab.files import reading

SIDES = (0.6, 1.1)  # of the picture, in sides of the clip: our squares are wider than portraits
MOVES = 0.12  # of the clip's side, from the first frame to the 16th at most; zoom likewise
STILL = 0.25  # share of the clips in which nothing moves
BORDERS = (cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101, cv2.BORDER_CONSTANT)
BENT = 0.3  # of the bending of videos: thousands of faces have proportions of their own
MOST_BYTES = 2**26  # of a picture, unpacked
TINTED = 0.7  # share of the grey pictures that are given a colour


class Stills(Annotations):
    """The pictures of zip files as a table whose clips have one frame.

    named: numbers of the clips whose list names the person; every other is a person of its own.

    Raises ValueError if a file has no list beside it, that no column `file`, or a picture misses.
    """

    def __init__(self, archives: Sequence[Path]) -> None:
        clips, self.named = list[Clip](), set[int]()
        for archive in archives:
            rows = listed(archive)
            with reading(archive), zipfile.ZipFile(archive) as opened:
                known = set(opened.namelist())
            if missing := [row.path for row in rows if row.path not in known]:
                raise ValueError(
                    f"stills: {archive.with_suffix('.csv')} names {missing[0]!r}, which is not in "
                    f"{archive.name} ({len(missing)} such rows)"
                )
            self.named |= {len(clips) + i for i, row in enumerate(rows) if row.subject}
            for row in rows:
                person = row.subject or f"{archive.stem} {row.path}"
                clips.append(Clip(archive / row.path, 0, 0, 1, archive.name, person))
        super().__init__("stills", ("unlabelled",), tuple(clips), Path())

    def open(self, clip: Clip) -> VideoReader:
        """The picture as a video of one frame; VideoError if it cannot be read."""
        archive = _archive(clip.path.parent, os.getpid())
        try:
            if archive.getinfo(clip.path.name).file_size > MOST_BYTES:
                raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
            with opened_picture(io.BytesIO(archive.read(clip.path.name))) as picture:
                return FramesReader(clip.path, pixels_of(picture)[None])
        except Exception as error:  # zip, zlib and Pillow have a dozen between them
            raise VideoError(clip.path, f"cannot be read from its zip: {error}") from error


@lru_cache(maxsize=32)  # of each process: two must not share a place in a file
def _archive(file: Path, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(file)


def listed(archive: Path) -> list[ListRow]:
    """The rows of the list beside a zip of stills that training may use."""
    beside, found = archive.with_suffix(".csv"), Reading()
    if archive.suffix != ".zip" or not archive.is_file() or not beside.is_file():
        raise ValueError(
            f"stills={str(archive)!r} must be a zip file next to a list, such as people.zip "
            "and people.csv (columns file, identity)"
        )
    rows, _ = read_rows(beside, found, str(beside), need=("path",))
    if odd := [row.split for row in rows if row.split and not side_of(row.split)]:
        found.problem("format", beside, f"column split holds {odd[0]!r}: use train, val and test")
    if found.problems:
        raise ValueError(f"stills: {found.problems[0]}")
    return [row for row in rows if side_of(row.split or "train") == "train"]


@dataclass
class StillClip:
    """A portrait as a clip: panned, zoomed and turned slowly, grey ones tinted; as bytes.

    tilt, warp: as of videos (`tilt_clip`).
    """

    frames: int
    size_px: int
    tilt: float = 0.0
    warp: float = 0.0

    def __call__(
        self, reader: VideoReader, clip: Clip, rng: np.random.Generator, key: tuple[int, ...]
    ) -> Tensor:
        """A camera that moves slowly before a picture: RGB in [0, 255] (T H W 3)."""
        size_px, tilt = self.size_px, self.tilt
        picture = tilt_clip(reader.read([0]), 0.0, rng, BENT * self.warp)[0]
        if rng.random() < 0.5:
            picture = mirror(picture[None])[0]
        if np.ptp(picture.astype(np.int16), axis=2).max() < 16 and rng.random() < TINTED:
            warm = rng.uniform(0, 0.35)
            tint = np.array([1 + warm, 1, 1 - warm]) * rng.uniform(0.92, 1.08, 3)
            picture = (picture * tint).clip(0, 255).astype(np.uint8)
        height, width = picture.shape[:2]
        scale = size_px * rng.uniform(*SIDES) / min(height, width)
        angle, place = rng.uniform(-tilt, tilt), rng.uniform(-0.08, 0.08, 2)
        moves = rng.uniform(-1, 1, 4) * (rng.random() >= STILL) / 15  # in one frame
        border = BORDERS[rng.integers(len(BORDERS))]
        colour = picture[0].mean(0).tolist()
        if scale < 1:  # an average over pixels, as of a video that is made smaller
            smaller = (round(width * scale), round(height * scale))
            picture = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
            height, width, scale = *picture.shape[:2], 1.0
        shown = np.empty((self.frames, size_px, size_px, 3), np.uint8)
        middle = np.array([width - 1, height - 1]) / 2
        for out, time in zip(shown, np.arange(self.frames) - (self.frames - 1) / 2, strict=True):
            zoom, turned = scale * (1 + MOVES * moves[0] * time), angle + tilt / 2 * moves[1] * time
            turn = cv2.getRotationMatrix2D(middle.tolist(), turned, zoom)
            turn[:, 2] += (size_px - 1) / 2 - middle + size_px * (place + MOVES * moves[2:] * time)
            cv2.warpAffine(picture, turn, (size_px, size_px), out, cv2.INTER_LINEAR, border, colour)
        return to_bytes(shown)
