"""How local and how sharp attention is, by layer, stage and head; rows of pictures."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maedfer_lab.attention.maps import AttentionMaps, Rollout, look_through, rollout
from maedfer_lab.config import ModelConfig, Shape3
from maedfer_lab.method.grid import region_index


@dataclass(frozen=True)
class Reach:
    """Attention distance, a mean over queries.

    frames: along time, |t - t'| steps of the grid, in frames of the clip.
    pixels: in the picture, the Euclidean distance, in pixels of the clip.
    """

    frames: float
    pixels: float


@dataclass(frozen=True)
class HeadStatistics:
    """One head (None: the mean of all) of one stage of one layer.

    entropy: of a query's attention in nats, a mean over queries.
    relative_entropy: divided by the largest possible, log(number of keys): 1 is uniform.
    reach: mean distance from query to key, weighted by attention. Representative tokens count
        at the mean position of their region's tokens.
    uniform: the distance under uniform attention at this stage.
    """

    layer: int
    stage: str
    head: int | None
    entropy: float
    relative_entropy: float
    reach: Reach
    uniform: Reach


def attention_statistics(maps: AttentionMaps) -> list[HeadStatistics]:
    """Entropy and reach of every kept layer, stage and head."""
    found = []
    heads: tuple[int | None, ...] = maps.heads or (None,)
    for stage in maps.stages:
        apart = _distances(maps, stage)
        for layer, head in itertools.product(sorted(maps.layers), heads):
            weights = maps.weights(stage, layer, head)
            entropy = float(torch.special.entr(weights).sum(-1).mean())
            most = math.log(weights.shape[-1])
            even = torch.full_like(weights, 1 / weights.shape[-1])
            reaches = (_reach(w, apart) for w in (weights, even))
            relative = entropy / most if most else 1.0
            found.append(HeadStatistics(layer, stage, head, entropy, relative, *reaches))
    return found


@dataclass(frozen=True)
class RolloutStatistics:
    """Rollout of a token's output, a mean over the tokens of a clip.

    reach: distance to the tokens that contribute.
    outside: the share that comes from tokens outside its region.
    uniform_reach, uniform_outside: the same under uniform contributions of all tokens.

    Weight on representative tokens has no position in the clip and is left out.
    """

    reach: Reach
    outside: float
    uniform_reach: Reach
    uniform_outside: float


def rollout_statistics(rolled: Rollout, region: Shape3) -> RolloutStatistics:
    """Distances of a rollout.

    region: in tokens (t, h, w), by place; a ViT has none, but can be measured with another's.
    """
    maps = rolled.maps
    region_of = torch.empty(maps.grid.n, dtype=torch.long)
    order = region_index(maps.grid, region)
    region_of[order] = torch.arange(len(order)).unsqueeze(1)
    own = region_of[maps.index]
    elsewhere = own[:, None] != own
    seen = slice(maps.num_visible)
    drawn = rolled.matrix[seen, seen] / rolled.matrix[seen, seen].sum(1, keepdim=True)
    even, apart = torch.full_like(drawn, 1 / len(drawn)), _distances(maps, "joint")
    outside = [float((weights * elsewhere).sum(1).mean()) for weights in (drawn, even)]
    return RolloutStatistics(_reach(drawn, apart), outside[0], _reach(even, apart), outside[1])


def _distances(maps: AttentionMaps, stage: str) -> list[Tensor]:
    """In frames and in pixels, from each query to each key, in the order of the weights."""
    places = torch.as_tensor(maps.places[:, 1:]).float()
    if maps.num_regions:
        places = torch.cat([places, places.unflatten(0, (maps.num_regions, -1)).mean(1)])
    queries, keys = maps.where(stage)
    way = places[queries] - places[keys]
    frames, pixels, _ = maps.config.tubelet
    return [way[..., 0].abs() * frames, way[..., 1:].norm(dim=-1) * pixels]


def _reach(weights: Tensor, distances: list[Tensor]) -> Reach:
    return Reach(*(float((weights * way).sum(-1).mean()) for way in distances))


def attention_rows(maps: AttentionMaps, layer: int, query: int) -> list[dict[str, Any]]:
    """What a token attends to in one layer, stage by stage and composed, and by rollout.

    Each row: `label`, and `weights` over the token grid as nested lists, None where
    undefined. Weights are means over the kept heads.
    """

    def shown(stage: str, of: int) -> np.ndarray:
        found = maps.over_tokens(stage, layer, None, of)
        return maps.paint_regions(found.rep) if np.isnan(found.tokens).all() else found.tokens

    rows = {"joint:\nthe cube looks at": ("joint", query)}
    if maps.num_regions:
        rep = maps.rep_token(maps.region_of(query))
        rows = {
            "1 local:\nits representative\ntoken looks at": ("local", rep),
            "2 inter:\nthat one looks at\nthe regions": ("inter", rep),
            "3 interact:\nthe cube looks at\nthe regions": ("interact", query),
        }
    found = {label: shown(*asked) for label, asked in rows.items() if asked[0] in maps.stages}
    if maps.num_regions:
        found["stages 3, 2, 1\nin a row"] = look_through(maps, layer, query).tokens
    found["rollout through\nall layers"] = rollout(maps).over_tokens(query).tokens
    return [{"label": label, "weights": as_lists(weights)} for label, weights in found.items()]


def as_lists(values: np.ndarray) -> Any:
    """Nested lists for a JSON file, four digits, None for NaN."""
    if values.ndim:
        return [as_lists(part) for part in values]
    return None if np.isnan(values) else float(f"{values:.4g}")


@dataclass(frozen=True)
class RegionName:
    """Position of a local region.

    step, window: number of its span of frames, and of its window within the frame.
    label: its frames (from 1), and its rows and columns of pixels (from 0) if there are several.
    """

    step: int
    window: int
    label: str


def region_names(config: ModelConfig) -> list[RegionName]:
    """The regions of an LGI-Former, in order."""
    spans = [size * cube for size, cube in zip(config.region, config.tubelet, strict=True)]
    whole = (config.frames, config.size_px, config.size_px)
    steps, tall, wide = (total // span for total, span in zip(whole, spans, strict=True))

    found = []
    for t, y, x in itertools.product(range(steps), range(tall), range(wide)):
        parts = [f"frames {t * spans[0] + 1}-{(t + 1) * spans[0]}"]
        axes = zip(("y", "x"), (y, x), spans[1:], (tall, wide), strict=True)
        parts += [f"{name} {i * span}-{(i + 1) * span - 1}" for name, i, span, n in axes if n > 1]
        found.append(RegionName(t, y * wide + x, ", ".join(parts)))
    return found
