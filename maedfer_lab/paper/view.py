"""Tables for reading: best bold, second underlined, and a column for what was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from maedfer_lab.paper.claims import OURS
from maedfer_lab.paper.measured import Evaluation, Result
from maedfer_lab.paper.tables import Cell, Paper, Table

SCORES = ("uar", "war")
HEADINGS = {"params": "params (M)", "flops": "GMACs", "uar": "UAR %", "war": "WAR %"}


@dataclass(frozen=True)
class Page:
    """HTML that a notebook shows."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def show(
    paper: Paper, *names: str, results: Sequence[Result] = (), columns: Sequence[str] = ()
) -> Page:
    """Tables one below the other, as the paper groups them.

    results: evaluations made here fill the columns *ours*; blank where nothing was measured.
    columns: only these, besides those that name a row; all by default.
    """
    tables = "".join(_html(paper, paper.table(name), results, columns) for name in names)
    return Page(f"<div style='display: flex; flex-wrap: wrap; gap: 12px'>{tables}</div>")


def _html(paper: Paper, table: Table, results: Sequence[Result], columns: Sequence[str]) -> str:
    names = [c for c in table.columns if not columns or c in (*table.key, *columns)]
    head = "".join(
        f"<th>{escape(HEADINGS.get(n, n.replace('_', ' ')))}</th>{'<th>ours</th>' * (n in SCORES)}"
        for n in names
    )
    body = ""
    for row in table.rows:
        cells = ""
        for name in names:
            value, tag = row[name].value, _mark(table, row, name)
            text = "" if value is None else escape(str(value))
            if isinstance(value, float):
                text = f"{value:.{row[name].decimals}f}"
            cells += f"<td>{f'<{tag}>{text}</{tag}>' if tag else text}</td>"
            if name in SCORES:
                cells += f"<td>{_ours(paper, table, row, name, results)}</td>"
        body += f"<tr>{cells}</tr>"
    keys = dict.fromkeys(key for row in table.rows for c in row.values() for key in c.sources)
    return (
        "<div style='flex: 1 1 380px; min-width: 0; overflow: auto; max-height: 200px'><table>"
        f"<caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
        f"<p><small>{escape(paper.cite(tuple(keys)))}</small></p></div>"
    )


def _mark(table: Table, row: dict[str, Cell], name: str) -> str:
    """Tag of a percentage: "b" for the best of its column and data set, "u" for the second."""
    group = [
        other[name].number for other in table.rows
        if other[name].unit == "percent" and other[name].value is not None
        if "dataset" not in row or other["dataset"].text == row["dataset"].text
    ]  # fmt: skip
    ranked = sorted(set(group), reverse=True)[:2]
    is_marked = len(group) > 1 and row[name].value in ranked
    return "bu"[ranked.index(row[name].number)] if is_marked else ""


def _ours(
    paper: Paper, table: Table, row: dict[str, Cell], score: str, results: Sequence[Result]
) -> str:
    dataset = table.dataset or (row["dataset"].text if "dataset" in row else "")
    if dataset not in paper.labels or row.get("modality", row[score]).text == "A+V":
        return ""
    method = row["method"].text if "method" in row else OURS
    fold = row["fold"].text if "fold" in row else "all"
    found = Evaluation.of(paper, method, dataset, fold).mean(score, results)
    return "" if found is None else f"{100 * found:.2f}"
