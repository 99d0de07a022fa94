"""Pre-training clips from very many videos: each decoded when it is needed, as published."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maedfer_lab.config import PretrainConfig
from maedfer_lab.data.clips import (
    Box,
    clip_indices,
    crop_and_resize,
    mirror,
    multi_scale_crop,
    tilt_clip,
    to_bytes,
    to_tensor,
)
from maedfer_lab.data.framing import face_square
from maedfer_lab.data.shard_format import INDEX
from maedfer_lab.data.shards import ShardedAnnotations, open_shards
from maedfer_lab.data.table import Annotations, Clip, read_annotations, split_people
from maedfer_lab.data.video import VideoError, VideoReader
from maedfer_lab.training.clip_source import ClipSource

# *Official:* of VoxCeleb2's 224 x 224 frames, rows 0 to 160 and columns 32 to 192.
VOXCELEB2_PX = 224
VOXCELEB2_BOX = Box(top=0, left=32, height=160, width=160)


class StreamedSource(ClipSource):
    """A clip of every video in each epoch, in an order of its own; whole identities held out.

    A damaged video ends the run by name: take it out of the folder or the list.
    """

    def __init__(self, config: PretrainConfig, data: Path) -> None:
        if config.synthetic:
            raise ValueError(
                f"synthetic={config.synthetic} must be 0 with framing='voxceleb2' or a list"
            )
        table = open_table(data)
        self.config, self.table = config, table
        self.reads_shards = isinstance(table, ShardedAnnotations)
        self.clips, unseen = held_out_people(table, config.held_out, config.seed)
        self.unseen = unseen[: config.num_held_out]
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))
        self.description = (
            f"{data.name}: {len(self.clips)} videos for training, {len(self.unseen)} of other "
            f"identities held out, decoded when needed"
        )

    def _clip(self, index: int) -> Clip:
        epoch, place = divmod(index, len(self.clips))
        order = self._order  # another thread may replace it
        if order[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._order = order = epoch, rng.permutation(len(self.clips))
        return self.clips[order[1][place]]

    def __getitem__(self, index: int) -> UInt8[Tensor, "T H W 3"]:
        """One clip of the stream: a random stretch, then one random multi-scale crop."""
        config = self.config
        rng = np.random.default_rng([config.seed, index])
        reader = self.table.open(self._clip(index))
        chosen = clip_indices(len(reader), config.model.frames, config.stride, rng)
        box = framed(reader, config.framing)
        frames = reader.read(chosen)[:, box.top :, box.left :][:, : box.height, : box.width]
        frames = tilt_clip(frames, config.tilt, rng, config.warp)
        frames = multi_scale_crop(frames, config.model.size_px, rng, config.min_crop)
        mirrored = config.mirror and rng.random() < 0.5
        return to_bytes(mirror(frames) if mirrored else frames)

    def name(self, index: int) -> str:
        """The video's path."""
        return str(self._clip(index).path)

    def held_out(self) -> Float[Tensor, "b 3 T H W"]:
        """The middle clip of every held-out video."""
        model, clips = self.config.model, []
        for clip in self.unseen:
            reader = self.table.open(clip)
            frames = reader.read(clip_indices(len(reader), model.frames, self.config.stride))
            box = framed(reader, self.config.framing)
            clips.append(to_tensor(crop_and_resize(frames, box, model.size_px, model.size_px)))
        return torch.stack(clips)


def open_table(data: Path) -> Annotations:
    """The videos of a folder, of shards that `maedfer prepare` wrote, or of a list."""
    if (data / INDEX).is_file():
        return open_shards(data)
    return read_annotations("voxceleb2", data) if data.is_dir() else listed_videos(data)


def framed(reader: VideoReader, framing: str) -> Box:
    """What is cut out of every frame: the square around the face, or VoxCeleb2's.

    Raises:
        VideoError: the frames are not VoxCeleb2's 224 x 224 pixels, and that framing is asked for.
    """
    if framing == "face":
        return face_square(reader)
    if (reader.height, reader.width) != (VOXCELEB2_PX, VOXCELEB2_PX):
        raise VideoError(
            reader.path,
            f"its frames are {reader.width} x {reader.height} pixels; framing='voxceleb2' needs "
            "that data set's 224 x 224. Use framing='face' for other videos",
        )
    return VOXCELEB2_BOX


def listed_videos(path: Path) -> Annotations:
    """The videos of a list as the reference reads it: lines "path label", or "path" alone.

    A path may hold spaces if a label follows it; it is absolute, or relative to the list's folder.
    Byte-order mark, Windows line ends and empty lines do not matter.

    Raises:
        ValueError: the list is empty, or names a video twice.
        FileNotFoundError: its first video is not there. The others are opened when needed.
    """
    rows = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [re.sub(r"[ ,]+-?\d+$", "", row) for row in rows if row]
    if not names or len(set(names)) < len(names):
        what = "names a video twice" if names else "is empty"
        raise ValueError(f"{path} {what}; its lines must be 'path label', each video once")
    places = [path.parent / name for name in names]
    if not places[0].exists():
        raise FileNotFoundError(
            f"{path}, line 1: there is no {places[0]}; paths must be absolute, or relative to the "
            "list's folder"
        )
    clips = (Clip(p, 0, 0, None, path.name, _person(p)) for p in places)
    return Annotations("voxceleb2", ("unlabelled",), tuple(clips), path.parent)


def _person(path: Path) -> str | None:
    found = re.search(r"\bid\d{5}\b", path.as_posix())
    return found[0] if found else None


def held_out_people(
    table: Annotations, share: float, seed: int
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Split clips by person: `share` of them is held out (`split_people`)."""
    kept, held = split_people(table.people(), share, seed)
    return tuple(table.clips[i] for i in kept), tuple(table.clips[i] for i in held)
