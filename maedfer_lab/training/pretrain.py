"""Pre-training: configuration in, folder out. Finished runs load, partial ones resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import UInt8
from torch import Tensor, nn

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.config import EncoderKind, Framing, PresetName, PretrainConfig, pretrain_config
from maedfer_lab.config import preset as named_preset
from maedfer_lab.data.clips import blend_clips, jitter_colours, to_floats
from maedfer_lab.fast import speed_up
from maedfer_lab.files import provenance
from maedfer_lab.method.models import MaskedAutoencoder, build_autoencoder, model_mask
from maedfer_lab.method.targets import Loss
from maedfer_lab.runs import LogRow, Run
from maedfer_lab.training.clip_source import ClipSource
from maedfer_lab.training.clips import open_source
from maedfer_lab.training.held_out import HeldOut
from maedfer_lab.training.loop import Task, train
from maedfer_lab.training.optim import device_name, make_optimiser

JITTER = 2  # the random stream of an item's colours, beside those of its clip
OnLog = Callable[[list[LogRow], dict[str, Any]], None]


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
    tensorboard: bool = False,
    compile: bool = False,
) -> PretrainedRun:
    """Pre-train as `config` says, in runs/NAME-HASH under `output`.

    A finished run is loaded, a partial one resumed (bit for bit on one CPU machine), else a new
    one is trained. On several devices start it with `accelerate launch` (docs/launching.md).

    profile: named in the provenance. workers: processes that prepare clips.
    on_log: called with the log so far and the held-out baselines, for a live curve.
    tensorboard: write the log also for TensorBoard, in the run's folder.
    compile: run the model through `torch.compile` (`loop.train`).

    The other rules of a training (Ctrl-C, full disk, a loss that is not finite) are `loop.train`'s.
    """
    run = Run.of(config, output)
    if run.is_finished:
        return load_run(run.folder)
    task = PretrainTask(config)
    baselines = task.held_out.baselines()
    live = None if on_log is None else lambda log: on_log(log, baselines)
    trained = train(
        task, run, workers=workers, on_log=live, tensorboard=tensorboard, compile=compile
    )

    state = PartialState()  # of Accelerate: which process this is
    log, model = trained.log, task.model
    result = {
        "steps": config.optim.last_step,
        "seconds": trained.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": task.stream.description,
        "held_out": {kind: log[-1][f"held_out_{kind}"] for kind in ("appearance", "motion")},
        "baselines": baselines,
        "skipped_steps": trained.skipped,
        "provenance": provenance(
            profile=profile,
            seed=config.seed,
            device=device_name(task.held_out.device),
            processes=state.num_processes,
            waited=round(trained.waited, 3),
            compiled=compile,
            seconds=trained.seconds,
        ),
        "log": log,
    }
    if state.is_main_process:
        run.save_log(log)
        run.finish(model, result)
    state.wait_for_everyone()
    return PretrainedRun(config, run.folder, model.cpu().eval(), log, result)


class PretrainTask(Task):
    """Masked autoencoding, as the loop sees it."""

    config: PretrainConfig
    model: MaskedAutoencoder
    stream: ClipSource

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.log_every = config, config.log_every
        self.model = build_autoencoder(config.model, config.target, seed=config.seed)
        if config.init is not None:
            warm_start(self.model, config.init)
        self.stream = open_source(config)
        self.held_out = HeldOut(self.model, self.stream.held_out(), config.mask_ratio[0])

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW over all parameters."""
        return make_optimiser(self.model, self.config.optim)

    def loss(
        self,
        network: nn.Module,
        batch: UInt8[Tensor, "b T H W 3"],
        step: int,
        places: Sequence[int],
    ) -> dict[str, Tensor]:
        """Total, appearance and motion loss of these clips of a batch under the step's masks."""
        config = self.config
        items = [step * config.optim.batch_size + place for place in places]
        rngs = [np.random.default_rng([config.seed, item, JITTER]) for item in items]
        clips = jitter_colours(to_floats(batch), config.jitter, rngs)
        clips = blend_clips(clips, config.blend, rngs)
        mask = step_mask(config, self.model, step)[list(places)]
        loss: Loss = network(clips, mask).loss
        return {"loss": loss.total, "appearance": loss.appearance, "motion": loss.motion}

    def names(self, indices: Sequence[int]) -> list[str]:
        """Videos of these clips."""
        return [self.stream.name(index) for index in indices]

    def judge(self) -> dict[str, float]:
        """Losses on the held-out clips."""
        losses = self.held_out.losses(self.config.precision)
        return {f"held_out_{kind}": value for kind, value in losses.items()}


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
    return PretrainedRun(config, run.folder, speed_up(model).eval(), result["log"], result)


def warm_start(model: MaskedAutoencoder, checkpoint: Path) -> None:
    """Fill `model` with the parameters of a pre-training checkpoint of the same sizes.

    Clips may be longer than the checkpoint's by a whole factor: positions are computed, and the
    representative tokens, region after region in time, are repeated.
    """
    state = load_checkpoint(checkpoint, as_="autoencoder").model.state_dict()
    own = model.state_dict()
    name = "encoder.rep_tokens"
    if name in own and name in state and own[name].shape != state[name].shape:
        times, rest = divmod(len(own[name]), len(state[name]))
        if rest or own[name].shape[1] != state[name].shape[1]:
            raise ValueError(
                f"init={checkpoint} has representative tokens of shape {tuple(state[name].shape)}, "
                f"which do not fit {tuple(own[name].shape)}; use one whose clips are as long, or "
                "shorter by a whole factor"
            )
        state[name] = state[name].repeat(times, 1)
    wrong = [k for k in own if k not in state or own[k].shape != state[k].shape]
    if wrong or state.keys() - own.keys():
        raise ValueError(
            f"init={checkpoint} is another model (first difference: "
            f"{(wrong or sorted(state.keys() - own.keys()))[0]}); use a run of the same preset"
        )
    model.load_state_dict(state)


def step_mask(config: PretrainConfig, model: MaskedAutoencoder, step: int) -> Tensor:
    """Masks (b n) of the global batch of one step: a pure function of seed and step."""
    generator = torch.Generator().manual_seed((config.seed << 32) + step)
    choice = int(torch.randint(len(config.mask_ratio), (), generator=generator))
    return model_mask(model, config.mask_ratio[choice], config.optim.batch_size, generator)


def pretrain_command(
    *,
    preset: PresetName = "demo",
    encoder: EncoderKind = "lgi",
    data: Path | None = None,
    init: Path | None = None,
    framing: Framing | None = None,
    steps: int | None = None,
    stop_after: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    seed: int = 0,
    workers: int = 0,
    tensorboard: bool = False,
    compile: bool = False,
    out: Path | None = None,
) -> PretrainedRun:
    """Pre-train on synthetic faces or a folder of videos; finished runs load, partial ones go on.

    preset: base is the paper's recipe, demo takes minutes on a CPU, tiny seconds; faces-still, then
        faces from it, give the small model that is shipped (hours).
    encoder: lgi is LGI-Former, vit joint attention as in VideoMAE.
    data: a folder of videos, or a list of them; synthetic faces without it.
    init: a pre-training run or checkpoint to start from.
    framing: face, or voxceleb2 for that set's frames of 224 x 224; the preset's own without it.
    steps: of the whole schedule, in place of the preset's own.
    stop_after: end after so many steps of the schedule.
    batch_size: of all processes together, in place of the preset's own.
    accumulate: parts in which a process takes its share of a batch, for less memory.
    seed: of weights, masks and clips.
    workers: processes that prepare clips.
    tensorboard: write the log also for TensorBoard.
    compile: run the model through torch.compile: minutes first, then perhaps faster steps.
    out: folder under which runs/ is written.
    """
    config = named_preset(preset, encoder)
    optim = replace(config.optim, accumulate=accumulate)
    if steps is not None:
        warmup = min(optim.warmup_steps, steps // 20)
        optim = replace(optim, steps=steps, warmup_steps=warmup, stop_after=None)
    if stop_after is not None:
        optim = replace(optim, stop_after=stop_after)
    if batch_size is not None:
        optim = replace(optim, batch_size=batch_size)
    data = data.expanduser().resolve() if data is not None else None
    framing = framing or config.framing
    init = init.expanduser().resolve() if init is not None else None
    config = replace(config, optim=optim, data=data, init=init, framing=framing, seed=seed)
    return pretrain(
        config,
        output=out,
        profile=f"preset {preset}",
        workers=workers,
        tensorboard=tensorboard,
        compile=compile,
    )
