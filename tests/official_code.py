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

from maedfer_lab.checkpoints.official import CLASSIFIED, Kind
from maedfer_lab.checkpoints.parity import (
    answer,
    norm,
    own_names,
    recipe_clips,
    recipe_mask,
    recipe_parameters,
    set_epsilon,
)
from maedfer_lab.config import ModelConfig, Shape3, TargetConfig
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    build_autoencoder,
    build_classifier,
)
from maedfer_lab.method.targets import normalise_pixels, unnormalise_pixels

KINDS: dict[str, Kind] = {"VisionTransformer": "finetune", "PretrainVisionTransformer": "pretrain"}
LOSSES = ("diff", "plain", "diff_w05", "diff_w03", "diff_raw", "diff_g4")
# What the official classes take when an argument is left out.
DEFAULTS: dict[str, Any] = {
    "qkv_bias": False, "attn_type": "joint", "lg_first_attn_type": "self",
    "lg_third_attn_type": "cross", "lg_attn_param_sharing_first_third": False,
    "lg_attn_param_sharing_all": False, "lg_no_second": False, "lg_no_third": False,
    "use_mean_pooling": True, "lg_classify_token_type": "org",
}  # fmt: skip


def our_config(arguments: dict[str, Any], kind: Kind) -> ModelConfig:
    """Our configuration for official arguments: the inverse of `official_arguments`."""
    values = {**DEFAULTS, **arguments}
    prefix = "encoder_" if kind == "pretrain" else ""
    patch = values["patch_size"]
    patch = tuple(patch) if isinstance(patch, list | tuple) else (patch, patch)
    tubelet = (values["tubelet_size"], *patch)
    is_lgi = values["attn_type"] == "local_global"
    shared = "local_interact" if values["lg_attn_param_sharing_first_third"] else "none"
    decoder: dict[str, Any] = {}
    if kind == "pretrain":
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


def official_model(
    spec: dict[str, Any], target: TargetConfig | None = None
) -> MaskedAutoencoder | Classifier:
    """Our model for {"class", "kwargs", "ln_eps"}, freshly initialised, in eval mode."""
    kind, values = KINDS[spec["class"]], {**DEFAULTS, **spec["kwargs"]}
    config = our_config(values, kind)
    if kind == "pretrain":
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


def filled(spec: dict[str, Any], num: int = 2, seed: int = 0):
    """A model with the recipe's parameters, these under official names, and its inputs."""
    model, kind = official_model(spec), KINDS[spec["class"]]
    state = recipe_parameters(model, kind, spec.get("std", 0.125), seed)
    config, inputs = (
        model.config,
        {"x": recipe_clips(num, model.config.frames, model.config.size_px)},
    )
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
    kind = KINDS[spec["class"]]
    losses = LOSSES[:1] if small else LOSSES
    wanted = [
        "logits64",
        "pred64",
        *(f"{part}_{loss}" for loss in losses for part in ("loss", "labels")),
    ]
    found = answer(model, inputs, wanted)
    outputs = {
        name: value
        for name, value in found.outputs.items()
        if not name.startswith("labels_") or (name in ("labels_diff", "labels_plain") and not small)
    }
    names = own_names(model, kind)
    embed = next(name for name in names if name.endswith("patch_embed.proj.weight"))
    arrays: dict[str, Any] = {
        **{f"sd::{name}": value.numpy() for name, value in state.items()},
        **inputs,
        **outputs,
        "config": np.array(json.dumps({**spec, "seed": seed})),
        "grad_names": np.array(names),
        "grad_norms": np.array([float(norm(found.gradients[name])) for name in names]),
        **({} if small else {"grad_patch_embed": found.gradients[embed].numpy()}),
    }
    np.savez_compressed(path, **arrays)
