"""What a classifier says about each test clip: scores, the report, and the files to keep it in.

A fold is two files: NAME.csv, a row per clip, and NAME.json, scores with provenance in the schema
that `maedfer claims --results` reads. Only the test of all clips of a published list is of the kind
"evaluation"; of something smaller it is a "partial evaluation", which no claim counts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from maedfer_lab.data.labels import DATASETS, Labels, published_labels
from maedfer_lab.files import write_aside
from maedfer_lab.metrics import (
    SCORES,
    Intervals,
    bootstrap,
    confusion_matrix,
    recalls,
    scores,
)

DIGITS = 6  # of a probability, in memory as in the file
COLUMNS = ("path", "label", "guess", "fold", "subject")
TITLES = {"uar": "UAR", "war": "WAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
POOLED = "pooled"


@dataclass(frozen=True)
class Evaluation:
    """Probabilities of the clips of one fold, or of several folds pooled.

    fold: its number; "all" where a data set has a single split; "pooled" for several folds.
    paths: relative to the data set's folder.
    folds: in which fold each clip is tested.
    subjects: who is seen in each clip, or None where names do not tell.
    skipped: path and reason of every clip that could not be read.
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
        people = None
        if by == "subjects":
            if not all(self.subjects):
                return None
            people = [str(name) for name in self.subjects]
        return bootstrap(self.labels, self.guesses, len(self.classes), people, **options)

    def __str__(self) -> str:
        over = {by: self.intervals(by) for by in ("clips", "subjects")}
        known = {by: found for by, found in over.items() if found is not None}
        lines = [
            f"{self.dataset}, fold {self.fold}: {len(self.labels)} clips of "
            f"{len(self.classes)} classes; in brackets 95 % intervals over {' and '.join(known)}"
        ]
        for name in SCORES:
            ranges = [
                f"[{100 * a:.2f}, {100 * b:.2f}]" for a, b in (k[name] for k in known.values())
            ]
            lines.append(
                f"  {TITLES[name]:<13}{100 * self.scores[name]:6.2f} %  {'  '.join(ranges)}"
            )
        lines.append("  recall of each class")
        counts = self.confusion.sum(1)
        for name, recall, count in zip(self.classes, recalls(self.confusion), counts, strict=True):
            share = f"{100 * recall:6.2f} % of {count}" if count else "no test clip"
            lines.append(f"    {name:<16}{share}")
        if self.skipped:
            lines.append(f"  skipped: {len(self.skipped)} clips that cannot be read, such as")
            lines += [f"    {path}: {reason}" for path, reason in self.skipped[:5]]
        return "\n".join(lines)


def combine(folds: Sequence[Evaluation]) -> tuple[dict[str, float], Evaluation]:
    """Plain mean of the scores over folds, as published, and all predictions pooled.

    Raises ValueError where folds belong to other data sets or one comes twice.
    """
    first = folds[0] if folds else None
    names = [one.fold for one in folds]
    if first is None or len(set(names)) < len(names):
        raise ValueError(f"folds={names} must be different ones, at least one, such as 1 2 3 4 5")
    for one in folds:
        if (one.dataset, one.classes) != (first.dataset, first.classes):
            raise ValueError(f"{one.dataset} {one.classes} is not {first.dataset} {first.classes}")
    mean = {name: float(np.mean([one.scores[name] for one in folds])) for name in SCORES}
    pooled = replace(
        first,
        fold=POOLED,
        labels=np.concatenate([one.labels for one in folds]),
        probabilities=np.concatenate([one.probabilities for one in folds]),
        **{
            name: sum((getattr(one, name) for one in folds), ())
            for name in ("paths", "folds", "subjects", "skipped")
        },
    )
    return mean, pooled


def save_evaluation(
    found: Evaluation,
    folder: Path,
    source: dict[str, Any],
    *,
    method: str,
    name: str | None = None,
    **more: Any,
) -> list[Path]:
    """Write NAME.csv and NAME.json (by default DATASET_foldK) and return both paths.

    source: the `provenance` of the scores.
    method: "MAE-DFER" is the published method, which `maedfer claims` looks for.
    more: further entries of the JSON file.
    """
    path = folder / (name or f"{found.dataset}_fold{found.fold}")
    write_aside(path.with_suffix(".csv"), _table(found).encode())
    labels = published_labels(found.dataset) if found.dataset in DATASETS else None
    by_class = recalls(found.confusion)
    content = {
        "kind": "evaluation" if _is_whole(found, labels) else "partial evaluation",
        "method": method,
        "dataset": labels.title if labels else found.dataset,
        "fold": found.fold,
        **found.scores,
        "n": len(found.labels),
        "recalls": [None if np.isnan(recall) else recall for recall in by_class.tolist()],
        "intervals": {by: found.intervals(by) for by in ("clips", "subjects")},
        "set": found.dataset,
        "classes": found.classes,
        "confusion": found.confusion.tolist(),
        "skipped": found.skipped,
        **more,
        "provenance": source,
    }
    lines = [f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in content.items()]
    write_aside(path.with_suffix(".json"), ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return [path.with_suffix(".csv"), path.with_suffix(".json")]


def read_evaluation(path: Path) -> Evaluation:
    """Read what `save_evaluation` wrote, from either file's path."""
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
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
    )


def _is_whole(found: Evaluation, labels: Labels | None) -> bool:
    """Whether all clips of a fold were tested: of a published list as many as it holds."""
    if labels is None or found.fold == POOLED:
        return found.fold != POOLED and not found.skipped
    fold = 1 if found.fold == "all" else int(found.fold)
    return labels.counts.get((fold, "test")) == tuple(found.confusion.sum(1).tolist())


def _table(found: Evaluation) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p {name}" for name in found.classes)])
    for path, label, guess, fold, subject, row in zip(
        found.paths,
        found.labels,
        found.guesses,
        found.folds,
        found.subjects,
        found.probabilities,
        strict=True,
    ):
        names = found.classes[label], found.classes[guess]
        writer.writerow([path, *names, fold, subject or "", *(f"{p:.{DIGITS}f}" for p in row)])
    return file.getvalue()
