"""Our own evidence: the paper's four claims at small scale, from the committed study's rows.

docs/study.md states hypotheses and methods, written before the runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np

from maedfer_lab.config.study import LONG, LONG_ALONE, REFERENCE
from maedfer_lab.files import provenance

StudyRow = dict[str, Any]
Rows = Sequence[StudyRow]
# 97.5 % quantiles of Student's t distribution for 1 to 9 degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NOT_WORSE = -0.05  # UAR
PRE_TRAINED: StudyRow = {"how": "fine-tuned", "start": "pre-trained", "variant": REFERENCE}
PROBED: StudyRow = {"how": "linear probe", "label": "expression"}
COMPARED = (  # id, claim, label, variant, the one that it is compared with, bound
    ("b2", "appearance and motion beat appearance alone (direction)", "direction",
     REFERENCE, "appearance only, lambda 1", 0.0),
    ("b4", "appearance and motion beat appearance alone (direction), both four times as long",
     "direction", LONG, LONG_ALONE, 0.0),
    ("b5", "appearance and motion beat appearance alone (expression), both four times as long",
     "expression", LONG, LONG_ALONE, 0.0),
    ("c1", "LGI-Former is as good as a ViT of equal cost", "expression",
     REFERENCE, "ViT at equal cost", NOT_WORSE),
    ("c2", "LGI-Former is as good as a ViT of equal parameters", "expression",
     REFERENCE, "ViT at equal parameters", NOT_WORSE),
    ("c3", "stages 2 and 3 are worth having", "expression",
     REFERENCE, "without stages 2 and 3", 0.0),
    ("d1", "longer pre-training helps (8 times)", "expression", REFERENCE, "0.125 x length", 0.0),
    ("d2", "still longer pre-training helps (another 4 times)", "expression",
     LONG, REFERENCE, 0.0),
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """Mean of one value per seed and half the width of its 95 % interval (None for one seed)."""

    values: tuple[float, ...]
    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Student's t over 1 to 10 values."""
        degrees = len(values) - 1
        if not 0 <= degrees <= len(T_QUANTILES):
            raise ValueError(f"values hold {len(values)} entries; use 1 to {len(T_QUANTILES) + 1}")
        half = T_QUANTILES[degrees - 1] * stdev(values) / len(values) ** 0.5 if degrees else None
        return cls(tuple(values), mean(values), half)

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends; infinite with one seed."""
        half = float("inf") if self.half is None else self.half
        return self.mean - half, self.mean + half

    def text(self, scale: float = 100.0) -> str:
        """Such as "+12.3 [10.1, 14.5]"."""
        low, high = self.ends
        span = "" if self.half is None else f" [{scale * low:+.1f}, {scale * high:+.1f}]"
        return f"{scale * self.mean:+.1f}{span}"


class Entry(NamedTuple):
    """One sentence of the paper at small scale: "shown", "not shown" or "reversed"."""

    id: str
    claim: str
    verdict: str
    evidence: str


@cache
def committed() -> dict[str, Any]:
    """The committed study: its provenance and rows (`training.study.run_piece` describes them)."""
    return json.loads(files("maedfer_lab.paper.data").joinpath("study.json").read_text())


def matching(rows: Rows, what: str, **wanted: Any) -> list[StudyRow]:
    """The rows that have `what` and in which everything in `wanted` holds."""
    return [row for row in rows if what in row and wanted.items() <= row.items()]


def scores(rows: Rows, what: str = "uar", **wanted: Any) -> dict[int, float]:
    """The value of each seed in the `matching` rows."""
    return {row["seed"]: row[what] for row in matching(rows, what, **wanted)}


def difference(ours: dict[int, float], others: dict[int, float]) -> Interval | None:
    """Ours minus others, seed by seed; None without a common seed."""
    common = sorted(ours.keys() & others.keys())
    return Interval.of([ours[seed] - others[seed] for seed in common]) if common else None


def ledger(rows: Rows) -> list[Entry]:
    """The hypotheses of docs/study.md with their verdicts; those without rows are left out."""
    few = sorted({row["labels"] for row in rows if row["variant"] == REFERENCE and "labels" in row})
    found: list[Entry] = []

    def add(
        id: str, claim: str, ours: StudyRow, others: StudyRow, counts: Sequence[int],
        bound: float = 0.0,
    ) -> None:  # fmt: skip
        gaps = [difference(scores(rows, **ours, labels=n), scores(rows, **others, labels=n))
                for n in counts]  # fmt: skip
        if (known := [gap for gap in gaps if gap is not None]) and len(known) == len(gaps):
            is_shown = all(gap.ends[0] > bound for gap in known)
            is_reversed = all(gap.ends[1] < bound for gap in known)
            verdict = "shown" if is_shown else "reversed" if is_reversed else "not shown"
            at = [f"with {n} labels " if len(counts) > 1 else "" for n in counts]
            evidence = [f"{w}{gap.text()} points" for w, gap in zip(at, known, strict=True)]
            found.append(Entry(id, claim, verdict, "; ".join(evidence)))

    for id, what, label, counts, variant in (
        ("a1", "pre-training", "expression", few[1:3], REFERENCE),
        ("a2", "pre-training", "direction", few[2:3], REFERENCE),
        ("a4", "four times the pre-training", "expression", few[1:3], LONG),
    ):
        which, of = " and ".join(map(str, counts)), {**PRE_TRAINED, "label": label}
        add(id, f"{what} beats training from scratch ({label}, {which} labels)",
            {**of, "variant": variant}, {**of, "start": "from scratch"}, counts)  # fmt: skip
    for id, what, counts, variant in (
        ("a3", "pre-trained features", few[-1:], REFERENCE),
        ("a5", "features of four times the pre-training", few[-2:-1], LONG),
    ):
        add(id, f"{what} beat random ones (linear probe, {', '.join(map(str, counts))} labels)",
            {**PROBED, "start": "pre-trained", "variant": variant},
            {**PROBED, "start": "random, frozen", "variant": REFERENCE}, counts)  # fmt: skip
    for id, claim, label, variant, other, bound in COMPARED:
        of = {**PRE_TRAINED, "label": label}
        add(id, claim, {**of, "variant": variant}, {**of, "variant": other},
            [common_labels(rows, label)], bound)  # fmt: skip
    for id, variant, when in (("b1", REFERENCE, ""), ("b3", LONG, " in four times the steps")):
        motion = scores(rows, "motion", variant=variant, how="pre-training")
        if motion:
            gap = Interval.of([value - 1 for value in motion.values()])
            low, high = gap.ends
            verdict = "shown" if high < -0.1 else "reversed" if low > 0 else "not shown"
            claim = f"motion is learned{when} (held-out loss 10 % below its zero line)"
            found.append(Entry(id, claim, verdict, f"{gap.text()} %"))
    return sorted(found)


def write_ledger(entries: Sequence[Entry]) -> str:
    """A line per entry, and the command that reruns them."""
    lines = [f"{e.id}  {e.verdict:<10}{e.claim}: {e.evidence}" for e in entries]
    head = "Our own evidence at small scale (drawn faces; docs/study.md; redo: make study)"
    return "\n".join([head, *lines])


def start_of(row: StudyRow) -> str:
    """The start of a score, such as "pre-trained, 4 x length"."""
    return f"{row['start']}, {LONG}" if row["variant"] == LONG else row["start"]


def curves(rows: Rows) -> list[StudyRow]:
    """UAR against labels, a curve per label, way and start; points carry their intervals."""
    found: dict[tuple[str, ...], dict[int, list[float]]] = {}
    for row in rows:
        if row["variant"] in (REFERENCE, LONG) and "uar" in row:
            key = row["label"], row["how"], start_of(row)
            found.setdefault(key, {}).setdefault(row["labels"], []).append(row["uar"])
    return [
        {**dict(zip(("label", "how", "start"), key, strict=True)),
         "points": [{"labels": count, **asdict(Interval.of(values))}
                    for count, values in sorted(points.items())]}
        for key, points in found.items()
    ]  # fmt: skip


def write_curves(rows: Rows) -> str:
    """UAR and half of its interval in per cent, fine-tuned from each start, by number of labels."""
    lines = []
    for curve in matching(curves(rows), "points", how="fine-tuned"):
        points = (f"{p['labels']}: {100 * p['mean']:.1f} +- {100 * (p['half'] or 0):.1f}"
                  for p in curve["points"])  # fmt: skip
        lines.append(f"{curve['label']:<11}{curve['start']:<26}{'   '.join(points)}")
    return "\n".join(lines)


def gap_figure(rows: Rows, classes: Sequence[str], own: Rows = ()) -> dict[str, Any]:
    """The numbers of figure 08; `own`: points that were measured beside the study's."""
    reference = [row for row in rows if row["variant"] == REFERENCE]
    counts = sorted({row["labels"] for row in matching(reference, "confusion")})
    at = counts[len(counts) // 2]
    confused = {  # summed over seeds, true classes in rows
        start: np.sum([row["confusion"] for row in matching(
            reference, "confusion", start=start, label="expression", labels=at)], axis=0).tolist()
        for start in ("pre-trained", "from scratch")
    }  # fmt: skip
    return {
        "curves": curves(rows), "own": [{**row, "start": start_of(row)} for row in own],
        "seeds": len({row["seed"] for row in reference}), "classes": list(classes),
        "confused_at": at, "confusions": confused,
    }  # fmt: skip


SCORES: dict[str, StudyRow] = {
    "expression": {"how": "fine-tuned", "start": "pre-trained", "label": "expression"},
    "direction": {"how": "fine-tuned", "start": "pre-trained", "label": "direction"},
    "appearance": {"how": "pre-training"},
    "motion": {"how": "pre-training"},
}


def common_labels(rows: Rows, label: str) -> int:
    """The most labels with which all variants that were fine-tuned for `label` were; 0: none."""
    counts: dict[str, set[int]] = {}
    for row in matching(rows, "labels", how="fine-tuned", label=label):
        counts.setdefault(row["variant"], set()).add(row["labels"])
    return max(set.intersection(*counts.values()), default=0) if counts else 0


def compare_variants(rows: Rows) -> list[StudyRow]:
    """A row per variant: each score's interval, and its paired difference from the reference's.

    Variants are fine-tuned with fewer numbers of labels than the reference; the common one counts.
    """
    common = {label: common_labels(rows, label) for label in ("expression", "direction")}
    found = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        row: StudyRow = {"variant": name, "labels": common["expression"],
                    "direction labels": common["direction"]}  # fmt: skip
        for score, wanted in SCORES.items():
            if score in common:
                what, wanted = "uar", {**wanted, "labels": common[score]}
            else:
                what = score
            own, other = (scores(rows, what, variant=v, **wanted) for v in (name, REFERENCE))
            gap = difference(own, other)
            row[score] = own and asdict(Interval.of(list(own.values())))
            row[f"{score} difference"] = None if gap is None or name == REFERENCE else asdict(gap)
        costs = matching(rows, "gmacs", variant=name)[0]
        found.append({**row, **{key: costs[key] for key in ("gmacs", "parameters", "steps")}})
    return found


def loss_curves(rows: Rows) -> dict[str, list[list[float]]]:
    """Mean held-out losses on the way (step, appearance, motion), of the targets' variants."""
    found: dict[str, list[np.ndarray]] = {}
    for row in matching(rows, "curve"):
        if "lambda" in row["variant"] or row["variant"] == LONG:
            found.setdefault(row["variant"], []).append(np.array(row["curve"]))
    return {name: np.mean(curves, axis=0).round(4).tolist() for name, curves in found.items()}


def source(rows: Rows, profile: str) -> dict[str, Any]:
    """Provenance of the rows of your own study."""
    seeds = sorted({row["seed"] for row in rows})
    return provenance(profile=profile, seed=", ".join(map(str, seeds)), device="cpu",
                      seconds=round(sum(row.get("seconds", 0) for row in rows), 1))  # fmt: skip


def write_variants(table: Rows) -> str:
    """A block per variant: its cost, its scores, and what their differences show."""
    lines = []
    for row in table:
        lines.append(f"{row['variant']}  ({row['gmacs'] * 1000:.0f} MMACs, {row['steps']} steps)")
        for score in filter(row.get, SCORES):
            scale = 100 if "label" in SCORES[score] else 1
            gap = describe(row[f"{score} difference"], scale)
            lines.append(f"    {score:<11}{scale * row[score]['mean']:8.3g}   {gap}".rstrip())
    return "\n".join(lines)


def describe(difference: StudyRow | None, scale: float = 100.0) -> str:
    """A paired difference in words, such as "+3.1 [0.2, 6.0]: higher"."""
    if difference is None:
        return ""
    gap = Interval(**difference)
    low, high = gap.ends
    words = "higher" if low > 0 else "lower" if high < 0 else "no difference shown"
    return f"{gap.text(scale)}: {words}"
