"""Look at a video without decoding it: is it whole, how many frames, how large the picture."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maedfer_lab.data.video import IMAGE_SUFFIXES, ImagesReader, find_images
from maedfer_lab.data.video_pyav import ends_early, open_container
from maedfer_lab.data.video_reader import VideoError

EARLY = 0.8  # pictures that stop before this share of the promised seconds end early
UNEVEN = 1.5  # longest over shortest time between frames, from which on the rate is variable
TAIL = 64  # bytes at the end of an image file in which its end mark must lie
UNSORTED = "clips whose frames are out of order when sorted as text (read in natural order)"
TURNED = "clips turned by their metadata (read upright)"
UNEVEN_RATE = "clips of variable frame rate (frames are counted, not timed)"
SHORT = "clips whose pictures end a little before the file says (read to their end)"
END_MARKS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


@dataclass(frozen=True)
class Glance:
    """What a short look tells of one video.

    frames: counted in the container, or images of a folder. size: bytes on disk.
    remarks: what is odd but read rightly, each of a few fixed wordings.
    """

    frames: int
    height: int
    width: int
    size: int
    remarks: tuple[str, ...] = ()


def glance(path: Path) -> Glance:
    """Look at a video file (all packets, first frame decoded) or a folder of images.

    Of a folder every image's header and end are read, and the first, middle and last decoded;
    damage in the middle of another image is not seen.

    Raises:
        VideoError: missing, empty, no video, only sound, cut off, broken or unequal images.
    """
    if not path.exists():
        raise VideoError(path, "there is no such file or folder")
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return _glance_images(path)
    return _glance_file(path)


def content_digest(path: Path) -> bytes:
    """Digest of a file's bytes, or of all images of a folder in order: equal for equal clips."""
    digest = hashlib.blake2b(digest_size=16)
    for part in find_images(path) if path.is_dir() else [path]:
        digest.update(part.read_bytes())
    return digest.digest()


def _glance_images(path: Path) -> Glance:
    from PIL import Image

    reader = ImagesReader(path)
    reader.read(sorted({0, len(reader) // 2, len(reader) - 1}))
    images = find_images(path) if path.is_dir() else [path]
    size = 0
    for i, image_path in enumerate(images):
        named = f"frame {i} ({image_path.name})"
        with image_path.open("rb") as file:
            try:
                with Image.open(file) as image:
                    shape = image.height, image.width
                size += file.seek(0, 2)
                file.seek(-min(TAIL, file.tell()), 2)
                end = file.read()
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                empty = image_path.stat().st_size == 0
                reason = "is empty (0 bytes)" if empty else f"is broken: {error}"
                raise VideoError(path, f"{named} {reason}") from error
        if END_MARKS[image_path.suffix.lower()] not in end:
            raise VideoError(path, f"{named} is broken: the file ends early")
        if shape not in ((reader.height, reader.width), (reader.width, reader.height)):
            raise VideoError(
                path,
                f"{named} is {shape[1]} x {shape[0]} pixels, the first is {reader.width} x "
                f"{reader.height}",
            )
    names = [image.name for image in images]
    remarks = (UNSORTED,) if names != sorted(names) else ()
    return Glance(len(images), reader.height, reader.width, size, remarks)


def _glance_file(path: Path) -> Glance:
    import av
    from av import error

    container, stream = open_container(av, path)
    times: list[int] = []
    count = whole = hidden = 0
    with container:
        promised, seconds = stream.frames, (container.duration or 0) / av.time_base
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        with suppress(error.FFmpegError):  # judged by what is missing
            for packet in container.demux(stream):
                if packet.size:
                    count += 1
                    whole += not packet.is_corrupt
                    hidden += packet.is_discard
                    if packet.pts is not None:
                        times.append(packet.pts)
        reached = float((max(times) - min(times)) * stream.time_base) if times else seconds
        last_s = float(max(times, default=0) * stream.time_base)
        short = ends_early(container, stream, count, last_s)
    if whole < max(promised, count):
        damage = f"{whole} of {max(promised, count)} frames"
        raise VideoError(path, f"it ends early or is damaged: {damage}")
    if count > 1 and reached * count / (count - 1) < EARLY * seconds:
        raise VideoError(path, f"it ends early: after {reached:.1f} of {seconds:.1f} s")
    container, stream = open_container(av, path)
    try:
        with container:
            frame = next(container.decode(stream), None)
    except error.FFmpegError as wrong:
        raise VideoError(path, f"its first frame cannot be read ({wrong.strerror})") from wrong
    if frame is None:
        raise VideoError(path, "it has no frame that can be decoded")
    turned = round(frame.rotation / 90) % 2
    height, width = (frame.width, frame.height) if turned else (frame.height, frame.width)
    gaps = np.diff(np.sort(np.asarray(times)))
    remarks = [SHORT] if short else []
    if frame.rotation % 360:
        remarks.append(TURNED)
    if len(gaps) and gaps.max() > UNEVEN * max(gaps.min(), 1):
        remarks.append(UNEVEN_RATE)
    return Glance(count - hidden, height, width, path.stat().st_size, tuple(remarks))
