"""The annotation table: which clips a data set has, their classes, and the fold that tests each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maedfer_lab import text as text_of
from maedfer_lab.config import data_folder, is_main_process
from maedfer_lab.data.labels import (
    DATASETS,
    OTHERS,
    dataset_name,
    is_expression,
    plain_word,
    published_labels,
)
from maedfer_lab.data.layouts import (
    Tree,
    is_person_number,
    manifests_in,
    may_be_name,
    may_be_person,
    named_together,
    people_of,
    people_of_copies,
    person_words,
    read_class_folders,
    read_lists,
    read_named,
    read_unlabelled,
    same_persons,
    scan,
)
from maedfer_lab.data.lists import Clip, ListFile, Problem, Reading, find_lists, fold_of, side_of
from maedfer_lab.data.readers import ImagesReader, content_digest, open_video
from maedfer_lab.data.shard_format import INDEX
from maedfer_lab.data.video import VIDEO_SUFFIXES, VideoReader, natural_key

Place = str | Path | None
STREAM_VERSION = 1  # raised whenever the same table gives other clips, or in another order
TEXT_ORDER = ("dfew", "ferv39k", "mafw")  # published lists: frames are sorted as text
TOLD = 3000  # clips up to which a summary lists each of them
_SHARE = 0.2  # of the people, tested in fold 1 if no split is given
_READING = "people: "  # how the note on how a table was read begins
_GUESSED = ("their folders", "their names (such as")  # how such people are told
_DOUBTS = ("unknown people", "suspicious", "no clip of", "each fold of column")  # begin a note
# What `explain_change` compares of each clip.
FIELDS = {"names": "", "labels": "label", "folds": "fold", "people": "person", "bytes": "bytes"}


@dataclass(frozen=True)
class Annotations:
    """The clips of a data set, naturally sorted by path.

    classes: names in label order. root: the clips' paths are relative to it.
    notes: what was left out or chosen in reading, in sentences.
    """

    dataset: str
    classes: tuple[str, ...]
    clips: Sequence[Clip]
    root: Path
    notes: tuple[str, ...] = ()

    @property
    def doubts(self) -> list[str]:
        """The notes on what may be wrong in who is on which side, or in labels."""
        return [note for note in self.notes if note.startswith(_DOUBTS)]

    @property
    def reading(self) -> str:
        """The note on how people, labels and sides were found; "" if there is none."""
        return next((note for note in self.notes if note.startswith(_READING)), "")

    def tell(self) -> None:
        """Say on stderr how the table was read, and each of the doubts as a warning."""
        if self.reading and is_main_process():
            tqdm.write(f"{self.root}: {self.reading}", file=sys.stderr)
        for doubt in self.doubts:
            warnings.warn(f"{self.root}: {doubt}", stacklevel=4)

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.clips)

    @property
    def labels(self) -> np.ndarray:
        """Class of each clip, from 0."""
        return np.array([clip.label for clip in self.clips], dtype=np.int32)

    @property
    def folds(self) -> np.ndarray:
        """The fold that tests each clip, from 1; 0 = never tested."""
        return np.array([clip.fold for clip in self.clips], dtype=np.int32)

    @property
    def num_folds(self) -> int:
        """The largest number of a fold; 0 if nothing is tested."""
        return int(self.folds.max(initial=0))

    def split(self, fold: int) -> tuple[Sequence[Clip], Sequence[Clip]]:
        """The clips to train on and those to test on in `fold`, from 1.

        Raises:
            ValueError: there is no such fold, or a person is on both sides of one.
        """
        if not 1 <= fold <= self.num_folds:
            has = f"has folds 1 to {self.num_folds}" if self.num_folds else "tests no clip"
            raise ValueError(f"fold={fold} is not in this table, which {has}")
        if leaks := self.on_both_sides():
            who = next(iter(leaks))
            raise ValueError(
                f"{len(leaks):,} people are on both sides of a fold, first {who!r}: {leaks[who]}; "
                "give each person one fold (maedfer doctor lists all)"
            )
        return self.sides(fold)

    def sides(self, fold: int) -> tuple[Sequence[Clip], Sequence[Clip]]:
        """As `split`, without checking people."""
        is_tested = self.folds == fold
        return self.take(np.flatnonzero(~is_tested)), self.take(np.flatnonzero(is_tested))

    def take(self, places: np.ndarray) -> Sequence[Clip]:
        """The clips at these places."""
        return tuple(self.clips[place] for place in places.tolist())

    def counts(self, clips: Iterable[Clip] | None = None) -> tuple[int, ...]:
        """Clips of each class, among `clips` or all."""
        number = Counter(clip.label for clip in (self.clips if clips is None else clips))
        return tuple(number[label] for label in range(len(self.classes)))

    def open(self, clip: Clip) -> VideoReader:
        """A reader of the clip's frames.

        Raises:
            VideoError: the clip cannot be read; the message names it.
        """
        return open_clip(clip.path, self.dataset in TEXT_ORDER)

    def name(self, clip: Clip) -> str:
        """The clip's path below the root, with slashes: its name on every machine."""
        return Tree(self.root, {}).name(clip.path)

    def on_both_sides(self) -> dict[str, str]:
        """People who are both tested and trained on in a fold, and with which clips, as text."""
        folds: dict[str, dict[int, int]] = defaultdict(dict)
        for i, (who, fold) in enumerate(zip(self.people(), self.folds.tolist(), strict=True)):
            folds[who].setdefault(fold, i)
        return {
            who: ", ".join(
                f"{self.name(self.clips[i])} {f'tested in fold {fold}' if fold else 'never tested'}"
                for fold, i in sorted(found.items())
            )
            for who, found in folds.items()
            if len(found) > 1
        }

    def people(self, clips: Iterable[Clip] | None = None) -> list[str]:
        """The person in each clip; a clip of an unknown person counts as a person."""
        clips = self.clips if clips is None else clips
        return [clip.subject or self.name(clip) for clip in clips]

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Bytes of each clip's file, or of its images, by their directory entries."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(_bytes, (clip.path for clip in self.clips)))

    @cached_property
    def contents(self) -> Sequence[str]:
        """Digest of each clip's file or images; "" in a table of more clips than are listed."""
        if len(self) > TOLD:
            return [""] * len(self)
        with ThreadPoolExecutor(8) as pool:
            return [digest.hex()[:16] for digest in pool.map(_content, self.clips)]

    def copies(self) -> list[list[Clip]]:
        """Groups of clips whose files hold the same bytes; only files of equal size are read."""
        number = Counter(self.sizes)
        alike = [c for c, n in zip(self.clips, self.sizes, strict=True) if n and number[n] > 1]
        groups: dict[bytes, list[Clip]] = defaultdict(list)
        with ThreadPoolExecutor(8) as pool:
            for clip, key in zip(alike, pool.map(_content, alike), strict=True):
                groups[key].append(clip)
        return [group for key, group in groups.items() if len(group) > 1 and key]

    def copy_problem(self, copies: Sequence[Clip]) -> Problem | None:
        """Copies of one file with two labels or on both sides of a fold."""
        odd = ["with two labels"] * (len({clip.label for clip in copies}) > 1)
        odd += ["on both sides"] * (len({clip.fold for clip in copies}) > 1)
        what = f"one file {' and '.join(odd)}: {self.equal(copies)}"
        return Problem("identical clips", str(self.root), what) if odd else None

    def equal(self, clips: Iterable[Clip]) -> str:
        """Copies of one file, as text."""
        return " = ".join(f"{self.name(c)} ({self.classes[c.label]}, fold {c.fold})" for c in clips)

    def summary(self) -> dict[str, Any]:
        """This table, small enough to be stored as JSON in every run: see `explain_change`.

        Names, labels, folds, people and bytes of the clips (sizes by directory entries), classes
        in order and the version of the stream; up to 3,000 clips are listed, with their contents.
        "digest" is equal for equal data on every machine.
        """
        rows = sorted(
            [self.name(clip), self.classes[clip.label], clip.fold, clip.subject or "", *file]
            for clip, *file in zip(self.clips, self.sizes, self.contents, strict=True)
        )
        columns = [[(row[0], row[i]) for row in rows] for i in range(len(FIELDS))]
        return self._summary(dict(zip(FIELDS, map(_sha256, columns), strict=True)), rows)

    def _summary(self, digests: dict[str, str], rows: list[Any]) -> dict[str, Any]:
        about = {"stream": STREAM_VERSION, "classes": list(self.classes), "digests": digests}
        per_fold = np.bincount(self.folds, minlength=1).tolist()
        return {
            "digest": _sha256(about),
            **about,
            "clips": len(self),
            "per_class": dict(zip(self.classes, self.counts(), strict=True)),
            "per_fold": {str(fold): number for fold, number in enumerate(per_fold)},
            "each": rows if len(rows) <= TOLD else [],
        }

    def __str__(self) -> str:
        """Clips per class and fold, with the published numbers, as text."""
        columns = {"all": self.counts()}
        for fold in np.unique(self.folds).tolist():
            name = f"test {fold}" if fold else "train only"
            columns[name] = self.counts(self.take(np.flatnonzero(self.folds == fold)))
        if known := published_labels(self.dataset) if self.dataset in DATASETS else None:
            columns["published"] = known.clips_per_class
        names = ("class", *self.classes, "all")
        cells = [[name, *(f"{n:,}" for n in (*c, sum(c)))] for name, c in columns.items()]
        head = f"{self.dataset}: {len(self):,} clips of {len(self.classes)} classes in {self.root}"
        rows = text_of.table(zip(names, *cells, strict=True))
        return "\n".join([head, rows, *(f"({note})" for note in self.notes)])


def open_clip(path: Path, as_text: bool) -> VideoReader:
    """A reader of a clip, the images of a folder sorted in their natural order or as text."""
    reader = open_video(path)
    if as_text and isinstance(reader, ImagesReader):
        # parity: as the official code lists a folder: frame 10 before frame 2 without zeros
        reader.images.sort(key=lambda image: image.name)
    return reader


def explain_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between the `summary` of two tables, in sentences; () if nothing does."""
    before, after = ({row[0]: row[1:] for row in one["each"]} for one in (old, new))
    every = before and after
    keys = ("stream", "classes", *(() if every else ("clips", "per_class", "per_fold")))
    changes = [f"{key} was {old[key]} and is {new[key]}" for key in keys if old[key] != new[key]]
    if old.get("stills") != new.get("stills"):
        changes.append("the files of stills differ")
    if not every:  # too many to keep each
        fields = [name for name in new["digests"] if old["digests"][name] != new["digests"][name]]
        return (*changes, *[f"the {', '.join(fields)} of the clips differ"] * bool(fields))
    changed = {
        "{} new": [name for name in after if name not in before],
        "{} gone": [name for name in before if name not in after],
    }
    for i, what in enumerate([*filter(None, FIELDS.values()), "content"]):
        changed[f"another {what} of {{}}"] = [
            f"{name} {before[name][i]} -> {after[name][i]}"
            for name in after
            if before.get(name, ())[i:] and before[name][i] != after[name][i]  # older: no content
        ]
    for what, clips in changed.items():
        if clips:
            number = f"{len(clips):,} clip{'s' * (len(clips) > 1)}"
            changes.append(f"{what.format(number)}, first: {clips[0]}")
    return tuple(changes)


def _sha256(what: object) -> str:
    text = json.dumps(what, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _content(clip: Clip) -> bytes:
    try:
        return content_digest(clip.path)
    except (OSError, ValueError):  # reported when the clip is opened
        return b""


def _bytes(path: Path) -> int:
    """Bytes of a video file or of a folder's images; of the tar that holds a prepared clip."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


# ---- People --------------------------------------------------------------------------------------


def split_people(
    people: Sequence[str], share: float, seed: int, labels: Sequence[Any] | None = None
) -> tuple[list[int], list[int]]:
    """Indices of the clips for training, and of those held out; subject-disjoint.

    people: the person in each clip. share: of the people, rounded, at least one and not all. The
    held-out people do not depend on the order of the clips. labels: the class of each clip; people
    are then exchanged, and up to half of them held out, until every class is on both sides. If that
    is impossible, as few classes as possible are missing, none in training; a warning names them.

    Raises:
        ValueError: `share` outside (0, 1), or fewer than two people.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie between 0 and 1; 0.2 holds out a fifth")
    names = sorted(set(people))
    if len(names) < 2:
        raise ValueError(
            f"the {len(people)} clips belong to {len(names)} person, so none can be held out; add "
            "clips of another one"
        )
    number = {name: i for i, name in enumerate(names)}
    person = np.array([number[one] for one in people])
    num_held = min(max(round(share * len(names)), 1), len(names) - 1)
    classes = sorted(set(labels or ()), key=str)
    shows = np.zeros((len(names), len(classes)), dtype=np.int64)  # whether a person shows a class
    if labels is not None:
        shows[person, [classes.index(label) for label in labels]] = 1
    best, least = np.zeros(len(names), dtype=bool), np.inf
    for i in range(20):
        order = np.random.default_rng(seed + i).permutation(len(names))
        held = _mended(np.isin(np.arange(len(names)), order[:num_held]), order, shows)
        missing = _missing(held @ shows, shows.sum(0)).sum()
        if missing < least:
            best, least = held, missing
        if not least:
            break
    if gaps := [
        f"no clip of class {name} is {what}"
        for what, side in (("trained on", ~best), ("held out", best))
        for name, number in zip(classes, side @ shows, strict=True)
        if not number
    ]:
        few = f"it has {len(names)} people, and some classes too few to have one on each side"
        warnings.warn(f"{'; '.join(gaps)}: {few}", stacklevel=2)
    return np.flatnonzero(~best[person]).tolist(), np.flatnonzero(best[person]).tolist()


def _missing(held: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Penalty for classes missing on a side; 0 if only one person shows it, who is trained on.

    held, shown: people who show each class (..., k), of those held out and of all.
    """
    return (held == shown) * 100 + (held == 0) * (shown > 1)


def _mended(held: np.ndarray, order: np.ndarray, shows: np.ndarray) -> np.ndarray:
    """Move people, one at a time, while fewer classes are missing; then back towards the share."""
    number, shown = held.sum(), shows.sum(0)

    def bad(shown_by_held: np.ndarray, size: Any) -> Any:
        return _missing(shown_by_held, shown).sum(-1) + np.abs(size - number) / (len(held) + 1)

    while True:
        step = np.where(held, -1, 1)
        size = held.sum() + step
        cost = bad(held @ shows + step[:, None] * shows, size)
        cost[(size < 1) | (size > max(len(held) // 2, number))] = np.inf
        chosen = order[np.argmin(cost[order])]
        if cost[chosen] >= bad(held @ shows, held.sum()):
            return held
        held[chosen] = not held[chosen]


# ---- Reading a table ----------------------------------------------------------------------------


def read_annotations(
    dataset: str, root: Place = None, lists: Place = None, layout: str | None = None
) -> Annotations:
    """Read the table of a data set from lists, from its authors' layout, from folders or a CSV.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface (also as they are printed); folder =
    a folder per class; csv = a table or lists of your own; voxceleb2 = unlabelled videos.
    root: folder of the clips; None takes MAEDFER_DATA. lists: a folder or file of lists, if they
    are not below `root`; they override file names. layout: meaning of the folder levels
    if ambiguous, e.g. "class/person/clip" (or dataset "folder:class/person/clip").

    Raises:
        ValueError: a row that cannot be used, or a person or a file's content on both sides of a
            fold; the message names file and line of the first ones.
        FileNotFoundError: no videos, or no lists where a data set needs them.
    """
    table, problems = find_annotations(dataset, root, lists, layout)
    if problems:
        head = f"the annotations of {table.dataset} have {len(problems):,} problem"
        head += "s" * (len(problems) > 1) + " (maedfer doctor lists all):"
        raise ValueError("\n  ".join([head, *map(str, problems[:5])]))
    if empty := [name for name, n in zip(table.classes, table.counts(), strict=True) if not n]:
        warnings.warn(f"{table.dataset}: no clip of class {', '.join(empty)}", stacklevel=2)
    return table


def find_annotations(
    dataset: str, root: Place = None, lists: Place = None, layout: str | None = None
) -> tuple[Annotations, tuple[Problem, ...]]:
    """As `read_annotations`, but returns the usable clips and the problems."""
    layout = layout or dataset.partition(":")[2] or None
    dataset = dataset_name(dataset)
    if layout and dataset != "folder":
        raise ValueError(f"layout={layout!r} is for folders of classes: use dataset folder")
    folder, lists = _places(dataset, root, lists)
    tree, labels = scan(folder), published_labels(dataset)
    if not tree.videos:
        what = f"neither {' '.join(sorted(VIDEO_SUFFIXES))} nor folders of .jpg or .png"
        if (folder / INDEX).is_file():
            what = "it is a prepared set, for finetune shards and pretrain; name what it is of"
        raise FileNotFoundError(f"no video under root={str(folder)!r}: {what}")
    if dataset == "folder":
        found = read_class_folders(tree, layout)
    elif dataset == "voxceleb2":
        found = read_unlabelled(tree)
    elif labels is not None and labels.test_fold and lists is None:
        found = read_named(tree, labels)
    else:
        base = lists or tree.root
        if base.is_file():
            base, files, chosen = base.parent, (), [ListFile(base)]
        else:
            files = scan(base).lists if lists else tree.lists
            chosen = find_lists(dataset, files, base)
        if not chosen:
            others = f" (there are {', '.join(path.name for path in files[:5])})" if files else ""
            raise FileNotFoundError(
                f"no annotation lists of {dataset} under {base}{others}; give the folder that the "
                "authors ship, or a train and a test list of each fold, such as split01/train.csv "
                "and split01/test.csv; of dataset csv also one file"
            )
        found = read_lists(tree, labels, chosen, base)
    return _table(dataset, tree, found)


def _places(dataset: str, root: Place, lists: Place) -> tuple[Path, Path | None]:
    root = Path(root).expanduser() if root is not None else data_folder()
    if root is None:
        raise ValueError("root is not given and MAEDFER_DATA is not set; name the clips' folder")
    if root.is_file():
        root, lists = root.parent, root
    if dataset == "csv" and lists is None and (root / "annotations.csv").is_file():
        lists = root / "annotations.csv"
    if lists is not None:
        lists = Path(lists).expanduser().absolute()
        if not lists.exists():
            raise FileNotFoundError(f"lists={str(lists)!r} does not exist; give a folder or a file")
        if lists.is_file() and dataset != "csv":
            raise ValueError(f"lists={str(lists)!r} is a file; give its folder, or dataset csv")
    return root.absolute(), lists


def _table(dataset: str, tree: Tree, found: Reading) -> tuple[Annotations, tuple[Problem, ...]]:
    """Sort the clips, name the people, split them if no split is given, and check for leaks."""
    clips = sorted(found.clips, key=lambda clip: natural_key(Path(tree.name(clip.path))))
    is_own = dataset in ("folder", "csv")
    # In the sets cut from films people are unknown, and their folders are scenes.
    known = None if dataset in OTHERS else published_labels(dataset)
    unnamed = not found.people_told and not any(clip.subject for clip in clips)
    if unnamed and (dataset == "csv" or (known and known.test_fold)):
        clips = _with_people(clips, tree, found, is_known=known is not None)
    elif dataset == "csv" and (manifests := manifests_in(tree.root)):
        note = f"suspicious: {manifests[0].name} is not read, since a list tells who is seen: "
        found.notes.append(note + "remove one of the two")
    clips = _spelled_alike(clips, found)
    unknown = sum(not clip.subject for clip in clips) if dataset in OTHERS else 0
    clips = _with_copies(clips, tree, found) if unknown else clips
    table = Annotations(dataset, found.classes, tuple(clips), tree.root)
    copies = table.copies() if is_own else []
    table = _joined(table, [c for c in copies if len({clip.fold for clip in c}) == 1], found)
    if found.splits and clips:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                labels = [table.classes[clip.label] for clip in table.clips]
                tested = set(split_people(table.people(), _SHARE, 0, labels)[1])
            found.notes += [str(warning.message) for warning in caught]
            clips = (replace(clip, fold=int(i in tested)) for i, clip in enumerate(table.clips))
            table = replace(table, clips=tuple(clips))
        except ValueError as error:
            found.problem("people", tree.root, str(error))
    for who, where in table.on_both_sides().items():
        what = f"{who!r} is on both sides of a fold: {where}"
        if is_own and not found.people_told:
            what += " (if folders or names are no people, a column subject or MANIFEST.csv says so)"
        found.problem("subject overlap", tree.root, what)
    found.problems += filter(None, map(table.copy_problem, copies))
    found.notes += _contradictions(table, found) if dataset in OTHERS else ()
    found.notes += unknown_people(unknown, len(table))
    notes = [*found.notes, *tree.ignored]
    notes += [how_read(table, found.people_by * (unknown < len(table)))] if len(table) else []
    return replace(table, notes=tuple(notes)), tuple(found.problems)


def how_read(table: Annotations, people_by: str) -> str:
    """Who is seen and what tells it, and what a few of the clips were taken for."""
    number = Counter(table.people())
    shown = ", ".join(f"{who} ({n:,})" for who, n in number.most_common(3))
    clips = []
    places = np.unique(table.folds, return_index=True)[1].tolist()  # the first of each fold
    for clip in map(table.clips.__getitem__, dict.fromkeys([*places[:2], len(table) - 1])):
        side = f"tested in fold {clip.fold}" if clip.fold else "trained on"
        meant = [table.classes[clip.label], clip.subject or "an unknown person", side]
        meant = meant if table.dataset != "voxceleb2" else meant[1:2]
        clips.append(f"{table.name(clip)} is {', '.join(meant)}")
    by = f"{len(number):,} by {people_by}" if people_by else "not known, a clip counts as one"
    return f"{_READING}{by}; most clips show {shown}; for instance {'; '.join(clips)}"


def _contradictions(table: Annotations, found: Reading) -> Iterator[str]:
    """Notes on files called as another class, and on people who may be none."""
    words = {plain_word(name): i for i, name in enumerate(table.classes) if is_expression(name)}
    sides = [*_told(table, lambda word: side_of(word) or fold_of(word))]
    shown = [*_told(table, lambda w: plain_word(w.strip("_ -0123456789")) * is_expression(w))]
    pairs = {(clip.label, word) for clip, some in shown for word in some}
    is_used = words or len(pairs) == len({word for _, word in pairs})
    for told, what in ((sides * found.splits, "a split"), (shown * (not is_used), "expressions")):
        first = {word: table.name(clip) for clip, some in told for word in some}
        if len(first) > 1 and 2 * sum(bool(some) for _, some in told) >= len(table):
            note = f"suspicious: names such as {' and '.join([*first.values()][:2])} seem to tell "
            yield f"{note}{what}, which is not used: folders do, or a list with a column of it"
    said = ((clip, {words[word] for word in some & words.keys()}) for clip, some in shown)
    odd = [clip for clip, labels in said if labels and clip.label not in labels]
    if odd:
        note = f"suspicious: {len(odd):,} files are called as another class than theirs, such as "
        yield note + f"{table.name(odd[0])} of class {table.classes[odd[0].label]}"
    clips = {"", *map(table.name, table.clips)}
    number = Counter(who for clip in table.clips if (who := clip.subject or "") not in clips)
    if len(number) > 3 and max(number.values()) == 1:
        note = f"suspicious: each of {len(number):,} people has one clip, so these may be names of "
        yield note + "clips; MANIFEST.csv (columns file, identity) can name people"
    if rounded := [who for who in number if re.fullmatch(r"(?i)\d+([.,]\d+)?e\+\d+", who)]:
        yield f"suspicious: {rounded[0]!r} is a number that a spreadsheet rounded, and may be many"
    is_guess = found.people_by.startswith(_GUESSED)
    odd_ones = sorted(who for who in number if not may_be_person(who, is_guess))
    if odd_ones and (is_guess or len(odd_ones) == len(number)):
        note = f"suspicious: people are called {', '.join(odd_ones[:3])}: are these people? "
        yield note + "--layout, MANIFEST.csv or a column subject says so"
    folds, labels = table.folds, table.labels
    sides = {name: {*folds[labels == i].tolist()} for i, name in enumerate(table.classes)}
    lost = [name for name, some in sides.items() if len(some) == 1 and some != {0}]
    if lost and not found.splits:
        yield f"no clip of class {', '.join(lost[:5])} is trained on: all are tested in one fold"
    if len(table) > 9 and len(table) < 2 * len(table.classes):
        note = f"suspicious: {len(table):,} clips have {len(table.classes):,} different labels: "
        yield note + "are these classes?"


def _told(table: Annotations, meant: Callable[[str], Any]) -> Iterator[tuple[Clip, set[Any]]]:
    """What words of each clip's name mean; failing that, of its folders but the class's."""
    for clip in table.clips:
        above, own = table.name(clip).split("/")[:-1], table.classes[clip.label]
        texts = clip.path.stem, " ".join(part for part in above if part != own)
        words = (map(meant, re.findall(r"[^\W\d_]+(?:[ _-]?\d+)?", text)) for text in texts)
        yield clip, next(filter(None, ({*some} - {None, ""} for some in words)), set())


def unknown_people(unknown: int, clips: int) -> list[str]:
    """A note on clips of unknown people, if there are any."""
    note = f"unknown people in {unknown:,} of {clips:,} clips: each counts as a separate person; "
    return [note + "MANIFEST.csv (columns file, identity) can name them"] * bool(unknown)


def _joined(table: Annotations, copies: list[list[Clip]], found: Reading) -> Annotations:
    """One name for all people who share an identical file: no split separates them."""
    one: dict[str, str] = {}  # person -> the one they count as
    named, shown = {clip.subject for clip in table.clips}, []
    for group in copies:
        people = list(dict.fromkeys(one.get(who, who) for who in table.people(group)))
        first = next((who for who in people if who in named), f"copy of {people[0]}")
        one |= {who: first for who in (*people, *(w for w, now in one.items() if now in people))}
        if first in named and len(people) > 1:
            shown.append(" = ".join(table.name(clip) for clip in group[:3]))
    if shown:
        found.notes.append(
            f"suspicious: {len(shown):,} file(s) occur under several people, who are kept on one "
            f"side as one person: {'; '.join(shown[:5])}" + "; ..." * (len(shown) > 5)
        )
    people = zip(table.clips, table.people(), strict=True)
    clips = (replace(clip, subject=one.get(who, clip.subject)) for clip, who in people)
    return replace(table, clips=tuple(clips))


def _with_people(clips: list[Clip], tree: Tree, found: Reading, is_known: bool) -> list[Clip]:
    """The clips with their people, as far as MANIFEST.csv, names or folders say."""
    names = [tree.name(clip.path) for clip in clips]
    who = people_of(names, tree.root, found)
    if is_known:  # the numbers of the published folds
        who = [person and str(int(re.sub(r"\D", "", person) or 0)) for person in who]
    elif not found.people_told:
        pairs = {(person, clip.label) for person, clip in zip(who, clips, strict=True)}
        are_folders = all(f"{one}/" in name for one, name in zip(who, names, strict=True))
        if are_folders and len(pairs) == len(set(who)) == len({clip.label for clip in clips}):
            who = [None] * len(who)  # these are the folders of classes
    return [replace(clip, subject=person) for clip, person in zip(clips, who, strict=True)]


def _spelled_alike(clips: list[Clip], found: Reading) -> list[Clip]:
    """One name for people who are spelled in two ways; two people in one name are a problem."""
    first: dict[tuple[str, ...], str] = {}
    where = {clip.subject or "": clip for clip in reversed(clips)}
    classes = {words for words in map(person_words, found.classes) if not words[0].isdecimal()}
    keys = {
        name: tuple(word for word in key if (word,) not in classes) or key
        for name, key in same_persons(set(where) - {""}).items()
    }
    keys = {name: keys[name] for name in dict.fromkeys(c.subject for c in clips if c.subject)}
    other = {name: first.setdefault(key, name) for name, key in keys.items()}
    if pairs := [f"{one!r} and {name!r}" for name, one in other.items() if one != name]:
        note = f"suspicious: people spelled in two ways are taken for one: {', '.join(pairs[:5])}"
        found.notes.append(note)
    if alike := list(dict.fromkeys(_may_be_one({one: keys[one] for one in other.values()}))):
        note = f"suspicious: {' and '.join(map(repr, alike[0]))} count as two people"
        note += f", and so do {len(alike) - 1:,} such pairs" * bool(alike[1:])
        found.notes.append(f"{note}; if they are one, give them one name")
    for name, part, elsewhere in named_together(keys, person_words):
        what = f"{name!r} is several people, of whom {part!r} is seen in {where[elsewhere].source} "
        what += "too, so that no split can part them; give all their clips one name, or leave these"
        found.problem("people", where[name].source, what + " out")
    return [replace(c, subject=other.get(c.subject or "", c.subject)) for c in clips]


def _may_be_one(keys: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Pairs of people who may be one, by their words (`same_persons`).

    One is in the other's name (anna, Anna M., Anna Meyer); only what follows a number or the last
    word differs (P01_left, P01_right); the same number has two words for a person (P1, participant
    1); without numbers, order or one letter (Meyer Anna, Schmitd); or both may be pairs (1-2, 2-3).
    """
    known = {key: name for name, key in reversed(keys.items())}
    takes: dict[tuple[str, ...], list[str]] = defaultdict(list)
    near: dict[str, str] = {}
    for name, key in keys.items():
        parts = {key[i:j] for i, j in combinations(range(len(key) + 1), 2)}
        parts = (parts | {(*key[:-1], key[-1][0])} if key[-1].isalpha() else parts) - {key}
        yield from ((known[part], name) for part in sorted(parts & known.keys()))
        place = next((i for i, word in enumerate(key) if word.isdecimal()), len(key)) + 1
        if 1 < place < len(key):
            takes[key[:place]].append(name)
        elif is_person_number(key):
            yield from ((one, name) for one in [near.setdefault(key[1], name)] if one != name)
        elif key[-1].isdecimal() or not may_be_name(key[-1]):
            if key[2:] or (key[1:] and may_be_name(key[0])):
                takes[key[:-1]].append(name)
        elif place > len(key) and len(text := "".join(key)) > 4:
            ways = [text, "".join(sorted(key)), *map("".join, combinations(text, len(text) - 1))]
            yield from ((one, name) for way in ways if (one := near.setdefault(way, name)) != name)
    pairs = {key: who for who, key in keys.items() if len(key) == 2}
    if all(first != second for first, second in pairs):  # 1-1 is no pair of people
        seconds = {second: who for (_, second), who in pairs.items()}
        yield from ((seconds[a], who) for (a, _), who in pairs.items() if a in seconds)
    alike = [some for some in takes.values() if some[1:]]
    # A single large group is how people are numbered.
    if alike[1:] or (alike and len(alike[0]) <= min(9, len(keys) // 2)):
        yield from ((some[0], other) for some in alike for other in some[1:])


def _with_copies(clips: list[Clip], tree: Tree, found: Reading) -> list[Clip]:
    """The clips, altered copies of one whose person is not told kept with it."""
    names, who = [tree.name(clip.path) for clip in clips], [clip.subject for clip in clips]
    people = people_of_copies(names, who)
    if copies := [
        name for name, old, new in zip(names, who, people, strict=True) if new not in (old, name)
    ]:
        found.notes.append(
            f"{len(copies):,} clips are altered copies, by their names ({copies[0]}), and stay on "
            "the side of their originals; MANIFEST.csv (columns file, identity) says otherwise"
        )
    return [replace(clip, subject=person) for clip, person in zip(clips, people, strict=True)]
