"""Labelled clips for fine-tuning: an endless, reproducible stream, and fixed clips to judge by."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from maedfer_lab.config import FinetuneConfig
from maedfer_lab.data.augment import augment_clip, training_indices
from maedfer_lab.data.clips import Box, crop_and_resize, mirror, to_bytes
from maedfer_lab.data.framing import face_square
from maedfer_lab.data.shards import ShardedAnnotations, open_shards
from maedfer_lab.data.table import Annotations, Clip, read_annotations, split_people
from maedfer_lab.data.video_reader import VideoReader
from maedfer_lab.drawn.expressions import EXPRESSIONS
from maedfer_lab.drawn.faces import SyntheticFaces, drawn_frames
from maedfer_lab.method.models import Classifier
from maedfer_lab.metrics import confusion_matrix
from maedfer_lab.training.clips import MARGIN
from maedfer_lab.training.evaluation import evaluate, view_probabilities
from maedfer_lab.training.loading import read_batches

CHUNK = 20  # clips that are judged, or frames that are checked, at a time
STREAM, AUGMENT, MIX, ERASE = range(4)  # independent random streams of a seed


class LabelledSource(Dataset):
    """What fine-tuning asks of its data.

    classes: their names, in the order of the logits.
    num_train: training clips. description: what the data are, for the result.
    validates_on_test: whether the epochs are validated on the test clips themselves.
    skipped: path and reason of every clip that was left out.
    reads_shards: whether it reads prepared clips, which may be done in threads.
    """

    config: FinetuneConfig
    classes: tuple[str, ...]
    num_train: int
    description: str
    validates_on_test: bool
    skipped: Sequence[tuple[str, str]] = ()
    reads_shards: bool = False
    _order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "T H W 3"], int]:
        """Item `index` of an endless stream, always the same: a clip and its label.

        RGB in [0, 255], as the device gets it; there `FinetuneTask` makes floats of it.
        """
        choice = self.choice(index)
        key = (self.config.seed, AUGMENT, index)
        rng = np.random.default_rng(key)
        try:
            frames, label, box = self.read(choice, rng)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"training clip {self.name(choice)} cannot be read: {error}. Mend or remove it "
                "(`maedfer doctor` lists all such clips), or leave it out with --skip-broken"
            ) from error
        size = self.config.model.size_px
        if self.config.augment is None:
            return light(frames, box, size, rng), label
        clip = augment_clip(frames, box, size, self.config.augment, *key)
        return torch.from_numpy(clip), label

    def choice(self, index: int) -> int:
        """Which training clip item `index` is; an epoch drops the clips that fill no batch."""
        batch = self.config.optim.batch_size
        per_epoch = self.num_train // batch * batch or self.num_train
        epoch, place = divmod(index, per_epoch)
        order = self._order  # another thread may replace it
        if order[0] != epoch:
            rng = np.random.default_rng([self.config.seed, STREAM, epoch])
            self._order = order = epoch, rng.permutation(self.num_train)
        return int(order[1][place])

    @abstractmethod
    def read(self, choice: int, rng: np.random.Generator) -> tuple[np.ndarray, int, Box]:
        """Frames of training clip `choice`, its label, and the part of the picture to show."""

    @abstractmethod
    def name(self, choice: int) -> str:
        """Name of training clip `choice`, for messages."""

    @abstractmethod
    def judge(self, model: Classifier, side: str, workers: int = 0) -> Int[np.ndarray, "k k"]:
        """Confusion matrix on the clips of "validation" or "test", one middle view of each."""


def light(
    frames: np.ndarray, box: Box, size_px: int, rng: np.random.Generator
) -> UInt8[Tensor, "T {size_px} {size_px} 3"]:
    """A clip at a random place, mirrored half of the time: the transform of small synthetic sets.

    Frames are resized to a square a tenth larger than the clip, if they are not of that size.
    """
    large = round(size_px * MARGIN)
    if box != Box(0, 0, large, large) or frames.shape[1:3] != (large, large):
        frames = crop_and_resize(frames, box, large, large)
    top, left = rng.integers(0, large - size_px + 1, 2)
    frames = frames[:, top : top + size_px, left : left + size_px]
    return to_bytes(mirror(frames) if rng.random() < 0.5 else frames)


class SyntheticLabelled(LabelledSource):
    """Synthetic faces; each clip is drawn once, a tenth larger than the model's."""

    is_drawn = True

    def __init__(self, config: FinetuneConfig) -> None:
        self.config, self.classes = config, EXPRESSIONS
        side = round(config.model.size_px * MARGIN)
        common = {"num_frames": config.model.frames, "size_px": side, "seed": config.seed,
                  "difficulty": config.difficulty}  # fmt: skip
        self.faces = SyntheticFaces(config.num_clips, "train", **common)
        self.unseen = SyntheticFaces(config.num_test, "test", **common)
        people = [f"{self.faces.identity_of(i):05}" for i in range(config.num_clips)]
        self.train, self.validation = hold_out(people, config.holdout, config.seed)
        self.num_train, self.validates_on_test = len(self.train), not self.validation
        self.description = (
            f"synthetic faces: {self.num_train} clips for training, {config.num_test} for the "
            f"test with other identities, difficulty {config.difficulty}"
        )

    def read(self, choice: int, rng: np.random.Generator) -> tuple[np.ndarray, int, Box]:
        """A clip as it was drawn."""
        number, side = self.train[choice], self.faces.size_px
        return drawn_frames(self.faces, number), self.faces.labels(number)[0], Box(0, 0, side, side)

    def name(self, choice: int) -> str:
        """Its number in the training set."""
        return f"synthetic face {self.train[choice]}"

    @torch.no_grad()
    def judge(self, model: Classifier, side: str, workers: int = 0) -> Int[np.ndarray, "k k"]:
        """Middle crops; every process judges all clips, which are few."""
        faces, numbers = self.unseen, list(range(len(self.unseen)))
        if side == "validation" and self.validation:
            faces, numbers = self.faces, self.validation
        size = self.config.model.size_px
        first = (faces.size_px - size) // 2
        middle = slice(first, first + size)
        guesses: list[np.ndarray] = []
        model.eval()
        for at in range(0, len(numbers), CHUNK):
            clips = [drawn_frames(faces, i)[:, middle, middle] for i in numbers[at : at + CHUNK]]
            views = torch.from_numpy(np.stack(clips))
            found = view_probabilities(model, views, self.config.precision)
            guesses.append(found.argmax(1).numpy())
        labels = np.array([faces.labels(i)[0] for i in numbers])
        return confusion_matrix(labels, np.concatenate(guesses), len(self.classes))


class AnnotatedSource(LabelledSource):
    """Clips of an annotation table, read when they are needed."""

    def __init__(self, config: FinetuneConfig, annotations: Annotations, workers: int = 0) -> None:
        self.config, self.annotations, self.classes = config, annotations, annotations.classes
        self.reads_shards = isinstance(annotations, ShardedAnnotations)
        train, test = annotations.split(config.fold)
        if config.skip_broken:
            (train, test), self.skipped = _readable(annotations, (train, test), workers)
        self.test = test
        names = [annotations.classes[clip.label] for clip in train]
        kept, held = hold_out(annotations.people(train), config.holdout, config.seed, names)
        self.train = tuple(train[i] for i in kept)
        self.validation = tuple(train[i] for i in held) or test
        self.num_train, self.validates_on_test = len(self.train), not held
        missing = set(range(len(self.classes))) - {clip.label for clip in self.train}
        if missing:
            names = ", ".join(self.classes[i] for i in sorted(missing))
            raise ValueError(f"no training clip of class {names} in fold {config.fold}")
        if not test:
            raise ValueError(f"fold={config.fold} has no test clip; choose another")
        if config.holdout is None:
            warnings.warn(
                "the epochs are validated on the test fold, as in the published code, so the best "
                "of them is chosen on it; holdout=0.1 holds out training clips instead",
                stacklevel=4,
            )
        self._boxes: dict[Clip, Box] = {}
        self._judged: dict[Clip, Box] = {}  # of clips that are not trained on
        self.description = (
            f"{annotations.dataset}, fold {config.fold}: {self.num_train} clips for training, "
            f"{len(held)} held out of them, {len(test)} for the test, {len(self.skipped)} skipped"
        )

    def read(self, choice: int, rng: np.random.Generator) -> tuple[np.ndarray, int, Box]:
        """16 frames of a random stretch of the video."""
        clip = self.train[choice]
        reader = self.annotations.open(clip)
        model = self.config.model
        chosen = training_indices(len(reader), model.frames, self.config.stride, rng)
        return reader.read(chosen), clip.label, self._box(clip, reader)

    def _box(self, clip: Clip, reader: VideoReader) -> Box:
        if self.config.framing == "whole":
            return Box(0, 0, reader.height, reader.width)
        if clip not in self._boxes:
            self._boxes[clip] = face_square(reader)
        return self._boxes[clip]

    def name(self, choice: int) -> str:
        """Its path."""
        return str(self.train[choice].path)

    def judge(self, model: Classifier, side: str, workers: int = 0) -> Int[np.ndarray, "k k"]:
        """The middle window of each video; every process takes its share."""
        found = evaluate(
            model,
            self.annotations,
            self.validation if side == "validation" else self.test,
            stride=self.config.stride,
            segments=1,
            crops=1,
            framing=self.config.framing,
            boxes=self._judged,
            workers=workers,
            precision=self.config.precision,
        )
        return found.confusion


def hold_out(
    people: Sequence[str], share: float | None, seed: int, labels: Sequence[object] | None = None
) -> tuple[list[int], list[int]]:
    """`split_people`; without a share everything stays."""
    if share is None:
        return list(range(len(people))), []
    return split_people(people, share, seed, labels)


class _Check(Dataset):
    """Reads every frame of a clip; gives the reason why it cannot be read, or an empty text."""

    def __init__(self, annotations: Annotations, clips: Sequence[Clip]) -> None:
        self.annotations, self.clips = annotations, clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> str:
        try:
            reader = self.annotations.open(self.clips[index])
            for first in range(0, len(reader), CHUNK):
                reader.read(range(first, min(first + CHUNK, len(reader))))
        except (ValueError, OSError) as error:
            return str(error)
        return ""


def _readable(
    annotations: Annotations, sides: tuple[Sequence[Clip], Sequence[Clip]], workers: int
) -> tuple[tuple[Sequence[Clip], Sequence[Clip]], list[tuple[str, str]]]:
    """Both sides without the clips that cannot be read, and these with the reasons."""
    clips = [clip for side in sides for clip in side]
    numbers = [[i] for i in range(len(clips))]
    loaded = read_batches(
        _Check(annotations, clips), numbers, workers, lambda i: str(clips[i].path), collate=list
    )
    reasons = [
        why for (why,) in tqdm(loaded, "checking clips", len(clips), unit="clip", leave=False)
    ]
    skipped = {clip: why for clip, why in zip(clips, reasons, strict=True) if why}
    if skipped:
        warnings.warn(f"{len(skipped)} of {len(clips)} clips cannot be read and are left out, such "
                      f"as {next(iter(skipped)).path}", stacklevel=5)  # fmt: skip
    train, test = (tuple(clip for clip in side if clip not in skipped) for side in sides)
    return (train, test), [(str(clip.path), why) for clip, why in skipped.items()]


def open_labelled(config: FinetuneConfig, workers: int = 0) -> LabelledSource:
    """Synthetic faces, or the clips of the data set at `config.data`."""
    if config.data is None:
        return SyntheticLabelled(config)
    if config.dataset == "shards":
        return AnnotatedSource(config, open_shards(config.data), workers)
    table = read_annotations(config.dataset, config.data, config.lists)
    return AnnotatedSource(config, table, workers)
