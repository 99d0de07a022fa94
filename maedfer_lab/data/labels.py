"""One table of class names per data set, in the order of the official code; counts and folds.

A label is the index of its class in this order, from 0 (DFEW's own lists count from 1). Numbers and
words are in published/, from where the paper's code reads them too.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from maedfer_lab.files import read_bytes, reading

PUBLISHED = Path(__file__).with_name("published")


@cache
def published(name: str) -> dict[str, Any]:
    """One of the JSON files of `PUBLISHED`."""
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))


WORDS = published("layouts")
OTHERS = ("folder", "csv", "voxceleb2")  # no table: classes come from the data, or there are none
DATASETS = (*WORDS["sets"], *OTHERS)
LOOK_ALIKE = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445", "aeopcyx")  # Cyrillic
# Words for one expression, so that "Angry" in a folder's name finds the class "anger".
_WORD = {word: words[0] for words in WORDS["same"] for word in words}
# What says that a name is an altered copy's: flip_a, a_rot-15, a (1), Copy of a.
_ALTERED = rf"(?:{WORDS['altered copy']})(?:[ _.-]*\d+(?:\.\d+)?(?:px|deg)?)?"
_COPY = re.compile(
    rf"^(?:{WORDS['altered copy']})$|^(?:{_ALTERED}[ _.-]+(?:(?:of|von|de|di) )?)+"
    rf"|(?:[ _.([-]+{_ALTERED}[)\]]?|[ _-]*\(\d+\))+$"
)


@dataclass(frozen=True)
class Labels:
    """What is published about the labels of a data set.

    title: name in print. classes: names in label order. first_label: what the authors' own lists
    call the first class. test_fold: subject number -> fold in which it is tested, for folds
    made of subjects. counts: (fold, "train" or "test") -> clips of each class.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    num_folds: int
    first_label: int
    test_fold: dict[int, int]
    counts: dict[tuple[int, str], tuple[int, ...]]

    @property
    def clips_per_class(self) -> tuple[int, ...]:
        """Clips of each class, in training and test together."""
        sides = (self.counts[1, "train"], self.counts[1, "test"])
        return tuple(map(sum, zip(*sides, strict=True)))


def dataset_name(text: str) -> str:
    """The name used here for a data set in any spelling: "CREMA-D" is cremad.

    What follows a colon is a layout: "folder:class/person/clip" is folder.

    Raises:
        ValueError: unknown; the message lists the known ones.
    """
    plain = re.sub(r"[^a-z0-9]", "", text.partition(":")[0].lower())
    plain = WORDS["also called"].get(plain, plain)
    if plain not in DATASETS:
        raise ValueError(
            f"dataset={text!r} is not known; known are {', '.join(DATASETS)} "
            "(finetune takes shards and synthetic too)"
        )
    return plain


@cache
def published_labels(dataset: str) -> Labels | None:
    """The table of one of the six labelled sets; None for the others in `DATASETS`."""
    dataset = dataset_name(dataset)
    if dataset in OTHERS:
        return None
    title, num_folds, first = WORDS["sets"][dataset]
    subjects = published("test_subjects").get(title, {})
    test_fold = {number: int(fold) for fold, numbers in subjects.items() for number in numbers}
    with (PUBLISHED / "split_counts.csv").open(encoding="utf-8", newline="") as file:
        counts = {
            (1 if row["fold"] == "all" else int(row["fold"]), row["part"]): tuple(
                map(int, row["clips_per_class"].split())
            )
            for row in csv.DictReader(file)
            if row["dataset"] == title
        }
    classes = tuple(published("labels")[title])
    return Labels(dataset, title, classes, num_folds, first, test_fold, counts)


def label_number(text: str, classes: Sequence[str], first: int = 0) -> int | None:
    """The label for a class's name or a number (counted from `first`), else None.

    The exact name is tried first, then the number, then the name without case and its synonyms
    ("angry" is "anger"), if it means only one class.
    """
    if text in classes:
        return classes.index(text)
    if re.fullmatch(r"[+-]?\d+", text):
        number = int(text) - first
        return number if 0 <= number < len(classes) else None
    same = [i for i, name in enumerate(classes) if plain_word(name) == plain_word(text)]
    return same[0] if len(same) == 1 else None


def plain_word(text: str) -> str:
    """A class's name without case, marks between words and synonyms: "Angry " is "anger"."""
    text = unicodedata.normalize("NFC", text).strip().casefold().translate(LOOK_ALIKE)
    if re.fullmatch(r"[+-]?\d+", text):
        return str(int(text))
    word = " ".join(re.findall(r"[^\W_]+", text)) or text
    return _WORD.get(word, word)


@lru_cache(10_000)
def original(text: str) -> str:
    """A name without case and what tells an altered copy or another file of this name: a_flip."""
    return _COPY.sub("", unicodedata.normalize("NFC", text).strip().casefold())


def is_expression(text: str) -> bool:
    """Whether a folder's name is a word for an expression: happy, "01_happy", happy_videos."""
    shown = r"(?:[ _.-]+(?:videos?|clips?|faces?|frames?|images?))?"
    return plain_word(re.sub(rf"^\d+[ _.-]*|{shown}[ _.-]*\d*$", "", text)) in _WORD


@dataclass(frozen=True)
class Matched:
    """Mapping of a model's classes to those of a test.

    classes: of the test. columns: the index of each of the model's classes among them, -1 for one
    that is left out. labels: the same for the classes of the table. note: a remark to print.
    """

    classes: tuple[str, ...]
    columns: tuple[int, ...]
    labels: tuple[int, ...]
    note: str = ""

    def gather(self, found: Float[np.ndarray, "v k"]) -> Float[np.ndarray, "v c"]:
        """Probabilities of the test's classes; those of left-out classes are redistributed."""
        kept = np.zeros((len(found), len(self.classes)))
        for k, column in enumerate(self.columns):
            if column >= 0:
                kept[:, column] += found[:, k]
        return kept if min(self.columns) >= 0 else kept / kept.sum(1, keepdims=True)


def match_classes(
    num: int,
    names: Sequence[str] | None,
    classes: Sequence[str],
    dataset: str,
    file: Path | None = None,
) -> Matched:
    """Match the `num` classes of a model with those of a data set, by name.

    names: of the model's classes in order, None if unknown: then the number decides, and they are
        taken in the data set's order.
    file: CSV (a line per class of the model: its name, the data set's) or JSON (an object), for a
        test on another data set. Several classes may be merged; one with an empty name is left
        out, and so are clips of a class that no class of the model maps to.

    Raises:
        ValueError: other names, or another number; shows both.
    """
    theirs, every = tuple(classes), tuple(range(num))
    if names is None:
        if file is not None:
            raise ValueError(f"{file} maps names, and the model tells none; add --labels")
        if num != len(theirs):
            raise ValueError(
                f"the model has {num} classes, {dataset} has {len(theirs)} "
                f"({', '.join(theirs)}); choose the data set that the model was fine-tuned on"
            )
        known = "the published order" if dataset in WORDS["sets"] else "the order"
        note = f"the model tells no names; its {num} classes are taken in {known} of {dataset}: "
        return Matched(theirs, every, every, note + ", ".join(theirs))
    ours = tuple(names)
    if len(ours) != num:
        raise ValueError(f"{len(ours)} names ({', '.join(ours)}) for a model of {num} classes")
    if file is None:
        if sorted(ours) != sorted(theirs):
            rows = zip_longest(("model", *ours), (dataset, *theirs), fillvalue="")
            shown = "\n  ".join(f"{a:<20} {b}" for a, b in rows)
            raise ValueError(
                f"the model and {dataset} name other classes:\n  {shown}\nChoose the data set that "
                "it was fine-tuned on, or give --map: a CSV with a line for each class of the "
                "model, such as 'happy,happiness' ('neutral,' leaves it out)"
            )
        note = f"classes matched by name; the model's order is {', '.join(ours)}"
        return Matched(theirs, tuple(map(theirs.index, ours)), every, note * (ours != theirs))
    pairs = _read_map(file)
    for what, wrong, known in (
        ("has no line for", set(ours) - set(pairs), ours),
        ("maps the unknown", set(pairs) - set(ours), ours),
        ("maps to the unknown", set(pairs.values()) - {*theirs, ""}, theirs),
    ):
        if wrong:
            names = ", ".join(map(repr, sorted(wrong)))
            raise ValueError(f"{file} {what} {names}; known: {', '.join(known)}")
    kept = [name for name in theirs if name in pairs.values()]
    if not kept:
        raise ValueError(f"{file} leaves every class out; name one of {', '.join(theirs)}")
    place = {name: i for i, name in enumerate(kept)}
    said = [f"{name} -> {pairs[name]}" for name in ours if pairs[name]]
    for whose, left in (
        ("the model's", [name for name in ours if not pairs[name]]),
        (f"all clips of {dataset}'s", [name for name in theirs if name not in kept]),
    ):
        said += [f"left out: {whose} {', '.join(left)}"] * bool(left)
    columns = tuple(place.get(pairs[name], -1) for name in ours)
    labels = tuple(place.get(name, -1) for name in theirs)
    return Matched(
        tuple(kept), columns, labels, f"classes mapped by {file.name}: {'; '.join(said)}"
    )


def _read_map(file: Path) -> dict[str, str]:
    with reading(file):
        text = read_bytes(file.expanduser()).decode("utf-8-sig")
        if file.suffix.lower() == ".json":  # as pairs: a class that is named twice is seen
            content = json.loads(text, object_pairs_hook=lambda pairs: {"pairs": pairs})
            if not isinstance(content, dict):
                raise ValueError("it must hold one object, such as {'happy': 'happiness'}")
            rows = [[ours, "" if theirs is None else theirs] for ours, theirs in content["pairs"]]
        else:
            rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
        odd = [row for row in rows if len(row) != 2 or not all(isinstance(x, str) for x in row)]
        pairs = {} if odd else dict(rows)
    if len(pairs) < len(rows):
        said = str(odd or rows)[:200]
        raise ValueError(f"{file} must name each class of the model once, 'ours,theirs': {said}")
    return pairs
