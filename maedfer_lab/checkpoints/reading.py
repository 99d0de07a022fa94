"""Read a file or folder of weights without executing anything in it, and report its content.

PyTorch files go through the weights-only unpickler with a short allow-list. Declared sizes are
compared with the file's size before it is read. Wrappers and prefixes are removed here.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from maedfer_lab.checkpoints.official import (
    HUGGING_FACE,
    from_hugging_face,
    integer,
    read_arguments,
    read_hugging_face,
    short,
)
from maedfer_lab.config import ModelConfig, TargetConfig, choose
from maedfer_lab.files import file_sha256, load, reading
from maedfer_lab.method.models import Pooling, Tokens
from maedfer_lab.runs import BEST, STATES, Run
from maedfer_lab.weights import NAMES, shipped

Part = Literal["autoencoder", "classifier", "encoder"]

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before zip files
SAFE_TORCH = (2, 10)  # older ones have a hole in weights-only loading
CHOICES = {"tokens": get_args(Tokens), "pooling": get_args(Pooling)}
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 5  # things of a kind that an error lists
NESTING = 8  # levels of dicts and lists in which tensors are looked for
MOST_IN_TUPLE = 10**6  # values in a tuple, with those of tuples in it
OFFICIAL_STRIDE = 4

CONFIG_FILE, WEIGHTS_FILE, RESUME_FILE = "config.json", "model.safetensors", "checkpoint.pt"
INDEX = ".index.json"  # names the files over which transformers spreads large models
WEIGHTS_FILES = (WEIGHTS_FILE, RESUME_FILE, "pytorch_model.bin", f"{WEIGHTS_FILE}{INDEX}",
                 f"pytorch_model.bin{INDEX}")  # fmt: skip
SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
PACKAGE = "maedfer_lab"  # among official args: our own configuration
WRAPPERS = ("model", "module", "state_dict")  # the first of these, else the only state dict
# Never part of a parameter's own name: those of wrappers and compilers.
WRAPPED = re.compile(
    r"(?<![^.])((module|_orig_mod|_forward_module|_(fsdp|checkpoint)_wrapped_module)\.)+"
)
# What stands before the names of layers is where a larger module keeps the model.
LAYER = re.compile(r"(.*?)(videomae\.)?((en|de)coder\.)?((patch_)?embed\.proj|embeddings\.patch_"
                   r"embeddings|blocks\.\d+|(decoder_)?layers?\.\d+)\.")  # fmt: skip
DECODING = ("decoder.", "encoder_to_decoder.", "mask_token")
ELSEWHERE = (*DECODING, "encoder.", "head.", "fc_norm.", "norm.", "classifier.", "layernorm.",
             "lg_region_tokens")  # fmt: skip
OWN = re.compile(r"encoder\.(embed\.|rep_tokens$|blocks\.\d+\.(local|inter|interact)_)")
# Content found in place of the weights after a failed download.
POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/(?:.*size (\d{1,20}))?", re.S)
WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|\?xml|script)", re.I)
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z", b"Rar!")  # gzip, bzip2, xz, 7-Zip, RAR
ONE_OF_THEM = "load_checkpoint(recognise(state_dict)) takes one of them"
SAVE = "torch.save(model.state_dict(), 'weights.pth'), where that model runs, writes its weights"


# --- a file -----------------------------------------------------------------------------------


class FileContent(NamedTuple):
    """A file's content: plain values and CPU tensors, which may still be in the file (mmap)."""

    content: Any
    format: str
    num_bytes: int


def locate(source: Path | str) -> Path:
    """The path of a checkpoint; "demo" and "demo-expressions" are the shipped ones."""
    path = Path(source).expanduser()
    return shipped(str(source)) if str(source) in NAMES and not path.exists() else path


def read_file(path: Path) -> FileContent:
    """Read a `.pth`, `.pt`, `.bin` or `.safetensors` file, recognised by its first bytes.

    ValueError, naming the file, if it is damaged or not a checkpoint, declares more than it holds,
    or contains a type that is not allowed (the type is named; nothing was executed).
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"{path} {what}; give a checkpoint such as checkpoint.pth, a run's folder, or "
            f"{' or '.join(NAMES)}; download files from the web first"
        )
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1024)
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path, num_bytes)
        content, form = _load_pickle(path, mmap=True), "PyTorch zip"
    elif start.startswith(LEGACY_MAGIC) and not _is_tar(path):
        content, form = _load_pickle(path, mmap=False), "legacy PyTorch pickle"
    elif start[8:9] == b"{":
        form = "safetensors"
        try:
            content = load_file(path)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise _damaged(path, error) from error
    else:
        raise ValueError(f"{path} is {_other_kind(path, start)}")
    _check_tensors(path, content, num_bytes)
    return FileContent(content, form, num_bytes)


def _other_kind(path: Path, start: bytes) -> str:
    """What a file is that is neither PyTorch's nor safetensors', and what to do."""
    if not start:
        return "empty (0 bytes); copy or download it again"
    if pointer := POINTER.match(start):
        held = f" of {int(pointer[1]):,} bytes" if pointer[1] else ""
        return (f"a Git LFS pointer, not the file{held} itself; fetch that with `git lfs pull`, or "
                "download it from the repository's page")  # fmt: skip
    if WEB_PAGE.match(start):
        return ("a saved web page (HTML), not weights: a login, an error or a confirmation came in "
                "their place; download it again in a browser")  # fmt: skip
    if start.startswith(PACKED) or _is_tar(path):
        return "a packed archive; unpack it, and give the file inside"
    with suppress(UnicodeDecodeError):
        if (text := start[:60].decode()).replace("\n", " ").isprintable():
            return f"a text, not weights ({text!r}); download it again, or give the file it names"
    if refused := _refused_types(path):
        return f"a pickle, but no PyTorch checkpoint; {_refusal(refused[0])}"
    return f"neither a PyTorch nor a safetensors file (it begins with {start[:8]!r}); {SAVE}"


def _check_zip(path: Path, num_bytes: int) -> None:
    """Refuse a zip whose members declare more than the file can hold; PyTorch stores unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    names = [member.filename for member in members]
    if any(name.endswith(("/constants.pkl", "/archive_format")) for name in names):
        raise ValueError(f"{path} is an exported program (TorchScript, torch.export); {SAVE}")
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(
            f"{path} is a zip file but no PyTorch checkpoint (no data.pkl; it holds "
            f"{', '.join(names[:3]) or 'nothing'}); unpack it if it contains the checkpoint"
        )
    declared = sum(member.file_size for member in members)
    if declared > num_bytes or any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ValueError(
            f"{path}: its members claim to unpack to {declared:,} bytes from a file of "
            f"{num_bytes:,}; PyTorch stores weights uncompressed, so this is no checkpoint"
        )


def _is_tar(path: Path) -> bool:
    # PyTorch would unpack a tar archive into a temporary folder: nothing is to be written.
    with suppress(Exception):  # hostile bytes raise whatever they like
        return tarfile.is_tarfile(path)
    return False


def _load_pickle(path: Path, *, mmap: bool) -> Any:
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        warnings.warn(
            f"{path} is a pickle, and PyTorch {torch.__version__} can be harmed by a hostile one; "
            "install PyTorch 2.10 or newer, or read only files that you trust",
            stacklevel=2,
        )
    if any(number > MOST_IN_TUPLE for _, number in _parts_of(path)):
        raise ValueError(f"{path} holds tuples of tuples without end: this is no checkpoint")
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; they do not matter here
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
        "Python values, argparse.Namespace and NumPy scalars alone; nothing of it was executed. "
        f"{SAVE}"
    )


def _damaged(path: Path, error: Exception) -> ValueError:
    # The unpickler's own text would advise to load the file unsafely.
    said = [] if "weights_only" in str(error).lower() else str(error).strip().splitlines()
    return ValueError(
        f"{path} cannot be read as a checkpoint; it seems damaged or cut short; copy or download "
        f"it again ({type(error).__name__}{': ' + said[0][:160] if said else ''})"
    )


# --- the allow-list ---------------------------------------------------------------------------


class _NumpyType:
    """Stands in for numpy.dtype while unpickling: no code of NumPy meets bytes of the file."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not re.fullmatch(r"[biuf]\d{1,2}", code):  # nothing that could hold an object
            raise ValueError(f"NumPy type {code!r} is not a number's")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(cast(Literal["<", ">"], state[1]))


def _numpy_scalar(kind: _NumpyType, data: bytes) -> bool | int | float:
    if not isinstance(kind, _NumpyType):
        raise ValueError("a NumPy scalar without its type")
    return np.frombuffer(data, kind.dtype, count=1)[0].item()


def _path(*parts: object) -> str:
    return "/".join(part for part in parts if isinstance(part, str))


# NumPy 2 and Python 3.13 moved modules; files of any version say their own.
ALLOWED = [
    argparse.Namespace,
    (_NumpyType, "numpy.dtype"),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_path, f"{at}.{name}") for at in ("pathlib", "pathlib._local")
      for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
]  # fmt: skip


def _refused_types(path: Path) -> list[str]:
    """Types that PyTorch's unpickler does not name, parsed without executing them."""
    harmless = ("", "torch", "collections", "argparse", "numpy", "_codecs", "pathlib")
    found = dict.fromkeys(name for name, _ in _parts_of(path))
    return [name for name in found if name.partition(".")[0] not in harmless]


def _parts_of(path: Path) -> Iterator[tuple[str, int]]:
    """`_parse` of each of the file's pickles."""
    with suppress(Exception), path.open("rb") as file:  # cut short: what was found can be said
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                yield from _parse(io.BytesIO(archive.read(name)))
        else:
            for _ in range(4):  # legacy: magic number, version, system, content
                yield from _parse(file)


def _parse(file: io.BufferedIOBase) -> Iterator[tuple[str, int]]:
    """(name, 0) of each type in a pickle, and ("", number of values) of each tuple.

    Values are counted as a tuple's hash would: with those of tuples in it. Sixty pairs, each of the
    one before twice, fill 300 bytes and, as a key, are hashed for ever. Nothing is executed.
    """
    stack: list[tuple[int, str] | None] = []  # number and text of each value; None is a mark
    memo: dict[str, tuple[int, str] | None] = {}
    for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
        taken, name = list[tuple[int, str] | None](), opcode.name
        if pickletools.markobject in opcode.stack_before:
            while stack[-1] is not None:
                taken.append(stack.pop())
            stack.pop()
        taken += [stack.pop() for kind in opcode.stack_before
                  if kind not in (pickletools.markobject, pickletools.stackslice)]  # fmt: skip
        value = (1, str(argument))
        if "TUPLE" in name:
            value = (1 + sum(one[0] for one in taken if one), "")
            yield "", value[0]
        elif name in ("GLOBAL", "INST"):
            yield value[1].replace(" ", "."), 0
        elif name == "STACK_GLOBAL":
            yield ".".join(one[1] for one in reversed(taken) if one), 0
        elif "PUT" in name:
            memo[value[1]] = stack[-1]
        elif name == "MEMOIZE":
            memo[str(len(memo))] = value = taken[0]
        elif "GET" in name:
            value = memo.get(value[1], value)
        elif name == "DUP":
            value = taken[0]
        stack += [None if name == "MARK" else value] * len(opcode.stack_after)


# --- tensors that declare more than they hold --------------------------------------------------


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


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name; containers that hold themselves are entered once."""
    left, seen = [("", content, 0)], set()
    while left:
        name, value, depth = left.pop()
        if isinstance(value, Tensor):
            yield name or "the tensor", value
        if depth == NESTING or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            left += [(f"{name}.{_key(k)}"[-200:].lstrip("."), x, depth + 1)
                     for k, x in value.items()]  # fmt: skip
        elif isinstance(value, (list, tuple)):
            left += [(f"{name}[{i}]", x, depth + 1) for i, x in enumerate(value)]


def _key(key: object) -> str:  # foreign ones may be tuples of tuples without end
    return key if isinstance(key, str) else short(key)


# --- weights ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Weights from a file, with all metadata in the file.

    state: parameters under plain names, ours (`is_own`) or the official ones.
    settings: clip, region, heads and so on under our names, as `source` (a part of the file) says.
    config: the model's, if we wrote the file. file: format, size and prefixes, as text.
    beside: other content of the file. epoch: when it was written, if the file says so.
    outside: numbers of values of the other entries of a larger module, by name.
    """

    name: str
    state: dict[str, Tensor]
    is_own: bool
    part: Part
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    config: ModelConfig | None = None
    file: str = ""
    beside: tuple[str, ...] = ()
    epoch: str | None = None
    hugging_face: bool = False
    outside: dict[str, int] = field(default_factory=dict)


def open_weights(source: Path | str) -> Weights:
    """Weights of a file, of a run's folder, of a folder that `save_pretrained` (ours, or that of
    transformers) wrote, or shipped ones by name.

    Raises ValueError if the file does not match its recorded SHA-256.
    """
    path, unread = locate(source), ""
    if path.is_dir():
        path, *others = _files_in(path)
        unread = "".join(f"; {other.name} in the same folder was not read" for other in others)
    if path.suffix == ".safetensors" and path.is_file():
        _check_digest(path)
    beside = path.with_name(CONFIG_FILE)
    read = _read_shards(path) if path.name.endswith(INDEX) else read_file(path)
    weights = recognise(read.content, str(path), f"{read.format}, {read.num_bytes / 1e6:,.1f} MB")
    weights = dataclasses.replace(weights, file=weights.file + unread)
    if weights.hugging_face and beside.is_file():
        try:
            settings = read_hugging_face(load(beside))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{beside} is not that of a VideoMAE: {error}") from error
        return dataclasses.replace(weights, settings=settings, source=beside.name)
    if not weights.is_own:
        return weights
    if not beside.is_file():
        raise FileNotFoundError(
            f"{path} holds a model of maedfer_lab, which needs {CONFIG_FILE} (clip, regions), "
            f"missing in {path.parent}; save_pretrained(model, folder) writes both"
        )
    config, settings = _read_config(load(beside), str(beside))
    return dataclasses.replace(weights, config=config, settings=settings, source=beside.name)


def _files_in(folder: Path) -> list[Path]:
    """The file of a folder that holds its weights, and others of usual names that are not read."""
    usual = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if usual or len(files) == 1:
        return usual or files
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no weights, neither {' nor '.join(WEIGHTS_FILES[:3])} nor another "
            f"{', '.join(SUFFIXES)}; give a run's folder, or a checkpoint file"
        )
    raise FileNotFoundError(
        f"{folder} holds {len(files)} files of weights and none of a usual name: "
        f"{', '.join(path.name for path in files[:SHOWN])}; give one of them"
    )


def _read_shards(index: Path) -> FileContent:
    """The tensors of all files that an index names, in its folder."""
    with reading(index):
        names = sorted(set(load(index)["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"weight_map names {names[:SHOWN]}, which are not files in its folder")
        parts = [read_file(index.with_name(name)) for name in names]
        content = {key: x for part in parts for key, x in part.content.items()}
    return FileContent(
        content, f"{len(parts)} x {parts[0].format}", sum(p.num_bytes for p in parts)
    )


def facts_of(source: Path | str) -> dict[str, Any]:
    """Metadata of a checkpoint: name, stride, classes, kind, training, whether synthetic.

    source: a folder with a card.json, a run's folder (which adds `config`, `data` and `folder`),
        or the weights in one of them; {} for any other file.
    """
    source = locate(source)
    folder = source.parent if source.name in (*WEIGHTS_FILES, BEST, *STATES) else source
    if (folder / "card.json").exists():
        return load(folder / "card.json")
    if not (folder / "result.json").exists():
        config, data = (load(path) if (path := folder / name).is_file() else {}
                        for name in (CONFIG_FILE, "data.json"))  # fmt: skip
        if "id2label" in config:  # transformers'
            with reading(folder / CONFIG_FILE):
                labels = {int(number): str(label) for number, label in config["id2label"].items()}
            return {"name": folder.name, "classes": [labels[k] for k in sorted(labels)]}
        if not {"stride", "data"} <= config.keys():
            return {}
        return {
            "name": folder.name, "stride": config["stride"], "synthetic": config["data"] is None,
            "classes": data.get("classes"), "training": "a training that is not finished",
        }  # fmt: skip
    result, config = Run(folder).load_result(), Run(folder).read(CONFIG_FILE)
    with Run(folder).reading("result.json"):
        data = str(result.get("data") or result["provenance"].get("data", "unknown data"))
        kind = "fine-tuned" if "classes" in result else "pre-trained"
        return {
            "name": folder.name, "stride": config.get("stride", OFFICIAL_STRIDE), "kind": kind,
            "classes": result.get("classes"), "synthetic": data.startswith("synthetic"),
            "training": f"{kind} for {result['steps']} steps on {data}", "data": data,
            "config": config, "folder": folder, "sha256": result.get("sha256", {}),
        }  # fmt: skip


def _check_digest(path: Path) -> None:
    """Compare with the SHA-256 recorded when the weights were written."""
    for beside in (path.with_name(CONFIG_FILE), path.with_name("result.json")):
        recorded = load(beside).get("sha256") if beside.is_file() else None
        for file in (path, path.with_name(CONFIG_FILE)):
            digest = recorded.get(file.name) if isinstance(recorded, dict) else None
            if isinstance(digest, str) and digest != file_sha256(file):
                raise ValueError(
                    f"{file} is not the file that was written: its SHA-256 differs from the one in "
                    f"{beside.name}; it is damaged or was exchanged: copy it again"
                )


def recognise(content: Any, name: str = "the state dict", form: str = "in memory") -> Weights:
    """Weights from a file's content (or from a state dict), with metadata.

    name: for messages. form: the file's format, for the report.
    """
    values, around, wrapper = _unwrap(content, name)
    state, outside, prefixes = _strip(values, name)
    hugging_face = any(HUGGING_FACE.match(n) for n in state)
    state = from_hugging_face(state) if hugging_face else state
    for key, x in state.items():
        if not isinstance(x, Tensor) or x.dtype not in PRECISIONS:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name}: {key} is {kind}; parameters are floating-point tensors")
    part: Part = "classifier" if any(n.startswith("head.") for n in state) else "encoder"
    part = "autoencoder" if any(n.startswith(DECODING) for n in state) else part
    file = [form, " and ".join({str(x.dtype).removeprefix("torch."): 0 for x in state.values()})]
    file += [f"weights under {wrapper!r}"] * bool(wrapper)
    file += [f"prefix {' and '.join(map(repr, prefixes))}"] * bool(prefixes)
    settings, config = {}, None
    if isinstance(arguments := around.get("args"), argparse.Namespace):
        arguments = vars(arguments)
    if isinstance(arguments, Mapping):
        if PACKAGE in arguments:  # what `save_official` adds: more than official names can say
            config, settings = _read_config(arguments[PACKAGE], name)
        else:
            settings = read_arguments(arguments, name)
    epoch = next((around[key] for key in ("epoch", "step") if key in around), None)
    beside = tuple(f"{key} (weights as well, not used)" if _is_state(x) else key
                   for key, x in around.items())  # fmt: skip
    return Weights(
        name, state, any(OWN.match(n) for n in state), part, settings, "the file's args", config,
        ", ".join(file), beside, None if epoch is None else short(epoch).strip("'"),
        hugging_face, outside,
    )  # fmt: skip


def _unwrap(content: Any, name: str) -> tuple[Mapping[str, Any], dict[str, Any], str]:
    """(state dict, what lies around it, name of the wrapper)."""
    around: dict[str, Any] = {}
    found: list[str] = []
    while isinstance(content, Mapping) and len(found) < NESTING:
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        states = [k for k, x in content.items() if _is_state(x)]
        if key is None and len(states) > 1:
            raise ValueError(f"{name} holds several models, under {', '.join(map(short, states))}; "
                             f"{ONE_OF_THEM}")  # fmt: skip
        key = states[0] if key is None and states else key
        if key is None:
            values = {_key(k): x for k, x in content.items() if isinstance(x, Tensor) or found}
            if not values:
                break
            around |= {_key(k): x for k, x in content.items() if _key(k) not in values}
            return values, around, ".".join(found)
        around |= {_key(k): x for k, x in content.items() if k != key}
        found.append(_key(key))
        content = content[key]
    what = type(content).__name__
    if isinstance(content, Mapping):
        what = f"the keys {sorted(map(_key, content))[:5]}"
    raise ValueError(
        f"{name} holds no weights but {what}; a checkpoint is a state dict, or has one under "
        f"{', '.join(map(repr, WRAPPERS))}"
    )


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(key, str) and "." in key and isinstance(x, Tensor) for key, x in value.items()
    )


def _strip(
    values: Mapping[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, int], tuple[str, ...]]:
    """The state dict without prefixes, what lies outside of the model's, and the prefixes."""
    prefixes = dict.fromkeys(match[0] for n in values if (match := WRAPPED.search(n)))
    names = [WRAPPED.sub("", n) for n in values]
    places = sorted({match[1] for n in names if (match := LAYER.match(n))}) or [""]
    if len(places) > 1:
        raise ValueError(f"{name} holds several models, under {', '.join(map(repr, places))}; "
                         f"{ONE_OF_THEM}")  # fmt: skip
    place = places[0]
    outside = {n: x.numel() if isinstance(x, Tensor) else 0
               for n, x in zip(names, values.values(), strict=True)
               if not n.startswith((place, *ELSEWHERE))}  # fmt: skip
    inside = [n.removeprefix(place) for n in names]
    prefixes |= {place: None} if place else {}
    if not any(n.startswith(DECODING) or OWN.match(n) or HUGGING_FACE.match(n) for n in inside):
        prefixes |= {"encoder.": None} if any(n.startswith("encoder.") for n in inside) else {}
        inside = [n.removeprefix("encoder.") for n in inside]
    twice = [n for n, count in Counter(inside).items() if count > 1]
    if twice:
        raise ValueError(f"{name}: {twice[0]} occurs twice, under different prefixes")
    state = {short_name: x for n, short_name, x in zip(names, inside, values.values(), strict=True)
             if n not in outside}  # fmt: skip
    return state, outside, tuple(prefixes)


def _read_config(values: Any, name: str) -> tuple[ModelConfig, dict[str, Any]]:
    """A model's configuration and other settings in it: by a run or by `saving`."""
    try:
        settings = {key: values[key] for key in CHOICES if key in values}
        for key, value in settings.items():
            choose(key, value, CHOICES[key])
        if values.get("target") is not None:
            settings["target"] = TargetConfig(**_plain(values["target"], TargetConfig))
        return ModelConfig(**_plain(values["model"], ModelConfig)), settings
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name}: no configuration of {PACKAGE}, which has the fields of ModelConfig under "
            f"'model' ({type(error).__name__}: {error})"
        ) from error


def _plain(values: Mapping[str, Any], kind: type[ModelConfig] | type[TargetConfig]) -> dict:
    """Fields of a configuration, if each is of its default's type and no size is absurd."""
    found = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
    for default in dataclasses.fields(kind):
        value, wanted = found.get(default.name, default.default), type(default.default)
        fits = isinstance(value, (int, float) if wanted is float else wanted)
        fits &= isinstance(value, bool) is (wanted is bool)
        if isinstance(value, tuple):
            fits &= all(type(number) is int for number in value)
        if not fits:
            raise TypeError(f"{default.name}={short(value)} should be {wanted.__name__}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                integer(number)
        if wanted is float:
            found[default.name] = float(cast(float, value))
    return found
