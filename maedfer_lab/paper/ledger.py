"""`maedfer claims`: every numeric claim of the paper with its status, computed when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import get_args

from maedfer_lab.config import output_folder
from maedfer_lab.files import write_aside
from maedfer_lab.paper import small_scale
from maedfer_lab.paper.claims import Claim, Status, recomputed
from maedfer_lab.paper.measured import read_results, unsettled
from maedfer_lab.paper.tables import Paper, paper


def ledger(source: Paper | None = None, results: Path | None = None) -> list[Claim]:
    """All claims, each with its status; `results`: a folder of evaluation files (`measured`)."""
    source = source or paper()
    return [*recomputed(source), *unsettled(source, read_results(results, source))]


def totals(claims: Sequence[Claim]) -> dict[str, int]:
    """Number of claims with each status, all statuses named."""
    counts = Counter(claim.status for claim in claims)
    return {status: counts[status] for status in get_args(Status)}


def results_folder() -> Path | None:
    """Where evaluations are looked for: results/ of the project, None if there is none."""
    folder = output_folder() / "results"
    return folder if folder.is_dir() else None


def claims_command(*, json: Path | None = None, results: Path | None = None) -> str:
    """Check every number of the paper that can be checked; then what our own study shows.

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
    """Totals, what is contradicted and by what, what was measured, and what data would settle."""
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
