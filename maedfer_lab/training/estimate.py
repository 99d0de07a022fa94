"""What a training will need on this machine: memory, hours and disk, from a few measured steps."""

from __future__ import annotations

import gc
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
from maedfer_lab.cost.memory import METHODS, peak_bytes
from maedfer_lab.training.estimate_tasks import RandomFinetuning, RandomPretraining
from maedfer_lab.training.loop import Stepper, Task, own_share
from maedfer_lab.training.optim import amp_dtype, device_name, mixed_precision

WARM_UP = 1  # steps before the first that counts
STATES = 3  # checkpoints on the disk at most: the last, the one before, and one being written
BYTES = 4 * 3  # of a parameter: its value and AdamW's two moments
MANY = (
    "Clips at once and memory are those of each process. Efficiency (weak scaling): the time of "
    "one alone, while the others wait, over the time of all together."
)


@dataclass(frozen=True)
class Measured:
    """Steps with one batch size on one device.

    batch_size: clips in memory at once. memory_bytes: weights, gradients, optimiser and
    activations at their peak. step_s: median; fastest_s, slowest_s: the spread.
    steps: how many were timed; 0 where this row is a straight line through the measured ones.
    alone_s: median of the same step in one process while the others wait; nan with one process.
    """

    batch_size: int
    memory_bytes: int
    step_s: float
    fastest_s: float
    slowest_s: float
    steps: int
    alone_s: float = math.nan

    @property
    def efficiency(self) -> float:
        """Weak scaling: what each process does, of what it does alone; 1 is perfect."""
        return self.alone_s / self.step_s


@dataclass(frozen=True)
class Estimate:
    """What a run needs; `print` shows it as a table.

    hours: of the whole run on the processes that measured, at each row's batch (with each one's
    share of the configuration's batch_size / the row's as `accumulate`), evaluation and waiting for
    data not counted.
    """

    config: PretrainConfig | FinetuneConfig
    parameters: int
    device: str
    precision: str
    method: str
    rows: tuple[Measured, ...]
    free_bytes: int
    processes: int = 1

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
        parts = optim.batch_size / self.processes / row.batch_size
        return optim.last_step * parts * row.step_s / 3600

    def __str__(self) -> str:
        optim, many = self.config.optim, self.processes > 1
        each = f"{self.processes} processes, each {self.device}" if many else self.device
        lines = [
            f"{self.config.name}: {self.parameters / 1e6:.1f}M parameters; {optim.last_step:,} "
            f"steps of {optim.batch_size} clips; {each}, {self.precision}",
            f"{'clips at once':>13} {'accumulate':>10} {'memory':>9} "
            f"{'s/step (fastest-slowest)':>27} {'clips/s':>8} {'whole run':>10}"
            + f" {'one alone':>10} {'efficiency':>10}"
            * many,
        ]
        for row in self.rows:
            spread = f"{row.step_s:.3g}"
            spread += f" ({row.fastest_s:.3g}-{row.slowest_s:.3g})" if row.steps else " projected"
            share = row.batch_size * self.processes
            lines.append(
                f"{row.batch_size:>13} {optim.batch_size / share:>10g} "
                f"{_size(row.memory_bytes):>9} {spread:>27} "
                f"{share / row.step_s:>8.3g} {_duration(self.hours(row)):>10}"
                + f" {row.alone_s:>8.3g} s {row.efficiency:>10.0%}"
                * (many and row.steps > 0)
            )
        timed = max(row.steps for row in self.rows)
        return "\n".join(
            [
                *lines,
                f"Measured on random clips: medians of {timed} step{'s' * (timed > 1)} after "
                f"{WARM_UP}; projected rows are straight lines through the measured ones.",
                f"The time is that of {'all processes' if many else 'this one device'}, without "
                f"evaluation and without waiting for data. Memory: {self.method}.",
                *[MANY] * many,
                f"Disk: {_size(self.disk_bytes)} at most while it runs ({STATES} checkpoints of "
                f"{_size(self.checkpoint_bytes)}), {_size(4 * self.parameters)} after; "
                f"{_size(self.free_bytes)} are free in {output_folder()}.",
            ]
        )


def estimate(
    config: PretrainConfig | FinetuneConfig, *, steps: int = 5, seconds: float | int = 60.0
) -> Estimate:
    """Measure a few steps at 1, 2, 4, ... clips at once, as long as memory and time allow.

    Of many processes (torchrun) each takes that many clips, their gradients are joined, and the
    first one also steps alone, in turn: `Measured.efficiency`. The rows end with the whole batch of
    the configuration (each one's share of it), projected if it was not reached.

    steps: timed for each batch size. seconds: larger batches are tried while they would end in it.
    """
    for name, value in (("steps", steps), ("seconds", seconds)):
        if value <= 0:
            raise ValueError(f"{name}={value} must be positive; try 5 steps in 60 seconds")
    began = time.monotonic()
    stepper, rows = Stepper(_task(config)), []
    state, alone = stepper.accelerator, None
    if state.num_processes > 1 and state.is_main_process:
        alone = _task(config)
        alone.model.to(stepper.device)
    total = len(own_share(config.optim.batch_size, state.num_processes, 0))
    sizes = sorted({*(2**power for power in range(total.bit_length()) if 2**power <= total), total})
    shown = tqdm(sizes, "measuring", unit="batch size", leave=False,
                 disable=not state.is_main_process)  # fmt: skip
    for size in shown:
        if len(rows) > 1:
            ahead = rows[-1].step_s * size / rows[-1].batch_size * (steps + WARM_UP + 2)
            if stepper.agree(time.monotonic() - began + ahead > seconds):
                break
        try:
            row = _measure(stepper, alone, size, steps)
        except torch.OutOfMemoryError:
            row = None
        if stepper.agree(row is None) or row is None:
            break
        rows.append(row)
    if not rows:
        raise MemoryError(f"{config.name} does not fit into {device_name(stepper.device)}")
    if rows[-1].batch_size != total and len(rows) > 1:
        rows.append(_projected(rows, total))
    half = amp_dtype(config.precision, stepper.device)
    return Estimate(
        config,
        sum(p.numel() for p in stepper.task.model.parameters()),
        device_name(stepper.device),
        "float32" if half is None else str(half).removeprefix("torch."),
        METHODS[stepper.device.type],
        tuple(rows),
        shutil.disk_usage(output_folder()).free,
        state.num_processes,
    )


def estimate_command(
    config: str = "demo", /, *, steps: int = 5, seconds: float = 60.0, batch_size: int | None = None
) -> Estimate:
    """Say what a training needs on this machine: memory, hours and disk, from a few steps.

    Under torchrun it measures all processes together, and says what joining them costs.

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
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); put a copy back") from error
    return pretrain_config(values) if "mask_ratio" in values else finetune_config(values)


def _task(config: PretrainConfig | FinetuneConfig) -> Task:
    if isinstance(config, PretrainConfig):
        return RandomPretraining(config)
    return RandomFinetuning(config)


def _measure(stepper: Stepper, alone: Task | None, size: int, steps: int) -> Measured:
    """Time steps of `size` clips in each process and, in turn with them, of `alone` in this one."""
    model: Any = stepper.task.model
    sides = model.config.size_px, model.config.size_px
    clips = torch.randint(256, (size, model.config.frames, *sides, 3), dtype=torch.uint8)
    batches, places = repeat(clips), [list(range(size))]

    def step() -> None:
        stepper.step(0, batches, places)
        _finish(stepper.device)

    by_itself = None if alone is None else _step_alone(alone, clips, stepper.device)
    times, times_alone = [], []
    for _ in range(WARM_UP + steps):
        if by_itself is not None:
            times_alone.append(_seconds(by_itself))
        stepper.accelerator.wait_for_everyone()
        times.append(_seconds(step))
    parameters = sum(p.numel() for p in model.parameters())
    gc.collect()  # what earlier steps left in cycles would be counted, or freed meanwhile
    memory = BYTES * parameters + peak_bytes(step, stepper.device)
    times = times[WARM_UP:]
    one = statistics.median(times_alone[WARM_UP:]) if times_alone else math.nan
    middle = statistics.median(times)
    return Measured(size, memory, middle, min(times), max(times), len(times), one)


def _step_alone(task: Task, clips: Tensor, device: torch.device) -> Callable[[], None]:
    """The same step without other processes: joined parameters would wait for them."""
    optimiser, places = task.optimiser(), range(len(clips))

    def step() -> None:
        with mixed_precision(task.config.precision, device):
            losses = task.loss(task.model, clips.to(device), 0, places)
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        _finish(device)

    return step


def _seconds(step: Callable[[], None]) -> float:
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _projected(rows: Sequence[Measured], size: int) -> Measured:
    """Straight lines through all batches measured."""
    sizes = [row.batch_size for row in rows]

    def at(values: list[float] | list[int]) -> float:
        return max(float(np.polyval(np.polyfit(sizes, values, 1), size)), values[-1])

    memory = round(at([row.memory_bytes for row in rows]))
    return Measured(size, memory, at([row.step_s for row in rows]), math.nan, math.nan, 0)
