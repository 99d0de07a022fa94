"""`maedfer claims`: every numeric claim of the paper with its computed status.

Claims that need data are checked by the results of `maedfer evaluate`. A result is one
JSON file: {"kind": "evaluation", "dataset": "DFEW", "fold": 1, "uar": 0.62, "war": 0.74, "n": 2341,
"provenance": {...}}. Scores are fractions, n counts test clips; the fold of a single split is
"all". "method", "recalls" (in label order) and the further SCORES may be there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from json import dumps, loads
from pathlib import Path
from typing import Any, NamedTuple, get_args

from maedfer_lab.config import output_folder
from maedfer_lab.files import read_bytes, reading, write_aside
from maedfer_lab.paper import small_scale
from maedfer_lab.paper.claims import (
    LOG,
    OURS,
    WILD,
    Claim,
    Status,
    digits,
    pretraining,
    recomputed,
    slug,
)
from maedfer_lab.paper.tables import Cell, Paper, class_clips, paper

SCORES = ("uar", "war", "top5", "single_view_top1", "single_view_top5", "single_view_loss")
# Seconds a clip on one core of an AMD EPYC in float32, measured: two test views; a training
# step of fine-tuning; one of pre-training at 90 % masking.
SECONDS = {
    "lgi": {"evaluate": 2 * 1.10, "finetune": 3.74, "pretrain": 1.05},
    "vit": {"evaluate": 2 * 1.94, "finetune": 6.06, "pretrain": 1.21},
}
FINETUNING_EPOCHS = 100
LAB = ("CREMA-D", "RAVDESS", "eNTERFACE05")


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

    Raises ValueError for a file of this kind that breaks the schema, repeats a fold, or has
    another number of clips than the fold's test part.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise FileNotFoundError(f"results={str(folder)!r} is not a folder of evaluation files")
    found: dict[tuple[str, str, str], Result] = {}
    for path in sorted(folder.glob("*.json")):
        with reading(path):
            raw = loads(read_bytes(path))
            one = raw if isinstance(raw, dict) and raw.get("kind") == "evaluation" else {}
            # of somebody's own data or recipe there is no claim
            is_ours = one.get("dataset") in paper.labels and one.get("method") != "own recipe"
            result = _result(path, one, paper) if is_ours else None
        if result is not None:
            name = (result.method, result.dataset, result.fold)
            if name in found:
                raise ValueError(f"{found[name].file} and {path.name} both hold {' / '.join(name)}")
            found[name] = result
    return list(found.values())


def _result(path: Path, raw: dict[str, Any], paper: Paper) -> Result:
    needed = ("dataset", "fold", "uar", "war", "n", "provenance")
    if absent := [name for name in needed if not raw.get(name) and raw.get(name) != 0]:
        raise ValueError(f"{path.name} lacks {', '.join(absent)}; an evaluation has {needed}")
    dataset, fold, recalls = raw["dataset"], str(raw["fold"]), raw.get("recalls", [])
    splits, labels = paper.splits(dataset), paper.labels[dataset]
    scores = {name: raw[name] for name in SCORES if name in raw}
    scores |= dict(zip(labels, recalls, strict=False))
    outside = [f"{k}={v}" for k, v in scores.items() if not 0 <= v <= 1 and "loss" not in k]
    clips = sum(splits.get(fold, ()))
    for is_wrong, why in (
        (not clips, f"fold={fold!r} of {dataset} must be one of {', '.join(splits)}"),
        (raw["n"] != clips, f"n={raw['n']}, but fold {fold} of {dataset} tests {clips} clips; a "
         "result counts when all of them were tested"),
        (recalls and len(recalls) != len(labels),
         f"recalls has {len(recalls)} entries; {dataset} {len(labels)}"),
        (outside, f"{', '.join(outside)} must lie in [0, 1], such as 0.62"),
    ):  # fmt: skip
        if is_wrong:
            raise ValueError(f"{path.name}: {why}")
    method = raw.get("method", OURS)
    return Result(path.name, dataset, fold, method, raw["n"], scores, raw["provenance"])


class Evaluation(NamedTuple):
    """A method tested on folds of a data set; several folds stand for the mean over them."""

    method: str
    dataset: str
    folds: tuple[str, ...]

    @classmethod
    def of(cls, paper: Paper, method: str, dataset: str, fold: str = "all") -> Evaluation:
        """Of one fold, or of all that a data set has."""
        return cls(method, dataset, tuple(paper.splits(dataset)) if fold == "all" else (fold,))

    def results(self, score: str, results: Sequence[Result]) -> list[Result]:
        """Its results that hold `score`, in the order of the folds; none until all are there."""
        name = (self.method, self.dataset)
        found = {r.fold: r for r in results
                 if (r.method, r.dataset) == name and score in r.scores}  # fmt: skip
        return [found[fold] for fold in self.folds] if found.keys() >= {*self.folds} else []

    def mean(self, score: str, results: Sequence[Result]) -> float | None:
        """Mean of the score over the folds, a fraction; None until all of them are there."""
        found = [result.scores[score] for result in self.results(score, results)]
        return sum(found) / len(found) if found else None


def war_tolerance(war: float, clips: int) -> float:
    """Half-width of the binomial 95 % interval of an accuracy (fraction) over `clips` clips."""
    return 1.96 * math.sqrt(war * (1 - war) / clips)


def uar_tolerance(recalls: Sequence[float], clips: Sequence[int]) -> float:
    """The same of the mean of class recalls (fractions), each over its own number of clips."""
    variances = [r * (1 - r) / n for r, n in zip(recalls, clips, strict=True)]
    return 1.96 * math.sqrt(sum(variances)) / len(variances)


def unsettled(paper: Paper, results: Sequence[Result]) -> Iterator[Claim]:
    """Claims that need data (measured where `results` hold them), and what was not found."""
    for where, evaluation, cells in evaluations(paper):
        yield from scored(paper, results, where, evaluation, cells)
    command = "maedfer pretrain --preset base --data VOXCELEB2"
    for log in paper.pretrain_log:
        hours = (log.epoch + 1) * clips_of_an_epoch(paper) * SECONDS["lgi"]["pretrain"] / 3600
        yield Claim(
            f"pretraining/epoch-{log.epoch:02}/loss/measure", "to be measured", paper.cite(LOG),
            f"mean pre-training loss of epoch {log.epoch}", log.loss, "squared cube units",
            "needs data", f"`{command}`; needs VoxCeleb2; about {hours:,.0f} hours on one CPU core "
            "up to this epoch; one run has no interval", command=command, hours=hours,
        )  # fmt: skip
    for item in paper.missing:
        if item["id"] not in paper.tables:  # a table that joins the data leaves this list
            yield Claim(
                f"not-found/{slug(item['id'])}", "ablations",
                "official repository (README, figures, logs), poster, sister paper, later papers",
                item["what"], None, "percent", "not found",
                f"no table {item['id']!r} among {len(paper.tables)} read; instead: "
                f"{item['instead']}",
            )  # fmt: skip


def clips_of_an_epoch(paper: Paper) -> int:
    """Clips that an epoch of the published pre-training shows."""
    return pretraining(paper, "steps of an epoch") * pretraining(paper, "clips in a batch")


def evaluations(paper: Paper) -> Iterator[tuple[str, Evaluation, dict[str, Cell]]]:
    """Every printed evaluation of MAE-DFER and VideoMAE: where it stands, and its scores."""

    def chosen(row: dict[str, Cell], *scores: str) -> dict[str, Cell]:
        return {score: row[score] for score in scores if row[score].value is not None}

    for table in map(paper.table, WILD):
        dataset = str(table.dataset)
        for row in table.rows:
            method = row["method"].text
            if method == OURS or method.startswith("VideoMAE"):
                scores = chosen(row, *paper.labels[dataset], "uar", "war")
                yield table.id, Evaluation.of(paper, method, dataset), scores
    for dataset in LAB:
        row = paper.table("lab").row(dataset, OURS, "V")
        yield "lab", Evaluation.of(paper, OURS, dataset), chosen(row, "uar", "war")
    for row in paper.table("folds").rows:
        dataset, run, fold = (row[c].text for c in ("dataset", "run", "fold"))
        if fold != "all" or run == "reproduced":  # the others stand in the tables
            tested = Evaluation.of(paper, OURS, dataset, fold)
            yield f"folds {run}", tested, chosen(row, "uar", "war")
    row = paper.table("poster_fold1").row("VideoMAE")
    yield "poster", Evaluation("VideoMAE (VoxCeleb2)", "DFEW", ("1",)), chosen(row, "uar", "war")
    for row in paper.table("evaluations").rows:
        tested = Evaluation.of(paper, OURS, row["dataset"].text, row["fold"].text)
        yield f"log {row['by'].text}", tested, chosen(row, "top5", *SCORES[3:])


def scored(
    paper: Paper, results: Sequence[Result], where: str, evaluation: Evaluation,
    cells: dict[str, Cell],
) -> Iterator[Claim]:  # fmt: skip
    """One claim for each score of an evaluation: measured, or what it takes to measure it."""
    method, dataset, folds = evaluation
    splits, labels = paper.splits(dataset), paper.labels[dataset]
    clips = class_clips({fold: splits[fold] for fold in folds})
    recalls = expected_recalls(paper, method, dataset)
    command, hours, needs = plan(paper, evaluation)
    one, over = folds[0], f"fold {folds[0]}"
    if len(folds) > 1:
        one, over = "all", f"mean over {len(folds)} folds"
    for score, cell in cells.items():
        value, tolerance = cell.number, None
        if score == "uar":
            tolerance = 100 * uar_tolerance(recalls or [value / 100] * len(clips), clips)
        elif not score.endswith("loss"):
            n = clips[labels.index(score)] if score in labels else sum(clips)
            tolerance = 100 * war_tolerance(value / 100, n)
        interval = f" +- {tolerance:.2g} (95 % interval of this test set)" if tolerance else ""
        used, found = evaluation.results(score, results), evaluation.mean(score, results)
        if found is None:
            evidence = (
                f"`{command}` measures it; needs {needs}; about {hours:,.1f} hours on one CPU "
                f"core; expected {value:g}{interval}"
            )
        else:
            found *= 100 if cell.unit == "percent" else 1
            files = ", ".join(result.file for result in used)
            commits = sorted({str(result.provenance.get("commit", "unknown")) for result in used})
            evidence = f"{files} (commit {', '.join(commits)}): {digits(found, tolerance or 0.01)}"
            evidence += f"; claimed {value:g}{interval}"
            if tolerance:
                evidence += ", inside" if abs(found - value) <= tolerance else ", outside"
        yield Claim(
            f"{slug(where, method, dataset, one)}/{score.replace('_', '-')}/measure",
            "to be measured", paper.cite(cell.sources), f"{dataset}, {method}, {over}: {score}",
            value, cell.unit, "needs data" if found is None else "measured", evidence, found,
            tolerance, command, hours,
        )  # fmt: skip


def expected_recalls(paper: Paper, method: str, dataset: str) -> list[float] | None:
    """Recall of each class as the table prints it, as fractions; None without class columns."""
    if dataset.lower() not in WILD:
        return None
    row = paper.table(dataset.lower()).row(method)
    return [row[label].number / 100 for label in paper.labels[dataset]]


def plan(paper: Paper, evaluation: Evaluation) -> tuple[str, float, str]:
    """(command, hours on one core, what it needs) to make an evaluation."""
    method, dataset, folds = evaluation
    verb_name = dataset.lower().replace("-", "").removesuffix("05")  # as the verbs spell it
    numbers = [fold.replace("all", "1") for fold in folds]
    encoder = "vit" if method.startswith("VideoMAE") else "lgi"
    seconds = SECONDS[encoder]
    test, train = (
        sum(sum(paper.splits(dataset, part)[fold]) for fold in folds) for part in ("test", "train")
    )
    hours = test * seconds["evaluate"] / 3600
    if method == OURS and dataset not in LAB:
        files = " ".join(f"FOLD{number}.pth" for number in numbers)
        tested = f"--dataset {verb_name} --root DIR --fold {' '.join(numbers)}"
        needs = f"{dataset} and the published fine-tuned weights"
        return f"maedfer evaluate {files} {tested}", hours, needs
    hours += train * FINETUNING_EPOCHS * seconds["finetune"] / 3600
    command = f"maedfer finetune {verb_name} --preset base --checkpoint PRETRAINED --root DIR "
    command += f"--fold {numbers[0]}"
    command += f" (and so on to {numbers[-1]})" if len(numbers) > 1 else ""
    command += f" && maedfer evaluate {' '.join(f'RUN{number}' for number in numbers)}"
    if method == OURS:
        return command, hours, f"{dataset}, the published pre-trained weights; settings unknown"
    command += f' --method "{method}"'
    if "Kinetics" in method:
        return command, hours, f"{dataset} and VideoMAE's weights from Kinetics-400"
    clips = clips_of_an_epoch(paper) * pretraining(paper, "epochs run")
    hours += clips * seconds["pretrain"] / 3600
    command = f"maedfer pretrain --preset base --encoder {encoder} --data VOXCELEB2 && {command}"
    return command, hours, f"{dataset} and VoxCeleb2 (no such weights are published)"


def ledger(source: Paper | None = None, results: Path | None = None) -> list[Claim]:
    """All claims, each with its status; `results`: a folder of evaluation files."""
    source = source or paper()
    return [*recomputed(source), *unsettled(source, read_results(results, source))]


def totals(claims: Sequence[Claim]) -> dict[str, int]:
    """Number of claims with each status, all statuses named."""
    counts = Counter(claim.status for claim in claims)
    return {status: counts[status] for status in get_args(Status)}


def results_folder() -> Path | None:
    """The folder of evaluations: results/ of the project, None if there is none."""
    folder = output_folder() / "results"
    return folder if folder.is_dir() else None


def claims_command(*, json: Path | None = None, results: Path | None = None) -> str:
    """Check every number of the paper that can be checked; then list our study's results.

    json: file to write all entries to, each with its evidence.
    results: folder of evaluation files; results/ of the project by default, if there is one.
    """
    claims = ledger(results=results or results_folder())
    if json is not None:
        text = ",\n".join(dumps({**asdict(claim), "agrees": claim.agrees}) for claim in claims)
        text = f'{{"totals": {dumps(totals(claims))},\n"claims": [\n{text}\n]}}\n'
        write_aside(json, text.encode())
    own = small_scale.ledger(small_scale.committed()["rows"])
    return f"{report(claims)}\n\n{small_scale.write_ledger(own)}"


def report(claims: Sequence[Claim]) -> str:
    """Totals; contradicted claims and why; measured ones; and those that need data."""
    lines = [f"{len(claims)} numeric claims"]
    lines += [f"  {count:4} {status}" for status, count in totals(claims).items()]
    for status in ("contradicted", "measured", "not found"):
        chosen = [claim for claim in claims if claim.status == status]
        lines += ["", f"{status}:"] if chosen else []
        lines += [f"  {c.statement}\n      {c.evidence}" for c in chosen]
    needed = {c.command: c.hours or 0 for c in claims if c.status == "needs data"}
    counts = Counter(claim.command for claim in claims if claim.status == "needs data")
    lines += ["", "needs data (claims, hours on one CPU core, command):"] if needed else []
    lines += [f"  {n:4} {needed[c]:>10,.1f} h  {c}" for c, n in counts.items()]
    return "\n".join(lines)
