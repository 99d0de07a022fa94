"""Comparing our numbers with the official ones: one row each, a verdict, a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

FLOAT32 = 1e-5  # of the largest magnitude of a tensor; bit-equal is not to be had across builds
FLOAT64 = 1e-10
GRADIENT = 1e-4
# Gradients are compared relative to their own norm, or to this share of all gradients' norm where
# that is larger.
SMALL_GRADIENT = 1e-3
# Official norms below this share of the total are of gradients that are truly 0 (queries of a
# softmax over one key, say). Ours may be rounding noise as well: up to 6e-8 of the total was seen.
ZERO_GRADIENT, ZERO_SCALE = 1e-6, 1e-2

Verdict = Literal["ok", "differs", "cannot be built", "not compared"]


@dataclass(frozen=True)
class Comparison:
    """One line of the table. absolute, relative: largest differences; None: nothing compared."""

    archive: str
    what: str
    verdict: Verdict
    absolute: float | None = None
    relative: float | None = None
    tolerance: float | None = None
    note: str = ""


def compare(
    archive: str,
    what: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    tolerance: float,
    scale: float | None = None,
) -> Comparison:
    """Compare two arrays, relative to the largest magnitude of the official one.

    scale: what the difference is taken relative to instead (for a mean near zero).
    """
    if ours.shape != theirs.shape:
        note = f"shape {ours.shape}, official {theirs.shape}"
        return Comparison(archive, what, "differs", math.inf, math.inf, tolerance, note)
    if not theirs.size:
        return Comparison(archive, what, "not compared", note="holds no values")
    absolute = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())
    scale = scale if scale is not None else float(np.abs(theirs).max())
    relative = absolute / scale if scale else math.inf if absolute else 0.0
    verdict: Verdict = "ok" if relative <= tolerance else "differs"  # NaN differs
    return Comparison(archive, what, verdict, absolute, relative, tolerance)


def compare_gradients(
    archive: str, ours: Mapping[str, Tensor], theirs: Mapping[str, float], total: float
) -> Comparison:
    """Compare gradient norms per official parameter; the row is that of the worst of them.

    total: norm of all gradients together.
    """
    what = f"gradient norms ({len(theirs)})"
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        note = f"{len(unknown)} of these our model does not have, such as {unknown[0]}"
        return Comparison(archive, what, "differs", math.inf, math.inf, GRADIENT, note)
    rows = []
    for name, value in theirs.items():
        scale = max(value, SMALL_GRADIENT * total)
        if value < ZERO_GRADIENT * total:
            scale = ZERO_SCALE * total
        rows.append(compare(archive, name, norm(ours[name]), np.asarray(value), GRADIENT, scale))
    worst = max(rows, key=lambda row: _badness(row.relative))
    return Comparison(archive, what, worst.verdict, worst.absolute, worst.relative, GRADIENT,
                      f"worst: {worst.what}")  # fmt: skip


def _badness(relative: float | None) -> float:
    return math.inf if relative is None or math.isnan(relative) else relative


def norm(x: Tensor) -> np.ndarray:
    """Euclidean norm in float64, as a scalar array."""
    return torch.linalg.vector_norm(x, dtype=torch.float64).numpy()


@dataclass
class Report:
    """All rows of a run. seconds: time each archive took."""

    rows: list[Comparison] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        """Everything that was compared is within tolerance, and everything could be built."""
        return all(row.verdict in ("ok", "not compared") for row in self.rows)

    def summary(self) -> str:
        """How many comparisons of how many archives, how many of them failed, the worst."""
        compared = [row for row in self.rows if row.relative is not None]
        failed = sum(row.verdict == "differs" for row in self.rows)
        unbuilt = sum(row.verdict == "cannot be built" for row in self.rows)
        left = sum(row.verdict == "not compared" for row in self.rows)
        verdict = "all within tolerance" if self.is_ok else f"{failed} differ"
        if unbuilt:
            verdict += f", {unbuilt} archives cannot be built"
        if left:
            verdict += f", {left} not compared"
        text = f"{len(self.seconds)} archives, {len(compared)} comparisons: {verdict}"
        if compared:
            worst = max(compared, key=lambda r: _badness(r.relative) / (r.tolerance or FLOAT32))
            text += (  # tells how much room there is, or which one failed most
                f"; nearest to its tolerance: {worst.archive} {worst.what}, "
                f"{worst.relative:.1e} of {worst.tolerance:.0e}"
            )
        return f"{text}; {sum(self.seconds.values()):.0f} s"

    def table(self) -> str:
        """The rows as aligned text, with the summary below."""
        head = ("archive", "compared", "largest |diff|", "relative", "tolerance", "verdict", "note")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
        text = []
        for *cells, note in lines:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            text.append("  ".join([*padded, note]).rstrip())
        return "\n".join([*text, "", self.summary()])

    def write(self, path: Path) -> None:
        """Write rows and times as JSON; infinities and NaN as text."""
        content = {
            "ok": self.is_ok,
            "summary": self.summary(),
            "torch": torch.__version__,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "comparisons": [
                {k: _finite(v) for k, v in asdict(row).items()} for row in self.rows
            ],
        }  # fmt: skip
        path.write_text(json.dumps(content, indent=1) + "\n")


def _cells(row: Comparison) -> tuple[str, ...]:
    numbers = (_text(x) for x in (row.absolute, row.relative, row.tolerance))
    return row.archive, row.what, *numbers, row.verdict, row.note


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def _finite(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def total_norm(gradients: Iterable[Tensor]) -> float:
    """Norm of all gradients together."""
    return math.sqrt(sum(float(norm(g)) ** 2 for g in gradients))
