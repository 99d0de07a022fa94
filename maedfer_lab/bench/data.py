"""Section "data": clips that are ready for a training step, for every second of one core."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from maedfer_lab.bench import plain_data
from maedfer_lab.bench.clips import make_videos
from maedfer_lab.bench.report import Check, Findings, Row, checked
from maedfer_lab.bench.settings import Settings
from maedfer_lab.bench.timing import Work, pick
from maedfer_lab.config import Augment, FinetuneConfig, finetune_recipe, tiny
from maedfer_lab.cost.memory import one_thread
from maedfer_lab.data.augment import training_indices
from maedfer_lab.data.clips import clip_indices
from maedfer_lab.data.memory import keep_freed_memory
from maedfer_lab.data.table import Clip
from maedfer_lab.data.video import open_video
from maedfer_lab.method.models import build_classifier
from maedfer_lab.runs import Run
from maedfer_lab.training.finetune import FinetuneTask
from maedfer_lab.training.stream import ClipStream, RunData, labelled_data, pretraining_data

BATCH = 8
SHARDS = "shards"
NOTE = (
    "data: seconds of one core, PyTorch with one thread as in a worker that reads clips; the "
    "floor is to decode the same frames; what ours leaves to the device (floats, erasing, mixing) "
    "is told apart, where the plain way does the same work; drawn faces with grain, 224 px, 72 to "
    "132 frames"
)


def steps(settings: Settings) -> Iterator[tuple[str, Callable[[Findings], None]]]:
    """The pieces of this section: what is measured, and the function that adds its rows."""
    keep_freed_memory()  # as trainings do; both ways of making clips gain from it
    yield "videos to read", lambda found: check_decoding(settings, found)
    yield "pre-training clips", lambda found: pretraining(settings, found)
    yield "fine-tuning clips", lambda found: finetuning(settings, found)


def check_decoding(settings: Settings, found: Findings) -> None:
    """Frames of ours and the plain way are the same, byte for byte; shards are coded anew."""
    videos = make_videos(settings)
    indices = [0, 3, 7, 19]
    for name, folder in (("MP4", videos.mp4), ("JPEGs", videos.jpegs)):
        path = videos.paths(folder)[0]
        want = np.stack([np.asarray(x) for x in plain_data.read_frames(path, lambda _: indices)])
        apart = np.abs(open_video(path).read(indices).astype(int) - want).max() / 255
        found.checks.append(checked(f"decoded frames, {name}", float(apart)))
    clip = _labelled(settings, videos.shards, SHARDS).stream.clips[0]
    shown = open_video(clip.path).read(indices)
    pictures = plain_data.read_frames(videos.jpegs / clip.path.name, lambda _: indices)
    small = [x.resize(shown.shape[1:3], plain_data.BILINEAR) for x in pictures]
    apart = np.abs(shown.astype(int) - np.stack([np.asarray(x) for x in small])).mean() / 255
    found.checks.append(Check("decoded frames, shards: mean difference", float(apart), None))
    found.notes.append(NOTE)


class NoNetwork(nn.Module):
    """Takes the place of a network, so that a task's loss costs what it does to the clips."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of zero."""
        return clips.new_zeros(len(clips), self.num_classes)


def pretraining(settings: Settings, found: Findings) -> None:
    """A random stretch and one multi-scale crop, as floats."""
    videos, num = make_videos(settings), _batch(settings)
    model, works = settings.model("lgi"), dict[str, Work]()
    shape = model.frames, settings.recipe("lgi").stride, model.size_px

    def plain(clip: Clip, rng: np.random.Generator) -> Tensor:
        return plain_data.pretraining_clip(clip.path, *shape, rng)

    def decode(clip: Clip, rng: np.random.Generator) -> None:
        reader = open_video(clip.path)
        reader.read(clip_indices(len(reader), *shape[:2], rng))

    for name, folder in (("MP4", videos.mp4), ("JPEGs", videos.jpegs), (SHARDS, videos.roomy)):
        framing = "face" if name == SHARDS else "voxceleb2"
        config = replace(settings.recipe("lgi"), data=folder, framing=framing)
        source = pretraining_data(config).stream

        def ours(items: list[int], source: ClipStream = source) -> None:
            default_collate([source[i] for i in items])

        title = f"pre-training clip, {name}"
        works[f"{title} ours"] = _batches(ours, num)
        works[f"{title} floor"] = _draws(source.clips, num, decode)
        if name != SHARDS:
            works[f"{title} plain"] = _stacked(_draws(source.clips, num, plain))
    _add_rows(settings, found, works, num)


def finetuning(settings: Settings, found: Findings) -> None:
    """The published transform of fine-tuning, with mixed clips, as floats."""
    videos, num = make_videos(settings), _batch(settings)
    model, works, augment = settings.model("lgi"), dict[str, Work](), Augment()
    shape = model.frames, settings.recipe("lgi").stride, model.size_px

    def plain(clip: Clip, rng: np.random.Generator) -> Tensor:
        return plain_data.finetuning_clip(clip.path, *shape, augment, rng)

    def decode(clip: Clip, rng: np.random.Generator) -> None:
        reader = open_video(clip.path)
        reader.read(training_indices(len(reader), *shape[:2], rng))

    for name, folder in (("MP4", videos.mp4), ("JPEGs", videos.jpegs), (SHARDS, videos.shards)):
        source = _labelled(settings, folder, SHARDS if name == SHARDS else "csv").stream

        def ours(items: list[int], source: ClipStream = source) -> None:
            default_collate([source[i] for i in items])

        title = f"fine-tuning clip, {name}"
        works[f"{title} ours"] = _batches(ours, num)
        works[f"{title} floor"] = _draws(source.clips, num, decode)
        if name != SHARDS:
            works[f"{title} plain"] = _stacked(_draws(source.clips, num, plain))
    works |= _on_the_device(settings, _labelled(settings, videos.shards, SHARDS), num)
    _add_rows(settings, found, works, num)


def _on_the_device(settings: Settings, data: RunData, num: int) -> dict[str, Work]:
    """What is left for the device, and the same work plainly: floats, erasing, mixing."""
    device, classes = settings.device, len(data.table.classes)
    asked = build_classifier(tiny().model, classes)  # for its kind, never run
    task = FinetuneTask(_recipe(settings, SHARDS), asked, data, Run(settings.folder))
    frames, labels = default_collate([data.stream[i] for i in range(num)])
    batch, network, steps = (frames.to(device), labels.to(device)), NoNetwork(classes), count()
    return {
        "fine-tuning clip, on the device ours": lambda: task.loss(
            network, batch, next(steps), range(num)
        ),
        "fine-tuning clip, on the device plain": lambda: plain_data.mixed(
            plain_data.finished(frames, Augment()).to(device), batch[1], classes, Augment()
        ),
    }


def _batch(settings: Settings) -> int:
    return 2 if settings.smoke else BATCH


def _recipe(settings: Settings, dataset: str) -> FinetuneConfig:
    recipe = finetune_recipe(dataset, 1)
    return replace(
        recipe,
        model=settings.model("lgi"),
        stride=settings.recipe("lgi").stride,
        optim=replace(recipe.optim, batch_size=_batch(settings)),
        framing="whole",
        seed=settings.seed,
    )


def _labelled(settings: Settings, folder: Path, dataset: str) -> RunData:
    with warnings.catch_warnings():  # nothing is validated here
        warnings.simplefilter("ignore")
        return labelled_data(replace(_recipe(settings, dataset), data=folder))


def _batches(read: Callable[[list[int]], None], num: int) -> Work:
    """Read the next `num` items of a stream at each call."""
    numbers = count()
    return lambda: read([next(numbers) for _ in range(num)])


def _draws(
    clips: Sequence[Clip], num: int, read: Callable[[Clip, np.random.Generator], Any]
) -> Callable[[], list[Any]]:
    """Read the next `num` of clips that come again and again; every time has draws of its own."""
    numbers = count()

    def run() -> list[Any]:
        items = [next(numbers) for _ in range(num)]
        return [read(clips[i % len(clips)], np.random.default_rng(i)) for i in items]

    return run


def _stacked(read: Callable[[], list[Tensor]]) -> Callable[[], Tensor]:
    return lambda: torch.stack(read())


def _add_rows(settings: Settings, found: Findings, works: dict[str, Work], num: int) -> None:
    watch = replace(settings.watch, most=3 * settings.watch.most)  # short works, varied clips
    with one_thread():  # the others would wait for it in loops that count as work
        taken = watch.alternate(works, clock=time.process_time)
    for name in dict.fromkeys(name.rpartition(" ")[0] for name in works):
        sides = {side: timing.per(num) for side, timing in pick(taken, name).items()}
        found.rows.append(Row("data", name, **sides))
