"""A run's folder: runs/NAME-HASH, with its configuration, data, checkpoint, log and result.

Finished runs load, partial ones resume. Files are written to a temporary name and renamed, and
verified before they are used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maedfer_lab.config import FinetuneConfig, PretrainConfig, output_folder
from maedfer_lab.files import (
    DamagedError,
    csv_line,
    file_sha256,
    load,
    reading,
    update_by_ends,
    write_aside,
)

try:
    import fcntl
except ImportError:
    fcntl = None

LogRow = dict[str, float | int]
RunConfig = PretrainConfig | FinetuneConfig
Config = TypeVar("Config", PretrainConfig, FinetuneConfig)

WEIGHTS, BEST = "model.safetensors", "best.safetensors"  # of the last epoch; of the best one
LOCK = ".lock"
STATES = ("checkpoint.pt", "checkpoint-before.pt")

# Settings added after the first runs: at these values a run keeps its name.
LATER = {"accumulate": 1, "stop_after": None, "log_every": 1, "framing": "face", "init": None,
         "optimiser": "adamw", "warp": 0.0, "grey": 0.0, "blend": 0.0, "on_broken": "skip",
         "mix_group": None, "function": "", "extension": "", "pooling": "mean", "zoom": 1.0,
         "drawn_label": "expression", "ema": 0.0}  # fmt: skip


def config_hash(config: RunConfig) -> str:
    """Ten hexadecimal digits of the whole configuration."""
    return _hash(asdict(config))


def _hash(values: dict[str, Any]) -> str:
    text = json.dumps(_without_later(values), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _without_later(values: dict[str, Any]) -> dict[str, Any]:
    if not values.get("stills"):  # then neither of its two settings has an effect
        values = {k: v for k, v in values.items() if k not in ("stills", "stills_share")}
    return {
        name: _without_later(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not (name in LATER and value == LATER[name])
    }


@dataclass(frozen=True)
class Run:
    """The folder of one configuration.

    config.json, data.json (summary of its clips' table), start.json (digest of its initial
    weights), checkpoint.pt (state to resume from; checkpoint-before.pt is the previous one),
    log.csv; and once finished model.safetensors and result.json.
    """

    folder: Path

    @classmethod
    def of(cls, config: RunConfig, output: Path | None = None) -> Run:
        """The run of `config` under `output` (default: the project's folder).

        Raises ValueError if config.json does not fit the folder's name, or the initial weights
        have changed since the run began.
        """
        run = cls((output or output_folder()) / "runs" / f"{config.name}-{config_hash(config)}")
        text = json.dumps(asdict(config), indent=1, default=str) + "\n"
        if not (run.folder / "config.json").exists():
            write_aside(run.folder / "config.json", text.encode())
        elif _hash(run.read("config.json")) != config_hash(config):
            raise run._damaged("config.json", "it does not hold the settings of this run")
        start = getattr(config, "checkpoint", config.init)
        if isinstance(start, Path) and (digest := _digest(start)) is not None:  # else told later
            if not (run.folder / "start.json").exists():
                run.write("start.json", (json.dumps({"digest": digest}) + "\n").encode())
            elif run.read("start.json").get("digest") != digest:
                raise ValueError(
                    f"{start} holds other weights than when {run.folder} began; to start from "
                    "them, delete that folder, or give another one with --out"
                )
        return run

    @property
    def _mend(self) -> str:
        return f"put a copy back, or delete {self.folder} and run the same command again"

    def _damaged(self, name: str, why: object) -> DamagedError:
        return DamagedError(f"{self.folder / name} is damaged or was changed ({why}); {self._mend}")

    def reading(self, name: str) -> AbstractContextManager[None]:
        """Turn errors from unexpected content of a file of the folder into one that names it."""
        return reading(self.folder / name, self._mend)

    def check_data(
        self, data: dict[str, Any], explain: Callable[[dict, dict], tuple[str, ...]]
    ) -> None:
        """Record the clips in data.json, or compare them with the record.

        Raises ValueError, with what changed, if the run belongs to other clips or labels.
        """
        if not (self.folder / "data.json").exists():
            if not self.is_finished and any((self.folder / name).exists() for name in STATES):
                raise ValueError(
                    f"{self.folder} was begun by an earlier version without a record of its "
                    "clips, so it cannot be resumed safely; delete it, or give --out"
                )
            if not self.is_finished:
                self.write("data.json", (json.dumps(data) + "\n").encode())
            return
        kept = self.read("data.json")
        with self.reading("data.json"):
            changes = "; ".join(explain(kept, data))
        if changes or kept.get("digest") != data["digest"]:
            raise ValueError(
                f"the data changed since {self.folder} began: {changes or 'another digest'}. Its "
                "result belongs to the old data; for the new ones give another folder with --out, "
                "or another name with --name"
            )

    @classmethod
    def finished(cls, folder: Path, verb: str, example: str) -> Run:
        """The finished run in a folder that `verb` wrote, as `example`; else FileNotFoundError."""
        run = cls(folder.expanduser())
        if not run.is_finished:
            raise FileNotFoundError(
                f"{folder} holds no finished run (no result.json); give a folder that "
                f"`maedfer {verb}` has written, such as runs/{example}-..."
            )
        return run

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended and its model can be loaded."""
        return (self.folder / "result.json").exists()

    @property
    def remark(self) -> str:
        """When a finished run ended, for the remark on loading it."""
        ended = date.fromtimestamp((self.folder / "result.json").stat().st_mtime)
        return f"finished run of {ended} loaded: {self.folder}"

    def read(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the folder; ValueError if it is damaged."""
        return load(self.folder / name, self._mend)

    def config(self, parse: Callable[[dict[str, Any]], Config]) -> Config:
        """The configuration in config.json, by `pretrain_config` or `finetune_config`."""
        with self.reading("config.json"):
            return parse(self.read("config.json"))

    def save_state(self, state: dict[str, Any]) -> None:
        """Save what is needed to resume; the previous state is kept as well.

        Raises OSError, with the bytes needed, if it cannot be written; old states are then kept.
        """
        state = {**state, "run": self.folder.name}
        self.write("next.pt", lambda path: write_state(state, path), _num_bytes(state))
        if (self.folder / STATES[0]).exists():
            (self.folder / STATES[0]).replace(self.folder / STATES[1])
        (self.folder / "next.pt").replace(self.folder / STATES[0])
        self.save_log(state["log"])

    def write(
        self, name: str, content: bytes | Callable[[Path], object], num_bytes: int | None = None,
        sha256: bool = False,
    ) -> str:  # fmt: skip
        """`write_aside` for a file of the folder."""
        return write_aside(self.folder / name, content, num_bytes, sha256)

    def load_state(
        self, take: Callable[[dict[str, Any]], object] | None = None
    ) -> dict[str, Any] | None:
        """The last intact state, or None at a fresh start.

        Every byte is compared with its checksum (torch.load compares none), and `take` restores it,
        or raises if it does not fit. A bad state gives a warning and the previous one is used; if
        none is intact, ValueError. Never executes code from the files.
        """
        broken = []
        for path in (self.folder / name for name in STATES):
            if not path.exists():
                continue
            try:
                with zipfile.ZipFile(path) as archive:
                    if bad := archive.testzip():
                        raise ValueError(f"{bad} differs from its checksum")
                state = torch.load(path, map_location="cpu", weights_only=True)
                if (run := state.pop("run", self.folder.name)) != self.folder.name:
                    raise ValueError(f"it is of the run {run}")
                if take is not None:
                    take(state)
            except Exception as error:  # zip, pickle and torch have a dozen between them
                why = (str(error).splitlines() or [""])[0]
                broken.append(f"{path} ({type(error).__name__}: {why})")
                continue
            if broken:
                warnings.warn(
                    f"{broken[0]} cannot be read; resuming from the previous state, step "
                    f"{state['step']}",
                    stacklevel=2,
                )
            return state
        if broken:
            raise ValueError(f"no checkpoint can be read: {', '.join(broken)}; delete "
                             f"{self.folder} to start again")  # fmt: skip
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes; the system unlocks it when this one ends.

        Raises BlockingIOError if another process works there, and names it.
        """
        if fcntl is None:  # no such locks on Windows
            yield
            return
        path = self.folder / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise BlockingIOError(
                    error.errno,
                    f"{file.read().strip() or 'another process'} is training in {self.folder}; "
                    "wait for it, or give another folder with --out",
                ) from error
            except OSError:  # a file system without locks
                yield
                return
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError(
                    errno.EAGAIN, f"another process left {self.folder} just now; start again"
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete temporary files of killed processes. Only while no other one writes here."""
        for suffix in ("pt", "csv", "json", "safetensors"):
            for path in self.folder.glob(f".*.{suffix}.*"):
                path.unlink(missing_ok=True)

    def save_log(self, log: list[LogRow]) -> None:
        """Write the log as log.csv, a row per step."""
        names = list(dict.fromkeys(name for row in log for name in row))
        lines = [names, *([row.get(name, "") for name in names] for row in log)]
        self.write("log.csv", "".join(map(csv_line, lines)).encode())

    def save_weights(self, model: nn.Module, name: str = WEIGHTS) -> str:
        """Write a model's weights; returns their SHA-256."""
        weights = {key: x.detach().cpu().contiguous() for key, x in unique_state(model).items()}
        size = _num_bytes(weights)
        return self.write(name, lambda path: write_weights(weights, path), size, sha256=True)

    def finish(self, model: nn.Module, result: dict[str, Any]) -> dict[str, Any]:
        """Write final weights, and the result with the checksums of the rest; delete the state.

        Returns the result as it is written.
        """
        digest = self.save_weights(model)
        kept = [name for name in ("config.json", BEST) if (self.folder / name).exists()]
        digests = {name: file_sha256(self.folder / name) for name in kept}
        result = {**result, "sha256": {WEIGHTS: digest, **digests}}
        self.write("result.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        for name in (*STATES, "next.pt"):
            (self.folder / name).unlink(missing_ok=True)
        self.sweep()
        return result

    def load_weights(
        self, model: nn.Module, name: str = WEIGHTS, sha256: str | None = None
    ) -> None:
        """Fill `model` with weights of the folder.

        sha256: their expected checksum, if known.

        Raises ValueError if they are damaged, or another model's.
        """
        path = self.folder / name
        try:
            if sha256 is not None and file_sha256(path) != sha256:
                raise ValueError("its bytes differ from their checksum")
            weights = load_file(path)
            if missing := unique_state(model).keys() ^ weights.keys():
                raise ValueError(f"they do not fit this model: {sorted(missing)[:5]}")
            model.load_state_dict(weights, strict=False)
        except (SafetensorError, ValueError, RuntimeError, FileNotFoundError) as error:
            raise self._damaged(name, error) from error

    def load_result(self) -> dict[str, Any]:
        """The result of a finished run, with its configuration as it was."""
        for name in (*STATES, "next.pt"):  # left by a kill between the result and the end
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        result = self.read("result.json")
        with self.reading("result.json"):
            wanted = result.get("sha256", {}).get("config.json")  # runs of before have none
        if wanted is not None and file_sha256(self.folder / "config.json") != wanted:
            raise self._damaged("config.json", "it was changed after the run ended")
        return result


def write_state(state: dict[str, Any], path: Path) -> None:
    """`torch.save`, directly into the file; a full disk stays an OSError."""
    with _disk_errors(), path.open("wb") as file:  # torch writes a path's own name into the file
        torch.save(state, file)


def write_weights(weights: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """Safetensors' `save_file`, directly into the file; a full disk stays an OSError."""
    with _disk_errors():
        save_file(weights, path, metadata=metadata or None)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise the OSError that torch and safetensors wrap in errors of their own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def _num_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists; the rest is small beside them."""
    if isinstance(state, Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state
    return sum(map(_num_bytes, parts)) if isinstance(state, dict | list | tuple) else 0


def _digest(start: Path) -> str | None:
    """Digest of a checkpoint, or of the weights in a folder: `update_by_ends`."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(start.glob("*.safetensors")) if start.is_dir() else [start]
    update_by_ends(digest, filter(Path.is_file, files))
    return digest.hexdigest() if files and files[0].is_file() else None


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """State dict with shared parameters only under their first name."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: x for name, x in state.items() if first.setdefault(id(x), name) == name}
