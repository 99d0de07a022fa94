"""A run's folder: runs/NAME-HASH, with its configuration, checkpoint, log and result.

Finished runs load, partial ones resume. Everything is written aside and renamed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from maedfer_lab.config import FinetuneConfig, PretrainConfig, output_folder
from maedfer_lab.evidence.results import write_aside

RunConfig = PretrainConfig | FinetuneConfig


def config_hash(config: RunConfig) -> str:
    """Ten hexadecimal digits of the whole configuration."""
    text = json.dumps(asdict(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Run:
    """The folder of one configuration.

    config.json, checkpoint.pt (state to resume from), log.csv; and once finished
    model.safetensors and result.json.
    """

    folder: Path

    @classmethod
    def of(cls, config: RunConfig, output: Path | None = None) -> Run:
        """The run of `config` under `output` (default: the project's folder)."""
        root = (output or output_folder()) / "runs"
        run = cls(root / f"{config.name}-{config_hash(config)}")
        text = json.dumps(asdict(config), indent=1, default=str) + "\n"
        if not (run.folder / "config.json").exists():
            write_aside(run.folder / "config.json", text.encode())
        return run

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended and its model can be loaded."""
        return (self.folder / "result.json").exists()

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep what is needed to go on: model, optimiser, step and log."""
        file = io.BytesIO()
        torch.save(state, file)
        write_aside(self.folder / "checkpoint.pt", file.getvalue())
        self.save_log(state["log"])

    def load_state(self) -> dict[str, Any] | None:
        """The state kept last, or None at a fresh start. Never executes code from the file."""
        path = self.folder / "checkpoint.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def save_log(self, log: list[dict[str, float | int]]) -> None:
        """Write the log as log.csv, a row per step."""
        file = io.StringIO()
        names = list(dict.fromkeys(name for row in log for name in row))
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)
        write_aside(self.folder / "log.csv", file.getvalue().encode())

    def finish(self, model: nn.Module, result: dict[str, Any]) -> None:
        """Write the final weights and the result; the state to resume from is dropped."""
        weights = {name: x.detach().cpu().contiguous() for name, x in unique_state(model).items()}
        write_aside(self.folder / "model.safetensors", save(weights))
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        write_aside(self.folder / "result.json", text.encode())
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)

    def load_model(self, model: nn.Module) -> None:
        """Fill `model` with the run's final weights."""
        weights = load_file(self.folder / "model.safetensors")
        missing = unique_state(model).keys() ^ weights.keys()
        if missing:
            raise ValueError(f"{self.folder}: weights do not fit this model: {sorted(missing)[:5]}")
        model.load_state_dict(weights, strict=False)

    def load_result(self) -> dict[str, Any]:
        """The result of a finished run."""
        return json.loads((self.folder / "result.json").read_text())


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """State dict with shared parameters under their first name alone."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: x for name, x in state.items() if first.setdefault(id(x), name) == name}
