"""Recipes: optimisation with its learning rate, data and bookkeeping of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from maedfer_lab.config.model import (
    Framing,
    ModelConfig,
    TargetConfig,
    check_counts,
    check_fields,
    choose_framing,
)

Precision = Literal["float32", "bf16", "fp16"]
Optimiser = Literal["adamw", "muon"]
OnBroken = Literal["skip", "stop"]

MOST_CLIPS = 2**17  # of a batch
MOST_SEED = 2**32 - 1  # shifted by 32 bits to make others


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, or Muon.

    steps: length of the schedule; with `stop_after` the run ends after so many of them.
    batch_size: clips of a step, over all processes; accumulate: parts in which each process takes
        its
        share, one after the other: so many times less memory for the same result.
    lr, min_lr: peak and last learning rate at batch 256; scaled by batch_size / 256, as in the
        paper.
    optimiser: "adamw" as in the paper, or "muon" for the matrices inside blocks (AdamW for the
        rest, at the same rate): small models learn more per step. Pre-training only.
    ema: of the weights a mean is kept, after each step ema x mean + (1 - ema) x weights; it is what
        is judged and saved. 0 is off.
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
            lr="[0, 100]", min_lr="[0, 100]", weight_decay="[0, 100]",
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
        """How many steps are run."""
        return self.steps if self.stop_after is None else self.stop_after


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run; its whole content decides the name of the run's folder.

    data: a folder of videos, a list of them (lines "path label"), or None for synthetic faces.
    init: a pre-training run or checkpoint to start from; one of shorter clips fits as well.
    framing: what is cut out of a video's frames: "face" is the square around the face; "voxceleb2"
        the rows and columns that the reference takes from that set's 224 x 224 frames. With the
        latter, clips are decoded when they are needed, so that a million videos start at once.
    num_clips, difficulty, zoom: of the set of synthetic faces, and how much closer they are drawn.
    stride: frames of the video per frame of the clip.
    mask_ratio: share of hidden tokens; of several values one is drawn for each step.
    held_out: share of the folder's identities that is held out.
    min_crop: smallest scale of the multi-scale crop.
    mirror, tilt, warp, jitter: flip half of the clips, turn them by up to `tilt` degrees, bend them
        by up to that share of their side, change colours by that strength. blend: share of the
        clips that are mixed with another one of the batch. (None of the five is in the reference.)
    synthetic: share of a folder's clips that is replaced by synthetic faces.
    stills, stills_share: zip files of portraits (`data.stills`), and the share of a folder's clips
        that is replaced by portraits before which a camera moves.
    max_clips: clips of one video in an epoch, at most (long videos give more than short ones).
    num_held_out: clips of unseen identities on which the run is judged, at most.
    precision: "bf16" runs the model in mixed precision where the device has it, and in fp16 on a
        GPU that has not; "fp16" is what the reference used.
    eval_every, save_every, log_every: steps between looks at the held-out clips, between
        checkpoints,
        and whose mean makes a row of the log.
    on_broken: "skip" puts another clip in the place of one that cannot be read, and lists it in the
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
            seed=f"[0, {MOST_SEED}]", min_crop="[0.01, 1]", held_out="[0, 1]", jitter="[0, 10]",
        )  # fmt: skip


def pretrain_config(values: dict[str, Any]) -> PretrainConfig:
    """The configuration of a run's config.json."""
    parts = {"model": ModelConfig, "target": TargetConfig, "optim": OptimConfig}
    nested = {name: cls(**_tuples(values[name])) for name, cls in parts.items()}
    paths = {name: Path(values[name]) for name in ("data", "init") if values.get(name) is not None}
    stills = {"stills": tuple(map(Path, values.get("stills", ())))}
    return PretrainConfig(**{**_tuples(values), **nested, **paths, **stills})


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


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
