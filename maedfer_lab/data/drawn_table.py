"""A set of drawn faces as a table: its clips are drawn when they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maedfer_lab.data.folder import FramesReader
from maedfer_lab.data.lists import Clip
from maedfer_lab.data.table import Annotations
from maedfer_lab.data.video import VideoReader
from maedfer_lab.drawn.faces import DIRECTIONS, SyntheticFaces, drawn_frames
from maedfer_lab.drawn.people import EXPRESSIONS

MARGIN = 1.1  # faces are drawn this much larger than a clip, for random crops


class DrawnFaces(Annotations):
    """Synthetic people in `num_train` clips to train on and `num_test` of other people, fold 1.

    label: "expression" or "direction" (onset or offset).
    zoom: how much closer the camera is; 1.5 shows brows to chin.
    size_px: of the clips that are cut out of the frames, which are a tenth larger.
    """

    faces: dict[str, SyntheticFaces]
    size_px: int
    is_middle: bool

    def __init__(
        self, num_train: int, num_test: int, *, frames: int, size_px: int, difficulty: float = 0.3,
        seed: int = 0, fold: int = 1, label: str = "expression", zoom: float = 1.0,
    ) -> None:  # fmt: skip
        side = round(size_px * MARGIN * zoom)
        sides = {
            split: SyntheticFaces(number, split, frames, side, difficulty, seed)
            for split, number in (("train", num_train), ("test", num_test))
        }
        which = ("expression", "direction").index(label)
        clips = tuple(
            Clip(Path(split, f"{i:04}"), faces.labels(i)[which], fold * (split == "test"), frames,
                 "synthetic faces", f"person {faces.identity_of(i):05}")
            for split, faces in sides.items()
            for i in range(len(faces))
        )  # fmt: skip
        classes = DIRECTIONS if label == "direction" else EXPRESSIONS
        super().__init__("synthetic faces", classes, clips, Path())
        # The table itself is frozen.
        self.__dict__.update(faces=sides, size_px=size_px, is_middle=False, sizes=[0] * len(clips))

    def open(self, clip: Clip) -> VideoReader:
        """The drawn frames, or their middle."""
        frames = drawn_frames(self.faces[clip.path.parent.name], int(clip.path.name))
        side = self.size_px if self.is_middle else round(self.size_px * MARGIN)
        side = min(side, frames.shape[1])
        first = (frames.shape[1] - side) // 2
        middle = slice(first, first + side)
        return FramesReader(clip.path, frames[:, middle, middle])

    def middle(self) -> DrawnFaces:
        """The same table with only the middle of the frames, for validation and testing."""
        same = object.__new__(DrawnFaces)
        same.__dict__.update(self.__dict__, is_middle=True)
        return same

    def summary(self) -> dict[str, Any]:
        """This table, without its clips, which follow from the configuration."""
        return {**super().summary(), "each": []}
