"""Pre-training: configuration in, folder out. Finished runs load, partial ones resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.reading import locate
from maedfer_lab.config import (
    EncoderKind,
    FinetuneConfig,
    Framing,
    OnBroken,
    PresetName,
    PretrainConfig,
    Size,
    pretrain_config,
    sized,
)
from maedfer_lab.config import preset as named_preset
from maedfer_lab.data.lists import Clip
from maedfer_lab.data.shard_format import is_url
from maedfer_lab.data.table import Annotations
from maedfer_lab.data.transforms import blend_clips, jitter_colours, to_floats
from maedfer_lab.fast import speed_up
from maedfer_lab.files import provenance
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import MaskedAutoencoder, build_autoencoder, check_batch, model_mask
from maedfer_lab.method.targets import Loss
from maedfer_lab.runs import WEIGHTS, LogRow, Run
from maedfer_lab.training.device import Compile
from maedfer_lab.training.held_out import HeldOut, trained_on
from maedfer_lab.training.loop import TrainedLog, TrainingTask, train
from maedfer_lab.training.optim import device_name
from maedfer_lab.training.stream import (
    JITTER,
    ClipStream,
    RunData,
    held_out_clips,
    open_table,
    pretraining_data,
    pretraining_table,
)

BROKEN_SHARE, BROKEN_FEW = 0.05, 2  # more broken clips than both end a run
BROKEN_AFTER = 200  # clips, after which the share is checked

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)
OnLog = Callable[[list[LogRow], dict[str, Any]], None]


@dataclass(frozen=True)
class PretrainedRun:
    """A finished run: its model on the CPU in evaluation mode, its log and its result.

    remark: on a run that was loaded, not trained just now.
    """

    config: PretrainConfig
    folder: Path
    model: MaskedAutoencoder
    log: list[LogRow]
    result: dict[str, Any]
    remark: str = ""

    def __str__(self) -> str:
        result = self.result
        lines = [self.remark] * bool(self.remark) + [
            f"{result['steps']} steps in {result['seconds'] / 60:.1f} min; {self.folder}"
        ]
        for kind in ("appearance", "motion"):
            others = ", ".join(f"{k} {loss[kind]:.4f}" for k, loss in result["baselines"].items())
            loss = result["held_out"][kind]
            lines.append(f"held-out {kind} loss {loss:.4f} (baselines: {others})")
        if broken := result.get("broken"):
            known = " (VoxCeleb2 is known to ship 283)" * (self.config.framing == "voxceleb2")
            lines.append(
                f"{len(broken)} broken clips{known} were replaced by others; result.json lists them"
            )
        return "\n".join(lines)


def pretrain(
    config: PretrainConfig, *, output: Path | None = None, profile: str = "none",
    workers: int = 0, on_log: OnLog | None = None, tensorboard: bool = False,
    compile: Compile | bool = "auto", checkpointing: bool = False, shard: bool = False,
) -> PretrainedRun:  # fmt: skip
    """Pre-train as `config` says, in runs/NAME-HASH under `output`.

    A finished run is loaded, a partial one resumed (bit-exact on one CPU machine), else a new
    one is trained. On several devices start it with `accelerate launch` (docs/launching.md).

    profile: named in the provenance.
    on_log: called with the log so far and the held-out baselines, for a live curve.
    workers, tensorboard, compile, checkpointing, shard: as in `loop.train`, which also handles
        Ctrl-C, a full disk and a non-finite loss; they do not change results.

    Raises:
        ValueError: the run belongs to other data; or more than 5 % of the clips are broken.
    """
    run = Run.of(config, output)
    table = open_table(run, config.data, lambda: pretraining_table(config), config.stills)
    if table is None:
        return load_run(run.folder)
    data = pretraining_data(config, table)
    task = PretrainTask(config, data)
    baselines = task.held_out.baselines()
    live = None if on_log is None else lambda log: on_log(log, baselines)
    trained = train(
        task, run, workers=workers, on_log=live, tensorboard=tensorboard, compile=compile,
        checkpointing=checkpointing, shard=shard,
    )  # fmt: skip
    log = trained.log
    result = finish(
        run, config, task.model, data, trained, profile,
        broken=sorted(map(list, task.broken.items())),
        held_out={kind: log[-1][f"held_out_{kind}"] for kind in ("appearance", "motion")},
        baselines=baselines,
        skipped_steps=trained.skipped,
        log=log,
    )  # fmt: skip
    return PretrainedRun(config, run.folder, task.model.cpu().eval(), log, result)


def finish(
    run: Run, config: PretrainConfig | FinetuneConfig, model: nn.Module, data: RunData,
    trained: TrainedLog, profile: str, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write a run's final files on the main process; return the result as written.

    Every result records duration, data and provenance.
    """
    state = PartialState()
    result = {
        "steps": config.optim.last_step,
        "seconds": trained.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": data.description,
        "provenance": provenance(
            profile=profile,
            seed=config.seed,
            device=device_name(next(model.parameters()).device),
            processes=state.num_processes,
            waited=round(trained.waited, 3),
            compiled=trained.compiled,
            seconds=trained.seconds,
            data="synthetic faces" if config.data is None else config.data.name,
        ),
        **more,
    }
    if state.is_main_process:
        run.save_log(trained.log)
        result = run.finish(model, result)
    state.wait_for_everyone()
    return result


def _warn_of_known(init: Path, table: Annotations, clips: Sequence[Clip], root: Path) -> None:
    """Warn if the weights to go on from were trained on people who are held out now."""
    if known := trained_on(init, [clip.path for clip in clips], table.people(clips), root):
        what = f"{len(known)} of {len(clips)} held-out videos, such as {min(known)}"
        advice = "the seed and held_out of that training hold out the same people"
        warnings.warn(f"init={str(init)!r} was trained on {what}: held-out losses will be too low; "
                      f"{advice}", stacklevel=3)  # fmt: skip


class PretrainTask(TrainingTask):
    """Masked autoencoding as a task of the training loop."""

    config: PretrainConfig
    model: MaskedAutoencoder
    stream: ClipStream

    def __init__(self, config: PretrainConfig, data: RunData | None = None) -> None:
        self.config = config
        self.model = build_autoencoder(config.model, config.target, seed=config.seed)
        if config.init is not None:
            warm_start(self.model, config.init)
        data = pretraining_data(config) if data is None else data
        self.stream, clips = data.stream, held_out_clips(config, data)
        self.held_out = HeldOut(self.model, clips[0], config.mask_ratio[0])
        if config.init is not None and config.data is not None:
            _warn_of_known(config.init, data.table, data.test[: config.num_held_out], config.data)
        self.broken, self.items = dict([*data.skipped, *clips[1]]), 0
        self.known = len(self.broken)  # before the first step; these do not count as too many

    def prepare(self, batch: Any, step: int, places: Sequence[int]) -> tuple[Tensor, ...]:
        """Frames (b T H W 3), and which tokens the step's masks show and hide (`TokenSplit`)."""
        self.items = (step + 1) * self.config.optim.batch_size
        mask = step_mask(self.config, self.model, step)[list(places)]
        check_batch(len(batch), len(mask))
        split = self.model.split(mask)
        return batch, split.visible, split.masked, split.decoder_positions

    def finish(
        self, batch: tuple[Tensor, ...], step: int, places: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Colour jitter and blended clips, if configured; then floats."""
        config, (frames, *indices) = self.config, batch
        if not (config.jitter or config.grey or config.blend):
            return batch
        items = [step * config.optim.batch_size + place for place in places]
        rngs = [np.random.default_rng([config.seed, item, JITTER]) for item in items]
        clips = jitter_colours(to_floats(frames), config.jitter, rngs, config.grey)
        return blend_clips(clips, config.blend, rngs), *indices

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Total, appearance and motion loss of clips under the step's masks."""
        clips, *indices = batch
        clips = clips if clips.is_floating_point() else to_floats(clips)
        loss: Loss = network(clips, TokenSplit(*indices)).loss
        return {"loss": loss.total, "appearance": loss.appearance, "motion": loss.motion}

    def validate(self) -> dict[str, float]:
        """Losses on the held-out clips."""
        losses = self.held_out.losses(self.config.precision)
        return {f"held_out_{kind}": value for kind, value in losses.items()}

    def replaced(self, clips: Sequence[tuple[str, str]]) -> None:
        """Record broken clips, and end a run with too many."""
        self.broken.update(clips)
        seen = min(max(self.items, BROKEN_AFTER), len(self.stream))
        found = len(self.broken) - self.known
        if found > max(BROKEN_FEW, BROKEN_SHARE * seen):
            some = "; ".join(f"{name} ({why})" for name, why in clips[:3])
            raise ValueError(
                f"{found} of about {seen} clips cannot be read, e.g. {some}. More than "
                f"{BROKEN_SHARE:.0%} suggests a problem with the data; check it (maedfer doctor)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Broken clips so far, of all processes."""
        if PartialState().num_processes > 1:
            parts = gather_object([self.broken])
            self.broken = {name: why for part in parts for name, why in part.items()}
        return {"broken": self.broken, "items": self.items}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.broken, self.items = {**self.broken, **state["broken"]}, state["items"]


def load_run(folder: Path) -> PretrainedRun:
    """Load a finished run from its folder."""
    run = Run.finished(folder, "pretrain", "demo-lgi")
    result, config = run.load_result(), run.config(pretrain_config)
    model = build_autoencoder(config.model, config.target)
    with run.reading("result.json"):
        run.load_weights(model, WEIGHTS, result.get("sha256", {}).get(WEIGHTS))
        model = speed_up(model).eval()
        loaded = PretrainedRun(config, run.folder, model, result["log"], result, run.remark)
        str(loaded)
    return loaded


def warm_start(model: MaskedAutoencoder, checkpoint: Path) -> None:
    """Initialise `model` with the parameters of a pre-training checkpoint of the same sizes.

    Clips may be longer or shorter than the checkpoint's by an integer factor: positions are
    computed, and the representative tokens are repeated over time, or averaged over it.
    ValueError for another model.
    """
    state = load_checkpoint(checkpoint, as_="autoencoder").model.state_dict()
    own = model.state_dict()
    name = "encoder.rep_tokens"
    if name in own and name in state and own[name].shape != state[name].shape:
        few, many = sorted((len(own[name]), len(state[name])))
        if many % few or own[name].shape[1] != state[name].shape[1]:
            raise ValueError(
                f"init={checkpoint} has representative tokens of shape {tuple(state[name].shape)}, "
                f"which do not fit {tuple(own[name].shape)}; its clips may be longer or shorter by "
                "an integer factor"
            )
        if many == len(own[name]):
            state[name] = state[name].repeat(many // few, 1)
        else:
            state[name] = state[name].unflatten(0, (many // few, few)).mean(0)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise ValueError(
            f"init={checkpoint} is another model ({why}); use a run of the same preset"
        ) from error


def step_mask(config: PretrainConfig, model: MaskedAutoencoder, step: int) -> Tensor:
    """Masks (b n) of the global batch of one step: a pure function of seed and step."""
    generator = torch.Generator().manual_seed((config.seed << 32) + step)
    choice = int(torch.randint(len(config.mask_ratio), (), generator=generator))
    return model_mask(model, config.mask_ratio[choice], config.optim.batch_size, generator)


def pretrain_command(
    *, preset: PresetName = "demo", encoder: EncoderKind = "lgi", size: Size | None = None,
    data: Path | None = None, init: Path | None = None, framing: Framing | None = None,
    steps: int | None = None, stop_after: int | None = None, batch_size: int | None = None,
    accumulate: int = 1, seed: int = 0, on_broken: OnBroken = "skip", workers: int = 0,
    tensorboard: bool = False, compile: Compile = "auto", checkpointing: bool = False,
    shard: bool = False, out: Path | None = None, fields: Sequence[str] = (),
) -> PretrainedRun:  # fmt: skip
    """Pre-train on synthetic faces or a folder of videos; resumes or loads an existing run.

    Every field of the preset can be set, e.g. `--optim.lr 1e-3 --model.region 2 5 5`;
    `--fields` lists them.

    preset: base is the paper's recipe; demo takes minutes on a CPU, tiny seconds; faces-still
        followed by faces gives the small shipped model (hours).
    encoder: lgi is LGI-Former, vit joint attention as in VideoMAE.
    size: width, depth and heads, instead of the preset's; base is the paper's model.
    data: a folder of videos, or a list of them; synthetic faces by default.
    init: a pre-training run or checkpoint to initialise from.
    framing: face, or voxceleb2 for that set's frames of 224 x 224; the preset's by default.
    steps: length of the schedule, instead of the preset's.
    stop_after: stop after this many steps of the schedule.
    batch_size: global batch size (all processes), instead of the preset's.
    accumulate: number of parts for gradient accumulation, to save memory.
    seed: random seed of weights, masks and clips.
    on_broken: skip replaces and lists unreadable clips, stop ends the run at the first.
    workers: processes that prepare clips.
    tensorboard: also write the log for TensorBoard.
    compile: auto chooses by device: graph on one GPU, block on several, no on a CPU. block
        compiles each kind of block, whole the model, graph captures the step of compiled blocks.
    checkpointing: activation checkpointing: less memory, a third more computation.
    shard: shard weights and optimiser state over all processes, for models too large for one GPU.
    out: folder under which runs/ is written.
    """
    config = named_preset(preset, encoder)
    config = replace(config, model=sized(config.model, size))
    changes: dict[str, Any] = {"accumulate": accumulate}
    if steps is not None:
        warmup = min(config.optim.warmup_steps, steps // 20)
        changes |= {"steps": steps, "warmup_steps": warmup, "stop_after": None}
    given = {"stop_after": stop_after, "batch_size": batch_size}
    changes |= {name: value for name, value in given.items() if value is not None}
    config = replace(config, optim=replace(config.optim, **changes), data=data, init=init,
                     seed=seed, on_broken=on_broken,
                     framing=framing or config.framing)  # fmt: skip
    config = set_fields(config, fields, "maedfer pretrain")
    init = config.init and locate(config.init)
    config = replace(config, data=absolute(config.data), init=init and absolute(init))
    return pretrain(config, output=out, profile=f"preset {preset}", workers=workers,
                    tensorboard=tensorboard, compile=compile, checkpointing=checkpointing,
                    shard=shard)  # fmt: skip


def set_fields(config: Config, fields: Sequence[str], program: str) -> Config:
    """`config` with fields set as on a command line: ("--optim.lr", "1e-3").

    Unknown names and values of the wrong type end the program with a message, as for all flags.
    """
    if not fields:
        return config
    import tyro

    kind: Any = tyro.conf.AvoidSubcommands[type(config)]
    return tyro.cli(kind, prog=f"{program} (fields)", default=config, args=list(fields))


def absolute(path: Path | None) -> Path | None:
    """A path, or URL of a prepared set, that a run's configuration can hold."""
    return path if path is None or is_url(path) else path.expanduser().resolve()
