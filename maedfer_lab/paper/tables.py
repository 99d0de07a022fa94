"""The paper's tables, logs and splits, as printed: every cell with unit, digits and sources.

Layout of data/: NAME.json hold tables (columns as [name, unit, decimals]; a row a line, its last
entry the keys of its sources; "overrides" for single cells), sources.json says what a key means.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maedfer_lab.config import choose
from maedfer_lab.data.labels import PUBLISHED

DATA = Path(__file__).with_name("data")
TABLES = ("main", "headlines", "runs", "evaluations", "datasets", "sister", "later")


@dataclass(frozen=True)
class Cell:
    """One printed entry: a number in `unit`, a text, or None where nothing is printed.

    unit: such as "percent", "fraction", "GMACs"; "text" for words.
    decimals: digits printed after the point. sources: keys of `Paper.sources`.
    """

    value: float | str | None
    unit: str
    decimals: int
    sources: tuple[str, ...]

    @property
    def number(self) -> float:
        """The value, which must be a number."""
        if isinstance(self.value, float):
            return self.value
        raise ValueError(f"this cell holds {self.value!r}, not a number in {self.unit}")

    @property
    def text(self) -> str:
        """The value as a word, such as a method's name."""
        return str(self.value)

    @property
    def rounding(self) -> float:
        """Largest error that rounding to the printed digits makes."""
        return 0.5 * 10**-self.decimals


TableRow = dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """Rows of cells. `key` names the columns that tell rows apart; `dataset` the labels' owner."""

    id: str
    title: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    dataset: str | None = None

    def key_of(self, row: TableRow) -> tuple[str, ...]:
        """What tells a row apart, such as ("DFEW", "1")."""
        return tuple(row[name].text for name in self.key)

    def row(self, *key: str) -> TableRow:
        """The row with these values in the key columns."""
        rows = {self.key_of(row): row for row in self.rows}
        if key not in rows:
            known = ", ".join(map(" / ".join, rows))
            raise ValueError(f"table {self.id!r} has no row {' / '.join(key)!r}; known: {known}")
        return rows[key]


class Matrix(NamedTuple):
    """A published confusion matrix: `clips[i][j]` clips of class i were called j.

    recalls: per class in percent, where the log prints them.
    """

    dataset: str
    fold: str
    by: str
    clips: tuple[tuple[int, ...], ...]
    sources: tuple[str, ...]
    recalls: tuple[float, ...] | None = None

    @property
    def name(self) -> tuple[str, str, str]:
        """Data set, fold and whose evaluation it is."""
        return self.dataset, self.fold, self.by


Splits = dict[str, tuple[int, ...]]  # fold -> clips of each class, in the order of the labels


def class_clips(splits: Splits) -> list[int]:
    """Clips of each class over all folds."""
    return [sum(n) for n in zip(*splits.values(), strict=True)]


@dataclass(frozen=True)
class Paper:
    """Everything that is known of the paper in numbers; `labels`: class names in label order.

    pretrain_log: epoch, loss, learning_rate, ... of the published pre-training, means over steps.
    split_counts: by data set and part. missing: results that the paper speaks of or would need, and
    that were not found in print: "id", "what", and what is there "instead".
    """

    sources: dict[str, tuple[str, str]]
    tables: dict[str, Table]
    matrices: tuple[Matrix, ...]
    pretrain_log: np.recarray
    labels: dict[str, tuple[str, ...]]
    split_counts: dict[tuple[str, str], Splits]
    missing: tuple[dict[str, str], ...]

    def table(self, id: str) -> Table:
        """The table called `id`; unknown names raise with the list."""
        return self.tables[choose("table", id, tuple(self.tables))]

    def cite(self, keys: tuple[str, ...]) -> str:
        """The documents behind source keys, in words; places of one document together."""
        places: dict[str, list[str]] = {}
        for key in keys:
            document, place = self.sources[key]
            places.setdefault(document, []).append(place)
        return "; ".join(f"{document}: {', '.join(p)}" for document, p in places.items())

    def splits(self, dataset: str, part: str = "test") -> Splits:
        """Clips per class of the folds of a data set, in the part "train" or "test"."""
        if (dataset, part) not in self.split_counts:
            raise ValueError(
                f"no {part} split of {dataset!r}; known: {', '.join(self.labels)}, train or test"
            )
        return self.split_counts[dataset, part]


def _table(raw: dict[str, Any]) -> Table:
    *columns, _ = raw["columns"]
    rows = []
    for *values, sources in raw["rows"]:
        row = {}
        for (name, unit, *decimals), value in zip(columns, values, strict=True):
            value = float(value) if isinstance(value, int) else value
            after = repr(value).partition(".")[2] if isinstance(value, float) else ""
            # the column's digits, or more where the value has more
            shown = max(len(after.rstrip("0")), *decimals, 0)
            row[name] = Cell(value, unit, shown, tuple(sources.split()))
        if "unit" in row:  # columns of mixed units name them row by row
            named = row["unit"].text
            row = {k: replace(c, unit=named) if c.unit == "as named" else c for k, c in row.items()}
        rows.append(row)
    names = tuple(column[0] for column in columns)
    table = Table(raw["id"], raw["title"], tuple(raw["key"]), names, tuple(rows),
                  raw.get("dataset"))  # fmt: skip
    for change in _tuples(raw.get("overrides", [])):
        row, names = table.row(*change.pop("row")), change.pop("columns")
        row.update({name: replace(row[name], **change) for name in names})
    return table


def _tuples(value: Any) -> Any:
    """Lists within JSON as tuples."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def read_paper(folder: Path = DATA, splits: Path = PUBLISHED) -> Paper:
    """Read the data from a folder laid out as data/ is, labels and split counts from `splits`."""

    def read(name: str, where: Path = folder) -> Any:
        return json.loads((where / f"{name}.json").read_text(encoding="utf-8"))

    log = np.genfromtxt(folder / "pretrain_log.csv", delimiter=",", names=True, dtype=None)
    counts: dict[tuple[str, str], Splits] = {}
    with (splits / "split_counts.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            clips = tuple(map(int, row["clips_per_class"].split()))
            counts.setdefault((row["dataset"], row["part"]), {})[row["fold"]] = clips
    tables = [_table(raw) for name in TABLES for raw in read(name)]
    return Paper(
        _tuples(read("sources")), {table.id: table for table in tables},
        tuple(Matrix(**matrix) for matrix in _tuples(read("matrices"))),
        log.view(np.recarray), _tuples(read("labels", splits)), counts,
        tuple(read("missing")),
    )  # fmt: skip


@cache
def paper() -> Paper:
    """The paper's tables in this package."""
    return read_paper()
