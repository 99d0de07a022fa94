"""The benchmark's own videos: drawn faces as MP4, as a folder of JPEGs, and as prepared shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maedfer_lab.bench.settings import Settings
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.table import Annotations, Clip, read_annotations
from maedfer_lab.data.video_writing import write_video
from maedfer_lab.drawn.faces import SyntheticFaces

SIDE_PX = 224  # of VoxCeleb2's and DFEW's frames
LENGTHS = tuple(range(72, 144, 12))  # frames; at 25 a second 3 to 5 s
GRAIN = 3.0  # deviation of the noise, without which drawn pictures code in too few bytes
QUALITY = 95
CLASSES = ("smile", "none")


@dataclass(frozen=True)
class Videos:
    """The same videos three times: folders that the package opens as its users' own.

    shards: 160 px a side, as for fine-tuning. roomy: 192 px, with room for crops in pre-training.
    """

    mp4: Path
    jpegs: Path
    shards: Path
    roomy: Path

    def table(self) -> Annotations:
        """The labelled clips whose frames are JPEGs."""
        return read_annotations("csv", self.jpegs)

    def paths(self, folder: Path) -> list[Path]:
        """The videos of one of the first two folders, in order."""
        return [clip.path for clip in read_annotations("csv", folder).clips]


def make_videos(settings: Settings) -> Videos:
    """Draw and write them below the settings' folder, unless they lie there."""
    root = settings.folder
    videos = Videos(root / "mp4", root / "jpegs", root / "shards", root / "roomy")
    if videos.roomy.is_dir():
        return videos
    lengths = (20, 24, 28, 32) if settings.smoke else LENGTHS
    names = [f"id{number:05d}_{frames}" for number, frames in enumerate(lengths)]
    for number, (name, frames) in enumerate(zip(names, lengths, strict=True)):
        (videos.mp4 / name).parent.mkdir(exist_ok=True)
        pictures = list(drawn(number, frames, settings.seed))
        write_video(videos.mp4 / f"{name}.mp4", pictures, 25)
        (videos.jpegs / name).mkdir(parents=True)
        for place, picture in enumerate(pictures):
            file = videos.jpegs / name / f"{place:05d}.jpg"
            Image.fromarray(picture).save(file, quality=QUALITY)
    for folder, suffix in ((videos.mp4, ".mp4"), (videos.jpegs, "")):
        clips = tuple(  # the last one is tested, the others are trained on
            Clip(folder / f"{name}{suffix}", number % 2, int(name == names[-1]), None, "", name)
            for number, name in enumerate(names)
        )
        Annotations("csv", CLASSES, clips, folder).write_csv(folder / "annotations.csv")
    size = settings.model("lgi").size_px
    common = {"size_px": size, "framing": "whole", "progress": False}
    prepare(videos.table(), videos.shards, margin=1.0, **common)
    prepare(videos.table(), videos.roomy, margin=1.2, **common)
    return videos


def drawn(number: int, frames: int, seed: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of one drawn person, with grain."""
    faces = SyntheticFaces(number + 1, "test", num_frames=frames, size_px=SIDE_PX, seed=seed)
    rng = np.random.default_rng([seed, number])
    for frame in faces[number].frames:
        noise = rng.normal(0, GRAIN, frame.shape)
        yield (frame + noise).round().clip(0, 255).astype(np.uint8)
