"""Read a video file through PyAV (FFmpeg): any container and codec, and the judge of what is whole.

What PyAV decodes from front to back is what a frame *is*; every short cut here (counting without
decoding, jumping to a key frame) is taken only where it leads to the same frame.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from maedfer_lab.data.video_reader import VideoError, VideoReader

SOUND_S = 0.5  # by which sound may outlast the pictures


class PyAVReader(VideoReader):
    """A video file through PyAV (FFmpeg): forward decoding, with jumps to exact key frames."""

    backend = "pyav"

    def __init__(self, path: Path) -> None:
        """Count the frames and decode the first.

        MP4 and MOV carry a table of their frames, so counting costs milliseconds. Other containers
        may promise more or fewer frames than they give and are counted by decoding them once; a
        warning says so where the pictures end early, as in a Matroska file that was cut off.
        """
        import av

        self._av: Any = av
        self.path = path
        self._container, self._stream = open_container(av, path)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        has_table = "mp4" in self._container.format.name.split(",")
        self._times: dict[int, int] | None = None
        self._keys = [0]
        is_plain = has_table and self._index_table()
        if self._times is None:
            self._index_by_decoding(can_seek="matroska" in self._container.format.name)
        if self._length == 0:
            raise VideoError(path, "it has no frame that can be decoded")
        if early := ends_early(self._container, self._stream, self._length, self._end_s):
            warnings.warn(f"{path}: {early}; these are used (was it cut off?)", stacklevel=3)
        if self._times is not None:
            shown = np.array(list(self._times), dtype=np.float64)
            self.times = (shown - shown[0]) * float(self._stream.time_base)
        self._jump(0)
        first = self._frame_at(0)
        self.height, self.width = first.shape[:2]
        codec = self._stream.codec_context
        self.decord_agrees = (
            is_plain
            and self._rotation == 0
            and codec.name in ("h264", "mpeg4")
            and codec.pix_fmt in ("yuv420p", "yuvj420p")
        )

    def _index_table(self) -> bool:
        """Index frames by their times in the file's table.

        Returns whether the stream is plain: no frame hidden by an edit list, none that follows a
        key frame in the file but is shown before it (an open group of pictures), and one size.
        """
        shown: list[int | None] = []
        keys: list[int | None] = []
        count, whole, in_order, steady = 0, 0, True, True
        with suppress(self._av.FFmpegError):  # a cut is judged below, by what is missing
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                count += 1
                whole += not packet.is_corrupt
                if packet.is_keyframe:
                    keys.append(packet.pts)
                    steady = steady and not _starts_anew(bytes(packet), self._stream.codec_context)
                elif not keys or None in (keys[-1], packet.pts) or packet.pts < keys[-1]:
                    in_order = False
                if not packet.is_discard:
                    shown.append(packet.pts)
        claimed = max(self._stream.frames, count)
        if whole < claimed:
            raise VideoError(
                self.path,
                f"frame {whole} of {claimed} cannot be read: the file ends early or is damaged "
                "(a download that stopped?); copy it again",
            )
        times = sorted(time for time in set(shown) if time is not None)
        if len(times) < len(shown):
            return False
        self._times = {time: position for position, time in enumerate(times)}
        self._length = len(times)
        self._end_s = float(times[-1] * self._stream.time_base) if times else 0.0
        self._keys = sorted({0, *(self._times[key] for key in keys if key in self._times)})
        return in_order and steady and len(shown) == count

    def _index_by_decoding(self, can_seek: bool) -> None:
        self._jump(0)
        times, keys = [], []
        for position, frame in self._decoded:
            times.append(frame.pts)
            if frame.key_frame:
                keys.append(position)
        if self._damage:
            raise VideoError(self.path, f"frame {len(times)} cannot be read: {self._damage[0]}")
        self._length = len(times)
        self._end_s = float(max((t or 0 for t in times), default=0) * self._stream.time_base)
        if can_seek and None not in times and times == sorted(set(times)):
            self._times = {time: position for position, time in enumerate(times)}
            self._keys = sorted({0, *keys})

    def _jump(self, key: int) -> None:
        """Let decoding go on at key frame number ``key``; 0 opens the file afresh."""
        if key == 0 or self._times is None:
            self._container, self._stream = open_container(self._av, self.path)
            self._stream.thread_type = "AUTO"
        else:
            self._container.seek(list(self._times)[key], stream=self._stream, backward=True)
        self._next = key
        self._damage: list[str] = []
        self._decoded = _decode(self._av, self._container, self._stream, self._times, self._damage)

    def _frame_at(self, target: int) -> np.ndarray:
        key = self._keys[bisect_right(self._keys, target) - 1]
        # A jump that overshoots (seldom) or meets damage gets a second try from the start.
        for start in dict.fromkeys((key, 0)):
            if not start <= self._next <= target:
                self._jump(start)
            for position, frame in self._decoded:
                self._next = position + 1
                if position == target:
                    return self._upright(frame)
                if position > target:
                    break
            reason = self._damage[0] if self._damage else "the decoder gave no picture for it"
            self._next = self._length  # nothing can follow: the next turn has to jump
        raise VideoError(self.path, f"frame {target} of {self._length} cannot be read: {reason}")

    def _upright(self, frame: Any) -> np.ndarray:
        self._rotation = round(frame.rotation / 90) % 4
        return np.rot90(frame.to_ndarray(format="rgb24"), self._rotation)

    def _read(self, indices: list[int]) -> np.ndarray:
        frames = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        for row, index in enumerate(indices):
            frame = self._frame_at(index)
            if frame.shape != frames.shape[1:]:
                raise VideoError(
                    self.path,
                    f"frame {index} is {frame.shape[1]} x {frame.shape[0]} pixels, the first is "
                    f"{self.width} x {self.height}: the size changes within the video",
                )
            frames[row] = frame
        return frames


def open_container(av: ModuleType, path: Path) -> tuple[Any, Any]:
    """Open a container and find its moving picture (cover art of a song is none)."""
    # PyAV before 19 raises for a title that is no UTF-8; later ones always read on.
    lenient = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        if path.stat().st_size == 0:
            raise VideoError(path, "the file is empty (0 bytes)")
        container = av.open(str(path.absolute()), **lenient)
    except av.InvalidDataError as error:
        raise VideoError(
            path, "it is not a video, or was cut off so that its table of frames is missing"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"it cannot be opened: {error}") from error
    if container.format.name == "tty":  # FFmpeg would film the text of a .txt file
        raise VideoError(path, "it is a text file, not a video")
    cover_art = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover_art]
    if not streams:
        reason = "it holds sound but no picture" if container.streams.audio else "it has no picture"
        raise VideoError(path, reason)
    if streams[0].codec_context is None:
        raise VideoError(path, "its pictures are coded in a way that this FFmpeg cannot decode")
    return container, streams[0]


def ends_early(container: Any, stream: Any, count: int, last_s: float) -> str | None:
    """Say how a file's `count` pictures, the last shown at `last_s`, fall short of its promise.

    None if they do not, or if the container stores no promise (an estimate is none).
    """
    if container.format.name == "avi" and count < stream.frames:
        return f"it promises {stream.frames} frames, but only {count} can be read"
    told = stream.metadata.get("DURATION")  # of the pictures alone, in Matroska and WebM
    if told and re.fullmatch(r"\d+:\d+:\d+(\.\d+)?", told):
        hours, minutes, seconds = told.split(":")
        promised, slack = 3600 * int(hours) + 60 * int(minutes) + float(seconds), 0.0
    elif {"matroska", "mp4"} & set(container.format.name.split(",")) and not stream.frames:
        promised, slack = (container.duration or 0) / 1e6, SOUND_S
    else:
        return None
    rate = stream.average_rate or stream.guessed_rate
    if last_s + slack + 2.5 / float(rate or 10) >= promised:
        return None
    return f"it promises {promised:.2f} s, but its {count} frames end at {last_s:.2f} s"


def _starts_anew(data: bytes, codec: Any) -> bool:
    """Whether an MP4's key frame brings other picture parameters, such as a size, than the file's.

    decord would shrink what follows to the first size, PyAV names the frame.
    """
    known = codec.extradata or b""
    if codec.name != "h264" or len(known) < 5:
        place = data.find(b"\0\0\1\x20")  # MPEG-4's header of a video object layer
        return place >= 0 and data[place : place + 12] not in known
    size_bytes, place = (known[4] & 3) + 1, 0
    while place + size_bytes < len(data):
        start = place + size_bytes
        place = start + int.from_bytes(data[place:start], "big")
        if data[start] & 31 == 7 and data[start:place] not in known:  # a sequence parameter set
            return True
    return False


def _decode(
    av: ModuleType, container: Any, stream: Any, times: dict[int, int] | None, damage: list[str]
) -> Iterator[tuple[int, Any]]:
    """Yield (frame number, frame); on an error, note it in ``damage`` and end.

    Frames are numbered by their time if ``times`` is known, else by counting. Frames that the
    decoder itself marks as corrupt are left out.
    """
    count = 0
    packets = container.demux(stream)
    while not damage:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except av.FFmpegError as error:
            damage.append(f"its data are damaged ({error.strerror})")
            frames = []
            with suppress(av.FFmpegError):  # frames before the damage still inside the decoder
                frames = stream.codec_context.decode(None)
        for frame in frames:
            if frame.is_corrupt:
                continue
            position = count if times is None else times.get(frame.pts, -1)
            count += 1
            if position >= 0:
                yield position, frame
