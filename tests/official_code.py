"""Archives made of our models, as `maedfer parity DIR` reads them, and the golden ones' recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maedfer_lab.checkpoints.official import Model, arguments_of, to_official
from maedfer_lab.checkpoints.parity import answer, norm, own_names
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.models import Classifier
from maedfer_lab.method.targets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise_pixels,
    unnormalise_pixels,
)

LOSSES = ("diff", "plain", "diff_w05", "diff_w03", "diff_raw", "diff_g4")


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
    official = to_official(model)
    for name, value in drawn.items():
        official[name].copy_(value)
    return official


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


def recipe_inputs(model: Model, num: int = 2) -> dict[str, np.ndarray]:
    """Clips, with the class or the mask of each."""
    inputs = {"x": recipe_clips(num, model.config.frames, model.config.size_px)}
    if isinstance(model, Classifier):
        return inputs | {"y": (3 + 2 * np.arange(num)) % model.head.out_features}
    return inputs | {"mask": recipe_mask(num, model.grid, (2, 4), 0.75)}


def write_archive(path: Path, model: Model, std: float = 0.2, *, small: bool = False) -> None:
    """Write an archive of our model, filled by the recipe, in the layout of the golden ones.

    small: clips of 17 grey levels, which compress, and no more than the outputs need: as those
        that lie with the package.
    """
    state, inputs = recipe_parameters(model, std), recipe_inputs(model)
    if small:
        pixels = unnormalise_pixels(torch.from_numpy(inputs["x"]).double())
        inputs["x"] = normalise_pixels((pixels * 16).round() / 16).float().numpy()
    losses = LOSSES[:1] if small else LOSSES
    wanted = [f"{part}_{loss}" for loss in losses for part in ("loss", "labels")]
    found, gradients = answer(model, inputs, ["logits64", "pred64", *wanted])
    kept = () if small else ("labels_diff", "labels_plain")
    names = own_names(model)
    name = "" if isinstance(model, Classifier) else "Pretrain"
    config = {"class": f"{name}VisionTransformer", "kwargs": arguments_of(model), "ln_eps": 1e-6}
    arrays: dict[str, Any] = {
        **{f"sd::{name}": value.numpy() for name, value in state.items()},
        **inputs,
        **{n: x for n, x in found.items() if not n.startswith("labels_") or n in kept},
        "config": np.array(json.dumps(config)),
        "grad_names": np.array(names),
        "grad_norms": np.array([float(norm(gradients[name])) for name in names]),
    }
    if not small:
        embed = next(name for name in names if name.endswith("patch_embed.proj.weight"))
        arrays["grad_patch_embed"] = gradients[embed].numpy()
    np.savez_compressed(path, **arrays)
