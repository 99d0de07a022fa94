"""The verb `maedfer evaluate`: trained classifiers in, scores and files of their test folds out."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.config import (
    FinetuneConfig,
    ModelConfig,
    Precision,
    finetune_recipe,
    output_folder,
)
from maedfer_lab.config.finetuning import Framing, framing_of
from maedfer_lab.data.labels import DATASETS, dataset_name, published_labels
from maedfer_lab.data.table import Annotations, read_annotations
from maedfer_lab.files import provenance
from maedfer_lab.method.models import Classifier
from maedfer_lab.training.devices import open_accelerator
from maedfer_lab.training.evaluation import evaluate
from maedfer_lab.training.finetune import BEST, load_finetuned
from maedfer_lab.training.optim import device_name
from maedfer_lab.training.predictions import (
    Evaluation,
    combine,
    read_evaluation,
    save_evaluation,
)

METHOD = "MAE-DFER"  # what `maedfer claims` looks for
OWN = "own recipe"
# What two runs of the published recipe may differ in.
FREE = ("name", "checkpoint", "dataset", "data", "lists", "fold", "skip_broken", "seed",
        "precision", "eval_every", "save_every", "log_every", "optim")  # fmt: skip
ON_TEST = (
    "The best epoch was chosen on this test fold, as the published lists have no validation part: "
    "its score is too good. The last epoch's counts, here as in the paper; `maedfer finetune "
    "--holdout 0.1` keeps people for the choice."
)


@dataclass(frozen=True)
class Candidate:
    """A classifier to be tested, and on what.

    source: the run's folder or the checkpoint's file. config: of a run. best: the classifier of
    the best epoch, where that is not the last. note: what must be said beside the scores.
    """

    source: Path
    model: Classifier
    dataset: str
    root: Path | None
    lists: Path | None
    fold: int
    stride: int
    framing: Framing
    config: FinetuneConfig | None = None
    best: Classifier | None = None
    note: str = ""

    def is_published(self, dataset: str) -> bool:
        """Whether this is the published model; a run must have followed its recipe as well."""
        if dataset not in DATASETS or published_labels(dataset) is None:
            return False
        if self.config is not None:
            return is_published(self.config, dataset)
        return replace(self.model.config, drop_path=0.0) == ModelConfig()


@dataclass(frozen=True)
class EvaluationReport:
    """The evaluations of the verb, best epochs beside them, and the files that hold them."""

    folds: list[Evaluation]
    best: list[Evaluation | None]
    notes: list[str]
    files: list[Path]

    def __str__(self) -> str:
        lines = []
        for found, best, note in zip(self.folds, self.best, self.notes, strict=True):
            lines.append(str(found))
            if best is not None:
                lines.append("  last epoch (above) and best epoch side by side")
                for name in ("uar", "war"):
                    last, other = 100 * found.scores[name], 100 * best.scores[name]
                    lines.append(f"    {name.upper():<14}{last:6.2f} %  {other:6.2f} %")
            lines += [f"  {note}"] * bool(note)
        if len(self.folds) > 1:
            mean, pooled = combine(self.folds)
            words = ", ".join(f"{name} {100 * mean[name]:.2f} %" for name in ("uar", "war"))
            lines += [f"mean over {len(self.folds)} folds: {words}", str(pooled)]
        return "\n".join([*lines, *(f"written: {path}" for path in self.files)])


def evaluate_command(
    sources: tuple[Path, ...],
    /,
    *,
    dataset: str | None = None,
    root: Path | None = None,
    lists: Path | None = None,
    fold: tuple[int, ...] = (),
    segments: int = 2,
    crops: int = 2,
    stride: int | None = None,
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "float32",
    skip_broken: bool = False,
    method: str | None = None,
    out: Path | None = None,
) -> EvaluationReport:
    """Test fine-tuned classifiers on their test folds: UAR, WAR, recalls, confusion, intervals.

    Several sources, one for each fold, are also averaged and pooled.

    sources: runs of maedfer finetune, or fine-tuned checkpoints (official or ours), or
        evaluations that this verb has written (.json).
    dataset: of a checkpoint: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder or csv. A run
        knows its own.
    root: folder of the clips; a run's own by default.
    lists: folder of the split lists, if they do not lie below root.
    fold: the test fold of each source; a run's own by default.
    segments: windows in time of each video (published: 2).
    crops: crops of each window (published: 2, which show the same).
    stride: frames of the video per frame of the clip; as trained or as published by default.
    batch_size: clips that are tested together.
    workers: processes that read clips.
    precision: float32, bf16 or fp16.
    skip_broken: leave out clips that cannot be read, and list them.
    method: what the paper's tables call what is tested, such as "VideoMAE (VoxCeleb2)". MAE-DFER is
        found by itself, and is kept to the published model and recipe.
    out: folder for a CSV and a JSON of each fold; results/ of the project by default, where
        maedfer claims looks.
    """
    if not sources:
        raise ValueError("no sources; give a run's folder or a checkpoint, such as runs/finetune-")
    if fold and len(fold) != len(sources):
        raise ValueError(f"fold={fold} must name one fold for each of {len(sources)} sources")
    device = open_accelerator().device
    options: dict[str, Any] = {"segments": segments, "crops": crops, "batch_size": batch_size,
                               "workers": workers, "precision": precision,
                               "skip_broken": skip_broken}  # fmt: skip
    report, folder = EvaluationReport([], [], [], []), out or output_folder() / "results"
    for number, source in enumerate(sources):
        if source.suffix == ".json":
            _add(report, read_evaluation(source))
            continue
        one = _open(source.expanduser(), dataset, root, lists, fold[number] if fold else None)
        table = _read_table(one)
        clips = table.split(_fold(one, table))[1]
        named = _method(one, table.dataset, method)
        options |= {"stride": stride or one.stride, "framing": one.framing}
        found = evaluate(one.model.to(device), table, clips, **options)
        best = one.best and evaluate(one.best.to(device), table, clips, **options)
        _add(report, found, best, one.note)
        if PartialState().is_main_process:
            shown = {name: options[name] for name in ("segments", "crops", "stride", "framing")}
            seed = one.config.seed if one.config else 0
            origin = provenance(profile="evaluate", seed=seed, device=device_name(device),
                                data=table.root.name, source=one.source.name,
                                precision=precision)  # fmt: skip
            more: dict[str, Any] = {
                "method": named,
                "name": _file_name(found, method),
                "views": shown,
                "epoch": "last",
                "best": best.scores if best else None,
            }
            report.files.extend(save_evaluation(found, folder, origin, **more))
    if len(report.folds) > 1 and PartialState().is_main_process:
        mean, pooled = combine(report.folds)
        origin = provenance(profile="evaluate", seed=0, device=device_name(device))
        more = {"mean": mean, "tested": [found.fold for found in report.folds]}
        report.files.extend(save_evaluation(pooled, folder, origin, method="pooled", **more))
    return report


def _add(
    report: EvaluationReport, found: Evaluation, best: Evaluation | None = None, note: str = ""
) -> None:
    report.folds.append(found)
    report.best.append(best)
    report.notes.append(note)


def _open(
    source: Path, dataset: str | None, root: Path | None, lists: Path | None, fold: int | None
) -> Candidate:
    """A run's folder or a checkpoint; what is given wins over what a run was trained with."""
    if (source / "result.json").is_file():
        return _open_run(source, dataset, root, lists, fold)
    loaded = load_checkpoint(source)
    model = loaded.model
    if not isinstance(model, Classifier) or loaded.report.fresh:
        raise ValueError(f"{source} is not fine-tuned, so it tells no classes; fine-tune it first")
    if dataset is None:
        raise ValueError(
            f"dataset is missing; name what {source.name} was fine-tuned on: dfew, ..."
        )
    kind = dataset_name(dataset)
    note = f"epoch {loaded.report.epoch} of the file" if loaded.report.epoch is not None else ""
    if loaded.report.epoch == "best":
        note = f"This file is a best epoch. {ON_TEST}"
    stride = finetune_recipe(kind, 1).stride
    return Candidate(source, model, kind, root, lists, fold or 1, stride, framing_of(kind),
                     note=note)  # fmt: skip


def _open_run(
    source: Path, dataset: str | None, root: Path | None, lists: Path | None, fold: int | None
) -> Candidate:
    run = load_finetuned(source)
    config = run.config
    if config.data is None and root is None:
        raise ValueError(
            f"{source} was trained on synthetic faces, whose scores are in its result.json; to "
            "test it on videos of the same classes name them with --dataset and --root"
        )
    has_best = (source / BEST).exists()
    return Candidate(
        source,
        run.model,
        dataset or config.dataset,
        root or config.data,
        lists or config.lists,
        fold or config.fold,
        config.stride,
        config.framing,
        config,
        load_finetuned(source, "best").model if has_best else None,
        ON_TEST * (has_best and config.holdout is None),
    )


def is_published(config: FinetuneConfig, dataset: str) -> bool:
    """Whether a run followed the published recipe of `dataset`, from a checkpoint."""
    per_epoch = config.eval_every or config.optim.steps  # as the recipe sets it
    planned = finetune_recipe(dataset, per_epoch * config.optim.batch_size)
    optim = replace(planned.optim, accumulate=config.optim.accumulate)
    return (
        config.checkpoint is not None
        and config.optim == optim
        and all(
            getattr(config, field.name) == getattr(planned, field.name)
            for field in fields(config)
            if field.name not in FREE
        )
    )


def _method(one: Candidate, dataset: str, asked: str | None) -> str:
    if one.is_published(dataset):
        return asked or METHOD
    if asked == METHOD:
        raise ValueError(
            f"method={asked!r} is kept to the published model and recipe, which {one.source.name} "
            "is not; leave it out"
        )
    return asked or OWN


def _file_name(found: Evaluation, asked: str | None) -> str:
    """Other methods have other files, so that none is overwritten."""
    name = re.sub(r"[^a-z0-9]+", "-", (asked or "").lower()).strip("-")
    return f"{found.dataset}_fold{found.fold}" + f"_{name}" * bool(name)


def _read_table(one: Candidate) -> Annotations:
    if one.dataset == "shards" and one.root is not None:
        from maedfer_lab.data.shards import open_shards

        return open_shards(one.root)
    return read_annotations(one.dataset, one.root, one.lists)


def _fold(one: Candidate, table: Annotations) -> int:
    return 1 if table.num_folds == 1 else one.fold
