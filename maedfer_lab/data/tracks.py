"""Follow faces through a video: one smooth square per person, read like a video of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from tqdm.auto import tqdm

from maedfer_lab.data.cuts import SceneChanges
from maedfer_lab.data.framing import Detector, FaceBox, detect_faces, overlap
from maedfer_lab.data.video import VideoReader

LOOK_EVERY_S = 0.2
USUAL_FPS = 25.0  # of sources without a clock, such as folders of images
SMOOTH_S = 0.25  # deviation of the Gaussian that smooths a track
REACH = 1.0  # of its own size a face may move away from where it was expected
GROWTH = 1.6  # factor by which its size may differ
CROSSING = 0.25  # overlap at which two faces can no longer be told apart
CHUNK_BYTES = 64_000_000  # frames in memory at a time

Ending = Literal["end of the video", "face lost", "scene cut", "another face crosses"]
Pick = Literal["largest", "longest", "left", "right"]


class NoFaceError(ValueError):
    """No face was found. `looked`: frame numbers; `pictures`: three of those frames."""

    def __init__(self, name: str, looked: Sequence[int], pictures: Sequence[np.ndarray]) -> None:
        shown = [str(frame) for frame in looked[:8]]
        if len(looked) > len(shown):
            shown += ["...", str(looked[-1])]
        super().__init__(
            f"{name}: no face was found in the {len(looked)} frame(s) looked at "
            f"({', '.join(shown)}); faces must be photographed (not drawn), from the front or half "
            "to the side, and at least about a tenth of the picture high"
        )
        self.looked, self.pictures = tuple(looked), tuple(pictures)


@dataclass
class FaceTrack:
    """One face, followed without a long gap: frames in which it was found, and its boxes.

    looks: frame numbers, rising. boxes: (left, top, width, height) in pixels at those frames.
    ending: why it stops.
    """

    looks: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    ending: Ending = "end of the video"
    first: int = 0
    stop: int = 0

    def __len__(self) -> int:
        """Count the frames it spans."""
        return self.stop - self.first

    @property
    def size_px(self) -> float:
        """Median height of the face in pixels."""
        return float(np.median([box[3] for box in self.boxes]))

    @property
    def left_px(self) -> float:
        """Median left edge of the face in pixels."""
        return float(np.median([box[0] for box in self.boxes]))

    def smooth_boxes(self, fps: float) -> Float[np.ndarray, "n 4"]:
        """Boxes of all its frames: between looks on a line, then smoothed over time."""
        frames = np.arange(self.first, self.stop)
        boxes = np.stack(
            [np.interp(frames, self.looks, side) for side in zip(*self.boxes, strict=True)], 1
        )
        sigma = SMOOTH_S * fps
        reach = np.arange(-round(3 * sigma), round(3 * sigma) + 1)
        bell = np.exp(-((reach / max(sigma, 1e-6)) ** 2) / 2)
        padded = np.pad(boxes, ((len(reach) // 2,) * 2, (0, 0)), mode="edge")
        bell /= bell.sum()
        return np.stack([np.convolve(side, bell, mode="valid") for side in padded.T], 1)

    def _predicted(self, frame: int) -> FaceBox:
        """Where the face should be: its last place and half of its last speed."""
        left, top, width, height = self.boxes[-1]
        if len(self.looks) > 1:
            steps = 0.5 * (frame - self.looks[-1]) / (self.looks[-1] - self.looks[-2])
            left += steps * (left - self.boxes[-2][0])
            top += steps * (top - self.boxes[-2][1])
        return FaceBox(left, top, width, height, 1.0)


@dataclass(frozen=True)
class FaceTracks:
    """All tracks of a video, in the order in which the faces appear (then from the left)."""

    video: VideoReader
    tracks: tuple[FaceTrack, ...]
    looks: tuple[int, ...]

    @property
    def fps(self) -> float:
        """Frames per second; 25 where the source has no clock."""
        return self.video.fps or USUAL_FPS

    def second(self, frame: int) -> float:
        """Time at which a frame is shown; of the frame count itself, the end of the video."""
        times = self.video.times
        if times is None:
            return frame / self.fps
        if frame < len(times):
            return float(times[frame])
        last = times[-1] - times[-2] if len(times) > 1 else 1 / self.fps
        return float(times[-1] + last)

    def __str__(self) -> str:
        lines = [
            f"{self.video.path.name}: {len(self.tracks)} face track(s) in {len(self.video)} frames"
        ]
        for i, track in enumerate(self.tracks):
            start, end = self.second(track.first), self.second(track.stop)
            lines.append(
                f"  {i}: {start:6.2f} to {end:6.2f} s, face {track.size_px:.0f} px high, "
                f"{track.ending}"
            )
        return "\n".join(lines)

    def pick(self, which: Pick | str | int = "largest") -> tuple[FaceTrack, ...]:
        """Tracks of one person at most at a time, in order of time.

        which: the largest, longest, left-most or right-most face wins wherever several are seen;
            a number takes that one track.
        """
        if isinstance(which, int):
            if not 0 <= which < len(self.tracks):
                raise ValueError(
                    f"face={which} must lie in [0, {len(self.tracks)}), the tracks of "
                    f"{self.video.path.name}; use 0"
                )
            return (self.tracks[which],)
        ranks = {
            "largest": lambda track: -track.size_px * len(track) ** 0.5,
            "longest": lambda track: -len(track),
            "left": lambda track: track.left_px,
            "right": lambda track: -track.left_px,
        }
        if which not in ranks:
            raise ValueError(
                f"face={which!r} is not known; use {', '.join(ranks)}, or a track's number"
            )
        chosen: list[FaceTrack] = []
        for track in sorted(self.tracks, key=ranks[which]):
            if all(track.stop <= t.first or t.stop <= track.first for t in chosen):
                chosen.append(track)
        return tuple(sorted(chosen, key=lambda track: track.first))

    def coverage(self, tracks: Sequence[FaceTrack]) -> float:
        """Share of the video's frames that lie inside `tracks`."""
        return sum(len(track) for track in tracks) / len(self.video)


def track_faces(
    video: VideoReader,
    detect: Detector = detect_faces,
    *,
    look_every_s: float = LOOK_EVERY_S,
    bridge_s: float = 1.0,
    min_s: float = 0.3,
    progress: bool = True,
) -> FaceTracks:
    """Find the faces of a video and link them over time.

    A face is looked for every `look_every_s` seconds; one that is missing for up to `bridge_s` is
    bridged on a line, after that its track ends and a new one begins. Tracks also end where the
    scene is cut (told from every frame, see `cuts`) and where two faces cross, since boxes alone
    cannot tell who is who afterwards. Tracks below `min_s` are dropped. Frames pass in pieces of
    64 MB at most (one frame at least).

    Raises:
        NoFaceError: none was found.
        VideoError: a frame cannot be read.
    """
    fps = video.fps or USUAL_FPS
    every = max(1, round(look_every_s * fps))
    looks = list(range(0, len(video), every))
    if looks[-1] != len(video) - 1:
        looks.append(len(video) - 1)
    done: list[FaceTrack] = []
    active: list[FaceTrack] = []

    def end(tracks: list[FaceTrack], why: Ending) -> None:
        for track in tracks:
            track.ending = why
            active.remove(track)
            done.append(track)

    found: dict[int, list[FaceBox]] = {look: [] for look in looks}
    pictures: list[np.ndarray] = []
    scene = SceneChanges()
    step = max(1, CHUNK_BYTES // (video.height * video.width * 3))
    with tqdm(total=len(looks), desc="looking for faces", unit="look", disable=not progress) as bar:
        for start in range(0, len(video), step):
            part = range(start, min(start + step, len(video)))
            for number, frame in zip(part, video.read(part), strict=True):
                scene.add(frame)
                if number not in found:
                    continue
                found[number] = detect(frame)
                if number in (looks[0], looks[len(looks) // 2], looks[-1]):
                    pictures.append(_small(frame))
                bar.update()
    cuts, past = scene.cuts(fps), 0
    for look, faces in found.items():
        if past != (past := bisect_right(cuts, look)):
            end(list(active), "scene cut")
        end([t for t in active if look - t.looks[-1] > bridge_s * fps], "face lost")
        _link(active, faces, look, end)
    end(list(active), "end of the video")
    for track in done:  # not a frame further: what lies between two looks may be another scene
        track.first, track.stop = track.looks[0], track.looks[-1] + 1
    needed = 1 if len(looks) <= 3 else 2  # a face seen once in a long video is a false alarm
    shortest = min(min_s * fps, len(video) / 2)
    kept = [t for t in done if len(t.looks) >= needed and len(t) >= shortest]
    if not kept:
        raise NoFaceError(video.path.name, looks, pictures)
    kept.sort(key=lambda track: (track.first, track.left_px))
    return FaceTracks(video, tuple(kept), tuple(looks))


def _link(active: list[FaceTrack], faces: list[FaceBox], look: int, end) -> None:  # type: ignore
    """Give each face to the track that expects it; end tracks that cross; begin new ones."""
    expected = {id(track): track._predicted(look) for track in active}
    pairs = sorted(
        ((_gap(expected[id(t)], face), n, t) for t in active for n, face in enumerate(faces)),
        key=lambda pair: pair[0],
    )
    owner: dict[int, FaceTrack] = {}
    taken: set[int] = set()
    for gap, n, track in pairs:
        if gap <= REACH and n not in owner and id(track) not in taken:
            owner[n] = track
            taken.add(id(track))
    held = {id(track): faces[n] for n, track in owner.items()}
    boxes = [(track, held.get(id(track), expected[id(track)])) for track in active]
    crossing = {
        id(track)
        for track, box in boxes
        for other, theirs in boxes
        if track is not other and _iou(box, theirs) > CROSSING
    }
    end([track for track in active if id(track) in crossing], "another face crosses")
    for n, face in enumerate(faces):
        track = owner.get(n)
        if track is None or id(track) in crossing:
            track = FaceTrack()
            active.append(track)
        track.looks.append(look)
        track.boxes.append(face[:4])


def _gap(a: FaceBox, b: FaceBox) -> float:
    """Distance of two boxes' centres over their mean width; infinite where sizes differ much."""
    if not 1 / GROWTH <= a.height / b.height <= GROWTH:
        return float("inf")
    across = a.left + a.width / 2 - b.left - b.width / 2
    down = a.top + a.height / 2 - b.top - b.height / 2
    return float(np.hypot(across, down)) / ((a.width + b.width) / 2)


def _iou(a: FaceBox, b: FaceBox) -> float:
    shared = overlap(a, b)
    return shared / (a.width * a.height + b.width * b.height - shared)


def _small(frame: UInt8[np.ndarray, "H W 3"], longer_px: int = 320) -> UInt8[np.ndarray, "h w 3"]:
    scale = min(1.0, longer_px / max(frame.shape[:2]))
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
