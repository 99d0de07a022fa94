"""Lists as text: their columns, what each row says, and which side of which fold they are."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

MARK = "# maedfer annotations "  # the first line of a table of our own, before its head in JSON

# What a column may be called, without case and marks between words; the first one there is taken.
COLUMNS = {
    "path": "path file filename filepath relativepath relpath videopath videofile videofilename "
    "video videoname videoid vid clip clippath clipfile clipname clipid name fname sample media",
    "label": "label emotion expression class category labels emotionlabel expressionlabel "
    "classlabel labelname classname emotionname target groundtruth gt affect emo y labelid classid",
    "subject": "subject identity person actor speaker participant subjectid identityid personid "
    "actorid speakerid participantid subjectname actorname personname speakername performer who",
    "split": "fold testfold split set subset partition part usage phase",
    "frames": "frames numframes framecount nframes",
    "source": "source",
}
NOTHING = ("nan", "null", "n/a", "#n/a")
_COLUMNS = {role: names.split() for role, names in COLUMNS.items()}
_SET = r"(?:[ _-]*(?:set|split|data|clips|videos|faces|afew|\d+))*"
_SIDES = {
    "train": re.compile(rf"tr(?:ai)?n(?:ing)?{_SET}"),
    "val": re.compile(rf"(?:val(?:id(?:at(?:e|ing|ion))?)?|dev(?:el(?:opment)?)?){_SET}"),
    "test": re.compile(rf"(?:te?st(?:s|ing)?|eval(?:uation)?|held[ _-]?out|holdout){_SET}"),
}
# Of several kinds of lists in one archive: the ones whose path holds (or lacks) these words.
_WANTED = {"dfew": "single", "ferv39k": "all", "mafw": "no_caption"}
_UNWANTED = {"mafw": "compound"}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a list or a layout. kind: a few words that group like with like."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Row:
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

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    head: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ListFile:
    """A list of one side of one fold."""

    path: Path
    part: str
    fold: int


def side_of(text: str) -> str | None:
    """ "train", "val" or "test" for a word that means it, such as Training or dev_set."""
    word = text.strip().casefold()
    return next((side for side, known in _SIDES.items() if known.fullmatch(word)), None)


def fold_of(text: str) -> int | None:
    """The number of a folder of one fold: fold_2."""
    found = re.fullmatch(r"(?i)(?:test[ _-]*)?fold[ _.-]*(\d+)", text.strip())
    return int(found[1]) if found else None


def find_lists(dataset: str, files: Iterable[Path], base: Path) -> list[ListFile]:
    """Tell train, val and test lists and their folds from the names of files and folders.

    ``split01/train.csv``, ``train(single-labeled)/set_1.csv``, ``single_testset_1.csv``,
    ``train_All.csv``: a list without a number belongs to fold 1.

    Raises:
        ValueError: two lists for one side of one fold, or MAFW's lists of another task.
    """
    found: dict[tuple[str, int], list[Path]] = {}
    named = {path: path.relative_to(base).as_posix().lower() for path in files}
    if word := _UNWANTED.get(dataset):
        named = {path: name for path, name in named.items() if word not in name} or named
    if word := _WANTED.get(dataset):
        named = {path: name for path, name in named.items() if word in name} or named
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
        if parts:
            part = "val" if parts[-1] == "dev" else parts[-1]
            found.setdefault((part, int(folds[-1]) if folds else 1), []).append(path)
    for (part, fold), paths in found.items():
        if len(paths) > 1:
            raise ValueError(
                f"two {part} lists of fold {fold}: {paths[0]} and {paths[1]}; point lists at the "
                "folder of the ones that are meant"
            )
    return [ListFile(paths[0], part, fold) for (part, fold), paths in sorted(found.items())]


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
    name, found = name or path.name, Rows()
    data = path.read_bytes()
    wide = next((f"utf-16-{o}" for o, i in (("le", 1), ("be", 0)) if data[i:40:2].count(0) > 2), "")
    try:
        known = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else wide or "utf-8-sig"
        errors = "surrogateescape" if data.startswith(MARK.encode()) else "strict"  # our own
        lines = re.split(r"\r\n|\r|\n", data.decode(known, errors))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = "is not text in UTF-8; write the file anew in that encoding"
        found.problems.append(Problem("encoding", f"{name} line {line}", what))
        return found
    if lines[0].startswith(MARK):
        found.head = json.loads(lines[0].removeprefix(MARK))
    used = (i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    start = next(used, None)
    if start is None:
        found.problems.append(Problem("format", name, "the list is empty"))
        return found
    first, told = lines[start], {}
    for mark in ",;\t| ":
        columns = [cell.strip() for cell in next(csv.reader([first], delimiter=mark))]
        roles = _roles(columns)
        if set(need) <= roles.keys():
            return _with_header(found, name, lines, start, mark, columns, roles)
        told = told if len(told) >= len(set(need) & roles.keys()) else roles
    cells = re.split(r"[,;\t|]", first)
    words = all(re.fullmatch(r"\s*[\"']?[^\W\d][\w .()-]*[\"']?\s*", cell) for cell in cells)
    heads = set(need) & told.keys() and words and not knows(cells[0])
    if "label" not in need or heads or (len(cells) > 1 and words and not knows(cells[0].strip())):
        lacks = [role for role in need if role not in told]
        known = "; ".join(f"{role}: {', '.join(_COLUMNS[role][:8])}, ..." for role in lacks)
        what = f"the header {first!r} names no column of {' and '.join(lacks)} (known are {known})"
        found.problems.append(Problem("format", f"{name} line {start + 1}", what))
        return found
    body = [line.strip() for line in lines]
    mark = _parted_by([line for line in body[start:] if line and line[0] != "#"][:200], knows)
    for number, line in enumerate(body[start:], start + 1):
        where = f"{name} line {number}"
        path_text, _, label = line.rpartition(mark)
        if path_text:
            found.rows.append(Row(where, path_text.strip().strip('",'), label.strip().strip('"')))
        elif line and not line.startswith("#"):
            what = f"{line[:60]!r} is not a path, a space and a label"
            found.problems.append(Problem("format", where, what))
    return found


def _roles(columns: list[str]) -> dict[str, str]:
    """Role -> the column that has it."""
    plain = {re.sub(r"[^a-z0-9]", "", column.casefold()): column for column in reversed(columns)}
    return {
        role: plain[next(name for name in names if name in plain)]
        for role, names in _COLUMNS.items()
        if plain.keys() & set(names)
    }


def _parted_by(lines: list[str], knows: Callable[[str], bool]) -> str:
    """What stands between path and label: the mark at which most paths are clips."""
    marks = "\t, ;|"
    hits = [
        sum(knows(line.rpartition(mark)[0].strip().strip('",')) for line in lines) for mark in marks
    ]
    if max(hits):
        return marks[hits.index(max(hits))]
    for mark in marks:
        labels = [line.rpartition(mark) for line in lines]
        if all(path and not re.search(r"[/\\]|\.\w{2,4}$", label) for path, _, label in labels):
            return mark
    return " "


def _with_header(
    found: Rows, name: str, lines: list[str], start: int, mark: str, columns: list[str],
    roles: dict[str, str],
) -> Rows:  # fmt: skip
    if twice := [column for column in roles.values() if columns.count(column) > 1]:
        what = f"the header names {twice[0]!r} twice; leave one of these columns"
        found.problems.append(Problem("format", f"{name} line {start + 1}", what))
        return found
    found.roles = roles
    unused = [column for column in columns if column and column not in roles.values()]
    if unused and not found.head:
        found.notes.append(f"columns of {name} that are not used: {', '.join(unused)}")
    text = "\n".join(lines[start + 1 :])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        where = f"{name} line {start + 1 + reader.line_num}"
        if mark == " " and columns.index(roles["path"]) == 0:  # spaces in a path belong to it
            extra = len(values) - len(columns) + 1
            values = [" ".join(values[:extra]), *values[extra:]] if extra > 1 else values
        if len(values) != len(columns):
            what = f"{len(values)} values, but the header names {len(columns)} columns"
            found.problems.append(Problem("format", where, what))
            continue
        cells = dict(zip(columns, values if found.head else map(str.strip, values), strict=True))
        if not found.head:  # what spreadsheets and pandas write where nothing is known
            cells = {key: "" if cell.casefold() in NOTHING else cell for key, cell in cells.items()}
        found.rows.append(Row(where, **{role: cells[column] for role, column in roles.items()}))
    return found
