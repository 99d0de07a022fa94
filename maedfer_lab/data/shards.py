"""Prepared folders: open what `maedfer prepare` wrote as an annotation table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from maedfer_lab.data.layouts import identities
from maedfer_lab.data.shard_format import (
    AGAIN,
    INDEX,
    Shard,
    file_sha256,
    read_shard,
    shard_and_name,
    shard_file,
)
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.files import write_aside

FORMAT = 1
MANIFEST = "MANIFEST.csv"
SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class ShardedAnnotations(Annotations):
    """The table of a prepared folder; clips are named as they were before."""

    def name(self, clip: Clip) -> str:
        """The clip's path below the root of the original data set."""
        found = shard_and_name(clip.path)
        return found[1] if found else super().name(clip)


def open_shards(folder: str | Path, verify: bool = False) -> ShardedAnnotations:
    """Open a folder that `prepare` finished.

    A clip's path is ``FOLDER/shard-00000.tar/NAME``, which `open_video` reads as well; its frames
    are counted. Every shard's size is compared; ``verify`` reads them whole and compares checksums
    (each frame's own checksum is compared whenever it is read).

    Raises:
        FileNotFoundError: no prepared folder, or not finished.
        ValueError: damaged shards; the message names them.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        head = index["format"], index["dataset"], index["classes"], index["shards"]
    except FileNotFoundError as error:
        begun = any(folder.glob("shard-*.json"))
        raise FileNotFoundError(
            f"{folder} is not finished: run the same `maedfer prepare` again"
            if begun
            else f"{folder} holds no {INDEX}; name a folder that `maedfer prepare` wrote"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is damaged; {AGAIN}") from error
    number, dataset, classes, listed = head
    if number != FORMAT:
        raise ValueError(
            f"{folder / INDEX} has format {number!r}, this version reads {FORMAT}: prepare again"
        )
    clips: list[Clip] = []
    damaged: list[str] = []
    for place, entry in enumerate(tqdm(listed, "opening shards", disable=not verify)):
        file = shard_file(folder, place)
        try:
            shard = read_shard(file)
            if shard.sha256 != entry["sha256"] or (verify and file_sha256(file) != shard.sha256):
                raise ValueError(f"{file} differs from its checksum; {AGAIN}")
            clips += shard_clips(file, shard)
        except ValueError as error:
            damaged.append(str(error))
    if damaged:
        shown = "".join(f"\n  {text}" for text in damaged[:5])
        more = f"\n  and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise ValueError(f"{len(damaged)} of {len(listed)} shards are damaged:{shown}{more}")
    if (folder / MANIFEST).is_file() and not all(clip.subject for clip in clips):
        # Folders that were prepared before people stood with the clips tell them here alone.
        who = identities([clip.path for clip in clips], folder)
        clips = [
            c if c.subject or not person or c.path.as_posix().endswith(f".tar/{person}")
            else replace(c, subject=person)
            for c, person in zip(clips, who, strict=True)
        ]  # fmt: skip
    skipped = index["skipped"]
    notes = (f"{skipped:,} clips were skipped, see {SKIPPED}",) if skipped else ()
    return ShardedAnnotations(dataset, tuple(classes), tuple(clips), folder, notes)


def shard_clips(file: Path, shard: Shard) -> list[Clip]:
    """The clips of one shard as rows of a table."""
    return [
        Clip(file / c["name"], c["label"], c["fold"], c["frames"], c["source"], c["subject"])
        for c in shard.clips
    ]


def write_tables(
    folder: Path,
    files: Sequence[Path],
    shards: Sequence[Shard],
    classes: Sequence[str],
    identity: dict[str, str],
    problems: Sequence[tuple[str, str]],
) -> None:
    """Write MANIFEST.csv (by which `split_videos` knows the people) and skipped.csv."""
    rows = [
        (f"{file.name}/{c['name']}", identity[c["name"]], c["name"],
         classes[c["label"]] if 0 <= c["label"] < len(classes) else "", c["label"], c["fold"],
         c["frames"], c["height"], c["width"], c["source"])
        for file, shard in zip(files, shards, strict=True)
        for c in shard.clips
    ]  # fmt: skip
    heads = "file identity name class label fold frames height width source".split()
    _write_csv(folder / MANIFEST, heads, rows)
    lost = [
        (c["name"], c["reason"], file.name)
        for file, shard in zip(files, shards, strict=True)
        for c in shard.skipped
    ]
    lost += [(where, what, "") for where, what in problems]
    _write_csv(folder / SKIPPED, ["clip", "reason", "shard"], lost)


def _write_csv(path: Path, heads: Sequence[str], rows: Sequence[tuple[object, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    write_aside(path, text.getvalue().encode())
