"""Read a file of weights without executing anything in it.

PyTorch files (zip or legacy pickle) go through the weights-only unpickler with a short allow-list;
safetensors files hold no code. What a file declares is compared with its size before it is read.
"""

from __future__ import annotations

import argparse
import io
import math
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before zip files
SCALAR_KINDS = "biuf"  # NumPy's booleans, integers and floats: nothing that could hold an object
SAFE_TORCH = (2, 10)  # in which a hole in weights-only loading was closed
NESTING = 8  # levels of dicts and lists in which tensors are looked for


@dataclass(frozen=True)
class FileContent:
    """What a file holds: plain values and CPU tensors, which may still lie in the file (mmap)."""

    content: Any
    format: str
    num_bytes: int


def read_file(path: Path) -> FileContent:
    """Read a `.pth`, `.pt`, `.bin` or `.safetensors` file; its first bytes say which it is.

    Raises ValueError, naming the file, where it is empty, damaged, no checkpoint, declares more
    than it holds, or names a type that is not allowed (the type is named; nothing was executed).
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a checkpoint such as checkpoint.pth")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give a checkpoint such as checkpoint.pth")
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise ValueError(f"{path} is empty (0 bytes); copy or download it again")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path, num_bytes)
        content, form = _load_pickle(path, mmap=True), "PyTorch zip"
    elif start.startswith(LEGACY_MAGIC) and not _is_tar(path):
        content, form = _load_pickle(path, mmap=False), "legacy PyTorch pickle"
    elif start[8:9] == b"{":
        content, form = _load_safetensors(path), "safetensors"
    elif refused := _refused_types(path):
        raise ValueError(f"{path} is a pickle, but no PyTorch checkpoint; {_refusal(refused[0])}")
    else:
        raise ValueError(
            f"{path} is neither a PyTorch nor a safetensors file (it begins with {start[:8]!r}); "
            "give a .pth, .pt, .bin or .safetensors file"
        )
    _check_tensors(path, content, num_bytes)
    return FileContent(content, form, num_bytes)


def _check_zip(path: Path, num_bytes: int) -> None:
    """Refuse a zip whose members declare more than the file can hold; PyTorch stores unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    declared = sum(member.file_size for member in members)
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
    if declared > num_bytes or packed:
        raise ValueError(
            f"{path}: its members claim to unpack to {declared:,} bytes from a file of "
            f"{num_bytes:,}; PyTorch stores weights uncompressed, so this is no checkpoint"
        )
    if not any(m.filename.endswith("/data.pkl") for m in members):
        raise ValueError(f"{path} is a zip file but no PyTorch checkpoint (it has no data.pkl)")


def _is_tar(path: Path) -> bool:
    # PyTorch would unpack a tar archive into a temporary folder: nothing is to be written.
    try:
        return tarfile.is_tarfile(path)
    except Exception:  # hostile bytes raise whatever they like
        return False


def _load_pickle(path: Path, *, mmap: bool) -> Any:
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        warnings.warn(
            f"{path} is a pickle, and PyTorch {torch.__version__} can be harmed by a hostile one; "
            "install PyTorch 2.10 or newer, or read only files that you trust",
            stacklevel=2,
        )
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the file is read or refused
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is") from error
    except Exception as error:  # hostile bytes raise whatever they like
        refused = re.findall(r"GLOBAL (\S+) (?:was not|whose module)", str(error))
        refused = refused or _refused_types(path)
        if refused:
            raise ValueError(f"{path} is no plain checkpoint; {_refusal(refused[0])}") from None
        raise _damaged(path, error) from error


def _refusal(name: str) -> str:
    return (
        f"it names the type {name}, which loading refuses: a checkpoint may hold tensors, plain "
        "Python values, argparse.Namespace and NumPy scalars alone; nothing of it was executed"
    )


def _damaged(path: Path, error: Exception) -> ValueError:
    # The unpickler's own text would advise to load the file unsafely.
    said = [] if "weights_only" in str(error).lower() else str(error).strip().splitlines()
    return ValueError(
        f"{path} cannot be read as a checkpoint; it seems damaged or cut short; copy or download "
        f"it again ({type(error).__name__}{': ' + said[0][:160] if said else ''})"
    )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error


# --- the allow-list ---------------------------------------------------------------------------


class _NumpyType:
    """Stands in for numpy.dtype while unpickling: no code of NumPy meets bytes of the file."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not re.fullmatch(rf"[{SCALAR_KINDS}]\d{{1,2}}", code):
            raise ValueError(f"NumPy type {code!r} is not a number's")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def _numpy_scalar(kind: _NumpyType, data: bytes) -> bool | int | float:
    if not isinstance(kind, _NumpyType):
        raise ValueError("a NumPy scalar without its type")
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


def _under_name(name: str, stand_in: Callable[..., object]) -> Callable[..., object]:
    """`stand_in`, known to the unpickler as `name`: its list goes by module and qualified name."""
    module, _, short = name.rpartition(".")
    namespace = {"__module__": module, "__qualname__": short}
    if isinstance(stand_in, type):
        return type(short, (stand_in,), namespace)

    def function(*args: object) -> object:
        return stand_in(*args)

    function.__module__, function.__qualname__, function.__name__ = module, short, short
    return function


def _allowed() -> list[Any]:
    # NumPy 2 moved the module; files of either say their own.
    return [
        argparse.Namespace,
        _under_name("numpy.dtype", _NumpyType),
        _under_name("numpy.core.multiarray.scalar", _numpy_scalar),
        _under_name("numpy._core.multiarray.scalar", _numpy_scalar),
    ]


# --- naming what was refused ------------------------------------------------------------------


def _refused_types(path: Path) -> list[str]:
    """Types that PyTorch's unpickler does not name: those of newer pickle protocols."""
    harmless = ("torch", "collections", "argparse", "numpy", "_codecs")
    return [name for name in _named_types(path) if name.partition(".")[0] not in harmless]


def _named_types(path: Path) -> list[str]:
    """Every module.name in the file's pickles, parsed without executing them."""
    found: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                found.update(dict.fromkeys(_globals_of(io.BytesIO(archive.read(name)))))
        else:
            with path.open("rb") as file:
                for _ in range(4):  # legacy: magic number, version, system, content
                    found.update(dict.fromkeys(_globals_of(file)))
    except Exception:  # a pickle cut short: what was found so far is what can be said
        pass
    return list(found)


def _globals_of(file: io.BufferedIOBase) -> Iterator[str]:
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


# --- tensors that say more than they hold ----------------------------------------------------


def _check_tensors(path: Path, content: Any, num_bytes: int) -> None:
    for name, x in _tensors(content):
        if x.layout is not torch.strided or x.is_quantized or x.device.type != "cpu":
            raise ValueError(f"{path}: {name} is not a plain tensor ({x.layout}, {x.dtype})")
        claimed = math.prod(x.shape) * x.element_size()
        if claimed > min(x.untyped_storage().nbytes(), num_bytes):
            raise ValueError(
                f"{path}: {name} of shape {tuple(x.shape)} claims {claimed:,} bytes, which a file "
                f"of {num_bytes:,} bytes does not hold"
            )


def _tensors(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "the tensor", value
    elif depth < NESTING and isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key), depth + 1)
    elif depth < NESTING and isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _tensors(part, f"{name}[{i}]", depth + 1)
