"""What a training will need on this machine: memory, hours and disk, from a few measured steps."""

from __future__ import annotations

import gc
import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from maedfer_lab.config import (
    PRESETS,
    FinetuneConfig,
    PretrainConfig,
    finetune_config,
    output_folder,
    preset,
    pretrain_config,
)
from maedfer_lab.flops.memory import METHODS, peak_bytes
from maedfer_lab.method.autoencoder import build_autoencoder
from maedfer_lab.method.classifier import build_classifier
from maedfer_lab.training.optim import amp_dtype, device_name, make_optimiser
from maedfer_lab.training.pretrain import PretrainTask
from maedfer_lab.training.stepping import Stepper
from maedfer_lab.training.task import Task

WARM_UP = 1  # steps before the first that counts
STATES = 3  # checkpoints on the disk at most: the last, the one before, and one being written
BYTES = 4 * 3  # of a parameter: its value and AdamW's two moments
CLASSES = 7  # of a classifier that is estimated; a few more change nothing


@dataclass(frozen=True)
class Measured:
    """Steps with one batch size on one device.

    batch_size: clips in memory at once. memory_bytes: weights, gradients, optimiser and
    activations at their peak. step_s: median; fastest_s, slowest_s: the spread.
    steps: how many were timed; 0 where this row is a straight line through the measured ones.
    """

    batch_size: int
    memory_bytes: int
    step_s: float
    fastest_s: float
    slowest_s: float
    steps: int


@dataclass(frozen=True)
class Estimate:
    """What a run needs; `print` shows it as a table.

    hours: of the whole run on this device alone, at each row's batch (with the configuration's
    batch_size / the row's as `accumulate`), evaluation and waiting for data not counted.
    """

    config: PretrainConfig | FinetuneConfig
    parameters: int
    device: str
    precision: str
    method: str
    rows: tuple[Measured, ...]
    free_bytes: int

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint."""
        return BYTES * self.parameters

    @property
    def disk_bytes(self) -> int:
        """The most that the run's folder takes."""
        return (STATES * BYTES + 4) * self.parameters

    def hours(self, row: Measured) -> float:
        """Hours of the whole run in parts of the row's batch size."""
        optim = self.config.optim
        return optim.last_step * optim.batch_size / row.batch_size * row.step_s / 3600

    def __str__(self) -> str:
        optim = self.config.optim
        lines = [
            f"{self.config.name}: {self.parameters / 1e6:.1f}M parameters; {optim.last_step:,} "
            f"steps of {optim.batch_size} clips; {self.device}, {self.precision}",
            f"{'clips at once':>13} {'accumulate':>10} {'memory':>9} "
            f"{'s/step (fastest-slowest)':>27} {'clips/s':>8} {'whole run':>10}",
        ]
        for row in self.rows:
            spread = f"{row.step_s:.3g}"
            spread += f" ({row.fastest_s:.3g}-{row.slowest_s:.3g})" if row.steps else " projected"
            lines.append(
                f"{row.batch_size:>13} {optim.batch_size / row.batch_size:>10g} "
                f"{_size(row.memory_bytes):>9} {spread:>27} "
                f"{row.batch_size / row.step_s:>8.3g} {_duration(self.hours(row)):>10}"
            )
        timed = max(row.steps for row in self.rows)
        return "\n".join(
            [
                *lines,
                f"Measured on random clips: medians of {timed} step{'s' * (timed > 1)} after "
                f"{WARM_UP}; projected rows are straight lines through the measured ones.",
                f"The time is this one device's, without evaluation and without waiting for data. "
                f"Memory: {self.method}.",
                f"Disk: {_size(self.disk_bytes)} at most while it runs ({STATES} checkpoints of "
                f"{_size(self.checkpoint_bytes)}), {_size(4 * self.parameters)} after; "
                f"{_size(self.free_bytes)} are free in {output_folder()}.",
            ]
        )


def estimate(
    config: PretrainConfig | FinetuneConfig, *, steps: int = 5, seconds: float | int = 60.0
) -> Estimate:
    """Measure a few steps at 1, 2, 4, ... clips at once, as long as memory and time allow.

    The rows end with the configuration's whole batch, projected if it was not reached.

    steps: timed for each batch size. seconds: larger batches are tried while they would end in it.
    """
    for name, value in (("steps", steps), ("seconds", seconds)):
        if value <= 0:
            raise ValueError(f"{name}={value} must be positive; try 5 steps in 60 seconds")
    began, total = time.monotonic(), config.optim.batch_size
    task = _Pretraining(config) if isinstance(config, PretrainConfig) else _Finetuning(config)
    stepper, rows = Stepper(task), []
    sizes = [2**power for power in range(total.bit_length()) if 2**power <= total]
    for size in tqdm(sorted({*sizes, total}), desc="measuring", unit="batch size", leave=False):
        if len(rows) > 1:
            ahead = rows[-1].step_s * size / rows[-1].batch_size * (steps + WARM_UP + 2)
            if time.monotonic() - began + ahead > seconds:
                break
        try:
            rows.append(_measure(stepper, task, size, steps))
        except torch.OutOfMemoryError:
            break
    if not rows:
        raise MemoryError(f"{config.name} does not fit into {device_name(stepper.device)}")
    if rows[-1].batch_size != total and len(rows) > 1:
        rows.append(_projected(rows, total))
    half = amp_dtype(config.precision, stepper.device)
    return Estimate(
        config,
        sum(p.numel() for p in task.model.parameters()),
        device_name(stepper.device),
        "float32" if half is None else str(half).removeprefix("torch."),
        METHODS[stepper.device.type],
        tuple(rows),
        shutil.disk_usage(output_folder()).free,
    )


def estimate_command(
    config: str = "demo", /, *, steps: int = 5, seconds: float = 60.0, batch_size: int | None = None
) -> Estimate:
    """Say what a training needs on this machine: memory, hours and disk, from a few steps.

    config: a preset (base, demo, tiny), or the config.json of a run.
    steps: timed for each batch size.
    seconds: larger batch sizes are tried as long as they would end in this time.
    batch_size: in place of the configuration's own.
    """
    chosen = _configuration(config)
    if batch_size is not None:
        optim = replace(chosen.optim, batch_size=batch_size, accumulate=1)
        chosen = replace(chosen, optim=optim)
    return estimate(chosen, steps=steps, seconds=seconds)


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _configuration(name: str) -> PretrainConfig | FinetuneConfig:
    if name in PRESETS:
        return preset(name)
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"config={name!r} must be one of {', '.join(PRESETS)}, or the config.json of a run"
        )
    values = json.loads(path.read_text())
    return pretrain_config(values) if "mask_ratio" in values else finetune_config(values)


def _measure(stepper: Stepper, task: Task, size: int, steps: int) -> Measured:
    model: Any = task.model
    clips = torch.rand(size, 3, model.config.frames, model.config.size_px, model.config.size_px)
    batches, places = repeat(clips), [list(range(size))]

    def step() -> None:
        stepper.step(0, batches, places)
        if stepper.device.type == "cuda":
            torch.cuda.synchronize(stepper.device)

    times = []
    for number in range(WARM_UP + steps):
        before = time.perf_counter()
        step()
        if number >= WARM_UP:
            times.append(time.perf_counter() - before)
    parameters = sum(p.numel() for p in model.parameters())
    gc.collect()  # what earlier steps left in cycles would be counted, or freed meanwhile
    memory = BYTES * parameters + peak_bytes(step, stepper.device)
    middle = statistics.median(times)
    return Measured(size, memory, middle, min(times), max(times), len(times))


def _projected(rows: Sequence[Measured], size: int) -> Measured:
    """Straight lines through all batches measured."""
    sizes = [row.batch_size for row in rows]

    def at(values: list[float] | list[int]) -> float:
        return max(float(np.polyval(np.polyfit(sizes, values, 1), size)), values[-1])

    memory = round(at([row.memory_bytes for row in rows]))
    return Measured(size, memory, at([row.step_s for row in rows]), math.nan, math.nan, 0)


class _Pretraining(PretrainTask):
    """Pre-training without its data."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.model = build_autoencoder(config.model, config.target, seed=config.seed)

    def loss(
        self, network: nn.Module, batch: Tensor, step: int, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """As in training, with as many masks as clips are at hand."""
        whole = self.config
        self.config = replace(
            whole, optim=replace(whole.optim, batch_size=len(batch), accumulate=1)
        )
        try:
            return super().loss(network, batch, step, places)
        finally:
            self.config = whole


class _Finetuning(Task):
    """A classifier without its data."""

    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self.model = build_classifier(config.model, CLASSES, seed=config.seed)

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW; layer decay changes neither memory nor time."""
        return make_optimiser(self.model, self.config.optim)

    def loss(
        self, network: nn.Module, batch: Tensor, step: int, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """Cross-entropy."""
        labels = torch.zeros(len(batch), dtype=torch.long, device=batch.device)
        return {"loss": functional.cross_entropy(network(batch).float(), labels)}

    def names(self, indices: Sequence[int]) -> list[str]:
        """Random clips have no names."""
        return [f"random clip {index}" for index in indices]

    def judge(self) -> dict[str, float]:
        """Nothing to judge."""
        return {}
