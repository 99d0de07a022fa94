"""From a path to windows of face crops, with errors that a user understands."""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm.auto import tqdm

from maedfer_lab import files
from maedfer_lab.config import Framing, ModelConfig, check_counts, choose_framing
from maedfer_lab.data import faces as data_faces
from maedfer_lab.data.faces import FRAMINGS, Detector, FaceTracks, FaceVideo, NoFaceError
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.transforms import centre_square, to_tensor

T = TypeVar("T")
TILTED = 20  # degrees
TOLD = 5  # refused videos of which an error tells
CROPS = 8  # face crops above a timeline
SQUARE_COLOURS = ("#0072b2", "#e69f00", "#cc79a7")  # told apart by all eyes


@dataclass(frozen=True)
class Window:
    """Position of one clip of a face: frames of the face's video, times in the whole video."""

    face: int
    frames: Int[np.ndarray, " T"]
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Faces:
    """The chosen face of a video: one crop video per continuous stretch."""

    path: Path
    tracks: FaceTracks
    videos: tuple[FaceVideo, ...]

    @property
    def fps(self) -> float:
        """Frames per second; 25 if the source has no frame rate."""
        return self.tracks.fps

    def __str__(self) -> str:
        seen = sum(map(len, self.videos))
        share = seen / len(self.tracks.video)
        assumed = "" if self.tracks.video.fps else " assumed"
        parts = f" in {len(self.videos)} pieces" if len(self.videos) > 1 else ""
        return (
            f"{self.path.name}: a face in {seen} of {len(self.tracks.video)} frames "
            f"({share:.0%}){parts}, {self.tracks.fps:.4g} frames a second{assumed}"
        )

    def remarks(self, windows: Sequence[Window] = ()) -> tuple[str, ...]:
        """What limits any reading of this face, and of these windows of it; a sentence each."""
        video, crops = self.tracks.video, self.videos[0]
        notes = [x.replace("clips whose", "the video's").replace("clips", "a video") for x in
                 video.remarks if not x.endswith(("upright)", "natural order)"))]  # fmt: skip
        own = [crop.track for crop in self.videos]
        others = [track for track in self.tracks.tracks if not any(track is mine for mine in own)
                  and any(track.first < x.stop and x.first < track.stop for x in own)]  # fmt: skip
        if others:
            notes.append(f"{len(others) + 1} faces are there, of which this is one: choose with "
                        "face: largest, longest, left, right, or a number")  # fmt: skip
        side = float(np.median(crops.squares[:, 2]))
        if side < crops.height:
            notes.append(f"its crop of {side:.0f} pixels is enlarged to {crops.height}: detail is "
                        "missing")  # fmt: skip
        tilt = max((crop.track.tilt for crop in self.videos), key=abs)
        if abs(tilt) > TILTED:
            notes.append(f"the head is tilted by about {abs(tilt):.0f} degrees; models and regions "
                        "are for upright faces")  # fmt: skip
        if len(video) == 1:
            notes.append("a single picture: a clip repeats it, and nothing moves")
        short = sum(len({*w.frames.tolist()}) < len(w.frames) for w in windows)
        if short and len(video) > 1:
            notes.append(f"{short} of {len(windows)} clip(s) are longer than the face is seen, and "
                        "repeat its last frame")  # fmt: skip
        return tuple(notes)

    def windows(self, config: ModelConfig, stride: int, hop: int | None = None) -> list[Window]:
        """Cover every stretch with clips of `config.frames` frames, `stride` apart.

        hop: frames from one clip's start to the next one's; by default half of what a clip spans.
        A stretch shorter than a clip gives one clip that repeats its last frame, as in training.
        """
        check_counts(stride=stride, hop=1 if hop is None else hop)
        span, windows = config.frames * stride, []
        for face, video in enumerate(self.videos):
            last = max(len(video) - span, 0)
            for start in sorted({*range(0, last + 1, hop or max(span // 2, 1)), last}):
                reachable = (len(video) - 1 - start) // stride
                frames = start + stride * np.minimum(np.arange(config.frames), reachable)
                ends = start, min(start + span, len(video))
                seconds = (self.tracks.second(video.first + frame) for frame in ends)
                windows.append(Window(face, frames, *seconds))
        return windows

    def clips(
        self, windows: Sequence[Window], batch: int = 8, progress: bool = False
    ) -> Iterator[tuple[list[Window], Float[Tensor, "b 3 T H W"]]]:
        """Windows in temporal order and their clips (pixels in [0, 1]), `batch` at a time.

        Crops that later windows need are cached, so that the video is read once from front to back:
        seeking back means decoding from a key frame again, in some containers from the start.
        """
        windows = sorted(windows, key=lambda w: (w.face, int(w.frames[0])))
        needed = sorted({(w.face, int(frame)) for w in windows for frame in w.frames})
        held: dict[tuple[int, int], np.ndarray] = {}
        bar = tqdm(total=len(windows), desc=self.path.name, unit="clip", disable=not progress)
        done = 0
        for first in range(0, len(windows), batch):
            part = windows[first : first + batch]
            stop = bisect_right(needed, max((w.face, int(w.frames.max())) for w in part))
            for face, keys in groupby(needed[done:stop], key=lambda key: key[0]):
                numbers = [frame for _, frame in keys]
                crops = self.videos[face].read(numbers)
                held |= {(face, n): crop for n, crop in zip(numbers, crops, strict=True)}
            done = stop
            clips = [np.stack([held[w.face, int(frame)] for frame in w.frames]) for w in part]
            yield part, torch.stack([to_tensor(clip) for clip in clips])
            bar.update(len(part))
            if first + batch < len(windows):
                start = windows[first + batch].face, int(windows[first + batch].frames[0])
                held = {key: crop for key, crop in held.items() if key >= start}
        bar.close()

    def clip(self, window: Window) -> Float[Tensor, "3 T H W"]:
        """One clip, pixels in [0, 1]."""
        return to_tensor(self.videos[window.face].read(window.frames))

    def middle(self, config: ModelConfig, stride: int, at_s: float | None = None) -> Window:
        """The window nearest to second `at_s`; by default to the middle of the visible face."""
        windows = self.windows(config, stride, hop=max(1, stride))
        stop_s = self.tracks.second(len(self.tracks.video))
        if at_s is not None and not 0 <= at_s <= stop_s:
            raise ValueError(
                f"at_s={at_s} must lie between 0 and {stop_s:.2f}, the seconds of "
                f"{self.path.name}; use {stop_s / 2:.2f}"
            )
        times = np.array([(w.start_s + w.end_s) / 2 for w in windows])
        return windows[int(np.abs(times - (np.median(times) if at_s is None else at_s)).argmin())]

    def crops(
        self, first_s: float, last_s: float
    ) -> Iterator[tuple[float, int, UInt8[np.ndarray, "H W 3"]]]:
        """Crops for a timeline: second, number of the face's video, picture; none in gaps."""
        shown = range(len(self.tracks.video))
        for second in np.linspace(first_s, last_s, CROPS if last_s > first_s else 1).tolist():
            frame = bisect_right(shown, second, key=self.tracks.second) - 1
            for face, video in enumerate(self.videos):
                if video.first <= frame < video.first + len(video):
                    yield second, face, video.read([frame - video.first])[0]


def open_faces(
    path: Path | str, size_px: int, *, face: str | int = "largest", framing: Framing = "wide",
    detect: Detector = data_faces.detect_faces, progress: bool = True,
) -> Faces:  # fmt: skip
    """Track one person's face through a video and crop it.

    path: a video file, a folder of images, or an image (a still clip).
    size_px: side of the crops in pixels.
    face: largest, longest, left, right, or a track's number.
    framing: wide (or face), voxceleb2, official, or whole: the middle square of the picture as it
        is, for videos that are face crops already.

    Raises ValueError (VideoError, NoFaceError) with a sentence that says what to do.
    """
    framing = choose_framing(framing, "wide", "voxceleb2", "official", "whole")
    face = int(face) if isinstance(face, str) and face.isdecimal() else face
    path = Path(path).expanduser()
    video = open_video(path)
    if framing == "whole":
        box, frame = centre_square(video.height, video.width), FRAMINGS["official"]
        square = (float(box.left), float(box.top), float(box.width), float(box.height))
        chosen = (data_faces.FaceTrack([0], [square], first=0, stop=len(video)),)
        tracks = FaceTracks(video, chosen, (0,))
    else:
        tracks, frame = data_faces.track_faces(video, detect, progress=progress), FRAMINGS[framing]
        chosen = tracks.pick(face)
    videos = tuple(FaceVideo(tracks, track, size_px, frame) for track in chosen)
    return Faces(video.path, tracks, videos)


def face_clip(path: Path | str, config: ModelConfig, stride: int) -> Float[Tensor, "3 T H W"]:
    """The middle clip of the largest face of a video; in [0, 1]."""
    faces = open_faces(path, config.size_px, progress=False)
    return faces.clip(faces.middle(config, stride))


def over_videos(
    videos: Sequence[Path | str], folder: Path | None, work: Callable[[Path, str], T]
) -> tuple[list[T], tuple[str, ...]]:
    """Call `work(path, name)` on every video; return results, and one sentence per refused video.

    name: of its files in `folder`, where frames without a detected face are saved; None: nowhere.
    Raises ValueError if every video is refused.
    """
    results: list[T] = []
    refused: list[str] = []
    paths = [Path(video).expanduser() for video in videos]
    for path, name in zip(paths, unique_names(paths), strict=True):
        try:
            results.append(work(path, name))
        except NoFaceError as error:
            picture = folder and folder / f"{name}_no_face.png"
            refused.append(keep_pictures(error, picture) if picture else str(error))
        except (ValueError, OSError, EOFError, RuntimeError, MemoryError) as error:
            said = str(error) or type(error).__name__
            refused.append(said if path.name in said else f"{path.name}: {said}")
    if not results:
        more = [f"and {len(refused) - TOLD} more videos"] * (len(refused) > TOLD)
        raise ValueError("; ".join([*refused[:TOLD], *more]))
    return results, tuple(refused)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A file name for the results of each video: its own, numbered if two are equal."""
    names: list[str] = []
    for path in paths:
        stem = path.stem or path.resolve().name
        numbered = (f"{stem}-{i}" if i > 1 else stem for i in count(1))
        names.append(next(name for name in numbered if name not in names))
    return names


def keep_pictures(error: NoFaceError, path: Path) -> str:
    """Write the frames in which no face was found to `path`; the error's sentence with it."""
    height = max(map(len, error.pictures))
    sheet = [np.pad(x, ((0, height - len(x)), (0, 0), (0, 0)), constant_values=255)
             for x in error.pictures]  # fmt: skip
    files.write_aside(path, files.png_bytes(np.hstack(sheet)))
    return f"{error}; some of these frames: {path}"


def result_path(out: Path | str | None, *suffixes: str) -> Path | None:
    """Path of a result; raises before any work if it cannot be written."""
    if out is None:
        return None
    out = Path(out).expanduser()
    if out.suffix.lower() not in (suffixes or (out.suffix.lower(),)):
        said = f"out={str(out)!r} must end in {', '.join(suffixes)}"
        raise ValueError(f"{said}; try {out.stem}{suffixes[0]}")
    files.check_writable(out)
    return out


def write_rows(path: Path, rows: Sequence[dict[str, Any]], about: str, data: str) -> None:
    """Write a CSV of rows below comment lines (#) with `about` and the commit."""
    text = io.StringIO()
    source = files.provenance(profile="none", seed=0, device="cpu", data=data)
    for line in (*about.splitlines(), f"commit {source['commit']}"):
        text.write(f"# {line}\n")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    files.write_aside(path, files.text_bytes(text.getvalue(), exact=True))


def steps_for(stride: int, fps: float, asked: int | None = None) -> int:
    """Stride in frames of this video: `asked`, or the equivalent of the model's `stride`.

    The model's stride assumes about 25 frames a second; at 50 or 60 it is doubled, so that a clip
    spans the same time.
    """
    if asked is not None or fps <= 1.5 * data_faces.USUAL_FPS:
        return stride if asked is None else asked
    return max(1, round(stride * fps / data_faces.USUAL_FPS))


def framing_pictures(path: Path | str, size_px: int = 160) -> dict[str, Any]:
    """A frame with the square of every framing, and their crops; for `figures.draw_rows`."""
    faces, crops = open_faces(path, size_px, progress=False), []
    track, middle = faces.videos[0].track, len(faces.videos[0]) // 2
    whole = Image.fromarray(faces.tracks.video.read([track.first + middle])[0])
    for colour, framing in zip(SQUARE_COLOURS, FRAMINGS.values(), strict=True):
        video = FaceVideo(faces.tracks, track, size_px, framing)
        top, left, side = video.squares[middle]
        box = (left, top, left + side - 1, top + side - 1)
        ImageDraw.Draw(whole).rectangle(box, outline=colour, width=max(2, whole.height // 100))
        crop = Image.fromarray(video.read([middle])[0])
        ImageDraw.Draw(crop).rectangle((0, 0, size_px - 1, size_px - 1), outline=colour, width=4)
        crops.append(np.asarray(crop))
    row = {"label": "", "pictures": [files.pack_picture(x) for x in (np.asarray(whole), *crops)]}
    return {"rows": [row], "columns": ["frame", *FRAMINGS]}
