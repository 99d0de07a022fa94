"""Fine-tuning recipes: what a classifier starts from, sees, and is judged on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from maedfer_lab.config.model import (
    Framing,
    ModelConfig,
    check_counts,
    check_fields,
    choose_framing,
)
from maedfer_lab.config.recipe import (
    MOST_SEED,
    OptimConfig,
    Precision,
    PretrainConfig,
    _tuples,
    pretrain_config,
)

Mode = Literal["finetune", "scratch", "linear"]
RepTokensLayer = Literal["last", "first"]
Pooling = Literal["mean", "regions"]
Drawn = Literal["expression", "direction"]


@dataclass(frozen=True)
class Augment:
    """Strengths of the published training transform; the defaults are the published ones.

    rand_augment: timm's description of RandAugment, drawn once per clip; "" leaves it out.
    crop_area, crop_ratio: of the random resized crop: share of the picture, width / height. The
        published share begins at 0.08, which may show an ear alone; (0.8, 1.0) keeps faces whole.
    flip, erase: probabilities of a mirrored clip and of a rectangle filled with noise.
    mixup, cutmix: parameters of the beta distributions of the mixing weights; 0 leaves one out.
    switch: share of batches that get CutMix rather than mixup.
    smoothing: of the labels.
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

    init, checkpoint: the pre-training run whose encoder is the start, or a file or folder of
        weights
        (official, VideoMAE-style or ours). Without either the start is random.
    mode: "finetune" trains everything; "scratch" does so from a random start; "linear" trains
        fc_norm and head on features of a frozen encoder.
    pooling: what the head reads: "mean" of the representative tokens (published), or "regions", one
        token per region side by side, standardised, with dropout (`method.models.Classifier`).
    layer_decay: factor of the learning rate from one block to the one below it.
    rep_tokens_layer: the representative tokens learn as the "last" layer (official, their rate is
        133 times that of the tubelet embedding) or as the "first".
    decay_rep_tokens: weight decay for them as well (official fine-tuning: no).
    dataset, data: the kind of annotation table (`data.table`), or "shards", and its root. Without
        `data`: synthetic faces. lists: folder of split lists, where a data set has them apart.
    fold: the fold that is the test set.
    holdout: share of the training clips, by subject where known, that validates the epochs; None
        validates on the test fold, as the published code does.
    framing: "whole" stretches the whole picture to a square (published: faces are cropped
        beforehand); "face" cuts a square around the face.
    stride: frames of the video per frame of the clip.
    augment: of the training clips; None is the light one: a random place and a mirror.
    mix_group: mixup and CutMix are drawn for so many clips in a row of the batch, None for the
        batch. The reference draws them per process, of 32 clips (FERV39k: 40).
    skip_broken: leave out clips that cannot be read, found by a check before the start, listed in
        the result. Without it the first broken clip ends the run by name.
    num_clips, num_test, difficulty, zoom: of synthetic sets, as in pre-training.
    drawn_label: what is to be told of drawn faces: the "expression", or its "direction" (onset or
        offset), which no single frame shows.
    eval_every, save_every, log_every: steps between validations (None: after the last step alone),
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
    pooling: Pooling = "mean"
    layer_decay: float = 1.0
    rep_tokens_layer: RepTokensLayer = "last"
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
    drawn_label: Drawn = "expression"
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
        if self.optim.optimiser != "adamw":
            raise ValueError(
                f"optimiser={self.optim.optimiser!r} is for pre-training; fine-tuning takes 'adamw'"
            )
        if self.augment is not None and self.augment.mixes and self.optim.batch_size % 2:
            raise ValueError(
                f"batch_size={self.optim.batch_size} must be even where clips are mixed in pairs; "
                f"use {self.optim.batch_size + 1}, or mixup=0 and cutmix=0"
            )
        if self.mix_group is not None and (self.mix_group < 2 or self.mix_group % 2):
            raise ValueError(
                f"mix_group={self.mix_group} must be even, because clips are mixed in pairs; "
                "published is 32, or None for the whole batch"
            )
        starts = [name for name in ("init", "checkpoint") if getattr(self, name) is not None]
        if len(starts) == 2:
            raise ValueError("init and checkpoint are two starts; give one of them")
        if self.mode == "scratch" and starts:
            raise ValueError(f"mode='scratch' has a random start; leave {starts[0]} out")
        if self.init is not None:
            ours, theirs = (replace(m, drop_path=0.0) for m in (self.model, self.init.model))
            if ours != theirs:
                raise ValueError(
                    f"model={ours} must be the model of init, {theirs}, but for drop_path; use "
                    "model=init.model"
                )


def finetune_config(values: dict[str, Any]) -> FinetuneConfig:
    """The configuration of a run's config.json."""
    parts: dict[str, Any] = {}
    for name, cls in (("model", ModelConfig), ("optim", OptimConfig), ("augment", Augment)):
        if (inner := values[name]) is not None:
            parts[name] = cls(**_tuples(inner))
    if values["init"] is not None:
        parts["init"] = pretrain_config(values["init"])
    for name in ("checkpoint", "data", "lists"):
        parts[name] = Path(values[name]) if values[name] is not None else None
    return FinetuneConfig(**{**values, **parts})


def finetune_recipe(
    dataset: str, num_clips: int, *, epochs: int | None = None, batch_size: int | None = None
) -> FinetuneConfig:
    """The published fine-tuning of a data set with `num_clips` training clips: 100 epochs.

    "dfew", "ferv39k", "mafw": values of the authors' scripts and logs; any other set: those of
    DFEW, because theirs are not published. Batch is 120 for FERV39k and 96 else, frame distance 1
    and 4. The
    rest is common: 5 epochs of warm-up, AdamW (0.9, 0.999), lr 1e-3 x batch / 256 down to 1e-6 x
    batch / 256, layer decay 0.75, weight decay 0.05, drop path 0.1. An epoch drops the clips that
    fill no batch. The model that is tested is the last; the best is chosen on the test fold, as
    published.

    Command: `accelerate launch -m maedfer_lab finetune dfew --root DFEW --checkpoint FILE`.
    Cost: hours are not measured here. Expected (published logs): DFEW fold 1 UAR 62.6, WAR 74.9;
    FERV39k 43.1, 52.1; MAFW fold 3 46.1, 59.3 percent.
    """
    published_batch, group, stride = (120, 40, 1) if dataset == "ferv39k" else (96, 32, 4)
    config = FinetuneConfig(
        name=f"finetune-{dataset}",
        model=ModelConfig(drop_path=0.1),
        optim=OptimConfig(1, batch_size or published_batch, 1e-3, 1e-6, 0, betas=(0.9, 0.999)),
        layer_decay=0.75,
        dataset=dataset,
        framing=framing_of(dataset),
        stride=stride,
        augment=Augment(),
        mix_group=group,
        precision="bf16",
    )
    return for_epochs(config, num_clips, 100 if epochs is None else epochs, warmup_epochs=5)


def framing_of(dataset: str) -> Framing:
    """Whole pictures where the authors ship face crops (and in shards), else the face's square."""
    return "whole" if dataset in ("dfew", "ferv39k", "mafw", "shards", "synthetic") else "face"


def finetune_demo(
    dataset: str, num_clips: int, *, epochs: int | None = None, batch_size: int | None = None
) -> FinetuneConfig:
    """Minutes on a CPU: the demo model on any labelled clips, a mild transform, 20 epochs.

    Command: `maedfer finetune folder --root FOLDER`. A clip is 16 x 80 x 80; crops keep 70 % of the
    picture or more, and nothing is mixed, because so few steps learn nothing from hard pictures.
    """
    from maedfer_lab.config.presets import demo

    config = FinetuneConfig(
        name=f"finetune-demo-{dataset}",
        model=replace(demo().model, drop_path=0.1),
        optim=OptimConfig(1, batch_size or 8, 0.016, 1e-3, 0, betas=(0.9, 0.999)),
        layer_decay=0.75,
        dataset=dataset,
        framing=framing_of(dataset),
        augment=Augment(rand_augment="", crop_area=(0.7, 1.0), erase=0.0, mixup=0.0, cutmix=0.0),
        precision="bf16",
    )
    return for_epochs(config, num_clips, 20 if epochs is None else epochs, warmup_epochs=1)


def for_epochs(
    config: FinetuneConfig, num_clips: int, epochs: int, warmup_epochs: int = 5
) -> FinetuneConfig:
    """`config` with the steps of `epochs` passes over `num_clips`, and a validation after each."""
    check_counts(num_clips=num_clips, epochs=epochs)
    batch = config.optim.batch_size
    per_epoch = max(1, num_clips // batch)
    warmup = min(warmup_epochs, epochs // 2) * per_epoch
    optim = replace(config.optim, steps=epochs * per_epoch, warmup_steps=warmup)
    return replace(config, optim=optim, eval_every=per_epoch, save_every=per_epoch)
