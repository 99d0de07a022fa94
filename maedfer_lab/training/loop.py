"""The training loop of pre-training and fine-tuning: steps, resume, log, stop.

A resumed run is bit-identical to an uninterrupted one (same number of processes, CPU): clip i of
the stream, masks and random state of a step are functions only of seed and step; weights,
optimiser, scaler, log and the task's own state are in the checkpoint.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm.auto import tqdm

from maedfer_lab.config import FinetuneConfig, PretrainConfig, learning_rate
from maedfer_lab.cost.memory import cpu_threads
from maedfer_lab.data.transforms import keep_freed_memory
from maedfer_lab.fast import speed_up
from maedfer_lab.runs import LogRow, Run
from maedfer_lab.training import device as devices
from maedfer_lab.training.device import CapturedStep, Compile, Losses, gathered, is_beside, moved
from maedfer_lab.training.optim import (
    amp_dtype,
    make_optimiser,
    mixed_precision,
    open_accelerator,
)
from maedfer_lab.training.stream import read_batches

READ_EVERY = 10  # steps between reads of the loss: each one waits for the device
DATA_BOUND = 0.3  # share of waiting for clips that is reported
REPORT_AFTER = 20  # steps before that is reported


class TrainingTask(ABC):
    """What the loop needs from a training.

    config: its name, recipe, seed, precision, intervals of validation, checkpoints and log, and the
        groups in which clips are mixed (`mix_group`).
    model: the module that is trained; its state dict goes into the checkpoints.
    stream: item i is always the same clip, or tuple of tensors, for the same i; `name(i)` is its
        name. Step s (from 0) takes items s * B to s * B + B - 1, B = batch_size.
    idle_parameters: some that require a gradient get none in some steps; several processes then
        need a slower gradient reduction.
    """

    config: PretrainConfig | FinetuneConfig
    model: nn.Module
    stream: Any
    idle_parameters: bool = False

    def optimiser(self) -> torch.optim.Optimizer:
        """A new optimiser. Each step sets a group's learning rate: the schedule's x `lr_scale`."""
        return make_optimiser(self.model, self.config.optim)

    def prepare(self, batch: Any, step: int, places: Sequence[int]) -> Any:
        """Prepare a batch on the host before it goes to the device: a tensor or a tuple."""
        return batch

    def finish(self, batch: Any, step: int, places: Sequence[int]) -> Any:
        """Random transforms of a prepared batch on the device, by (seed, step, place)."""
        return batch

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Mean losses over a part of a batch: "loss" is minimised, the others are logged with it.

        network: `model`, wrapped if there are several processes; call this one.
        batch: prepared and finished, on the device. Other randomness must use torch's own
            generators, which the loop seeds for every part, so that a step can be captured.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Validate `model`; merged into the log row. Called by all processes, every eval_every."""

    def replaced(self, clips: Sequence[tuple[str, str]]) -> None:  # noqa: B027
        """Receive names and reasons of clips that the stream could not read and replaced."""

    def state_dict(self) -> dict[str, Any]:
        """What else is needed to resume, as plain values; called by all processes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


@dataclass(frozen=True)
class TrainedLog:
    """The result of a training besides its model.

    log: rows of step, lr, losses, and validation scores. seconds: over all its parts.
    skipped: steps whose gradients overflowed in fp16. waited: see `Progress.waited`.
    compiled: how the step was compiled: no, block, whole or graph.
    """

    log: list[LogRow]
    seconds: float
    skipped: int
    waited: float
    compiled: str


def train(
    task: TrainingTask,
    run: Run,
    *,
    on_log: Callable[[list[LogRow]], None] | None = None,
    workers: int = 0,
    tensorboard: bool = False,
    compile: Compile | bool = "auto",
    checkpointing: bool = False,
    shard: bool = False,
) -> TrainedLog:
    """Train `task.model` in place, from the state saved in `run` or from the start.

    The first Ctrl-C, SIGTERM (Slurm) or SIGHUP (a closed terminal) finishes the step, saves the
    state and raises KeyboardInterrupt. If a state cannot be written (full disk), a warning is given
    and the next checkpoint tries again. The caller finishes the run: `Run.finish`.

    on_log: called by the main process with the log so far, every few steps, for a live curve.
    workers: processes that read clips. tensorboard: write the log there too, in the run's folder.
    compile: "no"; "block": each kind of block is compiled; "whole": the model (True); "graph":
        blocks are compiled and the step is captured as a CUDA graph; "auto": graph on one GPU if
        the step can be captured, else block on GPUs, no on a CPU. Results agree within rounding.
    checkpointing: activation checkpointing: blocks keep only their inputs for the backward pass.
    shard: each of several processes holds its share of weights, gradients and moments (FSDP2).

    Raises:
        BlockingIOError: another process trains in the folder; names it.
        FloatingPointError: a loss is not finite; names the clips. The last good state is kept.
        ChildProcessError: a process that read clips died; names the clip.
    """
    stepper = Stepper(task, compile, checkpointing, shard)
    config, optim, device = task.config, task.config.optim, stepper.device
    is_main = stepper.accelerator.is_main_process
    with ExitStack() as held:
        held.callback(stepper.close)
        if is_main:  # of several processes the first one locks the folder: it alone writes there
            held.enter_context(run.locked())
            run.sweep()
        new = {"step": 0, "log": [], "unlogged": [], "seconds": 0.0}
        kept = run.load_state(stepper.load_state_dict) or new
        start, log, unlogged = kept["step"], kept["log"], kept["unlogged"]
        pure_s = stepper.time_alone() if is_beside(device) else None
        loaded = read_batches(
            task.stream,
            ([step * optim.batch_size + n for n in share] for step, share in stepper.plan(start)),
            workers,
            task.stream.name,
            pin_memory=device.type == "cuda",
            replaced=task.replaced,
        )
        held.enter_context(devices.forked_random(device))
        stop = held.enter_context(delayed_interrupt())
        bar = tqdm(total=optim.last_step, initial=start, desc=config.name, unit="step",
                   disable=not stepper.accelerator.is_local_main_process)  # fmt: skip
        progress = Progress(held.enter_context(bar), task, kept["seconds"], workers, pure_s)
        batches = devices.one_ahead(stepper.prepared(progress.timed(loaded), start), device)
        if stepper.compiled != "no":
            progress.write(f"Compiled: {stepper.compiled} ({config.precision}, {device})")
        writer = None
        if tensorboard and is_main:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("tensorboard=True needs the package tensorboard; type: pip "
                                  "install 'maedfer-lab[tensorboard]'") from error  # fmt: skip
            writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)
        pending: list[LogRow] = []
        for step in range(start, optim.last_step):
            pending.append(stepper.step(step, batches, stepper.shares))
            done = step + 1
            is_last = done == optim.last_step
            validate = is_last or (config.eval_every and done % config.eval_every == 0)
            keep = is_last or done % config.save_every == 0
            look = validate or keep or done % READ_EVERY == 0
            stopped = False  # processes agree on it only when they read the loss anyway
            if look or stepper.is_alone:
                stopped = stepper.agree(stop.is_set()) and not is_last
            if look or stopped:
                rows = stepper.read(pending)
                pending.clear()
                _check_finite(task, rows, run)
                unlogged += rows
                progress.show(unlogged[-1], stepper.skipped)
            progress.update()
            fresh: list[LogRow] = []
            if look:
                whole = len(unlogged) // config.log_every * config.log_every
                whole = len(unlogged) if validate else whole
                fresh, unlogged = _means(unlogged[:whole], config.log_every), unlogged[whole:]
            if validate:
                with progress.pause(), devices.uncompiled(task.model):
                    stepper.swap()
                    fresh[-1] |= task.validate()
                    stepper.swap()
            log += fresh
            if writer is not None:
                for row in fresh:
                    for name in row.keys() - {"step"}:
                        writer.add_scalar(name, row[name], row["step"])
            if on_log is not None and is_main and look and log:
                on_log(log)
            where = "the previous checkpoint is kept"
            if keep or stopped:
                state = {**stepper.state_dict(), "step": done, "log": log, "unlogged": unlogged,
                         "seconds": progress.seconds}  # fmt: skip
                with progress.pause():
                    try:
                        if is_main:
                            run.save_state(state)
                        where = f"the state is saved in {run.folder}"
                    except OSError as error:
                        warnings.warn(
                            f"step {done} could not be saved: {error}. The previous checkpoint is "
                            "kept; training continues and tries again at the next one",
                            stacklevel=2,
                        )
            if stopped:
                if is_main:
                    progress.write(f"Stopped after step {done} of {optim.last_step}; {where}. "
                                   "Run the same command again to resume.")  # fmt: skip
                stepper.accelerator.wait_for_everyone()  # else launchers would kill the others
                raise KeyboardInterrupt
        stepper.swap()
        seconds = round(progress.seconds, 1)
        return TrainedLog(log, seconds, stepper.skipped, progress.waited, stepper.compiled)


def _means(rows: list[LogRow], every: int) -> list[LogRow]:
    """Means of every `every` rows, under the step of the last."""
    parts = (rows[first : first + every] for first in range(0, len(rows), every))
    return [
        {name: math.fsum(row[name] for row in part) / len(part) for name in part[-1]}
        | {"step": part[-1]["step"]}
        for part in parts
    ]


def _check_finite(task: TrainingTask, rows: list[LogRow], run: Run) -> None:
    """Raise at the first loss that is not finite, with the clips of its batch."""
    if row := next((row for row in rows if not math.isfinite(row["loss"])), None):
        size, step = task.config.optim.batch_size, int(row["step"])
        names = "\n  ".join(map(task.stream.name, range((step - 1) * size, step * size)))
        raise FloatingPointError(
            f"loss is {row['loss']} at step {step} (learning rate {row['lr']:.2e}); the last good "
            f"state is in {run.folder}. Lower lr={task.config.optim.lr} or use "
            f"precision='float32', and check the clips of this batch:\n  {names}"
        )


# --- one step: devices, processes, precision, parts of a batch --------------------------------


class Stepper:
    """One step of the optimisation at a time, on this process's share of the batch."""

    def __init__(
        self, task: TrainingTask, compile: Compile | bool = "no", checkpointing: bool = False,
        shard: bool = False,
    ) -> None:  # fmt: skip
        self.task, optim = task, task.config.optim
        keep_freed_memory()
        self.accelerator = open_accelerator(task.idle_parameters)
        self.device, number = self.accelerator.device, self.accelerator.num_processes
        self.is_alone = number == 1
        half = amp_dtype(task.config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half == torch.float16)
        can_capture = self.is_alone and half != torch.float16
        can_capture = can_capture and optim.accumulate == 1 and not checkpointing
        self.chosen = devices.choose_compile(compile, self.device, can_capture)
        network: Any = speed_up(task.model)
        self.whole: nn.Module | None = None  # the unsharded model, if it is trained in shards
        if shard:
            if half == torch.float16 or optim.optimiser != "adamw":
                raise ValueError("shard=True needs optimiser='adamw', in bf16 or float32")
            self.whole = network
            self.in_shares = network = task.model = devices.sharded(network, self.device)
        else:
            network = self.accelerator.prepare_model(network)
        self.optimiser = task.optimiser()
        parameters = [*task.model.parameters()]
        self.means = [p.detach().clone() for p in parameters] if optim.ema else []
        if checkpointing:
            devices.checkpoint_blocks(task.model)
        if self.chosen in ("block", "graph"):
            devices.compile_blocks(task.model)
        if self.chosen == "whole":
            # One graph for each share of hidden tokens, of fixed sizes.
            network = torch.compile(network, dynamic=False)
        elif half is not None and is_beside(self.device) and self.is_alone and not checkpointing:
            network = devices.Halved(task.model, half)
        self.network, self.skipped = network, 0
        self.captured = CapturedStep(self._of_part, task.model) if self.chosen == "graph" else None
        self.is_sure = compile != "auto" or self.chosen == "no"  # errors are raised
        # The places of each part of a batch that this process takes.
        first, total = self.accelerator.process_index * optim.accumulate, number * optim.accumulate
        self.shares = [
            own_share(optim.batch_size, total, n, getattr(task.config, "mix_group", None))
            for n in range(first, first + optim.accumulate)
        ]

    @property
    def compiled(self) -> str:
        """How a step turned out to be compiled: no, block, whole or graph."""
        if self.captured is not None and not self.captured.failed:
            return "graph"
        blocks = devices.blocks_of(self.task.model)
        is_block = any(block._compiled_call_impl is not None for block in blocks)
        return "whole" if self.chosen == "whole" else "block" if is_block else "no"

    def plan(self, start: int) -> Iterator[tuple[int, list[int]]]:
        """Step and places of each part of this process, from step `start` on."""
        for step in range(start, self.task.config.optim.last_step):
            for share in self.shares:
                yield step, share

    def prepared(self, batches: Iterator[Any], start: int) -> Iterator[Any]:
        """The task's prepared batches from step `start` on, part by part."""
        for (step, places), batch in zip(self.plan(start), batches, strict=False):
            # the loader makes lists of tuples
            batch = tuple(batch) if isinstance(batch, list) else batch
            # Threads of this process would wait for each other on cores that the readers occupy:
            # measured on two busy cores, masks of 160 clips: 0.12 s by one thread, 4 s by two.
            with cpu_threads(1) if is_beside(self.device) else nullcontext():
                prepared = self.task.prepare(batch, step, places)
            yield prepared

    def time_alone(self, count: int = 5) -> float:
        """Seconds of a step by itself: on one clip many times, while no reader runs."""
        clips = iter([default_collate([self.task.stream[0]] * len(self.shares[0]))])
        batch, taken = moved(next(self.prepared(clips, 0)), self.device), []
        batch = self.task.finish(batch, 0, self.shares[0])
        self.task.model.train()
        with devices.rehearsed(self.task.model, self.device):
            for _ in range(count):
                before = time.perf_counter()
                for _ in self.shares:
                    self.losses(batch)
                self.optimiser.zero_grad()
                devices.synchronize(self.device)
                taken.append(time.perf_counter() - before)
        return sorted(taken)[count // 2]

    def close(self) -> None:
        """Restore the model to its original form."""
        self.task.model = self.whole or self.task.model
        for block, _ in devices.uncompile_blocks(self.task.model):
            block.__dict__.pop("forward", None)

    def swap(self) -> None:
        """Exchange the trained model for the one that is evaluated and saved, and back.

        The latter is unsharded, with the averaged weights of `ema`. For all processes.
        """
        task = self.task
        if self.whole is None:
            for parameter, mean in zip(task.model.parameters(), self.means, strict=False):
                parameter.data, mean.data = mean.data, parameter.data
        elif task.model is self.whole:
            task.model, _ = self.in_shares, self.whole.cpu()
        else:
            parts = [*(self.means or self.in_shares.parameters()), *self.in_shares.buffers()]
            with torch.no_grad():
                for own in (*self.whole.parameters(), *self.whole.buffers()):
                    own.copy_(gathered(parts.pop(0)))
            task.model = self.whole.to(self.device)

    def step(self, step: int, batches: Iterator[Any], shares: Sequence[Sequence[int]]) -> LogRow:
        """Optimise on one batch, part by part; losses stay tensors."""
        config = self.task.config
        rate = learning_rate(step, config.optim)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.task.model.train()
        means: dict[str, Any] = {}
        for part, places in enumerate(shares, 1):
            batch = moved(next(batches), self.device)
            key = [config.seed, step, self.accelerator.process_index * len(shares) + part - 1]
            seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
            torch.manual_seed(int(seed))
            is_last = part == len(shares)
            with nullcontext() if is_last else self.accelerator.no_sync(self.network):
                batch = self.task.finish(batch, step, places)
                losses = self.losses(batch)
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach().float() / len(shares)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        self.optimiser.zero_grad()
        if self.means:
            weights, share = [*self.task.model.parameters()], 1 - config.optim.ema
            with torch.no_grad():
                torch._foreach_mul_(self.means, config.optim.ema)  # type: ignore
                torch._foreach_add_(self.means, weights, alpha=share)  # type: ignore
        return {"step": step + 1, "lr": rate, **means}

    def losses(self, batch: Any) -> Losses:
        """Losses of a part of a batch; its gradients are the parameters'.

        Where "auto" chose to compile, and this machine cannot, blocks run as they are.
        """
        try:
            found = (self.captured or self._of_part)(batch)
        except Exception as error:  # no compiler, no Triton, an old GPU: any error
            if self.is_sure:
                raise
            devices.uncompile_blocks(self.task.model)
            self.optimiser.zero_grad()
            if self.captured is not None:
                self.captured = CapturedStep(self._of_part, self.task.model)
            found = (self.captured or self._of_part)(batch)  # other errors are raised here
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"blocks cannot be compiled here, they run as they are: {why}",
                          stacklevel=2)  # fmt: skip
        self.is_sure = True
        return found

    def _of_part(self, batch: Any) -> Losses:
        with mixed_precision(self.task.config.precision, self.device):
            losses = self.task.loss(self.network, batch)
        self.accelerator.backward(self.scaler.scale(losses["loss"] / len(self.shares)))
        return losses

    def read(self, rows: list[LogRow]) -> list[LogRow]:
        """The rows with their losses as numbers, averaged over the processes."""
        names = [name for name in rows[0] if name not in ("step", "lr")]
        values = torch.stack([torch.stack([row[name] for name in names]) for row in rows])  # type: ignore
        means = self.accelerator.reduce(values, "mean").tolist()  # type: ignore
        return [
            row | dict(zip(names, mean, strict=True)) for row, mean in zip(rows, means, strict=True)
        ]

    def agree(self, flag: bool) -> bool:
        """Whether any process raised its flag."""
        if self.is_alone:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        return bool(self.accelerator.reduce(flags, "sum") > 0)  # type: ignore

    def _parts(self) -> dict[str, Any]:
        return {"model": self.task.model, "optimiser": self.optimiser, "scaler": self.scaler,
                "task": self.task}  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Weights, their means, optimiser, scaler, and the task's own; all in one piece."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"skipped": self.skipped} | ({"ema": self.means} if self.means else {})
        return state if self.whole is None else gathered(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; an error if it is not of this training."""
        last = self.task.config.optim.last_step
        if not isinstance(state["step"], int) or not 0 < state["step"] <= last:
            raise ValueError(f"step={state['step']} must lie in [1, {last}], the steps of the run")
        if missing := {"log", "unlogged", "seconds", *(["ema"] if self.means else [])} - {*state}:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        if self.whole is not None:
            own, optimiser = self.task.model.state_dict(), state["optimiser"]
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            moments = {
                number: {name: devices.split_like(x, parameters[number]) for name, x in has.items()}
                for number, has in optimiser["state"].items()
            }
            weights = {name: devices.split_like(x, own[name]) for name, x in state["model"].items()}
            state = {**state, "model": weights, "optimiser": {**optimiser, "state": moments}}
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for mean, kept in zip(self.means, state.get("ema", ()), strict=False):
            mean.copy_(devices.split_like(kept, mean))
        self.skipped = state["skipped"]


def own_share(
    batch_size: int, num_processes: int, process_index: int, group: int | None = None
) -> list[int]:
    """The places of a batch that one of several processes works on, in ascending order.

    Mixup and CutMix pair a clip with its mirror position in its group: `group` consecutive places
    (the last group may be smaller), or the whole batch. A share holds whole pairs, so that the same
    clips are mixed for any number of processes; if it is odd, shares are contiguous blocks.

    Raises ValueError if batch_size is not a multiple of num_processes.
    """
    if num_processes < 1 or batch_size % num_processes:
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of its {num_processes} parts (processes "
            f"x accumulate); use {math.ceil(batch_size / max(num_processes, 1)) * num_processes}"
        )
    share = batch_size // num_processes
    if share % 2:
        return list(range(process_index * share, (process_index + 1) * share))
    parts = groups(range(batch_size), group)
    pairs = [(part[i], part[-1 - i]) for part in parts for i in range(len(part) // 2)]
    own = pairs[process_index * share // 2 : (process_index + 1) * share // 2]
    return sorted(place for pair in own for place in pair)


def groups(places: Sequence[int], group: int | None) -> list[list[int]]:
    """Split ascending places of a batch by group."""
    found: dict[int, list[int]] = {}
    for place in places:
        found.setdefault(place // group if group else 0, []).append(place)
    return list(found.values())


# --- what a training shows while it runs, and how it is stopped --------------------------------


class Progress:
    """A bar with loss, rate, clips/s, the share of time spent waiting for clips, and time left.

    seconds: time of training in the parts before a resume.
    pure_s: seconds of a step by itself, if it was measured.
    """

    def __init__(
        self, bar: tqdm, task: TrainingTask, seconds: float, workers: int, pure_s: float | None
    ) -> None:
        self.bar, self.workers, self.pure_s = bar, workers, pure_s
        self.batch_size = task.config.optim.batch_size
        self.began = time.monotonic() - seconds
        self._steps, self._waited, self._since = 0, 0.0, time.monotonic()
        # If clips are drawn once and cached, the wait soon ends by itself.
        self._is_reported = getattr(task.stream, "is_drawn", False)

    @property
    def seconds(self) -> float:
        """Time of training so far."""
        return time.monotonic() - self.began

    @property
    def waited(self) -> float:
        """Share of the time, in [0, 1], that steps lost to reading clips.

        If steps run asynchronously on a device (`pure_s`), the time by which they exceed a step
        alone; else the wait for the next clips.
        """
        taken = max(time.monotonic() - self._since, 1e-9)
        if self.pure_s is None:
            return self._waited / taken
        return max(0.0, 1 - self.pure_s * (self._steps - 1) / taken)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time outside of steps, which does not count as waiting."""
        before = time.monotonic()
        yield
        if self.pure_s is not None:
            self._since += time.monotonic() - before

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, with the wait for each measured."""
        before = time.monotonic()
        for batch in batches:
            self._waited += time.monotonic() - before
            yield batch
            before = time.monotonic()

    def update(self) -> None:
        """Count a step. The first is excluded from the rates: files are opened, caches fill."""
        self.bar.update()
        self._steps += 1
        if self._steps == 1:
            self._waited, self._since = 0.0, time.monotonic()
        if self._steps > REPORT_AFTER and self.waited > DATA_BOUND and not self._is_reported:
            self._is_reported = True
            took = (time.monotonic() - self._since) / (self._steps - 1)
            pace = "" if self.pure_s is None else f" ({took:.3g} s a step, {self.pure_s:.3g} alone)"
            self.write(
                f"Data-bound: {100 * self.waited:.0f} % of the time was spent waiting for clips"
                f"{pace}. Use workers={max(2 * self.workers, 2)}, or prepare the clips (maedfer "
                "prepare)"
            )

    def show(self, row: dict[str, float | int], skipped: int) -> None:
        """Show a row of the log."""
        if self._steps < 2:
            return
        rate = (self._steps - 1) * self.batch_size / (time.monotonic() - self._since)
        self.bar.set_postfix(
            {"loss": f"{row['loss']:.3f}", "lr": f"{row['lr']:.1e}", "clips/s": f"{rate:.1f}",
             "waiting": f"{self.waited:.0%}"} | ({"fp16_skipped": skipped} if skipped else {})
        )  # fmt: skip

    def write(self, text: str) -> None:
        """Print something without breaking the bar."""
        if not self.bar.disable:
            self.bar.write(text, file=sys.stderr)


@contextmanager
def delayed_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a flag, so that a step is never interrupted.

    A second Ctrl-C stops at once, unless it comes within a second: launchers forward the Ctrl-C
    that their processes have already received. Outside the main thread signals are unchanged.
    """
    flag, first_s = threading.Event(), 0.0
    numbers = [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    elif hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)

    def note(number: int, _: object) -> None:
        nonlocal first_s
        if not flag.is_set():
            first_s = time.monotonic()
            flag.set()
        elif number == signal.SIGINT and time.monotonic() - first_s > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
