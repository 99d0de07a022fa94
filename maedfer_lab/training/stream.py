"""The stream of training clips: endless, reproducible, read by processes during training.

Which clip item i is, is a function of (seed, epoch, i); its augmentation, of (seed, i). So a
resumed run, and each of several processes, sees what one process would.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from mmap import mmap
from multiprocessing import reduction
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary, finalize

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from tqdm.auto import tqdm

from maedfer_lab.config import Augment, FinetuneConfig, ModelConfig, PretrainConfig, check_workers
from maedfer_lab.data.drawn_table import MARGIN, DrawnFaces
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.folder import Squares, check_videos, clips_of, folder_table, vary_clip
from maedfer_lab.data.layouts import people_of, people_of_copies
from maedfer_lab.data.lists import Reading
from maedfer_lab.data.prepare import begin_worker
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.shard_format import is_prepared
from maedfer_lab.data.shards import open_shards
from maedfer_lab.data.stills import StillClip, Stills
from maedfer_lab.data.table import (
    Annotations,
    Clip,
    explain_change,
    how_read,
    read_annotations,
    split_people,
    unknown_people,
)
from maedfer_lab.data.transforms import (
    Box,
    augment_clip,
    clip_indices,
    crop_and_resize,
    to_tensor,
    training_indices,
)
from maedfer_lab.data.video import VideoError, VideoReader, is_starved
from maedfer_lab.drawn.faces import SyntheticFaces
from maedfer_lab.files import read_bytes, reading
from maedfer_lab.runs import Run

# *Official:* of VoxCeleb2's 224 x 224 frames, rows 0 to 160 and columns 32 to 192.
VOXCELEB2_PX = 224
VOXCELEB2_BOX = Box(top=0, left=32, height=160, width=160)
STREAM, AUGMENT, MIX, ERASE = range(4)  # independent random streams of a fine-tuning's seed
IS_OTHER, JITTER, SUBSTITUTE = 1, 2, 3  # of a pre-training item, besides its clip's
ATTEMPTS = 10  # clips that are tried in place of a broken one
# Errors of a file system, not of a clip: another try may succeed, so nothing is replaced.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
CHUNK = 20  # frames that are checked at a time
SLOTS = 3  # batches of a worker: one it works at, two that wait (DataLoader's prefetch)
GRACE_S = 60.0  # after SIGTERM, in which the main process may end its step

Transform = Callable[[VideoReader, Clip, np.random.Generator, tuple[int, ...]], Any]


class ClipStream(Dataset):
    """Item `index` of an endless stream is always the same clip with the same augmentation.

    table: opens the clips. split: indices of the streamed clips, repeated if more than once per
        epoch.
    transform: (reader, clip, generator, key) -> item; the latter two follow from seed and index.
    batch: an epoch drops its last incomplete batch. with_replacement: any clip at any time, instead
        of a new order of all clips in each epoch.
    other: another stream, and the share of the items that come from it.
    order, item: further seeds of the random streams of epochs and of items.
    on_broken: "skip" replaces an unreadable clip by another, the same one in every process and
        every epoch; "stop" raises.
    """

    def __init__(
        self,
        table: Annotations,
        split: Sequence[int] | np.ndarray,
        transform: Transform,
        seed: int,
        *,
        batch: int = 1,
        with_replacement: bool = False,
        order: tuple[int, ...] = (),
        item: tuple[int, ...] = (),
        other: tuple[ClipStream, float] | None = None,
        on_broken: str = "stop",
        advice: str = "",
    ) -> None:
        self.table, self.split = table, np.asarray(split, dtype=np.int32)
        self.transform, self.seed = transform, seed
        self.order, self.item = (seed, *order), (seed, *item)
        self.per_epoch = len(self.split) // batch * batch or len(self.split)
        self.with_replacement, self.on_broken, self.advice = with_replacement, on_broken, advice
        self.other, self.is_drawn = other, isinstance(table, DrawnFaces)
        self.replaced: list[tuple[str, str]] = []  # since it was last read
        self._order: tuple[int, np.ndarray] = (-1, self.split)

    def __len__(self) -> int:
        """Number of streamed clips per epoch, including repetitions."""
        return len(self.split)

    @property
    def clips(self) -> list[Clip]:
        """The clips that are streamed."""
        return [self.table.clips[number] for number in np.unique(self.split).tolist()]

    def __getitem__(self, index: int) -> Any:
        """Item `index`; ValueError, with its name, if its clip (ten in a row) cannot be read."""
        if (other := self._other(index)) is not None:
            return other[index]
        for attempt in range(ATTEMPTS):
            number, rng = self._choose(index, attempt)
            clip = self.table.clips[number]
            try:
                return self.transform(self.table.open(clip), clip, rng, (*self.item, index))
            except (ValueError, OSError) as error:
                why = error.reason if isinstance(error, VideoError) else str(error)
                is_broken = isinstance(error, VideoError | OSError) and not _passes(error)
                if self.on_broken == "stop" or not is_broken or attempt == ATTEMPTS - 1:
                    raise ValueError(
                        f"training clip {clip.path} cannot be read: {why}. {self.advice}"
                    ) from error
                self.replaced.append((self.table.name(clip), why))

    def _other(self, index: int) -> ClipStream | None:
        if self.other is None:
            return None
        drawn = np.random.default_rng([self.seed, index, IS_OTHER]).random()
        return self.other[0] if drawn < self.other[1] else None

    def _choose(self, index: int, attempt: int = 0) -> tuple[int, np.random.Generator]:
        """The index of a clip, and the generator for its augmentation."""
        rng = np.random.default_rng([*self.item, index])
        if attempt:
            other = np.random.default_rng([self.seed, index, SUBSTITUTE, attempt])
            return int(self.split[other.integers(len(self.split))]), rng
        if self.with_replacement:
            return int(self.split[rng.integers(len(self.split))]), rng
        epoch, place = divmod(index, self.per_epoch)
        if self._order[0] != epoch:
            shuffled = np.random.default_rng([*self.order, epoch]).permutation(len(self.split))
            self._order = epoch, self.split[shuffled]
        return int(self._order[1][place]), rng

    def name(self, index: int) -> str:
        """The path of the clip behind item `index`, for messages."""
        if (other := self._other(index)) is not None:
            return other.name(index)
        return str(self.table.clips[self._choose(index)[0]].path)


def _passes(error: BaseException | None) -> bool:
    if is_starved(error):
        return True
    while error is not None:
        if isinstance(error, OSError) and error.errno in PASSING:
            return True
        error = error.__cause__
    return False


# --- what is done to a clip ---------------------------------------------------------------------


@dataclass
class Window:
    """Which frames of a video are shown, and what part of the picture.

    framing: "whole", "face" (the square around it, searched once), or "voxceleb2".
    to_the_end: for frames chosen beforehand: every stride-th, or drawn ones.
    """

    frames: int
    size_px: int
    stride: int
    framing: str
    boxes: dict[Path, Box] = field(default_factory=dict, repr=False)
    to_the_end: bool = False

    def box(self, reader: VideoReader) -> Box:
        """The cropped part of every frame; ValueError if "voxceleb2" does not fit the frames."""
        if self.framing == "whole":
            return Box(0, 0, reader.height, reader.width)
        if self.framing == "face":
            if reader.path not in self.boxes:
                self.boxes[reader.path] = face_square(reader)
            return self.boxes[reader.path]
        if (reader.height, reader.width) != (VOXCELEB2_PX, VOXCELEB2_PX):
            raise ValueError(
                f"{reader.path}: frames of {reader.width} x {reader.height} pixels; "
                "framing='voxceleb2' needs 224 x 224. Use framing='face' for other videos"
            )
        return VOXCELEB2_BOX

    def middle(self, reader: VideoReader) -> Float[Tensor, "3 T H W"]:
        """The middle of a video, deterministic."""
        chosen = clip_indices(len(reader), self.frames, self.stride, to_the_end=self.to_the_end)
        frames = reader.read(chosen)
        return to_tensor(crop_and_resize(frames, self.box(reader), self.size_px, self.size_px))


@dataclass
class PretrainClip(Window):
    """A random window of a video, rotated, warped, cropped and mirrored (`vary_clip`), as bytes."""

    vary: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, reader: VideoReader, clip: Clip, rng: np.random.Generator, key: tuple[int, ...]
    ) -> Tensor:
        """An item: RGB in [0, 255] (T H W 3)."""
        count, stride = len(reader), self.stride
        chosen = clip_indices(count, self.frames, stride, rng, to_the_end=self.to_the_end)
        box = self.box(reader)
        frames = reader.read(chosen)[:, box.top :, box.left :][:, : box.height, : box.width]
        return vary_clip(frames, self.size_px, rng, **self.vary)


@dataclass
class FinetuneClip(Window):
    """A random window of a video, augmented (else at a random position), and its label."""

    augment: Augment | None = None

    def __call__(
        self, reader: VideoReader, clip: Clip, rng: np.random.Generator, key: tuple[int, ...]
    ) -> tuple[Tensor, int]:
        """An item: RGB in [0, 255] (T H W 3), and the class."""
        frames = reader.read(training_indices(len(reader), self.frames, self.stride, rng))
        box, size = self.box(reader), self.size_px
        if self.augment is not None:
            return torch.from_numpy(augment_clip(frames, box, size, self.augment, *key)), clip.label
        large = round(size * MARGIN)
        frames = crop_and_resize(frames, box, large, large)
        return vary_clip(frames, size, rng, min_scale=None, mirrors=True), clip.label


# --- the data of a run ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RunData:
    """The clips of a run: a stream to train on, and a table of clips for evaluation.

    skipped: names and reasons of clips left out at the start. validation: clips that validate the
    epochs; the test clips themselves without a holdout.
    """

    table: Annotations
    stream: ClipStream
    test: Sequence[Clip]
    description: str
    validation: Sequence[Clip] = ()
    skipped: Sequence[tuple[str, str]] = ()

    @property
    def validates_on_test(self) -> bool:
        """Whether the epochs are validated on the test clips themselves."""
        return self.validation is self.test


@dataclass(frozen=True)
class CachedTable(Annotations):
    """The table of a small set, whose face crops are decoded once and cached (`Squares`)."""

    squares: Squares | None = None

    def open(self, clip: Clip) -> VideoReader:
        """The squares of a clip."""
        assert self.squares is not None
        return self.squares.open(clip.path)


def pretraining_table(config: PretrainConfig) -> Annotations:
    """Drawn faces, or the videos of a folder, of shards that `maedfer prepare` wrote, of a list."""
    if config.data is None:
        return _drawn(config, config.num_held_out)
    return listed_videos(config.data) if config.data.is_file() else folder_table(config.data)


def _drawn(config: PretrainConfig | FinetuneConfig, num_test: int, fold: int = 1) -> DrawnFaces:
    model = config.model
    return DrawnFaces(config.num_clips, num_test, frames=model.frames, size_px=model.size_px,
                      difficulty=config.difficulty, seed=config.seed, fold=fold, zoom=config.zoom,
                      label=getattr(config, "drawn_label", "expression"))  # fmt: skip


def pretraining_data(config: PretrainConfig, table: Annotations | None = None) -> RunData:
    """The clips of a pre-training, split by person.

    The videos of a folder are decoded once and cached (`Squares`); those of prepared shards, of a
    list, or with VoxCeleb2's framing on demand.
    """
    table = pretraining_table(config) if table is None else table
    if isinstance(table, DrawnFaces):
        train, unseen = table.split(1)
        text = (
            f"synthetic faces: {len(train)} clips for training, {len(unseen)} held out with other "
            f"identities, difficulty {config.difficulty}"
        )
        return RunData(table.middle(), _drawn_stream(config, table), unseen, text)
    model, data = config.model, config.data
    assert data is not None
    table.tell()
    kept, held = split_people(table.people(), config.held_out, config.seed)
    numbers = streamed = np.asarray(kept)
    opened, stride, skipped, how = table, config.stride, [], "decoded when needed"
    is_small = config.framing == "face" and data.is_dir() and not is_prepared(data)
    if is_small:
        paths = [clip.path for clip in table.clips]
        good, bad = check_videos(paths)
        if bad and config.on_broken == "stop":
            raise ValueError(f"{bad[0][0]} cannot be used: {bad[0][1]}. {_advice(config)}")
        skipped, usable = [(str(path), why) for path, why in bad], set(good)
        numbers = numbers[[paths[number] in usable for number in kept]]
        held = [number for number in held if paths[number] in usable]
        squares = Squares(model.size_px, stride)
        opened = CachedTable(table.dataset, table.classes, table.clips, table.root, squares=squares)
        lengths = [len(table.open(table.clips[number])) for number in numbers]
        times = [clips_of(n, model.frames, stride, config.max_clips) for n in lengths]
        streamed, stride, how = np.repeat(numbers, times), 1, f"{len(skipped)} skipped"
    vary = {"min_scale": config.min_crop, "tilt": config.tilt, "warp": config.warp,
            "mirrors": config.mirror}  # fmt: skip
    transform = PretrainClip(model.frames, model.size_px, stride, config.framing, vary=vary,
                             to_the_end=is_small)  # fmt: skip
    other = None
    if config.synthetic:
        how += f"; {config.synthetic:.0%} of the training clips synthetic faces"
        other = _drawn_stream(config, _drawn(config, config.num_held_out)), config.synthetic
    if config.stills:
        stills = _stills_stream(config, other)
        how += f"; {config.stills_share:.0%} moved portraits, of {len(stills.clips):,}"
        other = stills, config.synthetic + config.stills_share
    stream = ClipStream(opened, streamed, transform, config.seed, other=other,
                        on_broken=config.on_broken, advice=_advice(config))  # fmt: skip
    text = (
        f"{data.name}: {len(numbers)} videos for training, "
        f"{min(len(held), config.num_held_out)} of other identities held out, {how}"
    )
    return RunData(table, stream, [table.clips[n] for n in held], text, skipped=skipped)


def _advice(config: PretrainConfig) -> str:
    if config.on_broken == "stop":
        return "on_broken='skip' replaces such clips"
    return f"{ATTEMPTS} clips in a row could not be read: check the data (maedfer doctor)"


def _drawn_stream(config: PretrainConfig, table: DrawnFaces) -> ClipStream:
    """Each face is drawn once, then cropped at random."""
    vary = {"min_scale": None, "tilt": config.tilt, "warp": config.warp, "mirrors": config.mirror}
    transform = PretrainClip(config.model.frames, config.model.size_px, 1, "whole", vary=vary,
                             to_the_end=True)  # fmt: skip
    return ClipStream(table, range(config.num_clips), transform, config.seed, with_replacement=True)


def _stills_stream(config: PretrainConfig, other: tuple[ClipStream, float] | None) -> ClipStream:
    """Portraits, without held-out people; each file gives as many as the largest."""
    table, model = Stills(config.stills), config.model
    kept, _ = split_people(table.people(), config.held_out or 0.01, config.seed)
    sources = [table.clips[number].source for number in kept]
    sizes = Counter(sources)
    split = np.repeat(kept, [round(max(sizes.values()) / sizes[source]) for source in sources])
    transform = StillClip(model.frames, model.size_px, config.tilt, config.warp)
    return ClipStream(table, split, transform, config.seed, with_replacement=True, other=other,
                      on_broken=config.on_broken, advice=_advice(config))  # fmt: skip


def held_out_clips(
    config: PretrainConfig, data: RunData
) -> tuple[Float[Tensor, "b 3 T H W"], list[tuple[str, str]]]:
    """The middle clips of at most `num_held_out` held-out videos; and the broken ones.

    Raises ValueError if none can be read, or one cannot and on_broken is "stop".
    """
    is_drawn = isinstance(data.table, DrawnFaces)
    window = Window(config.model.frames, config.model.size_px, 1 if is_drawn else config.stride,
                    "whole" if is_drawn else config.framing, to_the_end=is_drawn)  # fmt: skip
    clips: list[Tensor] = []
    broken: list[tuple[str, str]] = []
    for clip in data.test:
        if len(clips) == config.num_held_out:
            break
        try:
            clips.append(window.middle(data.table.open(clip)))
        except VideoError as error:
            if config.on_broken == "stop" or _passes(error):
                raise
            broken.append((data.table.name(clip), error.reason))
    if not clips:
        raise ValueError(f"none of {len(broken)} held-out clips can be read, e.g. {broken[:1]}")
    return torch.stack(clips), broken


def listed_videos(path: Path) -> Annotations:
    """The videos of a list as the reference reads it: lines "path label", or "path" alone.

    A path may hold spaces if a label follows it; it is absolute, or relative to the list's folder.
    Byte-order mark, Windows line ends and empty lines do not matter.

    Raises ValueError for an empty list or a video named twice, FileNotFoundError if its first video
    does not exist. The others are opened on demand.
    """
    with reading(path):
        rows = [line.strip() for line in read_bytes(path).decode("utf-8-sig").splitlines()]
    names = [re.sub(r"[ ,]+[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?$", "", row) for row in rows if row]
    if not names or len(set(names)) < len(names):
        what = "names a video twice" if names else "is empty"
        raise ValueError(f"{path} {what}; its lines must be 'path label', each video once")
    places = [path.parent / name for name in names]
    if not places[0].exists():
        raise FileNotFoundError(f"{path}, line 1: there is no {places[0]}; give absolute paths, or "
                                "paths relative to the list's folder")  # fmt: skip
    found = Reading()
    texts = [place.as_posix() for place in places]
    people = people_of_copies(texts, people_of(texts, path.parent, found, folders=False))
    if found.problems:
        raise ValueError(str(found.problems[0]))
    clips = [Clip(p, 0, 0, None, path.name, who) for p, who in zip(places, people, strict=True)]
    table = Annotations("voxceleb2", ("unlabelled",), tuple(clips), path.parent)
    notes = unknown_people(people.count(None), len(clips))
    return replace(table, notes=(*notes, how_read(table, found.people_by)))


def example_clips(
    num: int, model: ModelConfig, data: Path | None = None, stride: int = 2
) -> Float[Tensor, "b 3 T H W"]:
    """A few clips to look at: synthetic faces, or the middle clips of a folder's first videos."""
    if data is None:
        faces = SyntheticFaces(num, "test", num_frames=model.frames, size_px=model.size_px)
        return torch.stack([to_tensor(clip.frames) for clip in faces])
    paths, _ = check_videos([c.path for c in folder_table(data).clips[: 4 * num]], progress=False)
    window = Window(model.frames, model.size_px, stride, "face")
    return torch.stack([window.middle(open_video(path)) for path in paths[:num]])


def labelled_table(config: FinetuneConfig) -> Annotations:
    """Drawn faces, or the data set at `config.data`."""
    if config.data is None:
        return _drawn(config, config.num_test, config.fold)
    if config.dataset == "shards":
        return open_shards(config.data)
    return read_annotations(config.dataset, config.data, config.lists)


def labelled_data(
    config: FinetuneConfig, workers: int = 0, table: Annotations | None = None
) -> RunData:
    """The clips of a fine-tuning: those of the other folds for training, some of them held out.

    Raises ValueError if a split or a class has no clip.
    """
    table = labelled_table(config) if table is None else table
    if len(table.classes) < 2:
        raise ValueError(
            f"{table.root} has one class ({', '.join(table.classes)}) and nothing to classify; "
            "give clips of two classes or more"
        )
    table.tell()
    is_drawn, skipped = isinstance(table, DrawnFaces), []
    train, test = np.flatnonzero(table.folds != config.fold), table.split(config.fold)[1]
    if config.skip_broken and not is_drawn:
        reasons = unreadable(table, workers)
        train = train[[i not in reasons for i in train]]
        tested = np.flatnonzero(table.folds == config.fold)
        test = [table.clips[i] for i in tested.tolist() if i not in reasons]
        skipped = [(str(table.clips[i].path), why) for i, why in reasons.items()]
    validation: Sequence[Clip] = test
    if config.holdout is not None:
        clips = [table.clips[i] for i in train.tolist()]
        labels = [table.classes[clip.label] for clip in clips]
        kept, held = split_people(table.people(clips), config.holdout, config.seed, labels)
        train, validation = train[kept], [clips[i] for i in held]
    elif not is_drawn:
        warnings.warn(
            "the epochs are validated on the test fold, as in the published code, so the best one "
            "is selected on it; holdout=0.1 holds out training clips instead",
            stacklevel=3,
        )
    missing = set(range(len(table.classes))) - set(table.labels[train].tolist())
    if missing and not is_drawn:
        names = ", ".join(table.classes[i] for i in sorted(missing))
        raise ValueError(f"no training clip of class {names} in fold {config.fold}")
    if not test:
        raise ValueError(f"fold={config.fold} has no test clip; choose another")
    model, stride, framing = config.model, config.stride, config.framing
    number = 0 if validation is test else len(validation)
    text = (
        f"{table.dataset}, fold {config.fold}: {len(train)} clips for training, {number} held "
        f"out of them, {len(test)} for the test, {len(skipped)} skipped"
    )
    if is_drawn:
        stride, framing = 1, "whole"
        text = (
            f"synthetic faces: {len(train)} clips for training, {config.num_test} for the test "
            f"with other identities, difficulty {config.difficulty}"
        )
    stream = ClipStream(
        table,
        train,
        FinetuneClip(model.frames, model.size_px, stride, framing, augment=config.augment),
        config.seed,
        batch=config.optim.batch_size,
        order=(STREAM,),
        item=(AUGMENT,),
        advice="Repair or remove it (`maedfer doctor` lists all such clips), or leave it out with "
        "--skip-broken",
    )
    judged = table.middle() if isinstance(table, DrawnFaces) else table
    return RunData(judged, stream, test, text, validation, skipped)


def open_table(
    run: Run, data: Path | None, opened: Callable[[], Annotations], stills: Sequence[Path] = ()
) -> Annotations | None:
    """The table of a run, or None for a finished one, which is only loaded.

    ValueError, with what changed, if its data differ from those at its start.
    """
    if run.is_finished and data is not None and not data.exists():
        warnings.warn(f"{data} no longer exists, so it is not compared with the data of the run's "
                      "training", stacklevel=3)  # fmt: skip
        return None
    table = opened()
    summary = table.summary()
    if stills:
        files = [place for zipped in stills for place in (zipped, zipped.with_suffix(".csv"))]
        whole = (hashlib.blake2b(read_bytes(file), digest_size=16).hexdigest() for file in files)
        summary["stills"] = dict(zip((file.name for file in files), whole, strict=True))
        digests = json.dumps([summary["digest"], summary["stills"]])
        summary["digest"] = hashlib.sha256(digests.encode()).hexdigest()
    run.check_data(summary, explain_change)
    return None if run.is_finished else table


class _Check(Dataset):
    """Item i: why clip i cannot be read from front to back, or an empty text."""

    def __init__(self, table: Annotations) -> None:
        self.table = table

    def __getitem__(self, index: int) -> str:
        try:
            reader = self.table.open(self.table.clips[index])
            for first in range(0, len(reader), CHUNK):
                reader.read(range(first, min(first + CHUNK, len(reader))))
        except (ValueError, OSError) as error:
            return str(error)
        return ""


def unreadable(table: Annotations, workers: int) -> dict[int, str]:
    """Numbers of the clips that cannot be read from front to back, and the reasons."""
    names = [str(clip.path) for clip in table.clips]
    numbers = [[i] for i in range(len(names))]
    loaded = read_batches(_Check(table), numbers, workers, names.__getitem__, collate=list)
    shown = tqdm(loaded, "checking clips", len(names), unit="clip", leave=False)
    found = {i: why for i, (why,) in enumerate(shown) if why}
    if found:
        warnings.warn(f"{len(found)} of {len(names)} clips cannot be read and are left out, "
                      f"e.g. {names[next(iter(found))]}", stacklevel=3)  # fmt: skip
    return found


# --- worker processes: no hang, and an error that names the clip ---


class _Reporting(Dataset):
    """Items, each with the clips it replaced; records which worker reads which item."""

    def __init__(self, dataset: Dataset, workers: int) -> None:
        self.dataset = dataset
        # Process, item, and the error number of a batch that could not be handed over.
        self.notes = torch.full((workers, 3), -1, dtype=torch.int64)
        self.notes = self.notes.share_memory_() if workers else self.notes

    def __getitem__(self, index: int) -> Any:
        if (info := get_worker_info()) is not None:
            self.notes[info.id, :2] = torch.tensor([os.getpid(), index])
        try:
            item = self.dataset[index]
        except (ValueError, OSError) as error:
            return error  # returned, since torch adds a traceback to raised ones
        replaced = getattr(self.dataset, "replaced", [])
        names = tuple(replaced)
        replaced.clear()
        return item, names


class _Slots:
    """Stacks the frames of a batch in memory that its worker shares and uses again and again.

    Pages of new memory are cleared, mapped and given back, which on a virtual machine takes longer
    than all the rest: 196 MB, the paper's batch, 0.4 s to fill and 0.3 s to take over, against 0.05
    and 0.1 s. A batch lasts until the worker's third one after it is asked for. It is no part of
    /dev/shm, which is small in containers.
    """

    opened: ClassVar[WeakValueDictionary[int, _Slots]] = WeakValueDictionary()

    def __init__(self, frames: Tensor, size: int, workers: int) -> None:
        """size: most clips of a batch; `frames` is one of them."""
        self.shape, self.dtype = (workers * SLOTS, size, *frames.shape), frames.dtype
        self.turn, self.key, self.file = 0, id(self), os.memfd_create("batches")
        finalize(self, os.close, self.file)
        os.ftruncate(self.file, math.prod(self.shape) * frames.element_size())
        self._map()
        self.opened[self.key] = self

    def _map(self) -> None:
        self.memory = torch.frombuffer(mmap(self.file, 0), dtype=self.dtype).view(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memory": None, "file": reduction.DupFd(self.file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, file=state["file"].detach())
        self._map()
        os.close(self.file)

    def __call__(self, items: Sequence[Tensor | tuple[Any, ...]]) -> Any:
        """As `default_collate` of frames, or of tuples that begin with them."""
        info, self.turn = get_worker_info(), (self.turn + 1) % SLOTS
        assert info is not None
        frames, *others = zip(*(x if isinstance(x, tuple) else (x,) for x in items), strict=True)
        place = info.id * SLOTS + self.turn, len(frames)
        torch.stack(frames, out=self.memory[place[0], : place[1]])
        slot = _Slot(self.key, *place)
        return [slot, *(default_collate([*other]) for other in others)] if others else slot


class _Slot:
    """What a worker hands over of a batch; once it is here, the frames."""

    def __init__(self, *place: int) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[int, ...]]:
        return _taken, self.place


def _taken(key: int, number: int, count: int) -> Tensor:
    return _Slots.opened[key].memory[number, :count]


def _collate(collate: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """A batch of the items and what was replaced in it, or the error of one of them."""
    if failed := next((item for item in items if isinstance(item, Exception)), None):
        return failed
    return collate([item for item, _ in items]), [one for _, names in items for one in names]


def read_batches(
    dataset: Dataset,
    batches: Iterable[Sequence[int]],
    workers: int,
    name: Callable[[int], str],
    *,
    collate: Callable[[list[Any]], Any] = default_collate,
    pin_memory: bool = False,
    replaced: Callable[[list[tuple[str, str]]], object] | None = None,
) -> Iterator[Any]:
    """The batches of items, in order, read by `workers` processes, or by this one without any.

    Workers are forked from a clean server process (a fork of one in which a video was decoded or
    torch has computed waits for missing threads), so `dataset` is pickled, and a script
    needs `if __name__ == "__main__":`.

    name: of an item's source, for messages. replaced: receives replaced clips and reasons.
    pin_memory: for a copy to a GPU. Items are then frames, or tuples of frames and others, and one
        batch is to be done with when the next is asked for.

    Raises ChildProcessError, with what it read, if a worker died (a decoder's crash, no memory);
    ValueError and OSError as raised in reading an item.
    """
    check_workers(workers)
    reporting = _Reporting(dataset, workers)
    options: dict[str, Any] = {}
    if workers and pin_memory and hasattr(os, "memfd_create"):  # through reused memory
        first = next(batches := iter(batches), [])
        batches = chain([first] if first else [], batches)
        for item in map(reporting.__getitem__, first[:1]):
            if not isinstance(item, Exception):
                frames = item[0][0] if isinstance(item[0], tuple) else item[0]
                collate = _Slots(frames, len(first), workers)
    if workers:
        options = {"multiprocessing_context": _context(), "worker_init_fn": _begin}
    loader = DataLoader(
        reporting,
        batch_sampler=batches,  # type: ignore
        num_workers=workers,
        collate_fn=partial(_collate, collate),
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, so that the loader leaves torch's state alone
        **options,
    )
    try:
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            items, names = batch
            if replaced is not None and names:
                replaced(names)
            yield items
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(_obituary(str(error), reporting.notes.tolist(), name)) from error


def _obituary(reason: str, notes: list[list[int]], name: Callable[[int], str]) -> str:
    """Which worker died over what; `notes` holds process and item of each."""
    dead = {int(number) for number in re.findall(r"\d+", reason)}
    items = [item for pid, item, _ in notes if pid in dead]
    if failed := [number for pid, _, number in notes if pid in dead and number >= 0]:
        why = os.strerror(failed[0]) if failed[0] else "no memory"
        return (
            f"a process that reads clips could not hand them over: {why}. Raise the limit on open "
            "files (ulimit -n 4096), enlarge /dev/shm, or use workers=0"
        )
    if "shared memory" in reason:
        return "/dev/shm is full: enlarge it, or use workers=0"
    if not items:
        return (
            "a process that reads clips died before it read one. A script that starts workers "
            'needs `if __name__ == "__main__":` around its calls; else try workers=0'
        )
    return (
        "a process that reads clips died while (or just after) reading "
        f"{', '.join(dict.fromkeys(name(item) for item in items))}. Leave the file out if this "
        "happens again, or use fewer workers if memory ran out"
    )


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, by the server that forks the workers: a new worker starts at once.
    context.set_forkserver_preload(["maedfer_lab.training.stream"])
    return context


def _not_handed_over(error: Exception, _: object) -> None:
    """End this worker: multiprocessing would drop the batch, for which the training then waits."""
    info = get_worker_info()
    if info is not None:
        info.dataset.notes[info.id, 2] = getattr(error, "errno", 0) or 0  # type: ignore
    os._exit(1)


def _begin(_: int) -> None:
    """Start a worker. A launcher's or Slurm's SIGTERM reaches it too, but the step needs it."""
    begin_worker()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_not_handed_over)  # type: ignore
    end = threading.Timer(GRACE_S, os._exit, (1,))
    end.daemon = True
    signal.signal(signal.SIGTERM, lambda *_: None if end.is_alive() else end.start())
