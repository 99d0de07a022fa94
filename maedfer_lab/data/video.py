"""Read frames of a video file or of a folder of images: one reader, three sources.

PyAV is the reference: it looks at every file first, and what it decodes is what a frame *is*.
decord is faster and takes over where it was found to return the same pixels: whole H.264 and MPEG-4
streams in 8-bit 4:2:0 inside MP4 or MOV, upright, without an edit list, every group of pictures
closed. Elsewhere decord 0.6 returned other frames than the ones asked for (open groups, also in
HEVC; MPEG programme and transport streams; frames that an edit list hides) or other colours
(10 bit), so those files stay with PyAV.
"""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from types import ModuleType

import numpy as np

from maedfer_lab.data.shard_format import ShardReader, decode_plain_jpeg, shard_and_name
from maedfer_lab.data.video_pyav import PyAVReader
from maedfer_lab.data.video_reader import VideoError, VideoReader

__all__ = ["VideoError", "VideoReader", "find_images", "natural_key", "open_video"]

BACKENDS = ("auto", "decord", "pyav", "images")
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .flv .wmv .3gp .ts .mts .ogv".split()
)
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png".split())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which 9.jpg comes before 10.jpg; folders are compared before names."""
    parts = re.findall(r"(\d+)|([^\d]+)", path.as_posix().replace("/", "\0"))
    return [(0, int(digits), "") if digits else (1, 0, text.lower()) for digits, text in parts] + [
        (2, 0, path.as_posix())  # names that differ in case or leading zeros only
    ]


def find_images(folder: Path) -> list[Path]:
    """List the jpg and png files directly in ``folder``, naturally sorted, hidden ones left out."""
    return sorted(
        (
            p
            for p in folder.iterdir()
            if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
        ),
        key=natural_key,
    )


class ImagesReader(VideoReader):
    """A folder of jpg or png files as one video (naturally sorted), or one image as a still."""

    backend = "images"

    def __init__(self, path: Path) -> None:
        """Open the first image for its size; the others are checked as they are read."""
        self.path, self.fps = path, None
        self._images = find_images(path) if path.is_dir() else [path]
        if not self._images:
            raise VideoError(path, "the folder holds no jpg or png image")
        self._length = len(self._images)
        self.height, self.width = self._image(0).shape[:2]

    def _image(self, index: int) -> np.ndarray:
        from PIL import Image, ImageOps

        path = self._images[index]
        try:
            if path.suffix.lower() != ".png":
                pixels = decode_plain_jpeg(path.read_bytes())
                if pixels is not None:
                    return pixels
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16-bit grey: Pillow would clip, not scale
                    upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
                return np.asarray(upright.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "is empty (0 bytes)" if path.stat().st_size == 0 else f"is broken: {error}"
            raise VideoError(self.path, f"frame {index} ({path.name}) {reason}") from error

    def _read(self, indices: list[int]) -> np.ndarray:
        frames = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        for row, index in enumerate(indices):
            frame = self._image(index)
            if frame.shape != frames.shape[1:]:
                raise VideoError(
                    self.path,
                    f"frame {index} ({self._images[index].name}) is {frame.shape[1]} x "
                    f"{frame.shape[0]} pixels, the first is {self.width} x {self.height}; "
                    "give all images of a folder one size",
                )
            frames[row] = frame
        return frames


class DecordReader(VideoReader):
    """A video file through decord; frames it refuses are asked from PyAV, which names them."""

    backend = "decord"

    def __init__(self, decord: ModuleType, reference: PyAVReader) -> None:
        """Take over size and count from ``reference``; raise if decord counts otherwise."""
        self._reference = reference
        self.path, self.fps, self._length = reference.path, reference.fps, len(reference)
        self.height, self.width = reference.height, reference.width
        self._errors = (RuntimeError, decord.DECORDError)
        try:
            self._held = [decord.VideoReader(str(self.path.absolute()))]
        except self._errors as error:
            raise VideoError(self.path, f"decord cannot open it: {error}") from error
        # Its threads crash the process if they outlive the interpreter: end them before.
        weakref.finalize(self, self._held.clear)
        if len(self._held[0]) != self._length:
            raise VideoError(
                self.path, f"decord counts {len(self._held[0])} frames, PyAV {self._length}"
            )

    def _read(self, indices: list[int]) -> np.ndarray:
        if not indices:
            return self._reference._read(indices)
        try:
            return self._held[0].get_batch(indices).asnumpy()
        except self._errors:
            return self._reference._read(indices)


def open_video(path: str | Path, backend: str = "auto") -> VideoReader:
    """Open a video file, a folder of images, an image (a video of one frame), or a shard's clip.

    ``"auto"`` takes decord where it is installed and known to agree with PyAV, else PyAV; folders
    and image files go to ``"images"``. All return the same frames, bit for bit.
    A path ``FOLDER/shard-00000.tar/NAME`` is a clip of a prepared folder, whatever the backend.

    Raises:
        VideoError: no such file, empty, not a video, only sound, cut off, or (``"decord"`` asked
            for by name) not a file that decord reads rightly.
        ValueError: unknown backend.
    """
    path = Path(path)
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not known; choose one of {', '.join(BACKENDS)}")
    if shard_and_name(path):
        return ShardReader(path)
    if not path.exists():
        raise VideoError(path, "there is no such file or folder")
    is_image = path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES
    if backend == "images" or (backend == "auto" and is_image):
        return ImagesReader(path)
    if path.is_dir():
        raise VideoError(path, f"it is a folder; backend={backend!r} reads files: use 'images'")
    reader = PyAVReader(path)
    if backend == "pyav":
        return reader
    decord = _import_decord()
    if backend == "decord" and decord is None:
        raise VideoError(path, "decord is not installed on this machine; use backend='pyav'")
    if backend == "decord" and not reader.decord_agrees:
        raise VideoError(path, "decord misreads this kind of file; use backend='auto'")
    if decord is None or not reader.decord_agrees:
        return reader
    try:
        return DecordReader(decord, reader)
    except VideoError:
        if backend == "decord":
            raise
        return reader


def _import_decord() -> ModuleType | None:
    try:
        import decord
    except (ImportError, OSError):  # no wheel for this machine, or one whose libraries miss
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord
