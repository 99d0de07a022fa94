"""What a benchmark found: rows of times, checks made before them, aims; as a table and as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from maedfer_lab import text

SIDES = ("floor", "ours", "plain")
Section = Literal["model", "data", "evaluation", "waiting", "gpu"]
SECTIONS: tuple[Section, ...] = ("model", "data", "evaluation", "waiting", "gpu")
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """One piece of work of ours, beside its floor and the plain way.

    section, name: where it stands; names are unique.
    rounds: by side, seconds of one item in each round. floor: what no code could do without.
        plain: the same written plainly.
    item: what one item is, "clip", "video", "step", or "" for a whole piece of work.
    memory: peak bytes of one run, by side.
    utilisation: achieved / measured peak multiply-adds of a GPU, in [0, 1].
    """

    section: Section
    name: str
    rounds: Mapping[str, Sequence[float]]
    item: str = "clip"
    memory: Mapping[str, int] = field(default_factory=dict)
    utilisation: float | None = None

    def median(self, side: str) -> float:
        """Median seconds of one item; nan where that side was not measured."""
        return float(np.median(self.rounds[side])) if side in self.rounds else math.nan

    def quartiles(self, side: str) -> tuple[float, float]:
        """A quarter of the rounds lies below the first, a quarter above the second."""
        low, high = np.percentile(self.rounds[side], [25, 75])
        return float(low), float(high)

    @property
    def over_floor(self) -> float:
        """Times the floor that ours takes."""
        return self.median("ours") / self.median("floor")

    @property
    def speedup(self) -> float:
        """Times faster than the plain way."""
        return self.median("plain") / self.median("ours")

    def as_data(self) -> dict[str, Any]:
        """For JSON: medians, quartiles and all rounds in seconds per item."""
        sides = {
            side: {
                "median": self.median(side),
                "quartiles": self.quartiles(side),
                "rounds": list(self.rounds[side]),
            }
            if side in self.rounds
            else None
            for side in SIDES
        }
        ratios = {"over_floor": self.over_floor, "speedup": self.speedup}
        return {
            "section": self.section,
            "name": self.name,
            "item": self.item,
            **sides,
            **{name: None if math.isnan(ratio) else ratio for name, ratio in ratios.items()},
            "memory": dict(self.memory),
            "utilisation": self.utilisation,
        }

    def cells(self) -> tuple[str, ...]:
        """The row as it is printed; see HEADS."""
        low, high = map(duration, self.quartiles("ours"))
        memory = " ".join(
            form.format(self.memory[side] / 1e6)
            for side, form in (("ours", "{:,.0f} MB"), ("plain", "({:,.0f})"))
            if side in self.memory
        )
        if self.utilisation is not None:
            memory += f", {self.utilisation:.0%} of peak"
        return (
            self.name,
            duration(self.median("floor")),
            f"{duration(self.median('ours'))} ({low} - {high})",
            duration(self.median("plain")),
            "" if math.isnan(self.over_floor) else f"{self.over_floor:.2f}",
            "" if math.isnan(self.speedup) else f"{self.speedup:.2f}",
            f"{1 / self.median('ours'):,.3g} {self.item}s" if self.item else "",
            memory,
        )


HEADS = ("floor", "ours", "plain", "ours/floor", "plain/ours", "ours per s", "memory (plain)")


def duration(seconds: float) -> str:
    """Seconds with three digits, in s or ms; nothing for nan."""
    if math.isnan(seconds):
        return ""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


class Check(NamedTuple):
    """A difference from the plain way that was looked at before any time was taken."""

    name: str
    difference: float
    tolerance: float | None = TOLERANCE  # None: reported, not judged

    @property
    def is_passed(self) -> bool:
        """Whether it is below what is required (nan is not)."""
        return self.tolerance is None or self.difference < self.tolerance

    def __str__(self) -> str:
        rule = "" if self.tolerance is None else f" (below {self.tolerance:g} required)"
        return f"{self.name}: {self.difference:.2g}{rule}"


@dataclass(frozen=True)
class Aim:
    """A figure that is to be reached, and what was measured."""

    name: str
    sense: Literal["at most", "at least", "below"]
    bound: float
    value: float
    unit: str = "x"

    @property
    def is_reached(self) -> bool:
        """Whether the measured value lies on the right side."""
        if self.sense == "at least":
            return self.value >= self.bound
        return self.value < self.bound if self.sense == "below" else self.value <= self.bound

    def __str__(self) -> str:
        mark = "reached" if self.is_reached else "NOT reached"
        value = f"{self.value:.3g} {self.unit}"
        return f"{self.name}: {value} ({self.sense} {self.bound:g}): {mark}"


Ratio = Callable[[Callable[..., float]], float]
LGI, VIT = "LGI-B forward, float32", "ViT-B forward, float32"
TARGETS: tuple[tuple[str, Literal["at most", "at least", "below"], float, str, Ratio], ...] = (
    ("LGI-B forward over its floor, float32", "at most", 1.10, "x",
     lambda t: t(LGI) / t(LGI, "floor")),
    ("LGI-B forward over the same products by torch.mm, float32", "at most", 1.10, "x",
     lambda t: t(LGI) / t("LGI-B products by torch.mm alone, float32")),
    ("LGI-B forward, times faster than plain, float32", "at least", 1.08, "x",
     lambda t: t(LGI, "plain") / t(LGI)),
    ("LGI-B forward in bf16, times faster than plain float32", "at least", 1.9, "x",
     lambda t: t(LGI, "plain") / t("LGI-B forward, bf16")),
    ("LGI-B over ViT-B, forward at 16 frames", "at most", 0.60, "x", lambda t: t(LGI) / t(VIT)),
    ("the same at 32 frames, over that at 16", "below", 1.0, "x",
     lambda t: t("LGI-B forward, 32 frames") * t(VIT) / t("ViT-B forward, 32 frames") / t(LGI)),
    ("the same at 64 frames, over that at 32", "below", 1.0, "x",
     lambda t: t("LGI-B forward, 64 frames") * t("ViT-B forward, 32 frames")
     / t("ViT-B forward, 64 frames") / t("LGI-B forward, 32 frames")),
    ("pre-training clips from shards, times faster than plain from MP4", "at least", 10.0, "x",
     lambda t: t("pre-training clip, MP4", "plain") / t("pre-training clip, shards")),
    ("fine-tuning clips from shards, times faster than plain from JPEGs", "at least", 6.0, "x",
     lambda t: t("fine-tuning clip, JPEGs", "plain") / t("fine-tuning clip, shards")),
    ("evaluation, times faster than plain, float32", "at least", 2.1, "x",
     lambda t: t("evaluation, float32", "plain") / t("evaluation, float32")),
    ("evaluation in bf16, times faster than plain float32", "at least", 4.0, "x",
     lambda t: t("evaluation, float32", "plain") / t("evaluation, bf16")),
    ("data of an evaluation, times faster than plain", "at least", 4.0, "x",
     lambda t: t("data of an evaluation", "plain") / t("data of an evaluation")),
    ("import maedfer_lab, beyond torch", "below", 0.3, "s", lambda t: t("import maedfer_lab")),
    ("import models and training, beyond torch", "below", 0.3, "s",
     lambda t: t("import models and training")),
)  # fmt: skip


def aims_of(rows: Sequence[Row]) -> list[Aim]:
    """The aims whose rows were measured."""
    named = {row.name: row for row in rows}

    def median(name: str, side: str = "ours") -> float:
        return named[name].median(side) if name in named else math.nan

    found = [Aim(name, sense, bound, of(median), unit) for name, sense, bound, unit, of in TARGETS]
    for name, share in (("pre-training step", 0.40), ("forward + backward", 0.50)):
        row = named.get(f"LGI-B {name}, bf16")
        if row is not None and row.utilisation is not None:
            title = f"LGI-B {name} in bf16, share of the measured peak"
            found.append(Aim(title, "at least", share, row.utilisation, ""))
    return [aim for aim in found if not math.isnan(aim.value)]


@dataclass(frozen=True)
class BenchReport:
    """A whole benchmark; printed as a table."""

    rows: Sequence[Row]
    checks: Sequence[Check]
    aims: Sequence[Aim]
    notes: Sequence[str]
    provenance: dict[str, Any]
    files: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "provenance": self.provenance,
            "checks": [check._asdict() for check in self.checks],
            "aims": [{**asdict(aim), "is_reached": aim.is_reached} for aim in self.aims],
            "rows": [row.as_data() for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        source = self.provenance
        lines = [
            f"{source['machine']}; {source['device']}; torch {source['versions']['torch']}; commit "
            f"{source['commit']}; {source['seconds']:.0f} s",
            "Time per item: median (quartiles) over interleaved rounds of floor, ours and plain.",
        ]
        for section in SECTIONS:
            cells = [row.cells() for row in self.rows if row.section == section]
            if cells:
                columns = zip((section, *HEADS), *cells, strict=True)
                used = [column for column in columns if any(column[1:])]
                lines += ["", text.table(list(zip(*used, strict=True)))]
        for title, entries in (
            ("checked before any time was taken", self.checks),
            ("aims", self.aims),
            ("notes", self.notes),
            ("written", self.files),
        ):
            lines += ["", f"{title}:", *(f"  {entry}" for entry in entries)] if entries else []
        return "\n".join(lines)
