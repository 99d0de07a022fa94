"""Results of reading a data set; lists as text: columns, rows, and their split and fold."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from maedfer_lab.data.labels import WORDS
from maedfer_lab.files import read_bytes

MOST_BYTES, MOST_LINES, LONGEST = 2**27, 2**21, 2**20  # of a list, and letters of a line
csv.field_size_limit(2**31 - 1)  # an unclosed quote is reported by us, not by csv
OLD = "# maedfer annotations "  # whose head says what labels and frames mean, in JSON
# Names of a column, without case and marks between words; the first that exists is used.
_COLUMNS: dict[str, list[str]] = {role: names.split() for role, names in WORDS["columns"].items()}
# Also 01_train, train_a, test_english; Val Kilmer and Dev Patel are people.
_SIDES = {side: re.compile(pattern) for side, pattern in WORDS["sides"].items()}
# Columns that may change what a row means (role, if they could have one), and what is to be done.
_WEIGHTY = [(re.compile(pattern), *rest) for pattern, *rest in WORDS["weighty columns"]]
# Of several kinds of lists in one archive: words that a path must (or must not) hold.
_WANTED = WORDS["wanted lists"]


class Problem(NamedTuple):
    """What is wrong with a list or a layout. kind: the check of `doctor` that reports it."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Clip:
    """One labelled video.

    path: a video file, or a folder of images. label: index of its class, from 0. fold: the one
    in which it is tested, from 1; 0 = never tested. frames: if known without decoding.
    source: the list and line, or the layout, that named it. subject: the person, if known.
    """

    path: Path
    label: int
    fold: int
    frames: int | None = None
    source: str = ""
    subject: str | None = None


@dataclass
class Reading:
    """Clips, problems, and choices made.

    splits: whether people are still to be split. people_told: whether a list names the people.
    people_by: what does, in words.
    """

    classes: tuple[str, ...] = ()
    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: bool = False
    people_told: bool = False
    people_by: str = ""

    def problem(self, kind: str, where: object, what: str) -> None:
        """Record a problem."""
        self.problems.append(Problem(kind, str(where), what))


class ListRow(NamedTuple):
    """One line of a list, not yet interpreted. where: file and line."""

    where: str
    path: str
    label: str = ""
    subject: str = ""
    split: str = ""


class ListFile(NamedTuple):
    """A list of one split of one fold; without a part its own column gives the splits."""

    path: Path
    part: str = ""
    fold: int = 1


def side_of(text: str) -> str | None:
    """ "train", "val" or "test" for a word that means it, such as Training or dev_set."""
    return next((side for side, _ in _sides(text)), None)


def words_beside_side(text: str) -> str:
    """What stands beside such a word, as of folders anna_test and test_english, but no number."""
    words = next((match.groups() for _, match in _sides(text)), ())
    return " ".join(word for word in words if word and not word.isdecimal())


def _sides(text: str) -> list[tuple[str, re.Match[str]]]:
    found = ((side, known.fullmatch(text.strip().casefold())) for side, known in _SIDES.items())
    return [(side, match) for side, match in found if match]


def fold_of(text: str) -> int | None:
    """The number of a fold, as of a folder: fold_2."""
    found = re.fullmatch(r"(?i)(?:test[ _-]*)?(?:k?fold|cv)[ _.-]*(\d+)", text.strip())
    return int(found[1]) if found else None


def find_lists(dataset: str, files: Iterable[Path], base: Path) -> list[ListFile]:
    """Recognise train, val and test lists and their folds by the names of files and folders.

    ``split01/train.csv``, ``train(single-labeled)/set_1.csv``, ``single_testset_1.csv``,
    ``train_All.csv``: a list without a number belongs to fold 1.

    Raises:
        ValueError: two lists for one side of one fold, or MAFW's lists of another task.
    """
    found: dict[tuple[str, int], Path] = {}
    named = {path: path.relative_to(base).as_posix().lower() for path in files}
    for of, word, wanted in _WANTED:
        if of == dataset:
            named = {p: n for p, n in named.items() if (word in n) == wanted} or named
    folders = {part.lower() for path in named for part in path.parts[-6:]}
    if dataset == "mafw" and {"compound", "with_caption"} & folders:
        raise ValueError(
            f"lists={str(base)!r} are MAFW's compound or captioned lists; the 11 classes of the "
            "published results are in Train & Test Set/single/no_caption"
        )
    side = r"(?<![a-z])(train|val|dev|test)(?:ing|id|idation)?[ _-]*(?:set|list)?(?![a-z])"
    for path, name in named.items():
        if not (parts := re.findall(side, name)):
            continue
        folds = re.findall(r"(?:set|split|fold|fd)[\s_-]*0*(\d+)", name)
        folds = folds or re.findall(r"(?:train|val|dev|test)[a-z_ -]*0*(\d+)\.\w+$", name)
        place = "val" if parts[-1] == "dev" else parts[-1], int(folds[-1]) if folds else 1
        if (there := found.setdefault(place, path)) != path:
            raise ValueError(
                f"two {place[0]} lists of fold {place[1]}: {there} and {path}; point lists at the "
                "folder of the ones that are meant"
            )
    return [ListFile(path, *place) for place, path in sorted(found.items())]


def read_rows(
    path: Path,
    found: Reading,
    name: str | None = None,
    knows: Callable[[str], bool] = lambda text: False,
    need: tuple[str, ...] = ("path", "label"),
) -> tuple[list[ListRow], dict[str, str]]:
    """Rows of a list in any of the known formats, and the columns of its header by their roles.

    UTF-8 or UTF-16 with any line ends. With a header whose columns are known, or lines "path label"
    without one: they are split where `knows` finds most clips, else at the last space or comma.
    Lines that cannot be read become problems in `found`.
    """
    rows: list[ListRow] = []
    name, data = name or path.name, read_bytes(path)

    def wrong(line: int, what: str, kind: str = "format") -> tuple[list[ListRow], dict[str, str]]:
        found.problem(kind, f"{name} line {line}", what)
        return [], {}

    if len(data) > MOST_BYTES or data.count(b"\n") > MOST_LINES:
        return wrong(1, f"more than {MOST_BYTES:,} bytes or {MOST_LINES:,} lines are no list")
    wide = next((f"utf-16-{o}" for o, i in (("le", 1), ("be", 0)) if data[i:40:2].count(0) > 2), "")
    known = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else wide or "utf-8-sig"
    try:
        text = data.decode(known)
        bad = text.find("\0")
    except UnicodeDecodeError as error:
        text, bad = "", error.start
    if bad >= 0:
        line = data[:bad].count(b"\n") + 1
        return wrong(line, "is not UTF-8 text; save the file again in that encoding", "encoding")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    no_row = re.compile(r"\s*$|#|sep=.\s*$")  # the last as Excel writes it
    used = [i for i, line in enumerate(lines) if not no_row.match(line)]
    if not used:
        return wrong(1, "the list is empty")
    if long := [i for i in used if len(lines[i]) > LONGEST]:
        return wrong(long[0] + 1, f"{len(lines[long[0]]):,} letters are no row of a list")
    if lines[0].startswith(OLD):
        return wrong(1, "is an older version's table; read the data set itself, or cut this line")
    start, first = used[0] + 1, lines[used[0]]
    if re.match(r"\s*\[?\s*(\{\s*\"|\[?\s*$)", first):
        return wrong(start, "is JSON; write it as CSV with columns such as path and label")
    mark, columns, roles = max(
        (_header(first, mark) for mark in ",;\t| "),
        key=lambda reading: len(reading[2].keys() & set(need)),
    )
    if not (lacks := [role for role in need if role not in roles]):
        if twice := [column for column in roles.values() if columns.count(column) > 1]:
            return wrong(start, f"the header names {twice[0]!r} twice; leave one of these columns")
        if unused := [column for column in columns if column and column not in roles.values()]:
            found.notes.append(f"columns of {name} that are not used: {', '.join(unused)}")
        text = io.StringIO("\n".join(lines[start:]), newline="")
        reader = csv.reader(text, delimiter=mark, strict=True)
        try:
            table = [(start + reader.line_num, [*map(str.strip, row)]) for row in reader]
        except csv.Error as error:
            what = f"a quotation mark in or above this line is not closed as it should: {error}"
            return wrong(start + reader.line_num, what)
        for _, row in table:
            while mark == " " and columns[0] == roles["path"] and len(row) > len(columns):
                row[:2] = [" ".join(row[:2]).strip()]  # one path
        whole = [row for _, row in table if len(row) == len(columns)]
        if differing := _differing(columns, roles, need, whole):
            return wrong(start, differing)
        texts = {column: {row[i] for row in whole} for i, column in enumerate(columns)}
        for column in unused:
            if meaning := _doubt(column, texts, roles, len(whole)):
                found.notes.append(f"suspicious: column {column} of {name} is not used: {meaning}")
        for number, values in table:
            if len(values) == len(columns):
                cells = dict(zip(columns, values, strict=True))
                parts = {role: _known(cells[column], role) for role, column in roles.items()}
                rows += [ListRow(f"{name} line {number}", **parts)] * any(values)
            elif any(values):
                wrong(number, f"{len(values)} values, but the header names {len(columns)} columns")
        return (rows, roles) if table else wrong(start, "no row follows this header")
    cells = re.split(r"[,;\t|]", first)
    words = all(re.fullmatch(r"\s*[\"']?[^\W\d][\w .()-]*[\"']?\s*", cell) for cell in cells)
    heads = (len(lacks) < len(need) or len(cells) > 1) and words and not knows(cells[0].strip())
    if "label" not in need or heads:
        known = "; ".join(f"{role}: {', '.join(_COLUMNS[role][:8])}, ..." for role in lacks)
        what = f"the header {first!r} names no column of {' and '.join(lacks)} (known are {known})"
        return wrong(start, what)
    mark = _parted_by([lines[i].strip() for i in used[:200]], knows)
    for i in used:
        listed, _, label = lines[i].strip().rpartition(mark)
        if listed:
            where = f"{name} line {i + 1}"
            rows.append(ListRow(where, listed.strip().strip('",'), label.strip().strip('"')))
        else:
            wrong(i + 1, f"{lines[i].strip()[:60]!r} is not a path, a space and a label")
    return rows, {}


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", column.casefold())


def _doubt(column: str, texts: dict[str, set[str]], roles: dict[str, str], num: int) -> str:
    """What a column that is not used may change in what rows mean, by its name or texts; or ""."""
    own, name = texts[column] - {""}, _plain(column)
    name = "train" if own and "split" not in roles and all(map(side_of, own)) else name
    for pattern, role, meaning in _WEIGHTY:
        # One text, or another in each row, tells nobody apart.
        if not role or (role not in roles and 1 < len(own) < num):
            if pattern.fullmatch(name) or (own and all(map(pattern.fullmatch, own))):
                return meaning
    for role in ("label", "subject"):
        if role in roles and own <= texts[roles[role]] and any(map(str.isalpha, "".join(own))):
            return f"it holds what column {roles[role]} does: see which of them is the {role}"
    return ""


def _differing(
    columns: list[str], roles: dict[str, str], need: tuple[str, ...], rows: list[list[str]]
) -> str:
    """Two columns that may both be the label, person or split, and part the rows differently."""
    for role in sorted(roles.keys() - {"path"} - ({"label"} - set(need))):
        mine = columns.index(roles[role])
        for i, column in enumerate(columns):
            if i == mine or _plain(column) not in _COLUMNS[role]:
                continue
            pairs = {(row[mine], row[i]) for row in rows if row[i]}
            if len(pairs) > min(len({pair[k] for pair in pairs}) for k in (0, 1)):
                both = f"columns {roles[role]!r} and {column!r} may both be the {role}"
                return f"{both} and do not say the same of all rows; leave one, or rename the other"
    return ""


def _header(line: str, mark: str) -> tuple[str, list[str], dict[str, str]]:
    """The columns that a line names, and which of them has which role."""
    columns = [cell.strip() for cell in next(csv.reader([line], delimiter=mark))]
    plain = {_plain(column): column for column in reversed(columns)}
    roles = {
        role: plain[next(name for name in names if name in plain)]
        for role, names in _COLUMNS.items()
        if plain.keys() & set(names)
    }
    return mark, columns, roles


def _known(cell: str, role: str) -> str:
    """A cell; nothing for what people, spreadsheets and pandas write where nothing is known."""
    nothing = *WORDS["nothing"], *WORDS["nobody"] * (role == "subject")
    is_error = re.fullmatch(r"#\S+[!?]", cell)  # of a spreadsheet, in any language
    return "" if is_error or cell.casefold() in nothing else cell


def _parted_by(lines: list[str], knows: Callable[[str], bool]) -> str:
    """What stands between path and label: the mark at which most paths are clips."""
    hits = {
        mark: sum(knows(line.rpartition(mark)[0].strip().strip('",')) for line in lines)
        for mark in "\t, ;|"
    }
    if any(hits.values()):
        return max(hits, key=lambda mark: hits[mark])
    return next((mark for mark in "\t,;|" if all(mark in line for line in lines)), " ")
