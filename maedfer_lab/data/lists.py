"""Lists as text: their columns, what each row says, and which side of which fold they are."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from maedfer_lab.data.labels import WORDS

MARK = "# maedfer annotations "  # the first line of a table of our own, before its head in JSON

# What a column may be called, without case and marks between words; the first one there is taken.
_COLUMNS: dict[str, list[str]] = {role: names.split() for role, names in WORDS["columns"].items()}
_SET = r"(?:[ _-]*(?:set|split|data|clips|videos|faces|afew|\d+))*"
_SIDES = {
    "train": re.compile(rf"tr(?:ai)?n(?:ing)?{_SET}"),
    "val": re.compile(rf"(?:val(?:id(?:at(?:e|ing|ion))?)?|dev(?:el(?:opment)?)?){_SET}"),
    "test": re.compile(rf"(?:te?st(?:s|ing)?|eval(?:uation)?|held[ _-]?out|holdout){_SET}"),
}
# Of several kinds of lists in one archive: the ones whose path holds (or lacks) these words.
_WANTED = {"dfew": "single", "ferv39k": "all", "mafw": "no_caption"}
_UNWANTED = {"mafw": "compound"}


class Problem(NamedTuple):
    """What is wrong with a list or a layout. kind: a few words that group like with like."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Row(NamedTuple):
    """One line of a list, not yet understood. where: file and line."""

    where: str
    path: str
    label: str = ""
    subject: str = ""
    split: str = ""
    frames: str = ""
    source: str = ""


@dataclass
class Rows:
    """A list that was read. roles: role -> column. head: of a table of our own."""

    name: str
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    head: dict = field(default_factory=dict)

    def wrong(self, line: int, what: str, kind: str = "format") -> Rows:
        """Note what is wrong with a line."""
        self.problems.append(Problem(kind, f"{self.name} line {line}", what))
        return self


class ListFile(NamedTuple):
    """A list of one side of one fold; without a part its own column tells the sides."""

    path: Path
    part: str = ""
    fold: int = 1


def side_of(text: str) -> str | None:
    """ "train", "val" or "test" for a word that means it, such as Training or dev_set."""
    word = text.strip().casefold()
    return next((side for side, known in _SIDES.items() if known.fullmatch(word)), None)


def fold_of(text: str) -> int | None:
    """The number of a fold, as of a folder: fold_2."""
    found = re.fullmatch(r"(?i)(?:test[ _-]*)?fold[ _.-]*(\d+)", text.strip())
    return int(found[1]) if found else None


def find_lists(dataset: str, files: Iterable[Path], base: Path) -> list[ListFile]:
    """Tell train, val and test lists and their folds from the names of files and folders.

    ``split01/train.csv``, ``train(single-labeled)/set_1.csv``, ``single_testset_1.csv``,
    ``train_All.csv``: a list without a number belongs to fold 1.

    Raises:
        ValueError: two lists for one side of one fold, or MAFW's lists of another task.
    """
    found: dict[tuple[str, int], Path] = {}
    named = {path: path.relative_to(base).as_posix().lower() for path in files}
    for words, wanted in ((_UNWANTED, False), (_WANTED, True)):
        if word := words.get(dataset):
            named = {p: n for p, n in named.items() if (word in n) == wanted} or named
    parts_of = (part.lower() for path in named for part in path.parts[-6:])
    if dataset == "mafw" and {"compound", "with_caption"} & set(parts_of):
        raise ValueError(
            f"lists={str(base)!r} are MAFW's compound or captioned lists; the 11 classes of the "
            "published results are in Train & Test Set/single/no_caption"
        )
    side = r"(?<![a-z])(train|val|dev|test)(?:ing|id|idation)?[ _-]*(?:set|list)?(?![a-z])"
    for path, name in named.items():
        parts = re.findall(side, name)
        folds = re.findall(r"(?:set|split|fold|fd)[\s_-]*0*(\d+)", name)
        folds = folds or re.findall(r"(?:train|val|dev|test)[a-z_ -]*0*(\d+)\.\w+$", name)
        if not parts:
            continue
        part, fold = "val" if parts[-1] == "dev" else parts[-1], int(folds[-1]) if folds else 1
        if (there := found.setdefault((part, fold), path)) != path:
            raise ValueError(
                f"two {part} lists of fold {fold}: {there} and {path}; point lists at the "
                "folder of the ones that are meant"
            )
    return [ListFile(path, *place) for place, path in sorted(found.items())]


def read_rows(
    path: Path,
    name: str | None = None,
    knows: Callable[[str], bool] = lambda text: False,
    need: tuple[str, ...] = ("path", "label"),
) -> Rows:
    """Read a list in any of the known shapes; lines that cannot be read become problems.

    UTF-8 or UTF-16 with any line ends. With a header whose columns are known, or lines "path label"
    without one: they are parted where `knows` finds most clips, else by the last space or comma.
    """
    found, data = Rows(name or path.name), path.read_bytes()
    wide = next((f"utf-16-{o}" for o, i in (("le", 1), ("be", 0)) if data[i:40:2].count(0) > 2), "")
    try:
        known = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else wide or "utf-8-sig"
        errors = "surrogateescape" if data.startswith(MARK.encode()) else "strict"  # our own
        lines = re.split(r"\r\n|\r|\n", data.decode(known, errors))
    except UnicodeDecodeError as error:
        what = "is not text in UTF-8; write the file anew in that encoding"
        return found.wrong(data[: error.start].count(b"\n") + 1, what, "encoding")
    if lines[0].startswith(MARK):
        found.head = json.loads(lines[0].removeprefix(MARK))
    used = [i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    if not used:
        return found.wrong(1, "the list is empty")
    start, first, told = used[0], lines[used[0]], {}
    for mark in ",;\t| ":
        columns = [cell.strip() for cell in next(csv.reader([first], delimiter=mark))]
        plain = {re.sub(r"[^a-z0-9]", "", c.casefold()): c for c in reversed(columns)}
        roles = {
            role: plain[next(name for name in names if name in plain)]
            for role, names in _COLUMNS.items()
            if plain.keys() & set(names)
        }
        if set(need) <= roles.keys():
            return _with_header(found, lines, start, mark, columns, roles)
        told = told if len(told) >= len(set(need) & roles.keys()) else roles
    cells = re.split(r"[,;\t|]", first)
    words = all(re.fullmatch(r"\s*[\"']?[^\W\d][\w .()-]*[\"']?\s*", cell) for cell in cells)
    heads = (set(need) & told.keys() or len(cells) > 1) and words and not knows(cells[0].strip())
    if "label" not in need or heads:
        lacks = [role for role in need if role not in told]
        known = "; ".join(f"{role}: {', '.join(_COLUMNS[role][:8])}, ..." for role in lacks)
        what = f"the header {first!r} names no column of {' and '.join(lacks)} (known are {known})"
        return found.wrong(start + 1, what)
    body = {number: lines[number].strip() for number in used}
    mark = _parted_by([*body.values()][:200], knows)
    for number, line in body.items():
        path_text, _, label = line.rpartition(mark)
        if path_text:
            where = f"{found.name} line {number + 1}"
            found.rows.append(Row(where, path_text.strip().strip('",'), label.strip().strip('"')))
        else:
            found.wrong(number + 1, f"{line[:60]!r} is not a path, a space and a label")
    return found


def _parted_by(lines: list[str], knows: Callable[[str], bool]) -> str:
    """What stands between path and label: the mark at which most paths are clips."""
    hits = {
        mark: sum(knows(line.rpartition(mark)[0].strip().strip('",')) for line in lines)
        for mark in "\t, ;|"
    }
    if any(hits.values()):
        return max(hits, key=lambda mark: hits[mark])
    for mark in hits:
        labels = [line.rpartition(mark) for line in lines]
        if all(path and not re.search(r"[/\\]|\.\w{2,4}$", label) for path, _, label in labels):
            return mark
    return " "


def _with_header(
    found: Rows, lines: list[str], start: int, mark: str, columns: list[str], roles: dict[str, str]
) -> Rows:
    if twice := [column for column in roles.values() if columns.count(column) > 1]:
        return found.wrong(
            start + 1, f"the header names {twice[0]!r} twice; leave one of these columns"
        )
    found.roles = roles
    unused = [column for column in columns if column and column not in roles.values()]
    if unused and not found.head:
        found.notes.append(f"columns of {found.name} that are not used: {', '.join(unused)}")
    text = "\n".join(lines[start + 1 :])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        number = start + 1 + reader.line_num
        if mark == " " and columns.index(roles["path"]) == 0:  # spaces in a path belong to it
            extra = len(values) - len(columns) + 1
            values = [" ".join(values[:extra]), *values[extra:]] if extra > 1 else values
        if len(values) != len(columns):
            found.wrong(
                number, f"{len(values)} values, but the header names {len(columns)} columns"
            )
            continue
        cells = dict(zip(columns, values if found.head else map(str.strip, values), strict=True))
        if not found.head:  # what spreadsheets and pandas write where nothing is known
            cells = {k: "" if v.casefold() in WORDS["nothing"] else v for k, v in cells.items()}
        told = {role: cells[column] for role, column in roles.items()}
        found.rows.append(Row(f"{found.name} line {number}", **told))
    return found
