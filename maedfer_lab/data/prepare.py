"""`maedfer prepare`: cut the faces out of a data set once, into shards that are quick to read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from maedfer_lab.data.prepare_workers import Job, encode_in_order
from maedfer_lab.data.shard_format import INDEX, Shard, ShardWriter, read_shard, shard_file
from maedfer_lab.data.shards import FORMAT, SKIPPED, write_tables
from maedfer_lab.data.table import Annotations, Clip, Problem, find_annotations
from maedfer_lab.files import check_writable, provenance, write_aside

Framing = Literal["face", "whole"]
CROPPED = ("dfew", "ferv39k", "mafw")  # shipped as pictures of aligned faces
MOST_CLIPS = 256  # of a shard: what a kill costs at most
USUAL_SHARDS = 64
FEW = 20  # clips after which the size in the end is guessed


@dataclass(frozen=True)
class Prepared:
    """What a prepared folder holds. bytes: of its shards. skipped: (clip, reason)."""

    out: Path
    shards: int
    clips: int
    frames: int
    bytes: int
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [
            f"{self.out}: {self.clips:,} clips, {self.frames:,} frames, {_size(self.bytes)} in "
            f"{self.shards} shards"
        ]
        if self.skipped:
            lines.append(f"{len(self.skipped):,} skipped, listed in {self.out / SKIPPED}:")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:5]]
            lines += ["  ..."] * (len(self.skipped) > 5)
            lines.append("(mended? delete their shards and run the same command again)")
        return "\n".join(lines)


def prepare_command(
    dataset: str,
    /,
    *,
    root: Path | None = None,
    out: Path,
    lists: Path | None = None,
    size_px: int = 160,
    margin: float | None = None,
    framing: Framing | None = None,
    quality: int = 95,
    workers: int | None = None,
) -> Prepared:
    """Cut out the faces of a data set once, at training size, into shards.

    Train from them with `maedfer finetune shards --root OUT`. Stopped at any moment, the same
    command goes on where it was.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder (a folder per class), csv, or
        voxceleb2 (any folder of unlabelled videos, for pre-training).
    root: folder of the clips; by default MAEDFER_DATA.
    out: folder to write to, one for each data set and setting.
    lists: annotation lists, if they do not lie below the root.
    size_px: side of the clips in training.
    margin: stored side over size_px: room for random crops. By default 1.2 with framing face, 1
        with whole.
    framing: face cuts a square around the face, one for each video; whole stretches the picture to
        a square, as the official fine-tuning does. By default whole for dfew, ferv39k and mafw,
        which ship cropped faces, face for the rest.
    quality: of the JPEGs, 1 to 100.
    workers: processes; by default one for each core; 0 works in this one.
    """
    table, problems = find_annotations(dataset, root, lists)
    return prepare(
        table,
        out,
        size_px=size_px,
        margin=margin,
        framing=framing,
        quality=quality,
        workers=os.cpu_count() or 1 if workers is None else workers,
        problems=problems,
    )


def prepare(
    annotations: Annotations,
    out: str | Path,
    *,
    size_px: int = 160,
    margin: float | None = None,
    framing: Framing | None = None,
    quality: int = 95,
    workers: int = 0,
    problems: Sequence[Problem] = (),
    progress: bool = True,
) -> Prepared:
    """Write every frame of every clip, cropped and shrunk, into shards; `open_shards` reads them.

    framing "face": the `face_square` of the video at ``margin * size_px`` (a smaller square keeps
    its size). "whole": the picture stretched to that side (*Official:* 160 x 160, aspect not kept).
    A finished shard is never written again; one that is half written is thrown away. The bytes do
    not depend on ``workers`` or on interruptions. Clips that cannot be read are listed in
    skipped.csv, below them the ``problems`` of the lists. A clip passes through memory as JPEGs
    (15 KB a frame), at most four clips for each worker.

    Raises:
        ValueError: an argument out of range; ``out`` holds other clips or settings; no clip could
            be read.
        OSError: no room; what was finished stays.
    """
    out = Path(out)
    framing = framing or ("whole" if annotations.dataset in CROPPED else "face")
    margin = margin or (1.2 if framing == "face" else 1.0)
    _check(size_px, margin, framing, quality, workers)
    if not annotations.clips:
        raise ValueError("annotations has no clip; there is nothing to prepare")
    side_px = round(margin * size_px)
    settings = {"size_px": size_px, "side_px": side_px, "framing": framing, "quality": quality}
    about = {_name(annotations, clip): _about(annotations, clip) for clip in annotations.clips}
    if len(about) < len(annotations.clips):
        raise ValueError("annotations lists a clip twice; each may be prepared once")
    plan = hashlib.sha256(
        json.dumps([FORMAT, settings, annotations.classes, list(about.values())]).encode()
    ).hexdigest()
    check_writable(out / INDEX)
    chunk = min(max(math.ceil(len(about) / USUAL_SHARDS), 1), MOST_CLIPS)
    starts = range(0, len(about), chunk)
    files = [shard_file(out, number) for number in range(len(starts))]
    finished = [_finished(file, plan) for file in files]
    missing = [number for number, shard in enumerate(finished) if shard is None]
    jobs = [
        Job(clip.path, framing, side_px, quality)
        for number in missing
        for clip in annotations.clips[starts[number] : starts[number] + chunk]
    ]
    names = list(about)
    bar = _Bar(len(names), [shard for shard in finished if shard], out, disable=not progress)
    with bar, encode_in_order(jobs, workers) as results:
        for number in missing:
            first = starts[number]
            try:
                with ShardWriter(files[number], plan) as writer:
                    for key in range(first, min(first + chunk, len(names))):
                        result = next(results)
                        if isinstance(result, str):
                            writer.skip(names[key], result)
                        else:
                            writer.add(key, about[names[key]], result)
                        bar.step(0 if isinstance(result, str) else len(result.data))
                    finished[number] = writer.finish()
            except OSError as error:
                done = sum(shard is not None for shard in finished)
                why = error.strerror or error
                raise OSError(
                    error.errno,
                    f"cannot write {files[number].name} to {out}: {why}. {done} of {len(files)} "
                    "shards are finished and stay; make room there and run the same command again",
                ) from error
    shards = [shard for shard in finished if shard is not None]
    if missing or not (out / INDEX).is_file():
        _conclude(annotations, out, files, shards, settings, problems)
    return _report(out, shards, problems)


def _check(size_px: int, margin: float, framing: str, quality: int, workers: int) -> None:
    if size_px < 16:
        raise ValueError(f"size_px={size_px} must be at least 16; the paper's clips have 160")
    if not 1 <= margin <= 4:
        raise ValueError(f"margin={margin} must lie in [1, 4]; 1.2 leaves room for random crops")
    if framing not in ("face", "whole"):
        raise ValueError(f"framing={framing!r} is not known; use 'face' or 'whole'")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality} must lie in [1, 100]; use 95")
    if workers < 0:
        raise ValueError(f"workers={workers} must not be negative; 0 works in this process")


def _name(annotations: Annotations, clip: Clip) -> str:
    return annotations.name(clip).lstrip("/")


def _about(annotations: Annotations, clip: Clip) -> dict[str, str | int | None]:
    return {
        "name": _name(annotations, clip),
        "label": clip.label,
        "fold": clip.fold,
        "subject": clip.subject,
        "source": clip.source,
    }


def _finished(file: Path, plan: str) -> Shard | None:
    """What stands beside a finished shard; None where it has to be written."""
    try:
        shard = read_shard(file)
    except ValueError:
        return None
    if shard.plan != plan:
        raise ValueError(
            f"out={str(file.parent)!r} holds shards of other clips or settings; give another "
            "folder, or delete that one"
        )
    return shard


def _conclude(
    annotations: Annotations,
    out: Path,
    files: Sequence[Path],
    shards: Sequence[Shard],
    settings: dict[str, object],
    problems: Sequence[Problem],
) -> None:
    listed = [(problem.where, problem.what) for problem in problems]
    people = {
        _name(annotations, clip): clip.subject or _name(annotations, clip)
        for clip in annotations.clips
    }
    write_tables(out, files, shards, annotations.classes, people, listed)
    index = {
        "format": FORMAT,
        "dataset": annotations.dataset,
        "classes": annotations.classes,
        **settings,
        "clips": sum(len(shard.clips) for shard in shards),
        "frames": sum(shard.frames for shard in shards),
        "skipped": sum(len(shard.skipped) for shard in shards) + len(problems),
        "shards": [
            {"file": file.name, "clips": len(shard.clips), "frames": shard.frames,
             "bytes": shard.bytes, "sha256": shard.sha256}
            for file, shard in zip(files, shards, strict=True)
        ],
        "provenance": provenance(profile="full", seed=0, device="cpu", data=annotations.dataset),
    }  # fmt: skip
    write_aside(out / INDEX, (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode())


def _report(out: Path, shards: Sequence[Shard], problems: Sequence[Problem]) -> Prepared:
    skipped = [(clip["name"], clip["reason"]) for shard in shards for clip in shard.skipped]
    report = Prepared(
        out,
        len(shards),
        sum(len(shard.clips) for shard in shards),
        sum(shard.frames for shard in shards),
        sum(shard.bytes for shard in shards),
        (*skipped, *((problem.where, problem.what) for problem in problems)),
    )
    if not report.clips:
        raise ValueError(f"none of {len(skipped)} clips could be read:\n{report}")
    return report


class _Bar:
    """Clips done, time left, and the size that the shards will have in the end."""

    def __init__(self, total: int, finished: Sequence[Shard], out: Path, disable: bool) -> None:
        self._out, self._total, self._warned = out, total, False
        self._done = sum(len(shard.clips) + len(shard.skipped) for shard in finished)
        self._bytes = sum(shard.bytes for shard in finished)
        self._bar = tqdm(
            total=total, initial=self._done, desc="preparing", unit="clip", disable=disable
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def step(self, num_bytes: int) -> None:
        """Count one clip."""
        self._done, self._bytes = self._done + 1, self._bytes + num_bytes
        expected = self._bytes * self._total // self._done
        self._bar.set_postfix_str(f"{_size(expected)} in the end", refresh=False)
        self._bar.update()
        if self._done >= FEW and not self._warned:
            free = shutil.disk_usage(self._out).free
            self._warned = expected - self._bytes > free
            if self._warned:
                warnings.warn(
                    f"{_size(expected - self._bytes)} more are expected but {self._out} has room "
                    f"for {_size(free)} only",
                    stacklevel=3,
                )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.2f} MB"
