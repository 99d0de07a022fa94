"""Claims that follow from other printed scores: class columns, folds, matrices, margins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maedfer_lab.metrics import f1, recalls, scores
from maedfer_lab.paper.claim import Claim, compare
from maedfer_lab.paper.reader import Cell, Paper, SplitCount, Table

WILD = ("dfew", "ferv39k", "mafw")
OURS = "MAE-DFER"
NAMES = {"uar": "UAR", "war": "WAR", "flops": "FLOPs"}


def claims(paper: Paper) -> Iterator[Claim]:
    """All claims of this kind."""
    for name in WILD:
        yield from class_columns(paper, paper.table(name))
    yield from fold_means(paper)
    yield from matrices(paper)
    yield from margins(paper)
    yield from printed_otherwise(paper)


def slug(*parts: str) -> str:
    """An id from names."""
    kept = ("".join(c if c.isalnum() else "-" for c in part.lower()) for part in parts)
    return "/".join("-".join(filter(None, part.split("-"))) for part in kept)


def total(values: list[str]) -> str:
    """A sum for reading."""
    return " + ".join(values)


def class_columns(paper: Paper, table: Table) -> Iterator[Claim]:
    """UAR is the mean of the printed class columns; WAR their mean weighted by clips."""
    labels = paper.labels[str(table.dataset)]
    splits = list(paper.splits(str(table.dataset)).values())
    clips, slack = class_clips(splits), 100 * fold_slack(splits)
    shares = [n / sum(clips) for n in clips]
    hidden = f", and {slack:.2g} for what means over folds may hide" if slack else ""
    for row in table.rows:
        cells = [row[label] for label in labels]
        if any(cell.value is None for cell in cells):
            continue
        method = str(row["method"].value)
        rounding = sum(cell.rounding for cell in cells) / len(cells)
        yield compare(
            f"{slug(table.id, method)}/uar/from-classes",
            paper.cite(row["uar"].sources),
            f"{table.dataset}, {method}: UAR is the mean of its {len(cells)} class columns",
            value=row["uar"].number,
            unit="percent",
            found=sum(cell.number for cell in cells) / len(cells),
            formula=f"({total([f'{cell.value:.2f}' for cell in cells])}) / {len(cells)}",
            tolerance=row["uar"].rounding + rounding,
        )
        weighed = [s * cell.number for s, cell in zip(shares, cells, strict=True)]
        rounding = sum(s * cell.rounding for s, cell in zip(shares, cells, strict=True))
        products = [f"{n} x {c.value:.2f}" for n, c in zip(clips, cells, strict=True)]
        yield compare(
            f"{slug(table.id, method)}/war/from-classes",
            paper.cite(row["war"].sources),
            f"{table.dataset}, {method}: WAR is the mean of its class columns, weighted by the "
            "clips of the split lists",
            value=row["war"].number,
            unit="percent",
            found=sum(weighed),
            formula=f"({total(products)}) / {sum(clips)}",
            tolerance=row["war"].rounding + rounding + slack,
            because=f"rounding{hidden}",
        )


def fold_means(paper: Paper) -> Iterator[Claim]:
    """The totals over folds are plain means of the folds."""
    for name, whose in (("folds", "run"), ("reproductions", "by")):
        table = paper.table(name)
        for row in table.rows:
            same = [r for r in table.rows if all(
                r[c].value == row[c].value for c in ("dataset", whose)
            ) and r["fold"].value != "all"]  # fmt: skip
            if row["fold"].value != "all" or len(same) < 2:
                continue
            of = f"{row['dataset'].value}, {row[whose].value}"
            for score in ("uar", "war"):
                if len(same) != len(paper.splits(str(row["dataset"].value))):
                    continue
                cells = [r[score] for r in same]
                yield compare(
                    f"{name}/{slug(str(row[whose].value), str(row['dataset'].value))}/{score}/mean",
                    paper.cite(row[score].sources),
                    f"{of}: {NAMES[score]} over all is the plain mean of {len(cells)} folds",
                    value=row[score].number,
                    unit="percent",
                    found=sum(c.number for c in cells) / len(cells),
                    formula=f"({total([f'{c.value:.2f}' for c in cells])}) / {len(cells)}",
                    tolerance=row[score].rounding + max(c.rounding for c in cells),
                )


def matrices(paper: Paper) -> Iterator[Claim]:
    """Everything printed beside, or instead of, the published confusion matrices."""
    explained = "F1 being 2 right / (in class + called so),"
    for matrix in paper.matrices:
        labels, counts = paper.labels[matrix.dataset], np.array(matrix.clips)
        own = {name: float(value) for name, value in scores(counts).items()}
        found = {name: own[name] for name in ("uar", "war", "weighted_f1", "macro_f1")}
        found |= {"micro_f1": own["war"], "top1": own["war"]}
        right = sum(row[i] for i, row in enumerate(matrix.clips))
        clips = sum(map(sum, matrix.clips))
        of = f"{matrix.dataset} fold {matrix.fold}, {matrix.by}"
        printed: list[tuple[str, str, Cell]] = []
        evaluation = paper.table("evaluations").row(matrix.dataset, matrix.fold, matrix.by)
        printed += [("log", name, evaluation[name]) for name in found]
        if matrix.by == "authors":
            printed += list(printed_elsewhere(paper, matrix.dataset, matrix.fold))
        per_class = recalls(counts).tolist()
        each = [f"{value:.4f}" for value in f1(counts)]
        weighted = [f"{sum(n)} x {value}" for n, value in zip(matrix.clips, each, strict=True)]
        found |= dict(zip(labels, per_class, strict=True))
        if matrix.recalls:
            printed += [
                ("log", label, Cell(value, "percent", 2, matrix.sources))
                for label, value in zip(labels, matrix.recalls, strict=True)
            ]
        for document, name, cell in printed:
            if cell.value is None:
                continue
            i = labels.index(name) if name in labels else None
            formula = {
                "uar": f"mean of {', '.join(f'{r:.2%}' for r in per_class)}",
                "weighted_f1": f"({total(weighted)}) / {clips:,}, {explained}",
                "macro_f1": f"mean of {', '.join(each)}, {explained}",
            }.get(name, f"{right} right of {clips:,}")
            if i is not None:
                formula = f"{matrix.clips[i][i]} right of {sum(matrix.clips[i]):,}"
            yield compare(
                f"{slug(matrix.dataset, matrix.fold, matrix.by)}/{document}/{name}/from-matrix",
                paper.cite(cell.sources),
                f"{of}: {name} in the {document} follows from the confusion matrix",
                value=cell.number,
                unit=cell.unit,
                found=found[name] * (100 if cell.unit == "percent" else 1),
                formula=formula,
                tolerance=cell.rounding,
            )


def printed_elsewhere(paper: Paper, dataset: str, fold: str) -> Iterator[tuple[str, str, Cell]]:
    """(document, score, cell) for what other documents print of an evaluation by the authors."""
    for row in paper.table("folds").rows:
        run = row["run"].value
        if (row["dataset"].value, row["fold"].value) == (dataset, fold) and run != "reproduced":
            yield from (("readme", score, row[score]) for score in ("uar", "war"))
    if (dataset, fold) == ("DFEW", "1"):
        row = paper.table("poster_fold1").row(OURS)
        yield from (("poster", score, row[score]) for score in ("uar", "war"))
    if fold == "all":
        row = paper.table(dataset.lower()).row(OURS)
        yield from (("table", s, row[s]) for s in (*paper.labels[dataset], "uar", "war"))


def margins(paper: Paper) -> Iterator[Claim]:
    """The headline: points over the best supervised method that sees frames only."""
    for row in paper.table("headlines").rows:
        name, dataset, column = (str(row[c].value) for c in ("table", "dataset", "column"))
        ours, best, best_name = ours_and_best(paper, name, dataset, column)
        cell = row["margin"]
        yield compare(
            f"headline/{slug(dataset)}/{column}/margin",
            paper.cite(cell.sources),
            f"{dataset}: {NAMES[column]} of MAE-DFER over the best supervised method",
            value=cell.number,
            unit=cell.unit,
            found=ours.number - best.number,
            formula=f"{ours.value:.2f} - {best.value:.2f} ({best_name})",
            tolerance=cell.rounding + ours.rounding + best.rounding,
        )
    found = [ours_and_best(paper, name, "", "uar") for name in WILD]
    gaps = [ours.number - best.number for ours, best, _ in found]
    for quantity, pick in (("least", min), ("largest", max)):
        cell = paper.table("summaries").row(f"{quantity} UAR margin in the wild")["value"]
        yield compare(
            f"headline/in-the-wild/uar/{quantity}-margin",
            paper.cite(cell.sources),
            f"{quantity} UAR margin over DFEW, FERV39k and MAFW, in whole points",
            value=cell.number,
            unit=cell.unit,
            found=pick(gaps),
            formula=f"{quantity} of {', '.join(f'{gap:.2f}' for gap in gaps)}",
            tolerance=cell.rounding + 0.01,
        )


def ours_and_best(paper: Paper, name: str, dataset: str, column: str) -> tuple[Cell, Cell, str]:
    """MAE-DFER's cell, that of the best supervised method on frames, and the latter's name."""
    rows = [
        r for r in paper.table(name).rows if "dataset" not in r or r["dataset"].value == dataset
    ]
    ours = next(r for r in rows if r["method"].value == OURS)[column]
    others = [
        r
        for r in rows
        if r["method"].value != OURS and r[column].value is not None
        if r.get("modality", r["method"]).value != "A+V"
        if "pretraining" not in r or r["pretraining"].value == "supervised"
    ]
    best = max(others, key=lambda r: r[column].number)
    return ours, best[column], str(best["method"].value)


def printed_otherwise(paper: Paper) -> Iterator[Claim]:
    """Cells that another document prints otherwise: which of the two recomputes?"""
    for row in paper.table("variants").rows:
        name, method, column = (str(row[c].value) for c in ("table", "method", "column"))
        table, cell = paper.table(name), row["value"]
        there = table.row(method)
        here, found = there[column], there[column].number
        formula, tolerance = f"the same cell in {paper.cite(here.sources)}", cell.rounding
        if column == "uar":
            cells = [there[label] for label in paper.labels[str(table.dataset)]]
            found = sum(c.number for c in cells) / len(cells)
            formula = f"({total([f'{c.value:.2f}' for c in cells])}) / {len(cells)}"
            tolerance += sum(c.rounding for c in cells) / len(cells)
        yield compare(
            f"{slug(name, method)}/{column}/printed-otherwise",
            paper.cite(cell.sources),
            f"{table.dataset}, {method}: {NAMES[column]} as printed elsewhere "
            f"(the table: {here.number:g})",
            value=cell.number,
            unit=cell.unit,
            found=found,
            formula=formula,
            tolerance=tolerance,
        )


def class_clips(splits: Sequence[SplitCount]) -> list[int]:
    """Clips of each class over all folds."""
    return [sum(n) for n in zip(*(split.clips_per_class for split in splits), strict=True)]


def fold_slack(splits: Sequence[SplitCount]) -> float:
    """How far WAR can lie from the share-weighted class recalls, whatever the folds' recalls are.

    Recalls and WAR are means over folds or pooled, and print does not say which. With s clips'
    shares they weigh fold f's recall of class c by w in {s_cf / k, n_cf / N} (WAR) and by e in
    {s_c / k, n_cf / N} (recalls times shares); recalls lie in [0, 1], so the difference is at most
    the sum of the positive (or of the negative) parts of w - e. 0 for a single split.
    """
    total = sum(split.clips for split in splits)
    per_class, k = class_clips(splits), len(splits)
    pooled = [n / total for s in splits for n in s.clips_per_class]
    of_folds = [n / s.clips / k for s in splits for n in s.clips_per_class]
    shares = [n / total / k for _ in splits for n in per_class]
    gaps = [
        [w - e for w, e in zip(war, estimate, strict=True)]
        for war in (pooled, of_folds)
        for estimate in (pooled, shares)
    ]
    return max(abs(sum(x for x in gap if sign * x > 0) + 0.0) for gap in gaps for sign in (1, -1))
