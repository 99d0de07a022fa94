"""Annotation lists: find them, read them, find their clips, and make one table of all folds.

Read are the official code's lists ("path label", no header; the path of another machine in front),
DFEW's EmoLabel_DataSplit, FERV39k's 4_setups/All_scenes, MAFW's Train & Test Set/single/no_caption,
and any CSV with a header that names a path and a label.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from maedfer_lab.data.labels import Labels, label_number
from maedfer_lab.data.layouts import Clip, Found, Problem, Tree
from maedfer_lab.data.layouts_finder import Finder
from maedfer_lab.data.video import natural_key

PATH_COLUMNS = ("path", "video_name", "video", "file", "clip", "clip_name", "name")
LABEL_COLUMNS = ("label", "emotion", "class", "expression")
# Of several kinds of lists in one archive: the ones whose path holds (or lacks) these words.
_WANTED = {"dfew": "single", "ferv39k": "all", "mafw": "no_caption"}
_UNWANTED = {"mafw": "compound"}


@dataclass(frozen=True)
class Row:
    """One line of a list, not yet understood. where: file and line."""

    where: str
    path: str
    label: str
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ListFile:
    """A list of one side of one fold."""

    path: Path
    part: str
    fold: int


def find_lists(dataset: str, files: Iterable[Path], base: Path) -> list[ListFile]:
    """Tell train, val and test lists and their folds from the names of files and folders.

    ``split01/train.csv``, ``train(single-labeled)/set_1.csv``, ``train_All.csv``: a list without a
    number belongs to fold 1. Where test and val lists are both there, val is left out (the
    official code validates on the test fold, so they are equal).

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
    for path, name in named.items():
        parts = re.findall(r"(?<![a-z])(train|val|test)(?![a-z])", name)
        folds = re.findall(r"(?:set|split|fold|fd)[\s_-]*0*(\d+)", name)
        if parts:
            found.setdefault((parts[-1], int(folds[-1]) if folds else 1), []).append(path)
    for (part, fold), paths in found.items():
        if len(paths) > 1:
            raise ValueError(
                f"two {part} lists of fold {fold}: {paths[0]} and {paths[1]}; point lists at the "
                "folder of the ones that are meant"
            )
    return [
        ListFile(paths[0], part, fold)
        for (part, fold), paths in sorted(found.items())
        if part != "val" or ("test", fold) not in found
    ]


def read_rows(path: Path, name: str | None = None) -> tuple[list[Row], list[Problem]]:
    """Read a list in any of the known shapes; lines that cannot be read become problems.

    A byte-order mark, Windows line ends and empty lines are taken as they come. In a line without
    header the label is the last word, so paths may hold spaces.
    """
    name = name or path.name
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = "is not text in UTF-8; write the file anew in that encoding"
        return [], [Problem("encoding", f"{name} line {line}", what)]
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    columns = [word.strip().strip('"').lower() for word in re.split(r"[,;\t ]", first)]
    if not first:
        return [], [Problem("format", name, "the list is empty")]
    if set(columns) & set(LABEL_COLUMNS) and set(columns) & set(PATH_COLUMNS):
        return _with_header(name, lines, first, columns)
    rows, problems = [], []
    for number, line in enumerate(lines, 1):
        where = f"{name} line {number}"
        path_text, _, label = line.strip().rpartition("\t" if "\t" in line else " ")
        if not path_text:
            path_text, _, label = line.strip().rpartition(",")
        if path_text:
            rows.append(Row(where, path_text.strip().strip('",'), label.strip().strip('"')))
        elif line.strip() and not line.startswith("#"):
            what = f"{line.strip()[:60]!r} is not a path, a space and a label"
            problems.append(Problem("format", where, what))
    return rows, problems


def _with_header(
    name: str, lines: list[str], first: str, columns: list[str]
) -> tuple[list[Row], list[Problem]]:
    delimiter = next(mark for mark in ",;\t " if mark in first)
    path_column = next(column for column in PATH_COLUMNS if column in columns)
    label_column = next(column for column in LABEL_COLUMNS if column in columns)
    start = lines.index(first)
    reader = csv.reader(io.StringIO("\n".join(lines[start + 1 :])), delimiter=delimiter)
    rows, problems = [], []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        where = f"{name} line {start + 1 + reader.line_num}"
        if len(values) != len(columns):
            what = f"{len(values)} values, but the header names {len(columns)} columns"
            problems.append(Problem("format", where, what))
            continue
        row = {key: value.strip() for key, value in zip(columns, values, strict=True)}
        row["path column"] = path_column
        rows.append(Row(where, row[path_column], row[label_column], row))
    return rows, problems


def _rows_of(files: list[ListFile], base: Path, found: Found) -> Iterator[tuple[ListFile, Row]]:
    for file in files:
        rows, problems = read_rows(file.path, file.path.relative_to(base).as_posix())
        found.problems += problems
        yield from ((file, row) for row in rows)


def read_fold_lists(tree: Tree, labels: Labels | None, files: list[ListFile], base: Path) -> Found:
    """One table from the train and test lists of all folds; every contradiction is a problem."""
    dataset = labels.name if labels else "csv"
    pairs_found = Found(())
    pairs = list(_rows_of(files, base, pairs_found))
    classes = labels.classes if labels else class_names(row.label for _, row in pairs)
    found = Found(classes, problems=pairs_found.problems)
    finder = Finder(tree, dataset)
    found.notes += finder.notes
    understood: dict[str, tuple[Path, int] | None] = {}
    first: dict[Path, tuple[int, Row]] = {}
    seen: dict[tuple[Path, ListFile], Row] = {}
    sides: dict[tuple[str, int], set[Path]] = {}
    for file, row in pairs:
        key = f"{row.path}\n{row.label}"
        if key not in understood:
            understood[key] = understand(row, finder, classes, labels, found)
        meant = understood[key]
        if meant is None:
            continue
        path, label = meant
        if (path, file) in seen:
            what = f"{row.path!r} stands in {seen[path, file].where} already"
            found.problems.append(Problem("duplicate", row.where, what))
        elif path in first and first[path][0] != label:
            there = first[path][1]
            what = f"{row.path!r} has label {row.label}, but {there.label} in {there.where}"
            found.problems.append(Problem("two labels", row.where, what))
        seen.setdefault((path, file), row)
        first.setdefault(path, (label, row))
        sides.setdefault(("train" if file.part == "train" else "test", file.fold), set()).add(path)
    test_fold = _test_folds(sides, first, found)
    for path in sorted(first, key=natural_key):
        label, row = first[path]
        subject = _subject(labels, path)
        fold = test_fold.get(path, 0)
        found.clips.append(Clip(path, label, fold, tree.videos.get(path), row.where, subject))
    return found


def _test_folds(
    sides: dict[tuple[str, int], set[Path]], first: dict[Path, tuple[int, Row]], found: Found
) -> dict[Path, int]:
    test_fold: dict[Path, int] = {}
    for (part, fold), paths in sorted(sides.items()):
        for path in sorted(paths, key=natural_key) if part == "test" else ():
            where = first[path][1].where
            if path in sides.get(("train", fold), ()):
                what = f"{path.name} is in the train and the test list of fold {fold}"
                found.problems.append(Problem("train and test", where, what))
            if path in test_fold:
                what = f"{path.name} is tested in folds {test_fold[path]} and {fold}"
                found.problems.append(Problem("tested twice", where, what))
            test_fold.setdefault(path, fold)
    for (part, fold), paths in sorted(sides.items()):
        left_out = len(set(first) - paths - sides.get(("test", fold), set()))
        if part == "train" and left_out:
            what = (
                f"{left_out:,} clips of the other folds are in neither list of fold {fold}, though "
                "the table would train on them; give the lists of one data set and version"
            )
            found.problems.append(Problem("folds disagree", f"fold {fold}", what))
    return test_fold


def understand(
    row: Row, finder: Finder, classes: tuple[str, ...], labels: Labels | None, found: Found
) -> tuple[Path, int] | None:
    """Clip and label of a row; what stands in the way goes to `found.problems`."""
    native = labels is not None and row.extra.get("path column") == "video_name"
    first = labels.first_label if native and labels else 0
    label = label_number(row.label, classes, first)
    if label is None:
        known = f"{first} to {first + len(classes) - 1} or {', '.join(classes)}"
        what = f"label {row.label!r} of {row.path!r} is out of range; known are {known}"
        found.problems.append(Problem("label", row.where, what))
    is_number = labels is not None and labels.name in ("dfew", "mafw") and row.path.isdigit()
    path = finder.find(row.path.zfill(5) if is_number else row.path)
    if isinstance(path, str):
        found.problems.append(Problem("missing", row.where, path))
        return None
    return None if label is None else (path, label)


def _subject(labels: Labels | None, path: Path) -> str | None:
    if labels is None or not labels.test_fold:
        return None
    pattern = {"cremad": r"^(\d{4})_", "ravdess": r"-(\d\d)(?:\.\w+)?$"}.get(labels.name)
    texts = [path.name] if pattern else [part.lower() for part in path.parts[-4:-1]]
    for text in texts:
        if match := re.search(pattern or r"^subject[ _-]*(\d+)$", text):
            return str(int(match[1]))
    return None


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Classes of a list without a table: "0", "1", ... up to the largest, or sorted names."""
    texts = Counter(labels)
    if texts and all(re.fullmatch(r"\d{1,4}", text) for text in texts):
        return tuple(str(i) for i in range(max(map(int, texts)) + 1))
    return tuple(sorted(texts, key=lambda text: natural_key(Path(text))))
