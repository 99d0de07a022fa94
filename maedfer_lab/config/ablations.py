"""Which ablations each profile runs: small models, one budget for all variants."""

from __future__ import annotations

from dataclasses import dataclass, replace

from maedfer_lab.config.finetuning import FinetuneConfig
from maedfer_lab.config.presets import demo, tiny
from maedfer_lab.config.recipe import OptimConfig, PretrainConfig

FEW = (
    "joint, lambda 0.5",
    "appearance only, lambda 1",
    "motion only, lambda 0",
    "without stages 2 and 3",
    "ViT at equal cost",
    "no pre-training",
)
MOST = (
    *FEW,
    "joint, lambda 0.75",
    "joint, lambda 0.25",
    "without stage 2",
    "without stage 3",
    "legacy token order",
    "region 1 x 5 x 10",
    "region 4 x 5 x 10",
    "region 8 x 5 x 10",
    "region 2 x 10 x 5",
    "region 2 x 10 x 10",
    "50% masked",
    "76% masked",
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


def smoke_ablations() -> AblationConfig:
    """Two variants, one seed, seconds: only the machinery is tried."""
    return AblationConfig(
        pretrain=replace(tiny(), name="ablation", difficulty=0.1),
        finetune=FinetuneConfig(
            name="ablation-finetune",
            optim=OptimConfig(steps=8, batch_size=4, lr=0.064, warmup_steps=1),
            num_clips=16,
            num_test=14,
        ),
        variants=FEW[:2],
        seeds=(0,),
    )


def quick_ablations() -> AblationConfig:
    """Six variants, three seeds: 8 x 48 x 48 pixels, an encoder of width 48."""
    model = replace(
        tiny().model, size_px=48, region=(2, 3, 6), width=48, decoder_width=48, positions="grid"
    )
    pretrain = replace(
        tiny(),
        name="ablation",
        model=model,
        optim=OptimConfig(steps=140, batch_size=16, lr=0.064, min_lr=1e-3, warmup_steps=14),
        num_clips=280,
        num_held_out=56,
        difficulty=0.1,
        mask_ratio=(16 / 18,),
        mirror=True,
        eval_every=140,
        save_every=140,
    )
    finetune = FinetuneConfig(
        name="ablation-finetune",
        optim=OptimConfig(steps=60, batch_size=16, lr=0.032, min_lr=1e-3, warmup_steps=6),
        num_clips=280,
        num_test=140,
    )
    return AblationConfig(pretrain, finetune, variants=FEW, seeds=(0, 1, 2))


def full_ablations() -> AblationConfig:
    """All variants, five seeds, on the paper's token grid at half resolution (`demo`)."""
    finetune = FinetuneConfig(
        name="ablation-finetune",
        optim=OptimConfig(steps=1600, batch_size=8, lr=0.032, min_lr=1e-3, warmup_steps=160),
        num_clips=1400,
        num_test=700,
        precision="bf16",
    )
    return AblationConfig(
        replace(demo(), name="ablation"), finetune, variants=MOST, seeds=(0, 1, 2, 3, 4)
    )
