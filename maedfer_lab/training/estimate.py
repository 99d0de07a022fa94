"""Estimate a training here (memory, hours, disk) from a few steps; project other machines."""

from __future__ import annotations

import gc
import itertools
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from maedfer_lab.config import (
    PRESETS,
    EncoderKind,
    FinetuneConfig,
    PresetName,
    PretrainConfig,
    Size,
    finetune_config,
    output_folder,
    pretrain_config,
    sized,
)
from maedfer_lab.config import preset as named_preset
from maedfer_lab.cost.memory import METHODS, peak_bytes
from maedfer_lab.cost.plan import (
    CardName,
    Form,
    Input,
    Inputs,
    Plan,
    measured_inputs,
    plan,
    replaced,
    usual_inputs,
)
from maedfer_lab.data.folder import find_videos
from maedfer_lab.data.shard_format import is_prepared, open_index, place
from maedfer_lab.data.transforms import to_floats
from maedfer_lab.files import figures_folder, load, reading
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import (
    MaskedAutoencoder,
    build_autoencoder,
    build_classifier,
    model_mask,
)
from maedfer_lab.runs import Run
from maedfer_lab.text import table
from maedfer_lab.training.device import synchronize
from maedfer_lab.training.loop import Stepper, TrainingTask, own_share
from maedfer_lab.training.optim import amp_dtype, device_name
from maedfer_lab.training.stream import pretraining_data, read_batches

WARM_UP = 1  # steps before the first that counts
STATES = 3  # checkpoints on disk at most: the last, the one before, and one being written
BYTES = 4 * 3  # of a parameter: its value and AdamW's two moments
CLASSES = 7  # of an estimated classifier; the number hardly matters
STARTING = 2  # clips before the clock starts: worker and decoder start up
SECONDS = 10.0  # of reading
HEAD = ("clips at once", "accumulate", "memory", "s/step (fastest-slowest)", "clips/s", "whole run")


@dataclass(frozen=True)
class Measured:
    """Steps with one batch size on one device.

    batch_size: clips in memory at once. memory_bytes: peak of weights, gradients, optimiser and
    activations. step_s: median; fastest_s, slowest_s: the spread.
    steps: how many were timed; 0 if this row is extrapolated linearly from the measured ones.
    """

    batch_size: int
    memory_bytes: int
    step_s: float
    fastest_s: float = math.nan
    slowest_s: float = math.nan
    steps: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a run needs; `print` shows it as a table.

    hours: of the whole run on the processes that measured, at each row's batch (with each one's
    share of the configuration's batch_size / the row's as `accumulate`), without evaluation and
    waiting for data.
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

    def hours(self, row: Measured) -> float:
        """Hours of the whole run in parts of the row's batch size."""
        optim = self.config.optim
        parts = optim.batch_size / self.processes / row.batch_size
        return optim.last_step * parts * row.step_s / 3600

    def __str__(self) -> str:
        optim, many = self.config.optim, self.processes > 1
        each = f"{self.processes} processes, each {self.device}" if many else self.device
        cells: list[tuple[str, ...]] = [HEAD]
        for row in self.rows:
            spread = f"{row.step_s:.3g} projected"
            if row.steps:
                spread = f"{row.step_s:.3g} ({row.fastest_s:.3g}-{row.slowest_s:.3g})"
            share, hours = row.batch_size * self.processes, self.hours(row)
            time = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.2g} min"
            parts, rate = optim.batch_size / share, share / row.step_s
            cells.append((f"{row.batch_size}", f"{parts:g}", _size(row.memory_bytes), spread,
                          f"{rate:.3g}", time))  # fmt: skip
        timed = max(row.steps for row in self.rows)
        return (
            f"{self.config.name}: {self.parameters / 1e6:.1f}M parameters; {optim.last_step:,} "
            f"steps of {optim.batch_size} clips; {each}, {self.precision}\n{table(cells, ())}\n"
            f"Measured on random clips: medians of {timed} step{'s' * (timed > 1)} after "
            f"{WARM_UP}; projected rows are linear extrapolations.\n"
            f"Times are those of {'all processes' if many else 'this one device'}, without "
            f"evaluation and without waiting for data. Memory: {self.method}"
            f"{'; batch and memory are per process' * many}.\n"
            f"Disk: {_size((STATES * BYTES + 4) * self.parameters)} at most during the run "
            f"({STATES} checkpoints of {_size(self.checkpoint_bytes)}), "
            f"{_size(4 * self.parameters)} after; {_size(self.free_bytes)} free in "
            f"{output_folder()}."
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def estimate(
    config: PretrainConfig | FinetuneConfig, *, steps: int = 5, seconds: float | int = 60.0,
    checkpointing: bool = False,
) -> Estimate:  # fmt: skip
    """Measure a few steps at 1, 2, 4, ... clips at once, as long as memory and time allow.

    With several processes (torchrun) each takes that many clips, and gradients are reduced. The
    last row is the configuration's whole batch (each process's share), extrapolated if it was not
    reached.

    steps: timed for each batch size. seconds: larger batches are tried if they would finish in it.
    """
    for name, value in (("steps", steps), ("seconds", seconds)):
        if value <= 0:
            raise ValueError(f"{name}={value} must be positive; try 5 steps in 60 seconds")
    began = time.monotonic()
    stepper, rows = Stepper(RandomTask(config), checkpointing=checkpointing), []
    state = stepper.accelerator
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
            row = _measure(stepper, size, steps)
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
    config: str = "demo", /, *, size: Size | None = None, steps: int = 5, seconds: float = 60.0,
    batch_size: int | None = None, checkpointing: bool = False,
) -> Estimate:  # fmt: skip
    """Estimate what a training needs on this machine: memory, hours and disk, from a few steps.

    Under torchrun it measures all processes together.

    config: a preset of `maedfer pretrain`, or the config.json of a run.
    size: width, depth and heads, instead of the configuration's; base is the paper's model.
    steps: number of timed steps for each batch size.
    seconds: larger batch sizes are tried if they would finish in this time.
    batch_size: global batch size, instead of the configuration's.
    checkpointing: activation checkpointing.
    """
    if config in PRESETS:
        chosen = named_preset(config)
    else:
        path = Path(config).expanduser()
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"config={config!r} must be one of {', '.join(PRESETS)}, or the config.json of a "
                "run"
            )
        run = Run(path.parent)
        with run.reading(path.name):
            values = run.read(path.name)
            chosen = pretrain_config(values) if "mask_ratio" in values else finetune_config(values)
    chosen = replace(chosen, model=sized(chosen.model, size))
    if batch_size is not None:
        chosen = replace(chosen, optim=replace(chosen.optim, batch_size=batch_size, accumulate=1))
    return estimate(chosen, steps=steps, seconds=seconds, checkpointing=checkpointing)


class RandomTask(TrainingTask):
    """A training without data: the same steps on random clips, without layer decay."""

    def __init__(self, config: PretrainConfig | FinetuneConfig) -> None:
        self.config = config
        if isinstance(config, PretrainConfig):
            self.model = build_autoencoder(config.model, config.target, seed=config.seed)
        else:
            self.model = build_classifier(config.model, CLASSES, seed=config.seed)

    def prepare(self, batch: Any, step: int, places: Sequence[int]) -> tuple[Tensor, ...]:
        """Frames, and in pre-training masks of the most expensive ratio."""
        if not isinstance(self.config, PretrainConfig):
            return (batch,)
        model, generator = cast(MaskedAutoencoder, self.model), torch.Generator().manual_seed(step)
        split = model.split(model_mask(model, min(self.config.mask_ratio), len(batch), generator))
        return batch, split.visible, split.masked, split.decoder_positions

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The loss of prepared frames (b T H W 3)."""
        frames, *indices = batch
        if indices:
            return {"loss": network(to_floats(frames), TokenSplit(*indices)).loss.total}
        labels = torch.zeros(len(frames), dtype=torch.long, device=frames.device)
        return {"loss": functional.cross_entropy(network(to_floats(frames)).float(), labels)}

    def validate(self) -> dict[str, float]:
        """Nothing to evaluate."""
        return {}


def _measure(stepper: Stepper, size: int, steps: int) -> Measured:
    """Time steps of `size` clips in each process."""
    model: Any = stepper.task.model
    sides = model.config.size_px, model.config.size_px
    clips = torch.randint(256, (size, model.config.frames, *sides, 3), dtype=torch.uint8)
    places, times = [list(range(size))], []
    batches = (stepper.task.prepare(clips, 0, places[0]) for _ in itertools.count())

    def step() -> None:
        stepper.step(0, batches, places)
        synchronize(stepper.device)

    for _ in range(WARM_UP + steps):
        stepper.accelerator.wait_for_everyone()
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    gc.collect()  # garbage of earlier steps would be counted, or freed meanwhile
    parameters = sum(p.numel() for p in model.parameters())
    memory, times = BYTES * parameters + peak_bytes(step, stepper.device), times[WARM_UP:]
    return Measured(size, memory, statistics.median(times), min(times), max(times), len(times))


def _projected(rows: Sequence[Measured], size: int) -> Measured:
    """Linear extrapolation from all measured batches."""
    measured = np.array([(row.memory_bytes, row.step_s) for row in rows])
    slopes, starts = np.polyfit([row.batch_size for row in rows], measured, 1)
    memory, step_s = np.maximum(slopes * size + starts, measured[-1]).tolist()
    return Measured(size, round(memory), step_s)


# --- other machines ---------------------------------------------------------------------------


def plan_command(
    preset: PresetName = "base", /, *, encoder: EncoderKind = "lgi", size: Size | None = None,
    gpus: tuple[int, ...] = (1, 4, 8, 64), clips_per_gpu: int | None = None,
    card: CardName = "A100", form: Form = "shards", data: Path | None = None,
    measured: Path | None = None,
    utilisation: float | None = None, issue: float | None = None,
    cores_per_gpu: float | None = None, clips_per_core: float | None = None,
    mb_per_clip: float | None = None, storage: float | None = None,
    gpus_per_machine: int | None = None, network: float | None = None,
    overlap: float | None = None, reached: float | None = None,
) -> Plan:  # fmt: skip
    """Project the hours of a pre-training on 1 to many GPUs, and name the bottleneck.

    Arithmetic on counts, measurements and data sheets; each number states its origin.

    preset: the recipe to project; base is the paper's.
    encoder: lgi is LGI-Former, vit joint attention as in VideoMAE.
    size: width, depth and heads, instead of the preset's; base is the paper's model.
    gpus: numbers of GPUs, one row each.
    clips_per_gpu: batch per GPU; by default the recipe's batch is shared by all.
    card: the GPU, by its data sheet.
    form: storage format of the clips: mp4, or shards of maedfer prepare.
    data: a folder of such clips, to measure how many a core of this machine reads.
    measured: JSON of `maedfer bench` on a GPU of that kind, whose measurements replace
        assumptions; by default bench_gpu.json among the figures, if it exists.
    utilisation: achieved / data-sheet FLOP/s.
    issue: seconds to launch the operators of a step; torch.compile and CUDA graphs shorten it.
    cores_per_gpu: CPU cores for reading, per GPU.
    clips_per_core: clips that one core reads per second.
    mb_per_clip: megabytes read per clip.
    storage: read bandwidth of all processes together, in GB/s.
    gpus_per_machine: GPUs joined by the card's own links.
    network: bandwidth of each GPU to other machines, in GB/s.
    overlap: share of the backward pass that overlaps with the all-reduce.
    reached: achieved / data-sheet bandwidth.
    """
    values = dict(utilisation=utilisation, issue=issue, cores_per_gpu=cores_per_gpu,
                  clips_per_core=clips_per_core, mb_per_clip=mb_per_clip, storage=storage,
                  gpus_per_machine=gpus_per_machine, network=network, overlap=overlap,
                  reached=reached)  # fmt: skip
    config = named_preset(preset, encoder)
    config = replace(config, model=sized(config.model, size))
    if data is not None:
        data = data.expanduser()
        form = "shards" if is_prepared(data) else "mp4"
    inputs = usual_inputs(card, form)
    measured = measured or figures_folder("full") / "bench_gpu.json"
    if measured.is_file() and form == "shards":
        with reading(measured):
            inputs = measured_inputs(inputs, card, load(measured))
    if data is not None:
        inputs = measure_reading(replace(config, data=data), inputs, seconds=SECONDS)
    return plan(config, gpus, replaced(inputs, **values), clips_per_gpu=clips_per_gpu)


def measure_reading(config: PretrainConfig, inputs: Inputs, *, seconds: float) -> Inputs:
    """The inputs with the measured speed at which a worker process here reads `config.data`.

    As in training: decoded, cropped and handed over by a worker. Bytes are those of whole video
    files, or of a clip's frames in shards.
    """
    data, frames = config.data, config.model.frames
    assert data is not None
    source: Any = pretraining_data(config).stream
    batches = ([index] for index in itertools.count())
    began, read = 0.0, -STARTING
    for _ in tqdm(read_batches(source, batches, 1, source.name), "reading", leave=False):
        read += 1
        if read == 0:
            began = time.perf_counter()
        if read > 0 and time.perf_counter() - began > seconds:
            break
    taken = time.perf_counter() - began
    where = f"one worker process here: {read} clips of {data.name}"
    if is_prepared(data):
        index = open_index(place(data))
        number = int(index["frames"].sum())
        size = sum(index.about["bytes"]) / number * frames
        what = f"{frames} JPEGs, mean of {number:,}"
    else:
        videos = find_videos(data)
        size = sum(path.stat().st_size for path in videos) / len(videos)
        what = f"a whole video, mean of {len(videos):,}"
    return inputs | {
        "clips_per_core": Input(round(read / taken, 1), "clips/s", "measured", where),
        "mb_per_clip": Input(round(size / 1e6, 3), "MB", "measured", f"{what} of {data.name}"),
    }
