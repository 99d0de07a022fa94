"""Recipes: optimisation with its learning rate, data and bookkeeping of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from maedfer_lab.config.model import (
    Framing,
    ModelConfig,
    TargetConfig,
    check_counts,
    check_fields,
    choose_framing,
    types_of,
)

Precision = Literal["float32", "bf16", "fp16"]
Optimiser = Literal["adamw", "muon"]
OnBroken = Literal["skip", "stop"]
Mode = Literal["finetune", "scratch", "linear"]

MOST_CLIPS = 2**17  # of a batch
MOST_SEED = 2**32 - 1  # shifted by 32 bits to make others


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, or Muon.

    steps: length of the schedule; with `stop_after` the run ends after that many of them.
    batch_size: clips per step, over all processes; accumulate: parts into which each process splits
        its share (gradient accumulation): less memory for the same result.
    lr, min_lr: peak and last learning rate at batch 256; scaled by batch_size / 256, as published.
    optimiser: "adamw" as in the paper, or "muon" for the matrices inside blocks (AdamW for the
        rest, at the same rate): small models learn more per step. Pre-training only.
    ema: decay of an exponential moving average of the weights, which is then evaluated and saved;
        0 is off.
    """

    steps: int = 682_300
    batch_size: int = 160
    lr: float = 3e-4
    min_lr: float = 1e-5
    warmup_steps: int = 34_115
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    accumulate: int = 1
    stop_after: int | None = None
    optimiser: Optimiser = "adamw"
    ema: float = 0.0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)
        check_fields(
            self, batch_size=MOST_CLIPS, accumulate=MOST_CLIPS,
            **dict.fromkeys(("lr", "min_lr", "weight_decay"), "[0, 100]"),
            ema="[0, 1); 0 is off, try 0.9999",
            stop_after=f"[1, {self.steps}]; its steps, or None runs all",
            warmup_steps=f"[0, {self.steps}]; its steps; try {self.steps // 20}",
        )  # fmt: skip
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}; "
                f"use accumulate={math.gcd(self.batch_size, self.accumulate)}"
            )

    @property
    def last_step(self) -> int:
        """Number of steps that are run."""
        return self.steps if self.stop_after is None else self.stop_after


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Linear warm-up from 0, then cosine decay; both ends scaled by batch_size / 256.

    *Official:* the same formula; its warm-up reaches the peak in its last step.
    """
    scale = optim.batch_size / 256
    peak, end = optim.lr * scale, min(optim.min_lr, optim.lr) * scale
    if step < optim.warmup_steps:
        return peak * step / max(1, optim.warmup_steps - 1)
    rest = max(1, optim.steps - optim.warmup_steps)
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * (step - optim.warmup_steps) / rest))


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run; its whole content determines the name of the run's folder.

    data: a folder of videos, a list of them (lines "path label"), or None for synthetic faces.
    init: a pre-training run or checkpoint to initialise from; one of shorter clips fits as well.
    framing: what is cropped from a video's frames: "face" is the square around the face;
        "voxceleb2" the rows and columns that the reference takes from that set's 224 x 224 frames.
        With the latter, clips are decoded on demand, so that a million videos start at once.
    num_clips, difficulty, zoom: of the set of synthetic faces, and how much closer they are drawn.
    stride: frames of the video per frame of the clip.
    mask_ratio: share of hidden tokens; of several values one is drawn for each step.
    held_out: share of the folder's people that is held out.
    min_crop: smallest scale of the multi-scale crop.
    mirror, tilt, warp, jitter: mirror half of the clips, rotate them by up to `tilt` degrees, warp
        them by up to that share of their side, jitter colours by that strength. grey: share of the
        clips that lose their colour; blend: that are mixed with another. (None is in the paper.)
    synthetic: share of a folder's clips that is replaced by synthetic faces.
    stills, stills_share: zip files of portraits (`data.stills`), and the share of a folder's clips
        that is replaced by portraits with simulated camera motion.
    max_clips: clips of one video in an epoch, at most (long videos give more than short ones).
    num_held_out: clips of held-out people for validation, at most.
    precision: "bf16" runs the model in mixed precision if the device supports it, and in fp16 on a
        GPU that does not; "fp16" is what the reference used.
    eval_every, save_every: steps between validations and between checkpoints. log_every: write one
        log row per this many steps (their mean).
    on_broken: "skip" replaces an unreadable clip by another one, and lists it in the
        result; "stop" ends the run at the first.
    """

    name: str = "pretrain"
    model: ModelConfig = field(default_factory=ModelConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: Path | None = None
    init: Path | None = None
    num_clips: int = 2000
    difficulty: float = 0.3
    zoom: float = 1.0
    stride: int = 4
    mask_ratio: tuple[float, ...] = (0.9,)
    held_out: float = 0.2
    min_crop: float = 0.66
    mirror: bool = False
    tilt: float = 0.0
    warp: float = 0.0
    jitter: float = 0.0
    grey: float = 0.0
    blend: float = 0.0
    synthetic: float = 0.0
    stills: tuple[Path, ...] = ()
    stills_share: float = 0.5
    max_clips: int = 16
    num_held_out: int = 64
    seed: int = 0
    precision: Precision = "bf16"
    eval_every: int = 5000
    save_every: int = 1000
    log_every: int = 1
    framing: Framing = "face"
    on_broken: OnBroken = "skip"

    def __post_init__(self) -> None:
        object.__setattr__(self, "framing", choose_framing(self.framing, "face", "voxceleb2"))
        ratios = self.mask_ratio
        if not isinstance(ratios, tuple) or not ratios or not all(0 < r < 1 for r in ratios):
            raise ValueError(
                f"mask_ratio={ratios} must be a tuple of ratios between 0 and 1, such as (0.9,)"
            )
        check_fields(
            self, num_clips=10**7, difficulty="[0, 1]; try 0.3",
            synthetic="[0, 1]; try 0.2", stills_share="[0, 1]; try 0.5", blend="[0, 1]; try 0.5",
            tilt="[0, 45]; degrees, try 10.0", warp="[0, 0.1]; or pictures fold; try 0.05",
            seed=f"[0, {MOST_SEED}]", min_crop="[0.01, 1]", jitter="[0, 10]",
            **dict.fromkeys(("held_out", "grey"), "[0, 1]; try 0.2"),
        )  # fmt: skip


@dataclass(frozen=True)
class Augment:
    """Strengths of the published training transform; the defaults are the published ones.

    rand_augment: timm's description of RandAugment, drawn once per clip; "" disables it.
    crop_area, crop_ratio: of the random resized crop: share of the picture, width / height. The
        published share begins at 0.08, which may show only an ear; (0.8, 1.0) keeps faces whole.
    flip, erase: probabilities of a mirrored clip and of a rectangle filled with noise.
    mixup, cutmix: parameters of the beta distributions of the mixing weights; 0 disables one.
    switch: share of batches that get CutMix rather than mixup.
    smoothing: label smoothing.
    """

    rand_augment: str = "rand-m7-n4-mstd0.5-inc1"
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.5
    erase: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        bounds = {"crop_area": (1e-9, 1, "(0.08, 1.0)"), "crop_ratio": (0.01, 100, "(0.75, 1.33)")}
        for name, (least, most, published) in bounds.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name}={(low, high)} must be two rising numbers in [{least:g}, "
                                 f"{most}]; published are {published}")  # fmt: skip
        shares = dict.fromkeys(("flip", "erase", "switch", "smoothing"), "[0, 1]; try 0.25")
        check_fields(self, **shares, mixup="[0, 1000]; 0 is off", cutmix="[0, 1000]; 0 is off")

    @property
    def mixes(self) -> bool:
        """Whether clips of a batch are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class FinetuneConfig:
    """One supervised training of a classifier; its whole content names the run's folder.

    The defaults are those of small synthetic runs; `finetune_recipe` has the published ones.

    init, checkpoint: the pre-training run whose encoder is the initialisation, or a file or folder
        of weights (official, VideoMAE-style or ours). Without either, weights are random.
    mode: "finetune" trains everything; "scratch" does so from random weights; "linear" trains
        fc_norm and head on features of a frozen encoder.
    pooling: the head's input: "mean" of the representative tokens (published), or "regions", one
        token per region, concatenated, standardised, with dropout (`method.models.Classifier`).
    layer_decay: factor of the learning rate from one block to the one below it.
    rep_tokens_layer: the representative tokens learn as the "last" layer (official: at 133 times
        the rate of the tubelet embedding) or as the "first".
    decay_rep_tokens: apply weight decay to them as well (official fine-tuning: no).
    dataset, data: the kind of annotation table (`data.table`), or "shards", and its root. Without
        `data`: synthetic faces. lists: folder of split lists, if they are not below the root.
    fold: the fold that is the test set.
    holdout: share of the training clips, by subject if known, held out for validation; None
        validates on the test fold, as the published code does.
    framing: "whole" stretches the whole picture to a square (published: faces are cropped
        beforehand); "face" crops a square around the face.
    stride: frames of the video per frame of the clip.
    augment: of the training clips; None is light augmentation: random position and mirroring.
    mix_group: mixup and CutMix are drawn for this many consecutive clips of the batch, None for the
        batch. The reference draws them per process, of 32 clips (FERV39k: 40).
    skip_broken: leave out unreadable clips, found by a check before the start and listed in
        the result. By default the first broken clip ends the run and is named.
    num_clips, num_test, difficulty, zoom: of synthetic sets, as in pre-training.
    drawn_label: label of drawn faces: the "expression", or its "direction" (onset or
        offset), which no single frame shows.
    eval_every, save_every, log_every: steps between validations (None: only after the last step),
        checkpoints, and rows of the log.
    """

    name: str = "finetune"
    model: ModelConfig = field(default_factory=ModelConfig)
    init: PretrainConfig | None = None
    checkpoint: Path | None = None
    mode: Mode = "finetune"
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(400, 16, 0.016, warmup_steps=40, betas=(0.9, 0.999))
    )
    pooling: Literal["mean", "regions"] = "mean"
    layer_decay: float = 1.0
    rep_tokens_layer: Literal["last", "first"] = "last"
    decay_rep_tokens: bool = False
    dataset: str = "folder"
    data: Path | None = None
    lists: Path | None = None
    fold: int = 1
    holdout: float | None = None
    framing: Framing = "face"
    stride: int = 2
    augment: Augment | None = None
    mix_group: int | None = None
    skip_broken: bool = False
    num_clips: int = 700
    num_test: int = 140
    difficulty: float = 0.1
    zoom: float = 1.0
    drawn_label: Literal["expression", "direction"] = "expression"
    seed: int = 0
    precision: Precision = "float32"
    eval_every: int | None = None
    save_every: int = 500
    log_every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "framing", choose_framing(self.framing, "whole", "face"))
        check_fields(self, num_clips=10**7, num_test=10**7, seed=f"[0, {MOST_SEED}]",
                     layer_decay="(0, 1]; published is 0.75",
                     holdout="(0, 1); such as 0.1")  # fmt: skip
        batch, group = self.optim.batch_size, self.mix_group
        starts = [name for name in ("init", "checkpoint") if getattr(self, name) is not None]
        for is_wrong, why in (
            (self.optim.optimiser != "adamw",
             f"optimiser={self.optim.optimiser!r} is for pre-training; fine-tuning takes 'adamw'"),
            (self.augment is not None and self.augment.mixes and batch % 2,
             f"batch_size={batch} must be even where clips are mixed in pairs; use {batch + 1}, or "
             "mixup=0 and cutmix=0"),
            (group is not None and (group < 2 or group % 2),
             f"mix_group={group} must be even, because clips are mixed in pairs; published is 32, "
             "or None for the whole batch"),
            (len(starts) == 2, "init and checkpoint are two initialisations; give one of them"),
            (self.mode == "scratch" and starts,
             f"mode='scratch' has random weights; leave {' and '.join(starts)} out"),
        ):  # fmt: skip
            if is_wrong:
                raise ValueError(why)
        if self.init is not None:
            ours, theirs = (replace(m, drop_path=0.0) for m in (self.model, self.init.model))
            if ours != theirs:
                raise ValueError(
                    f"model={ours} must be the model of init, {theirs}, but for drop_path; use "
                    "model=init.model"
                )


def _read(kind: Any, value: Any) -> Any:
    """A value of a run's config.json as a field of this type holds it."""
    kinds = get_args(kind) or (kind,)
    if type(value) in kinds:  # also None, where it may be
        return value
    for cls in (cls for cls in kinds if isinstance(cls, type) and is_dataclass(cls)):
        parts, types = [f for f in fields(cls) if f.default_factory is not MISSING], types_of(cls)
        if absent := [part.name for part in parts if part.name not in value]:
            raise LookupError(f"it lacks {', '.join(absent)}")
        return cls(**{name: _read(types[name], inner) for name, inner in value.items()})
    if isinstance(value, list):
        return tuple(_read(kinds[0], inner) for inner in value)
    return Path(value) if Path in kinds else value


# The configuration in a run's config.json.
pretrain_config: Callable[[dict[str, Any]], PretrainConfig] = partial(_read, PretrainConfig)
finetune_config: Callable[[dict[str, Any]], FinetuneConfig] = partial(_read, FinetuneConfig)
