"""Claims that only data can settle, with command, cost and tolerance; and what was not found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maedfer_lab.paper.claim import Claim, uar_tolerance, war_tolerance
from maedfer_lab.paper.claims_scores import OURS, WILD, class_clips, slug
from maedfer_lab.paper.claims_training import LOG, pretraining
from maedfer_lab.paper.measured import Result, Wanted, measure
from maedfer_lab.paper.reader import Cell, Paper

# Seconds a clip on one core of an AMD EPYC in float32, measured: two test views; a training
# step of fine-tuning; one of pre-training at 90 % masking.
SECONDS = {
    "lgi": {"evaluate": 2 * 1.10, "finetune": 3.74, "pretrain": 1.05},
    "vit": {"evaluate": 2 * 1.94, "finetune": 6.06, "pretrain": 1.21},
}
FINETUNING_EPOCHS = 100
LAB = ("CREMA-D", "RAVDESS", "eNTERFACE05")


def claims(paper: Paper, results: Sequence[Result]) -> Iterator[Claim]:
    """All claims of this kind, those with `results` as measured."""
    yield from tables(paper, results)
    yield from single_runs(paper, results)
    yield from losses(paper)
    yield from not_found(paper)


def tables(paper: Paper, results: Sequence[Result]) -> Iterator[Claim]:
    """Every score of MAE-DFER and VideoMAE in the tables."""
    for name in WILD:
        table = paper.table(name)
        dataset = str(table.dataset)
        for row in table.rows:
            method = str(row["method"].value)
            if method == OURS or method.startswith("VideoMAE"):
                chosen = {s: row[s] for s in (*paper.labels[dataset], "uar", "war")}
                yield from scored(paper, results, name, method, dataset, "all", chosen)
    for dataset in LAB:
        row = paper.table("lab").row(dataset, OURS, "V")
        chosen = {s: row[s] for s in ("uar", "war")}
        yield from scored(paper, results, "lab", OURS, dataset, "all", chosen)


def single_runs(paper: Paper, results: Sequence[Result]) -> Iterator[Claim]:
    """Single folds, other runs than the tables', and what the logs print besides."""
    for row in paper.table("folds").rows:
        dataset, run, fold = (str(row[c].value) for c in ("dataset", "run", "fold"))
        if fold != "all" or run == "reproduced":  # the others stand in the tables
            chosen = {s: row[s] for s in ("uar", "war")}
            yield from scored(paper, results, f"folds {run}", OURS, dataset, fold, chosen)
    row = paper.table("poster_fold1").row("VideoMAE")
    chosen = {s: row[s] for s in ("uar", "war")}
    yield from scored(paper, results, "poster", "VideoMAE (VoxCeleb2)", "DFEW", "1", chosen)
    for row in paper.table("evaluations").rows:
        dataset, fold = (str(row[c].value) for c in ("dataset", "fold"))
        extra = ("top5", "single_view_top1", "single_view_top5", "single_view_loss")
        chosen = {s: row[s] for s in extra if row[s].value is not None}
        yield from scored(paper, results, f"log {row['by'].value}", OURS, dataset, fold, chosen)


def scored(
    paper: Paper,
    results: Sequence[Result],
    where: str,
    method: str,
    dataset: str,
    fold: str,
    cells: dict[str, Cell],
) -> Iterator[Claim]:
    """The scores of one evaluation: `fold` "all" is the mean over all folds of a data set."""
    splits = paper.splits(dataset)
    folds = tuple(splits) if fold == "all" else (fold,)
    labels = paper.labels[dataset]
    clips = class_clips([splits[f] for f in folds])
    recalls = expected_recalls(paper, method, dataset)
    command, hours, needs = plan(paper, method, dataset, folds)
    for score, cell in cells.items():
        if score == "uar":
            tolerance = uar_tolerance(recalls or [cell.number / 100] * len(clips), clips)
        elif score.endswith("loss"):
            tolerance = None
        else:
            n = clips[labels.index(score)] if score in labels else sum(clips)
            tolerance = war_tolerance(cell.number / 100, n)
        over = f"fold {folds[0]}" if len(folds) == 1 else f"mean over {len(folds)} folds"
        yield measure(
            f"{slug(where, method, dataset, fold)}/{score.replace('_', '-')}/measure",
            paper.cite(cell.sources),
            f"{dataset}, {method}, {over}: {score}",
            value=cell.number,
            unit=cell.unit,
            wanted=Wanted(method, dataset, folds, score),
            results=results,
            tolerance=None if tolerance is None else 100 * tolerance,
            command=command,
            hours=hours,
            needs=needs,
        )


def expected_recalls(paper: Paper, method: str, dataset: str) -> list[float] | None:
    """Recall of each class as the table prints it, as fractions; None without class columns."""
    if dataset not in (paper.table(name).dataset for name in WILD):
        return None
    row = paper.table(dataset.lower()).row(method)
    return [row[label].number / 100 for label in paper.labels[dataset]]


def plan(paper: Paper, method: str, dataset: str, folds: tuple[str, ...]) -> tuple[str, float, str]:
    """(command, hours on one core, what it needs) to measure a method on folds of a data set."""
    kind = dataset.lower().replace("-", "").removesuffix("05")  # as the verbs spell it
    numbers = [fold.replace("all", "1") for fold in folds]
    encoder = "vit" if method.startswith("VideoMAE") else "lgi"
    seconds = SECONDS[encoder]
    test, train = (
        sum(split.clips for f, split in paper.splits(dataset, part).items() if f in folds)
        for part in ("test", "train")
    )
    hours = test * seconds["evaluate"] / 3600
    if method == OURS and dataset not in LAB:
        files = " ".join(f"FOLD{number}.pth" for number in numbers)
        return (
            f"maedfer evaluate {files} --dataset {kind} --root DIR --fold {' '.join(numbers)}",
            hours,
            f"{dataset} and the published fine-tuned weights",
        )
    hours += train * FINETUNING_EPOCHS * seconds["finetune"] / 3600
    runs = " ".join(f"RUN{number}" for number in numbers)
    named = "" if method == OURS else f' --method "{method}"'
    train_one = f"maedfer finetune {kind} --preset base --checkpoint PRETRAINED --root DIR --fold"
    command = f"{train_one} {numbers[0]}"
    if len(numbers) > 1:
        command += f" (and so on to {numbers[-1]})"
    command += f" && maedfer evaluate {runs}{named}"
    if method == OURS:
        return command, hours, f"{dataset}, the published pre-trained weights; settings unknown"
    if "Kinetics" in method:
        return command, hours, f"{dataset} and VideoMAE's weights from Kinetics-400"
    clips = pretraining(paper, "steps of an epoch") * pretraining(paper, "clips in a batch")
    hours += clips * pretraining(paper, "epochs run") * seconds["pretrain"] / 3600
    first = f"maedfer pretrain --preset base --encoder {encoder} --data VOXCELEB2"
    return (
        f"{first} && {command}",
        hours,
        f"{dataset} and VoxCeleb2 (no such weights are published)",
    )


def losses(paper: Paper) -> Iterator[Claim]:
    """The pre-training losses of the log."""
    command = "maedfer pretrain --preset base --data VOXCELEB2"
    clips = pretraining(paper, "steps of an epoch") * pretraining(paper, "clips in a batch")
    for log in paper.pretrain_log:
        hours = (log.epoch + 1) * clips * SECONDS["lgi"]["pretrain"] / 3600
        yield Claim(
            f"pretraining/epoch-{log.epoch:02}/loss/measure",
            paper.cite(LOG),
            f"mean pre-training loss of epoch {log.epoch}",
            log.loss,
            "squared cube units",
            "needs data",
            f"`{command}`; needs VoxCeleb2; about {hours:,.0f} hours on one CPU core up to this "
            "epoch; one run has no interval",
            command=command,
            hours=hours,
        )


def not_found(paper: Paper) -> Iterator[Claim]:
    """Results that are in no table we have; one that joins the data leaves this list."""
    for item in paper.missing:
        if item.id not in paper.tables:
            yield Claim(
                f"not-found/{slug(item.id)}",
                "official repository (README, figures, logs), poster, sister paper, later papers",
                item.what,
                None,
                "percent",
                "not found",
                f"no table {item.id!r} among {len(paper.tables)} read; instead: {item.instead}",
            )
