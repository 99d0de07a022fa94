"""Everything that can be set: models, pre-training, and the profiles of the notebooks.

A leaf: imports nothing of ours, and is the only module that reads the environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

Shape3 = tuple[int, int, int]


def choose(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of `known`; else raise an error that lists them."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
    return value


def _check_choices(config: object, **fields: object) -> None:
    for name, literal in fields.items():
        choose(name, getattr(config, name), get_args(literal))


EncoderKind = Literal["lgi", "vit"]
LocalKind = Literal["self", "cross"]
InteractKind = Literal["cross", "self", "none"]
Precision = Literal["float32", "bf16"]
SharedKind = Literal["none", "local_interact", "all"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. The defaults are the paper's LGI-Former (85M parameters, 50 GMACs).

    frames, size_px, tubelet: the clip, `frames` x `size_px` x `size_px`, and its cubes (t, h, w).
    encoder: "lgi" (LGI-Former) or "vit" (joint attention over all tokens: VideoMAE).
    region: local region in tokens (t, h, w); any shape that divides the token grid.
    local, inter, interact: the three stages of an LGI-Former block. `local="cross"` updates only
        the representative token; `inter=False` leaves stage 2 out; `interact="self"` repeats the
        local self-attention in place of stage 3, "none" leaves it out.
    shared: attention parameters used by several stages of a block.
    drop_path: of the last block; grows linearly from 0 at the first.
    """

    frames: int = 16
    size_px: int = 160
    tubelet: Shape3 = (2, 16, 16)
    encoder: EncoderKind = "lgi"
    region: Shape3 = (2, 5, 10)
    width: int = 512
    depth: int = 16
    num_heads: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    local: LocalKind = "self"
    inter: bool = True
    interact: InteractKind = "cross"
    shared: SharedKind = "none"
    drop_path: float = 0.0
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    legacy_visible_order: bool = False

    def __post_init__(self) -> None:
        _check_choices(
            self, encoder=EncoderKind, local=LocalKind, interact=InteractKind, shared=SharedKind
        )
        for width, heads in (("width", "num_heads"), ("decoder_width", "decoder_heads")):
            w, h = getattr(self, width), getattr(self, heads)
            if w < 1 or h < 1 or w % h:
                raise ValueError(
                    f"{width}={w} must be a multiple of {heads}={h}, such as {max(1, w // h) * h}"
                )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} must lie in [0, 1); the paper uses 0.1")


TargetUnits = Literal["cube", "pixel", "imagenet"]


@dataclass(frozen=True)
class TargetConfig:
    """What the decoder predicts for hidden cubes, and how the loss weighs it.

    units: "cube", every cube normalised by its own mean and deviation first (the official
        code's choice, published weights have it); "pixel", raw pixels in [0, 1] (the formula as
        the paper writes it); "imagenet", raw pixels in units of ImageNet's deviation, the same
        formula at a scale that suits small runs.
    motion: predict the motion of the later frames of a group instead of their pixels; False is
        VideoMAE, which predicts the pixels of every frame.
    motion_group: frames that share one appearance frame: 2 in the paper (even frames are
        appearance, odd minus even is motion).
    motion_weight: 1 - lambda of the paper: loss = lambda appearance + (1 - lambda) motion.
    motion_scale: motion targets are multiplied by it. 1 is the paper; raw motions are small, and
        a larger scale lets a short run on raw targets see them.
    """

    units: TargetUnits = "cube"
    motion: bool = True
    motion_group: int = 2
    motion_weight: float = 0.5
    motion_scale: float = 1.0

    def __post_init__(self) -> None:
        _check_choices(self, units=TargetUnits)
        if self.motion_group < 2:
            raise ValueError(f"motion_group={self.motion_group} must be at least 2; the paper's 2")
        if not 0 <= self.motion_weight <= 1:
            raise ValueError(f"motion_weight={self.motion_weight} must lie in [0, 1]; try 0.5")
        if not self.motion_scale > 0:
            raise ValueError(f"motion_scale={self.motion_scale} must be positive; the paper's 1")


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
    max_clips: int = 16
    num_held_out: int = 64
    seed: int = 0
    precision: Precision = "bf16"
    eval_every: int = 5000
    save_every: int = 1000

    def __post_init__(self) -> None:
        _check_choices(self, precision=Precision)
        if not self.mask_ratio:
            raise ValueError("mask_ratio=() must hold at least one ratio, such as (0.9,)")
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


def base(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """The paper's model and recipe, as far as published code and logs tell it.

    Command: `accelerate launch -m maedfer_lab pretrain --preset base --data VOXCELEB2`.
    Cost: 50 of 100 planned epochs over 1.09M clips at batch 160; hours not measured here.
    Expected loss (quoted from the published log): 0.952 at epoch 0, 0.633 at 5, 0.547 at 10,
    0.474 at 49. Targets in cube units, lambda 0.5.
    """
    model = ModelConfig()
    if encoder == "vit":
        model = replace(model, encoder="vit", width=768, depth=12, num_heads=12)
    return PretrainConfig(name=f"base-{encoder}", model=model)


def demo(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """The paper's token geometry at half resolution, for minutes on a CPU.

    Clips of 16 x 80 x 80 with cubes of 2 x 8 x 8: the same 8 x 10 x 10 grid and (2, 5, 10)
    regions as the paper, 3.3M parameters. Raw targets, because minutes on targets in cube units
    teach next to nothing, and pictures made from them borrow the hidden cubes' statistics.

    Command: `maedfer pretrain`. Cost: see the table in the README (measured).
    """
    model = ModelConfig(
        size_px=80,
        tubelet=(2, 8, 8),
        width=192,
        depth=4,
        num_heads=3,
        decoder_width=96,
        decoder_depth=2,
        decoder_heads=3,
    )
    if encoder == "vit":  # wider and shallower by the ratio that makes ViT-B and LGI-B alike
        model = replace(model, encoder="vit", width=288, depth=3, num_heads=6)
    return PretrainConfig(
        name=f"demo-{encoder}",
        model=model,
        target=TargetConfig(units="imagenet", motion_scale=4.0),
        optim=OptimConfig(steps=1400, batch_size=8, lr=0.064, min_lr=1e-3, warmup_steps=70),
        stride=2,
        eval_every=200,
        save_every=200,
    )


def tiny(encoder: EncoderKind = "lgi") -> PretrainConfig:
    """Seconds on a CPU, for tests: 4 x 4 x 4 tokens, two blocks of width 32."""
    model = ModelConfig(
        frames=8,
        size_px=32,
        tubelet=(2, 8, 8),
        encoder=encoder,
        region=(2, 2, 4),
        width=32,
        depth=2,
        num_heads=2,
        decoder_width=24,
        decoder_depth=1,
        decoder_heads=2,
    )
    return PretrainConfig(
        name=f"tiny-{encoder}",
        model=model,
        target=TargetConfig(units="imagenet", motion_scale=4.0),
        optim=OptimConfig(steps=12, batch_size=4, lr=0.064, warmup_steps=2),
        num_clips=16,
        mask_ratio=(0.75,),
        num_held_out=8,
        stride=2,
        precision="float32",
        eval_every=6,
        save_every=4,
    )


PRESETS = {"base": base, "demo": demo, "tiny": tiny}


def preset(name: str, encoder: EncoderKind = "lgi") -> PretrainConfig:
    """The named pre-training configuration; unknown names raise with the list."""
    choose("encoder", encoder, get_args(EncoderKind))
    return PRESETS[choose("preset", name, tuple(PRESETS))](encoder)


@dataclass(frozen=True)
class Profile:
    """How much the notebooks do: their pre-training run and about how long each takes."""

    name: str
    pretrain: PretrainConfig
    minutes: dict[str, float] = field(default_factory=dict)

    def describe(self, notebook: str, device: str = "cpu") -> str:
        """What a notebook says on top: profile, data, device and expected minutes."""
        data = self.pretrain.data
        minutes = self.minutes[notebook]
        return (
            f"profile {self.name} ({', '.join(PROFILES)}: set MAEDFER_PROFILE); "
            f"data: {'synthetic faces' if data is None else data} (set MAEDFER_DATA); "
            f"device: {device}; about {minutes:g} minute{'s' * (minutes != 1)} on two CPU cores"
        )


PROFILES = ("smoke", "quick", "full")


def _profiles() -> dict[str, Profile]:
    slow = {"01": 0.5, "02": 0.3, "03": 0.5, "05": 0.5}
    return {
        "smoke": Profile("smoke", tiny(), dict.fromkeys(["01", "02", "03", "04", "05"], 0.3)),
        "quick": Profile("quick", demo(), {**slow, "04": 8}),
        "full": Profile("full", base(), {**slow, "04": 24 * 60}),
    }


def profile(name: str | None = None) -> Profile:
    """The profile named by `MAEDFER_PROFILE` (default quick), on the data of `MAEDFER_DATA`."""
    known = _profiles()
    name = name or os.environ.get("MAEDFER_PROFILE") or "quick"
    chosen = known[choose("MAEDFER_PROFILE", name, PROFILES)]
    return replace(chosen, pretrain=replace(chosen.pretrain, data=data_folder()))


def data_folder() -> Path | None:
    """The folder of real videos named by `MAEDFER_DATA`, or None for synthetic faces."""
    value = os.environ.get("MAEDFER_DATA")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_absolute():  # as typed in the project's folder, also from notebooks/
        folder = project_folder() / folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MAEDFER_DATA={value} is not a folder; give one with videos in it, or unset the "
            "variable to use synthetic faces"
        )
    return folder.resolve()


def project_folder() -> Path:
    """The checkout that the working directory lies in, else the working directory itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "maedfer_lab").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def output_folder() -> Path:
    """Where runs/ and figures/ are written: `MAEDFER_OUTPUT`, else the project's folder."""
    value = os.environ.get("MAEDFER_OUTPUT")
    return Path(value).expanduser().resolve() if value else project_folder()
