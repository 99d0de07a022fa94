"""Synthetic faces: an endless, labelled data set of short clips, drawn on demand.

Every clip shows one invented person whose face goes from neutral to an expression (onset) or, in
the same frames played backwards, from the expression to neutral (offset). So a clip carries two
labels: the expression, and the direction, which needs the order of the frames.
"""

import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8

from .people import EXPRESSIONS, Identity, onset_timeline, sample_identity
from .scene import render_face, sample_scene

DIRECTIONS = ("onset", "offset")
SPLITS = ("train", "test")

_CLIPS_PER_IDENTITY = 7
_FIRST_TEST_IDENTITY = 2**31  # numbers below belong to the training split
_PEOPLE, _CAST, _LABELS, _CLIPS = range(4)  # one independent random stream each


@dataclass(frozen=True)
class FaceClip:
    """One clip: RGB frames and what they show. `direction` is 0 for onset and 1 for offset."""

    frames: UInt8[np.ndarray, "T H W 3"]
    label: int
    direction: int
    identity: int
    intensity: float

    @property
    def expression(self) -> str:
        """Name of the class, one of `EXPRESSIONS`."""
        return EXPRESSIONS[self.label]


@dataclass(frozen=True)
class SyntheticFaces:
    """A sequence of `num_clips` clips of `num_frames` frames of `size_px` pixels, nothing stored.

    Clip `i` depends on the settings and `i` alone. Each 14 clips in a row hold every pair of class
    and direction once (a neutral face's lies in two small movements); people are spread evenly and
    independently of that, and are others in "train" than in "test".

    difficulty: from 0 (studio light, full expressions) to 1 (noise, turned heads, hard light,
    talking, weak expressions: near what the eye can read). The default is learnable in minutes.

    Raises ValueError for settings out of range, IndexError for clips that do not exist.
    """

    num_clips: int
    split: str = "train"
    num_frames: int = 16
    size_px: int = 80
    difficulty: float = 0.3
    seed: int = 0
    num_identities: int | None = None  # by default one person for about seven clips

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is unknown; use one of {', '.join(SPLITS)}")
        if not 0.0 <= self.difficulty <= 1.0:
            raise ValueError(f"difficulty={self.difficulty} must lie in 0 to 1; use e.g. 0.3")
        least = {"num_clips": 1, "num_frames": 2, "size_px": 16, "seed": 0, "num_identities": 1}
        for name, number in least.items():
            if (value := getattr(self, name)) is not None and value < number:
                raise ValueError(f"{name}={value} must be at least {number}; use e.g. {number}")

    def __len__(self) -> int:
        """Number of clips."""
        return self.num_clips

    def __getitem__(self, index: SupportsIndex) -> FaceClip:
        """Draw clip `index`; negative numbers count from the end."""
        return self.clip(index)

    def clip(self, index: SupportsIndex, direction: int | None = None) -> FaceClip:
        """Draw clip `index` in its own direction, or in a given one (0 onset, 1 offset)."""
        label, own_direction = self.labels(index)
        direction = own_direction if direction is None else direction
        if direction not in (0, 1):
            raise ValueError(f"direction={direction} must be 0 (onset) or 1 (offset)")
        identity = self.identity_of(index)
        generator = self._generator(_CLIPS, self._checked(index))
        scene = sample_scene(self.difficulty, generator)
        if EXPRESSIONS[label] == "neutral":
            intensity = generator.uniform(0.06, 0.16)
        else:
            intensity = generator.uniform(0.85, 1.0) - self.difficulty * generator.uniform(0.2, 0.6)
        talking = self.difficulty * generator.uniform(0.0, 0.8) * (generator.random() < 0.5)
        timeline = onset_timeline(label, self.num_frames, intensity, talking, generator)
        frames = render_face(self.person(identity), timeline, scene, self.size_px)
        frames = frames if direction == 0 else np.ascontiguousarray(frames[::-1])
        return FaceClip(frames, label, direction, identity, intensity)

    def labels(self, index: SupportsIndex) -> tuple[int, int]:
        """Class and direction of a clip without drawing it."""
        num_pairs = len(EXPRESSIONS) * len(DIRECTIONS)
        block, place = divmod(self._checked(index), num_pairs)
        order = self._generator(_LABELS, block).permutation(num_pairs)
        return divmod(int(order[place]), len(DIRECTIONS))

    def identity_of(self, index: SupportsIndex) -> int:
        """Number of the person in a clip; no number occurs in both splits."""
        num_people = self.num_identities or -(-self.num_clips // _CLIPS_PER_IDENTITY)
        block, place = divmod(self._checked(index), num_people)
        number = int(self._generator(_CAST, block).permutation(num_people)[place])
        return number if self.split == "train" else _FIRST_TEST_IDENTITY + number

    def person(self, identity: int) -> Identity:
        """The invented person behind a number."""
        return sample_identity(np.random.default_rng([self.seed, _PEOPLE, identity]))

    def _checked(self, index: SupportsIndex) -> int:
        number = operator.index(index)
        if not -self.num_clips <= number < self.num_clips:
            raise IndexError(f"clip {number} does not exist: there are {self.num_clips} clips")
        return number % self.num_clips

    def _generator(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, SPLITS.index(self.split), number])


@lru_cache(maxsize=2**15)
def drawn_frames(faces: SyntheticFaces, number: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames of clip `number`, drawn when first asked for, and kept: they are not to be changed."""
    return faces[number].frames
