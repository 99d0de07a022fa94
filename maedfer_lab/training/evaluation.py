"""Testing a classifier: the views of each clip, probabilities, scores, and the result files.

The published protocol tests 2 windows x 2 crops of frames resized to the crop's own size, so its
two crops are identical (and so are the windows of a short video). Here a video is read once, and
repeated views are computed once with their total weight: the weighted mean is the published one.
Batches do not depend on the number of processes. Other batch sizes sum in another order, which
changes probabilities by about 1e-6: they are rounded to six digits before predictions are made.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
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

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.reading import facts_of
from maedfer_lab.config import (
    FinetuneConfig,
    Framing,
    ModelConfig,
    Precision,
    check_fields,
    choose_framing,
    finetune_config,
    finetune_recipe,
    output_folder,
)
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.labels import DATASETS, Matched, dataset_name, match_classes, published_labels
from maedfer_lab.data.shards import open_shards
from maedfer_lab.data.table import Annotations, Clip, explain_change, read_annotations
from maedfer_lab.data.transforms import Box, crop_and_resize, keep_freed_memory
from maedfer_lab.data.video import VideoError, VideoReader
from maedfer_lab.fast import speed_up
from maedfer_lab.files import csv_line, load, provenance, reading, text_bytes, write_aside
from maedfer_lab.method.models import Classifier
from maedfer_lab.metrics import SCORES, Intervals, bootstrap, confusion_matrix, recalls, scores
from maedfer_lab.runs import BEST, Run
from maedfer_lab.training.optim import device_name, mixed_precision, open_accelerator
from maedfer_lab.training.stream import read_batches

SHOWN = 5  # broken clips in a message
DIGITS = 6  # of a probability, in memory as in the file
COLUMNS = ("path", "label", "guess", "fold", "subject")
TITLES = {"uar": "UAR", "war": "WAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
POOLED = "pooled"
METHOD = "MAE-DFER"  # what `maedfer claims` looks for
OWN = "own recipe"
# Fields in which two runs of the published recipe may differ.
FREE = ("name", "checkpoint", "dataset", "data", "lists", "fold", "skip_broken", "seed",
        "precision", "eval_every", "save_every", "log_every", "optim")  # fmt: skip
ON_TEST = (
    "The best epoch was selected on this test fold (the published lists have no validation part), "
    "so its score is optimistically biased; report the last epoch, as the paper does. `maedfer "
    "finetune --holdout 0.1` holds out people for validation."
)


@dataclass(frozen=True)
class Views:
    """Which views of a video are tested.

    num_frames, size_px: frames of a view and its side.
    stride: frames of the video per frame of a view (published: 4, for FERV39k 1).
    segments: temporal windows, spread from the first frame to the last; one is the middle.
    crops: of the resized frames; as these have the crop's own size, all crops are identical.
    framing: the "whole" picture is resized (published), or a square around the "face".
    """

    num_frames: int = 16
    size_px: int = 160
    stride: int = 4
    segments: int = 2
    crops: int = 2
    framing: Framing = "whole"

    def __post_init__(self) -> None:
        object.__setattr__(self, "framing", choose_framing(self.framing, "whole", "face"))
        check_fields(self)

    def windows(self, num_video_frames: int) -> Counter[int]:
        """First frame of each window, counted in strides, with how often it occurs."""
        strided, num = -(-num_video_frames // self.stride), self.segments
        room = max(strided - self.num_frames, 0)
        if num == 1:
            return Counter([room // 2])
        # parity: a step in floating point, times k, truncated, as in the official code
        return Counter(int(k * (room / (num - 1))) for k in range(num))

    def frames(self, start: int, num_video_frames: int) -> Int[np.ndarray, " T"]:
        """Frames of the window at `start`; past the last strided frame, that one is repeated."""
        last = (num_video_frames - 1) // self.stride
        return self.stride * np.minimum(start + np.arange(self.num_frames), last)

    def read(
        self, reader: VideoReader, box: Box | None = None
    ) -> tuple[UInt8[np.ndarray, "v T H W 3"], Float[np.ndarray, " v"], Box]:
        """The distinct views of a video, their weights, which sum to 1, and the cropped box.

        box: from an earlier reading of the same video, which skips face detection.
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


@dataclass(frozen=True)
class ClipViews(Dataset):
    """Reads clips for a data loader: (number, views, weights, box, reason if unreadable or "").

    boxes: where faces were found before.
    """

    annotations: Annotations
    clips: Sequence[Clip]
    views: Views
    boxes: Mapping[Clip, Box] = field(default_factory=dict)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray, Box | None, str]:
        """One clip."""
        clip = self.clips[index]
        try:
            return index, *self.views.read(self.annotations.open(clip), self.boxes.get(clip)), ""
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
    The model is returned to the mode (training or evaluation) it was in.

    matched: mapping of classes; by default the model's are the table's, in its order.
    batch_size: clips that are read together. workers: processes that read clips, of each process.
    boxes: known face boxes; these faces are not searched again, and new ones are added.

    Raises:
        ValueError: no clip, labels beyond the model's classes, or (unless `skip_broken`)
            unreadable clips: their number and the first names.
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
    source = ClipViews(annotations, clips, views, boxes or {})
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
            f"{'; ...' if len(skipped) > SHOWN else ''}. Repair them, or leave them out with "
            "--skip-broken (the scores are then not of the whole test set)"
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

    fold: its number; "all" for a data set with a single split; "pooled" for several folds.
    paths: relative to the data set's folder. folds: in which fold each clip is tested.
    subjects: the person in each clip, or None if unknown.
    skipped: path and reason of every clip that could not be read.
    run: name and digest of the tested weights, of each fold.
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
        """The likeliest class of each clip; the first if equal."""
        return self.probabilities.argmax(1)

    @cached_property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """How often each class (row) was predicted as each class (column)."""
        return confusion_matrix(self.labels, self.guesses, len(self.classes))

    @cached_property
    def scores(self) -> dict[str, float]:
        """UAR, WAR, macro and weighted F1, in [0, 1]."""
        return {name: float(value) for name, value in scores(self.confusion).items()}

    def intervals(self, by: str = "clips", **options: Any) -> Intervals | None:
        """95 % bootstrap intervals over "clips" or "subjects" (None if these are not known)."""
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
            lines.append(f"  skipped: {len(self.skipped)} unreadable clips, e.g.")
            lines += [f"    {path}: {reason}" for path, reason in self.skipped[:SHOWN]]
        return "\n".join(lines)


def combine(folds: Sequence[Evaluation]) -> tuple[dict[str, float], Evaluation]:
    """Plain mean of the scores over folds, as published, and all predictions pooled.

    Raises ValueError if the folds are of different data sets or one occurs twice.
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

    Only a test on all clips of a published list is of the kind "evaluation"; a smaller one is a
    "partial evaluation", which no claim uses. Files of another run, or of other clips, are kept:
    then the new names include the run's name as well.

    source: the `provenance`. method: "MAE-DFER" is the published one, which `maedfer claims` looks
        for.
    name: by default DATASET_foldK. more: further entries of the JSON file.
    """
    name = name or f"{found.dataset}_fold{found.fold}"
    path, names = _free_path(found, folder / f"{name}.json", source.get("data")), found.classes
    lines = [csv_line([*COLUMNS, *(f"p {name}" for name in names)])]
    columns = (found.paths, found.labels, found.guesses, found.folds, found.subjects)
    for clip, label, guess, fold, who, row in zip(*columns, found.probabilities, strict=True):
        chances = (f"{p:.{DIGITS}f}" for p in row)
        lines.append(csv_line([clip, names[label], names[guess], fold, who or "", *chances]))
    write_aside(path.with_suffix(".csv"), text_bytes("".join(lines), exact=True))
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


def _free_path(found: Evaluation, path: Path, data: str | None) -> Path:
    """`path`, or another name if it holds another test."""
    run = f"{path.stem}_{Path(found.run[0]).stem if found.run else 'other'}"
    names = itertools.chain([path.stem, run], (f"{run}-{i}" for i in itertools.count(2)))
    for here in (path.with_name(f"{name}.json") for name in names):
        if not here.exists() and not here.with_suffix(".csv").exists():
            return here
        with suppress(OSError, ValueError, KeyError):  # another file, or incomplete: keep it
            other, source = read_evaluation(here), json.loads(here.read_bytes())["provenance"]
            if (other.run, other.paths, other.fold, source.get("data")) == (
                found.run, found.paths, found.fold, data
            ):  # fmt: skip
                return here
    raise AssertionError


def read_evaluation(path: Path) -> Evaluation:
    """Read what `save_evaluation` wrote, from either file's path."""
    path, table = path.with_suffix(".json"), path.with_suffix(".csv")
    content = load(path)
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        with reading(table):
            rows = list(csv.DictReader(file))
    with reading(path, f"put copies of it and of {table.name} back"):
        classes = tuple(content["classes"])
        found = Evaluation(
            dataset=content["set"],
            fold=content["fold"],
            classes=classes,
            paths=tuple(row["path"] for row in rows),
            labels=np.array([classes.index(row["label"]) for row in rows]),
            probabilities=np.array([[float(row[f"p {name}"]) for name in classes] for row in rows]),
            folds=tuple(int(row["fold"]) for row in rows),
            subjects=tuple(row["subject"] or None for row in rows),
            skipped=tuple((path, reason) for path, reason in content["skipped"]),
            run=tuple(content.get("run", ())),
        )
        str(found)
    return found


# --- the verb: trained classifiers in, scores and files of their test folds out -----------------


@dataclass(frozen=True)
class EvaluationReport:
    """The evaluations of the verb, their text, and the files written."""

    folds: list[Evaluation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self.said, *(f"written: {path}" for path in self.files)])


def evaluate_runs(
    sources: tuple[Path, ...], /, *, dataset: str | None = None, root: Path | None = None,
    lists: Path | None = None, fold: tuple[int, ...] = (), labels: tuple[str, ...] = (),
    map: Path | None = None, segments: int = 2, crops: int = 2, stride: int | None = None,
    batch_size: int = 8, workers: int = 0, precision: Precision = "float32",
    skip_broken: bool = False, method: str | None = None, out: Path | None = None,
) -> EvaluationReport:  # fmt: skip
    """Test fine-tuned classifiers on their test folds: UAR, WAR, recalls, confusion, intervals.

    Several sources, one for each fold, are also averaged and pooled. Classes are matched by name.

    sources: runs of maedfer finetune, or fine-tuned checkpoints (official or ours), or
        evaluations written by this verb (.json).
    dataset: of a checkpoint: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder or csv. A run
        records its own.
    root: folder of the clips; the run's by default.
    lists: folder of the split lists, if they are not below root.
    fold: the test fold of each source; the run's by default.
    labels: names of a checkpoint's classes in order, if its file has none: a data set's name
        stands for its classes, in its order by default.
    map: for a test on another data set, a CSV (one line per class of the model: its name, the data
        set's) or JSON; an empty name leaves a class out.
    segments: temporal windows of each video (published: 2).
    crops: crops of each window (published: 2, which are identical).
    stride: frames of the video per frame of the clip; by default as in training or as published.
    batch_size: clips that are tested together.
    workers: processes that read clips.
    precision: float32, bf16 or fp16.
    skip_broken: leave out unreadable clips, and list them.
    method: name of the tested method in the paper's tables, e.g. "VideoMAE (VoxCeleb2)". MAE-DFER
        is recognised automatically, and reserved for the published model and recipe.
    out: folder for a CSV and a JSON of each fold; by default results/ of the project, where
        maedfer claims looks. Files of other runs are kept.
    """
    if not sources:
        raise ValueError("no sources; give a run's folder or a checkpoint, such as runs/finetune-")
    if fold and len(fold) != len(sources):
        raise ValueError(f"fold={fold} must name one fold for each of {len(sources)} sources")
    device = open_accelerator().device
    options: dict[str, Any] = {"segments": segments, "crops": crops, "batch_size": batch_size,
                               "workers": workers, "precision": precision,
                               "skip_broken": skip_broken}  # fmt: skip
    report, folder = EvaluationReport(), out or output_folder() / "results"
    written = PartialState().is_main_process
    for number, source in enumerate(sources):
        if source.suffix == ".json":
            report.folds.append(found := read_evaluation(source))
            report.said.append(str(found))
            continue
        source = source.expanduser()
        model, facts, note = _open(source)
        best, is_run = None, "config" in facts
        if is_run:
            run = Run(facts["folder"])
            config = run.config(finetune_config)
            if config.data is None and root is None:
                raise ValueError(
                    f"{source} was trained on synthetic faces; its scores are in its result.json. "
                    "To test it on videos of the same classes, name them with "
                    "--dataset and --root"
                )
            if BEST in facts["sha256"] or (run.folder / BEST).exists():
                best = copy.deepcopy(model)
                run.load_weights(best, BEST, facts["sha256"].get(BEST))
                note = ON_TEST * (config.holdout is None)
        elif dataset is None:
            raise ValueError(
                f"dataset is missing; name what {source.name} was fine-tuned on: dfew, ..."
            )
        else:
            config = finetune_recipe(dataset_name(dataset), 1)
        kind, place = dataset or config.dataset, root or config.data
        if kind == "shards" and place is not None:
            table: Annotations = open_shards(place)
        else:
            listed = lists or (config.lists if dataset is None else None)
            table = read_annotations(kind, place, listed)
        tested = fold[number] if fold else 1 if table.num_folds == 1 else config.fold
        clips = table.split(tested)[1]
        is_own = is_run and str(facts["data"]).partition(",")[0] == table.dataset
        if is_own and tested != config.fold:
            raise ValueError(
                f"fold={tested}: {source.name} was trained on clips of this fold and is tested "
                f"on fold {config.fold}; leave --fold out, or give the run of fold {tested}"
            )
        names = facts.get("classes") and tuple(facts["classes"])
        if labels and names is None:
            published = published_labels(labels[0]) if len(labels) == 1 else None
            names = published.classes if published else labels
        matched = match_classes(model.head.out_features, names, table.classes, table.dataset, map)
        is_papers = table.dataset in DATASETS and published_labels(table.dataset) is not None
        if is_run:
            is_papers &= map is None and is_own and is_published(config, table.dataset)
        else:
            is_papers &= map is None and replace(model.config, drop_path=0.0) == ModelConfig()
        if method == METHOD and not is_papers:
            raise ValueError(
                f"method={method!r} is reserved for the published model and recipe, which "
                f"{source.name} is not; omit it"
            )
        options |= {"matched": matched, "stride": stride or config.stride,
                    "framing": config.framing}  # fmt: skip
        found = evaluate(model.to(device), table, clips, **options)
        found = replace(found, run=(source.name, weights_digest(model)))
        judged = best and evaluate(best.to(device), table, clips, **options)
        changes = _since_training(source, config, is_own, table, clips) if is_run else []
        notes = [text for text in (note, matched.note, *changes) if text]
        report.folds.append(found)
        report.said.append(str(found))
        if judged:
            report.said.append("  last epoch (above) and best epoch")
            for name in ("uar", "war"):
                both = (f"{100 * one.scores[name]:6.2f} %" for one in (found, judged))
                report.said.append(f"    {name.upper():<14}{'  '.join(both)}")
        report.said.extend(f"  {note}" for note in notes)
        if written:
            shown = {name: options[name] for name in ("segments", "crops", "stride", "framing")}
            origin = provenance(profile="evaluate", seed=config.seed,
                                device=device_name(device), data=table.root.name,
                                source=source.name, precision=precision)  # fmt: skip
            slug = re.sub(r"[^a-z0-9]+", "-", (method or "").lower()).strip("-")
            report.files.extend(
                save_evaluation(found, folder, origin, views=shown, epoch="last", notes=notes,
                                method=method or (METHOD if is_papers else OWN),
                                name=f"{found.dataset}_fold{found.fold}" + f"_{slug}" * bool(slug),
                                best=judged.scores if judged else None)
            )  # fmt: skip
    if len(report.folds) > 1:
        mean, pooled = combine(report.folds)
        words = ", ".join(f"{name} {100 * mean[name]:.2f} %" for name in ("uar", "war"))
        report.said.extend([f"mean over {len(report.folds)} folds: {words}", str(pooled)])
        if written:
            origin = provenance(profile="evaluate", seed=0, device=device_name(device))
            more = {"mean": mean, "tested": [found.fold for found in report.folds]}
            report.files.extend(save_evaluation(pooled, folder, origin, method=POOLED, **more))
    return report


def _open(source: Path) -> tuple[Classifier, Mapping[str, Any], str]:
    """The classifier in a run's folder or a file, its facts, and a remark."""
    facts = facts_of(source)
    if facts.get("kind") == "pre-trained" and "config" in facts:
        raise ValueError(
            f"{source} is a pre-training run without classes; fine-tune it first: maedfer "
            f"finetune DATASET --checkpoint {source}"
        )
    loaded = load_checkpoint(source)
    if not isinstance(loaded.model, Classifier) or loaded.report.fresh:
        raise ValueError(f"{source} is not fine-tuned, so it has no classes; fine-tune it first")
    epoch, note = loaded.report.epoch, ""
    if "config" not in facts and epoch is not None:
        note = f"epoch {epoch} of the file"
        note = f"This file is a best epoch. {ON_TEST}" if epoch == "best" else note
    return loaded.model, facts, note


def is_published(config: FinetuneConfig, dataset: str) -> bool:
    """Whether a run followed the published recipe of `dataset`, from a checkpoint."""
    per_epoch = config.eval_every or config.optim.steps  # as the recipe sets it
    planned = finetune_recipe(dataset, per_epoch * config.optim.batch_size)
    return (
        config.checkpoint is not None
        and config.optim == replace(planned.optim, accumulate=config.optim.accumulate)
        and all(
            getattr(config, one.name) == getattr(planned, one.name)
            for one in fields(config)
            if one.name not in FREE
        )
    )


def _since_training(
    source: Path, config: FinetuneConfig, is_own: bool, table: Annotations, clips: Sequence[Clip]
) -> list[str]:
    """What changed in the data of a run, and which tested people it was trained on."""
    file, notes = source / "data.json", []
    if not file.exists():
        return []
    with reading(file):
        kept = load(file)
        trained = [row for row in kept["each"] if row[2] != config.fold]
        if is_own:
            what, both = "people", {row[3] or row[0] for row in trained} & set(table.people(clips))
            changes = explain_change(kept, table.summary())
            notes = [f"since the training: {change}" for change in changes]
        else:  # its clips may still be the same files in a new table
            size = dict(zip(map(table.name, table.clips), table.sizes, strict=True))
            same = {row[0] for row in trained if size.get(row[0]) == row[4]}
            what, both = "clips", same & set(map(table.name, clips))
    if both:
        notes.append(
            f"{len(both)} of the tested {what} were trained on (optimistic bias): "
            f"{', '.join(sorted(both)[:5])}{', ...' if len(both) > 5 else ''}"
        )
    return notes


def weights_digest(model: Classifier) -> str:
    """Sixteen hexadecimal digits of all parameters."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
