"""Read a video file through PyAV (FFmpeg): any container and codec; the reference for intact files.

Decoding from front to back defines the frames; seeking must give the same frames.
"""

from __future__ import annotations

import mmap
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import av as library
import cv2
import numpy as np

from maedfer_lab.data.video import CLEAR, MOST_PIXELS, VideoError, VideoReader, is_starved

av: Any = library  # its types tell half of it
SOUND_S = 0.5  # by which sound may outlast the pictures
EARLY = 0.8  # least share of a file whose end the pictures reach
JUMP_S = 10.0  # between frames, with JUMP_GAPS usual gaps: the clock was set anew
JUMP_GAPS = 50
UNEVEN = 1.5  # longest over shortest time between frames, from which on the rate is variable
RATE_OFF = 0.1  # by which a stated rate may differ from that of the times without a word
DISORDER = 32  # frames that a decoder may give too early after damage
UNALIGNED = 1  # AV_CODEC_FLAG_UNALIGNED: crop to the pixel, not to what is quick
PACKETS = (188, 192, 204)  # bytes, of transport streams
HDR = (16, 18)  # transfer curves PQ and HLG
# No playlists, texts, numbered images or devices: they would open other files than the one named.
FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc,m4v,mjpeg,gif,mxf,dv,nut,ivf,obu,"
    "yuv4mpegpipe,rm"
)
HEADS = re.compile(  # with which an MP4, MKV, FLV, WMV or AVI begins
    rb"(?s)\0\0\0.ftyp|\x1aE\xdf\xa3.{,60}(?:webm|matroska)|FLV\x01[\1\4\5]\0\0\0\t|"
    rb"0&\xb2u\x8ef\xcf\x11|RIFF....AVI "
)
PICTURES = {"heic", "heix", "heim", "heis", "mif1", "msf1", "avif", "avis"}  # brands, not of films

TURNED = "clips turned or mirrored by their metadata (read upright)"
UNEVEN_RATE = "clips of variable frame rate (frames are counted, not timed)"
WRONG_RATE = "clips whose stated frame rate is wrong (the rate is taken from the frames' times)"
JUMPS = "clips whose time stamps jump (a jump counts as one frame)"
TRACKS = "clips with several video tracks (the default one is read)"
OBLONG = "clips whose pixels are not square (read as stored, so faces are stretched)"
COMBED = "clips with interlaced frames (read without deinterlacing: motion is combed)"
PALE = "clips in HDR (read without tone mapping: pale)"


class _Shown(NamedTuple):
    """A frame in the order in which it is shown; one that cannot be decoded is not whole."""

    pts: int | None
    is_key: bool
    is_whole: bool


class PyAVReader(VideoReader):
    """A video file through PyAV (FFmpeg): forward decoding, with jumps to exact key frames."""

    def __init__(self, path: Path, thorough: bool = False) -> None:
        """Count the frames and decode the first.

        MP4 and MOV carry a table of their frames; other containers may promise more or fewer than
        they give and are counted by decoding them once, which finds their `damage` as well.

        thorough: decode MP4 and MOV once too.
        """
        self.path, self.is_plain = path, False
        # Threads of whole frames find damage by chance; as fast where many files are looked at.
        self._threads, self._left_out = "SLICE" if thorough else "AUTO", 0
        self._end, self._torn = 0, 0  # where in the file the last frame lies; how many are torn
        self._open()
        self._times: dict[int, int] | None = None
        self._keys, self._bad = [0], set[int]()
        self._kinds = set[tuple[int, int, str]]()  # widths, heights and formats
        has_table = "mp4" in self._container.format.name.split(",")
        ticks = self._index_table() if has_table else None
        if ticks is None:
            ticks = self._index_by_decoding("matroska" in self._container.format.name)
        elif thorough:
            seen = {frame.pts for frame in self._decode_all()[0] if frame.is_whole}
            self._bad = {place for place, pts in enumerate(ticks) if pts not in seen}
        if self._length == 0 or len(self._bad) == self._length:
            raise VideoError(path, "it has no frame that can be decoded")
        self._tell(ticks)
        self._jump(0)
        first = self._decoded_frame(min(set(range(len(self._bad) + 1)) - self._bad))
        # A matrix inside H.264 or HEVC may come once, for all frames.
        self._matrix = bytes(first.side_data.get("DISPLAYMATRIX", b""))
        self.height, self.width = _upright(first, b"").shape[:2]
        is_clear = any(part.is_alpha for part in first.format.components)
        odd = {COMBED: first.interlaced_frame, TURNED: self._matrix, CLEAR: is_clear}
        self.remarks += tuple(remark for remark, is_so in odd.items() if is_so)
        self.decord_agrees = (
            self.is_plain
            and not self._matrix
            and len(self._kinds) == len(self._container.streams.video) == 1
            and self._stream.codec_context.name in ("h264", "mpeg4")
            and first.format.name in ("yuv420p", "yuvj420p")
        )

    def _open(self) -> None:
        self._container, self._stream = open_container(self.path)
        self._stream.thread_type = self._threads

    # --- indexing ---

    def _index_table(self) -> list[int] | None:
        """Index frames by their times in the file's table; return these, None if two are alike.

        `is_plain`: no edit list hides a frame, and no group of pictures is open.
        """
        shown: list[int | None] = []
        keys: list[int | None] = []
        count, whole, is_plain = 0, 0, True
        with suppress(av.FFmpegError):  # a cut is judged below, by what is missing
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                count += 1
                self._end = max(self._end, packet.pos or 0)
                whole += not packet.is_corrupt
                if packet.is_keyframe:
                    keys.append(packet.pts)
                elif not keys or None in (keys[-1], packet.pts) or packet.pts < keys[-1]:
                    is_plain = False
                if not packet.is_discard:
                    shown.append(packet.pts)
        claimed = max(self._stream.frames, count)
        if whole < claimed:  # those that an edit list leaves out of its film are no loss
            container, stream = open_container(self.path, ignore_editlist="1")
            with suppress(av.FFmpegError):
                whole = sum(p.size > 0 and not p.is_corrupt for p in container.demux(stream))
        if whole < claimed:
            raise VideoError(
                self.path,
                f"frame {whole} of {claimed} cannot be read: the file ends early or is damaged "
                "(a download that stopped?); copy it again",
            )
        times = sorted(time for time in set(shown) if time is not None)
        if len(times) < len(shown):
            return None
        self._times = {time: position for position, time in enumerate(times)}
        self._length = len(times)
        self._keys = sorted({0, *(self._times[key] for key in keys if key in self._times)})
        self.is_plain = is_plain and len(shown) == claimed
        return times

    def _index_by_decoding(self, can_seek: bool) -> list[int] | None:
        frames, clock = self._decode_all()
        whole = [place for place, frame in enumerate(frames) if frame.is_whole]
        first, last = (whole[0], whole[-1]) if whole else (0, -1)
        self._left_out, self._torn = first, len(frames) - 1 - last  # at the beginning, at the end
        frames = frames[first : last + 1]
        self._length = len(frames)
        self._bad = {place for place, frame in enumerate(frames) if not frame.is_whole}
        times = [frame.pts for frame in frames]
        known = [time for time in times if time is not None]
        if len(known) == len(times) and known == sorted(set(known)):
            self._times = {time: position for position, time in enumerate(known)}
            if can_seek:
                self._keys = sorted({0, *(p for p, frame in enumerate(frames) if frame.is_key)})
            return known
        # AVI tells when a frame is decoded, not when it is shown: the order makes up for it.
        if len(clock) == len(times) and clock == sorted(set(clock)):
            return clock
        return known if len(known) == len(times) else None

    def _decode_all(self) -> tuple[list[_Shown], list[int]]:
        """All frames as shown, and the decoding times of the packets, where they are told."""
        found, lost, clock = self._pass()
        if self._threads == "AUTO" and (lost or not all(frame.is_whole for frame in found)):
            self._threads = "SLICE"  # threads of whole frames lose good frames beside damaged ones
            found, lost, clock = self._pass()
        times = [frame.pts for frame in found if frame.pts is not None]
        if lost and len(times) == len(found) and times == sorted(set(times)):
            missing = [_Shown(pts, False, False) for pts in lost - set(times)]
            found = sorted([*found, *missing], key=lambda frame: frame.pts or 0)
        return found, clock

    def _pass(self) -> tuple[list[_Shown], set[int], list[int]]:
        found: list[_Shown] = []
        sent, clock, failed = set[int](), [], 0
        self._open()
        for packet, frames in _decoded_packets(self._container, self._stream):
            if packet is not None and packet.size and not packet.is_discard:
                sent |= {packet.pts} - {None}
                self._end = max(self._end, packet.pos or 0)
                clock += [] if packet.dts is None else [packet.dts]
            failed += packet is None or frames is None or packet.is_corrupt
            for frame in frames or ():
                found.append(_Shown(frame.pts, bool(frame.key_frame), not frame.is_corrupt))
                self._kinds.add((frame.width, frame.height, frame.format.name))
        return found, sent - {frame.pts for frame in found} if failed else set(), clock

    # --- what the file says of itself ---

    def _tell(self, ticks: Sequence[int] | None) -> None:
        """Set times, rate, remarks and damage."""
        stream = self._stream
        odd: dict[str, bool] = dict.fromkeys((JUMPS, WRONG_RATE, UNEVEN_RATE), False)
        stated = stream.average_rate or stream.guessed_rate
        self.fps, end_s = float(stated) if stated else None, 0.0
        if ticks is not None:
            unit, gaps = float(stream.time_base), np.diff(np.array(ticks, np.float64))
            usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0
            jumps = (gaps <= 0) | (gaps > np.maximum(JUMP_S / unit, JUMP_GAPS * usual))
            gaps, odd[JUMPS] = np.where(jumps, usual, gaps), bool(jumps.any())
            self.times = np.concatenate([[0.0], np.cumsum(gaps)]) * unit
            end_s = max(ticks) * unit
            if len(gaps):
                rate = len(gaps) / self.times[-1]
                rounding = 2 * unit / self.times[-1]
                if self.fps is None or abs(self.fps / rate - 1) > 0.001 + rounding:
                    usual = 1 / (float(np.median(gaps)) * unit)
                    off = min(abs((self.fps or usual) / true - 1) for true in (rate, usual))
                    odd[WRONG_RATE], self.fps = off > RATE_OFF + rounding, float(rate)
                odd[UNEVEN_RATE] = gaps.max() > UNEVEN * gaps.min() and np.ptp(gaps) > 2
        odd[TRACKS] = len(_pictures(self._container)) > 1
        odd[OBLONG] = stream.sample_aspect_ratio not in (None, 0, 1)
        odd[PALE] = stream.codec_context.color_trc in HDR
        self.remarks = tuple(remark for remark, is_so in odd.items() if is_so)
        sentences = []
        if self._bad:
            places = sorted(self._bad)
            named = ", ".join(map(str, places[:8])) + ", ..." * (len(places) > 8)
            sentences.append(
                f"{len(places)} of {self._length} frames are damaged and cannot be read ({named})"
            )
        for torn, place in (self._left_out, "beginning"), (self._torn, "end (was it cut off?)"):
            sentences += [f"{torn} damaged frame(s) at its {place} are left out"] * bool(torn)
        if len({kind[:2] for kind in self._kinds}) > 1:
            sentences.append("its size changes: only frames of the first one's size can be read")
        if self._end and (more := _second_film(self.path, self._end)):
            what = "a second film was joined to the first"
            sentences.append(f"{what} (from byte {more:,}) and is not read: keep them in two files")
        if early := self._ends_early(end_s):
            sentences.append(f"{early}; these are used (was it cut off?)")
        self.damage = "; ".join(sentences) or None

    def _ends_early(self, last_s: float) -> str | None:
        """Say how the frames, the last shown at `last_s`, fall short of what the file promises."""
        container, stream, slack = self._container, self._stream, 0.0
        tag = stream.metadata.get("DURATION")  # of the pictures alone, in Matroska and WebM
        if tag and re.fullmatch(r"\d+:\d+:\d+(\.\d+)?", tag):
            hours, minutes, seconds = tag.split(":")
            promised = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        elif container.format.name == "avi":
            promised = float(stream.frames * stream.time_base)
        elif container.format.name == "asf" and not container.duration:
            return f"it is of another size than it states; {self._length} frames were found"
        elif {"matroska", "mp4", "flv", "asf"} & set(container.format.name.split(",")):
            promised, slack = (container.duration or 0) / 1e6, SOUND_S
            slack = 1e9 if stream.frames else min(slack, (1 - EARLY) * promised)
        elif container.format.name == "mpegts" and all(container.size % n for n in PACKETS):
            return f"it ends within a packet, after {self._length} frames"
        else:
            return None  # no promise: an estimate is none
        room = 1.5 if container.format.name == "avi" else 2.5  # frames; AVI counts them exactly
        if last_s + slack + room / (self.fps or 10) >= promised:
            return None
        return f"it promises {promised:.2f} s, but its {self._length} frames end at {last_s:.2f} s"

    # --- reading ---

    def _jump(self, key: int) -> None:
        """Let decoding go on at key frame number ``key``; 0 opens the file afresh."""
        if key == 0 or self._times is None:
            self._open()
        else:
            self._container.seek(list(self._times)[key], stream=self._stream, backward=True)
        self._next, self._failed = key, False
        self._decoded = self._numbered()

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """Yield (frame number, whole frame): by its time if times are known, else by counting."""
        count = -self._left_out
        for _, frames in _decoded_packets(self._container, self._stream):
            self._failed = self._failed or frames is None
            for frame in frames or ():
                position = count if self._times is None else self._times.get(frame.pts, -1)
                count += 1
                self._failed = self._failed or frame.is_corrupt
                if position >= 0 and not frame.is_corrupt:
                    yield position, frame

    def _decoded_frame(self, target: int) -> Any:
        key = self._keys[bisect_right(self._keys, target) - 1]
        # A jump that overshoots (seldom) or meets damage gets a second try from the start.
        for start in () if target in self._bad else dict.fromkeys((key, 0)):
            if not start <= self._next <= target:
                self._jump(start)
            for position, frame in self._decoded:
                self._next = max(self._next, position + 1)
                if position == target:
                    return frame
                if position > target + (DISORDER if self._failed else 0):
                    break
            self._next = self._length  # nothing can follow: the next turn has to jump
            if self._failed and self._threads == "AUTO":
                self._threads = "SLICE"  # threads of whole frames lose good ones beside damage
                self._jump(0)
                return self._decoded_frame(target)
        reason = "its data are damaged" if self._failed or self._bad else "the decoder gives none"
        raise VideoError(self.path, f"frame {target} of {self._length} cannot be read: {reason}")

    def _frame(self, index: int) -> np.ndarray:
        return _upright(self._decoded_frame(index), self._matrix)


def open_container(path: Path, **options: str) -> tuple[Any, Any]:
    """Open a container and find its moving picture: the default track, no cover art."""
    # PyAV before 19 raises for a title that is no UTF-8; later ones always read on.
    lenient = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    options |= {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        if path.stat().st_size == 0:
            raise VideoError(path, "the file is empty (0 bytes)")
        container: Any = av.open(str(path.absolute()), options=options, **lenient)
    except (av.InvalidDataError, av.ArgumentError) as error:
        raise VideoError(
            path, "it is not a video, or was cut off so that its table of frames is missing"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"it cannot be opened: {error}") from error
    streams = _pictures(container)
    if container.metadata.get("major_brand") in PICTURES:  # their streams are tiles, or thumbnails
        raise VideoError(path, "it is a HEIC or AVIF picture; save it as .jpg or .png")
    if not streams:
        reason = "it holds sound but no picture" if container.streams.audio else "it has no picture"
        raise VideoError(path, reason)
    stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
    codec = stream.codec_context
    if codec is None:
        raise VideoError(path, "its pictures are coded in a way that this FFmpeg cannot decode")
    if codec.width * codec.height > MOST_PIXELS:
        raise VideoError(
            path, f"its {codec.width} x {codec.height} pixels are more than {MOST_PIXELS:,}"
        )
    codec.options = {"max_pixels": str(MOST_PIXELS)}
    codec.flags |= UNALIGNED
    return container, stream


def _pictures(container: Any) -> list[Any]:
    cover_art = av.stream.Disposition.attached_pic
    return [s for s in container.streams.video if not s.disposition & cover_art]


def _decoded_packets(container: Any, stream: Any) -> Iterator[tuple[Any, list[Any] | None]]:
    """Yield (packet, its frames): None instead of frames on an error, from which it reads on."""
    packets, errors = container.demux(stream), 0
    while errors < 3:  # in a row: where the container cannot be read, it cannot be read on
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            packets, errors = container.demux(stream), errors + 1
            yield None, None
            continue
        if packet is None:
            return
        errors = 0
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if is_starved(error):
                raise VideoError(Path(container.name), f"it cannot be decoded: {error}") from error
            frames = None
        yield packet, frames


def _upright(frame: Any, usual: bytes) -> np.ndarray:
    """Its picture, turned and mirrored as the ffmpeg program does (x' = ax + cy, y' = bx + dy)."""
    picture = frame.to_ndarray(format="rgb24")
    if not (data := bytes(frame.side_data.get("DISPLAYMATRIX", usual))):
        return picture
    a, b, c, d = np.frombuffer(data, "i4")[[0, 1, 3, 4]].astype(float).tolist()
    across, down = np.hypot(a, c), np.hypot(b, d)
    if not across or not down:
        return picture
    theta = round(float(np.degrees(np.arctan2(b / down, a / across))))
    if theta % 90:  # an odd angle: about the middle, the size is kept
        height, width = picture.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -theta, 1.0)
        return cv2.warpAffine(picture, turn, (width, height))
    if theta % 180:
        picture = picture.swapaxes(0, 1)
        right, up = c < 0, b < 0
    else:
        right, up = a < 0, d < 0
    picture = picture[:, ::-1] if right else picture
    return picture[::-1] if up else picture


def _second_film(path: Path, after: int) -> int:
    """Where in a file another begins, as after ``cat a.mp4 b.flv``; 0 for nowhere."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next((head.start() for head in HEADS.finditer(data, after)), 0)
