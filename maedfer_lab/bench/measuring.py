"""Results of a benchmark: rows of times, checks made before them, aims."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import timer

from maedfer_lab import text
from maedfer_lab.bench.floor import peak_macs
from maedfer_lab.config import EncoderKind, ModelConfig, Precision, PretrainConfig, base, tiny
from maedfer_lab.cost.memory import Work, alternate, peak_bytes
from maedfer_lab.training.optim import has_bf16

BenchRow = dict[str, Any]
Section = Literal["model", "data", "evaluation", "waiting", "gpu"]
SECTIONS: tuple[Section, ...] = get_args(Section)
SIDES = ("floor", "ours", "plain")
HEADS = ("floor", "ours", "plain", "ours/floor", "plain/ours", "ours per s", "memory (plain)")
TOLERANCE = 1e-5
NUM_CLASSES = 7


def make_row(
    section: Section, name: str, rounds: Mapping[str, Sequence[float]], item: str = "clip",
    memory: Mapping[str, int] | None = None, utilisation: float | None = None,
) -> BenchRow:  # fmt: skip
    """One piece of our work, its floor and plain code, as stored in the JSON file.

    rounds: by side, seconds of one item in each round. floor: the minimum that any code needs;
        plain: a plain implementation.
    item: what one item is, "clip", "video", "step", or "" for a whole piece of work.
    memory: peak bytes of one run, by side.
    utilisation: achieved / measured peak multiply-adds of a GPU, in [0, 1].
    """
    sides = {side: None if side not in rounds else {
        "median": statistics.median(rounds[side]),
        "quartiles": np.percentile(rounds[side], [25, 75]).tolist(), "rounds": list(rounds[side]),
    } for side in SIDES}  # fmt: skip
    row: BenchRow = {"section": section, "name": name, "item": item, **sides}
    over, speedup = (median(row, side) / median(row, other)
                     for side, other in (("ours", "floor"), ("plain", "ours")))  # fmt: skip
    return {**row, "over_floor": None if math.isnan(over) else over,
            "speedup": None if math.isnan(speedup) else speedup, "memory": dict(memory or {}),
            "utilisation": utilisation}  # fmt: skip


def median(row: BenchRow, side: str = "ours") -> float:
    """Median seconds of one item; nan where that side was not measured."""
    return row[side]["median"] if row[side] else math.nan


def _cells(row: BenchRow) -> tuple[str, ...]:
    """A row as it is printed; see HEADS."""
    floor, ours, plain = (_duration(median(row, side)) for side in SIDES)
    low, high = map(_duration, row["ours"]["quartiles"])
    forms = {"ours": "{:,.0f} MB", "plain": "({:,.0f})"}
    memory = " ".join(forms[side].format(n / 1e6) for side, n in row["memory"].items())
    if row["utilisation"] is not None:
        memory += f", {row['utilisation']:.0%} of peak"
    ratios = row["over_floor"], row["speedup"]
    return (
        row["name"], floor, f"{ours} ({low} - {high})", plain,
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{1 / median(row):,.3g} {row['item']}s" if row["item"] else "", memory,
    )  # fmt: skip


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


class Check(NamedTuple):
    """A difference that was checked; tolerance None: only reported."""

    name: str
    difference: float
    tolerance: float | None = TOLERANCE

    @property
    def is_passed(self) -> bool:
        """Whether it is within the tolerance (nan is not)."""
        return self.tolerance is None or self.difference < self.tolerance

    def __str__(self) -> str:
        rule = "" if self.tolerance is None else f" (below {self.tolerance:g} required)"
        return f"{self.name}: {self.difference:.2g}{rule}"


class Aim(NamedTuple):
    """A target and the measured value."""

    name: str
    sense: Literal["at most", "at least", "below"]
    bound: float
    value: float
    unit: str = "x"

    @property
    def is_reached(self) -> bool:
        """Whether the measured value meets the bound."""
        compare = {"at most": operator.le, "at least": operator.ge, "below": operator.lt}
        return compare[self.sense](self.value, self.bound)

    def __str__(self) -> str:
        mark = "reached" if self.is_reached else "NOT reached"
        return f"{self.name}: {self.value:.3g} {self.unit} ({self.sense} {self.bound:g}): {mark}"


LGI, VIT = "LGI-B forward, float32", "ViT-B forward, float32"
TARGETS: tuple[tuple[str, Literal["at most", "at least", "below"], float, str,
                     Callable[[Callable[..., float]], float]], ...] = (
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


def aims_of(rows: Sequence[BenchRow]) -> list[Aim]:
    """The aims whose rows were measured."""
    named = {row["name"]: row for row in rows}

    def seconds(name: str, side: str = "ours") -> float:
        return median(named[name], side) if name in named else math.nan

    found = [Aim(name, sense, bound, of(seconds), unit) for name, sense, bound, unit, of in TARGETS]
    for name, share in (("pre-training step", 0.40), ("forward + backward", 0.50)):
        reached = named.get(f"LGI-B {name}, bf16", {}).get("utilisation")
        if reached is not None:
            title = f"LGI-B {name} in bf16, share of the measured peak"
            found.append(Aim(title, "at least", share, reached, ""))
    return [aim for aim in found if not math.isnan(aim.value)]


@dataclass(frozen=True)
class BenchReport:
    """A whole benchmark; printed as a table."""

    rows: Sequence[BenchRow]
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
            "aims": [{**aim._asdict(), "is_reached": aim.is_reached} for aim in self.aims],
            "rows": list(self.rows),
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
            cells = [_cells(row) for row in self.rows if row["section"] == section]
            columns = zip((section, *HEADS), *cells, strict=True)
            used = [column for column in columns if any(column[1:])]
            lines += ["", text.table(list(zip(*used, strict=True)))] if cells else []
        parts = {"checked before any time was taken": self.checks, "aims": self.aims,
                 "notes": self.notes, "written": self.files}  # fmt: skip
        for title, entries in parts.items():
            lines += ["", f"{title}:", *(f"  {entry}" for entry in entries)] if entries else []
        return "\n".join(lines)


class Works(NamedTuple):
    """What is timed for a row: our work, and perhaps its floor and plain code.

    macs: multiply-adds of one item; with it, peak memory is measured first.
    """

    ours: Work
    floor: Work | None = None
    plain: Work | None = None
    macs: int | None = None


@dataclass
class Bench:
    """One run: where and on what it measures, and what it found so far.

    folder: an empty one, for the benchmark's own data. smoke: tiny models and few clips, to test
        that everything runs.
    batch: clips of a pass through the model (pre-training: twice as many); by default 1 on a CPU,
        16 on a GPU.
    """

    device: torch.device
    folder: Path
    seed: int = 0
    smoke: bool = False
    batch: int | None = None
    rows: list[BenchRow] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num(self) -> int:
        """Clips of a pass."""
        return self.batch or (1 if self.device.type == "cpu" else 16)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """float32, and bf16 where the device computes in it."""
        return ("float32", "bf16") if has_bf16(self.device) else ("float32",)

    def recipe(self, encoder: EncoderKind = "lgi") -> PretrainConfig:
        """The paper's recipe or the tiny one; visible tokens in the order of the plain way."""
        config = (tiny if self.smoke else base)(encoder)
        return replace(config, model=replace(config.model, legacy_visible_order=True))

    def model(self, encoder: EncoderKind = "lgi", times: int = 1) -> ModelConfig:
        """The recipe's model, for clips that are `times` as long."""
        config = self.recipe(encoder).model
        return replace(config, frames=times * config.frames)

    def noise(self, num: int, times: int = 1) -> Tensor:
        """Clips of noise (num 3 T H W) in [0, 1]; no model's time depends on what they show."""
        shape = num, 3, self.model(times=times).frames, *2 * (self.model().size_px,)
        return torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)).to(self.device)

    def check(self, name: str, difference: float, tolerance: float | None = TOLERANCE) -> None:
        """Record a difference from plain code; ValueError if it is too large, or nan."""
        if tolerance is not None and not difference < tolerance:
            raise ValueError(
                f"{name}: ours and the plain way differ by {difference:.3g} (allowed: "
                f"{tolerance:g}); no time was taken"
            )
        self.checks.append(Check(name, difference, tolerance))

    def add(
        self, section: Section, name: str, rounds: Mapping[str, Sequence[float]],
        item: str = "clip", memory: Mapping[str, int] | None = None, work_macs: int | None = None,
        precision: Precision = "float32",
    ) -> None:  # fmt: skip
        """Add a row; work_macs: multiply-adds of one item, for a GPU's utilisation."""
        share = None
        if work_macs and self.device.type == "cuda":
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            share = work_macs / statistics.median(rounds["ours"]) / peak_macs(self.device, dtype)
        self.rows.append(make_row(section, name, rounds, item, memory, share))

    def measure(
        self, section: Section, works: Mapping[str, Works], num: int = 1, item: str = "clip", *,
        warm_up: bool = True, most: int = 9, clock: Callable[[], float] = timer,
    ) -> None:  # fmt: skip
        """Time the works of all rows in turn and add the rows, in seconds of one of `num` items.

        clock: `timer` waits for the device; `time.process_time` counts the seconds of all cores.
        """
        every = {(name, side): work for name, row in works.items() for side in SIDES
                 if (work := getattr(row, side)) is not None}  # fmt: skip
        memory: dict[tuple[str, str], int] = {}
        for key, work in every.items() if warm_up else ():
            if works[key[0]].macs is None:
                work()
            else:
                memory[key] = peak_bytes(work, self.device)
        taken = alternate(every, 0 if self.smoke else 15, 1 if self.smoke else 3, most, clock)
        for name, row in works.items():
            rounds = {s: [t / num for t in taken[name, s]] for s in SIDES if (name, s) in taken}
            peaks = {s: memory[name, s] for s in ("ours", "plain") if (name, s) in memory}
            precision = "bf16" if name.endswith("bf16") else "float32"
            self.add(section, name, rounds, item, peaks, row.macs, precision)
