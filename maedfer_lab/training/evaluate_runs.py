"""The verb `maedfer evaluate`: trained classifiers in, scores and files of their test folds out."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors.torch import load_file

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.reading import facts_of
from maedfer_lab.config import (
    FinetuneConfig,
    ModelConfig,
    Precision,
    finetune_config,
    finetune_recipe,
    output_folder,
)
from maedfer_lab.config.finetuning import framing_of
from maedfer_lab.data.labels import DATASETS, dataset_name, match_classes, published_labels
from maedfer_lab.data.shards import open_shards
from maedfer_lab.data.table import Annotations, Clip, explain_change, read_annotations
from maedfer_lab.files import provenance
from maedfer_lab.method.models import Classifier
from maedfer_lab.runs import BEST
from maedfer_lab.training.evaluation import (
    POOLED,
    Evaluation,
    combine,
    evaluate,
    read_evaluation,
    save_evaluation,
)
from maedfer_lab.training.optim import device_name, open_accelerator

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
class EvaluationReport:
    """The evaluations of the verb, best epochs beside them, and the files that hold them."""

    tests: list[tuple[Evaluation, Evaluation | None, list[str]]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def folds(self) -> list[Evaluation]:
        """The evaluations."""
        return [found for found, *_ in self.tests]

    def __str__(self) -> str:
        lines = []
        for found, best, notes in self.tests:
            lines.append(str(found))
            if best is not None:
                lines.append("  last epoch (above) and best epoch side by side")
                for name in ("uar", "war"):
                    last, other = 100 * found.scores[name], 100 * best.scores[name]
                    lines.append(f"    {name.upper():<14}{last:6.2f} %  {other:6.2f} %")
            lines += [f"  {note}" for note in notes]
        if len(self.folds) > 1:
            mean, pooled = combine(self.folds)
            words = ", ".join(f"{name} {100 * mean[name]:.2f} %" for name in ("uar", "war"))
            lines += [f"mean over {len(self.folds)} folds: {words}", str(pooled)]
        return "\n".join([*lines, *(f"written: {path}" for path in self.files)])


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
        evaluations that this verb has written (.json).
    dataset: of a checkpoint: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder or csv. A run
        knows its own.
    root: folder of the clips; a run's own by default.
    lists: folder of the split lists, if they do not lie below root.
    fold: the test fold of each source; a run's own by default.
    labels: names of a checkpoint's classes in order, if its file tells none: a data set's name
        stands for its own; by default as the data set has them.
    map: for a test on another data set, a CSV (a line per class of the model: its name, the data
        set's) or JSON; an empty name leaves a class out.
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
            report.tests.append((read_evaluation(source), None, []))
            continue
        source = source.expanduser()
        model, told, note = _open(source)
        best, place, listed, tested = None, root, lists, 1
        if "config" in told:
            config = finetune_config(told["config"])
            if config.data is None and root is None:
                raise ValueError(
                    f"{source} was trained on synthetic faces, whose scores are in its "
                    "result.json; to test it on videos of the same classes name them with "
                    "--dataset and --root"
                )
            kind, place, tested = dataset or config.dataset, root or config.data, config.fold
            listed = lists or (config.lists if dataset is None else None)
            trained = {"stride": config.stride, "framing": config.framing}
            if (weights := told["folder"] / BEST).exists():
                best = copy.deepcopy(model)
                best.load_state_dict(load_file(weights), strict=False)
                note = ON_TEST * (config.holdout is None)
        elif dataset is None:
            raise ValueError(
                f"dataset is missing; name what {source.name} was fine-tuned on: dfew, ..."
            )
        else:
            config, kind = None, dataset_name(dataset)
            trained = {"stride": finetune_recipe(kind, 1).stride, "framing": framing_of(kind)}
        if kind == "shards" and place is not None:
            table: Annotations = open_shards(place)
        else:
            table = read_annotations(kind, place, listed)
        tested = 1 if table.num_folds == 1 else fold[number] if fold else tested
        is_own = config is not None and str(told["data"]).partition(",")[0] == table.dataset
        if config is not None and is_own and tested != config.fold:
            raise ValueError(
                f"fold={tested}: {source.name} was trained on clips of this fold and is tested "
                f"on fold {config.fold}; leave --fold out, or give the run of fold {tested}"
            )
        clips = table.split(tested)[1]
        names = told.get("classes") and tuple(told["classes"])
        if labels and names is None:
            published = published_labels(labels[0]) if len(labels) == 1 else None
            names = published.classes if published else labels
        matched = match_classes(model.head.out_features, names, table.classes, table.dataset, map)
        is_papers = table.dataset in DATASETS and published_labels(table.dataset) is not None
        if config is None:
            is_papers &= map is None and replace(model.config, drop_path=0.0) == ModelConfig()
        else:
            is_papers &= map is None and is_own and is_published(config, table.dataset)
        if method == METHOD and not is_papers:
            raise ValueError(
                f"method={method!r} is kept to the published model and recipe, which "
                f"{source.name} is not; leave it out"
            )
        options |= trained | {"matched": matched} | ({"stride": stride} if stride else {})
        found = evaluate(model.to(device), table, clips, **options)
        found = replace(found, run=(source.name, weights_digest(model)))
        judged = best and evaluate(best.to(device), table, clips, **options)
        changes = [] if config is None else _since_training(source, config, is_own, table, clips)
        notes = [text for text in (note, matched.note, *changes) if text]
        report.tests.append((found, judged, notes))
        if written:
            shown = {name: options[name] for name in ("segments", "crops", "stride", "framing")}
            origin = provenance(profile="evaluate", seed=config.seed if config else 0,
                                device=device_name(device), data=table.root.name,
                                source=source.name, precision=precision)  # fmt: skip
            slug = re.sub(r"[^a-z0-9]+", "-", (method or "").lower()).strip("-")
            report.files.extend(
                save_evaluation(found, folder, origin, views=shown, epoch="last", notes=notes,
                                method=method or (METHOD if is_papers else OWN),
                                name=f"{found.dataset}_fold{found.fold}" + f"_{slug}" * bool(slug),
                                best=judged.scores if judged else None)
            )  # fmt: skip
    if len(report.folds) > 1 and written:
        mean, pooled = combine(report.folds)
        origin = provenance(profile="evaluate", seed=0, device=device_name(device))
        more = {"mean": mean, "tested": [found.fold for found in report.folds]}
        report.files.extend(save_evaluation(pooled, folder, origin, method=POOLED, **more))
    return report


def _open(source: Path) -> tuple[Classifier, Mapping[str, Any], str]:
    """The classifier in a run's folder or a file, what is told of it, and what must be said."""
    told = facts_of(source)
    if told.get("kind") == "pre-trained" and "config" in told:
        raise ValueError(
            f"{source} is a pre-training run, which names no classes; fine-tune it first: maedfer "
            f"finetune DATASET --checkpoint {source}"
        )
    loaded = load_checkpoint(source)
    if not isinstance(loaded.model, Classifier) or loaded.report.fresh:
        raise ValueError(f"{source} is not fine-tuned, so it tells no classes; fine-tune it first")
    epoch, note = loaded.report.epoch, ""
    if "config" not in told and epoch is not None:
        note = f"epoch {epoch} of the file"
        note = f"This file is a best epoch. {ON_TEST}" if epoch == "best" else note
    return loaded.model, told, note


def is_published(config: FinetuneConfig, dataset: str) -> bool:
    """Whether a run followed the published recipe of `dataset`, from a checkpoint."""
    per_epoch = config.eval_every or config.optim.steps  # as the recipe sets it
    planned = finetune_recipe(dataset, per_epoch * config.optim.batch_size)
    optim = replace(planned.optim, accumulate=config.optim.accumulate)
    return (
        config.checkpoint is not None
        and config.optim == optim
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
    if not file.is_file():
        return []
    try:
        kept = json.loads(file.read_bytes())
        trained = [row for row in kept["each"] if row[2] != config.fold]
        if is_own:
            what, both = "people", {row[3] or row[0] for row in trained} & set(table.people(clips))
            changes = explain_change(kept, table.summary())
            notes = [f"since the training: {change}" for change in changes]
        else:  # its clips may still be the same files, listed anew
            size = dict(zip(map(table.name, table.clips), table.sizes, strict=True))
            same = {row[0] for row in trained if size.get(row[0]) == row[4]}
            what, both = "clips", same & set(map(table.name, clips))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}); put a copy back") from error
    if both:
        notes.append(
            f"{len(both)} of the tested {what} were trained on, so the scores are too good: "
            f"{', '.join(sorted(both)[:5])}{', ...' if len(both) > 5 else ''}"
        )
    return notes


def weights_digest(model: Classifier) -> str:
    """Sixteen hexadecimal digits of all parameters."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
