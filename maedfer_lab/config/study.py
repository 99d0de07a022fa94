"""The study at small scale (docs/study.md): its recipes and how much of it each profile runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from maedfer_lab.config.model import ModelConfig, TargetConfig
from maedfer_lab.config.recipe import FinetuneConfig, OptimConfig, PretrainConfig

CORE_HOURS = 9.0  # of `make study`, measured beside much other work
REFERENCE = "joint, lambda 0.5"
LONG = "4 x length"  # of the reference's pre-training
LONG_ALONE = f"{LONG}, lambda 1"
FEW = (REFERENCE, "0.25 x length", "appearance only, lambda 1")
MOST = (
    REFERENCE, "0.125 x length", "0.25 x length", "2 x length", LONG, LONG_ALONE,
    "appearance only, lambda 1", "lambda 0.75", "lambda 0.25", "motion only, lambda 0",
    "ViT at equal cost", "ViT at equal parameters", "without stage 2", "without stage 3",
    "without stages 2 and 3", "region 2 x 3 x 3", "region 1 x 6 x 6", "44% masked", "89% masked",
    "legacy token order",
)  # fmt: skip


@dataclass(frozen=True)
class StudyConfig:
    """Everything that the study compares, at equal budget.

    pretrain: the reference. A variant changes one thing of it (`training.study.variants`).
    finetune: of a pre-trained initialisation, with all parameters.
    scratch, conv: learning rates (at batch 256) of the random initialisation and of the
        convolutional control, each chosen on tuning seeds as the pre-trained one's was.
    labels: numbers of labelled clips; `direction`: those at which the direction is classified,
        for variants too; `conv`: those at which the convolutional control is trained.
    variant_labels: labelled clips of a variant's fine-tuning for the expression; `long_labels`:
        of those that are pre-trained longest.
    variants: names; the first is the reference. variant_seeds: how many of the seeds they get
        (`LONG` gets all).
    seeds: each has its own initialisation, masks, and people in every set.
    """

    pretrain: PretrainConfig
    finetune: FinetuneConfig
    scratch_lr: float
    conv_lr: float
    labels: tuple[int, ...]
    direction: tuple[int, ...]
    conv: tuple[int, ...]
    variant_labels: int
    long_labels: tuple[int, ...]
    variants: tuple[str, ...]
    variant_seeds: int
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("labels", "variants", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must hold at least one entry, and none twice")


def study(steps: int = 600, batch_size: int = 64) -> StudyConfig:
    """The committed study: five seeds, three for the variants. Hours on two cores."""
    model = ModelConfig(
        frames=4, size_px=48, tubelet=(2, 8, 8), region=(1, 3, 3), width=96, depth=3, num_heads=4,
        decoder_width=60, decoder_depth=2, decoder_heads=3, positions="grid",
    )  # fmt: skip
    pretrain = PretrainConfig(
        "study", model, TargetConfig(units="imagenet", motion_scale=2.0),
        OptimConfig(steps=steps, batch_size=batch_size, lr=0.016, min_lr=0.0003,
                    warmup_steps=steps // 20, optimiser="muon"),
        num_clips=1400, num_held_out=140, difficulty=0.1, zoom=1.5, mask_ratio=(7 / 9,),
        mirror=True, precision="float32", eval_every=max(1, steps // 4), save_every=steps,
    )  # fmt: skip
    finetune = FinetuneConfig(
        "study-finetune", model, init=pretrain,
        optim=OptimConfig(steps=300, batch_size=32, lr=0.016, min_lr=1.6e-4, warmup_steps=30,
                          betas=(0.9, 0.999)),
        layer_decay=0.75, pooling="regions", num_clips=280, num_test=420, zoom=1.5, save_every=300,
    )  # fmt: skip
    return StudyConfig(
        pretrain, finetune, scratch_lr=0.008, conv_lr=0.016,
        labels=(70, 140, 280, 700, 1400), direction=(280,), conv=(280, 1400),
        variant_labels=700, long_labels=(140, 280, 700), variants=MOST,
        variant_seeds=3, seeds=(0, 1, 2, 3, 4),
    )  # fmt: skip


def smoke_study() -> StudyConfig:
    """Two variants, one seed, seconds: only tests the code."""
    small = study(steps=8, batch_size=4)
    steps = replace(small.finetune.optim, steps=4, batch_size=4, warmup_steps=1)
    pretrain = replace(small.pretrain, num_clips=28, num_held_out=14)
    finetune = replace(small.finetune, init=pretrain, optim=steps, num_test=28)
    return replace(
        small, pretrain=pretrain, finetune=finetune, labels=(14, 28), direction=(28,), conv=(28,),
        variant_labels=28, long_labels=(28,), variants=FEW, variant_seeds=1, seeds=(0,),
    )  # fmt: skip


def quick_study() -> StudyConfig:
    """Some points of the committed study's first seed, from its shipped encoder: two minutes."""
    whole = study()
    return replace(whole, labels=(280,), direction=(), variants=(REFERENCE,), seeds=(0,))
