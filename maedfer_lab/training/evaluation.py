"""Testing a classifier: probabilities averaged over the test views of every clip.

The batches are cut from the list of clips in one way, and of several processes each takes its
turn, so that no number depends on how many there are. Other batch sizes sum in another order:
that moves probabilities by some 1e-6 in float32, and they are rounded to six digits before
anything is decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from maedfer_lab.config import Precision
from maedfer_lab.data.clips import Box
from maedfer_lab.data.memory import keep_freed_memory
from maedfer_lab.data.shards import ShardedAnnotations
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.data.video_reader import VideoError
from maedfer_lab.fast import speed_up
from maedfer_lab.method.models import Classifier
from maedfer_lab.training.loading import read_batches
from maedfer_lab.training.optim import mixed_precision
from maedfer_lab.training.predictions import DIGITS, POOLED, Evaluation
from maedfer_lab.training.views import Views

SHOWN = 5  # broken clips in a message


@dataclass(frozen=True)
class ReadClip:
    """The distinct views of a clip, their weights, and their box; without any, the reason."""

    index: int
    views: UInt8[np.ndarray, "v T H W 3"]
    weights: Float[np.ndarray, " v"]
    box: Box | None
    reason: str = ""


class ClipViews(Dataset):
    """Reads the views of clips, for a data loader."""

    def __init__(
        self,
        annotations: Annotations,
        clips: Sequence[Clip],
        views: Views,
        boxes: Mapping[Clip, Box] | None = None,
    ) -> None:
        self.annotations, self.clips, self.views = annotations, clips, views
        self.boxes, self.reads_shards = boxes or {}, isinstance(annotations, ShardedAnnotations)

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> ReadClip:
        """One clip; one that cannot be read says why."""
        clip = self.clips[index]
        try:
            reader = self.annotations.open(clip)
            return ReadClip(index, *self.views.read(reader, self.boxes.get(clip)))
        except (VideoError, OSError) as error:
            reason = error.reason if isinstance(error, VideoError) else str(error)
            none = np.empty((0, 1, 1, 1, 3), np.uint8), np.empty(0), None
            return ReadClip(index, *none, reason or type(error).__name__)


def evaluate(
    model: Classifier,
    annotations: Annotations,
    clips: Sequence[Clip],
    *,
    stride: int = 4,
    segments: int = 2,
    crops: int = 2,
    framing: str = "whole",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "float32",
    skip_broken: bool = False,
    boxes: dict[Clip, Box] | None = None,
) -> Evaluation:
    """Class probabilities of `clips`: softmax, then the mean over the test views (`Views`).

    Called by all processes, each with the whole model on its device; all get the whole result.
    The model comes back in the mode in which it came.

    batch_size: clips that are read together.
    workers: processes that read clips, of each process.
    boxes: where faces were found; these are not looked for again, and new ones are added.

    Raises:
        ValueError: no clip, labels beyond the model's classes, or (unless `skip_broken`) clips
            that cannot be read: their number and the first names.
        ChildProcessError: a process that read clips died; names the clip.
    """
    _check(model, annotations, clips, batch_size)
    keep_freed_memory()
    config, state = model.config, PartialState()
    views = Views(config.frames, config.size_px, stride, segments, crops, framing=framing)  # type: ignore
    batches = [
        range(at, min(at + batch_size, len(clips))) for at in range(0, len(clips), batch_size)
    ]
    own_batches = batches[state.process_index :: state.num_processes]
    loaded = read_batches(
        ClipViews(annotations, clips, views, boxes),
        own_batches,
        workers,
        lambda index: annotations.name(clips[index]),
        collate=list,
    )
    shown = tqdm(loaded, "evaluate", len(own_batches), unit="batch", leave=False,
                 disable=not state.is_local_main_process)  # fmt: skip
    was_training = model.training
    found: dict[int, Box] = {}
    own = list(_answers(speed_up(model).eval(), iter(shown), precision, found))
    if boxes is not None:
        boxes.update({clips[index]: box for index, box in found.items()})
    model.train(was_training)
    # A process without a batch takes part as well; gather_object joins the lists.
    answers = dict(own if state.num_processes == 1 else gather_object(own))
    skipped = [
        (annotations.name(clips[index]), answers[index])
        for index in range(len(clips))
        if isinstance(answers[index], str)
    ]
    if skipped and (not skip_broken or len(skipped) == len(clips)):
        some = "; ".join(f"{path} ({reason})" for path, reason in skipped[:SHOWN])
        raise ValueError(
            f"{len(skipped)} of {len(clips)} clips cannot be read: {some}"
            f"{'; ...' if len(skipped) > SHOWN else ''}. Mend them, or leave them out with "
            "--skip-broken (the scores are then no longer of the whole test set)"
        )
    return _evaluation(annotations, clips, answers, skipped)


def _check(model: Classifier, annotations: Annotations, clips: Sequence[Clip], batch: int) -> None:
    if not clips or batch < 1:
        raise ValueError(f"{len(clips)} clips in batches of {batch}: both must be at least 1")
    outputs = model.head.out_features
    if outputs != len(annotations.classes):
        raise ValueError(
            f"the model tells {outputs} classes apart, {annotations.dataset} has "
            f"{len(annotations.classes)} ({', '.join(annotations.classes)}); choose the data set "
            "that the model was fine-tuned on"
        )


def _answers(
    model: Classifier,
    batches: Iterator[list[ReadClip]],
    precision: Precision,
    boxes: dict[int, Box],
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Index and probabilities of every clip, or the reason why there are none; notes its box."""
    for batch in batches:
        boxes.update({clip.index: clip.box for clip in batch if clip.box is not None})
        good = [clip for clip in batch if not clip.reason]
        yield from ((clip.index, clip.reason) for clip in batch if clip.reason)
        if good:
            views = torch.from_numpy(np.concatenate([clip.views for clip in good]))
            found = view_probabilities(model, views, precision).numpy()
            ends = np.cumsum([len(clip.views) for clip in good])
            for clip, own in zip(good, np.split(found, ends[:-1]), strict=True):
                yield clip.index, np.round(clip.weights @ own, DIGITS)


@torch.no_grad()
def view_probabilities(
    model: Classifier, views: UInt8[Tensor, "v T H W 3"], precision: Precision
) -> Float[Tensor, "v k"]:
    """Softmax of the logits of each view, in double precision on the CPU."""
    device = next(model.parameters()).device
    clip = views.to(device).permute(0, 4, 1, 2, 3).float().div(255)
    with mixed_precision(precision, device):
        logits = model(clip)
    return logits.float().cpu().double().softmax(1)


def _evaluation(
    annotations: Annotations,
    clips: Sequence[Clip],
    answers: dict[int, np.ndarray | str],
    skipped: list[tuple[str, Any]],
) -> Evaluation:
    kept = [i for i in range(len(clips)) if not isinstance(answers[i], str)]
    tested = sorted({clip.fold for clip in clips})
    fold = "all" if annotations.num_folds == 1 else str(tested[0]) if len(tested) == 1 else POOLED
    return Evaluation(
        annotations.dataset,
        fold,
        annotations.classes,
        tuple(annotations.name(clips[i]) for i in kept),
        np.array([clips[i].label for i in kept]),
        np.stack([answers[i] for i in kept]),
        tuple(clips[i].fold for i in kept),
        tuple(clips[i].subject for i in kept),
        tuple(skipped),
    )
