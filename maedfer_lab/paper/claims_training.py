"""Claims on training: learning rates of the published log, sizes of data sets, class counts."""

from __future__ import annotations

from collections.abc import Iterator

from maedfer_lab.config import OptimConfig
from maedfer_lab.config.schedule import learning_rate
from maedfer_lab.paper.claim import Claim, compare
from maedfer_lab.paper.claims_scores import slug
from maedfer_lab.paper.reader import Paper

LOG = ("log-pretraining",)


def claims(paper: Paper) -> Iterator[Claim]:
    """All claims of this kind."""
    yield from learning_rates(paper)
    yield from log_constants(paper)
    yield from sizes(paper)
    yield from class_counts(paper)


def pretraining(paper: Paper, quantity: str) -> int:
    """A number of the table "pretraining"."""
    return int(paper.table("pretraining").row(quantity)["value"].number)


def learning_rates(paper: Paper) -> Iterator[Claim]:
    """The mean learning rate of every logged epoch follows from the schedule, to 1e-8."""
    steps, batch = (pretraining(paper, q) for q in ("steps of an epoch", "clips in a batch"))
    epochs = pretraining(paper, "epochs of the schedule")
    optim = OptimConfig(steps=epochs * steps, batch_size=batch, warmup_steps=epochs * steps // 20)
    peak = f"{optim.lr:g} x {batch} / 256 = {optim.lr * batch / 256:.4g}"
    for log in paper.pretrain_log:
        first = log.epoch * steps
        rates = [learning_rate(step, optim) for step in range(first, first + steps)]
        kind = "linear warm-up to" if first < optim.warmup_steps else "cosine decay from"
        yield compare(
            f"pretraining/epoch-{log.epoch:02}/learning-rate/schedule",
            paper.cite(LOG),
            f"mean learning rate of epoch {log.epoch}",
            value=log.learning_rate,
            unit="per step",
            found=sum(rates) / steps,
            formula=f"{kind} {peak}, mean over steps {first:,} to {first + steps - 1:,} "
            f"({rates[0]:.5g} to {rates[-1]:.5g})",
            tolerance=1e-8,
            because="the accuracy asked for",
        )


def log_constants(paper: Paper) -> Iterator[Claim]:
    """What the log says once or in every line."""
    log, source = paper.pretrain_log, paper.cite(LOG)
    config = OptimConfig()
    decays = sorted({epoch.weight_decay for epoch in log})
    yield compare(
        "pretraining/weight-decay/constant",
        source,
        f"weight decay of all {len(log)} epochs",
        value=decays[0],
        unit="per step",
        found=config.weight_decay,
        formula=f"the recipe's constant; {len(decays)} value in the log,",
        tolerance=5e-6 if len(decays) == 1 else 0,
    )
    epochs = paper.table("pretraining").row("epochs run")["value"]
    yield compare(
        "pretraining/epochs/run",
        paper.cite(epochs.sources),
        "epochs of pre-training behind the published weights",
        value=epochs.number,
        unit=epochs.unit,
        found=len(log),
        formula=f"lines of the log, epoch {log[0].epoch} to {log[-1].epoch},",
        tolerance=0,
    )
    steps, batch = (pretraining(paper, q) for q in ("steps of an epoch", "clips in a batch"))
    clips = paper.table("datasets").row("VoxCeleb2 dev")["clips"]
    broken = pretraining(paper, "broken videos left out")
    left = clips.number - broken
    yield compare(
        "pretraining/steps/from-voxceleb2",
        paper.cite((*LOG, *clips.sources, "preprocess")),
        f"steps of an epoch that shows once each clip of VoxCeleb2 but {broken} broken ones",
        value=steps,
        unit="steps",
        found=left // batch,
        formula=f"({clips.number:,.0f} - {broken} = {left:,.0f} clips) // {batch} a batch",
        tolerance=0,
    )


def sizes(paper: Paper) -> Iterator[Claim]:
    """Published sizes of data sets and of training and test parts, from the split lists."""
    for dataset in paper.labels:
        cell = paper.table("datasets").row(dataset)["clips"]
        train, test = (paper.splits(dataset, part) for part in ("train", "test"))
        if cell.value is None:
            continue
        clips = cell.number
        of_folds = [train[f].clips + test[f].clips for f in test]
        yield compare(
            f"datasets/{slug(dataset)}/clips/from-splits",
            paper.cite(cell.sources),
            f"{dataset}: number of clips",
            value=clips,
            unit="clips",
            found=next((n for n in of_folds if n != clips), clips),
            formula=" = ".join(f"{train[f].clips:,} + {test[f].clips:,}" for f in test),
            tolerance=0,
        )
    for row in paper.table("evaluations").rows:
        dataset, fold = str(row["dataset"].value), str(row["fold"].value)
        for part in ("train", "test"):
            if row[part].value is not None:
                split = paper.splits(dataset, part)[fold]
                yield compare(
                    f"{slug(dataset, fold)}/log/{part}-clips/from-splits",
                    paper.cite(row[part].sources),
                    f"{dataset}: clips in the {part} part of fold {fold}",
                    value=row[part].number,
                    unit="clips",
                    found=split.clips,
                    formula=" + ".join(map(str, split.clips_per_class)),
                    tolerance=0,
                )


def class_counts(paper: Paper) -> Iterator[Claim]:
    """Rows of published matrices against the split lists; test folds against the whole set."""
    for matrix in paper.matrices:
        split = paper.splits(matrix.dataset)[matrix.fold]
        for i, label in enumerate(paper.labels[matrix.dataset]):
            yield compare(
                f"{slug(matrix.dataset, matrix.fold, matrix.by)}/matrix/{label}-clips/from-splits",
                paper.cite(matrix.sources),
                f"{matrix.dataset} fold {matrix.fold}: test clips of class {label} in the matrix",
                value=sum(matrix.clips[i]),
                unit="clips",
                found=split.clips_per_class[i],
                formula=f"label {i} of the test list (matrix row "
                f"{' + '.join(map(str, matrix.clips[i]))})",
                tolerance=0,
            )
    for dataset, labels in paper.labels.items():
        train, test = (paper.splits(dataset, part) for part in ("train", "test"))
        if len(test) == 1:
            continue
        first = next(iter(test))
        for i, label in enumerate(labels):
            parts = [split.clips_per_class[i] for split in test.values()]
            yield compare(
                f"datasets/{slug(dataset)}/{label}-clips/over-folds",
                paper.cite(("lists",)),
                f"{dataset}: clips of class {label} (both parts of fold {first}); every clip is "
                "tested in one fold",
                value=train[first].clips_per_class[i] + test[first].clips_per_class[i],
                unit="clips",
                found=sum(parts),
                formula=" + ".join(map(str, parts)),
                tolerance=0,
            )
