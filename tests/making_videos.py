"""Write small videos and broken files for the tests, with PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def moving_frames(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colours that drift, and a bar that grows: no two frames are alike. (T, H, W, 3)"""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    still = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    frames = np.stack([np.roll(still, 2 * i, axis=1) for i in range(num_frames)])
    for i, frame in enumerate(frames):
        frame[: height // 4, : 1 + i % width] = (255, i % 256, 0)
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    hide_first: int = 0,
    times_ms: list[int] | None = None,
    aspect: Fraction | None = None,
    sound_s: float = 0.0,
) -> Path:
    """Encode frames at 25 per second, a key frame every 8; `hide_first` frames by an edit list.

    times_ms: when each frame is shown, for a variable frame rate. aspect: of a pixel. sound_s: of
    silence beside the pictures.
    """
    if hide_first:
        container_options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        else:
            stream.gop_size = 8
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if sound_s:
            _add_silence(container, sound_s)
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
        for picture, time in zip(pictures, times_ms or (), strict=False):
            picture.pts, picture.time_base = time, Fraction(1, 1000)
        for picture in [*pictures, None]:
            for packet in stream.encode(picture):
                if hide_first:
                    ticks = round(hide_first / 25 / packet.time_base)
                    packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                container.mux(packet)
    return path


def _add_silence(container: Any, seconds: float) -> None:
    stream: Any = container.add_stream("aac", rate=44100)
    for i in range(round(seconds * 44100 / 1024)):
        silence = np.zeros((2, 1024), np.float32)
        sound = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
        sound.rate, sound.pts = 44100, 1024 * i
        container.mux(stream.encode(sound))
    container.mux(stream.encode(None))


def write_growing(path: Path, frames: np.ndarray) -> Path:
    """Encode frames, then go on in the same stream with pictures of twice the height and width."""
    tick = Fraction(1, 25)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        larger: Any = av.CodecContext.create("libx264", "w")
        larger.time_base = tick
        for coder, scale in ((stream, 1), (larger, 2)):
            pictures = frames.repeat(scale, axis=1).repeat(scale, axis=2)
            coder.height, coder.width, coder.pix_fmt = *pictures.shape[1:3], "yuv420p"
            shown = [av.VideoFrame.from_ndarray(frame) for frame in pictures]
            for i, frame in enumerate(shown):
                frame.pts, frame.time_base = i, tick
            for packet in (packet for frame in [*shown, None] for packet in coder.encode(frame)):
                packet.stream, packet.time_base = stream, tick
                packet.pts, packet.dts = (
                    time + (scale - 1) * len(frames) for time in (packet.pts, packet.dts)
                )
                container.mux(packet)
    return path


def turn(path: Path, degrees: int) -> Path:
    """Ask players of an MP4 file to turn its picture counter-clockwise, as phones do."""
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    return display_as(path, cos, -sin, sin, cos)


def display_as(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the display matrix of an MP4 file: x' = ax + cy, y' = bx + dy."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # four 16.16 numbers in the header of the track
    for place, value in ((0, a), (4, b), (12, c), (16, d)):
        data[matrix + place : matrix + place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def spoil(path: Path, source: Path, frames: list[int]) -> Path:
    """Copy a video with noise in the packets of some frames, numbered as they are shown."""
    with av.open(str(source)) as container:
        packets: list[Any] = [p for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    noise = np.random.default_rng(0)
    for packet in [sorted(packets, key=lambda p: p.pts)[frame] for frame in frames]:
        at = data.index(bytes(packet)) + packet.size // 3
        data[at : at + packet.size // 2] = noise.bytes(packet.size // 2)
    path.write_bytes(data)
    return path


def write_tracks(path: Path, first: np.ndarray, second: np.ndarray) -> Path:
    """Write two video tracks, of which the second is the default one."""
    with av.open(str(path), "w") as container:
        for number, frames in enumerate((first, second)):
            stream: Any = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.disposition = av.stream.Disposition.default if number else 0  # type: ignore
        for stream, frames in zip(container.streams.video, (first, second), strict=True):
            for frame in [*frames, None]:
                picture = None if frame is None else av.VideoFrame.from_ndarray(frame)
                container.mux(stream.encode(picture))
    return path


def write_images(folder: Path, frames: np.ndarray) -> Path:
    """Write 0.png, 1.png, ..., 10.png: names that sort wrongly as plain text."""
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i}.png")
    return folder


def write_sound(path: Path) -> Path:
    """Write a second of silence: a file with sound and no picture."""
    with av.open(str(path), "w") as container:
        _add_silence(container, 1.0)
    return path


def cut(path: Path, source: Path, keep: float) -> Path:
    """Copy the first part of a file, as a download that stopped leaves it."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path
