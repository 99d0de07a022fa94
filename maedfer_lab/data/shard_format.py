"""Shards: WebDataset tar files of clips whose frames are JPEGs, read at random; and their index.

A sample is a clip: ``KEY.mjpeg`` (its JPEGs one after the other; FFmpeg plays it) or ``KEY.rgb``
(pixels: `prepare --store raw`), ``KEY.npy`` (bytes and CRC-32 of each frame), ``KEY.json`` (name,
label and size). ``shard-00000.json`` beside the tar says where they lie; ``index.safetensors`` says
so for all shards, in columns that are mapped into memory: a million clips open at once. Behind a
URL that fsspec opens (s3://, hf://, https://) only those bytes are read that a clip needs.

A member per frame, Arrow and Parquet were measured beside it: to decode 16 JPEGs takes 2.9 ms, to
find them 0.02 to 0.06 (Parquet: 450), so speed does not choose; a tar needs no package.
"""

from __future__ import annotations

import bisect
import contextlib
import csv
import hashlib
import io
import json
import math
import mmap
import os
import re
import socket
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt32
from safetensors.numpy import save
from tqdm.auto import tqdm

from maedfer_lab.config import output_folder
from maedfer_lab.data.video import MOST_PIXELS, VideoError, VideoReader
from maedfer_lab.files import (
    DamagedError,
    file_sha256,
    open_bytes,
    read_bytes,
    reading,
    text_bytes,
    write_aside,
)

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

FORMAT = 1
TABLE_HEAD = 128  # bytes before the numbers of a table that np.save wrote
BEFORE = 4096  # more bytes than the JSON before it takes beside name and source
INDEX, COLUMNS, MANIFEST = "index.json", "index.safetensors", "MANIFEST.csv"
IN_SHARD = re.compile(r"((?:.*/)?)shard-(\d+)\.tar/(.+)", re.DOTALL)
LEFT = re.compile(
    r"\.(shard-\d+\.(?:tar|json)|index\.\w+|MANIFEST\.csv|skipped\.csv)"
    r"\.(?:(.+)-(\d+)\.part|part|[a-z0-9_]{8})"
)
URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)  # Path makes one slash of two
AGAIN = "delete it and run the same `maedfer prepare` again: only missing parts are written"
NAMED = "it must have the columns name and identity"
STALE_S = 600  # without a sign of life, after which another machine's half-written file goes
GAP = 2**16  # bytes that are read along from a URL rather than to ask twice
NUMBERS = {"label": "i4", "fold": "i4", "frames": "u4", "height": "u4", "width": "u4",
           "fps": "f8", "table": "u8", "data": "u8"}  # fmt: skip
TURNED = (b"Exif\0\0", b"Orientation")  # by which a JPEG may ask to be turned (Exif and XMP)
NEEDED = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


class Jpegs(NamedTuple):
    """The frames of one clip, coded one after the other; bytes and CRC-32 of each; their size.

    about: frames, height, width, fps, box (top, left, height, width cut out of the original).
    kind: "mjpeg", or "rgb" with bytes of pixels in place of JPEGs.
    """

    data: bytes
    table: UInt32[np.ndarray, "T 2"]
    about: dict[str, Any]
    kind: str


@dataclass
class Shard:
    """What ``shard-00000.json`` says: the clips of a finished tar, and the tar's checksum.

    plan: digest of the settings and the whole list of clips, equal for all shards of a folder.
    clips: name, label, fold, subject, source, size, and where in the tar. skipped: name, reason.
    """

    plan: str
    bytes: int = 0
    sha256: str = ""
    clips: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames of all clips."""
        return sum(clip["frames"] for clip in self.clips)


def encode_jpeg(frame: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """Code an RGB frame with its colours at full resolution (4:4:4).

    At quality 95 a frame of 192 px takes 13.9 KB and keeps 46.4 dB: in the normalised targets of
    pre-training an error of 0.033, where the loss ends near 0.47 (quality 90: 9.9 KB, 0.046).
    """
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), parameters)[1].tobytes()


def decode_jpeg(data: bytes, out: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a JPEG's RGB pixels into `out`, without Python's lock."""
    if simplejpeg is not None:  # the same pixels in a fifth less time
        simplejpeg.decode_jpeg(data, buffer=out)
        return
    bgr: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=out)


def decode_plain_jpeg(data: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """RGB pixels of an ordinary JPEG, or None: then Pillow decodes it, or reports the error.

    Ordinary: whole, in the usual colours, not to be turned. Two thirds of Pillow's time.
    """
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or any(t in data for t in TURNED):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours != "YCbCr" or int(height) * int(width) > MOST_PIXELS:
            return None
        return simplejpeg.decode_jpeg(data)
    except ValueError:
        return None


# --- Files, in a folder or behind a URL ---


def place(path: str | Path) -> str:
    """A folder's path as text, or a URL with both its slashes."""
    text = path.as_posix() if isinstance(path, Path) else str(path)
    url = URL.fullmatch(text)
    return f"{url[1]}://{url[2]}".rstrip("/") if url else text


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL such as s3://bucket/folder, which pathlib writes with one slash."""
    return URL.fullmatch(str(path)) is not None


def is_prepared(folder: str | Path) -> bool:
    """Whether `maedfer prepare` has finished this folder; of a URL that is taken for granted."""
    return is_url(folder) or (Path(folder) / INDEX).is_file()


@lru_cache(maxsize=16)
def _remote(folder: str) -> tuple[Any, str]:
    """The file system of a URL, and the folder's name in it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(folder)
    except ImportError as error:
        more = NEEDED.get(folder.partition("://")[0], "")
        install = f"pip install 'maedfer-lab[remote]' {more}".strip()
        raise ModuleNotFoundError(f"{folder}: {error}; type: {install}") from error


def read_file(folder: str, name: str) -> bytes:
    """The bytes of a file of a folder or URL; FileNotFoundError if there is none."""
    if not is_url(folder):
        return read_bytes(Path(folder, name))
    files, base = _remote(folder)
    return files.cat_file(f"{base}/{name}")


def _read_spans(folder: str, name: str, starts: list[int], sizes: list[int]) -> Iterator[bytes]:
    """Parts of a file, in ascending order; of a URL near ones are fetched together."""
    if not is_url(folder):
        with open(f"{folder}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 (quicker)
            for start, size in zip(starts, sizes, strict=True):
                file.seek(start)
                yield file.read(size)
        return
    from fsspec.utils import merge_offset_ranges

    files, base = _remote(folder)
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    asked: Any = ([f"{base}/{name}"] * len(starts), starts, ends)
    paths, begins, stops = merge_offset_ranges(*asked, max_gap=GAP)
    pieces = files.cat_ranges(paths, begins, stops, on_error="raise")
    for start, end in zip(starts, ends, strict=True):
        at = bisect.bisect_right(begins, start) - 1
        yield pieces[at][start - begins[at] : end - begins[at]]


def sweep(folder: Path) -> dict[str, str]:
    """Remove what dead processes left half written; the names living ones write, and who."""
    alive = {}
    for path in folder.glob(".*"):
        if not (found := LEFT.fullmatch(path.name)):
            continue
        name, machine, process = found.groups()
        try:
            status = path.stat()  # empty and of nobody: a look whether the folder can be written
            writes = time.time() - status.st_mtime < STALE_S and bool(process or status.st_size)
            if os.name == "posix" and machine == socket.gethostname():
                writes = os.kill(int(process), 0) is None
        except (ProcessLookupError, FileNotFoundError):
            writes = False
        except PermissionError:  # another user's
            writes = True
        if writes and process:
            alive[name] = f"process {process} on {machine}"
        elif not writes:
            path.unlink(missing_ok=True)
    return alive


# --- Writing and reading one shard ---


def shard_name(number: int) -> str:
    """Name of the tar file of shard ``number``, from 0."""
    return f"shard-{number:05d}.tar"


def read_shard(file: Path) -> Shard:
    """Read the description of a tar and verify its size; ValueError names a damaged file."""
    try:
        beside = file.with_suffix(".json")
        shard = _shard(beside, read_bytes(beside))
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing; {AGAIN}") from error
    if size != shard.bytes:
        raise ValueError(f"{file} has {size:,} bytes and not {shard.bytes:,}; {AGAIN}")
    return shard


def _shard(name: Path | str, text: bytes) -> Shard:
    with reading(name, AGAIN):
        shard = Shard(**json.loads(text))
        if not all(isinstance(value, int) for value in (shard.bytes, shard.frames)):
            raise TypeError("bytes and frames are whole numbers")
        if not all(set(one) >= {"name", "reason"} for one in shard.skipped):
            raise TypeError("skipped clips have names and reasons")
        return shard


class ShardWriter:
    """Write one shard beside its place; only ``finish`` puts it there.

    The tar's bytes depend only on what is added. A context manager: unfinished files are deleted.
    """

    def __init__(self, file: Path, plan: str) -> None:
        self.file, self.shard = file, Shard(plan)
        # The name tells machine and process, which `sweep` reads.
        self._part = file.with_name(f".{file.name}.{socket.gethostname()}-{os.getpid()}.part")
        self._tar = tarfile.open(self._part, "w", format=tarfile.GNU_FORMAT)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._tar.fileobj.close()  # type: ignore[union-attr]
        finally:  # on a full disk what was buffered cannot be written either
            self._part.unlink(missing_ok=True)

    def add(self, key: int, about: dict[str, Any], jpegs: Jpegs) -> None:
        """Append a clip; ``about`` holds its name, label and whatever else describes it."""
        about, table = {**about, **jpegs.about}, io.BytesIO()
        np.save(table, jpegs.table)
        self._member(f"{key:08d}.json", text_bytes(json.dumps(about, ensure_ascii=False)))
        about["table"] = self._member(f"{key:08d}.npy", table.getvalue())
        about["data"] = self._member(f"{key:08d}.{jpegs.kind}", jpegs.data)
        self.shard.clips.append(about)

    def skip(self, name: str, reason: str) -> None:
        """Note a clip that could not be read."""
        self.shard.skipped.append({"name": name, "reason": reason})

    def _member(self, name: str, content: bytes) -> int:
        start = self._tar.offset + tarfile.BLOCKSIZE  # a short name: one block of header
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))
        return start

    def finish(self) -> Shard:
        """Close the tar, move it to its place, and write its description."""
        self._tar.close()
        self.shard.bytes = self._part.stat().st_size
        self.shard.sha256 = file_sha256(self._part)
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        self._part.replace(self.file)
        text = json.dumps(asdict(self.shard), ensure_ascii=False, separators=(",", ":"))
        write_aside(self.file.with_suffix(".json"), text_bytes(text))
        return self.shard


# --- The index of all clips ---


class Index:
    """The clips of a prepared set, as memory-mapped columns of a file.

    `NUMBERS`, and per clip places in ``texts`` (name, person or "", source); ``crc`` of the name;
    ``first``: the clip with which each shard begins, and the number of all clips.
    """

    def __init__(self, file: Path) -> None:
        """Map `file`; ValueError if it is damaged."""
        self.file = file
        with reading(file, AGAIN):
            with open_bytes(file) as opened:
                self._bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            head, self._begin = _head(self._bytes)
            self.about: dict[str, Any] = json.loads(head.pop("__metadata__")["about"])
            self._crc = _crc(head)
            self._columns = {
                name: np.frombuffer(
                    self._bytes, f"<{one['dtype'].lower()[0]}{int(one['dtype'][1:]) // 8}",
                    one["shape"][0], self._begin + one["data_offsets"][0],
                )
                for name, one in head.items()
            }  # fmt: skip
            self._ends, self._texts = self._columns["ends"], self._columns["texts"]
            self.first: list[int] = self._columns["first"].tolist()

    def __getitem__(self, name: str) -> np.ndarray:
        """A column, one entry per clip."""
        return self._columns[name]

    def __len__(self) -> int:
        return self.first[-1]

    def text(self, name: str, row: int) -> str:
        """The name, person or source of a clip."""
        return self.word(int(self._columns[name][row]))

    def word(self, number: int) -> str:
        """Text `number` of all."""
        begin = int(self._ends[number - 1]) if number else 0
        text = self._texts[begin : int(self._ends[number])].tobytes()
        return text.decode(errors="surrogateescape")

    def find(self, shard: int, name: str) -> int | None:
        """The clip of this name in a shard; None where there is none."""
        if shard + 1 >= len(self.first):
            return None
        begin, end = self.first[shard : shard + 2]
        code = zlib.crc32(text_bytes(name, exact=True))
        rows = np.flatnonzero(self._columns["crc"][begin:end] == code) + begin
        return next((row for row in rows.tolist() if self.text("name", row) == name), None)

    def shard_of(self, row: int) -> str:
        """Name of the tar file in which a clip lies."""
        return shard_name(bisect.bisect_right(self.first, row) - 1)

    def is_sound(self) -> bool:
        """Whether the columns are those that were written (a tenth of a second for a million)."""
        crc = self._crc
        with self.file.open("rb") as file:
            file.seek(self._begin)
            while piece := file.read(2**20):
                crc = zlib.crc32(piece, crc)
        return crc == self.about["crc"]


def _head(data: bytes | mmap.mmap) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its columns, and where they begin."""
    begin = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:begin]), begin


def _crc(head: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(head, sort_keys=True).encode())


def pack_index(shards: Iterable[Shard], about: dict[str, Any], folder: str = "") -> bytes:
    """The bytes of an index of `shards`, with the people of the folder's MANIFEST.csv.

    about: what `Index.about` holds. ValueError if MANIFEST.csv has other clips, labels or folds.
    """
    rows, others = read_manifest(folder) if folder else {}, list[str]()
    is_listed, classes = bool(rows), about["classes"]
    words: dict[str, int] = {"": 0}
    parts: dict[str, list[np.ndarray]] = {}
    lengths = [0]
    with reading(f"the description of a shard of {folder}", AGAIN):
        for clips in (shard.clips for shard in shards):
            lengths.append(len(clips))
            for clip in clips if is_listed else ():
                name, label = clip["name"], clip["label"]
                row = rows.pop(name, {"label": "no row", "identity": name})
                own = "".join(classes[label : label + 1]), str(label), str(clip["fold"])
                told = zip(map(row.get, ("class", "label", "fold")), own, strict=True)
                others += [name] * any(text not in (None, right) for text, right in told)
                clip["subject"] = row["identity"] if row["identity"] != name else clip["subject"]
            found = {name: [clip[name] for clip in clips] for name in (*NUMBERS, "name", "source")}
            found["person"] = [clip["subject"] or "" for clip in clips]
            found["crc"] = [zlib.crc32(text_bytes(name, exact=True)) for name in found["name"]]
            for name in ("name", "source", "person"):
                found[name] = [words.setdefault(word, len(words)) for word in found[name]]
            for name, values in found.items():
                parts.setdefault(name, []).append(np.array(values, NUMBERS.get(name, "u4")))
    if others := [*others, *rows]:
        raise ValueError(
            f"{folder}/{MANIFEST} has other clips, classes or folds than the set: {len(others):,}, "
            f"such as {others[0]!r}; people may be mended in it, for the rest prepare anew"
        )
    columns = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    coded = [text_bytes(word, exact=True) for word in words]
    columns["first"] = np.cumsum(lengths).astype("u8")
    columns["ends"] = np.cumsum([len(word) for word in coded]).astype("u8")
    columns["texts"] = np.frombuffer(b"".join(coded), "u1")
    head, begin = _head(data := save(columns))
    about = {**about, "crc": zlib.crc32(memoryview(data)[begin:], _crc(head))}
    return save(columns, {"about": json.dumps(about, sort_keys=True)})


_OPEN: dict[str, tuple[list[int], Index]] = {}


def open_index(folder: str, known: Path | None = None, verify: bool = False) -> Index:
    """The index of a prepared folder or URL, once per process; made where there is none yet.

    known: the file of an index that another process has looked at, so that it is only mapped.
    verify: rebuild it from the descriptions of the shards, and verify their checksums.
    Raises FileNotFoundError for an unfinished folder, ValueError naming damaged shards.
    """
    changed = list[int]()
    for name in (INDEX, MANIFEST):
        with contextlib.suppress(OSError):  # there is none, or behind a URL
            changed.append(os.stat(f"{folder}/{name}").st_mtime_ns)  # noqa: PTH116 (quicker)
    if verify or folder not in _OPEN or _OPEN[folder][0] != changed:
        _OPEN[folder] = changed, Index(known) if known else _find_index(folder, verify)
    return _OPEN[folder][1]


def _find_index(folder: str, verify: bool) -> Index:
    listed, manifest = _read_listed(folder), Path(folder, MANIFEST)
    digests = "".join(one["sha256"] for one in listed["shards"])
    about = {
        **{name: listed[name] for name in ("dataset", "classes", "skipped")},
        **({"notes": listed["notes"]} if listed.get("notes") else {}),
        **({"store": "raw"} if listed.get("store") == "raw" else {}),  # older sets tell nothing
        "bytes": [one["bytes"] for one in listed["shards"]],
        "shards": hashlib.sha256(digests.encode()).hexdigest(),
        "people": zlib.crc32(manifest.read_bytes()) if manifest.is_file() else None,
    }
    copy = output_folder() / "cache" / f"shards-{about['shards'][:16]}.safetensors"
    files = [copy] if is_url(folder) else [Path(folder, COLUMNS), copy]
    if is_url(folder) and not copy.is_file():
        with contextlib.suppress(FileNotFoundError):
            _keep(read_file(folder, COLUMNS), copy)
    for file in files if not verify else []:
        with contextlib.suppress(FileNotFoundError, ValueError):
            index = Index(file)
            about["people"] = index.about["people"] if is_url(folder) else about["people"]
            if index.about == {**about, "crc": index.about["crc"]} and index.is_sound():
                return index
    data = pack_index(_checked(folder, listed["shards"], verify), about, folder)
    for file in files[:-1]:
        with contextlib.suppress(OSError):  # a folder that is not ours
            return _keep(data, file)
    return _keep(data, copy)


def _keep(data: bytes, file: Path) -> Index:
    write_aside(file, data)
    return Index(file)


def read_manifest(folder: str) -> dict[str, dict[str, str]]:
    """The rows of MANIFEST.csv by the names of clips, in which people may be mended."""
    with contextlib.suppress(FileNotFoundError), reading(f"{folder}/{MANIFEST}", NAMED):
        text = read_file(folder, MANIFEST).decode("utf-8-sig", "surrogateescape")
        rows = csv.DictReader(io.StringIO(text))
        return {row["name"]: {**row, "identity": row["identity"]} for row in rows}
    return {}


def _checked(folder: str, listed: list[dict[str, Any]], verify: bool) -> Iterator[Shard]:
    """What stands beside each shard; the damaged ones are told together, in the end."""
    damaged = []
    for number, entry in enumerate(tqdm(listed, "indexing shards", disable=len(listed) < 100)):
        file = Path(folder, shard_name(number))
        try:
            if is_url(folder):
                name = file.with_suffix(".json").name
                shard = _shard(f"{folder}/{name}", read_file(folder, name))
            else:
                shard = read_shard(file)
            whole = not verify or is_url(folder) or file_sha256(file) == shard.sha256
            if shard.sha256 != entry["sha256"] or not whole:
                raise ValueError(f"{file} differs from its checksum; {AGAIN}")
            yield shard
        except ValueError as error:
            damaged.append(str(error))
    refuse(damaged, len(listed))


def refuse(damaged: list[str], number: int) -> None:
    """Raise if some of the shards are damaged, naming the first ones."""
    if damaged:
        shown = "".join(f"\n  {text}" for text in damaged[:5])
        more = f"\n  and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise DamagedError(f"{len(damaged)} of {number} shards are damaged:{shown}{more}")


def _read_listed(folder: str) -> dict[str, Any]:
    """What index.json says: the set, its settings and its shards."""
    kinds = {"dataset": str, "classes": list, "skipped": int, "shards": list}
    try:
        with reading(f"{folder}/{INDEX}", AGAIN):
            listed = json.loads(read_file(folder, INDEX))
            form, shards = listed["format"], listed["shards"]
            texts = *listed["classes"], *listed.get("notes", ()), *(one["sha256"] for one in shards)
            if not (
                all(isinstance(listed[name], kind) for name, kind in kinds.items())
                and all(isinstance(text, str) for text in texts)
                and all(one["bytes"] >= 0 for one in shards)
            ):
                raise TypeError("an entry is of another kind")
    except FileNotFoundError as error:
        what = f"holds no {INDEX}; name a folder that `maedfer prepare` wrote"
        if not is_url(folder) and any(Path(folder).glob("shard-*.json")):
            what = "is not finished: run the same `maedfer prepare` again, or with --join if all "
            what += "its parts are done"
        raise FileNotFoundError(f"{folder} {what}") from error
    if form != FORMAT:
        raise ValueError(
            f"{folder}/{INDEX} has format {form!r}, this version reads {FORMAT}: prepare again"
        )
    return listed


# --- Reading a clip ---


def shard_and_name(path: Path) -> tuple[str, int, str] | None:
    """Split ``FOLDER/shard-00000.tar/NAME`` into folder, shard and the clip's name, else None."""
    found = IN_SHARD.fullmatch(path.as_posix())
    return (place(found[1].rstrip("/") or "."), int(found[2]), found[3]) if found else None


class ShardReader(VideoReader):
    """A clip of a shard, by its path ``FOLDER/shard-00000.tar/NAME``."""

    is_framed = True

    def __init__(self, path: Path) -> None:
        if (found := shard_and_name(path)) is None:
            raise VideoError(path, "it is not in a shard such as shard-00000.tar")
        self.path, (self._folder, shard, name) = path, found
        self._file = shard_name(shard)
        index = open_index(self._folder)
        row = index.find(shard, name)
        if row is None:
            raise VideoError(path, f"{self._file} holds no clip of this name")
        frames, self.height, self.width, start, data = (
            int(index[column][row]) for column in ("frames", "height", "width", "table", "data")
        )
        fps = float(index["fps"][row])
        self._is_raw = index.about.get("store") == "raw"
        self._length, self.fps = frames, None if math.isnan(fps) else fps
        # Before the table stands what the tar says of the clip: another set's may be as large.
        back = min(start, BEFORE + 4 * len(name) + 4 * len(index.text("source", row)))
        (table,) = self._spans([start - back], [back + TABLE_HEAD + 8 * frames])
        header, table = table[:back], table[back:]
        if text_bytes(json.dumps({"name": name}, ensure_ascii=False)[:-1]) not in header:
            raise VideoError(path, f"{self._file} holds another clip there: a shard of another set")
        # By hand: `np.load` takes longer to parse its head than to read it.
        head = f"'<u4', 'fortran_order': False, 'shape': ({frames}, 2)".encode()
        is_table = table.startswith(b"\x93NUMPY\x01") and head in table[:TABLE_HEAD]
        if not is_table or len(table) < TABLE_HEAD + 8 * frames:
            raise VideoError(
                path, f"the shard {self._file} cannot be read: a table of frames is damaged"
            )
        numbers = np.frombuffer(table, "<u4", 2 * frames, TABLE_HEAD)
        self._table = numbers.reshape(-1, 2).astype(np.int64)
        self._starts = data + np.cumsum(self._table[:, 0]) - self._table[:, 0]

    def _spans(self, starts: list[int], sizes: list[int]) -> Iterator[bytes]:
        try:
            yield from _read_spans(self._folder, self._file, starts, sizes)
        except Exception as error:  # of a file system's own kind, behind a URL
            raise VideoError(
                self.path, f"the shard {self._file} cannot be read: {error}"
            ) from error

    def _read(self, indices: list[int]) -> np.ndarray:
        frames = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        sizes, checksums = self._table[indices].T.tolist()
        read = self._spans(self._starts[indices].tolist(), sizes)
        for frame, index, data, checksum in zip(frames, indices, read, checksums, strict=True):
            if not data or zlib.crc32(data) != checksum:
                reason = f"frame {index}: the shard {self._file} is damaged; {AGAIN}"
                raise VideoError(self.path, reason)
            if self._is_raw:
                frame.reshape(-1)[:] = np.frombuffer(data, np.uint8)
            else:
                decode_jpeg(data, frame)
        return frames
