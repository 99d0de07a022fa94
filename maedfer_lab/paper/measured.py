"""Results of `maedfer evaluate` as files, and how a claim that needs data becomes measured.

A result is one JSON file: {"kind": "evaluation", "dataset": "DFEW", "fold": 1, "uar": 0.62,
"war": 0.74, "n": 2341, "provenance": {...}}. Scores are fractions in [0, 1], n counts test clips;
a data set with a single split has the fold "all". It may also hold "method" (MAE-DFER by
default), "recalls" (one per class, in label order) and the further SCORES.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maedfer_lab.paper.claim import Claim, digits
from maedfer_lab.paper.reader import Paper

METHOD = "MAE-DFER"
SCORES = ("uar", "war", "top5", "single_view_top1", "single_view_top5", "single_view_loss")


@dataclass(frozen=True)
class Result:
    """One evaluation: scores as fractions over the `n` test clips of a fold."""

    file: str
    dataset: str
    fold: str
    method: str
    n: int
    scores: dict[str, float]
    provenance: dict[str, Any]


def read_results(folder: Path | None, paper: Paper) -> list[Result]:
    """Every evaluation of the paper's data sets in a folder (*.json); none for no folder.

    Raises ValueError for a file of this kind that breaks the schema, tells the same fold twice,
    or has another number of clips than the fold's test part.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise FileNotFoundError(f"results={str(folder)!r} is not a folder of evaluation files")
    found: dict[tuple[str, str, str], Result] = {}
    for path in sorted(folder.glob("*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("kind") != "evaluation":
            continue
        if raw.get("dataset") not in paper.labels:  # somebody's own data
            continue
        result = _result(path, raw, paper)
        name = (result.method, result.dataset, result.fold)
        if name in found:
            raise ValueError(f"{found[name].file} and {path.name} both tell {' / '.join(name)}")
        found[name] = result
    return list(found.values())


def _result(path: Path, raw: dict[str, Any], paper: Paper) -> Result:
    needed = ("dataset", "fold", "uar", "war", "n", "provenance")
    absent = [name for name in needed if not raw.get(name) and raw.get(name) != 0]
    if absent:
        raise ValueError(f"{path.name} lacks {', '.join(absent)}; an evaluation has {needed}")
    dataset, fold = raw["dataset"], str(raw["fold"])
    splits = paper.splits(dataset)
    if fold not in splits:
        raise ValueError(
            f"{path.name}: fold={fold!r} of {dataset} must be one of {', '.join(splits)}"
        )
    if raw["n"] != splits[fold].clips:
        raise ValueError(
            f"{path.name}: n={raw['n']}, but fold {fold} of {dataset} tests {splits[fold].clips} "
            "clips; a result counts when all of them were tested"
        )
    classes = len(paper.labels[dataset])
    recalls = raw.get("recalls", [])
    if recalls and len(recalls) != classes:
        raise ValueError(f"{path.name}: recalls has {len(recalls)} entries; {dataset} {classes}")
    scores = {name: raw[name] for name in SCORES if name in raw}
    scores |= dict(zip(paper.labels[dataset], recalls, strict=False))
    outside = [f"{k}={v}" for k, v in scores.items() if not 0 <= v <= 1 and "loss" not in k]
    if outside:
        raise ValueError(f"{path.name}: {', '.join(outside)} must lie in [0, 1], such as 0.62")
    method = raw.get("method", METHOD)
    return Result(path.name, dataset, fold, method, raw["n"], scores, raw["provenance"])


@dataclass(frozen=True)
class Wanted:
    """What would measure a claim: the mean of `score` over the test parts of `folds`."""

    method: str
    dataset: str
    folds: tuple[str, ...]
    score: str


def chosen(wanted: Wanted, results: Sequence[Result]) -> list[Result]:
    """The results that `wanted` asks for, in the order of the folds; a missing one is left out."""
    of_fold = {
        r.fold: r
        for r in results
        if (r.method, r.dataset) == (wanted.method, wanted.dataset) and wanted.score in r.scores
    }
    return [of_fold[fold] for fold in wanted.folds if fold in of_fold]


def mean_score(wanted: Wanted, results: Sequence[Result]) -> float | None:
    """Mean of the score over the folds, a fraction; None until all of them are there."""
    used = chosen(wanted, results)
    if len(used) < len(wanted.folds):
        return None
    return sum(r.scores[wanted.score] for r in used) / len(used)


def measure(
    id: str,
    source: str,
    statement: str,
    *,
    value: float,
    unit: str,
    wanted: Wanted,
    results: Sequence[Result],
    tolerance: float | None,
    command: str,
    hours: float,
    needs: str,
) -> Claim:
    """A claim that needs data, or is measured if results of all its folds are there.

    value, tolerance: in `unit`, "percent" or as the results hold it.
    needs: what must be at hand, in words.
    """
    interval = "" if tolerance is None else f" +- {tolerance:.2g} (95 % interval of this test set)"
    found = mean_score(wanted, results)
    if found is None:
        evidence = (
            f"`{command}` measures it; needs {needs}; about {hours:,.1f} hours on one CPU core; "
            f"expected {value:g}{interval}"
        )
        return Claim(id, source, statement, value, unit, "needs data", evidence,
                     tolerance=tolerance, command=command, hours=hours)  # fmt: skip
    used = chosen(wanted, results)
    found *= 100 if unit == "percent" else 1
    shown = digits(found, tolerance or 0.01)
    commits = sorted({str(r.provenance.get("commit", "unknown")) for r in used})
    inside = ""
    if tolerance is not None:
        inside = ", inside" if abs(found - value) <= tolerance else ", outside"
    evidence = (
        f"{', '.join(r.file for r in used)} (commit {', '.join(commits)}): {shown}; "
        f"claimed {value:g}{interval}{inside}"
    )
    return Claim(id, source, statement, value, unit, "measured", evidence, found, tolerance,
                 command, hours)  # fmt: skip
