"""The official classes by their constructor arguments, and archives made of our models: for tests.

`write_archive` makes what `maedfer parity DIR` reads; weights/parity/ was made by `ship`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from maedfer_lab.checkpoints.official import CLASSIFIED, Model, from_official, to_official
from maedfer_lab.checkpoints.parity import answer, norm, own_names, set_epsilon
from maedfer_lab.config import ModelConfig, Shape3, TargetConfig
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.models import Classifier, build_autoencoder, build_classifier
from maedfer_lab.method.targets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise_pixels,
    unnormalise_pixels,
)

IS_PRETRAINING = {"VisionTransformer": False, "PretrainVisionTransformer": True}
LOSSES = ("diff", "plain", "diff_w05", "diff_w03", "diff_raw", "diff_g4")
# What the official classes take when an argument is left out.
DEFAULTS: dict[str, Any] = {
    "qkv_bias": False, "attn_type": "joint", "lg_first_attn_type": "self",
    "lg_third_attn_type": "cross", "lg_attn_param_sharing_first_third": False,
    "lg_attn_param_sharing_all": False, "lg_no_second": False, "lg_no_third": False,
    "use_mean_pooling": True, "lg_classify_token_type": "org",
}  # fmt: skip


def our_config(arguments: dict[str, Any], is_pretraining: bool) -> ModelConfig:
    """Our configuration for official arguments: the inverse of `arguments_of`."""
    values = {**DEFAULTS, **arguments}
    prefix = "encoder_" if is_pretraining else ""
    patch = values["patch_size"]
    patch = tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)
    tubelet = (values["tubelet_size"], *patch)
    is_lgi = values["attn_type"] == "local_global"
    shared = "local_interact" if values["lg_attn_param_sharing_first_third"] else "none"
    decoder: dict[str, Any] = {}
    if is_pretraining:
        assert values["decoder_num_classes"] == 3 * math.prod(tubelet)
        decoder = {
            "decoder_width": values["decoder_embed_dim"],
            "decoder_depth": values["decoder_depth"],
            "decoder_heads": values["decoder_num_heads"],
            "legacy_visible_order": is_lgi,
        }
    return ModelConfig(
        frames=values["all_frames"],
        size_px=values["img_size"],
        tubelet=tubelet,
        encoder="lgi" if is_lgi else "vit",
        region=cast(Shape3, tuple(values["lg_region_size"])),
        width=values[f"{prefix}embed_dim"],
        depth=values[f"{prefix}depth"],
        num_heads=values[f"{prefix}num_heads"],
        mlp_ratio=float(values["mlp_ratio"]),
        qkv_bias=values["qkv_bias"],
        local=values["lg_first_attn_type"],
        inter=not values["lg_no_second"],
        interact="none" if values["lg_no_third"] else values["lg_third_attn_type"],
        shared="all" if values["lg_attn_param_sharing_all"] else shared,
        **decoder,
    )


def official_model(spec: dict[str, Any], target: TargetConfig | None = None) -> Model:
    """Our model for {"class", "kwargs", "ln_eps"}, freshly initialised, in eval mode."""
    is_pretraining, values = IS_PRETRAINING[spec["class"]], {**DEFAULTS, **spec["kwargs"]}
    config = our_config(values, is_pretraining)
    if is_pretraining:
        model = build_autoencoder(config, target)
    else:
        tokens = CLASSIFIED[values["lg_classify_token_type"]]
        model = build_classifier(
            config,
            values["num_classes"],
            tokens if config.encoder == "lgi" else "tokens",
            "mean" if values["use_mean_pooling"] else "first",
        )
    set_epsilon(model, spec.get("ln_eps"))
    return model.eval()


def recipe_parameters(model: Model, std: float, seed: int = 0) -> dict[str, torch.Tensor]:
    """Official parameters drawn by the recipe of the golden archives, shared ones once.

    Names in sorted order draw z from one legacy NumPy generator: LayerNorm weights are 1 + 0.1 z,
    all others std z. Shared parameters get their value under every name.
    """
    random = np.random.RandomState(seed)
    shapes = {name: tuple(x.shape) for name, x in to_official(model).items()}
    drawn: dict[str, torch.Tensor] = {}
    for name in sorted(own_names(model)):
        z = random.standard_normal(shapes[name]).astype(np.float32)
        *_, layer, part = ["", *name.split(".")]
        is_scale = "norm" in layer and part == "weight"
        drawn[name] = torch.from_numpy(1 + np.float32(0.1) * z if is_scale else np.float32(std) * z)
    model.load_state_dict(from_official(drawn, not isinstance(model, Classifier)), strict=False)
    return to_official(model)


def recipe_clips(num: int, frames: int, size_px: int, seed: int = 1) -> np.ndarray:
    """ImageNet-normalised clips (num, 3, frames, size_px, size_px) of uniform noise."""
    pixels = np.random.RandomState(seed).rand(num, 3, frames, size_px, size_px).astype(np.float32)
    mean, std = (np.asarray(x, "f4").reshape(1, 3, 1, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def recipe_mask(
    num: int, grid: Grid, window: tuple[int, int], ratio: float, seed: int = 2
) -> np.ndarray:
    """Masks (num, n), True = masked: the same number visible in each window, all times alike."""
    random = np.random.RandomState(seed)
    (h, w), places = window, window[0] * window[1]
    visible = places - round(ratio * places)
    masks = np.ones((num, grid.h, grid.w), bool)
    for mask in masks:
        for top in range(0, grid.h, h):
            for left in range(0, grid.w, w):
                shown = random.permutation(places)[:visible]
                mask[top + shown // w, left + shown % w] = False
    return np.tile(masks.reshape(num, -1), grid.t)


def filled(spec: dict[str, Any], num: int = 2, seed: int = 0):
    """A model with the recipe's parameters, these under official names, and its inputs."""
    model = official_model(spec)
    state, config = recipe_parameters(model, spec.get("std", 0.125), seed), model.config
    inputs = {"x": recipe_clips(num, config.frames, config.size_px)}
    if isinstance(model, Classifier):
        inputs["y"] = (3 + 2 * np.arange(num)) % model.head.out_features
    else:
        mask = {"h": config.region[1], "w": config.region[2], "ratio": 0.75, **spec.get("mask", {})}
        inputs["mask"] = recipe_mask(num, model.grid, (mask["h"], mask["w"]), mask["ratio"])
    return model, state, inputs


def write_archive(
    path: Path, spec: dict[str, Any], *, seed: int = 0, num: int = 2, small: bool = False
) -> None:
    """Write an archive from our model, in the layout of the golden ones.

    spec: {"class", "kwargs", "ln_eps", "std", "mask": {"h", "w", "ratio"}}, as an archive's
        `config`; std and mask have defaults.
    small: clips of 17 grey levels, which compress, and no more than the outputs need.
    """
    model, state, inputs = filled(spec, num, seed)
    if small:
        pixels = unnormalise_pixels(torch.from_numpy(inputs["x"]).double())
        inputs["x"] = normalise_pixels((pixels * 16).round() / 16).float().numpy()
    losses = LOSSES[:1] if small else LOSSES
    wanted = [
        "logits64",
        "pred64",
        *(f"{part}_{loss}" for loss in losses for part in ("loss", "labels")),
    ]
    found, gradients = answer(model, inputs, wanted)
    outputs = {
        name: value
        for name, value in found.items()
        if not name.startswith("labels_") or (name in ("labels_diff", "labels_plain") and not small)
    }
    names = own_names(model)
    embed = next(name for name in names if name.endswith("patch_embed.proj.weight"))
    arrays: dict[str, Any] = {
        **{f"sd::{name}": value.numpy() for name, value in state.items()},
        **inputs,
        **outputs,
        "config": np.array(json.dumps({**spec, "seed": seed})),
        "grad_names": np.array(names),
        "grad_norms": np.array([float(norm(gradients[name])) for name in names]),
        **({} if small else {"grad_patch_embed": gradients[embed].numpy()}),
    }
    np.savez_compressed(path, **arrays)
