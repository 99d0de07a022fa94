"""Open a video file or a folder of images: one reader of frames, three sources; or only check.

PyAV is the reference and the default. decord is available where it returns the same pixels,
sometimes in half the time: intact H.264 and MPEG-4 streams in 8-bit 4:2:0 inside MP4 or
MOV, upright, one track, no edit list, every group of pictures closed. Elsewhere decord 0.6 returned
wrong frames or colours.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from maedfer_lab.data.shard_format import ShardReader, decode_plain_jpeg, shard_and_name
from maedfer_lab.data.video import (
    CLEAR,
    IMAGE_SUFFIXES,
    MOST_PIXELS,
    VideoError,
    VideoReader,
    find_images,
    natural_key,
)
from maedfer_lab.files import open_bytes

BACKENDS = ("auto", "decord", "pyav", "images")
PICTURES = ("JPEG", "PNG", "WEBP", "BMP")  # actual formats of .jpg and .png files
_NO_DIGITS = str.maketrans("", "", "0123456789")
BLOCK = 2**19  # bytes of a large file that its digest reads at a time
TAIL = 64  # bytes at the end of an image file in which its end mark must lie
END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
UNSORTED = "clips whose frames are out of order when sorted as text (read in natural order)"
TWICE = "clips whose frames are named in several ways (all are read: copies, masks?)"
UNEVEN = "clips whose frames' numbers leap, repeat or start anew (read one after the other)"
BLACK = "clips dark at the start (pictures of 10 or 12 bits? save them in 8)"  # all below 64
DECIMALS = "clips with frames such as 1.9 and 1.10 (read as decimal numbers: 1.10 comes first)"


def open_video(path: str | Path, backend: str = "auto") -> VideoReader:
    """Open a video file, a folder of images, an image (a video of one frame), or a shard's clip.

    ``"auto"`` reads folders and image files as ``"images"``, all else with ``"pyav"``; ``"decord"``
    only where it returns the same frames, bit for bit.
    A path ``FOLDER/shard-00000.tar/NAME`` is a clip of a prepared folder, whatever the backend.
    VideoError says why a file cannot be read, ValueError that a backend is not known.
    """
    path = Path(path)
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not known; choose one of {', '.join(BACKENDS)}")
    if shard_and_name(path):
        return ShardReader(path)
    _check_regular(path)
    is_image = path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES
    if backend == "images" or (backend == "auto" and is_image):
        return ImagesReader(path)
    if path.is_dir():
        raise VideoError(path, f"it is a folder; backend={backend!r} reads files: use 'images'")
    if backend == "decord":
        return DecordReader(path)
    reader = _pyav(path)
    if reader.damage:
        warnings.warn(f"{path}: {reader.damage}", stacklevel=2)
    return reader


def _pyav(path: Path, thorough: bool = False) -> Any:
    from maedfer_lab.data.pyav import PyAVReader  # the library is loaded with the first video

    return PyAVReader(path, thorough)


def _check_regular(path: Path) -> None:
    if not (path.is_dir() or path.is_file()):
        missing = "there is no such file or folder"
        raise VideoError(path, "a pipe or device, no file" if path.exists() else missing)


class ImagesReader(VideoReader):
    """A folder of jpg or png files as one video (naturally sorted), or one image as a still."""

    def __init__(self, path: Path) -> None:
        self.path, self.fps = path, None
        self.images = find_images(path) if path.is_dir() else [path]
        if not self.images:
            what = "it is an empty folder, or holds no jpg or png image"
            raise VideoError(path, f"{what}; give a video file, or a folder of images")
        self._length = len(self.images)
        names = [image.name for image in self.images]
        dotted = self.images
        if any("." in image.stem for image in self.images):  # else one reading, and no second sort
            dotted = sorted(self.images, key=lambda image: natural_key(image, dotted=True))
        shapes = {name.translate(_NO_DIGITS) for name in names}
        has_numbers = any(map(str.isdecimal, "".join(names)))
        first = self._frame(0)
        self.height, self.width = first.shape[:2]
        odd = {UNSORTED: names != sorted(names), DECIMALS: self.images != dotted,
               TWICE: has_numbers and len(shapes) > 1, BLACK: first.max() < 64}  # fmt: skip
        odd[UNEVEN] = not (odd[TWICE] or odd[DECIMALS]) and _leaps(self.images)
        with self.opened(0) as image:
            odd[CLEAR] = image.has_transparency_data
        self.remarks = tuple(remark for remark, is_so in odd.items() if is_so)

    def named(self, index: int) -> str:
        """Number and name of an image."""
        return f"frame {index} ({self.images[index].name})"

    @contextmanager
    def opened(self, index: int) -> Iterator:
        """An image, not decoded yet; what goes wrong with it is a VideoError that names it."""
        path, named = self.images[index], self.named(index)
        try:
            _check_regular(path)
            with opened_picture(path) as image:
                yield image
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            empty = path.is_file() and path.stat().st_size == 0
            reason = "is empty (0 bytes)" if empty else f"is broken or unfit: {error}"
            raise VideoError(self.path, f"{named} {reason}") from error

    def _frame(self, index: int) -> np.ndarray:
        path = self.images[index]
        if path.suffix.lower() != ".png" and path.is_file():
            if (pixels := decode_plain_jpeg(path.read_bytes())) is not None:
                return pixels
        with self.opened(index) as image:
            return pixels_of(image)


@contextmanager
def opened_picture(file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """A picture, not decoded yet; ValueError if it is huge, or several."""
    with Image.open(file, formats=PICTURES) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, too many to decode")
        number = getattr(image, "n_frames", 1)
        if number > 1 and image.format != "MPO":
            raise ValueError(f"it moves ({number} pictures): make each a file of its own")
        yield image


def pixels_of(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels of a picture, upright."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey: Pillow would clip, not scale
        upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
    return np.asarray(upright.convert("RGB"))


def _leaps(images: list[Path]) -> bool:
    """Whether the last number that differs between names does not go on in even steps."""
    numbers = ([value for kind, value, _ in natural_key(image) if kind == 0] for image in images)
    columns = list(zip(*numbers, strict=False))
    steps = next((s for c in reversed(columns) if any(s := [b - a for a, b in pairwise(c)])), [])
    return bool(steps) and (min(steps) <= 0 or max(steps) > 1.5 * float(min(steps)))


class DecordReader(VideoReader):
    """A whole video file through decord, once PyAV has looked at all of it."""

    def __init__(self, path: Path) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:  # no wheel, or one whose libraries miss
            reason = "decord is not installed on this machine; use backend='pyav'"
            raise VideoError(path, reason) from error
        decord.logging.set_level(decord.logging.QUIET)
        self.path = path
        reference = _pyav(path, thorough=True)
        self.fps, self.times, self._length = reference.fps, reference.times, len(reference)
        self.height, self.width = reference.height, reference.width
        self.remarks = reference.remarks
        self._errors = (RuntimeError, decord.DECORDError)
        try:
            self._held = [decord.VideoReader(str(self.path.absolute()))]
            # Its threads crash the process if they outlive the interpreter: end them before.
            weakref.finalize(self, self._held.clear)
            agrees = (
                reference.decord_agrees
                and reference.damage is None
                and len(self._held[0]) == self._length
                and np.array_equal(self._held[0][0].asnumpy(), reference.read([0])[0])
            )
        except self._errors as error:
            raise VideoError(self.path, f"decord cannot open it: {error}") from error
        if not agrees:
            raise VideoError(self.path, "decord misreads this kind of file; use backend='auto'")

    def _read(self, indices: list[int]) -> np.ndarray:
        if not indices:
            return np.empty((0, self.height, self.width, 3), np.uint8)
        try:
            return self._held[0].get_batch(indices).asnumpy()
        except self._errors as error:
            raise VideoError(self.path, f"decord cannot read it: {error}") from error


class Glance(NamedTuple):
    """What a look tells: how many frames, width and height, and as of `VideoReader` the rest."""

    frames: int
    sides: tuple[int, int]
    remarks: tuple[str, ...] = ()
    damage: str | None = None


def glance(path: Path, thorough: bool = True) -> Glance:
    """Look at a video file (every frame is decoded once) or a folder of images.

    Unless `thorough`, an MP4's or MOV's frames are counted by its table. Of a folder every image's
    header and end are read, and the first, middle and last decoded. Raises VideoError.
    """
    _check_regular(path)
    is_image = path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES
    reader = _glance_images(path) if is_image else _pyav(path, thorough)
    return Glance(len(reader), (reader.width, reader.height), reader.remarks, reader.damage)


def content_digest(path: Path) -> bytes:
    """Digest of a file (of a large one: of four blocks of it), or of a folder's images in order."""
    digest = hashlib.blake2b(digest_size=16)
    for part in find_images(path) if path.is_dir() else [path]:
        with open_bytes(part) as file:
            size = file.seek(0, 2)
            digest.update(size.to_bytes(8, "big"))
            for start in np.linspace(0, max(size - BLOCK, 0), 4 if size > BLOCK else 1).astype(int):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.digest()


def _glance_images(path: Path) -> ImagesReader:
    reader = ImagesReader(path)
    decoded = sorted({0, len(reader) // 2, len(reader) - 1})
    reader.read(decoded)
    for i, image_path in enumerate(reader.images):
        with reader.opened(i) as image:
            shape, mark = (image.height, image.width), END_MARKS.get(image.format or "", b"")
        with image_path.open("rb") as file:
            file.seek(0, 2)
            file.seek(-min(TAIL, file.tell()), 2)
            if i not in decoded and mark not in file.read():  # phones add their own behind it
                raise VideoError(path, f"{reader.named(i)} is broken: the file ends early")
        if shape not in ((reader.height, reader.width), (reader.width, reader.height)):
            raise reader.unequal(i, *shape)
    return reader
