"""One table of class names per data set, in the order of the official code; counts and folds.

A label is the place of its class in this order, from 0. DFEW's own lists count from 1
(1 = happy ... 7 = fear); the official code and this table take one off. FERV39k's, MAFW's and
eNTERFACE's lists and folders hold names; CREMA-D's and RAVDESS's file names hold codes (ANG, 01).

The numbers lie in published/, from where the paper's code reads them too.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published")

# Name here -> (title in print, number of folds, first label in the authors' own lists).
_TITLES = {
    "dfew": ("DFEW", 5, 1),
    "ferv39k": ("FERV39k", 1, 0),
    "mafw": ("MAFW", 5, 0),
    "cremad": ("CREMA-D", 5, 0),
    "ravdess": ("RAVDESS", 6, 0),
    "enterface": ("eNTERFACE05", 5, 0),
}
OTHERS = ("folder", "csv", "voxceleb2")  # no table: classes come from the data, or there are none
DATASETS = (*_TITLES, *OTHERS)
_ALIASES = {"enterface05": "enterface", "voxceleb": "voxceleb2", "vox2": "voxceleb2"}

# Words for one expression, so that "Angry" in a folder's name finds the class "anger".
_SAME = (
    ("happy", "happiness", "joy"),
    ("sad", "sadness"),
    ("anger", "angry"),
    ("fear", "fearful"),
    ("surprise", "surprised"),
    ("disgust", "disgusted"),
)
_WORD = {word: words[0] for words in _SAME for word in words}


@dataclass(frozen=True)
class Labels:
    """What is published about the labels of a data set.

    title: name in print. classes: names in label order. first_label: what the authors' own lists
    call the first class. test_fold: subject number -> fold in which it is tested, where folds are
    made of subjects. counts: (fold, "train" or "test") -> clips of each class.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    num_folds: int
    first_label: int = 0
    test_fold: dict[int, int] = field(default_factory=dict)
    counts: dict[tuple[int, str], tuple[int, ...]] = field(default_factory=dict)

    @property
    def clips_per_class(self) -> tuple[int, ...]:
        """Clips of each class, both sides of a fold together."""
        fold = 1, "train"
        return tuple(a + b for a, b in zip(self.counts[fold], self.counts[1, "test"], strict=True))


def dataset_name(text: str) -> str:
    """The name used here for a data set however it is spelled: "CREMA-D" is cremad.

    Raises:
        ValueError: unknown; the message lists the known ones.
    """
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    plain = _ALIASES.get(plain, plain)
    if plain not in DATASETS:
        raise ValueError(f"dataset={text!r} is not known; known are {', '.join(DATASETS)}")
    return plain


@cache
def published_labels(dataset: str) -> Labels | None:
    """The table of one of the six labelled sets; None for the others in `DATASETS`."""
    dataset = dataset_name(dataset)
    if dataset in OTHERS:
        return None
    title, num_folds, first = _TITLES[dataset]
    subjects = _json("test_subjects").get(title, {})
    with (PUBLISHED / "split_counts.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == title]
    return Labels(
        name=dataset,
        title=title,
        classes=tuple(_json("labels")[title]),
        num_folds=num_folds,
        first_label=first,
        test_fold={number: int(fold) for fold, numbers in subjects.items() for number in numbers},
        counts={
            (1 if row["fold"] == "all" else int(row["fold"]), row["part"]): tuple(
                map(int, row["clips_per_class"].split())
            )
            for row in rows
        },
    )


def label_number(text: str, classes: Sequence[str], first: int = 0) -> int | None:
    """The label that a number (counted from `first`) or a class's name stands for, else None.

    Names are compared without case, and "angry" is taken for "anger" and the like.
    """
    if re.fullmatch(r"-?\d+", text):
        number = int(text) - first
        return number if 0 <= number < len(classes) else None
    words = [_plain_word(name) for name in classes]
    return words.index(_plain_word(text)) if _plain_word(text) in words else None


def _plain_word(text: str) -> str:
    word = text.strip().lower()
    return _WORD.get(word, word)


@cache
def _json(name: str) -> dict:
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))
