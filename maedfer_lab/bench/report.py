"""What a benchmark found: rows of times, checks made before them, aims; as a table and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from maedfer_lab.bench.timing import Timing

Side = Literal["ours", "floor", "plain"]
SIDES: tuple[Side, ...] = ("floor", "ours", "plain")
SECTIONS = ("model", "data", "evaluation", "waiting")
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """One line: a piece of work of ours, beside its floor and the plain way.

    section, name: where it stands; names are unique.
    ours, floor, plain: seconds of one item. floor: what no code could do without, measured in the
        same rounds. plain: the same written plainly.
    item: what one item is, "clip", "video", or "" for a whole piece of work.
    memory: peak bytes of one run, by side.
    utilisation: of a GPU's measured peak, in [0, 1].
    """

    section: str
    name: str
    ours: Timing
    floor: Timing | None = None
    plain: Timing | None = None
    item: str = "clip"
    memory: dict[str, int] = field(default_factory=dict)
    utilisation: float | None = None

    def median(self, side: Side) -> float:
        """Median seconds of one item; nan where that side was not measured."""
        timing: Timing | None = getattr(self, side)
        return math.nan if timing is None else timing.median

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
        sides = {side: _timing_data(getattr(self, side)) for side in SIDES}
        return {
            "section": self.section,
            "name": self.name,
            "item": self.item,
            **sides,
            "over_floor": _or_none(self.over_floor),
            "speedup": _or_none(self.speedup),
            "memory": self.memory,
            "utilisation": self.utilisation,
        }


def _timing_data(timing: Timing | None) -> dict[str, Any] | None:
    if timing is None:
        return None
    return {"median": timing.median, "quartiles": timing.quartiles, "rounds": timing.seconds}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class Check:
    """A difference from the plain way that was looked at before any time was taken."""

    name: str
    difference: float
    tolerance: float | None = TOLERANCE  # None: told, not judged

    def __str__(self) -> str:
        rule = "" if self.tolerance is None else f" (below {self.tolerance:g} required)"
        return f"{self.name}: {self.difference:.2g}{rule}"


def checked(name: str, difference: float, tolerance: float = TOLERANCE) -> Check:
    """A check that was passed.

    Raises:
        ValueError: it was not; times of unequal things would say nothing.
    """
    if not difference < tolerance:  # also for NaN
        raise ValueError(
            f"{name}: ours and the plain way differ by {difference:.3g}, {tolerance:g} is the "
            "most; no time was taken. `maedfer parity` and the tests tell where they part"
        )
    return Check(name, difference, tolerance)


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


@dataclass
class Findings:
    """What the sections found so far; `notes` are sentences under the table."""

    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str) -> Row | None:
        """The row of that name, where it was measured."""
        return next((row for row in self.rows if row.name == name), None)


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
            "checks": [asdict(check) for check in self.checks],
            "aims": [{**asdict(aim), "is_reached": aim.is_reached} for aim in self.aims],
            "rows": [row.as_data() for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        source = self.provenance
        lines = [
            f"{source['machine']}; {source['device']}; torch {source['versions']['torch']}; commit "
            f"{source['commit']}; {source['seconds']:.0f} s",
            "Times of one item: median (quartiles) of rounds in which floor, ours and plain take "
            "turns.",
        ]
        for section in SECTIONS:
            rows = [row for row in self.rows if row.section == section]
            if rows:
                lines += ["", *_table(section, rows)]
        for title, texts in (
            ("checked before any time was taken", [str(check) for check in self.checks]),
            ("aims", [_aim_line(aim) for aim in self.aims]),
            ("notes", self.notes),
            ("written", self.files),
        ):
            if texts:
                lines += ["", f"{title}:", *(f"  {text}" for text in texts)]
        return "\n".join(lines)


HEADS = ("floor", "ours", "plain", "ours/floor", "plain/ours", "ours per s", "memory (plain)")


def _table(section: str, rows: Sequence[Row]) -> list[str]:
    cells = [(section, *HEADS), *(_cells(row) for row in rows)]
    used = [i for i in range(len(cells[0])) if i == 0 or any(line[i] for line in cells[1:])]
    widths = [max(len(line[i]) for line in cells) for i in used]
    return [
        "  ".join(
            line[i].rjust(width) if i else line[i].ljust(width)
            for i, width in zip(used, widths, strict=True)
        ).rstrip()
        for line in cells
    ]


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.ours.quartiles
    memory = " ".join(
        text.format(row.memory[side] / 1e6)
        for side, text in (("ours", "{:,.0f} MB"), ("plain", "({:,.0f})"))
        if side in row.memory
    )
    if row.utilisation is not None:
        memory += f", {row.utilisation:.0%} of peak"
    return (
        row.name,
        "" if row.floor is None else duration(row.floor.median),
        f"{duration(row.ours.median)} ({duration(low)} - {duration(high)})",
        "" if row.plain is None else duration(row.plain.median),
        "" if row.floor is None else f"{row.over_floor:.2f}",
        "" if row.plain is None else f"{row.speedup:.2f}",
        f"{1 / row.ours.median:,.3g} {row.item}s" if row.item else "",
        memory,
    )


def duration(seconds: float) -> str:
    """Seconds with three digits, in s or ms."""
    digits = f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
    return digits


def _aim_line(aim: Aim) -> str:
    mark = "reached" if aim.is_reached else "NOT reached"
    return f"{aim.name}: {aim.value:.3g} {aim.unit} ({aim.sense} {aim.bound:g}): {mark}"
