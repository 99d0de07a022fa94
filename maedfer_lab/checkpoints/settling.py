"""Settle what parameters alone do not tell: clip size, regions, heads, tokens and target.

What is given comes first, then what the file says, then shapes and the published models' values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from maedfer_lab.checkpoints.official import Kind, infer_model
from maedfer_lab.checkpoints.recognising import Part, Weights
from maedfer_lab.config import ModelConfig, Shape3, TargetConfig
from maedfer_lab.method.grid import Grid, region_shapes
from maedfer_lab.method.models import Pooling, Tokens

PUBLISHED = ModelConfig()
CLIP_FRAMES, CLIP_SIZES = (8, 16, 32), (112, 160, 224)  # proposed where a region does not fit
REGION_TOKENS = ("rep_tokens", "lg_region_tokens")
MAX_TOKENS = 65_536  # of a clip: far above any use, far below what would fill the memory
KINDS: dict[Part, Kind] = {"autoencoder": "pretrain", "classifier": "finetune",
                           "encoder": "finetune"}  # fmt: skip


@dataclass(frozen=True)
class Settled:
    """A model to be built. told: where each setting that parameters do not tell comes from.

    num_classes, tokens, pooling are read for a classifier only, target for an autoencoder only.
    """

    config: ModelConfig
    target: TargetConfig
    num_classes: int
    tokens: Tokens
    pooling: Pooling
    told: dict[str, str]
    notes: tuple[str, ...] = ()


def settle(weights: Weights, given: dict[str, Any], *, is_autoencoder: bool) -> Settled:
    """The model to build of these weights.

    given: frames, size_px, region, num_heads, decoder_heads, num_classes, tokens, pooling, target;
        None is not given. ValueError where they contradict the weights.
    is_autoencoder: an autoencoder is wanted, not a classifier.
    """
    given = {name: value for name, value in given.items() if value is not None}
    told: dict[str, str] = {}

    def pick(name: str, default: Any, why: str) -> Any:
        if name in given:
            told[name] = "given"
            if weights.told.get(name, given[name]) != given[name]:
                told[name] = f"given ({weights.told_by} says {weights.told[name]})"
            return given[name]
        if name in weights.told:
            told[name] = weights.told_by
            return weights.told[name]
        told[name] = why
        return default

    notes: tuple[str, ...] = ()
    if weights.config is not None:
        config = _own(weights, weights.config, given, told)
    else:
        config = _official(weights, pick)
    own = file_classifier(weights, config)
    if not is_autoencoder:
        classes = given.get("num_classes", own.num_classes)
        if not classes:
            raise ValueError(
                f"{weights.name} has no classes; give num_classes, such as 7 for DFEW, for a head"
            )
        tokens: Tokens = "tokens"
        if config.encoder == "lgi":
            tokens = pick("tokens", own.tokens, "as published")
        how = "names of the parameters" if weights.part == "classifier" else "as published"
        pooling = pick("pooling", own.pooling, how)
        config = replace(config, legacy_visible_order=False)
        return Settled(config, own.target, classes, tokens, pooling, told)
    target = pick("target", own.target, "as published")
    if weights.config is None and config.encoder == "lgi":
        legacy = pick("legacy_visible_order", True, "official pre-training has it")
        config = replace(config, legacy_visible_order=legacy)
    if config.legacy_visible_order:
        notes = ("legacy_visible_order is on: the official decoder adds positions in another order "
                 "than that of its tokens, and these weights have learnt with that",)  # fmt: skip
    return Settled(config, target, 0, "rep", "mean", told, notes)


def file_classifier(weights: Weights, config: ModelConfig) -> Settled:
    """The classifier that the file holds: its classes, as published where it does not say."""
    head = weights.state.get("head.weight", weights.state.get("head.bias"))
    is_first = "fc_norm.weight" not in weights.state and "norm.weight" in weights.state
    return Settled(
        config,
        TargetConfig(motion=config.encoder == "lgi"),
        _rows(head) if head is not None else 0,
        "rep" if config.encoder == "lgi" else "tokens",
        "first" if is_first and weights.part == "classifier" else "mean",
        {},
    )


def _rows(x: Tensor) -> int:
    return x.shape[0] if x.ndim else 0


def _own(
    weights: Weights, config: ModelConfig, given: dict[str, Any], told: dict[str, str]
) -> ModelConfig:
    changes = {name: given[name] for name in ("frames", "size_px", "region", "num_heads",
                                              "decoder_heads") if name in given}  # fmt: skip
    told["model"] = weights.told_by
    for name, value in changes.items():
        told[name] = f"given ({weights.told_by} says {getattr(config, name)})"
        config = replace(config, **{name: value})
    _check_grid(weights.name, config)
    rep = next((x for n, x in weights.state.items() if n.endswith(REGION_TOKENS)), None)
    if config.encoder == "lgi" and rep is not None:
        _check_regions(weights.name, config, _rows(rep))
    return config


def _official(weights: Weights, pick: Callable[[str, Any, str], Any]) -> ModelConfig:
    kind, state = KINDS[weights.part], weights.state
    try:
        config = infer_model(state)
        config = replace(
            config,
            frames=pick("frames", PUBLISHED.frames, "as published"),
            size_px=pick("size_px", PUBLISHED.size_px, "as published"),
            num_heads=pick("num_heads", config.num_heads, "heads of 64 channels, as published"),
        )
        if kind == "pretrain":
            config = replace(config, decoder_heads=pick(
                "decoder_heads", config.decoder_heads, "heads of 64 channels, as published"
            ))  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{weights.name}: {error}") from error
    grid = _check_grid(weights.name, config)
    rep = next((x for n, x in state.items() if n.endswith(REGION_TOKENS)), None)
    if config.encoder == "vit" or rep is None:  # without them, what is missing is said later
        region = pick("region", grid.shape, "not used") if config.encoder == "lgi" else (
            weights.told.get("region", config.region))  # fmt: skip
        fits = config.encoder == "vit" or region in region_shapes(grid)
        return replace(config, region=region if fits else grid.shape)
    num = _rows(rep)
    shapes = fitting_regions(num, grid)
    region, why = PUBLISHED.region, "as published"
    if region not in shapes and len(shapes) == 1:
        region, why = shapes[0], f"the only shape that makes {num} regions"
    config = replace(config, region=pick("region", region, why))
    _check_regions(weights.name, config, num)
    return config


def _check_grid(name: str, config: ModelConfig) -> Grid:
    try:
        grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if grid.n > MAX_TOKENS:
        raise ValueError(
            f"{name}: {config.frames} frames of {config.size_px} px make {grid.n:,} tokens; at "
            f"most {MAX_TOKENS:,} are loaded; give frames=16, size_px=160 or the like"
        )
    return grid


def fitting_regions(num_regions: int, grid: Grid) -> list[Shape3]:
    """Region shapes (t, h, w) that cut `grid` into exactly `num_regions`, smallest first."""
    return [s for s in region_shapes(grid) if math.prod(s) * num_regions == grid.n]


def fitting_sizes(num_regions: int, region: Shape3, tubelet: Shape3) -> list[tuple[int, int]]:
    """Usual (frames, size_px) whose grid `region` cuts into exactly `num_regions`."""
    found = []
    for frames in CLIP_FRAMES:
        for size in CLIP_SIZES:
            if frames % tubelet[0] or size % tubelet[1] or size % tubelet[2]:
                continue
            grid = Grid.of_clip(frames, size, size, tubelet)
            if region in fitting_regions(num_regions, grid):
                found.append((frames, size))
    return found


def _check_regions(name: str, config: ModelConfig, num_regions: int) -> None:
    grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    shapes = fitting_regions(num_regions, grid)
    if config.region in shapes:
        return
    clip = f"{config.frames} frames of {config.size_px} px"
    tiles = config.region in region_shapes(grid)
    cut = f"cuts it into {grid.n // math.prod(config.region)}" if tiles else "does not divide it"
    sizes = [
        f"{frames} x {size} px" for frames, size in
        fitting_sizes(num_regions, config.region, config.tubelet)
    ]  # fmt: skip
    raise ValueError(
        f"{name} has {num_regions} region tokens; {clip} are a grid of {grid.shape} tokens, and "
        f"region={config.region} {cut}. Regions that make {num_regions} of that grid: "
        f"{', '.join(map(str, shapes)) or 'none'}; clips for region={config.region}: "
        f"{', '.join(sizes) or 'none of the usual sizes'}. Give region=, frames= or size_px="
    )
