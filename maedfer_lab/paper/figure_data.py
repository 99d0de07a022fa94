"""Notebook 09: tables for reading, and the numbers of its figures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from maedfer_lab.config import PretrainConfig
from maedfer_lab.files import load, read_bytes, reading
from maedfer_lab.metrics import scores
from maedfer_lab.paper.claims import OURS, WILD, Claim
from maedfer_lab.paper.ledger import (
    Evaluation,
    Result,
    expected_recalls,
    totals,
    uar_tolerance,
    war_tolerance,
)
from maedfer_lab.paper.tables import Cell, Paper, Table, class_clips, paper

SCORES = ("uar", "war")
HEADINGS = {"params": "params (M)", "flops": "GMACs", "uar": "UAR %", "war": "WAR %"}


@dataclass(frozen=True)
class Page:
    """HTML that a notebook shows."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def show(paper: Paper, *names: str, results: Sequence[Result] = ()) -> Page:
    """Tables one below the other, as the paper groups them.

    results: evaluations made here fill the columns *ours*; blank where nothing was measured.
    """
    tables = "".join(_table_html(paper, paper.table(name), results) for name in names)
    return Page(f"<div style='display: flex; flex-wrap: wrap; gap: 12px'>{tables}</div>")


def _table_html(paper: Paper, table: Table, results: Sequence[Result]) -> str:
    head = "".join(
        f"<th>{escape(HEADINGS.get(n, n.replace('_', ' ')))}</th>{'<th>ours</th>' * (n in SCORES)}"
        for n in table.columns
    )
    body = ""
    for row in table.rows:
        cells = ""
        for name in table.columns:
            value, tag = row[name].value, _mark(table, row, name)
            text = "" if value is None else escape(str(value))
            if isinstance(value, float):
                text = f"{value:.{row[name].decimals}f}"
            cells += f"<td>{f'<{tag}>{text}</{tag}>' if tag else text}</td>"
            if name in SCORES:
                cells += f"<td>{_ours(paper, table, row, name, results)}</td>"
        body += f"<tr>{cells}</tr>"
    keys = dict.fromkeys(key for row in table.rows for c in row.values() for key in c.sources)
    return (
        "<div style='flex: 1 1 380px; min-width: 0; overflow: auto; max-height: 200px'><table>"
        f"<caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
        f"<p><small>{escape(paper.cite(tuple(keys)))}</small></p></div>"
    )


def _mark(table: Table, row: dict[str, Cell], name: str) -> str:
    """Tag of a percentage: "b" for the best of its column and data set, "u" for the second."""
    group = [
        other[name].number for other in table.rows
        if other[name].unit == "percent" and other[name].value is not None
        if "dataset" not in row or other["dataset"].text == row["dataset"].text
    ]  # fmt: skip
    ranked = sorted(set(group), reverse=True)[:2]
    is_marked = len(group) > 1 and row[name].value in ranked
    return "bu"[ranked.index(row[name].number)] if is_marked else ""


def _ours(
    paper: Paper, table: Table, row: dict[str, Cell], score: str, results: Sequence[Result]
) -> str:
    dataset = table.dataset or (row["dataset"].text if "dataset" in row else "")
    if dataset not in paper.labels or row.get("modality", row[score]).text == "A+V":
        return ""
    method = row["method"].text if "method" in row else OURS
    fold = row["fold"].text if "fold" in row else "all"
    found = Evaluation.of(paper, method, dataset, fold).mean(score, results)
    return "" if found is None else f"{100 * found:.2f}"


def accuracy_flops(paper: Paper) -> dict[str, Any]:
    """UAR on DFEW, GMACs and millions of parameters of the paper's rows and of later methods."""

    def point(row: dict[str, Cell], score: str) -> dict[str, Any]:
        shown = {key: row[key].value for key in ("method", "params", "flops")}
        return shown | {"uar": row[score].value}

    now = [{**point(row, "dfew_uar"), "tunable": row["params_note"].value == "tunable"}
           for row in paper.table("later").rows if row["dfew_uar"].value is not None]  # fmt: skip
    then = [point(row, "uar") for row in paper.table("dfew").rows]
    return {"then": then, "now": now, "dataset": "DFEW"}


def class_recalls(paper: Paper) -> dict[str, Any]:
    """Recall per class of MAE-DFER, both VideoMAE and the best supervised method with classes."""
    panels = []
    for table in map(paper.table, WILD):
        labels, splits = paper.labels[str(table.dataset)], paper.splits(str(table.dataset))
        rows = [row for row in table.rows if row[labels[0]].value is not None]
        supervised = [row for row in rows if row["pretraining"].value == "supervised"]
        chosen = [max(supervised, key=lambda row: row["uar"].number)]
        chosen += [row for row in rows if row["pretraining"].value != "supervised"]
        methods = [{"method": row["method"].value, "recalls": [row[c].number for c in labels]}
                   for row in chosen]  # fmt: skip
        panels.append({"dataset": table.dataset, "labels": labels, "clips": class_clips(splits),
                       "methods": methods})  # fmt: skip
    return {"panels": panels}


def confusion(paper: Paper) -> dict[str, Any]:
    """The authors' confusion matrices as shares of each class, with UAR and WAR."""
    found = []
    for matrix in (matrix for matrix in paper.matrices if matrix.by == "authors"):
        own, sums = scores(np.array(matrix.clips)), [sum(row) for row in matrix.clips]
        found.append({
            "title": matrix.dataset + ("" if matrix.fold == "all" else f", fold {matrix.fold}"),
            "labels": paper.labels[matrix.dataset],
            "clips": sums,
            "shares": [[n / sum(row) for n in row] for row in matrix.clips],
            **{k: float(own[k]) for k in ("uar", "war")},
        })  # fmt: skip
    return {"matrices": found}


def folds(paper: Paper, results: Sequence[Result] = ()) -> dict[str, Any]:
    """Published, independent and our own results by fold, with 95 % intervals of the test sets."""
    rows, found = [], list[tuple[Any, ...]]()
    for table, whose in (("folds", "run"), ("reproductions", "by")):
        names = ("dataset", "fold", whose, "uar", "war")
        found += [tuple(row[name].value for name in names) for row in paper.table(table).rows]
    wild = [paper.table(name).dataset for name in WILD]
    found += [(r.dataset, r.fold, "ours", 100 * r.scores["uar"], 100 * r.scores["war"])
              for r in results if r.method == OURS and r.dataset in wild]  # fmt: skip
    for dataset, fold, by, uar, war in found:
        splits = paper.splits(dataset)
        clips = class_clips(splits if fold == "all" else {fold: splits[fold]})
        expected = expected_recalls(paper, OURS, dataset) or []
        rows.append({
            "dataset": dataset,
            "fold": "mean" if fold == "all" and len(splits) > 1 else fold,
            "by": by, "uar": uar, "war": war,
            "uar_interval": round(100 * uar_tolerance(expected, clips), 3),
            "war_interval": round(100 * war_tolerance(war / 100, sum(clips)), 3),
        })  # fmt: skip
    return {"rows": rows}


def pretraining(paper: Paper, runs: Path | None = None) -> dict[str, Any]:
    """The published loss over clips seen, and of those runs in a folder that have its units."""
    of = paper.table("pretraining")
    batch, steps = (of.row(q)["value"].number for q in ("clips in a batch", "steps of an epoch"))
    return {
        "clips": [(log.epoch + 1) * batch * steps for log in paper.pretrain_log],
        "loss": [log.loss for log in paper.pretrain_log],
        "learning_rate": [log.learning_rate for log in paper.pretrain_log],
        "runs": [] if runs is None else own_runs(runs),
    }


def published_curve(config: PretrainConfig) -> dict[str, list[float]] | None:
    """Step and loss of the published run, where a run with `config` has seen as many clips.

    None where losses cannot be compared (the published: cube units, with motion, lambda 0.5).
    """
    target = config.target
    if (target.units, target.motion, target.motion_weight) != ("cube", True, 0.5):
        return None
    log = pretraining(paper())
    return {"step": [n / config.optim.batch_size for n in log["clips"]], "loss": log["loss"]}


def own_runs(folder: Path, points: int = 100) -> list[dict[str, Any]]:
    """Losses of our runs on targets in cube units, as means of at most `points` stretches."""
    found = []
    for path in sorted(folder.glob("*/log.csv")):
        config = load(path.parent / "config.json")
        with reading(path.parent):
            if config.get("target", {}).get("units") != "cube":  # fine-tuning has no target
                continue
            rows = csv.DictReader(read_bytes(path).decode().splitlines())
            log = [(int(row["step"]), float(row["loss"])) for row in rows]
            size = max(1, len(log) // points)
            parts = [list(zip(*log[i : i + size], strict=True)) for i in range(0, len(log), size)]
            found.append({
                "name": config["name"], "loss": [sum(loss) / len(loss) for _, loss in parts],
                "clips": [steps[-1] * config["optim"]["batch_size"] for steps, _ in parts],
            })  # fmt: skip
    return found


def ledger_totals(claims: Sequence[Claim]) -> dict[str, Any]:
    """Claims by kind and status, and by how much the contradicted percentages are off."""
    shown = ("statement", "unit", "value", "found", "tolerance")
    kinds: dict[str, dict[str, int]] = {}
    for claim in claims:
        counts = kinds.setdefault(claim.kind, {})
        counts[claim.status] = counts.get(claim.status, 0) + 1
    wrong = [{key: getattr(claim, key) for key in shown} for claim in claims
             if claim.status == "contradicted"]  # fmt: skip
    return {"totals": totals(claims), "kinds": kinds, "contradicted": wrong}
