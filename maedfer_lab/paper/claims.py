"""Claims that follow from other published numbers, or are contradicted by them.

A claim is one printed number with one way to check it: functions yield checks, `recomputed` settles
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from maedfer_lab.config import ModelConfig, OptimConfig, PretrainConfig, learning_rate, preset
from maedfer_lab.cost.formula import ModelTask, macs, parameters, total_macs
from maedfer_lab.metrics import f1, recalls, scores
from maedfer_lab.paper.tables import Cell, Matrix, Paper, Splits, class_clips

Status = Literal["recomputed", "contradicted", "needs data", "measured", "not found"]
WILD = ("dfew", "ferv39k", "mafw")
OURS = "MAE-DFER"
NAMES = {"uar": "UAR", "war": "WAR", "flops": "FLOPs"}
LOG = ("log-pretraining",)
LOGGED = ("uar", "war", "weighted_f1", "macro_f1", "micro_f1", "top1")
SAME = {"micro_f1": "war", "top1": "war"}  # as every clip has one label
TINY = 1e-9  # binary fractions of decimal numbers


@dataclass(frozen=True)
class Claim:
    """One numeric claim and its status.

    id: subject / quantity / way of checking. kind: the group that it is counted in.
    source: the documents that print the value. value: in `unit`; None if none is printed.
    evidence: the formula with its numbers, or the command that measures it and its cost.
    tolerance: largest difference that counts as agreement: rounding, of the printed digits and of
        what it is computed from; for measured numbers half of the test set's 95 % interval.
    hours: expected time on one CPU core, where something must run.
    """

    id: str
    kind: str
    source: str
    statement: str
    value: float | None
    unit: str
    status: Status
    evidence: str
    found: float | None = None
    tolerance: float | None = None
    command: str | None = None
    hours: float | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether the found number lies within the tolerance of the printed one."""
        if self.value is None or self.found is None or self.tolerance is None:
            return None
        return abs(self.found - self.value) <= self.tolerance + TINY


class Check(NamedTuple):
    """A printed number, and what it should be by others; `formula`: how `found` comes about.

    tolerance: by default the cell's rounding. because: what it allows for.
    """

    id: str
    cell: Cell
    statement: str
    found: float
    formula: str
    tolerance: float | None = None
    because: str = "rounding"


def exact(value: float, unit: str, *sources: str) -> Cell:
    """A number that is not in a table."""
    return Cell(float(value), unit, 0, sources)


def digits(value: float, tolerance: float) -> str:
    """A number with as many digits as show a difference of `tolerance`; whole ones without."""
    if 0 < tolerance < 1e-6:
        return f"{value:.7g}"
    if float(value).is_integer() and (not tolerance or tolerance >= 0.5):
        return f"{value:,.0f}"
    places = 0 if not tolerance else max(0, math.ceil(0.5 - math.log10(tolerance)))
    return f"{value:,.{max(places, 2)}f}"


def slug(*parts: str) -> str:
    """An id from names."""
    kept = ("".join(c if c.isalnum() else "-" for c in part.lower()) for part in parts)
    return "/".join("-".join(filter(None, part.split("-"))) for part in kept)


def mean_of(cells: Sequence[Cell]) -> tuple[float, str]:
    """The mean of cells, and how it is written."""
    terms = " + ".join(f"{cell.value:.2f}" for cell in cells)
    return sum(cell.number for cell in cells) / len(cells), f"({terms}) / {len(cells)}"


def recomputed(paper: Paper) -> Iterator[Claim]:
    """All claims that published numbers and closed formulas settle."""
    checks = ((kind, check) for kind, groups in CHECKS.items() for group in groups
              for check in group(paper))  # fmt: skip
    for kind, check in checks:
        value, found = check.cell.number, float(check.found)
        tolerance = check.cell.rounding if check.tolerance is None else check.tolerance
        printed, ours, apart = (digits(x, tolerance) for x in (value, found, abs(found - value)))
        evidence = f"{check.formula} = {ours}; claimed {printed}; difference {apart}"
        if tolerance:
            evidence += f", allowed {tolerance:.2g} ({check.because})"
        agrees = abs(found - value) <= tolerance + TINY
        yield Claim(
            check.id, kind, paper.cite(check.cell.sources), check.statement, value, check.cell.unit,
            "recomputed" if agrees else "contradicted", evidence, found, float(tolerance),
        )  # fmt: skip


def class_columns(paper: Paper) -> Iterator[Check]:
    """UAR is the mean of the printed class columns; WAR their mean weighted by clips."""
    for table in map(paper.table, WILD):
        labels, splits = paper.labels[str(table.dataset)], paper.splits(str(table.dataset))
        clips, slack = class_clips(splits), 100 * fold_slack(splits)
        hidden = f", and {slack:.2g} for what means over folds may hide" if slack else ""
        for row in table.rows:
            cells, uar, war = [row[label] for label in labels], row["uar"], row["war"]
            if any(cell.value is None for cell in cells):
                continue
            name, of = slug(table.id, row["method"].text), f"{table.dataset}, {row['method'].text}"
            yield Check(
                f"{name}/uar/from-classes", uar, f"{of}: UAR is the mean of its {len(cells)} class "
                "columns", *mean_of(cells),
                uar.rounding + sum(cell.rounding for cell in cells) / len(cells),
            )  # fmt: skip
            weighted = [(n / sum(clips), cell) for n, cell in zip(clips, cells, strict=True)]
            products = [f"{n} x {c.value:.2f}" for n, c in zip(clips, cells, strict=True)]
            yield Check(
                f"{name}/war/from-classes", war, f"{of}: WAR is the mean of its class columns, "
                "weighted by the clips of the split lists",
                sum(s * cell.number for s, cell in weighted),
                f"({' + '.join(products)}) / {sum(clips)}",
                war.rounding + sum(s * cell.rounding for s, cell in weighted) + slack,
                f"rounding{hidden}",
            )  # fmt: skip


def fold_slack(splits: Splits) -> float:
    """How far WAR can lie from the share-weighted class recalls, whatever the folds' recalls are.

    Recalls and WAR are means over folds or pooled; print does not say which. With s clips' shares
    they weigh fold f's recall of class c by w in {s_cf / k, n_cf / N} (WAR) and by e in {s_c / k,
    n_cf / N}; recalls lie in [0, 1], so the difference is at most the sum of the positive (or of
    the negative) parts of w - e. 0 for a single split.
    """
    clips = np.array([*splits.values()])
    pooled = clips / clips.sum()
    of_folds = clips / clips.sum(1, keepdims=True) / len(clips)
    shares = np.broadcast_to(clips.sum(0) / clips.sum() / len(clips), clips.shape)
    gaps = [w - e for w in (pooled, of_folds) for e in (pooled, shares)]
    return max(float(np.clip(s * gap, 0, None).sum()) for gap in gaps for s in (1, -1))


def fold_means(paper: Paper) -> Iterator[Check]:
    """The totals over folds are plain means of the folds."""
    for name, whose in (("folds", "run"), ("reproductions", "by")):
        rows = paper.table(name).rows
        for row in (row for row in rows if row["fold"].text == "all"):
            dataset, by = row["dataset"].text, row[whose].text
            folds = [r for r in rows if (r["dataset"].text, r[whose].text) == (dataset, by)
                     and r["fold"].text != "all"]  # fmt: skip
            if len(folds) < 2 or len(folds) != len(paper.splits(dataset)):
                continue
            for score in ("uar", "war"):
                cells = [r[score] for r in folds]
                yield Check(
                    f"{name}/{slug(by, dataset)}/{score}/mean", row[score], f"{dataset}, {by}: "
                    f"{NAMES[score]} over all is the plain mean of {len(cells)} folds",
                    *mean_of(cells), row[score].rounding + max(c.rounding for c in cells),
                )  # fmt: skip


def matrices(paper: Paper) -> Iterator[Check]:
    """Everything printed beside, or instead of, the published confusion matrices."""
    for matrix in paper.matrices:
        labels, counts = paper.labels[matrix.dataset], np.array(matrix.clips)
        per_class, own = recalls(counts).tolist(), scores(counts)
        rows, right = counts.sum(1).tolist(), counts.diagonal().tolist()
        found = {name: float(own[SAME.get(name, name)]) for name in LOGGED}
        found |= dict(zip(labels, per_class, strict=True))
        each = [f"{value:.4f}" for value in f1(counts)]
        weighted = " + ".join(f"{n} x {value}" for n, value in zip(rows, each, strict=True))
        explained = "F1 being 2 right / (in class + called so),"
        formulas = dict.fromkeys(found, f"{sum(right)} right of {sum(rows):,}") | {
            "uar": f"mean of {', '.join(f'{r:.2%}' for r in per_class)}",
            "weighted_f1": f"({weighted}) / {sum(rows):,}, {explained}",
            "macro_f1": f"mean of {', '.join(each)}, {explained}",
        }
        formulas |= {name: f"{right[i]} right of {rows[i]:,}" for i, name in enumerate(labels)}
        for document, name, cell in printed_scores(paper, matrix):
            if cell.value is not None:
                yield Check(
                    f"{slug(*matrix.name)}/{document}/{name}/from-matrix", cell,
                    f"{matrix.dataset} fold {matrix.fold}, {matrix.by}: {name} in the {document} "
                    "follows from the confusion matrix",
                    found[name] * (100 if cell.unit == "percent" else 1), formulas[name],
                )  # fmt: skip


def printed_scores(paper: Paper, matrix: Matrix) -> Iterator[tuple[str, str, Cell]]:
    """(document, score, cell) for all that is printed of the evaluation behind a matrix."""
    evaluation = paper.table("evaluations").row(*matrix.name)
    yield from (("log", name, evaluation[name]) for name in LOGGED)
    labels = paper.labels[matrix.dataset]
    if matrix.by == "authors":
        for row in paper.table("folds").rows:
            here = (row["dataset"].text, row["fold"].text) == (matrix.dataset, matrix.fold)
            if here and row["run"].text != "reproduced":
                yield from (("readme", score, row[score]) for score in ("uar", "war"))
        if (matrix.dataset, matrix.fold) == ("DFEW", "1"):
            row = paper.table("poster_fold1").row(OURS)
            yield from (("poster", score, row[score]) for score in ("uar", "war"))
        if matrix.fold == "all":
            row = paper.table(matrix.dataset.lower()).row(OURS)
            yield from (("table", score, row[score]) for score in (*labels, "uar", "war"))
    for label, value in zip(labels, matrix.recalls or (), strict=False):
        yield "log", label, Cell(value, "percent", 2, matrix.sources)


def margins(paper: Paper) -> Iterator[Check]:
    """The headline: points over the best supervised method that sees frames only."""
    for row in paper.table("headlines").rows:
        name, dataset, column = (row[c].text for c in ("table", "dataset", "column"))
        ours, best, best_name = ours_and_best(paper, name, dataset, column)
        yield Check(
            f"headline/{slug(dataset)}/{column}/margin", row["margin"],
            f"{dataset}: {NAMES[column]} of MAE-DFER over the best supervised method",
            ours.number - best.number, f"{ours.value:.2f} - {best.value:.2f} ({best_name})",
            row["margin"].rounding + ours.rounding + best.rounding,
        )  # fmt: skip
    pairs = [ours_and_best(paper, name, "", "uar") for name in WILD]
    gaps = [ours.number - best.number for ours, best, _ in pairs]
    for quantity, found in (("least", min(gaps)), ("largest", max(gaps))):
        cell = paper.table("summaries").row(f"{quantity} UAR margin in the wild")["value"]
        yield Check(
            f"headline/in-the-wild/uar/{quantity}-margin", cell,
            f"{quantity} UAR margin over DFEW, FERV39k and MAFW, in whole points", found,
            f"{quantity} of {', '.join(f'{gap:.2f}' for gap in gaps)}", cell.rounding + 0.01,
        )  # fmt: skip


def ours_and_best(paper: Paper, name: str, dataset: str, column: str) -> tuple[Cell, Cell, str]:
    """MAE-DFER's cell, that of the best supervised method on frames, and the latter's name."""
    rows = [r for r in paper.table(name).rows if "dataset" not in r or r["dataset"].text == dataset]
    ours = next(row for row in rows if row["method"].text == OURS)[column]
    others = [
        row for row in rows
        if row["method"].text != OURS and row[column].value is not None
        if row.get("modality", row["method"]).text != "A+V"
        if "pretraining" not in row or row["pretraining"].text == "supervised"
    ]  # fmt: skip
    best = max(others, key=lambda row: row[column].number)
    return ours, best[column], best["method"].text


def printed_otherwise(paper: Paper) -> Iterator[Check]:
    """Cells that another document prints otherwise: which of the two recomputes?"""
    for row in paper.table("variants").rows:
        name, method, column = (row[c].text for c in ("table", "method", "column"))
        table, there = paper.table(name), paper.table(name).row(method)
        found, tolerance = there[column].number, row["value"].rounding
        formula = f"the same cell in {paper.cite(there[column].sources)}"
        if column == "uar":
            cells = [there[label] for label in paper.labels[str(table.dataset)]]
            found, formula = mean_of(cells)
            tolerance += sum(cell.rounding for cell in cells) / len(cells)
        yield Check(
            f"{slug(name, method)}/{column}/printed-otherwise", row["value"],
            f"{table.dataset}, {method}: {NAMES[column]} as printed elsewhere (the table: "
            f"{there[column].number:g})", found, formula, tolerance,
        )  # fmt: skip


def model_of(method: str) -> ModelConfig:
    """The model behind a row called MAE-DFER or VideoMAE (...): LGI-Former or ViT-B."""
    return preset("base", "vit" if method.startswith("VideoMAE") else "lgi").model


def in_parts(parts: dict[str, int]) -> str:
    """Counts by module, for reading."""
    return " + ".join(f"{name} {count:,}" for name, count in parts.items())


def table_costs(paper: Paper) -> Iterator[Check]:
    """The columns of parameters and FLOPs of MAE-DFER and VideoMAE in every table."""
    for table in map(paper.table, (*WILD, "later")):
        classes = len(paper.labels[table.dataset]) if table.dataset else 7
        for row in table.rows:
            method = row["method"].text
            if method != OURS and not method.startswith("VideoMAE"):
                continue
            model = model_of(method)
            for column, what, parts, scale in (
                ("params", "parameters", parameters(model, num_classes=classes), 1e6),
                ("flops", "FLOPs", macs(model, num_classes=classes, as_published=True), 1e9),
            ):
                yield Check(
                    f"{slug(table.id, method)}/{column}/formula", row[column],
                    f"{table.id}, {method}: {what}, {classes} classes, a clip of 16 x 160 x 160",
                    sum(parts.values()) / scale, f"({in_parts(parts)}) in {row[column].unit}",
                )  # fmt: skip


def exact_parameters(paper: Paper) -> Iterator[Check]:
    """The number of parameters that the logs print to the last digit."""
    printed: list[tuple[str, Cell, ModelTask, int]] = [
        (f"{slug(row['dataset'].text, row['fold'].text)}/log", row["parameters"], "classify",
         len(paper.labels[row["dataset"].text]))
        for row in paper.table("evaluations").rows if row["parameters"].value is not None
    ]  # fmt: skip
    for i, count in enumerate(sorted({epoch.parameters for epoch in paper.pretrain_log})):
        printed.append(
            (f"pretraining/log{i or ''}", exact(count, "parameters", *LOG), "pretrain", 7)
        )
    for name, cell, task, classes in printed:
        parts = parameters(ModelConfig(), task, num_classes=classes)
        what = f"classifier of {classes} classes" if task == "classify" else "encoder and decoder"
        yield Check(
            f"{name}/parameters/formula", cell, f"LGI-Former, {what}: number of parameters",
            sum(parts.values()), in_parts(parts), 0,
        )  # fmt: skip


def flops_saved(paper: Paper) -> Iterator[Check]:
    """FLOPs saved, from the counts and not from 50 and 81."""
    lgi, vit = (total_macs(model_of(m), as_published=True) for m in (OURS, "VideoMAE"))
    yield Check(
        "headline/flops/saving",
        paper.table("summaries").row("FLOPs saved against VideoMAE")["value"],
        "FLOPs that MAE-DFER saves against VideoMAE, in whole percent", 100 * (1 - lgi / vit),
        f"100 x (1 - {lgi:,} / {vit:,} multiply-adds)",
    )  # fmt: skip


def loss_weight(paper: Paper) -> Iterator[Check]:
    """Lambda as the code weighs the losses."""
    config = PretrainConfig()
    outputs = 3 * math.prod(config.model.tubelet)
    appearance = outputs // config.target.motion_group
    yield Check(
        "loss/lambda/equivalence",
        paper.table("summaries").row("motion and appearance share the loss: lambda")["value"],
        "lambda: weight of the appearance loss; the code takes one mean over all outputs instead",
        appearance / outputs,
        f"{appearance} appearance outputs of {outputs} of a cube, equally weighted,",
    )  # fmt: skip


def pretraining(paper: Paper, quantity: str) -> int:
    """A number of the table "pretraining"."""
    return int(paper.table("pretraining").row(quantity)["value"].number)


def learning_rates(paper: Paper) -> Iterator[Check]:
    """The mean learning rate of every logged epoch follows from the schedule, to 1e-8."""
    steps, batch = (pretraining(paper, q) for q in ("steps of an epoch", "clips in a batch"))
    epochs = pretraining(paper, "epochs of the schedule")
    optim = OptimConfig(steps=epochs * steps, batch_size=batch, warmup_steps=epochs * steps // 20)
    peak = f"{optim.lr:g} x {batch} / 256 = {optim.lr * batch / 256:.4g}"
    for log in paper.pretrain_log:
        first = log.epoch * steps
        rates = [learning_rate(step, optim) for step in range(first, first + steps)]
        phase = "linear warm-up to" if first < optim.warmup_steps else "cosine decay from"
        yield Check(
            f"pretraining/epoch-{log.epoch:02}/learning-rate/schedule",
            exact(log.learning_rate, "per step", *LOG), f"mean learning rate of epoch {log.epoch}",
            sum(rates) / steps, f"{phase} {peak}, mean over steps {first:,} to "
            f"{first + steps - 1:,} ({rates[0]:.5g} to {rates[-1]:.5g})", 1e-8,
            "the accuracy asked for",
        )  # fmt: skip


def log_constants(paper: Paper) -> Iterator[Check]:
    """What the log says once or in every line."""
    log = paper.pretrain_log
    decays = sorted({epoch.weight_decay for epoch in log})
    yield Check(
        "pretraining/weight-decay/constant", exact(decays[0], "per step", *LOG),
        f"weight decay of all {len(log)} epochs", OptimConfig().weight_decay,
        f"the recipe's constant; {len(decays)} value in the log,", 5e-6 * (len(decays) == 1),
    )  # fmt: skip
    yield Check(
        "pretraining/epochs/run", paper.table("pretraining").row("epochs run")["value"],
        "epochs of pre-training behind the published weights", len(log),
        f"lines of the log, epoch {log[0].epoch} to {log[-1].epoch},", 0,
    )  # fmt: skip
    steps, batch, broken = (
        pretraining(paper, quantity)
        for quantity in ("steps of an epoch", "clips in a batch", "broken videos left out")
    )
    clips = paper.table("datasets").row("VoxCeleb2 dev")["clips"]
    left = clips.number - broken
    yield Check(
        "pretraining/steps/from-voxceleb2",
        exact(steps, "steps", *LOG, *clips.sources, "preprocess"),
        f"steps of an epoch that shows once each clip of VoxCeleb2 but {broken} broken ones",
        left // batch, f"({clips.number:,.0f} - {broken} = {left:,.0f} clips) // {batch} a batch",
        0,
    )  # fmt: skip


def sizes(paper: Paper) -> Iterator[Check]:
    """Published sizes of data sets and of training and test parts, from the split lists."""
    for dataset in paper.labels:
        cell = paper.table("datasets").row(dataset)["clips"]
        if cell.value is None:
            continue
        parts = [paper.splits(dataset, part) for part in ("train", "test")]
        of_folds = [[sum(part[fold]) for part in parts] for fold in parts[1]]
        yield Check(
            f"datasets/{slug(dataset)}/clips/from-splits", cell, f"{dataset}: number of clips",
            next((sum(n) for n in of_folds if sum(n) != cell.number), cell.number),
            " = ".join(f"{train:,} + {test:,}" for train, test in of_folds), 0,
        )  # fmt: skip
    for row in paper.table("evaluations").rows:
        dataset, fold = row["dataset"].text, row["fold"].text
        for part in ("train", "test"):
            if row[part].value is not None:
                clips = paper.splits(dataset, part)[fold]
                yield Check(
                    f"{slug(dataset, fold)}/log/{part}-clips/from-splits", row[part],
                    f"{dataset}: clips in the {part} part of fold {fold}", sum(clips),
                    " + ".join(map(str, clips)), 0,
                )  # fmt: skip


def class_counts(paper: Paper) -> Iterator[Check]:
    """Rows of published matrices against the split lists; test folds against the whole set."""
    for matrix in paper.matrices:
        clips = paper.splits(matrix.dataset)[matrix.fold]
        for i, (label, row) in enumerate(zip(paper.labels[matrix.dataset], matrix.clips,
                                             strict=True)):  # fmt: skip
            yield Check(
                f"{slug(*matrix.name)}/matrix/{label}-clips/from-splits",
                exact(sum(row), "clips", *matrix.sources), f"{matrix.dataset} fold {matrix.fold}: "
                f"test clips of class {label} in the matrix", clips[i],
                f"label {i} of the test list (matrix row {' + '.join(map(str, row))})", 0,
            )  # fmt: skip
    for dataset, labels in paper.labels.items():
        train, test = (paper.splits(dataset, part) for part in ("train", "test"))
        first = next(iter(test))
        for i, label in enumerate(labels if len(test) > 1 else ()):
            yield Check(
                f"datasets/{slug(dataset)}/{label}-clips/over-folds",
                exact(train[first][i] + test[first][i], "clips", "lists"),
                f"{dataset}: clips of class {label} (both parts of fold {first}); every clip is "
                "tested in one fold", class_clips(test)[i],
                " + ".join(str(clips[i]) for clips in test.values()), 0,
            )  # fmt: skip


CHECKS: dict[str, tuple[Callable[[Paper], Iterator[Check]], ...]] = {  # by kind
    "class columns": (class_columns,), "means over folds": (fold_means,),
    "confusion matrices": (matrices,), "margins": (margins,),
    "printed otherwise": (printed_otherwise,),
    "parameters, FLOPs": (table_costs, exact_parameters, flops_saved),
    "training recipe": (loss_weight, learning_rates, log_constants),
    "data sets": (sizes, class_counts),
}  # fmt: skip
