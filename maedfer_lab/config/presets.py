"""Presets: named recipes, each with its command, cost and expected result."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from maedfer_lab.config.model import (
    EncoderKind,
    Framing,
    ModelConfig,
    TargetConfig,
    check_counts,
    choose,
)
from maedfer_lab.config.recipe import Augment, FinetuneConfig, OptimConfig, PretrainConfig


def base(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """The paper's model and recipe, from the published code and logs.

    Command: `accelerate launch -m maedfer_lab pretrain --preset base --data VOXCELEB2 --workers 8`
    (a folder with id00012/VIDEO/00001.mp4, or a list with lines "path label"; docs/launching.md).
    Cost (projected, not measured): 4.4e18 floating-point operations (counted, times three for the
    backward pass); hours: docs/scaling.md, `maedfer plan`, and `maedfer estimate base` for yours.
    Expected loss (quoted, published log): mean 0.952 in epoch 0, 0.633 in 5, 0.547 in 10,
    0.509 in 20, 0.474 in 49; targets normalised per cube, lambda 0.5.

    50 epochs of a schedule of 100 with 5 of warm-up, each of 6,823 steps of 160 clips.
    Six of VoxCeleb2's 5,994 people are held out for validation (*Official:* none is).
    """
    model = ModelConfig()
    if encoder == "vit":
        model = replace(model, encoder="vit", width=768, depth=12, num_heads=12)
    epochs, epoch = 100, 6823
    optim = OptimConfig(epochs * epoch, 160, warmup_steps=5 * epoch, stop_after=50 * epoch)
    return PretrainConfig(f"base-{encoder}", model, optim=optim, framing="voxceleb2",
                          held_out=0.001, log_every=50)  # fmt: skip


def demo(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """The paper's token geometry at half resolution, for minutes on a CPU.

    Clips of 16 x 80 x 80 with cubes of 2 x 8 x 8: the same grid and regions, 3.3M parameters. Raw
    targets, because targets normalised per cube teach next to nothing in minutes.

    Command: `maedfer pretrain`. Cost (measured): 7.4 min on two cores of an AMD EPYC with bfloat16.
    Expected (measured): appearance on held-out people 46 % below interpolation from the visible
    cubes on synthetic faces, 31 % on real ones of 41 people; motion at its zero line.
    """
    model = ModelConfig(
        size_px=80, tubelet=(2, 8, 8), width=192, depth=4, num_heads=3, decoder_width=96,
        decoder_depth=2, decoder_heads=3, positions="grid",
    )  # fmt: skip
    if encoder == "vit":  # wider and shallower by the ratio that makes ViT-B and LGI-B alike
        model = replace(model, encoder="vit", width=288, depth=3, num_heads=6)
    return PretrainConfig(
        f"demo-{encoder}", model, TargetConfig(units="imagenet", motion_scale=4.0),
        OptimConfig(steps=2000, batch_size=8, lr=0.064, min_lr=1e-3, warmup_steps=100),
        difficulty=0.1, stride=2, min_crop=0.875, mirror=True, jitter=0.4, max_clips=4,
        eval_every=200, save_every=200,
    )  # fmt: skip


def faces_still(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """First part of the shipped model's training: nearly static faces, hours on a CPU.

    `demo` with more width and four frames a clip, so that four times as many clips fit into the
    same time. A few dozen people are soon memorised: portraits of thousands stand for most clips,
    and proportions and colours are changed. Without portraits, mix more of the clips (blend 0.6).

    Command: `maedfer pretrain --preset faces-still --data FACES --stills PORTRAITS.zip ...`; then
    preset `faces`. Cost and result: the model card in maedfer_lab/weights/demo.
    """
    start = demo(encoder)
    model = replace(start.model, frames=4, width=240, num_heads=5, decoder_width=144)
    if encoder == "vit":
        model = replace(model, width=360, num_heads=6)
    return replace(
        start, name=f"faces-still-{encoder}", model=model, mask_ratio=(0.9, 0.9, 0.8, 0.7, 0.5),
        optim=OptimConfig(5600, 64, 0.012, 0.0004, 100, weight_decay=0.1, optimiser="muon"),
        stride=3, min_crop=0.75, tilt=8.0, warp=0.07, jitter=0.5, grey=0.2, blend=0.2,
        stills_share=0.55, synthetic=0.05, difficulty=0.2, max_clips=24, eval_every=500,
        save_every=250, log_every=50,
    )  # fmt: skip


def faces(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """Second part of the shipped model's training: whole clips of 16 frames, after the first part.

    Command: `maedfer pretrain --preset faces --data FACES --stills PORTRAITS.zip ... --init
    runs/faces-still-lgi-...`. Cost and result: the model card in maedfer_lab/weights/demo.
    """
    start = faces_still(encoder)
    optim = replace(start.optim, steps=5600, batch_size=16, min_lr=0.0002)
    return replace(
        start, name=f"faces-{encoder}", model=replace(start.model, frames=16), optim=optim,
        min_crop=0.8, stills_share=0.3, eval_every=500,
    )  # fmt: skip


def tiny(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """Seconds on a CPU, for tests: 4 x 4 x 4 tokens, two blocks of width 32."""
    model = ModelConfig(
        frames=8, size_px=32, tubelet=(2, 8, 8), encoder=encoder, region=(2, 2, 4), width=32,
        depth=2, num_heads=2, decoder_width=24, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    return PretrainConfig(
        f"tiny-{encoder}", model, TargetConfig(units="imagenet", motion_scale=4.0),
        OptimConfig(steps=12, batch_size=4, lr=0.064, warmup_steps=2),
        num_clips=16, mask_ratio=(0.75,), num_held_out=8, stride=2, precision="float32",
        eval_every=6, save_every=4,
    )  # fmt: skip


Size = Literal["small", "base", "large", "huge"]
# Width, depth, heads: of either encoder those of ViT-S, -B, -L and -H (LGI-Former's base is the
# paper's), of the decoder VideoMAE's.
SIZES: dict[str, dict[str, tuple[int, int, int]]] = {
    "small": {"lgi": (384, 12, 6), "vit": (384, 12, 6), "decoder": (192, 4, 3)},
    "base": {"lgi": (512, 16, 8), "vit": (768, 12, 12), "decoder": (384, 4, 6)},
    "large": {"lgi": (1024, 24, 16), "vit": (1024, 24, 16), "decoder": (512, 12, 8)},
    "huge": {"lgi": (1280, 32, 16), "vit": (1280, 32, 16), "decoder": (640, 12, 8)},
}


def sized(model: ModelConfig, size: Size | None) -> ModelConfig:
    """`model` with the width, depth and heads of a size, also its decoder's; None changes nothing.

    Millions of parameters in pre-training, LGI-Former and ViT: small 38 and 24, base 93 and 94,
    large 545 and 343, huge 1,112 and 692. Only base has published results.
    """
    if size is None:
        return model
    shapes = SIZES[choose("size", size, tuple(SIZES))]
    width, depth, heads = shapes["vit" if model.encoder == "vit" else "lgi"]
    names = ("decoder_width", "decoder_depth", "decoder_heads")
    decoder = dict(zip(names, shapes["decoder"], strict=True))
    return replace(model, width=width, depth=depth, num_heads=heads, **decoder)


PresetName = Literal["base", "demo", "faces-still", "faces", "tiny"]
PRESETS = {"base": base, "demo": demo, "faces-still": faces_still, "faces": faces, "tiny": tiny}


def preset(name: str, encoder: EncoderKind = "lgi") -> PretrainConfig:
    """The named pre-training configuration; unknown names raise with the list."""
    choose("encoder", encoder, get_args(EncoderKind))
    return PRESETS[choose("preset", name, tuple(PRESETS))](encoder)


def finetune_recipe(
    dataset: str, num_clips: int, *, epochs: int | None = None, batch_size: int | None = None
) -> FinetuneConfig:
    """The published fine-tuning of a data set with `num_clips` training clips: 100 epochs.

    "dfew", "ferv39k", "mafw": values of the authors' scripts and logs; any other set: those of
    DFEW, because theirs are not published. Batch is 120 for FERV39k and 96 else, frame stride 1
    and 4. The rest is common: 5 epochs of warm-up, AdamW (0.9, 0.999), lr 1e-3 x batch / 256 down
    to 1e-6 x batch / 256, layer decay 0.75, weight decay 0.05, drop path 0.1. An epoch drops its
    last incomplete batch. The last model is tested; the best is selected on the test fold, as
    published.

    Command: `accelerate launch -m maedfer_lab finetune dfew --root DFEW --preset base --checkpoint
    FILE`. Cost: hours were not measured. Expected (published logs): DFEW fold 1 UAR 62.6, WAR 74.9;
    FERV39k 43.1, 52.1; MAFW fold 3 46.1, 59.3 percent.
    """
    published_batch, group, stride = (120, 40, 1) if dataset == "ferv39k" else (96, 32, 4)
    optim = OptimConfig(1, batch_size or published_batch, 1e-3, 1e-6, 0, betas=(0.9, 0.999))
    config = FinetuneConfig(
        f"finetune-{dataset}", ModelConfig(drop_path=0.1), optim=optim, layer_decay=0.75,
        dataset=dataset, framing=framing_of(dataset), stride=stride, augment=Augment(),
        mix_group=group, precision="bf16",
    )  # fmt: skip
    return _for_epochs(config, num_clips, 100 if epochs is None else epochs, warmup_epochs=5)


def framing_of(dataset: str) -> Framing:
    """Whole pictures if the authors ship face crops (and in shards), else the face's square."""
    return "whole" if dataset in ("dfew", "ferv39k", "mafw", "shards", "synthetic") else "face"


def finetune_demo(
    dataset: str, num_clips: int, *, epochs: int | None = None, batch_size: int | None = None
) -> FinetuneConfig:
    """Minutes on a CPU: the demo model on any labelled clips, a mild transform, 20 epochs.

    Command: `maedfer finetune folder --root FOLDER`. A clip is 16 x 80 x 80; crops keep at least
    70 % of the picture, and nothing is mixed, because so few steps need easy examples.
    """
    augment = Augment(rand_augment="", crop_area=(0.7, 1.0), erase=0.0, mixup=0.0, cutmix=0.0)
    config = FinetuneConfig(
        f"finetune-demo-{dataset}", replace(demo().model, drop_path=0.1),
        optim=OptimConfig(1, batch_size or 8, 0.016, 1e-3, 0, betas=(0.9, 0.999)),
        layer_decay=0.75, dataset=dataset, framing=framing_of(dataset), augment=augment,
        precision="bf16",
    )  # fmt: skip
    return _for_epochs(config, num_clips, 20 if epochs is None else epochs, warmup_epochs=1)


def _for_epochs(
    config: FinetuneConfig, num_clips: int, epochs: int, warmup_epochs: int
) -> FinetuneConfig:
    """`config` with the steps of `epochs` passes over `num_clips`, and a validation after each."""
    check_counts(num_clips=num_clips, epochs=epochs)
    per_epoch = max(1, num_clips // config.optim.batch_size)
    warmup = min(warmup_epochs, epochs // 2) * per_epoch
    optim = replace(config.optim, steps=epochs * per_epoch, warmup_steps=warmup)
    return replace(config, optim=optim, eval_every=per_epoch, save_every=per_epoch)
