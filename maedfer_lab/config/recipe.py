"""Recipes: optimisation, data and bookkeeping of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from maedfer_lab.config.model import ModelConfig, TargetConfig, check_choices

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay.

    lr: peak learning rate at batch 256; scaled by batch_size / 256, as in the paper.
    """

    steps: int = 682_300
    batch_size: int = 160
    lr: float = 3e-4
    min_lr: float = 1e-5
    warmup_steps: int = 34_115
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must lie in [0, steps={self.steps}]; "
                f"try {self.steps // 20}"
            )


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run; its whole content decides the name of the run's folder.

    data: a folder of videos, or None for synthetic faces.
    num_clips, difficulty: size and difficulty of the set of synthetic faces.
    stride: frames of the video per frame of the clip.
    mask_ratio: share of hidden tokens; of several values one is drawn for each step.
    held_out: share of the folder's identities that is held out.
    min_crop: smallest scale of the multi-scale crop.
    mirror, tilt, jitter: flip half of the clips, turn them by up to `tilt` degrees, change colours
        by that strength (none of the three is in the reference).
    synthetic: share of a folder's clips that is replaced by synthetic faces.
    max_clips: clips of one video in an epoch, at most (long videos give more than short ones).
    num_held_out: clips of unseen identities on which the run is judged, at most.
    precision: "bf16" runs the model in mixed precision where the device has it.
    """

    name: str = "pretrain"
    model: ModelConfig = field(default_factory=ModelConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: Path | None = None
    num_clips: int = 2000
    difficulty: float = 0.3
    stride: int = 4
    mask_ratio: tuple[float, ...] = (0.9,)
    held_out: float = 0.2
    min_crop: float = 0.66
    mirror: bool = False
    tilt: float = 0.0
    jitter: float = 0.0
    synthetic: float = 0.0
    max_clips: int = 16
    num_held_out: int = 64
    seed: int = 0
    precision: Precision = "bf16"
    eval_every: int = 5000
    save_every: int = 1000

    def __post_init__(self) -> None:
        check_choices(self, precision=Precision)
        ratios = self.mask_ratio
        if not isinstance(ratios, tuple) or not ratios or not all(0 < r < 1 for r in ratios):
            raise ValueError(
                f"mask_ratio={ratios} must be a tuple of ratios between 0 and 1, such as (0.9,)"
            )
        for name, good in (("difficulty", 0.3), ("synthetic", 0.2)):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]; try {good}")
        if not 0 <= self.tilt <= 45:
            raise ValueError(f"tilt={self.tilt} must lie in [0, 45] degrees; try 10.0")
        for name in (
            "stride",
            "eval_every",
            "save_every",
            "num_clips",
            "max_clips",
            "num_held_out",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


def pretrain_config(values: dict[str, Any]) -> PretrainConfig:
    """The configuration of a run's config.json."""
    parts = {"model": ModelConfig, "target": TargetConfig, "optim": OptimConfig}
    nested = {name: cls(**_tuples(values[name])) for name, cls in parts.items()}
    data = values["data"]
    return PretrainConfig(
        **{**_tuples(values), **nested, "data": Path(data) if data is not None else None}
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


@dataclass(frozen=True)
class FinetuneConfig:
    """One supervised training of a classifier, judged on other identities.

    data: videos in a folder per class (`data.labelled`), or None for synthetic faces.
    held_out, stride: of `data`, of which the middle clip of each video is used.

    init: the pre-training run whose encoder is the start; None starts from scratch.
    num_clips, difficulty: size and difficulty of a synthetic training set. Training clips are
        cropped at random and half of them mirrored.
    num_test: synthetic clips of unseen identities on which the classifier is judged at the end.
    """

    name: str = "finetune"
    model: ModelConfig = field(default_factory=ModelConfig)
    init: PretrainConfig | None = None
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            steps=400, batch_size=16, lr=0.016, warmup_steps=40, betas=(0.9, 0.999)
        )
    )
    data: Path | None = None
    held_out: float = 0.2
    stride: int = 2
    num_clips: int = 700
    num_test: int = 140
    difficulty: float = 0.1
    seed: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_choices(self, precision=Precision)
        for name in ("num_clips", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1; try 140")
        if self.init is not None:
            ours, theirs = (replace(m, drop_path=0.0) for m in (self.model, self.init.model))
            if ours != theirs:
                raise ValueError(
                    f"model={ours} must be the model of init, {theirs}, but for drop_path; use "
                    "model=init.model"
                )


@dataclass(frozen=True)
class AblationConfig:
    """Which variants are compared, under one budget of pre-training and fine-tuning.

    pretrain, finetune: the reference's recipes; a variant changes one thing of `pretrain`, and
        `finetune` then gets its model, its encoder and the seed.
    variants: names (`training.ablations.variants` lists them); the first is the reference.
    seeds: each stands for another initialisation, other masks and other synthetic people.
    """

    pretrain: PretrainConfig
    finetune: FinetuneConfig
    variants: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("variants", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must hold at least one entry, and none twice")
