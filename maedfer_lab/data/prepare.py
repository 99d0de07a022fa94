"""`maedfer prepare`: crop the faces of a data set once, into shards that are fast to read."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import zlib
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from maedfer_lab.config import Framing, check_workers, choose, choose_framing, framing_of
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.lists import Clip, Problem
from maedfer_lab.data.shard_format import (
    AGAIN,
    COLUMNS,
    FORMAT,
    INDEX,
    MANIFEST,
    Jpegs,
    Shard,
    ShardWriter,
    encode_jpeg,
    open_index,
    read_manifest,
    read_shard,
    shard_name,
    sweep,
)
from maedfer_lab.data.shards import SKIPPED
from maedfer_lab.data.table import TEXT_ORDER, Annotations, find_annotations, open_clip
from maedfer_lab.data.transforms import Box, crop_and_resize, keep_freed_memory
from maedfer_lab.data.video import VideoError, is_starved
from maedfer_lab.files import check_writable, csv_line, provenance, text_bytes, write_aside

Store = Literal["jpeg", "raw"]
MOST_CLIPS = 256  # of a shard: at most this work is lost by a kill
USUAL_SHARDS = 64
MOST_DEATHS, FIRST_DEATHS = 10, 3  # of clips in a row, after which the clips are not to blame
DIED = "the process that read it died: a crash of the decoder, or not enough memory"
AHEAD = 4  # clips handed out for each worker
HEADS = "file identity name class label fold frames height width source".split()
SKIPPED_HEADS = ["clip", "reason", "shard"]


class Done(NamedTuple):
    """Summary of a finished shard, held in memory. skipped: (clip, reason)."""

    clips: int
    frames: int
    bytes: int
    sha256: str
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Prepared:
    """Summary of a prepared folder. bytes: of its shards. skipped: (clip, reason).

    part: which part this was, e.g. "3/16"; "" for all.
    """

    out: Path
    shards: int
    clips: int
    frames: int
    bytes: int
    skipped: tuple[tuple[str, str], ...]
    part: str = ""

    def __str__(self) -> str:
        held = f"{self.clips:,} clips, {self.frames:,} frames, {self.bytes / 1e6:,.2f} MB"
        lines = [f"{self.out}: {held} in {self.shards} shards"]
        if self.part:
            lines = [f"part {self.part} of {lines[0]}; with all parts in one folder, use --join"]
        if self.skipped:
            where = "" if self.part else f", listed in {self.out / SKIPPED}"
            lines.append(f"{len(self.skipped):,} skipped{where}:")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:5]]
            lines += ["  ..."] * (len(self.skipped) > 5)
            lines.append("(to retry repaired clips, delete their shards and run the command again)")
        return "\n".join(lines)


def prepare(
    dataset: str | Annotations, /, out: Path, *, root: Path | None = None,
    lists: Path | None = None, layout: str | None = None, size_px: int = 160,
    margin: float | None = None, framing: Framing | None = None, quality: int = 95,
    store: Store = "jpeg", workers: int | None = None, part: str | None = None,
    join: Sequence[Path] | None = None, progress: bool = True,
) -> Prepared:  # fmt: skip
    """Crop the faces of a data set once, at training size, into shards.

    Train from them with `maedfer finetune shards --root OUT`; `open_shards` reads them. If it is
    interrupted, the same command resumes it: a finished shard is never rewritten. The bytes do not
    depend on workers, on interruptions or on parts. Unreadable clips are listed in skipped.csv,
    followed by the problems of the lists. A clip passes through memory as JPEGs (15 KB a frame), at
    most four clips for each worker.

    Raises ValueError for an argument out of range, an output folder that holds other clips or
    settings, a part that is prepared twice or missing, and if no clip can be read; OSError for a
    full disk (finished shards are kept).

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder (a folder per class), csv, or
        voxceleb2 (any folder of unlabelled videos, for pre-training). In Python also a table.
    out: output folder, one for each data set and setting.
    root: folder of the clips; MAEDFER_DATA by default.
    lists: annotation lists, if they are not below the root.
    layout: meaning of the folder levels if ambiguous, e.g. class/person/clip.
    size_px: side of the clips in training.
    margin: stored side / size_px: room for random crops; a smaller square keeps its size. By
        default 1.2 with framing face, 1 with whole.
    framing: face crops a square around the face, one for each video; whole stretches the picture to
        a square, as the official fine-tuning does. By default whole for dfew, ferv39k and mafw,
        which ship cropped faces, face for the rest.
    quality: JPEG quality, 1 to 100.
    store: jpeg, or raw: uncompressed pixels, ten times the disk space and faster to read.
    workers: processes; by default one for each core; 0 uses only this one.
    part: e.g. 3/16 for the third of sixteen machines; --join combines what they wrote.
    join: finish a set of which all parts are written, in --out or in these folders.
    progress: show a bar.
    """
    annotations, problems = dataset, list[Problem]()
    if isinstance(annotations, str):
        annotations, problems = find_annotations(annotations, root, lists, layout)
        for problem in problems:  # a prepared set could no longer report any but left-out clips
            if problem.kind not in ("missing clips", "two places", "file names", "subjects"):
                raise ValueError(f"{problem} (maedfer doctor lists all)")
        annotations.tell()
    workers = os.cpu_count() or 1 if workers is None else workers
    out = Path(out)
    framing = choose_framing(framing or framing_of(annotations.dataset), "face", "whole")
    margin = margin or (1.2 if framing == "face" else 1.0)
    for name, value, low, high in (
        ("size_px", size_px, 16, 4096), ("margin", margin, 1, 4), ("quality", quality, 1, 100)
    ):  # fmt: skip
        if not low <= value <= high:
            raise ValueError(f"{name}={value} must lie in [{low}, {high}]; the default will do")
    check_workers(workers)
    clips = annotations.clips
    if not clips:
        raise ValueError("annotations has no clip; there is nothing to prepare")
    side_px, as_text = round(margin * size_px), annotations.dataset in TEXT_ORDER
    settings = {"size_px": size_px, "side_px": side_px, "framing": framing, "quality": quality}
    if choose("store", store, get_args(Store)) == "raw":
        settings["store"] = "raw"
    if as_text:  # shards in another order of frames do not belong to this set
        settings["frame_order"] = "text"
    plan = _plan(annotations, settings)
    check_writable(out / INDEX)
    chunk = min(max(math.ceil(len(clips) / USUAL_SHARDS), 1), MOST_CLIPS)
    files = [out / shard_name(number) for number in range(math.ceil(len(clips) / chunk))]
    own = _own(part, len(files))
    for name, who in sweep(out).items():
        if name in {files[number].name for number in own}:
            raise ValueError(f"{out / name} is being written by {who}: this is prepared twice")
    if join is not None:
        _gather(join, out, plan)
    finished = {}
    for number, file in enumerate(files):
        here = slice(number * chunk, (number + 1) * chunk)
        names = (annotations.name(clip).lstrip("/") for clip in clips[here])
        files_now = zip(annotations.sizes[here], annotations.contents[here], strict=True)
        if done := _finished(file, plan, dict(zip(names, files_now, strict=True))):
            finished[number] = done
    missing = [number for number in own if number not in finished]
    if join is not None and missing:
        raise ValueError(
            f"{len(missing)} of {len(files)} shards are missing in {out}: "
            f"{', '.join(files[number].name for number in missing[:9])}, ...; part 1/N holds the "
            "first and every Nth after it; prepare these, or all missing ones without --join"
        )
    jobs = [
        Job(clip.path, framing, side_px, 0 if store == "raw" else quality, as_text)
        for number in missing
        for clip in clips[number * chunk : (number + 1) * chunk]
    ]
    bar = tqdm(total=len(jobs), desc="preparing", unit="clip", disable=not progress)
    with bar, closing(encode_in_order(jobs, workers)) as results:
        for number in missing:
            first = number * chunk
            try:
                with ShardWriter(files[number], plan) as writer:
                    for key, clip in enumerate(clips[first : first + chunk], first):
                        result, about = next(results), _about(annotations, clip)
                        if isinstance(result, str):
                            writer.skip(about["name"], result)
                        else:
                            writer.add(key, {**about, "bytes": annotations.sizes[key]}, result)
                            writer.shard.clips[-1]["content"] = annotations.contents[key]
                        bar.update()
                    finished[number] = _done(writer.finish())
            except OSError as error:
                if error.errno is None:  # of reading, reported already
                    _forget_deaths(files, finished, missing)
                    raise
                raise OSError(
                    error.errno,
                    f"cannot write {files[number].name} to {out}: {error.strerror or error} "
                    f"({shutil.disk_usage(out).free:,} bytes are free). {len(finished)} of "
                    f"{len(files)} shards are finished and kept; free some space and run the same "
                    "command again",
                ) from error
    if part is None and (missing or not all((out / name).is_file() for name in (INDEX, COLUMNS))):
        _conclude(annotations, out, files, finished, settings, problems)
    done = [finished[number] for number in own]
    skipped = [one for shard in done for one in shard.skipped]
    skipped += [(problem.where, problem.what) for problem in problems]
    num, frames, size = (sum(getattr(shard, what) for shard in done) for what in Done._fields[:3])
    report = Prepared(out, len(done), num, frames, size, tuple(skipped), part or "")
    if not report.clips and not part:
        raise ValueError(f"none of {len(annotations)} clips could be read:\n{report}")
    return report


def _plan(annotations: Annotations, settings: dict[str, object]) -> str:
    """Digest of settings and clips: JSON of a list, a clip at a time."""
    head = json.dumps([FORMAT, settings, annotations.classes])
    digest, names, between = hashlib.sha256(f"{head[:-1]}, [".encode()), set[str](), ""
    for clip in annotations.clips:
        about = _about(annotations, clip)
        names.add(about["name"])
        digest.update(f"{between}{json.dumps(about)}".encode())
        between = ", "
    if len(names) < len(annotations):
        raise ValueError("annotations lists a clip twice; each may be prepared once")
    digest.update(b"]]")
    return digest.hexdigest()


def _about(annotations: Annotations, clip: Clip) -> dict[str, Any]:
    facts = {key: getattr(clip, key) for key in ("label", "fold", "subject", "source")}
    return {"name": annotations.name(clip).lstrip("/"), **facts}


def _own(part: str | None, shards: int) -> range:
    """The shards of a part, such as "3/16"; all of them without one."""
    number, _, parts = ("1/1" if part is None else part).partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"part={part!r} must be like '3/16', the third of sixteen parts")
    return range(int(number) - 1, shards, int(parts))


def _gather(folders: Sequence[Path], out: Path, plan: str) -> None:
    """Copy the shards of other folders to `out`; one that is in two must be identical in both."""
    for folder in folders:
        shards = sorted(folder.glob("shard-*.tar"))
        if not shards:
            raise FileNotFoundError(f"join={str(folder)!r} holds no shard of `maedfer prepare`")
        for file in shards:
            new, old = _finished(file, plan, strict=True), _finished(out / file.name, plan)
            if old and new and old.sha256 != new.sha256:
                raise ValueError(
                    f"{file.name} was prepared twice and differs between {folder} and {out}; "
                    "delete one of them, with its .json"
                )
            for path in (file, file.with_suffix(".json")) if not old else ():
                write_aside(out / path.name, partial(shutil.copyfile, path))


def _finished(
    file: Path, plan: str, now: Mapping[str, tuple[int, str]] | None = None, strict: bool = False
) -> Done | None:
    """The summary of a finished shard; None if it has to be written, unless `strict`.

    now: current bytes and content of its clips, by name; ValueError if they were different.
    """
    try:
        shard = read_shard(file)
    except ValueError:
        if strict:
            raise
        return None
    if shard.plan != plan:
        raise ValueError(
            f"{str(file.parent)!r} holds shards of other clips or settings, such as {file.name}; "
            "give another folder, or delete that one"
        )
    for clip in shard.clips:
        size, content = (now or {}).get(clip["name"], (0, ""))
        if size and (clip.get("bytes", size), clip.get("content", content)) != (size, content):
            what = f"{file} holds an older version of {clip['name']}, whose file has changed since"
            raise ValueError(f"{what}; {AGAIN}")
    return _done(shard)


def _forget_deaths(files: Sequence[Path], finished: dict[int, Done], own: Sequence[int]) -> None:
    """Delete shards just finished without clips on which processes died: the cause was no clip."""
    for number in own:
        if number in finished and any(why == DIED for _, why in finished[number].skipped):
            for path in (files[number].with_suffix(".json"), files[number]):
                path.unlink(missing_ok=True)


def _done(shard: Shard) -> Done:
    skipped = tuple((one["name"], one["reason"]) for one in shard.skipped)
    return Done(len(shard.clips), shard.frames, shard.bytes, shard.sha256, skipped)


def _conclude(
    annotations: Annotations,
    out: Path,
    files: Sequence[Path],
    finished: dict[int, Done],
    settings: dict[str, object],
    problems: Sequence[Problem],
) -> None:
    """Write MANIFEST.csv (people may be corrected there), skipped.csv, index.json and the index."""
    classes, mended = annotations.classes, read_manifest(out.as_posix())
    shards = [(file, finished[number]) for number, file in enumerate(files)]
    skipped = [(*one, file.name) for file, done in shards for one in done.skipped]
    skipped += [(problem.where, problem.what, "") for problem in problems]
    rows = (
        (f"{file.name}/{name}", mended.get(name, {}).get("identity", c["subject"] or name), name,
         classes[c["label"]] if 0 <= c["label"] < len(classes) else "", c["label"],
         c["fold"], c["frames"], c["height"], c["width"], c["source"])
        for file in files
        for c in read_shard(file).clips
        for name in [c["name"]]
    )  # fmt: skip
    for name, lines in ((MANIFEST, chain([HEADS], rows)), (SKIPPED, [SKIPPED_HEADS, *skipped])):
        write_aside(out / name, text_bytes("".join(map(csv_line, lines)), exact=True))
    index = {
        "format": FORMAT,
        "dataset": annotations.dataset,
        "classes": classes,
        "notes": [note for note in annotations.doubts if not note.startswith("unknown people")],
        **settings,
        "clips": sum(done.clips for _, done in shards),
        "frames": sum(done.frames for _, done in shards),
        "skipped": len(skipped),
        "shards": [
            {"file": file.name, **dict(zip(Done._fields[:4], done[:4], strict=True))}
            for file, done in shards
        ],
        "provenance": provenance(profile="full", seed=0, device="cpu", data=annotations.dataset),
    }
    write_aside(out / INDEX, text_bytes(json.dumps(index, indent=1, ensure_ascii=False) + "\n"))
    open_index(out.as_posix())


# --- Encoding of one clip, in worker processes that may die -------------


class Job(NamedTuple):
    """One clip and how to crop it. as_text: images are sorted by name, as in the official code."""

    path: Path
    framing: Framing
    side_px: int
    quality: int  # 0: frames are stored as they are
    as_text: bool = False


def encode(job: Job) -> Jpegs | str:
    """Read, crop, resize and encode all frames of a clip; a sentence if it cannot be read."""
    try:
        reader = open_clip(job.path, job.as_text)
        box = Box(0, 0, reader.height, reader.width)
        height = width = job.side_px
        if job.framing == "face":
            box = face_square(reader)
            height, width = min(height, box.height), min(width, box.width)
        jpegs = [
            encode_jpeg(frame, job.quality) if job.quality else frame.tobytes()
            for _, frames in reader.in_pieces(range(len(reader)))
            for frame in crop_and_resize(frames, box, height, width)
        ]
    except (VideoError, OSError, MemoryError, cv2.error) as error:
        if is_starved(error):  # or good clips would be skipped for good
            raise OSError(
                f"{job.path} could not be read now ({error or 'no memory'}): the machine lacks "
                "memory, files or processes (ulimit -a); nothing is lost, run the same command "
                "again, with fewer workers"
            ) from error
        return error.reason if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"
    except Exception as error:
        raise RuntimeError(f"{job.path}: {error!r}") from error
    table = np.array([(len(jpeg), zlib.crc32(jpeg)) for jpeg in jpegs], np.uint32)
    size = {"frames": len(jpegs), "height": height, "width": width}
    about = {**size, "fps": reader.fps, "box": [*box]}
    return Jpegs(b"".join(jpegs), table, about, "mjpeg" if job.quality else "rgb")


def encode_in_order(jobs: Sequence[Job], workers: int) -> Generator[Jpegs | str, None, None]:
    """The results of `encode` in the order of the jobs; with 0 workers all in this process.

    A process that dies on a clip (a decoder's crash, no memory) costs only that clip, which is
    named: it is retried once in a process of its own.
    """
    if not workers:
        return (yield from map(encode, jobs))
    pool, pending = _pool(min(workers, len(jobs) or 1)), deque[Future[Jpegs | str]]()
    deaths, read = 0, False  # in a row; whether any clip was read
    try:
        for number, job in enumerate(jobs):
            try:
                while len(pending) < AHEAD * workers and number + len(pending) < len(jobs):
                    pending.append(pool.submit(encode, jobs[number + len(pending)]))
                result = pending.popleft().result()
            except BrokenProcessPool:
                pool.shutdown(cancel_futures=True)
                pending.clear()  # these are read again
                with _pool(1) as pool:
                    try:
                        result = pool.submit(encode, job).result()
                    except BrokenProcessPool:
                        result = DIED
                pool = _pool(workers)
            deaths = deaths + 1 if result == DIED else 0
            read = read or not deaths
            if deaths >= (MOST_DEATHS if read else FIRST_DEATHS):
                raise ChildProcessError(
                    f"the processes that read clips die repeatedly, last on {job.path}: not "
                    "enough memory, or a limit (ulimit -a); use fewer workers, or workers=0"
                )
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    return ProcessPoolExecutor(workers, context, begin_worker)


def begin_worker() -> None:
    """Start a worker: one thread, and an end when the main process ends, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True)
        watch.start()
