"""Testing a classifier: the views of each clip, probabilities, scores, and the files of a test.

The published protocol tests 2 windows x 2 crops of frames resized to the crop's own size, so its
two crops are the same picture (and so are the windows of a short video). Here a video is read once,
and a view that occurs several times carries their weight: the weighted mean is the published one.
Batches do not depend on the number of processes; other sizes sum in another order, which moves
probabilities by some 1e-6: they are rounded to six digits before anything is decided.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from maedfer_lab.config import Framing, Precision, check_counts, choose_framing
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.labels import DATASETS, Matched, match_classes, published_labels
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.data.transforms import Box, crop_and_resize, keep_freed_memory
from maedfer_lab.data.video import VideoError, VideoReader
from maedfer_lab.fast import speed_up
from maedfer_lab.files import text_bytes, write_aside
from maedfer_lab.method.models import Classifier
from maedfer_lab.metrics import SCORES, Intervals, bootstrap, confusion_matrix, recalls, scores
from maedfer_lab.training.optim import mixed_precision
from maedfer_lab.training.stream import read_batches

SHOWN = 5  # broken clips in a message
DIGITS = 6  # of a probability, in memory as in the file
COLUMNS = ("path", "label", "guess", "fold", "subject")
TITLES = {"uar": "UAR", "war": "WAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
POOLED = "pooled"


@dataclass(frozen=True)
class Views:
    """Which views of a video are tested.

    num_frames, size_px: frames of a view and its side.
    stride: frames of the video per frame of a view (published: 4, for FERV39k 1).
    segments: windows in time, spread from the first frame to the last; one is the middle.
    crops: of the resized frames; as these have the crop's own size, all crops are one picture.
    framing: what of the picture is resized: the "whole" (published), or a square around the "face".
    """

    num_frames: int = 16
    size_px: int = 160
    stride: int = 4
    segments: int = 2
    crops: int = 2
    framing: Framing = "whole"

    def __post_init__(self) -> None:
        object.__setattr__(self, "framing", choose_framing(self.framing, "whole", "face"))
        names = ("num_frames", "size_px", "stride", "segments", "crops")
        check_counts(**{name: getattr(self, name) for name in names})

    def windows(self, num_video_frames: int) -> Counter[int]:
        """First frame of each window, counted in strides, with how often it occurs."""
        strided, num = -(-num_video_frames // self.stride), self.segments
        room = max(strided - self.num_frames, 0)
        if num == 1:
            return Counter([room // 2])
        # parity: a step in floating point, times k, cut off, as in the official code
        return Counter(int(k * (room / (num - 1))) for k in range(num))

    def frames(self, start: int, num_video_frames: int) -> Int[np.ndarray, " T"]:
        """Frames of the window at `start`; beyond the last strided frame that one is repeated."""
        last = (num_video_frames - 1) // self.stride
        return self.stride * np.minimum(start + np.arange(self.num_frames), last)

    def read(
        self, reader: VideoReader, box: Box | None = None
    ) -> tuple[UInt8[np.ndarray, "v T H W 3"], Float[np.ndarray, " v"], Box]:
        """The distinct views of a video, their weights, which sum to 1, and what was cut out.

        box: from an earlier reading of the same video, which saves looking for the face.
        """
        windows = self.windows(len(reader))
        chosen = [self.frames(start, len(reader)) for start in windows]
        needed = np.unique(np.concatenate(chosen))
        if self.framing == "whole":
            box = Box(0, 0, reader.height, reader.width)
        box = face_square(reader) if box is None else box
        frames = crop_and_resize(reader.read(needed), box, self.size_px, self.size_px, exact=True)
        views = np.stack([frames[np.searchsorted(needed, indices)] for indices in chosen])
        return views, np.array([*windows.values()]) / windows.total(), box


class ClipViews(Dataset):
    """Reads clips for a data loader: (number, views, weights, box, why it cannot be read or "")."""

    def __init__(
        self,
        annotations: Annotations,
        clips: Sequence[Clip],
        views: Views,
        boxes: Mapping[Clip, Box] | None = None,
    ) -> None:
        self.annotations, self.clips, self.views = annotations, clips, views
        self.boxes = boxes or {}

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray, Box | None, str]:
        """One clip."""
        clip = self.clips[index]
        try:
            reader = self.annotations.open(clip)
            return index, *self.views.read(reader, self.boxes.get(clip)), ""
        except (VideoError, OSError) as error:
            reason = getattr(error, "reason", "") or str(error) or type(error).__name__
            return index, np.empty(0), np.empty(0), None, reason


def evaluate(
    model: Classifier, annotations: Annotations, clips: Sequence[Clip], *,
    matched: Matched | None = None, stride: int = 4, segments: int = 2, crops: int = 2,
    framing: str = "whole", batch_size: int = 8, workers: int = 0,
    precision: Precision = "float32", skip_broken: bool = False,
    boxes: dict[Clip, Box] | None = None,
) -> Evaluation:  # fmt: skip
    """Class probabilities of `clips`: softmax, then the mean over the test views (`Views`).

    Called by all processes, each with the whole model on its device; all get the whole result.
    The model comes back in the mode in which it came.

    matched: whose classes become which; by default the model's are the table's, in its order.
    batch_size: clips that are read together. workers: processes that read clips, of each process.
    boxes: where faces were found; these are not looked for again, and new ones are added.

    Raises:
        ValueError: no clip, labels beyond the model's classes, or (unless `skip_broken`) clips
            that cannot be read: their number and the first names.
        ChildProcessError: a process that read clips died; names the clip.
    """
    matched = matched or match_classes(
        model.head.out_features, None, annotations.classes, annotations.dataset
    )
    clips = [clip for clip in clips if matched.labels[clip.label] >= 0]
    if not clips or batch_size < 1:
        raise ValueError(f"{len(clips)} clips in batches of {batch_size}: both must be at least 1")
    keep_freed_memory()
    config, state, names = model.config, PartialState(), list(map(annotations.name, clips))
    views = Views(config.frames, config.size_px, stride, segments, crops, framing=framing)  # type: ignore
    batches = [range(len(clips))[at : at + batch_size] for at in range(0, len(clips), batch_size)]
    own_batches = batches[state.process_index :: state.num_processes]
    source = ClipViews(annotations, clips, views, boxes)
    loaded = read_batches(source, own_batches, workers, names.__getitem__, collate=list)
    shown = tqdm(loaded, "evaluate", len(own_batches), unit="batch", leave=False,
                 disable=not state.is_local_main_process)  # fmt: skip
    was_training, own = model.training, []
    model = speed_up(model).eval()
    for batch in shown:
        own += [(index, reason) for index, *_, reason in batch if reason]
        good = [read for read in batch if not read[-1]]
        if boxes is not None:
            boxes.update({clips[index]: box for index, _, _, box, _ in good})
        if good:
            pixels = torch.from_numpy(np.concatenate([read[1] for read in good]))
            found = matched.gather(view_probabilities(model, pixels, precision).numpy())
            ends = np.cumsum([len(read[1]) for read in good])
            for read, part in zip(good, np.split(found, ends[:-1]), strict=True):
                own.append((read[0], np.round(read[2] @ part, DIGITS)))
    model.train(was_training)
    # A process without a batch takes part as well; gather_object joins the lists.
    answers: dict[int, Any] = dict(own if state.num_processes == 1 else gather_object(own))
    kept = [i for i in range(len(clips)) if not isinstance(answers[i], str)]
    skipped = [(name, answers[i]) for i, name in enumerate(names) if isinstance(answers[i], str)]
    if skipped and (not skip_broken or len(skipped) == len(clips)):
        some = "; ".join(f"{path} ({reason})" for path, reason in skipped[:SHOWN])
        raise ValueError(
            f"{len(skipped)} of {len(clips)} clips cannot be read: {some}"
            f"{'; ...' if len(skipped) > SHOWN else ''}. Mend them, or leave them out with "
            "--skip-broken (the scores are then no longer of the whole test set)"
        )
    tested = sorted({clip.fold for clip in clips})
    fold = "all" if annotations.num_folds == 1 else str(tested[0]) if len(tested) == 1 else POOLED
    return Evaluation(
        annotations.dataset,
        fold,
        matched.classes,
        tuple(names[i] for i in kept),
        np.array([matched.labels[clips[i].label] for i in kept]),
        np.stack([answers[i] for i in kept]),
        tuple(clips[i].fold for i in kept),
        tuple(clips[i].subject for i in kept),
        tuple(skipped),
    )


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


@dataclass(frozen=True)
class Evaluation:
    """Probabilities of the clips of one fold, or of several folds pooled.

    fold: its number; "all" where a data set has a single split; "pooled" for several folds.
    paths: relative to the data set's folder. folds: in which fold each clip is tested.
    subjects: who is seen in each clip, or None where names do not tell.
    skipped: path and reason of every clip that could not be read.
    run: name and digest of the weights that were tested, of each fold.
    """

    dataset: str
    fold: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]
    folds: tuple[int, ...]
    subjects: tuple[str | None, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    run: tuple[str, ...] = ()

    @property
    def guesses(self) -> Int[np.ndarray, " n"]:
        """The likeliest class of each clip; of equals the first."""
        return self.probabilities.argmax(1)

    @cached_property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """How often each class (row) was taken for each class (column)."""
        return confusion_matrix(self.labels, self.guesses, len(self.classes))

    @cached_property
    def scores(self) -> dict[str, float]:
        """UAR, WAR, macro and weighted F1, in [0, 1]."""
        return {name: float(value) for name, value in scores(self.confusion).items()}

    def intervals(self, by: str = "clips", **options: Any) -> Intervals | None:
        """95 % bootstrap intervals over "clips" or "subjects" (None where these are not known)."""
        people = [str(name) for name in self.subjects] if by == "subjects" else None
        if people is not None and not all(self.subjects):
            return None
        return bootstrap(self.labels, self.guesses, len(self.classes), people, **options)

    def __str__(self) -> str:
        over = {by: self.intervals(by) for by in ("clips", "subjects")}
        known = {by: found for by, found in over.items() if found is not None}
        lines = [
            f"{self.dataset}, fold {self.fold}: {len(self.labels)} clips of "
            f"{len(self.classes)} classes; in brackets 95 % intervals over {' and '.join(known)}"
        ]
        for name in SCORES:
            ends = (found[name] for found in known.values())
            ranges = "  ".join(f"[{100 * a:.2f}, {100 * b:.2f}]" for a, b in ends)
            lines.append(f"  {TITLES[name]:<13}{100 * self.scores[name]:6.2f} %  {ranges}")
        lines.append("  recall of each class")
        counts = self.confusion.sum(1)
        for name, recall, count in zip(self.classes, recalls(self.confusion), counts, strict=True):
            share = f"{100 * recall:6.2f} % of {count}" if count else "no test clip"
            lines.append(f"    {name:<16}{share}")
        if self.skipped:
            lines.append(f"  skipped: {len(self.skipped)} clips that cannot be read, such as")
            lines += [f"    {path}: {reason}" for path, reason in self.skipped[:SHOWN]]
        return "\n".join(lines)


def combine(folds: Sequence[Evaluation]) -> tuple[dict[str, float], Evaluation]:
    """Plain mean of the scores over folds, as published, and all predictions pooled.

    Raises ValueError where folds are of other data sets or one comes twice.
    """
    names = [one.fold for one in folds]
    if not folds or len(set(names)) < len(names):
        raise ValueError(f"folds={names} must be different ones, at least one, such as 1 2 3 4 5")
    first = folds[0]
    for one in folds:
        if (one.dataset, one.classes) != (first.dataset, first.classes):
            raise ValueError(f"{one.dataset} {one.classes} is not {first.dataset} {first.classes}")
    mean = {name: float(np.mean([one.scores[name] for one in folds])) for name in SCORES}
    joined: dict[str, Any] = {}
    for name in ("paths", "folds", "subjects", "skipped", "run"):
        joined[name] = sum((getattr(one, name) for one in folds), ())
    for name in ("labels", "probabilities"):
        joined[name] = np.concatenate([getattr(one, name) for one in folds])
    return mean, replace(first, fold=POOLED, **joined)


def save_evaluation(
    found: Evaluation, folder: Path, source: dict[str, Any], *, method: str,
    name: str | None = None, **more: Any,
) -> list[Path]:  # fmt: skip
    """Write a fold as NAME.csv, a row per clip, and NAME.json, in the schema of `maedfer claims`.

    Only the test of all clips of a published list is of the kind "evaluation"; of something smaller
    it is a "partial evaluation", which no claim counts. The files of another run, or of other
    clips, are kept: then the new ones get the run's name as well.

    source: the `provenance`. method: "MAE-DFER" is the published one, which `maedfer claims` looks
        for.
    name: by default DATASET_foldK. more: further entries of the JSON file.
    """
    path = _free_path(found, folder / f"{name or f'{found.dataset}_fold{found.fold}'}.json")
    file, names = io.StringIO(), found.classes
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p {name}" for name in names)])
    columns = (found.paths, found.labels, found.guesses, found.folds, found.subjects)
    for clip, label, guess, fold, who, row in zip(*columns, found.probabilities, strict=True):
        chances = (f"{p:.{DIGITS}f}" for p in row)
        writer.writerow([clip, names[label], names[guess], fold, who or "", *chances])
    write_aside(path.with_suffix(".csv"), text_bytes(file.getvalue(), exact=True))
    labels = published_labels(found.dataset) if found.dataset in DATASETS else None
    whole = found.fold != POOLED and not found.skipped
    if labels is not None and whole:  # as many clips as the published list holds
        fold = 1 if found.fold == "all" else int(found.fold)
        whole = labels.counts.get((fold, "test")) == tuple(found.confusion.sum(1).tolist())
    by_class = recalls(found.confusion)
    content = {
        "kind": "evaluation" if whole else "partial evaluation",
        "method": method,
        "dataset": labels.title if labels else found.dataset,
        "fold": found.fold,
        **found.scores,
        "n": len(found.labels),
        "recalls": [None if np.isnan(recall) else recall for recall in by_class.tolist()],
        "intervals": {by: found.intervals(by) for by in ("clips", "subjects")},
        "set": found.dataset,
        "run": found.run,
        "classes": found.classes,
        "confusion": found.confusion.tolist(),
        "skipped": found.skipped,
        **more,
        "provenance": source,
    }
    lines = [f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in content.items()]
    write_aside(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return [path.with_suffix(".csv"), path]


def _free_path(found: Evaluation, path: Path) -> Path:
    """`path`, or where it holds another test a name that does not."""
    run = f"{path.stem}_{Path(found.run[0]).stem if found.run else 'other'}"
    names = itertools.chain([path.stem, run], (f"{run}-{i}" for i in itertools.count(2)))
    for here in (path.with_name(f"{name}.json") for name in names):
        if not here.exists() and not here.with_suffix(".csv").exists():
            return here
        with suppress(OSError, ValueError, KeyError):  # another file, or half: not ours to replace
            other = read_evaluation(here)
            if (other.run, other.paths, other.fold) == (found.run, found.paths, found.fold):
                return here
    raise AssertionError


def read_evaluation(path: Path) -> Evaluation:
    """Read what `save_evaluation` wrote, from either file's path."""
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    table = path.with_suffix(".csv")
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = tuple(told["classes"])
    return Evaluation(
        dataset=told["set"],
        fold=told["fold"],
        classes=classes,
        paths=tuple(row["path"] for row in rows),
        labels=np.array([classes.index(row["label"]) for row in rows]),
        probabilities=np.array([[float(row[f"p {name}"]) for name in classes] for row in rows]),
        folds=tuple(int(row["fold"]) for row in rows),
        subjects=tuple(row["subject"] or None for row in rows),
        skipped=tuple((path, reason) for path, reason in told["skipped"]),
        run=tuple(told.get("run", ())),
    )
