"""Golden archives: reading and writing them, and the recipe that fills models and clips.

An archive (`*.npz`) holds a model's constructor arguments (`config`), its parameters under the
official names (`sd::...`), an input (`x` with `y` or `mask`) and what the model gave for it.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maedfer_lab.checkpoints.constructors import OfficialModel, official_model
from maedfer_lab.checkpoints.loading import Model, load_checkpoint
from maedfer_lab.checkpoints.official import Kind, from_official, our_name, to_official
from maedfer_lab.checkpoints.recognising import recognise
from maedfer_lab.checkpoints.replay import (
    KINDS,
    Answers,
    answer_autoencoder,
    answer_classifier,
)
from maedfer_lab.method.grid import Grid
from maedfer_lab.method.models import Classifier
from maedfer_lab.method.targets import IMAGENET_MEAN, IMAGENET_STD

PARAMETER = "sd::"
INPUTS = frozenset({"config", "x", "y", "mask"})


@dataclass(frozen=True)
class Archive:
    """One golden archive. arrays: everything but parameters and config."""

    name: str
    spec: dict[str, Any]
    state: dict[str, Tensor]
    arrays: dict[str, np.ndarray]

    @property
    def official(self) -> OfficialModel:
        """The archive's model in our terms; ValueError where ours cannot be it."""
        shape = self.arrays["x"].shape if "x" in self.arrays else None
        return official_model(self.spec, self.state, shape)

    def load(self) -> Model:
        """Our model with the archive's parameters, by way of the public loader.

        Raises ValueError where parameters are missing, do not fit, or are those of another model
        than the constructor arguments say.
        """
        official = self.official
        config, is_lgi = official.config, official.config.encoder == "lgi"
        is_autoencoder = official.kind == "pretrain"
        model = load_checkpoint(
            recognise(self.state, self.name),
            as_="autoencoder" if is_autoencoder else "classifier",
            frames=config.frames,
            size_px=config.size_px,
            region=config.region if is_lgi else None,
            num_heads=config.num_heads,
            decoder_heads=config.decoder_heads if is_autoencoder else None,
            tokens=None if is_autoencoder else official.tokens,
            pooling=None if is_autoencoder else official.pooling,
        ).model
        missing = [name for name in to_official(model) if name not in self.state]
        if missing:
            raise ValueError(f"{missing[0]} is missing ({len(missing)} of the parameters)")
        differences = _differences(official, model)
        if differences:
            raise ValueError(f"arguments and parameters disagree: {'; '.join(differences)}")
        official.set_epsilon(model)
        return model


def _differences(official: OfficialModel, model: Model) -> list[str]:
    """What constructor arguments and loaded parameters say differently."""
    said, found = asdict(official.config), asdict(model.config)
    width = model.config.width
    said["mlp_ratio"], found["mlp_ratio"] = (int(width * x["mlp_ratio"]) for x in (said, found))
    if isinstance(model, Classifier):
        said["num_classes"], found["num_classes"] = official.num_classes, model.head.out_features
    for side in (said, found):  # nothing is shared with a stage that is not there
        if side["interact"] == "none" and side["shared"] == "local_interact":
            side["shared"] = "none"
    if model.config.encoder == "vit":
        for name in ("region", "local", "inter", "interact", "shared"):
            said.pop(name)
    return [f"{name}={x}, but {found[name]}" for name, x in said.items() if found[name] != x]


def read_archive(path: Path) -> Archive:
    """Read an archive; never unpickles. ValueError if it is not one."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy's own text would advise to load the file unsafely.
        said = type(error).__name__ if "pickle" in str(error) else error
        raise ValueError(f"{path.name} is not a readable archive: {said}") from error
    if "config" not in arrays:
        raise ValueError(f"{path.name} has no 'config', which names the official class")
    try:
        spec = json.loads(str(arrays["config"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: config is not JSON: {error}") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("kwargs", {}), dict):
        raise ValueError(f"{path.name}: config must be {{'class': ..., 'kwargs': {{...}}}}")
    state, rest = {}, {}
    for name, value in arrays.items():
        if name.startswith(PARAMETER):
            if value.dtype.kind != "f":
                raise ValueError(f"{name} has dtype {value.dtype}; parameters are floats")
            state[name.removeprefix(PARAMETER)] = torch.from_numpy(value)
        elif name != "config":
            rest[name] = value
    return Archive(path.stem, spec, state, rest)


def own_names(model: Model, kind: Kind) -> list[str]:
    """Official names of all parameters, shared ones once, in the official order."""
    own = {name for name, _ in model.named_parameters()}
    return [name for name in to_official(model) if our_name(name, kind) in own]


def recipe_parameters(model: Model, kind: Kind, std: float, seed: int = 0) -> dict[str, Tensor]:
    """Official parameters drawn by the recipe of the golden archives, shared ones once.

    Names in sorted order draw z from one legacy NumPy generator: LayerNorm weights are 1 + 0.1 z,
    all others std z. Shared parameters get their value under every name.
    """
    random = np.random.RandomState(seed)
    shapes = {name: tuple(x.shape) for name, x in to_official(model).items()}
    drawn: dict[str, Tensor] = {}
    for name in sorted(own_names(model, kind)):
        z = random.standard_normal(shapes[name]).astype(np.float32)
        *_, layer, part = ["", *name.split(".")]
        is_scale = "norm" in layer and part == "weight"
        drawn[name] = torch.from_numpy(1 + np.float32(0.1) * z if is_scale else np.float32(std) * z)
    model.load_state_dict(from_official(drawn, kind), strict=False)
    return to_official(model)


def recipe_clips(num: int, frames: int, size_px: int, seed: int = 1) -> np.ndarray:
    """ImageNet-normalised clips (num, 3, frames, size_px, size_px) of uniform noise."""
    pixels = np.random.RandomState(seed).rand(num, 3, frames, size_px, size_px).astype(np.float32)
    mean, std = (
        np.asarray(x, np.float32).reshape(1, 3, 1, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (pixels - mean) / std


def recipe_mask(
    num: int, grid: Grid, window: tuple[int, int], ratio: float, seed: int = 2
) -> np.ndarray:
    """Masks (num, n), True = masked: the same number visible in each window, all times alike."""
    random = np.random.RandomState(seed)
    (h, w), places = window, window[0] * window[1]
    if grid.h % h or grid.w % w:
        raise ValueError(f"window={window} does not divide the frame of tokens {grid.shape[1:]}")
    visible = places - round(ratio * places)
    masks = np.ones((num, grid.h, grid.w), bool)
    for mask in masks:
        for top in range(0, grid.h, h):
            for left in range(0, grid.w, w):
                shown = random.permutation(places)[:visible]
                mask[top + shown // w, left + shown % w] = False
    return np.tile(masks.reshape(num, -1), grid.t)


def recipe_inputs(
    model: OfficialModel, grid: Grid, spec: Mapping[str, Any], num: int
) -> dict[str, np.ndarray]:
    """The recipe's clips, with classes 3, 5, 7, ... (small archives) or masks."""
    x = recipe_clips(num, model.config.frames, model.config.size_px)
    if model.kind == "finetune":
        return {"x": x, "y": (3 + 2 * np.arange(num)) % model.num_classes}
    default = {"h": model.config.region[1], "w": model.config.region[2], "ratio": 0.75}
    mask = {**default, **spec.get("mask", {})}
    return {"x": x, "mask": recipe_mask(num, grid, (mask["h"], mask["w"]), mask["ratio"])}


def answer(model: Model, arrays: Mapping[str, np.ndarray], wanted: list[str]) -> Answers:
    """What our model gives for an archive's input; ValueError naming an input that lacks."""
    is_classifier = isinstance(model, Classifier)
    for name in ("x", "y" if is_classifier else "mask"):
        if name not in arrays:
            raise ValueError(f"{name!r} is missing: the model's input is x with y or mask")
    if is_classifier:
        return answer_classifier(model, arrays["x"], arrays["y"], wanted)
    return answer_autoencoder(model, arrays["x"], arrays["mask"], wanted)


def write_archive(path: Path, spec: Mapping[str, Any], *, seed: int = 0, num: int = 2) -> None:
    """Write an archive from our model, in the layout of the golden ones.

    spec: {"class", "kwargs", "ln_eps", "std", "mask": {"h", "w", "ratio"}}, as an archive's
        `config`; std and mask have defaults.
    seed: of the parameters; clips and masks follow the recipe.
    """
    official = official_model(spec)
    model = official.build()
    state = recipe_parameters(model, official.kind, spec.get("std", 0.125), seed)
    inputs = recipe_inputs(official, model.encoder.grid, spec, num)
    kinds = [f"{part}_{kind}" for kind in KINDS for part in ("loss", "labels")]
    found = answer(model, inputs, ["logits64", *kinds])
    outputs = {
        name: value
        for name, value in found.outputs.items()
        if not name.startswith("labels_") or name in ("labels_diff", "labels_plain")
    }
    names = own_names(model, official.kind)
    embed = next(name for name in names if name.endswith("patch_embed.proj.weight"))
    arrays: dict[str, Any] = {
        **{f"{PARAMETER}{name}": value.numpy() for name, value in state.items()},
        **inputs,
        **outputs,
        "config": np.array(json.dumps(spec)),
        "grad_names": np.array(names),
        "grad_norms": np.array([float(found.gradients[name].double().norm()) for name in names]),
        "grad_patch_embed": found.gradients[embed].numpy(),
    }
    np.savez_compressed(path, **arrays)
