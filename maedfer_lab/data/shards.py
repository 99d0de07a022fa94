"""Prepared sets: open what `maedfer prepare` wrote as an annotation table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from maedfer_lab.data.labels import OTHERS
from maedfer_lab.data.layouts import MOST_FOLDS, named_together, person_words, same_persons
from maedfer_lab.data.shard_format import (
    AGAIN,
    MANIFEST,
    Index,
    is_url,
    open_index,
    place,
    refuse,
    shard_and_name,
    shard_name,
)
from maedfer_lab.data.table import FIELDS, TOLD, Annotations, Clip, how_read, unknown_people

SKIPPED = "skipped.csv"


class Clips(Sequence[Clip]):
    """Rows of a prepared set's index: a `Clip` is made on demand."""

    def __init__(self, index: Index, folder: Path, rows: Int[np.ndarray, " n"]) -> None:
        self.columns, self.folder, self.rows = index, folder, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Clip: ...
    @overload
    def __getitem__(self, number: slice | Sequence[int] | np.ndarray) -> Clips: ...
    def __getitem__(self, number: int | slice | Sequence[int] | np.ndarray) -> Clip | Clips:
        """One clip, or those at many indices."""
        rows = self.rows[number]
        if isinstance(rows, np.ndarray):
            return Clips(self.columns, self.folder, rows)
        index, row = self.columns, int(rows)
        return Clip(
            path=Path(f"{self.folder}/{index.shard_of(row)}/{index.text('name', row)}"),
            label=int(index["label"][row]),
            fold=int(index["fold"][row]),
            frames=int(index["frames"][row]),
            source=index.text("source", row),
            subject=index.text("person", row) or None,
        )

    @property
    def people(self) -> Int[np.ndarray, " n"]:
        """A number for the person in each clip; a separate one if unknown."""
        person, name = self.columns["person"][self.rows], self.columns["name"][self.rows]
        return np.where(person > 0, person, name).astype(np.int64)


@dataclass(frozen=True)
class ShardedAnnotations(Annotations):
    """The table of a prepared folder: rows are in the index; it pickles as the index's path."""

    clips: Clips

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """Class of each clip, from 0."""
        return self.clips.columns["label"]

    @property
    def folds(self) -> Int[np.ndarray, " n"]:
        """The fold that tests each clip, from 1; 0 = never tested."""
        return self.clips.columns["fold"]

    def take(self, places: Int[np.ndarray, " m"]) -> Clips:
        """The clips at many places."""
        return self.clips[places]

    def counts(self, clips: Iterable[Clip] | None = None) -> tuple[int, ...]:
        """Clips of each class, among `clips` or all."""
        clips = self.clips if clips is None else clips
        if not isinstance(clips, Clips):
            return super().counts(clips)
        labels = clips.columns["label"][clips.rows]
        return tuple(np.bincount(labels, minlength=len(self.classes)).tolist())

    def name(self, clip: Clip) -> str:
        """The clip's path below the root of the original data set."""
        found = shard_and_name(clip.path)
        return found[2] if found else super().name(clip)

    def people(self, clips: Iterable[Clip] | None = None) -> list[str]:
        """The person in each clip; a clip of an unknown person counts as a person."""
        clips = self.clips if clips is None else clips
        if not isinstance(clips, Clips):
            return super().people(clips)
        numbers, places = np.unique(clips.people, return_inverse=True)
        names = [clips.columns.word(number) for number in numbers.tolist()]
        return [names[place] for place in places.tolist()]

    def summary(self) -> dict[str, Any]:
        """As of any table; of very many clips from whole columns, without asking each."""
        if len(self) <= TOLD:
            return super().summary()
        index = self.clips.columns
        columns = [index[name].tobytes() for name in ("name", "label", "fold", "person")]
        columns.append(index.about["shards"].encode())
        digests = [hashlib.sha256(column).hexdigest() for column in columns]
        return self._summary(dict(zip(FIELDS, digests, strict=True)), [None] * len(self))

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Of the tar in which each clip lies."""
        index = self.clips.columns
        return np.repeat(index.about["bytes"], np.diff(index.first)).tolist()

    @cached_property
    def contents(self) -> Sequence[str]:
        """Digest of all shards, for each clip."""
        return [self.clips.columns.about["shards"]] * len(self)

    @property
    def reading(self) -> str:
        """As of any table; the people may have been mended in the set's own list."""
        return how_read(self, MANIFEST)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (place(self.root), self.clips.columns.file)


def _reopened(folder: str, file: Path) -> ShardedAnnotations:
    return _table(folder, open_index(folder, file))


def open_shards(folder: str | Path, verify: bool = False) -> ShardedAnnotations:
    """Open a folder that `prepare` finished, or the same behind a URL (s3://, hf://, https://).

    A clip's path is ``FOLDER/shard-00000.tar/NAME``, which `open_video` reads as well. Every
    shard's size is compared; ``verify`` reads them whole and compares checksums (each frame's own
    is compared whenever it is read). The index is made if there is none that fits the folder.

    Raises FileNotFoundError for an unfinished folder, ImportError naming the package that opens
    such a URL, ValueError naming damaged shards.
    """
    text = place(folder)
    index = open_index(text, verify=verify)
    if not is_url(text):
        found = {entry.name: entry.stat().st_size for entry in os.scandir(text)}
        damaged = []
        for name, right in ((shard_name(i), n) for i, n in enumerate(index.about["bytes"])):
            if (size := found.get(name)) is None:
                damaged.append(f"{folder}/{name} is missing; {AGAIN}")
            elif size != right:
                damaged.append(f"{folder}/{name} has {size:,} bytes and not {right:,}; {AGAIN}")
        refuse(damaged, len(index.about["bytes"]))
    return _table(text, index)


def _table(folder: str, index: Index) -> ShardedAnnotations:
    about, root = index.about, Path(folder)
    for name, most in (("label", max(len(about["classes"]) - 1, 0)), ("fold", MOST_FOLDS)):
        if len(index) and not 0 <= index[name].min() <= index[name].max() <= most:
            raise ValueError(f"{folder}: a clip's {name} is not in [0, {most}]; {AGAIN}")
    skipped = about["skipped"]
    notes = [f"{skipped:,} clips were skipped, see {SKIPPED}"] * bool(skipped)
    notes += about.get("notes", [])  # older sets have none
    clips = Clips(index, root, np.arange(len(index), dtype=np.int32))
    if about["dataset"] in ("folder", "csv"):  # people may be mended in MANIFEST.csv
        people = np.setdiff1d(index["person"], index["name"])
        names, spelled = [index.word(number) for number in people[people > 0].tolist()], {}
        pairs = [(spelled.setdefault(key, name), name) for name, key in same_persons(names).items()]
        pairs += [pair[::2] for pair in named_together(names, person_words)]
        for one, name in (pair for pair in pairs if pair[0] != pair[1]):
            notes.append(f"suspicious: {one!r} and {name!r} of MANIFEST.csv may show one person")
    if about["dataset"] in OTHERS:
        notes += unknown_people(int(np.isin(clips.people, index["name"]).sum()), len(clips))
    return ShardedAnnotations(about["dataset"], tuple(about["classes"]), clips, root, tuple(notes))
