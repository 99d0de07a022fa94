"""One entry of the ledger, and the rules that give it its status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["recomputed", "contradicted", "needs data", "measured", "not found"]
TINY = 1e-9  # binary fractions of decimal numbers


@dataclass(frozen=True)
class Claim:
    """One numeric claim, and what became of it.

    id: subject / quantity / way of checking; two ways to check one number are two claims.
    source: the documents that print the value.
    statement: what is claimed.
    value: the printed number in `unit`; None if none is printed.
    status: "recomputed", from other published numbers or by formula; "contradicted", the same
        and it does not agree; "needs data"; "measured", a result file is there; "not found".
    evidence: the formula with its numbers, or the command that measures it and what that takes.
    found: the recomputed or measured number.
    tolerance: largest difference that counts as agreement: rounding of the printed digits (half
        a unit of the last), of what it is computed from, and what is unknown besides; for
        measured numbers the half-width of the test set's 95 % interval.
    hours: expected time on one CPU core, where something must run.
    """

    id: str
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


def compare(
    id: str,
    source: str,
    statement: str,
    *,
    value: int | float,
    unit: str,
    found: int | float,
    formula: str,
    tolerance: int | float,
    because: str = "rounding",
) -> Claim:
    """A claim that recomputes from other numbers, or is contradicted by them.

    formula: how `found` comes about, with its numbers. because: what the tolerance allows for.
    """
    agrees = abs(found - value) <= tolerance + TINY
    printed, recomputed, apart = (digits(x, tolerance) for x in (value, found, abs(found - value)))
    evidence = f"{formula} = {recomputed}; claimed {printed}; difference {apart}"
    if tolerance:
        evidence += f", allowed {tolerance:.2g} ({because})"
    status: Status = "recomputed" if agrees else "contradicted"
    return Claim(id, source, statement, float(value), unit, status, evidence, float(found),
                 float(tolerance))  # fmt: skip


def digits(value: int | float, tolerance: int | float) -> str:
    """A number with as many digits as show a difference of `tolerance`; whole ones without."""
    if 0 < tolerance < 1e-6:
        return f"{value:.7g}"
    if float(value).is_integer() and (not tolerance or tolerance >= 0.5):
        return f"{value:,.0f}"
    places = 0 if not tolerance else max(0, math.ceil(0.5 - math.log10(tolerance)))
    return f"{value:,.{max(places, 2)}f}"


def war_tolerance(war: float, clips: int) -> float:
    """Half-width of the binomial 95 % interval of an accuracy (fraction) over `clips` clips."""
    return 1.96 * math.sqrt(war * (1 - war) / clips)


def uar_tolerance(recalls: Sequence[float], clips: Sequence[int]) -> float:
    """The same of the mean of class recalls (fractions), each over its own number of clips."""
    variances = [r * (1 - r) / n for r, n in zip(recalls, clips, strict=True)]
    return 1.96 * math.sqrt(sum(variances)) / len(variances)
