"""Pre-training: configuration in, folder out. Finished runs load, partial ones resume."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from maedfer_lab.config import EncoderKind, PresetName, PretrainConfig, pretrain_config
from maedfer_lab.config import preset as named_preset
from maedfer_lab.config.schedule import learning_rate
from maedfer_lab.evidence.results import provenance
from maedfer_lab.method.autoencoder import MaskedAutoencoder, build_autoencoder
from maedfer_lab.method.targets import Loss
from maedfer_lab.runs import Run
from maedfer_lab.training.clips import ClipSource, open_source
from maedfer_lab.training.held_out import HeldOut, model_mask
from maedfer_lab.training.optim import (
    device_name,
    make_optimiser,
    mixed_precision,
)

LogRow = dict[str, float | int]
OnLog = Callable[[list[LogRow], dict[str, Any]], None]
READ_EVERY = 10  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True)
class PretrainedRun:
    """A finished run: its model on the CPU in evaluation mode, its log and its result."""

    config: PretrainConfig
    folder: Path
    model: MaskedAutoencoder
    log: list[LogRow]
    result: dict[str, Any]

    def __str__(self) -> str:
        held_out, baselines = self.result["held_out"], self.result["baselines"]
        lines = [
            f"{self.result['steps']} steps in {self.result['seconds'] / 60:.1f} min; {self.folder}"
        ]
        for kind in ("appearance", "motion"):
            others = ", ".join(f"{name} {loss[kind]:.4f}" for name, loss in baselines.items())
            lines.append(f"held-out {kind} loss {held_out[kind]:.4f} (without model: {others})")
        return "\n".join(lines)


def pretrain(
    config: PretrainConfig,
    *,
    output: Path | None = None,
    profile: str = "none",
    workers: int = 0,
    on_log: OnLog | None = None,
) -> PretrainedRun:
    """Pre-train as `config` says, in runs/NAME-HASH under `output`.

    A finished run is loaded, a partial one resumed (bit for bit on one CPU machine), else a new
    one is trained. On several devices start it with `accelerate launch`.

    profile: named in the provenance. workers: processes that prepare clips.
    on_log: called with the log so far and the held-out baselines, for a live curve.
    """
    run = Run.of(config, output)
    if run.is_finished:
        return load_run(run.folder)
    model = build_autoencoder(config.model, config.target, seed=config.seed)

    accelerator = Accelerator()
    device, is_main = accelerator.device, accelerator.is_main_process
    source = open_source(config)
    held_out = HeldOut(model, source.held_out(), config.mask_ratio[0])
    baselines = held_out.baselines()
    optimiser = make_optimiser(model, config.optim)
    start, log, seconds = 0, [], 0.0
    if (state := run.load_state()) is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start, log, seconds = state["step"], state["log"], state["seconds"]
    network, optimiser = accelerator.prepare(model, optimiser)
    clips = batches(source, config, accelerator, start, workers)
    bar = tqdm(total=config.optim.steps, initial=start, desc=config.name, unit="step",
               disable=not accelerator.is_local_main_process)  # fmt: skip
    pending: list[tuple[int, float, Loss]] = []
    began = time.monotonic() - seconds

    with bar, delayed_interrupt() as interrupt:
        for step in range(start, config.optim.steps):
            network.train()
            lr = learning_rate(step, config.optim)
            for group in optimiser.param_groups:
                group["lr"] = lr
            mask = step_mask(config, model, step)[own_share(config, accelerator)]
            with mixed_precision(config.precision, device):
                loss = network(next(clips).to(device), mask).loss
            accelerator.backward(loss.total)
            optimiser.step()
            optimiser.zero_grad()
            pending.append((step, lr, loss))

            done = step + 1
            bar.update()
            is_last = done == config.optim.steps
            judge = is_last or done % config.eval_every == 0
            keep = not is_last and (done % config.save_every == 0 or interrupt.is_set())
            if judge or keep or len(pending) == READ_EVERY:
                log += read_losses(pending, accelerator, run)
                pending.clear()
                bar.set_postfix({k: f"{log[-1][k]:.3f}" for k in ("appearance", "motion")})
            if judge:
                losses = held_out.losses(config.precision)
                log[-1] |= {f"held_out_{kind}": value for kind, value in losses.items()}
            if on_log is not None and is_main and not pending:
                on_log(log, baselines)
            if keep and is_main:
                run.save_state({"step": done, "model": model.state_dict(), "log": log,
                                "optimiser": optimiser.state_dict(),
                                "seconds": time.monotonic() - began})  # fmt: skip
            if interrupt.is_set() and not is_last:
                bar.write(
                    f"Stopped after step {done} of {config.optim.steps}; the state is kept in "
                    f"{run.folder}. Run the same command again to go on.",
                    file=sys.stderr,
                )
                raise KeyboardInterrupt

    seconds = round(time.monotonic() - began, 1)
    result = {
        "steps": config.optim.steps,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": source.description,
        "held_out": {kind: log[-1][f"held_out_{kind}"] for kind in ("appearance", "motion")},
        "baselines": baselines,
        "provenance": provenance(
            profile=profile, seed=config.seed, device=device_name(device), seconds=seconds
        ),
        "log": log,
    }
    if is_main:
        run.save_log(log)
        run.finish(model, result)
    accelerator.wait_for_everyone()
    return PretrainedRun(config, run.folder, model.cpu().eval(), log, result)


def load_run(folder: Path) -> PretrainedRun:
    """Load a finished run from its folder."""
    run = Run(folder.expanduser())
    if not run.is_finished:
        raise FileNotFoundError(
            f"{folder} holds no finished run (no result.json); give a folder that "
            "`maedfer pretrain` has written, such as runs/demo-lgi-..."
        )
    config = pretrain_config(json.loads((run.folder / "config.json").read_text()))
    model = build_autoencoder(config.model, config.target)
    run.load_model(model)
    result = run.load_result()
    return PretrainedRun(config, run.folder, model.eval(), result["log"], result)


def step_mask(config: PretrainConfig, model: MaskedAutoencoder, step: int) -> Tensor:
    """Masks (b n) of the global batch of one step: a pure function of seed and step."""
    generator = torch.Generator().manual_seed((config.seed << 32) + step)
    choice = int(torch.randint(len(config.mask_ratio), (), generator=generator))
    return model_mask(model, config.mask_ratio[choice], config.optim.batch_size, generator)


def own_share(config: PretrainConfig, accelerator: Accelerator) -> slice:
    """Which clips of every global batch this process works on."""
    size, processes = config.optim.batch_size, accelerator.num_processes
    if size % processes:
        raise ValueError(
            f"batch_size={size} must be a multiple of the {processes} processes; "
            f"use {math.ceil(size / processes) * processes}"
        )
    share = size // processes
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def batches(
    source: ClipSource, config: PretrainConfig, accelerator: Accelerator, start: int, workers: int
) -> Iterator[Float[Tensor, "b 3 T H W"]]:
    """This process's part of every global batch from step `start` on."""
    size, share = config.optim.batch_size, own_share(config, accelerator)
    steps = [
        list(range(step * size, (step + 1) * size))[share]
        for step in range(start, config.optim.steps)
    ]
    return iter(DataLoader(source, batch_sampler=steps, num_workers=workers))  # type: ignore


def read_losses(
    pending: list[tuple[int, float, Loss]], accelerator: Accelerator, run: Run
) -> list[LogRow]:
    """Log rows of the steps since the last look; a loss that is not finite ends the run."""
    rows = []
    for step, lr, loss in pending:
        values = torch.stack([loss.total, loss.appearance, loss.motion]).detach().float()
        mean = accelerator.reduce(values, "mean")
        total, appearance, motion = (float(x) for x in mean)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"loss is {total} at step {step + 1} (learning rate {lr:.2e}); the last good state "
                f"is in {run.folder}. Lower lr or use precision='float32', and look at the data"
            )
        rows.append({"step": step + 1, "lr": lr, "loss": total, "appearance": appearance,
                     "motion": motion})  # fmt: skip
    return rows


@contextmanager
def delayed_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that a step is never torn; the second stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)


def pretrain_command(
    *,
    preset: PresetName = "demo",
    encoder: EncoderKind = "lgi",
    data: Path | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    workers: int = 0,
    out: Path | None = None,
) -> PretrainedRun:
    """Pre-train on synthetic faces or a folder of videos; finished runs load, partial ones go on.

    preset: base is the paper's recipe, demo takes minutes on a CPU, tiny seconds.
    encoder: lgi is LGI-Former, vit joint attention as in VideoMAE.
    data: a folder of videos; synthetic faces without it.
    steps: in place of the preset's own.
    batch_size: in place of the preset's own.
    seed: of weights, masks and clips.
    workers: processes that prepare clips.
    out: folder under which runs/ is written.
    """
    config = named_preset(preset, encoder)
    optim = config.optim
    if steps is not None:
        optim = replace(optim, steps=steps, warmup_steps=min(optim.warmup_steps, steps // 20))
    if batch_size is not None:
        optim = replace(optim, batch_size=batch_size)
    data = data.expanduser().resolve() if data is not None else None
    config = replace(config, optim=optim, data=data, seed=seed)
    return pretrain(config, output=out, profile=f"preset {preset}", workers=workers)
