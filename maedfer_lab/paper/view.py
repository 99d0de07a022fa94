"""Tables for reading: best bold, second underlined, and a column for what was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from maedfer_lab.paper.measured import Result, Wanted, mean_score
from maedfer_lab.paper.reader import Cell, Paper, Table

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
    return Page("".join(_html(paper, paper.table(name), results, columns) for name in names))


def _html(paper: Paper, table: Table, results: Sequence[Result], columns: Sequence[str]) -> str:
    names = [c for c in table.columns if not columns or c in (*table.key, *columns)]
    marks = _marks(table, names)
    head = "".join(
        f"<th>{escape(HEADINGS.get(n, n.replace('_', ' ')))}</th>"
        + ("<th>ours</th>" if n in SCORES else "")
        for n in names
    )
    lines = []
    for i, row in enumerate(table.rows):
        cells = ""
        for name in names:
            text = _text(row[name])
            tag = marks.get((i, name))
            cells += f"<td>{f'<{tag}>{text}</{tag}>' if tag else text}</td>"
            if name in SCORES:
                cells += f"<td>{_ours(paper, table, row, name, results)}</td>"
        lines.append(f"<tr>{cells}</tr>")
    keys = dict.fromkeys(key for row in table.rows for c in row.values() for key in c.sources)
    sources = paper.cite(tuple(keys))
    return (
        f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table><p><small>{escape(sources)}</small></p>"
    )


def _text(cell: Cell) -> str:
    if cell.value is None:
        return ""
    if isinstance(cell.value, str):
        return escape(cell.value)
    return f"{cell.value:.{cell.decimals}f}"


def _marks(table: Table, names: Sequence[str]) -> dict[tuple[int, str], str]:
    """(row, column) -> "b" for the best percentage of its column and group, "u" for the second."""
    grouped = "dataset" in table.columns
    found = {}
    for name in names:
        groups: dict[str, dict[int, float]] = {}
        for i, row in enumerate(table.rows):
            if row[name].unit == "percent" and row[name].value is not None:
                group = str(row["dataset"].value) if grouped else ""
                groups.setdefault(group, {})[i] = row[name].number
        for values in groups.values():
            ranked = sorted(set(values.values()), reverse=True)
            for tag, best in zip("bu", ranked[: len(values) > 1 and 2], strict=False):
                found |= {(i, name): tag for i, value in values.items() if value == best}
    return found


def _ours(
    paper: Paper, table: Table, row: dict[str, Cell], score: str, results: Sequence[Result]
) -> str:
    dataset = table.dataset or (str(row["dataset"].value) if "dataset" in row else None)
    if dataset not in paper.labels or row.get("modality", row[score]).value == "A+V":
        return ""
    method = str(row["method"].value) if "method" in row else "MAE-DFER"
    fold = str(row["fold"].value) if "fold" in row else "all"
    folds = tuple(paper.splits(dataset)) if fold == "all" else (fold,)
    found = mean_score(Wanted(method, dataset, folds, score), results)
    return "" if found is None else f"{100 * found:.2f}"
