"""Results with provenance (figures/NAME.json); atomic file writes."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import io
import json
import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from maedfer_lab.config import data_folder, output_folder

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, or for this file
DIGESTED = 2**20  # bytes at either end of a large file
LIBRARIES = ("maedfer-lab", "torch", "numpy")


def write_aside(
    path: Path, content: bytes | Callable[[Path], object], num_bytes: int | None = None,
    sha256: bool = False,
) -> str:  # fmt: skip
    """Write `content` to a temporary file beside `path`, then rename it (atomic).

    content: bytes, or a function that writes the file it is given: large tensors then need no copy
        in memory. num_bytes: about how many that writes, for the message of a full disk.
    sha256: give the content's SHA-256, taken while the disk is at work; else the result is "".

    Raises OSError, which names the file, the bytes needed and the folder.
    """
    part = _beside(path)
    try:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            content(part)
        with part.open("rb+") as file, ThreadPoolExecutor(1) as beside:
            digest = beside.submit(file_sha256, part) if sha256 else None
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
        return "" if digest is None else digest.result()
    except OSError as error:
        if error.errno not in FULL:
            raise
        num_bytes = len(content) if isinstance(content, bytes) else num_bytes
        needs = "room" if num_bytes is None else f"{num_bytes:,} bytes"
        said = f"{error.strerror}: {path.name} needs {needs} in {path.parent}"
        raise OSError(error.errno, said) from error
    finally:
        part.unlink(missing_ok=True)


def text_bytes(text: str, exact: bool = False) -> bytes:
    """Text in UTF-8, whatever file names in it hold: Linux takes any bytes for a name.

    exact: bytes that are no UTF-8 stay, for tables read with errors="surrogateescape"; else they
        become \\udcXX, which JSON reads back and every program shows.
    """
    return text.encode(errors="surrogateescape" if exact else "backslashreplace")


def csv_line(row: Iterable[object]) -> str:
    """A line of CSV that ends in a line feed; a name with a carriage return in it is quoted too."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # quotes what the end is made of
    return text.getvalue()[:-2] + "\n"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading; ValueError for a pipe or a device, which may never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    return path.open("rb")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, opened as by `open_bytes`."""
    with open_bytes(path) as file:
        return file.read()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open_bytes(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def update_by_ends(digest: hashlib._Hash | hashlib.blake2b, files: Iterable[Path]) -> None:
    """Add size, first and last megabyte of each file: enough to tell large ones apart."""
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest.update(size.to_bytes(8, "big"))
            for at in (0, max(0, size - DIGESTED)):
                file.seek(at)
                digest.update(file.read(DIGESTED))


def check_writable(path: Path) -> None:
    """Raise, before hours of work, if `path` could not be written."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")
    _beside(path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise type(error)(
            f"cannot write {path} ({error.strerror}); choose a place of yours with --out or "
            "MAEDFER_OUTPUT"
        ) from error
    os.close(handle)
    return Path(name)


def commit() -> str:
    """Commit of the running code, with "+" when files differ from it; "unknown" without git.

    The working directory does not matter; an installed copy inside somebody's checkout has none.
    """
    here = str(Path(__file__).resolve().parent)

    def git(*what: str, check: bool = True) -> str:
        done = subprocess.run(["git", "-C", here, *what], capture_output=True, text=True,
                              timeout=10, check=check)  # fmt: skip
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "files.py")
        now = git("rev-parse", "--short=10", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return now + ("+" if changes else "")


def library_version(name: str) -> str:
    """The version of an installed package; a checkout that is used by its path has none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def provenance(*, profile: str, seed: int | str, device: str, **more: object) -> dict[str, Any]:
    """Provenance of numbers: profile, seed, device, commit, versions, and further entries."""
    data = data_folder()
    return {
        "profile": profile, "data": "synthetic faces" if data is None else data.name,
        "seed": seed, "device": device, "commit": commit(), "python": platform.python_version(),
        "versions": {name: library_version(name) for name in LIBRARIES}, **more,
    }  # fmt: skip


def figures_folder(profile: str) -> Path:
    """figures/ for figures to share; figures/smoke/, and figures/own/ for your own videos."""
    folder = output_folder() / "figures"
    if profile == "smoke":
        return folder / "smoke"
    return folder if data_folder() is None else folder / "own"


def save(name: str, data: dict[str, Any], source: dict[str, Any], beside: str = "") -> Path:
    """Save a notebook's numbers as NAME.json, with the `provenance` they come from.

    beside: a folder in figures/, where the committed numbers are not to be replaced.
    """
    path = figures_folder(source["profile"]) / beside / f"{name}.json"
    lines = [  # a line per entry: small, and still to be read in a diff
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in {"provenance": source, **data}.items()
    ]
    write_aside(path, text_bytes("{\n" + ",\n".join(lines) + "\n}\n"))
    return path


class DamagedError(ValueError):
    """A file whose content cannot be used; names it, and says what to do."""


@contextmanager
def reading(path: Path | str, mend: str = "put a copy back") -> Iterator[None]:
    """Turn any error from unexpected content into a `DamagedError` that names `path`."""
    try:
        yield
    except DamagedError:  # of another file, told already
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
            csv.Error, zipfile.BadZipFile) as error:  # fmt: skip
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        said = f"{kind}{' '.join(str(error).split())}"[:300]
        raise DamagedError(f"{path} is damaged or was changed ({said}); {mend}") from error


def load(path: Path, mend: str = "put a copy back") -> dict[str, Any]:
    """The object in a JSON file.

    Raises FileNotFoundError, or `DamagedError` where it is no file, such as a pipe, or no object.
    """
    with reading(path, mend):
        content = json.loads(read_bytes(path))
        if not isinstance(content, dict):
            raise TypeError("it holds no object")
        return content


def png_bytes(pixels: np.ndarray, **options: int) -> bytes:
    """A picture (H W 3, uint8) as a PNG file; options of Pillow's, by default the smallest file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **(options or {"optimize": True}))
    return file.getvalue()


def pack_picture(pixels: np.ndarray) -> str:
    """A picture (H W 3, uint8) as text for a JSON file (lossless PNG, base64)."""
    return base64.b64encode(png_bytes(pixels)).decode()


def unpack_picture(text: str) -> np.ndarray:
    """Inverse of `pack_picture`."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
