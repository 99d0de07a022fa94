"""Clips for pre-training: an endless, reproducible stream, and a fixed held-out set."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maedfer_lab.config import ModelConfig, PretrainConfig
from maedfer_lab.data.clips import mirror, tilt_clip, to_bytes, to_tensor
from maedfer_lab.data.folder import (
    VideoFolder,
    check_videos,
    find_videos,
    load_clips,
    split_videos,
)
from maedfer_lab.data.shard_format import INDEX
from maedfer_lab.drawn.faces import SyntheticFaces, drawn_frames
from maedfer_lab.training.clip_source import ClipSource
from maedfer_lab.training.streamed import StreamedSource

MARGIN = 1.1  # synthetic faces are drawn this much larger, for random crops


class SyntheticSource(ClipSource):
    """Synthetic faces; each clip is drawn once, then cropped at random."""

    is_drawn = True

    def __init__(self, config: PretrainConfig) -> None:
        size_px = round(config.model.size_px * MARGIN)
        common = {"num_frames": config.model.frames, "size_px": size_px, "seed": config.seed,
                  "difficulty": config.difficulty}  # fmt: skip
        self.config = config
        self.faces = SyntheticFaces(config.num_clips, "train", **common)
        self.unseen = SyntheticFaces(config.num_held_out, "test", **common)
        self.description = (
            f"synthetic faces: {config.num_clips} clips for training, {config.num_held_out} held "
            f"out with other identities, difficulty {config.difficulty}"
        )

    def __getitem__(self, index: int) -> UInt8[Tensor, "T H W 3"]:
        """One clip of the stream, drawn with replacement."""
        rng = np.random.default_rng([self.config.seed, index])
        frames, size = drawn_frames(self.faces, self._choice(rng)), self.config.model.size_px
        frames = tilt_clip(frames, self.config.tilt, rng, self.config.warp)
        top, left = rng.integers(0, frames.shape[1] - size + 1, 2)
        frames = frames[:, top : top + size, left : left + size]
        mirrored = self.config.mirror and rng.random() < 0.5
        return to_bytes(mirror(frames) if mirrored else frames)

    def _choice(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.faces)))

    def name(self, index: int) -> str:
        """The face's number."""
        return f"synthetic face {self._choice(np.random.default_rng([self.config.seed, index]))}"

    def held_out(self) -> Float[Tensor, "b 3 T H W"]:
        """The middle of the frames of unseen identities, at the scale of training."""
        size = self.config.model.size_px
        first = (self.unseen.size_px - size) // 2
        middle = slice(first, first + size)
        return torch.stack(
            [
                to_tensor(drawn_frames(self.unseen, i)[:, middle, middle])
                for i in range(len(self.unseen))
            ]
        )


class FolderSource(ClipSource):
    """Videos of a folder, shuffled anew every epoch; whole identities held out.

    Videos are decoded when the first training clip is asked for.
    """

    def __init__(self, config: PretrainConfig, root: Path) -> None:
        good, skipped = check_videos(find_videos(root))
        self.config = config
        self.paths, unseen = split_videos(good, root, config.held_out, config.seed)
        self.unseen = unseen[: config.num_held_out]
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))
        self.description = (
            f"{root.name}: {len(self.paths)} videos for training, {len(self.unseen)} of other "
            f"identities held out, {len(skipped)} skipped"
        )
        if config.synthetic:
            self.description += f"; {config.synthetic:.0%} of the training clips synthetic faces"

    @cached_property
    def videos(self) -> VideoFolder:
        """The training videos, decoded."""
        config, model = self.config, self.config.model
        return VideoFolder(
            self.paths,
            model.frames,
            config.stride,
            model.size_px,
            config.seed,
            config.max_clips,
            config.min_crop,
            config.mirror,
            config.tilt,
            config.warp,
        )

    @cached_property
    def drawn(self) -> SyntheticSource:
        """The synthetic faces that are mixed in."""
        return SyntheticSource(self.config)

    def __getitem__(self, index: int) -> UInt8[Tensor, "T H W 3"]:
        """One clip of the stream."""
        if self._is_drawn(index):
            return self.drawn[index]
        clip, epoch = self._place(index)
        return self.videos.clip(clip, epoch)

    def _is_drawn(self, index: int) -> bool:
        rng = np.random.default_rng([self.config.seed, index, 1])
        return rng.random() < self.config.synthetic

    def _place(self, index: int) -> tuple[int, int]:
        """Which clip of which epoch the stream's clip `index` is."""
        epoch, place = divmod(index, len(self.videos))
        order = self._order  # another thread may replace it
        if order[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._order = order = epoch, rng.permutation(len(self.videos))
        return int(order[1][place]), epoch

    def name(self, index: int) -> str:
        """The video's path."""
        if self._is_drawn(index):
            return self.drawn.name(index)
        return str(self.videos.path_of(self._place(index)[0]))

    def held_out(self) -> Float[Tensor, "b 3 T H W"]:
        """The middle clip of every held-out video."""
        model = self.config.model
        clips = load_clips(self.unseen, model.frames, self.config.stride, model.size_px)
        return torch.stack([to_tensor(clip) for clip in clips])


def example_clips(
    num: int, model: ModelConfig, data: Path | None = None, stride: int = 2
) -> Float[Tensor, "b 3 T H W"]:
    """A few clips to look at: synthetic faces, or the middle clips of a folder's first videos."""
    if data is None:
        faces = SyntheticFaces(num, "test", num_frames=model.frames, size_px=model.size_px)
        return torch.stack([to_tensor(clip.frames) for clip in faces])
    paths, _ = check_videos(find_videos(data)[: 4 * num], progress=False)
    clips = load_clips(paths[:num], model.frames, stride, model.size_px)
    return torch.stack([to_tensor(clip) for clip in clips])


def open_source(config: PretrainConfig) -> ClipSource:
    """Synthetic faces, the videos of a folder, or very many that are decoded when needed.

    What `maedfer prepare` wrote is streamed whatever the framing, unless synthetic faces are mixed
    in: its squares are cut already, so nothing has to be kept in memory.
    """
    if config.data is None:
        return SyntheticSource(config)
    is_prepared = (config.data / INDEX).is_file() and not config.synthetic
    if config.framing == "voxceleb2" or config.data.is_file() or is_prepared:
        return StreamedSource(config, config.data)
    return FolderSource(config, config.data)
