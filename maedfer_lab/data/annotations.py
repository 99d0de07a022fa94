"""The annotation table: which clips a data set has, their classes, and the fold that tests each.

Everything that trains, tests, prepares or checks labelled videos starts here.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maedfer_lab.config import data_folder
from maedfer_lab.data.identities import identities, split_videos
from maedfer_lab.data.labels import dataset_name, published_labels
from maedfer_lab.data.layouts import (
    Clip,
    Found,
    Problem,
    Tree,
    read_class_folders,
    read_cremad,
    read_enterface,
    read_ravdess,
    read_unlabelled,
    scan,
)
from maedfer_lab.data.layouts_finder import Finder
from maedfer_lab.data.layouts_lists import (
    class_names,
    find_lists,
    read_fold_lists,
    read_rows,
    understand,
)
from maedfer_lab.data.video import VideoReader, natural_key, open_video
from maedfer_lab.files import write_aside

__all__ = ["Annotations", "Clip", "Problem", "find_annotations", "read_annotations"]

TABLE = "annotations.csv"
COLUMNS = ("path", "label", "fold", "frames", "subject", "source")
_MARK = "# maedfer annotations "
_NAMES = {"cremad": read_cremad, "ravdess": read_ravdess, "enterface": read_enterface}


@dataclass(frozen=True)
class Annotations:
    """The clips of a data set, naturally sorted by path.

    classes: names in label order. root: what the clips' paths are told relative to.
    notes: what was left out or chosen while reading, in sentences.
    """

    dataset: str
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    root: Path
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.clips)

    @property
    def num_folds(self) -> int:
        """The largest number of a fold; 0 where nothing is tested."""
        return max((clip.fold for clip in self.clips), default=0)

    def split(self, fold: int) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        """The clips to train on and those to test on in `fold`, from 1.

        Raises:
            ValueError: there is no such fold.
        """
        if not 1 <= fold <= self.num_folds:
            raise ValueError(
                f"fold={fold} is not in this table, which has folds 1 to {self.num_folds}"
                if self.num_folds
                else f"fold={fold}: this table tests no clip, so it cannot be split"
            )
        train = tuple(clip for clip in self.clips if clip.fold != fold)
        return train, tuple(clip for clip in self.clips if clip.fold == fold)

    def counts(self, clips: Iterable[Clip] | None = None) -> tuple[int, ...]:
        """Clips of each class, among `clips` or all."""
        number = Counter(clip.label for clip in (self.clips if clips is None else clips))
        return tuple(number[label] for label in range(len(self.classes)))

    def open(self, clip: Clip) -> VideoReader:
        """A reader of the clip's frames.

        Raises:
            VideoError: the clip cannot be read; the message names it.
        """
        return open_video(clip.path)

    def name(self, clip: Clip) -> str:
        """The clip's path below the root, with slashes: its name on every machine."""
        return Tree(self.root, {}, ()).name(clip.path)

    def write_csv(self, path: str | Path) -> Path:
        """Write the table as one CSV (paths below the root) that `read_annotations` reads back."""
        path = Path(path)
        text = io.StringIO()
        head = {"dataset": self.dataset, "classes": self.classes}
        text.write(f"{_MARK}{json.dumps(head, ensure_ascii=False)}\n")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip in self.clips:
            frames = "" if clip.frames is None else clip.frames
            row = (self.name(clip), clip.label, clip.fold, frames, clip.subject or "", clip.source)
            writer.writerow(row)
        write_aside(path, text.getvalue().encode())
        return path

    def __str__(self) -> str:
        """Clips per class and fold, as text."""
        width = max(map(len, (*self.classes, "class")))
        folds = [fold for fold in range(self.num_folds + 1) if fold or self._in_fold(0)]
        heads = ["train only" if fold == 0 else f"test {fold}" for fold in folds]
        lines = [
            f"{self.dataset}: {len(self):,} clips of {len(self.classes)} classes in {self.root}",
            "  ".join([f"{'class':<{width}}", f"{'all':>7}", *(f"{h:>10}" for h in heads)]),
        ]
        columns = [self.counts(), *(self.counts(self._in_fold(fold)) for fold in folds)]
        for name, number, *numbers in zip(
            (*self.classes, "all"), *((*c, sum(c)) for c in columns), strict=True
        ):
            cells = [f"{name:<{width}}", f"{number:>7,}", *(f"{n:>10,}" for n in numbers)]
            lines.append("  ".join(cells))
        return "\n".join([*lines, *(f"({note})" for note in self.notes)])

    def _in_fold(self, fold: int) -> list[Clip]:
        return [clip for clip in self.clips if clip.fold == fold]


def read_annotations(
    dataset: str, root: str | Path | None = None, lists: str | Path | None = None
) -> Annotations:
    """Read the table of a data set from lists, from its authors' layout, from folders or a CSV.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface (also as they are printed); folder =
    a folder per class; csv = a table or lists of your own; voxceleb2 = unlabelled videos.
    root: folder of the clips; None takes MAEDFER_DATA. lists: a folder or file of lists, if they
    do not lie below `root`; they win over names of files.

    Raises:
        ValueError: a row that cannot be used; the message names file and line of the first ones.
        FileNotFoundError: no videos, or no lists where a data set needs them.
    """
    table, problems = find_annotations(dataset, root, lists)
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:5])
        more = f"\n  and {len(problems) - 5:,} more" if len(problems) > 5 else ""
        number = f"{len(problems):,} problem{'s' * (len(problems) > 1)}"
        raise ValueError(
            f"the annotations of {table.dataset} have {number} (maedfer doctor lists all):"
            f"{shown}{more}"
        )
    empty = [name for name, n in zip(table.classes, table.counts(), strict=True) if not n]
    if empty:
        warnings.warn(f"{table.dataset}: no clip of class {', '.join(empty)}", stacklevel=2)
    return table


def find_annotations(
    dataset: str, root: str | Path | None = None, lists: str | Path | None = None
) -> tuple[Annotations, tuple[Problem, ...]]:
    """As `read_annotations`, but with the usable clips and the problems side by side."""
    dataset = dataset_name(dataset)
    folder, lists = _places(dataset, root, lists)
    tree = scan(folder)
    if not tree.videos:
        raise FileNotFoundError(
            f"no video under root={str(folder)!r}: neither video files nor folders of .jpg or .png"
        )
    labels = published_labels(dataset)
    if lists is not None and lists.is_dir():
        files, base = scan(lists).lists, lists
    else:
        files, base = tree.lists, tree.root
    if dataset == "csv" and lists is not None and lists.is_file():
        dataset, found = _read_table(tree, lists)
    elif dataset == "folder":
        found = read_class_folders(tree)
    elif dataset == "voxceleb2":
        found = read_unlabelled(tree)
    elif dataset in _NAMES and labels is not None and lists is None:
        found = _NAMES[dataset](tree, labels)
    elif chosen := find_lists(dataset, files, base):
        found = read_fold_lists(tree, labels, chosen, base)
    else:
        raise FileNotFoundError(
            f"no annotation lists of {dataset} under {base}; lists must be a folder with a train "
            "and a test list of each fold, such as split01/train.csv and split01/test.csv, or the "
            "folder that the authors ship (EmoLabel_DataSplit, 4_setups, Train & Test Set)"
        )
    clips = sorted(found.clips, key=lambda clip: natural_key(Path(tree.name(clip.path))))
    table = Annotations(dataset, found.classes, tuple(clips), tree.root, tuple(found.notes))
    return table, tuple(found.problems)


def _places(
    dataset: str, root: str | Path | None, lists: str | Path | None
) -> tuple[Path, Path | None]:
    root = Path(root).expanduser() if root is not None else data_folder()
    if root is None:
        raise ValueError("root is not given and MAEDFER_DATA is not set; name the clips' folder")
    if root.is_file():
        root, lists = root.parent, root
    if lists is not None:
        lists = Path(lists).expanduser()
        if not lists.exists():
            raise FileNotFoundError(f"lists={str(lists)!r} does not exist; give a folder or a file")
        if lists.is_file() and dataset != "csv":
            raise ValueError(f"lists={str(lists)!r} is a file; give its folder, or dataset csv")
    elif dataset == "csv" and (root / TABLE).is_file():
        lists = root / TABLE
    return root.absolute(), lists.absolute() if lists is not None else None


def _read_table(tree: Tree, path: Path) -> tuple[str, Found]:
    """A CSV with columns path, label (number or name) and, if known, fold, frames, subject.

    Without a column fold people are held out: fold 1 tests about a fifth of the subjects (of the
    identities that `split_videos` sees, where there is no column subject).
    """
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    head = json.loads(first.removeprefix(_MARK)) if first.startswith(_MARK) else {}
    rows, problems = read_rows(path)
    labels = published_labels(head.get("dataset", "csv"))
    classes = tuple(head.get("classes") or class_names(row.label for row in rows))
    found = Found(classes, problems=problems)
    finder, seen = Finder(tree, "csv"), {}
    for row in rows:
        meant = understand(row, finder, classes, None, found)
        fold, frames = (row.extra.get(name) or "0" for name in ("fold", "frames"))
        if not (fold.isdecimal() and frames.isdecimal()):
            what = f"fold {fold!r} and frames {frames!r} must be whole numbers"
            found.problems.append(Problem("format", row.where, what))
        elif meant and meant[0] in seen:
            what = f"{row.path!r} stands in {seen[meant[0]]} already"
            found.problems.append(Problem("duplicate", row.where, what))
        elif meant:
            seen[meant[0]] = row.where
            subject, source = row.extra.get("subject") or None, row.extra.get("source")
            number = int(frames) or tree.videos.get(meant[0])
            clip = Clip(*meant, int(fold), number, source or row.where, subject)
            found.clips.append(clip)
    if found.clips and not any("fold" in row.extra for row in rows):
        found.clips = _held_out(found.clips, tree.root)
        found.notes.append("no column fold: about a fifth of the people are tested, as fold 1")
    return labels.name if labels else head.get("dataset", "csv"), found


def _held_out(clips: list[Clip], root: Path, share: float = 0.2) -> list[Clip]:
    who = identities([clip.path for clip in clips], root)
    people = {clip.path: clip.subject or name for clip, name in zip(clips, who, strict=True)}
    one_of = {person: path for path, person in sorted(people.items(), reverse=True)}
    test = set(split_videos(list(one_of.values()), root, share)[1])
    tested = {people[path] for path in test}
    return [
        Clip(c.path, c.label, int(people[c.path] in tested), c.frames, c.source, c.subject)
        for c in clips
    ]
